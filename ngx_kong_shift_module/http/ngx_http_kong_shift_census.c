
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


#define NGX_HTTP_KONG_SHIFT_SCAN     500     /* milliseconds */
#define NGX_HTTP_KONG_SHIFT_STREAM   5000
#define NGX_HTTP_KONG_SHIFT_OVERDUE  100
#define NGX_HTTP_KONG_SHIFT_STALE    1000


typedef struct {
    ngx_event_t                      event;
    ngx_connection_t                 dumb;
    ngx_kong_shift_conf_t           *conf;
    ngx_msec_t                       scanned;
} ngx_http_kong_shift_watch_t;


static void ngx_http_kong_shift_stop_watch(void *data);
static void ngx_http_kong_shift_watch(ngx_event_t *ev);
static void ngx_http_kong_shift_scan(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool);
static ngx_uint_t ngx_http_kong_shift_is_lasting(
    ngx_http_kong_shift_peer_data_t *kp);
static ngx_http_kong_shift_peer_data_t *ngx_http_kong_shift_find_lasting(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);
static ngx_msec_t ngx_http_kong_shift_drain(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);
static ngx_msec_t ngx_http_kong_shift_drain_paced(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    uint32_t rate);
static ngx_uint_t ngx_http_kong_shift_is_oldest(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);
static ngx_uint_t ngx_http_kong_shift_close_oldest(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);


void
ngx_http_kong_shift_leave_lasting(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp)
{
    ngx_kong_shift_census_t          *c;
    ngx_http_kong_shift_peer_data_t  *next;

    c = kscf->census;
    next = ngx_http_kong_shift_find_lasting(kscf, kp->pool);

    kp->lasting = 0;

    c->lasting[kp->pool] -= (c->lasting[kp->pool] != 0);
    c->oldest_lasting[kp->pool] = next ? next->start : 0;
}


ngx_int_t
ngx_http_kong_shift_init_census(ngx_cycle_t *cycle)
{
    ngx_uint_t                        i;
    ngx_kong_shift_t                **shift;
    ngx_pool_cleanup_t               *cln;
    ngx_kong_shift_conf_t            *kcf;
    ngx_http_kong_shift_watch_t      *watch;
    ngx_http_kong_shift_srv_conf_t   *kscf;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                                 ngx_kong_shift_module);

    if (kcf->shifts.nelts == 0) {
        return NGX_OK;
    }

    shift = kcf->shifts.elts;

    for (i = 0; i < kcf->shifts.nelts; i++) {
        if (shift[i]->refresh == ngx_http_kong_shift_refresh) {
            kscf = shift[i]->data;
            kscf->census = &kscf->record->census[kcf->row];
        }
    }

    cln = ngx_pool_cleanup_add(cycle->pool,
                               sizeof(ngx_http_kong_shift_watch_t));
    if (cln == NULL) {

        /* an error would end the worker for good */

        ngx_log_error(NGX_LOG_ALERT, cycle->log, 0,
                      "no memory for the kong_shift timer, this worker does "
                      "not close the connections of drained pools");
        return NGX_OK;
    }

    watch = cln->data;
    cln->handler = ngx_http_kong_shift_stop_watch;

    ngx_memzero(watch, sizeof(ngx_http_kong_shift_watch_t));

    watch->conf = kcf;
    watch->scanned = ngx_current_msec;

    watch->dumb.fd = (ngx_socket_t) -1;
    watch->dumb.data = watch;

    watch->event.handler = ngx_http_kong_shift_watch;
    watch->event.log = cycle->log;
    watch->event.data = &watch->dumb;
    watch->event.cancelable = 1;

    ngx_add_timer(&watch->event, NGX_HTTP_KONG_SHIFT_SCAN);

    return NGX_OK;
}


static void
ngx_http_kong_shift_stop_watch(void *data)
{
    ngx_http_kong_shift_watch_t  *watch = data;

    if (watch->event.timer_set) {
        ngx_del_timer(&watch->event);
    }
}


/* a worker on its way out goes on with it as long as it has requests */

