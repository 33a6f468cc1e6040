
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static u_char *ngx_http_kong_shift_shift_value(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t what);
static u_char *ngx_http_kong_shift_pool_value(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t what);
static u_char *ngx_http_kong_shift_peer_value(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t what);
static u_char *ngx_http_kong_shift_counter(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t offset);
static u_char *ngx_http_kong_shift_seconds(u_char *p, uint64_t start);


enum {
    NGX_HTTP_KONG_SHIFT_WEIGHT = 0,
    NGX_HTTP_KONG_SHIFT_EFFECTIVE,
    NGX_HTTP_KONG_SHIFT_IS_ABORTED,
    NGX_HTTP_KONG_SHIFT_IS_OPEN,
    NGX_HTTP_KONG_SHIFT_IS_FROZEN,
    NGX_HTTP_KONG_SHIFT_GENERATION,
    NGX_HTTP_KONG_SHIFT_CHANGED,
    NGX_HTTP_KONG_SHIFT_IS_SAVED,

    NGX_HTTP_KONG_SHIFT_PEERS,
    NGX_HTTP_KONG_SHIFT_READY,
    NGX_HTTP_KONG_SHIFT_IS_DRAINED,
    NGX_HTTP_KONG_SHIFT_HANDS_OVER,
    NGX_HTTP_KONG_SHIFT_FAILS_OPEN,
    NGX_HTTP_KONG_SHIFT_ACTIVE,
    NGX_HTTP_KONG_SHIFT_LASTING,
    NGX_HTTP_KONG_SHIFT_OLDEST,
    NGX_HTTP_KONG_SHIFT_OLDEST_LASTING
};


static const char  *ngx_http_kong_shift_classes[] = {
    "1xx", "2xx", "3xx", "4xx", "5xx"
};


#define shift(name, what, help)                                               \
    { NGX_HTTP_KONG_SHIFT_OF_SHIFT, "kong_shift_" name, help,                 \
      ngx_http_kong_shift_shift_value, what, 0, NULL, NULL, 0 }

#define pool(name, what, help)                                                \
    { NGX_HTTP_KONG_SHIFT_OF_POOL, "kong_shift_pool_" name, help,             \
      ngx_http_kong_shift_pool_value, what, 0, NULL, NULL, 0 }

#define peer(name, what, help)                                                \
    { NGX_HTTP_KONG_SHIFT_OF_PEER, "kong_shift_peer_" name, help,             \
      ngx_http_kong_shift_peer_value, what, 0, NULL, NULL, 0 }

#define pool_counter(name, field, label, values, n, help)                     \
    { NGX_HTTP_KONG_SHIFT_OF_POOL, "kong_shift_" name "_total", help,         \
      ngx_http_kong_shift_counter,                                            \
      offsetof(ngx_kong_shift_pool_t, field), 1, label, values, n }

#define peer_counter(name, field, label, values, n, help)                     \
    { NGX_HTTP_KONG_SHIFT_OF_PEER, "kong_shift_peer_" name "_total", help,    \
      ngx_http_kong_shift_counter,                                            \
      offsetof(ngx_kong_shift_pool_t, peer[0].field), 1, label, values, n }


