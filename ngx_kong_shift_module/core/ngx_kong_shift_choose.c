
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift_core.h"


static inline uint32_t ngx_kong_shift_get_weight(uint64_t word,
    unsigned gated);
static inline unsigned ngx_kong_shift_get_open(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool);
static inline unsigned ngx_kong_shift_get_may_take(uint64_t word,
    unsigned gated, ngx_kong_shift_pool_e pool, unsigned empty);


uint32_t
ngx_kong_shift_effective(uint64_t word, unsigned gated)
{
    return ngx_kong_shift_get_weight(word, gated);
}


/* the hot path has them inline, which a shared object has not otherwise */

static inline uint32_t
ngx_kong_shift_get_weight(uint64_t word, unsigned gated)
{
    if (gated && !(word & NGX_KONG_SHIFT_WORD_OPEN)) {
        return 0;
    }

    return (uint32_t) ((word >> NGX_KONG_SHIFT_WEIGHT_SHIFT)
                       & NGX_KONG_SHIFT_WEIGHT_MASK);
}


uint64_t
ngx_kong_shift_word(const ngx_kong_shift_state_t *st, unsigned slot)
{
    uint64_t  word;

    word = st->generation & NGX_KONG_SHIFT_GENERATION_MASK;
    word |= (uint64_t) st->weight << NGX_KONG_SHIFT_WEIGHT_SHIFT;

    if (st->gate_open) {
        word |= NGX_KONG_SHIFT_WORD_OPEN;
    }

    if (st->aborted) {
        word |= NGX_KONG_SHIFT_WORD_ABORTED;
    }

    if (st->freeze) {
        word |= NGX_KONG_SHIFT_WORD_FREEZE;
    }

    if (st->drained[NGX_KONG_SHIFT_OLD]) {
        word |= NGX_KONG_SHIFT_WORD_DRAINED << NGX_KONG_SHIFT_OLD;
    }

    if (st->drained[NGX_KONG_SHIFT_NEW]) {
        word |= NGX_KONG_SHIFT_WORD_DRAINED << NGX_KONG_SHIFT_NEW;
    }

    if (slot) {
        word |= NGX_KONG_SHIFT_WORD_SLOT;
    }

    return word;
}


/*
 * The steps are those of a 32-bit integer hash: each is a bijection, so that
 * keys stay as evenly spread as their own hash spread them.
 */

uint32_t
ngx_kong_shift_mix(uint32_t key, uint32_t seed)
{
    uint32_t  h;

    h = key ^ seed;

    h ^= h >> 16;
    h *= 0x85ebca6b;
    h ^= h >> 13;
    h *= 0xc2b2ae35;
    h ^= h >> 16;

    return h;
}


unsigned
ngx_kong_shift_is_open(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool)
{
    return ngx_kong_shift_get_open(word, gated, pool);
}


static inline unsigned
ngx_kong_shift_get_open(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool)
{
    if (word & (NGX_KONG_SHIFT_WORD_DRAINED << pool)) {
        return 0;
    }

    return pool == NGX_KONG_SHIFT_OLD
           || (!(word & NGX_KONG_SHIFT_WORD_ABORTED)
               && (!gated || (word & NGX_KONG_SHIFT_WORD_OPEN)));
}


unsigned
ngx_kong_shift_may_take(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool, unsigned empty)
{
    return ngx_kong_shift_get_may_take(word, gated, pool, empty);
}


static inline unsigned
ngx_kong_shift_get_may_take(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool, unsigned empty)
{
    if ((empty & (1 << pool)) || !ngx_kong_shift_get_open(word, gated, pool)) {
        return 0;
    }

    return pool == NGX_KONG_SHIFT_OLD
           || ngx_kong_shift_get_weight(word, gated) > 0;
}


unsigned
ngx_kong_shift_may_stay(uint64_t before, uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool)
{
    if (ngx_kong_shift_word_generation(before)
        == ngx_kong_shift_word_generation(word))
    {
        return 1;
    }

    if (!ngx_kong_shift_is_open(word, gated, pool)) {
        return 0;
    }

    return ngx_kong_shift_effective(word, gated)
           != (pool == NGX_KONG_SHIFT_OLD ? NGX_KONG_SHIFT_FULL : 0);
}


ngx_kong_shift_choice_t
ngx_kong_shift_choose(uint64_t word, unsigned gated, unsigned empty,
    ngx_kong_shift_pool_e override, const uint32_t *hash, uint64_t *credit)
{
    uint32_t                 weight;
    uint64_t                 before;
    ngx_kong_shift_choice_t  choice;

    /* an override is void where the pool is closed to everybody */

    if (override != NGX_KONG_SHIFT_ANY
        && ngx_kong_shift_get_open(word, gated, override))
    {
        choice.pool = override;
        choice.reason = NGX_KONG_SHIFT_BY_OVERRIDE;

        return choice;
    }

    choice.pool = NGX_KONG_SHIFT_OLD;
    weight = ngx_kong_shift_get_weight(word, gated);

    if (hash) {
        choice.reason = NGX_KONG_SHIFT_BY_KEY;

        if (((uint64_t) *hash * NGX_KONG_SHIFT_FULL >> 32) < weight) {
            choice.pool = NGX_KONG_SHIFT_NEW;
        }

    } else {
        choice.reason = NGX_KONG_SHIFT_BY_WEIGHT;

        if (weight >= NGX_KONG_SHIFT_FULL) {
            choice.pool = NGX_KONG_SHIFT_NEW;

        } else if (weight) {
            before = __atomic_fetch_add(credit, weight, __ATOMIC_RELAXED);

            if (before % NGX_KONG_SHIFT_FULL + weight
                >= NGX_KONG_SHIFT_FULL)
            {
                choice.pool = NGX_KONG_SHIFT_NEW;
            }
        }
    }

    if ((empty & (1 << choice.pool))
        && ngx_kong_shift_get_may_take(word, gated, !choice.pool, empty))
    {
        choice.pool = !choice.pool;
        choice.reason = NGX_KONG_SHIFT_BY_FALLBACK;
    }

    return choice;
}
