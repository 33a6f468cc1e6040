
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift_core.h"


unsigned
ngx_kong_shift_unsafe(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool, uint64_t choosing, uint64_t active,
    uint64_t lasting, int64_t held, int64_t hold)
{
    uint32_t  weight;
    unsigned  reasons;

    reasons = 0;
    weight = ngx_kong_shift_effective(word, gated);

    if (weight != (pool == NGX_KONG_SHIFT_OLD ? NGX_KONG_SHIFT_FULL : 0)) {
        reasons |= NGX_KONG_SHIFT_HAS_WEIGHT;
    }

    if (choosing || active) {
        reasons |= NGX_KONG_SHIFT_HAS_ACTIVE;
    }

    if (lasting) {
        reasons |= NGX_KONG_SHIFT_HAS_LASTING;
    }

    if (held < hold) {
        reasons |= NGX_KONG_SHIFT_HAS_NOT_HELD;
    }

    return reasons;
}
