
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_BUF   (16 * 1024)

/* more than any line: its labels are bounded, twice that when escaped */
#define NGX_HTTP_KONG_SHIFT_LINE  1024


/* what a metric is of, which says how many samples it has */

typedef enum {
    NGX_HTTP_KONG_SHIFT_OF_SHIFT = 0,
    NGX_HTTP_KONG_SHIFT_OF_POOL,
    NGX_HTTP_KONG_SHIFT_OF_PEER
} ngx_http_kong_shift_scope_e;


typedef struct {
    ngx_http_kong_shift_view_t   *view;
    ngx_kong_shift_pool_e         pool;
    ngx_uint_t                    place;      /* of the peer */
} ngx_http_kong_shift_subject_t;


typedef struct ngx_http_kong_shift_metric_s  ngx_http_kong_shift_metric_t;

/* Writes a value.  NULL: the subject has none. */
typedef u_char *(*ngx_http_kong_shift_value_pt)(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t offset);


struct ngx_http_kong_shift_metric_s {
    ngx_http_kong_shift_scope_e    scope;
    const char                    *name;
    const char                    *help;
    ngx_http_kong_shift_value_pt   value;
    size_t                         offset;     /* or what "value" tells by */

    const char                    *label;      /* one more, or NULL */
    const char                   **values;     /* of it; NULL: versions */
    ngx_uint_t                     nvalues;
};


typedef struct {
    ngx_http_request_t            *request;
    ngx_chain_t                   *out;
    ngx_chain_t                   *last;
} ngx_http_kong_shift_text_t;


static ngx_int_t ngx_http_kong_shift_views(ngx_http_request_t *r,
    ngx_array_t *views);
static ngx_int_t ngx_http_kong_shift_metric(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_array_t *views);
static ngx_int_t ngx_http_kong_shift_samples(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s);
static ngx_int_t ngx_http_kong_shift_sample(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s,
    const char *label, size_t offset);
static ngx_buf_t *ngx_http_kong_shift_room(ngx_http_kong_shift_text_t *text);
static u_char *ngx_http_kong_shift_label(u_char *p, const char *name,
    const char *value);
static u_char *ngx_http_kong_shift_shift_value(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t what);
static u_char *ngx_http_kong_shift_pool_value(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t what);
static u_char *ngx_http_kong_shift_peer_value(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t what);
static u_char *ngx_http_kong_shift_pool_counter(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t offset);
static u_char *ngx_http_kong_shift_peer_counter(u_char *p,
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
      ngx_http_kong_shift_shift_value, what, NULL, NULL, 0 }

#define pool(name, what, help)                                                \
    { NGX_HTTP_KONG_SHIFT_OF_POOL, "kong_shift_pool_" name, help,             \
      ngx_http_kong_shift_pool_value, what, NULL, NULL, 0 }

#define peer(name, what, help)                                                \
    { NGX_HTTP_KONG_SHIFT_OF_PEER, "kong_shift_peer_" name, help,             \
      ngx_http_kong_shift_peer_value, what, NULL, NULL, 0 }

#define pool_counter(name, field, label, values, n, help)                     \
    { NGX_HTTP_KONG_SHIFT_OF_POOL, "kong_shift_" name "_total", help,         \
      ngx_http_kong_shift_pool_counter,                                       \
      offsetof(ngx_kong_shift_pool_t, field), label, values, n }

#define peer_counter(name, field, label, values, n, help)                     \
    { NGX_HTTP_KONG_SHIFT_OF_PEER, "kong_shift_peer_" name "_total", help,    \
      ngx_http_kong_shift_peer_counter,                                       \
      offsetof(ngx_kong_shift_peer_t, field), label, values, n }


static ngx_http_kong_shift_metric_t  ngx_http_kong_shift_metrics_list[] = {

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
         "Whether it is used unchecked, as no pool has a ready peer."),
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
                 "Responses, by class of the status.")
};


#undef shift
#undef pool
#undef peer

#define NGX_HTTP_KONG_SHIFT_METRICS                                           \
    (sizeof(ngx_http_kong_shift_metrics_list)                                 \
     / sizeof(ngx_http_kong_shift_metric_t))