static void
ngx_http_kong_shift_watch(ngx_event_t *ev)
{
    ngx_msec_t                       next, wait;
    ngx_uint_t                       i, pool, scan;
    ngx_connection_t                *dumb;
    ngx_kong_shift_t               **shift;
    ngx_http_kong_shift_watch_t     *watch;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    dumb = ev->data;
    watch = dumb->data;
    shift = watch->conf->shifts.elts;

    next = NGX_HTTP_KONG_SHIFT_SCAN;
    scan = (ngx_current_msec - watch->scanned >= NGX_HTTP_KONG_SHIFT_SCAN);

    if (scan) {
        watch->scanned = ngx_current_msec;
    }

    for (i = 0; i < watch->conf->shifts.nelts; i++) {

        if (shift[i]->refresh != ngx_http_kong_shift_refresh) {
            continue;
        }

        kscf = shift[i]->data;

        for (pool = 0; pool < 2; pool++) {

            if (scan) {
                ngx_http_kong_shift_scan(kscf, pool);
            }

            wait = ngx_http_kong_shift_drain(kscf, pool);
            next = ngx_min(next, wait);
        }
    }

    ngx_add_timer(ev, next);
}


static void
ngx_http_kong_shift_scan(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    uint32_t                          n;
    uint64_t                          oldest;
    ngx_queue_t                      *q, *queue;
    ngx_kong_shift_census_t          *c;
    ngx_http_kong_shift_peer_data_t  *kp;

    c = kscf->census;
    queue = &kscf->under_way[pool];

    n = 0;
    oldest = 0;

    c->oldest[pool] = 0;

    if (!ngx_queue_empty(queue)) {
        kp = ngx_queue_data(ngx_queue_head(queue),
                            ngx_http_kong_shift_peer_data_t, queue);
        c->oldest[pool] = kp->start;
    }

    for (q = ngx_queue_head(queue);
         q != ngx_queue_sentinel(queue);
         q = ngx_queue_next(q))
    {
        kp = ngx_queue_data(q, ngx_http_kong_shift_peer_data_t, queue);

        if (!ngx_http_kong_shift_is_lasting(kp)) {
            continue;
        }

        kp->lasting = 1;

        if (n++ == 0) {
            oldest = kp->start;
        }
    }

    c->lasting[pool] = n;
    c->oldest_lasting[pool] = oldest;
}


static ngx_uint_t
ngx_http_kong_shift_is_lasting(ngx_http_kong_shift_peer_data_t *kp)
{
    ngx_table_elt_t      *h;
    ngx_http_upstream_t  *u;

    static u_char  events[] = "text/event-stream";
    static u_char  grpc[] = "application/grpc";

    u = kp->upstream;

    if (kp->lasting || u->upgrade) {
        return 1;
    }

    h = u->headers_in.content_type;

    if (h == NULL || !u->header_sent) {
        return 0;
    }

    if (ngx_strncasecmp(h->value.data, events, sizeof(events) - 1) == 0) {
        return 1;
    }

    return ngx_current_msec - kp->start >= NGX_HTTP_KONG_SHIFT_STREAM
           && ngx_strncasecmp(h->value.data, grpc, sizeof(grpc) - 1) == 0;
}


static ngx_http_kong_shift_peer_data_t *
ngx_http_kong_shift_find_lasting(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    ngx_queue_t                      *q, *queue;
    ngx_http_kong_shift_peer_data_t  *kp;

    queue = &kscf->under_way[pool];

    for (q = ngx_queue_head(queue);
         q != ngx_queue_sentinel(queue);
         q = ngx_queue_next(q))
    {
        kp = ngx_queue_data(q, ngx_http_kong_shift_peer_data_t, queue);

        if (kp->lasting) {
            return kp;
        }
    }

    return NULL;
}


/* closes what is due in this worker; returns when to look again */

static ngx_msec_t
ngx_http_kong_shift_drain(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    ngx_uint_t                  n;
    ngx_kong_shift_record_t    *rec;
    ngx_kong_shift_snapshot_t   snap;

    rec = kscf->shift->record;
    n = kscf->census->lasting[pool];

    if (n == 0 || !(rec->word & (NGX_KONG_SHIFT_WORD_DRAINED << pool))) {
        return NGX_HTTP_KONG_SHIFT_SCAN;
    }

    ngx_kong_shift_read(rec, &snap);

    if (!snap.state.drained[pool]) {
        return NGX_HTTP_KONG_SHIFT_SCAN;
    }

    if (snap.state.drain_deadline[pool]
        && ngx_time() >= snap.state.drain_deadline[pool])
    {
        while (n && ngx_http_kong_shift_close_oldest(kscf, pool)) {
            n--;
        }

        return NGX_HTTP_KONG_SHIFT_SCAN;
    }

    if (snap.state.drain_rate[pool] == 0) {
        return NGX_HTTP_KONG_SHIFT_SCAN;
    }

    return ngx_http_kong_shift_drain_paced(kscf, pool,
                                           snap.state.drain_rate[pool]);
}


