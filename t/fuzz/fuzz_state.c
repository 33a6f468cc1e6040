
/*
 * Copyright (C) kong-shift contributors
 */


/* not only its interface: the digest is needed as well */
#include "ngx_kong_shift_json.c"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


static void check(ngx_kong_shift_saved_t *saved, ngx_uint_t n);
static void check_drains(ngx_kong_shift_state_t *st);


/*
 * A state file is refused with a reason, or everything in it is in range and
 * survives being written again.  As no fuzzer guesses a SHA-256, the input is
 * also tried as the list of shifts inside of a file that has the right one.
 */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char         *text, hex[65];
    json_t       *root, *shifts;
    uint64_t      serial;
    ngx_log_t     log;
    ngx_pool_t   *pool;
    const char   *reason;
    ngx_array_t   saved;

    ngx_memzero(&log, sizeof(ngx_log_t));

    pool = ngx_create_pool(4096, &log);
    if (pool == NULL) {
        abort();
    }

    reason = NULL;

    if (ngx_kong_shift_decode(pool, data, size, &saved, &serial, &reason)
        == NGX_OK)
    {
        check(saved.elts, saved.nelts);

    } else if (reason == NULL) {
        abort();
    }

    shifts = json_loadb((const char *) data, size, JSON_REJECT_DUPLICATES,
                        NULL);

    if (shifts) {
        root = json_pack("{si, si, so}", "version", 1, "serial", 1, "shifts",
                         shifts);

        if (root == NULL || ngx_kong_shift_digest(root, hex) != NGX_OK
            || json_object_set_new(root, "sha256", json_string(hex)) != 0)
        {
            abort();
        }

        text = json_dumps(root, 0);

        if (text && ngx_kong_shift_decode(pool, (u_char *) text,
                                          ngx_strlen(text), &saved, &serial,
                                          &reason)
                    == NGX_OK)
        {
            check(saved.elts, saved.nelts);
        }

        free(text);
        json_decref(root);
    }

    ngx_destroy_pool(pool);

    return 0;
}


static void
check(ngx_kong_shift_saved_t *saved, ngx_uint_t n)
{
    char                    *text;
    uint64_t                 serial;
    ngx_log_t                log;
    ngx_uint_t               i;
    ngx_pool_t              *pool;
    const char              *reason;
    ngx_array_t              again;
    ngx_kong_shift_state_t  *st;

    for (i = 0; i < n; i++) {
        st = &saved[i].state;

        check_drains(st);

        if (st->weight > NGX_KONG_SHIFT_FULL
            || st->conf_weight > NGX_KONG_SHIFT_FULL
            || st->generation > NGX_KONG_SHIFT_GENERATION_MASK
            || ngx_strlen(saved[i].name) >= sizeof(saved[i].name)
            || ngx_strlen(st->gate_comment) >= sizeof(st->gate_comment))
        {
            abort();
        }
    }

    ngx_memzero(&log, sizeof(ngx_log_t));

    pool = ngx_create_pool(4096, &log);
    text = ngx_kong_shift_encode(saved, n, 7);

    if (pool == NULL || text == NULL
        || ngx_kong_shift_decode(pool, (u_char *) text, ngx_strlen(text),
                                 &again, &serial, &reason)
           != NGX_OK
        || serial != 7 || again.nelts != n
        || ngx_memcmp(again.elts, saved, n * sizeof(*saved)) != 0)
    {
        abort();
    }

    free(text);
    ngx_destroy_pool(pool);
}


/* a pool that has a weight is never drained, and no peer is drained twice */

static void
check_drains(ngx_kong_shift_state_t *st)
{
    ngx_uint_t  i, j;

    if ((st->drained[0] && st->weight != NGX_KONG_SHIFT_FULL)
        || (st->drained[1] && st->weight != 0))
    {
        abort();
    }

    for (i = 0; i < 2; i++) {
        if (st->drain_rate[i] > NGX_KONG_SHIFT_RATE_MAX
            || st->drain_deadline[i] < 0
            || (!st->drained[i] && (st->drain_rate[i]
                                    || st->drain_deadline[i])))
        {
            abort();
        }
    }

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {

        if (ngx_strlen(st->peer[i].addr) >= NGX_KONG_SHIFT_ADDR_SIZE
            || st->peer[i].pool > 1)
        {
            abort();
        }

        for (j = 0; j < i; j++) {
            if (st->peer[i].addr[0]
                && st->peer[i].pool == st->peer[j].pool
                && ngx_strcmp(st->peer[i].addr, st->peer[j].addr) == 0)
            {
                abort();
            }
        }
    }
}
