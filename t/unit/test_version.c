
/*
 * Copyright (C) kong-shift contributors
 */


#include "test.h"


/* the value is copied, so that a read behind its end is seen */

static void
finds(const char *value, const char *version)
{
    char        *p;
    size_t       len, n;
    const char  *found;

    len = strlen(value);
    p = malloc(len + 1);

    if (p == NULL) {
        abort();
    }

    memcpy(p, value, len);

    p = realloc(p, len ? len : 1);

    if (p == NULL) {
        abort();
    }

    found = "";
    n = ngx_kong_shift_find_version(p, len, &found);

    is(n, strlen(version));
    ok(strncmp(found, version, n) == 0);
    ok(n == 0 || ngx_kong_shift_same_version(found, n, version));

    free(p);
}


static uint64_t
word(uint64_t generation, uint32_t weight, unsigned drained, unsigned aborted,
    unsigned open)
{
    ngx_kong_shift_state_t  st;

    ngx_kong_shift_init_state(&st, weight, 0);

    st.generation = generation;
    st.weight = weight;
    st.drained[0] = drained & 1;
    st.drained[1] = (drained >> 1) & 1;
    st.aborted = aborted;
    st.gate_open = open;

    return ngx_kong_shift_word(&st, 0);
}


int
main(void)
{
    uint32_t  half = NGX_KONG_SHIFT_FULL / 2, full = NGX_KONG_SHIFT_FULL;

    finds("1.1 kong/3.9.3", "3.9.3");
    finds("kong/3.4.2", "3.4.2");
    finds("1.1 varnish, 1.1 kong/2.8.5", "2.8.5");
    finds("1.1 kong/3.9.3.0-enterprise-edition", "3.9.3.0");
    finds("1.1 kong/3.10.0-rc.1", "3.10.0");
    finds("", "");
    finds("kong/", "");
    finds("kong/x", "");
    finds("1.1 kongs/3.9.3", "");
    finds("nginx/1.22.1", "");
    finds("kong", "");
    finds("kkong/1", "1");

    ok(ngx_kong_shift_same_version("3.9.3", 5, "3.9.3"));
    ok(!ngx_kong_shift_same_version("3.9.3", 5, "3.9.30"));
    ok(!ngx_kong_shift_same_version("3.9.3", 5, "3.9"));
    ok(!ngx_kong_shift_same_version("3.9.3", 5, ""));

    ok(!ngx_kong_shift_wrong_version("3.9.3", "3.9.3"));
    ok(!ngx_kong_shift_wrong_version("3.9.3", "3.9"));
    ok(!ngx_kong_shift_wrong_version("3.9.3.0", "3.9.3"));
    ok(!ngx_kong_shift_wrong_version("3.9.3.0", "3.9.3.0-enterprise-edition"));
    ok(!ngx_kong_shift_wrong_version("3.9.3", ""));
    ok(!ngx_kong_shift_wrong_version("3.9.3", "none"));
    ok(ngx_kong_shift_wrong_version("3.9.3", "3.9.2"));
    ok(ngx_kong_shift_wrong_version("3.90.1", "3.9"));
    ok(ngx_kong_shift_wrong_version("3.9", "3.9.3"));
    ok(ngx_kong_shift_wrong_version("", "3.9.3"));

    /* a request may stay where it was unless nobody may be there any more */

    is(ngx_kong_shift_may_stay(word(5, full, 0, 0, 0), word(5, full, 0, 0, 0),
                               0, NGX_KONG_SHIFT_OLD), 1);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 0), word(6, half, 0, 0, 0),
                               0, NGX_KONG_SHIFT_OLD), 1);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 0), word(6, full, 0, 0, 0),
                               0, NGX_KONG_SHIFT_OLD), 0);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 0), word(6, full, 1, 0, 0),
                               0, NGX_KONG_SHIFT_OLD), 0);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 0), word(6, 0, 0, 0, 0),
                               0, NGX_KONG_SHIFT_NEW), 0);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 0), word(6, 1, 0, 0, 0),
                               0, NGX_KONG_SHIFT_NEW), 1);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 0), word(6, half, 0, 1, 0),
                               0, NGX_KONG_SHIFT_NEW), 0);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 1), word(6, half, 0, 0, 0),
                               1, NGX_KONG_SHIFT_NEW), 0);
    is(ngx_kong_shift_may_stay(word(5, half, 0, 0, 1), word(6, half, 0, 0, 1),
                               1, NGX_KONG_SHIFT_NEW), 1);

    done();
}