/*
 * All workers share one clock.  Each closes its oldest when that is the oldest
 * of all; when the worker that has it is late, another one closes its own.
 */

static ngx_msec_t
ngx_http_kong_shift_drain_paced(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, uint32_t rate)
{
    uint64_t    *next, due, now, begin;
    ngx_msec_t   wait;

    next = &kscf->shift->record->pool[pool].drain_next;
    now = (uint64_t) ngx_current_msec * 1000;

    for ( ;; ) {
        due = __atomic_load_n(next, __ATOMIC_RELAXED);

        if (due + NGX_HTTP_KONG_SHIFT_STALE * 1000 <= now) {

            /* it begins once all workers have seen that it does */

            begin = now + NGX_HTTP_KONG_SHIFT_SCAN * 1000;

            (void) __atomic_compare_exchange_n(next, &due, begin, 0,
                                               __ATOMIC_RELAXED,
                                               __ATOMIC_RELAXED);
            break;
        }

        if (due > now
            || (!ngx_http_kong_shift_is_oldest(kscf, pool)
                && due + NGX_HTTP_KONG_SHIFT_OVERDUE * 1000 > now))
        {
            break;
        }

        if (!__atomic_compare_exchange_n(next, &due, due + 1000000 / rate, 0,
                                         __ATOMIC_RELAXED, __ATOMIC_RELAXED))
        {
            continue;
        }

        if (!ngx_http_kong_shift_close_oldest(kscf, pool)) {
            break;
        }
    }

    wait = 250 / rate;
    wait = ngx_max(wait, 5);

    return ngx_min(wait, 50);
}


static ngx_uint_t
ngx_http_kong_shift_is_oldest(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    uint64_t                  oldest, other;
    ngx_uint_t                i;
    ngx_kong_shift_shctx_t   *sh;
    ngx_kong_shift_record_t  *rec;

    sh = kscf->conf->sh;
    rec = kscf->shift->record;
    oldest = rec->census[kscf->conf->row].oldest_lasting[pool];

    for (i = 0; i < NGX_KONG_SHIFT_WORKERS; i++) {
        other = rec->census[i].oldest_lasting[pool];

        if (sh->worker[i] && other && other < oldest
            && ngx_kong_shift_is_alive(sh->worker[i]))
        {
            return 0;
        }
    }

    return 1;
}


static ngx_uint_t
ngx_http_kong_shift_close_oldest(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    ngx_connection_t                 *c;
    ngx_http_request_t               *r;
    ngx_http_kong_shift_peer_data_t  *kp;
#if (NGX_HTTP_V2)
    ngx_http_v2_connection_t         *h2c;
#endif

    kp = ngx_http_kong_shift_find_lasting(kscf, pool);

    if (kp == NULL) {
        return 0;
    }

    r = kp->request->main;
    c = r->connection;

    ngx_http_set_log_request(c->log, r);

    ngx_log_error(NGX_LOG_INFO, c->log, 0,
                  "kong_shift \"%V\" closes a connection of the drained pool "
                  "\"%V\"", &kscf->shift->name, &kscf->pool[pool]->host);

#if (NGX_HTTP_V2)
    h2c = r->stream ? r->stream->connection : NULL;
#endif

    /* the upstream part that ends within gives its own count back */

    r->count++;

    ngx_http_finalize_request(r, NGX_HTTP_CLOSE);

    /* this was no timeout */

    c->timedout = 0;

    ngx_http_run_posted_requests(c);

#if (NGX_HTTP_V2)

    /* the end of a stream is only queued, and nothing else may come to write */

    if (h2c) {
        ngx_post_event(h2c->connection->write, &ngx_posted_events);
    }

#endif

    return 1;
}
