
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"


static const char *ngx_kong_shift_action(ngx_kong_shift_change_t *change);


static const char  *ngx_kong_shift_pools[] = { "old", "new" };


void
ngx_kong_shift_op_text(ngx_kong_shift_op_t *op, char *text)
{
    u_char                   *p;
    ngx_str_t                 s;
    ngx_kong_shift_change_t  *change;

    change = &op->change;

    if (change->action != NGX_KONG_SHIFT_SET_PEER) {
        ngx_memcpy(text, change->comment, NGX_KONG_SHIFT_COMMENT_SIZE);
        return;
    }

    /* the event has no other place for which peer it was */

    p = ngx_snprintf((u_char *) text, NGX_KONG_SHIFT_COMMENT_SIZE - 1,
                     "%s %s %s%s%s", ngx_kong_shift_pools[change->pool],
                     change->addr, change->on ? "drained" : "not drained",
                     change->comment[0] ? ": " : "", change->comment);

    s.data = (u_char *) text;
    s.len = p - s.data;

    /* no character is cut in two */

    while (s.len && !ngx_kong_shift_is_text(&s)) {
        s.len--;
    }

    text[s.len] = '\0';
}


void
ngx_kong_shift_op_log(ngx_kong_shift_op_t *op)
{
    u_char                    weight[NGX_KONG_SHIFT_WEIGHT_LEN], *end;
    const char               *pool;
    ngx_kong_shift_change_t  *change;

    change = &op->change;

    end = (u_char *) ngx_kong_shift_format_weight((char *) weight,
                                                  op->state.weight);

    pool = (change->action == NGX_KONG_SHIFT_SET_DRAIN
            || change->action == NGX_KONG_SHIFT_SET_PEER)
           ? ngx_kong_shift_pools[change->pool] : "";

    ngx_log_error(NGX_LOG_NOTICE, op->log, 0,
                  "kong_shift \"%V\": %s%s%s%s%s%s, weight %*s, generation "
                  "%uL%s, comment \"%s\"", &op->shift->name,
                  ngx_kong_shift_action(change), *pool ? ": " : "", pool,
                  change->addr[0] ? " " : "", change->addr,
                  change->forced ? " by force" : "",
                  (size_t) (end - weight), weight, op->state.generation,
                  op->kcf->path.len && !op->saved ? ", not saved" : "",
                  change->comment);
}


static const char *
ngx_kong_shift_action(ngx_kong_shift_change_t *change)
{
    switch (change->action) {

    case NGX_KONG_SHIFT_SET_WEIGHT:
        return "weight set";

    case NGX_KONG_SHIFT_OPEN_GATE:
        return "gate opened";

    case NGX_KONG_SHIFT_CLOSE_GATE:
        return "gate closed";

    case NGX_KONG_SHIFT_SET_FREEZE:
        return change->on ? "freeze on" : "freeze off";

    case NGX_KONG_SHIFT_SET_DRAIN:
        return change->on ? "pool drained" : "pool not drained any more";

    case NGX_KONG_SHIFT_SET_PEER:
        return change->on ? "peer drained" : "peer not drained any more";

    default:
        return "aborted";
    }
}
