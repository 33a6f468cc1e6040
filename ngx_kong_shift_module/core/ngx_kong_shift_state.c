
/*
 * Copyright (C) kong-shift contributors
 */


#include <string.h>

#include "ngx_kong_shift_core.h"


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
    if (change->match && change->generation != st->generation) {
        return NGX_KONG_SHIFT_MISMATCH;
    }

    switch (change->action) {

    case NGX_KONG_SHIFT_SET_WEIGHT:

        if (gated && !st->gate_open && change->weight != 0) {
            return NGX_KONG_SHIFT_GATE_CLOSED;
        }

        st->weight = change->weight;
        st->aborted = 0;
        break;

    case NGX_KONG_SHIFT_OPEN_GATE:

        if (!gated) {
            return NGX_KONG_SHIFT_GATE_OFF;
        }

        st->gate_open = 1;
        st->gate_forced = change->forced;
        st->gate_changed = now;
        st->evidence = change->evidence;
        memcpy(st->gate_comment, change->comment, sizeof(st->gate_comment));
        break;

    case NGX_KONG_SHIFT_CLOSE_GATE:

        if (!gated) {
            return NGX_KONG_SHIFT_GATE_OFF;
        }

        st->gate_open = 0;
        st->gate_forced = 0;
        st->gate_changed = now;
        memset(&st->evidence, 0, sizeof(st->evidence));
        memcpy(st->gate_comment, change->comment, sizeof(st->gate_comment));
        ngx_kong_shift_abort(st);
        break;

    case NGX_KONG_SHIFT_SET_FREEZE:

        st->freeze = change->on;
        st->freeze_changed = now;
        memcpy(st->freeze_comment, change->comment,
               sizeof(st->freeze_comment));
        break;

    case NGX_KONG_SHIFT_SET_CONFIG:

        st->conf_weight = change->weight;

        /* a reload for whatever reason must not end an abort */

        if (!st->aborted) {
            st->weight = change->weight;
        }

        break;

    default: /* NGX_KONG_SHIFT_ABORT */

        ngx_kong_shift_abort(st);
    }

    st->generation++;
    st->changed = now;

    return NGX_KONG_SHIFT_DONE;
}


static void
ngx_kong_shift_abort(ngx_kong_shift_state_t *st)
{
    st->weight = 0;
    st->aborted = 1;
}
