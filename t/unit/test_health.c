
/*
 * Copyright (C) kong-shift contributors
 */


#include "test.h"


#define OLD  NGX_KONG_SHIFT_OLD
#define NEW  NGX_KONG_SHIFT_NEW


static void
test_report_pool(ngx_kong_shift_pool_e pool)
{
    ngx_kong_shift_health_t  h;

    ngx_kong_shift_init_health(&h, pool);

    is(h.ready, pool == OLD);
    is(h.checked, 0);
    is(h.since, 0);

    /* two in a row are wanted, and the other result starts anew */

    is(ngx_kong_shift_report(&h, pool == NEW, 2, 2, 10), 0);
    is(ngx_kong_shift_report(&h, pool == OLD, 2, 2, 11), 0);
    is(ngx_kong_shift_report(&h, pool == NEW, 2, 2, 12), 0);
    is(h.ready, pool == OLD);
    is(h.checked, 1);
    is(h.since, 0);
    is(ngx_kong_shift_report(&h, pool == NEW, 2, 2, 13), 1);
    is(h.ready, pool == NEW);
    is(h.since, 13);

    /* said once, and the count stops where it decides */

    is(ngx_kong_shift_report(&h, pool == NEW, 2, 2, 14), 0);
    is(h.since, 13);
    is(h.passes + h.fails, 2);

    /* a limit of one */

    is(ngx_kong_shift_report(&h, pool == OLD, 1, 1, 15), 1);
    is(h.ready, pool == OLD);
    is(h.since, 15);

    /* a limit that a reload lowered counts at the next result */

    ngx_kong_shift_report(&h, pool == NEW, 9, 9, 16);
    ngx_kong_shift_report(&h, pool == NEW, 9, 9, 17);
    ngx_kong_shift_report(&h, pool == NEW, 9, 9, 18);
    is(h.ready, pool == OLD);
    is(ngx_kong_shift_report(&h, pool == NEW, 2, 2, 19), 1);
    is(h.ready, pool == NEW);
}


/* against all results so far, kept as a text of + and - */

static void
test_report_random(void)
{
    char                     seen[201], all[201];
    size_t                   n, passes, fails;
    unsigned                 i, round, ready, changed, passed;
    ngx_kong_shift_health_t  h;

    for (round = 0; round < 2000; round++) {

        passes = 1 + test_random(5);
        fails = 1 + test_random(5);
        ready = test_random(2);
        ngx_kong_shift_init_health(&h, ready ? OLD : NEW);

        for (i = 0; i < 200; i++) {
            passed = test_random(3) > 0;
            seen[i] = passed ? '+' : '-';
            n = passed ? passes : fails;

            memset(all, seen[i], n);

            changed = (ready != passed && i + 1 >= n
                       && memcmp(&seen[i + 1 - n], all, n) == 0);

            is(ngx_kong_shift_report(&h, passed, (uint32_t) passes,
                                     (uint32_t) fails, 1000 + i),
               changed);

            ready = changed ? passed : ready;

            is(h.ready, ready);
            ok(!changed || h.since == 1000 + i);
            ok(h.passes <= passes && h.fails <= fails);
        }
    }
}


static void
test_ramp(void)
{
    uint32_t                 share, last;
    uint64_t                 now;
    ngx_kong_shift_health_t  h;

    ngx_kong_shift_init_health(&h, OLD);

    /* ready from the start: nothing to be warmed up */

    is(ngx_kong_shift_ramp(&h, 30000, 0), 100);
    is(ngx_kong_shift_ramp(&h, 30000, 5), 100);

    h.since = 1000;

    is(ngx_kong_shift_ramp(&h, 0, 1000), 100);
    is(ngx_kong_shift_ramp(&h, 30000, 1000), 1);
    is(ngx_kong_shift_ramp(&h, 30000, 16000), 50);
    is(ngx_kong_shift_ramp(&h, 30000, 30999), 99);
    is(ngx_kong_shift_ramp(&h, 30000, 31000), 100);
    is(ngx_kong_shift_ramp(&h, 30000, UINT64_MAX), 100);

    /* the clock that this worker has cached is behind that of the checker */

    is(ngx_kong_shift_ramp(&h, 30000, 999), 1);

    last = 1;

    for (now = 1000; now <= 31000; now++) {
        share = ngx_kong_shift_ramp(&h, 30000, now);
        ok(share >= last && share <= 100);
        last = share;
    }

    /* a year */

    is(ngx_kong_shift_ramp(&h, 31536000000ULL, 1000 + 15768000000ULL), 50);
}