ngx_http_kong_shift_metric_t  ngx_http_kong_shift_metric_list[] = {

    shift("weight", NGX_HTTP_KONG_SHIFT_WEIGHT,
          "Percent to new, as set."),
    shift("effective_weight", NGX_HTTP_KONG_SHIFT_EFFECTIVE,
          "Percent to new in force: 0 while the gate is closed."),
    shift("aborted", NGX_HTTP_KONG_SHIFT_IS_ABORTED,
          "1 after an abort, until a weight is set."),
    shift("gate_open", NGX_HTTP_KONG_SHIFT_IS_OPEN,
          "Whether the gate is open; only with kong_shift_gate on."),
    shift("frozen", NGX_HTTP_KONG_SHIFT_IS_FROZEN,
          "Whether admin writes are denied."),
    shift("generation", NGX_HTTP_KONG_SHIFT_GENERATION,
          "Number of the change in force."),
    shift("changed_timestamp_seconds", NGX_HTTP_KONG_SHIFT_CHANGED,
          "When the last change was made."),
    shift("saved", NGX_HTTP_KONG_SHIFT_IS_SAVED,
          "Whether the state file has the last change; only with state=."),

    pool("peers", NGX_HTTP_KONG_SHIFT_PEERS,
         "Peers that are configured and not down."),
    pool("peers_ready", NGX_HTTP_KONG_SHIFT_READY,
         "Of these, ready and not drained; only of a checked pool."),
    pool("drained", NGX_HTTP_KONG_SHIFT_IS_DRAINED,
         "Whether the pool is closed to everything."),
    pool("fallback", NGX_HTTP_KONG_SHIFT_HANDS_OVER,
         "Whether the other pool takes all, as no peer is ready."),
    pool("fail_open", NGX_HTTP_KONG_SHIFT_FAILS_OPEN,
         "Whether it is used unchecked: not ready, nor relieved."),
    pool("active", NGX_HTTP_KONG_SHIFT_ACTIVE,
         "Requests under way."),
    pool("long_lived", NGX_HTTP_KONG_SHIFT_LASTING,
         "Of these, upgraded connections and streams."),
    pool("oldest_seconds", NGX_HTTP_KONG_SHIFT_OLDEST,
         "Age of the oldest request under way."),
    pool("oldest_long_lived_seconds", NGX_HTTP_KONG_SHIFT_OLDEST_LASTING,
         "Age of the oldest upgraded connection or stream."),

    pool_counter("requests_chosen", chosen, NULL, NULL, 0,
                 "Requests the pool was chosen for at first."),
    pool_counter("requests_served", served, NULL, NULL, 0,
                 "Requests whose response came from the pool."),
    pool_counter("requests_failed", failed, NULL, NULL, 0,
                 "Requests that the pool failed, rescued ones included."),
    pool_counter("requests_canceled", canceled, NULL, NULL, 0,
                 "Requests whose client left first."),
    pool_counter("requests_rescued", rescued, NULL, NULL, 0,
                 "Of those failed, answered by the other pool."),
    pool_counter("requests_fallback", fallback, NULL, NULL, 0,
                 "Of those chosen, taken over from the other pool."),
    pool_counter("responses", responses[1], "class",
                 ngx_http_kong_shift_classes, 5,
                 "Responses passed on, by class of the status."),
    pool_counter("not_found", not_found[0], "origin",
                 ngx_http_kong_shift_origins, NGX_KONG_SHIFT_ORIGINS,
                 "Responses 404, by who made them."),
    pool_counter("errors", errors[0], "origin", ngx_http_kong_shift_origins,
                 NGX_KONG_SHIFT_ORIGINS,
                 "Responses 5xx, by who made them."),
    pool_counter("connect_errors", connect_errors, NULL, NULL, 0,
                 "Attempts that got no connection."),
    pool_counter("suspected", suspected, NULL, NULL, 0,
                 "Responses 404 that were tried elsewhere."),
    pool_counter("wrong_version", wrong_version, NULL, NULL, 0,
                 "Responses of a version that the gate did not announce."),
    pool_counter("version_responses", version[0].responses, "version", NULL,
                 NGX_KONG_SHIFT_VERSIONS,
                 "Responses, by the version of Kong that they tell."),

    peer("ready", NGX_HTTP_KONG_SHIFT_READY,
         "Whether the peer passes its checks; only of a checked pool."),
    peer("drained", NGX_HTTP_KONG_SHIFT_IS_DRAINED,
         "Whether the peer alone is drained."),
    peer("active", NGX_HTTP_KONG_SHIFT_ACTIVE,
         "Attempts under way."),
    peer_counter("requests", requests, NULL, NULL, 0, "Attempts."),
    peer_counter("failed", failed, NULL, NULL, 0, "Attempts that failed."),
    peer_counter("connect_errors", connect_errors, NULL, NULL, 0,
                 "Attempts that got no connection."),
    peer_counter("responses", responses[1], "class",
                 ngx_http_kong_shift_classes, 5,
                 "Responses, by class of the status."),

    { NGX_HTTP_KONG_SHIFT_OF_SHIFT, NULL, NULL, NULL, 0, 0, NULL, NULL, 0 }
};


