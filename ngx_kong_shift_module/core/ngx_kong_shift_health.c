
/*
 * Copyright (C) kong-shift contributors
 */


#include <string.h>

#include "ngx_kong_shift_core.h"


void
ngx_kong_shift_init_health(ngx_kong_shift_health_t *h,
    ngx_kong_shift_pool_e pool)
{
    memset(h, 0, sizeof(ngx_kong_shift_health_t));

    h->ready = (pool == NGX_KONG_SHIFT_OLD);
}


unsigned
ngx_kong_shift_report(ngx_kong_shift_health_t *h, unsigned passed,
    uint32_t passes, uint32_t fails, uint64_t now)
{
    h->checked = 1;

    /* the counts stop where they decide, so that they never wrap */

    if (passed) {
        h->fails = 0;
        h->passes += (h->passes < passes);

        if (h->ready || h->passes < passes) {
            return 0;
        }

    } else {
        h->passes = 0;
        h->fails += (h->fails < fails);

        if (!h->ready || h->fails < fails) {
            return 0;
        }
    }

    h->ready = (passed != 0);
    h->since = now;

    return 1;
}


uint32_t
ngx_kong_shift_ramp(const ngx_kong_shift_health_t *h, uint64_t slow_start,
    uint64_t now)
{
    uint64_t  passed;

    if (h->since == 0 || slow_start == 0) {
        return 100;
    }

    /* the time that one worker has cached may be behind that of another */

    passed = now > h->since ? now - h->since : 0;

    if (passed >= slow_start) {
        return 100;
    }

    return (uint32_t) (1 + passed * 99 / slow_start);
}


unsigned
ngx_kong_shift_enough(uint32_t ready, uint32_t n, uint32_t percent)
{
    return ready > 0 && (uint64_t) ready * 100 >= (uint64_t) n * percent;
}


unsigned
ngx_kong_shift_empty(uint64_t word, unsigned gated, unsigned checked,
    const uint32_t ready[2], unsigned *fail_open)
{
    int       pool;
    unsigned  empty;

    empty = 0;
    *fail_open = 0;

    for (pool = 0; pool < 2; pool++) {
        if ((checked & (1 << pool)) && ready[pool] == 0) {
            empty |= 1 << pool;
        }
    }

    if ((empty & (1 << NGX_KONG_SHIFT_OLD))
        && !ngx_kong_shift_may_take(word, gated, NGX_KONG_SHIFT_NEW, empty))
    {
        empty &= ~(1U << NGX_KONG_SHIFT_OLD);
        *fail_open |= 1 << NGX_KONG_SHIFT_OLD;
    }

    /* what old leaves to new, new must do as well as it can */

    if ((empty & (1 << NGX_KONG_SHIFT_NEW))
        && !ngx_kong_shift_is_open(word, gated, NGX_KONG_SHIFT_OLD))
    {
        empty &= ~(1U << NGX_KONG_SHIFT_NEW);
        *fail_open |= 1 << NGX_KONG_SHIFT_NEW;
    }

    return empty;
}


int
ngx_kong_shift_agree(const char *const *hash, int n)
{
    int  i, j, count, best, most;

    best = -1;
    most = 0;

    for (i = 0; i < n; i++) {

        if (hash[i] == NULL) {
            continue;
        }

        count = 0;

        for (j = 0; j < n; j++) {
            count += (hash[j] && strcmp(hash[i], hash[j]) == 0);
        }

        if (count > most) {
            most = count;
            best = i;
        }
    }

    return best;
}