ngx_int_t
ngx_http_kong_shift_metrics(ngx_http_request_t *r,
    ngx_http_kong_shift_target_t *target)
{
    ngx_uint_t                  i;
    ngx_array_t                 views;
    ngx_http_kong_shift_text_t  text;

    if (ngx_http_kong_shift_views(r, &views) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    text.request = r;
    text.out = NULL;
    text.last = NULL;

    for (i = 0; i < NGX_HTTP_KONG_SHIFT_METRICS; i++) {
        if (ngx_http_kong_shift_metric(&text,
                                       &ngx_http_kong_shift_metrics_list[i],
                                       &views)
            != NGX_OK)
        {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    return ngx_http_kong_shift_send_text(r, NGX_HTTP_OK,
                                   "text/plain; version=0.0.4; charset=utf-8",
                                   text.out);
}


/* all numbers are of one moment, also those of one pool in several metrics */

static ngx_int_t
ngx_http_kong_shift_views(ngx_http_request_t *r, ngx_array_t *views)
{
    ngx_uint_t                        i;
    ngx_kong_shift_conf_t            *conf;
    ngx_http_upstream_srv_conf_t    **uscfp;
    ngx_http_upstream_main_conf_t    *umcf;
    ngx_http_kong_shift_srv_conf_t   *kscf;
    ngx_http_kong_shift_view_t      **view;

    conf = ngx_http_kong_shift_conf();
    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);

    if (ngx_array_init(views, r->pool, 4,
                       sizeof(ngx_http_kong_shift_view_t *))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf == NULL) {
            continue;
        }

        kscf = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                               ngx_http_kong_shift_module);

        if (kscf->shift == NULL) {
            continue;
        }

        view = ngx_array_push(views);
        if (view == NULL) {
            return NGX_ERROR;
        }

        *view = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_view_t));
        if (*view == NULL) {
            return NGX_ERROR;
        }

        ngx_http_kong_shift_view(conf, kscf, *view);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_metric(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_array_t *views)
{
    ngx_buf_t                      *b;
    ngx_uint_t                      i, pool, peer;
    ngx_http_kong_shift_view_t    **view;
    ngx_http_kong_shift_subject_t   s;

    b = ngx_http_kong_shift_room(text);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_slprintf(b->last, b->end, "# HELP %s %s\n# TYPE %s %s\n",
                           metric->name, metric->help, metric->name,
                           (metric->value == ngx_http_kong_shift_pool_counter
                            || metric->value
                               == ngx_http_kong_shift_peer_counter)
                           ? "counter" : "gauge");

    ngx_memzero(&s, sizeof(ngx_http_kong_shift_subject_t));

    view = views->elts;

    for (i = 0; i < views->nelts; i++) {
        s.view = view[i];

        if (metric->scope == NGX_HTTP_KONG_SHIFT_OF_SHIFT) {
            if (ngx_http_kong_shift_samples(text, metric, &s) != NGX_OK) {
                return NGX_ERROR;
            }

            continue;
        }

        for (pool = 0; pool < 2; pool++) {
            s.pool = pool;

            if (metric->scope == NGX_HTTP_KONG_SHIFT_OF_POOL) {
                if (ngx_http_kong_shift_samples(text, metric, &s) != NGX_OK) {
                    return NGX_ERROR;
                }

                continue;
            }

            for (peer = 0; peer < NGX_KONG_SHIFT_PEERS; peer++) {
                s.place = peer;

                if (view[i]->pool[pool].peer[peer].configured
                    && ngx_http_kong_shift_samples(text, metric, &s)
                       != NGX_OK)
                {
                    return NGX_ERROR;
                }
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_samples(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s)
{
    size_t       size;
    ngx_uint_t   i;
    const char  *value;

    if (metric->label == NULL) {
        return ngx_http_kong_shift_sample(text, metric, s, NULL,
                                          metric->offset);
    }

    size = metric->values ? sizeof(uint64_t)
                          : sizeof(ngx_kong_shift_version_t);

    for (i = 0; i < metric->nvalues; i++) {

        value = metric->values ? metric->values[i]
                               : s->view->pool[s->pool].version[i].text;

        if (value[0] && ngx_http_kong_shift_sample(text, metric, s, value,
                                                   metric->offset + i * size)
                        != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_sample(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s,
    const char *label, size_t offset)
{
    u_char     *p, *end, value[NGX_INT64_LEN + sizeof(".000")];
    ngx_buf_t  *b;

    end = metric->value(value, s, offset);
    if (end == NULL) {
        return NGX_OK;
    }

    b = ngx_http_kong_shift_room(text);
    if (b == NULL) {
        return NGX_ERROR;
    }

    p = b->last;

    p = ngx_cpymem(p, metric->name, ngx_strlen(metric->name));
    *p++ = '{';

    p = ngx_http_kong_shift_label(p, "shift", s->view->kscf->shift->record->name);

    if (metric->scope != NGX_HTTP_KONG_SHIFT_OF_SHIFT) {
        *p++ = ',';
        p = ngx_http_kong_shift_label(p, "pool",
                                   ngx_http_kong_shift_pool_names[s->pool]);
    }

    if (metric->scope == NGX_HTTP_KONG_SHIFT_OF_PEER) {
        *p++ = ',';
        p = ngx_http_kong_shift_label(p, "peer",
                              s->view->pool[s->pool].peer[s->place].addr);
    }

    if (label) {
        *p++ = ',';
        p = ngx_http_kong_shift_label(p, metric->label, label);
    }

    *p++ = '}';
    *p++ = ' ';
    p = ngx_cpymem(p, value, end - value);
    *p++ = '\n';

    b->last = p;

    return NGX_OK;
}


/* a buffer with room for one more line */

static ngx_buf_t *
ngx_http_kong_shift_room(ngx_http_kong_shift_text_t *text)
{
    ngx_chain_t  *cl;

    if (text->last && text->last->buf->end - text->last->buf->last
                      >= NGX_HTTP_KONG_SHIFT_LINE)
    {
        return text->last->buf;
    }

    cl = ngx_alloc_chain_link(text->request->pool);
    if (cl == NULL) {
        return NULL;
    }

    cl->buf = ngx_create_temp_buf(text->request->pool,
                                  NGX_HTTP_KONG_SHIFT_BUF);
    if (cl->buf == NULL) {
        return NULL;
    }

    cl->next = NULL;

    if (text->last) {
        text->last->next = cl;

    } else {
        text->out = cl;
    }

    text->last = cl;

    return cl->buf;
}


static u_char *
ngx_http_kong_shift_label(u_char *p, const char *name, const char *value)
{
    ngx_str_t   s;
    ngx_uint_t  i, text;

    p = ngx_cpymem(p, name, ngx_strlen(name));
    *p++ = '=';
    *p++ = '"';

    s.data = (u_char *) value;
    s.len = ngx_strlen(value);

    /* a path need not be UTF-8, and one such byte would spoil all */

    text = ngx_kong_shift_is_text(&s);

    for (i = 0; i < s.len; i++) {

        if (!text && (s.data[i] < 0x20 || s.data[i] > 0x7e)) {
            *p++ = '?';
            continue;
        }

        if (s.data[i] == '"' || s.data[i] == '\\') {
            *p++ = '\\';
        }

        *p++ = s.data[i];
    }

    *p++ = '"';

    return p;
}


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
        value = s->pool == NGX_KONG_SHIFT_OLD && view->fail_open;
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


static u_char *
ngx_http_kong_shift_pool_counter(u_char *p, ngx_http_kong_shift_subject_t *s,
    size_t offset)
{
    return ngx_sprintf(p, "%uL",
                       *(uint64_t *) ((u_char *) &s->view->pool[s->pool]
                                      + offset));
}


static u_char *
ngx_http_kong_shift_peer_counter(u_char *p, ngx_http_kong_shift_subject_t *s,
    size_t offset)
{
    return ngx_sprintf(p, "%uL",
                       *(uint64_t *) ((u_char *)
                                   &s->view->pool[s->pool].peer[s->place]
                                      + offset));
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
