
/*
 * Copyright (C) kong-shift contributors
 */


#include <string.h>

#include "ngx_kong_shift_core.h"


static ngx_kong_shift_result_e ngx_kong_shift_check_weight(
    const ngx_kong_shift_state_t *st, const ngx_kong_shift_change_t *change,
    unsigned gated);
static ngx_kong_shift_result_e ngx_kong_shift_set_drain(
    ngx_kong_shift_state_t *st, const ngx_kong_shift_change_t *change,
    unsigned gated, int64_t now);
static ngx_kong_shift_result_e ngx_kong_shift_set_peer(
    ngx_kong_shift_state_t *st, const ngx_kong_shift_change_t *change,
    unsigned gated);
static unsigned ngx_kong_shift_is_used(const ngx_kong_shift_state_t *st,
    unsigned pool, unsigned gated);
static ngx_kong_shift_result_e ngx_kong_shift_set_gate(
    ngx_kong_shift_state_t *st, const ngx_kong_shift_change_t *change,
    int64_t now);
static unsigned ngx_kong_shift_is_drained_off(
    const ngx_kong_shift_state_t *st, uint32_t weight);
static void ngx_kong_shift_abort(ngx_kong_shift_state_t *st);


void
ngx_kong_shift_init_state(ngx_kong_shift_state_t *st, uint32_t conf_weight,
    int64_t now)
{
    memset(st, 0, sizeof(ngx_kong_shift_state_t));

    st->generation = 1;
    st->changed = now;
    st->gate_changed = now;
    st->freeze_changed = now;
    st->weight = conf_weight;
    st->conf_weight = conf_weight;
}


ngx_kong_shift_result_e
ngx_kong_shift_apply(ngx_kong_shift_state_t *st,
    const ngx_kong_shift_change_t *change, unsigned gated, int64_t now)
{
    ngx_kong_shift_result_e  rc;

    if (change->match && change->generation != st->generation) {
        return NGX_KONG_SHIFT_MISMATCH;
    }

    switch (change->action) {

    case NGX_KONG_SHIFT_SET_WEIGHT:

        rc = ngx_kong_shift_check_weight(st, change, gated);

        if (rc != NGX_KONG_SHIFT_DONE) {
            return rc;
        }

        st->weight = change->weight;
        st->aborted = 0;
        break;

    case NGX_KONG_SHIFT_OPEN_GATE:
    case NGX_KONG_SHIFT_CLOSE_GATE:

        if (!gated) {
            return NGX_KONG_SHIFT_GATE_OFF;
        }

        rc = ngx_kong_shift_set_gate(st, change, now);

        if (rc != NGX_KONG_SHIFT_DONE) {
            return rc;
        }

        break;

    case NGX_KONG_SHIFT_SET_FREEZE:

        st->freeze = change->on;
        st->freeze_changed = now;
        memcpy(st->freeze_comment, change->comment,
               sizeof(st->freeze_comment));
        break;

    case NGX_KONG_SHIFT_SET_CONFIG:

        st->conf_weight = change->weight;

        /* a reload for whatever reason must not end an abort or a drain */

        if (!st->aborted
            && !ngx_kong_shift_is_drained_off(st, change->weight))
        {
            st->weight = change->weight;
        }

        break;

    case NGX_KONG_SHIFT_SET_DRAIN:

        rc = ngx_kong_shift_set_drain(st, change, gated, now);

        if (rc != NGX_KONG_SHIFT_DONE) {
            return rc;
        }

        break;

    case NGX_KONG_SHIFT_SET_PEER:

        rc = ngx_kong_shift_set_peer(st, change, gated);

        if (rc != NGX_KONG_SHIFT_DONE) {
            return rc;
        }

        break;

    default: /* NGX_KONG_SHIFT_ABORT */

        ngx_kong_shift_abort(st);
    }

    st->generation++;
    st->changed = now;

    return NGX_KONG_SHIFT_DONE;
}


static ngx_kong_shift_result_e
ngx_kong_shift_check_weight(const ngx_kong_shift_state_t *st,
    const ngx_kong_shift_change_t *change, unsigned gated)
{
    if (gated && !st->gate_open && change->weight != 0) {
        return NGX_KONG_SHIFT_GATE_CLOSED;
    }

    if (ngx_kong_shift_is_drained_off(st, change->weight)) {
        return NGX_KONG_SHIFT_POOL_DRAINED;
    }

    if (change->weight > st->weight && change->not_ready && !change->forced) {
        return NGX_KONG_SHIFT_POOL_NOT_READY;
    }

    return NGX_KONG_SHIFT_DONE;
}