static u_char *
ngx_http_kong_shift_shift_value(u_char *p, ngx_http_kong_shift_subject_t *s,
    size_t what)
{
    uint64_t                 value;
    ngx_kong_shift_t        *shift;
    ngx_kong_shift_state_t  *st;

    shift = s->view->kscf->shift;
    st = &s->view->snap.state;

    switch (what) {

    case NGX_HTTP_KONG_SHIFT_WEIGHT:
        return (u_char *) ngx_kong_shift_format_weight((char *) p,
                                                       st->weight);

    case NGX_HTTP_KONG_SHIFT_EFFECTIVE:
        return (u_char *) ngx_kong_shift_format_weight((char *) p,
                          ngx_kong_shift_effective(s->view->snap.word,
                                                   shift->gated));

    case NGX_HTTP_KONG_SHIFT_IS_ABORTED:
        value = st->aborted;
        break;

    case NGX_HTTP_KONG_SHIFT_IS_OPEN:
        if (!shift->gated) {
            return NULL;
        }

        value = st->gate_open;
        break;

    case NGX_HTTP_KONG_SHIFT_IS_FROZEN:
        value = st->freeze;
        break;

    case NGX_HTTP_KONG_SHIFT_GENERATION:
        value = st->generation;
        break;

    case NGX_HTTP_KONG_SHIFT_CHANGED:
        value = (uint64_t) st->changed;
        break;

    default: /* NGX_HTTP_KONG_SHIFT_IS_SAVED */
        if (ngx_http_kong_shift_conf()->path.len == 0) {
            return NULL;
        }

        value = !s->view->snap.unsaved;
    }

    return ngx_sprintf(p, "%uL", value);
}


static u_char *
ngx_http_kong_shift_pool_value(u_char *p, ngx_http_kong_shift_subject_t *s,
    size_t what)
{
    uint32_t                     n, ready;
    uint64_t                     value;
    ngx_http_kong_shift_view_t  *view;

    view = s->view;

    ngx_kong_shift_count_peers(view->kscf->shift->record, s->pool, &n,
                               &ready);

    switch (what) {

    case NGX_HTTP_KONG_SHIFT_PEERS:
        value = n;
        break;

    case NGX_HTTP_KONG_SHIFT_READY:
        if (!(view->kscf->shift->checked & (1 << s->pool))) {
            return NULL;
        }

        value = ready;
        break;

    case NGX_HTTP_KONG_SHIFT_IS_DRAINED:
        value = view->snap.state.drained[s->pool];
        break;

    case NGX_HTTP_KONG_SHIFT_HANDS_OVER:
        value = (view->empty >> s->pool) & 1;
        break;

    case NGX_HTTP_KONG_SHIFT_FAILS_OPEN:
        value = (view->fail_open >> s->pool) & 1;
        break;

    case NGX_HTTP_KONG_SHIFT_ACTIVE:
        value = view->total.active[s->pool];
        break;

    case NGX_HTTP_KONG_SHIFT_LASTING:
        value = view->total.lasting[s->pool];
        break;

    case NGX_HTTP_KONG_SHIFT_OLDEST:
        return ngx_http_kong_shift_seconds(p, view->total.oldest[s->pool]);

    default: /* NGX_HTTP_KONG_SHIFT_OLDEST_LASTING */
        return ngx_http_kong_shift_seconds(p,
                                        view->total.oldest_lasting[s->pool]);
    }

    return ngx_sprintf(p, "%uL", value);
}


static u_char *
ngx_http_kong_shift_peer_value(u_char *p, ngx_http_kong_shift_subject_t *s,
    size_t what)
{
    uint64_t                     value;
    ngx_kong_shift_peer_t       *peer;
    ngx_http_kong_shift_view_t  *view;

    view = s->view;
    peer = &view->pool[s->pool].peer[s->place];

    switch (what) {

    case NGX_HTTP_KONG_SHIFT_READY:
        if (!(view->kscf->shift->checked & (1 << s->pool))) {
            return NULL;
        }

        value = peer->health.ready;
        break;

    case NGX_HTTP_KONG_SHIFT_IS_DRAINED:
        value = peer->drained;
        break;

    default: /* NGX_HTTP_KONG_SHIFT_ACTIVE */
        value = view->total.peer[s->pool][s->place];
    }

    return ngx_sprintf(p, "%uL", value);
}


/* of the pool; that of a peer lies within it */

static u_char *
ngx_http_kong_shift_counter(u_char *p, ngx_http_kong_shift_subject_t *s,
    size_t offset)
{
    u_char    *pool;
    uint64_t   value;

    pool = (u_char *) &s->view->pool[s->pool];

    ngx_memcpy(&value, pool + offset, sizeof(uint64_t));

    return ngx_sprintf(p, "%uL", value);
}


/* the age of what began then; of nothing it is 0 */

static u_char *
ngx_http_kong_shift_seconds(u_char *p, uint64_t start)
{
    int64_t  age;

    age = start ? (int64_t) (ngx_current_msec - start) : 0;
    age = ngx_max(age, 0);

    return ngx_sprintf(p, "%L.%03L", age / 1000, age % 1000);
}