static void
test_enough(void)
{
    uint32_t  ready, n, percent;

    for (n = 0; n <= NGX_KONG_SHIFT_PEERS; n++) {
        for (ready = 0; ready <= n; ready++) {
            for (percent = 0; percent <= 100; percent++) {
                is(ngx_kong_shift_enough(ready, n, percent),
                   ready > 0 && ready >= (n * percent + 99) / 100);
            }
        }
    }

    is(ngx_kong_shift_enough(0, 0, 0), 0);
    is(ngx_kong_shift_enough(0, 2, 0), 0);
    is(ngx_kong_shift_enough(1, 3, 33), 1);
    is(ngx_kong_shift_enough(1, 3, 34), 0);
}


/*
 * Every combination, against what is promised: new hands over when it has no
 * ready peer, unless old is drained; old as well, but only to a new that takes
 * requests by itself.
 */

static void
test_empty(void)
{
    unsigned                i, gated, checked, fail_open, empty, n, takes;
    uint32_t                ready[2];
    ngx_kong_shift_state_t  st;

    for (i = 0; i < 1 << 10; i++) {

        ngx_kong_shift_init_state(&st, (i & 1) ? 1 : 0, 0);

        gated = (i >> 1) & 1;
        st.gate_open = (i >> 2) & 1;
        st.aborted = (i >> 3) & 1;
        st.drained[OLD] = (i >> 4) & 1;
        st.drained[NEW] = (i >> 5) & 1;
        checked = (i >> 6) & 3;
        ready[OLD] = (i >> 8) & 1;
        ready[NEW] = (i >> 9) & 1;

        takes = st.weight && !st.aborted && !st.drained[NEW]
                && (!gated || st.gate_open)
                && !((checked & 2) && ready[NEW] == 0);

        fail_open = 7;
        empty = ngx_kong_shift_empty(ngx_kong_shift_word(&st, i & 1), gated,
                                     checked, ready, &fail_open);

        is(empty >> NEW, (checked & 2) && ready[NEW] == 0 && !st.drained[OLD]);
        is(empty & 1, (checked & 1) && ready[OLD] == 0 && takes);
        is(fail_open & 1, (checked & 1) && ready[OLD] == 0 && !takes);
        is(fail_open >> NEW, (checked & 2) && ready[NEW] == 0
                             && st.drained[OLD]);

        /* never both: one of them would wait for the other */

        ok(empty != 3);

        /* more ready ones do not matter */

        ready[OLD] *= 17;
        ready[NEW] *= 32;
        is(ngx_kong_shift_empty(ngx_kong_shift_word(&st, 0), gated, checked,
                                ready, &n),
           empty);
        is(n, fail_open);
    }
}


static void
test_agree(void)
{
    const char  *none[3] = { NULL, NULL, NULL };
    const char  *one[3] = { NULL, "a", NULL };
    const char  *most[5] = { "b", "a", NULL, "a", "c" };
    const char  *tie[4] = { "b", "a", "a", "b" };
    char         same[2][4] = { "abc", "abc" };
    const char  *copies[3] = { "x", same[0], same[1] };

    is(ngx_kong_shift_agree(none, 0), -1);
    is(ngx_kong_shift_agree(none, 3), -1);
    is(ngx_kong_shift_agree(one, 3), 1);
    is(ngx_kong_shift_agree(most, 5), 1);
    is(ngx_kong_shift_agree(tie, 4), 0);
    is(ngx_kong_shift_agree(copies, 3), 1);
}


int
main(void)
{
    test_report_pool(OLD);
    test_report_pool(NEW);
    test_report_random();
    test_ramp();
    test_enough();
    test_empty();
    test_agree();

    done();
}