static ngx_kong_shift_result_e
ngx_kong_shift_set_gate(ngx_kong_shift_state_t *st,
    const ngx_kong_shift_change_t *change, int64_t now)
{
    unsigned  open;

    open = (change->action == NGX_KONG_SHIFT_OPEN_GATE);

    /* a weight that waited for the gate is in force from now on */

    if (open && !st->gate_open && st->weight && change->not_ready
        && !change->forced)
    {
        return NGX_KONG_SHIFT_POOL_NOT_READY;
    }

    memset(&st->evidence, 0, sizeof(st->evidence));

    if (open) {
        st->evidence = change->evidence;

    } else {
        ngx_kong_shift_abort(st);
    }

    st->gate_open = open;
    st->gate_forced = open && change->forced;
    st->gate_changed = now;
    memcpy(st->gate_comment, change->comment, sizeof(st->gate_comment));

    return NGX_KONG_SHIFT_DONE;
}


/* a weight that waits for the gate is going to need new */

static unsigned
ngx_kong_shift_is_used(const ngx_kong_shift_state_t *st, unsigned pool,
    unsigned gated)
{
    return (pool == NGX_KONG_SHIFT_NEW)
           ? st->weight != 0
           : (gated && !st->gate_open) || st->weight != NGX_KONG_SHIFT_FULL;
}


static ngx_kong_shift_result_e
ngx_kong_shift_set_drain(ngx_kong_shift_state_t *st,
    const ngx_kong_shift_change_t *change, unsigned gated, int64_t now)
{
    if (change->on && ngx_kong_shift_is_used(st, change->pool, gated)) {
        return NGX_KONG_SHIFT_POOL_IN_USE;
    }

    /* another rate does not make the drain a later one */

    if (st->drained[change->pool] != change->on) {
        st->drained[change->pool] = change->on;
        st->drain_changed[change->pool] = now;
    }

    st->drain_rate[change->pool] = change->on ? change->rate : 0;
    st->drain_deadline[change->pool] = (change->on && change->deadline)
                                       ? now + change->deadline : 0;

    return NGX_KONG_SHIFT_DONE;
}


static ngx_kong_shift_result_e
ngx_kong_shift_set_peer(ngx_kong_shift_state_t *st,
    const ngx_kong_shift_change_t *change, unsigned gated)
{
    int                        i;
    ngx_kong_shift_drained_t  *peer, *spare;

    spare = NULL;

    if (change->on && change->last
        && ngx_kong_shift_is_used(st, change->pool, gated))
    {
        return NGX_KONG_SHIFT_POOL_IN_USE;
    }

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {
        peer = &st->peer[i];

        if (peer->addr[0] == '\0') {
            spare = spare ? spare : peer;
            continue;
        }

        if (peer->pool == change->pool
            && strcmp(peer->addr, change->addr) == 0)
        {
            if (!change->on) {
                memset(peer, 0, sizeof(ngx_kong_shift_drained_t));
            }

            return NGX_KONG_SHIFT_DONE;
        }
    }

    if (!change->on) {
        return NGX_KONG_SHIFT_DONE;
    }

    if (spare == NULL) {
        return NGX_KONG_SHIFT_TOO_MANY_DRAINED;
    }

    spare->pool = change->pool;
    memcpy(spare->addr, change->addr, sizeof(spare->addr));

    return NGX_KONG_SHIFT_DONE;
}


/* the weight would send requests to a pool that takes none */

static unsigned
ngx_kong_shift_is_drained_off(const ngx_kong_shift_state_t *st,
    uint32_t weight)
{
    return (weight > 0 && st->drained[NGX_KONG_SHIFT_NEW])
           || (weight < NGX_KONG_SHIFT_FULL
               && st->drained[NGX_KONG_SHIFT_OLD]);
}


/* whatever was drained on the way to new is the way back */

static void
ngx_kong_shift_abort(ngx_kong_shift_state_t *st)
{
    st->weight = 0;
    st->aborted = 1;

    memset(st->drained, 0, sizeof(st->drained));
    memset(st->drain_rate, 0, sizeof(st->drain_rate));
    memset(st->drain_deadline, 0, sizeof(st->drain_deadline));
    memset(st->peer, 0, sizeof(st->peer));
}
