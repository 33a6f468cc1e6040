
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static void ngx_http_kong_shift_add_up(ngx_kong_shift_pool_t *pool);
static json_t *ngx_http_kong_shift_pool(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool);
static void ngx_http_kong_shift_add_drain(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, json_t *json);
static json_t *ngx_http_kong_shift_peers(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool);
static void ngx_http_kong_shift_add_gone(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, json_t *peers);
static json_t *ngx_http_kong_shift_peer(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, ngx_uint_t place);
static const char *ngx_http_kong_shift_peer_state(
    ngx_http_kong_shift_view_t *view, ngx_kong_shift_pool_e pool,
    ngx_kong_shift_peer_t *peer);
static const char *ngx_http_kong_shift_peer_reason(
    ngx_kong_shift_peer_t *peer);
static json_t *ngx_http_kong_shift_counters(ngx_kong_shift_pool_t *pool);
static json_t *ngx_http_kong_shift_classes(uint64_t *responses);
static json_t *ngx_http_kong_shift_by_origin(uint64_t *count);
static json_t *ngx_http_kong_shift_versions(ngx_kong_shift_pool_t *pool);
static json_t *ngx_http_kong_shift_age(uint64_t start);
static json_t *ngx_http_kong_shift_text(const char *text);


const char  *ngx_http_kong_shift_pool_names[2] = { "old", "new" };

const char  *ngx_http_kong_shift_origins[NGX_KONG_SHIFT_ORIGINS] = {
    "gateway", "backend", "transport", "unknown"
};


void
ngx_http_kong_shift_view(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_http_kong_shift_view_t *view)
{
    ngx_kong_shift_record_t  *rec;

    rec = kscf->shift->record;

    view->kscf = kscf;

    /* the word before the census, see ngx_kong_shift_unsafe() */

    ngx_kong_shift_read(rec, &view->snap);
    ngx_kong_shift_count(conf->sh, rec, &view->total);

    /* texts change under the mutex only, and must not be seen half written */

    ngx_shmtx_lock(&conf->shpool->mutex);

    view->empty = (unsigned) rec->empty;
    view->fail_open = (unsigned) rec->fail_open;

    ngx_memcpy(view->pool, rec->pool, sizeof(rec->pool));

    ngx_http_kong_shift_add_up(&view->pool[NGX_KONG_SHIFT_OLD]);
    ngx_http_kong_shift_add_up(&view->pool[NGX_KONG_SHIFT_NEW]);

    ngx_shmtx_unlock(&conf->shpool->mutex);
}


/* requests do not count what is a sum of others */

static void
ngx_http_kong_shift_add_up(ngx_kong_shift_pool_t *pool)
{
    ngx_uint_t              i, class;
    ngx_kong_shift_peer_t  *peer;

    pool->served = 0;

    for (class = 0; class < 6; class++) {
        pool->served += pool->responses[class];
    }

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &pool->peer[i];
        peer->requests = 0;

        for (class = 0; class < 6; class++) {
            peer->requests += peer->responses[class];
        }
    }
}


ngx_uint_t
ngx_http_kong_shift_has_peer(ngx_http_kong_shift_object_t *target)
{
    ngx_str_t                  *addr;
    ngx_uint_t                  i;
    ngx_kong_shift_peer_t      *peer;
    ngx_kong_shift_record_t    *rec;
    ngx_kong_shift_drained_t   *drained;
    ngx_kong_shift_snapshot_t   snap;

    addr = &target->addr;
    rec = target->kscf->shift->record;

    if (addr->len >= NGX_KONG_SHIFT_ADDR_SIZE) {
        return 0;
    }

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[target->pool].peer[i];

        if (peer->configured && ngx_strlen(peer->addr) == addr->len
            && ngx_strncmp(peer->addr, addr->data, addr->len) == 0)
        {
            return 1;
        }
    }

    ngx_kong_shift_read(rec, &snap);

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {
        drained = &snap.state.peer[i];

        if (drained->pool == target->pool
            && ngx_strlen(drained->addr) == addr->len
            && ngx_strncmp(drained->addr, addr->data, addr->len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


json_t *
ngx_http_kong_shift_json_pools(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap)
{
    json_t                   *json, *pool;
    uint32_t                  n, ready;
    ngx_str_t                *host;
    ngx_uint_t                i;
    ngx_kong_shift_total_t    total;
    ngx_kong_shift_record_t  *rec;

    rec = kscf->shift->record;

    ngx_kong_shift_count(conf->sh, rec, &total);

    json = json_object();

    for (i = 0; i < 2; i++) {
        host = &kscf->pool[i]->host;

        ngx_kong_shift_count_peers(rec, i, &n, &ready);

        pool = json_pack("{ss%, so, sI, sb, sI}",
                         "upstream", host->data, host->len,
                         "ready", (kscf->shift->checked & (1 << i))
                                  ? json_integer(ready) : json_null(),
                         "total", (json_int_t) n,
                         "drained", (int) snap->state.drained[i],
                         "active", (json_int_t) total.active[i]);

        (void) json_object_set_new(json, ngx_http_kong_shift_pool_names[i],
                                   pool);
    }

    return json;
}


json_t *
ngx_http_kong_shift_json_pool(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap)
{
    json_t                      *json;
    ngx_http_kong_shift_view_t  *view;

    view = ngx_alloc(sizeof(ngx_http_kong_shift_view_t), ngx_cycle->log);
    if (view == NULL) {
        return NULL;
    }

    ngx_http_kong_shift_view(conf, target->kscf, view);

    /* after a change the state is the one that it made */

    view->snap = *snap;

    json = ngx_http_kong_shift_pool(view, target->pool);

    ngx_free(view);

    ngx_http_kong_shift_json_saved(conf, snap, json);

    return json;
}


static json_t *
ngx_http_kong_shift_pool(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool)
{
    int                checked;
    json_t            *json, *more;
    uint32_t           n, ready;
    ngx_str_t         *host;
    const char        *announced;
    ngx_kong_shift_t  *shift;

    shift = view->kscf->shift;
    host = &view->kscf->pool[pool]->host;

    announced = (pool == NGX_KONG_SHIFT_NEW) ? view->snap.state.evidence.y
                                             : view->snap.state.evidence.x;

    ngx_kong_shift_count_peers(shift->record, pool, &n, &ready);

    checked = (shift->checked & (1 << pool)) != 0;

    json = json_pack("{ss, ss%, sb, so, sI, sb, sb, sb}",
                     "pool", ngx_http_kong_shift_pool_names[pool],
                     "upstream", host->data, host->len,
                     "checked", checked,
                     "ready", checked ? json_integer(ready) : json_null(),
                     "total", (json_int_t) n,
                     "fallback", (view->empty & (1U << pool)) != 0,
                     "fail_open", (view->fail_open & (1U << pool)) != 0,
                     "drained", (int) view->snap.state.drained[pool]);
    if (json == NULL) {
        return NULL;
    }

    if (checked && pool == NGX_KONG_SHIFT_NEW) {
        (void) json_object_set_new(json, "min_ready",
                                   json_integer(shift->min_ready));
    }

    ngx_http_kong_shift_add_drain(view, pool, json);
    ngx_http_kong_shift_add_census(&view->total, pool, json);

    more = json_pack("{so, so, so, so, sI}",
                     "announced", announced[0] ? json_string(announced)
                                               : json_null(),
                     "versions",
                     ngx_http_kong_shift_versions(&view->pool[pool]),
                     "counters",
                     ngx_http_kong_shift_counters(&view->pool[pool]),
                     "peers", ngx_http_kong_shift_peers(view, pool),
                     "generation", (json_int_t) view->snap.state.generation);

    if (more == NULL || json_object_update(json, more) != 0) {
        json_decref(json);
        json = NULL;
    }

    json_decref(more);

    return json;
}


static void
ngx_http_kong_shift_add_drain(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, json_t *json)
{
    ngx_kong_shift_state_t  *st;

    st = &view->snap.state;

    if (!st->drained[pool]) {
        return;
    }

    (void) json_object_set_new(json, "drain",
               json_pack("{so, so, so}",
                         "since",
                         ngx_kong_shift_json_time(st->drain_changed[pool]),
                         "rate",
                         st->drain_rate[pool]
                         ? json_integer(st->drain_rate[pool]) : json_null(),
                         "deadline",
                         st->drain_deadline[pool]
                         ? ngx_kong_shift_json_time(st->drain_deadline[pool])
                         : json_null()));
}


static json_t *
ngx_http_kong_shift_peers(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool)
{
    json_t      *peers;
    ngx_uint_t   i;

    peers = json_array();

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        if (view->pool[pool].peer[i].configured) {
            (void) json_array_append_new(peers,
                               ngx_http_kong_shift_peer(view, pool, i));
        }
    }

    ngx_http_kong_shift_add_gone(view, pool, peers);

    return peers;
}


/* a drain outlives the line of its server, and can still be lifted */

static void
ngx_http_kong_shift_add_gone(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, json_t *peers)
{
    ngx_uint_t                 i, j;
    ngx_kong_shift_peer_t     *peer;
    ngx_kong_shift_drained_t  *drained;

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {
        drained = &view->snap.state.peer[i];

        if (drained->addr[0] == '\0' || drained->pool != pool) {
            continue;
        }

        for (j = 0; j < NGX_KONG_SHIFT_PEERS; j++) {
            peer = &view->pool[pool].peer[j];

            if (peer->configured
                && ngx_strcmp(peer->addr, drained->addr) == 0)
            {
                break;
            }
        }

        if (j == NGX_KONG_SHIFT_PEERS) {
            (void) json_array_append_new(peers,
                       json_pack("{so, ss}",
                                 "addr",
                                 ngx_http_kong_shift_text(drained->addr),
                                 "state", "gone"));
        }
    }
}


json_t *
ngx_http_kong_shift_json_peer(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap)
{
    json_t                      *json, *peers, *addr;
    ngx_uint_t                   i;
    ngx_http_kong_shift_view_t  *view;

    view = ngx_alloc(sizeof(ngx_http_kong_shift_view_t), ngx_cycle->log);
    if (view == NULL) {
        return NULL;
    }

    ngx_http_kong_shift_view(conf, target->kscf, view);

    view->snap = *snap;

    peers = ngx_http_kong_shift_peers(view, target->pool);
    json = NULL;

    for (i = 0; i < json_array_size(peers); i++) {
        addr = json_object_get(json_array_get(peers, i), "addr");

        if (json_string_length(addr) == target->addr.len
            && ngx_strncmp(json_string_value(addr), target->addr.data,
                           target->addr.len)
               == 0)
        {
            json = json_incref(json_array_get(peers, i));
            break;
        }
    }

    /* one that was gone, and is not drained any more */

    if (json == NULL) {
        json = json_pack("{ss%, ss}", "addr", target->addr.data,
                         target->addr.len, "state", "gone");
    }

    json_decref(peers);
    ngx_free(view);

    if (json) {
        (void) json_object_set_new(json, "generation",
                                   json_integer(snap->state.generation));
    }

    ngx_http_kong_shift_json_saved(conf, snap, json);

    return json;
}


static json_t *
ngx_http_kong_shift_peer(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, ngx_uint_t place)
{
    json_t                 *json;
    int64_t                 since;
    const char             *reason;
    ngx_kong_shift_peer_t  *peer;

    peer = &view->pool[pool].peer[place];

    json = json_pack("{so, ss, sb, sI, sI, sI, sI, so}",
                     "addr", ngx_http_kong_shift_text(peer->addr),
                     "state", ngx_http_kong_shift_peer_state(view, pool, peer),
                     "backup", (int) peer->backup,
                     "active", (json_int_t) view->total.peer[pool][place],
                     "requests", (json_int_t) peer->requests,
                     "failed", (json_int_t) peer->failed,
                     "connect_errors", (json_int_t) peer->connect_errors,
                     "responses",
                     ngx_http_kong_shift_classes(peer->responses));
    if (json == NULL) {
        return NULL;
    }

    if (peer->version[0]) {
        (void) json_object_set_new(json, "version",
                                   ngx_http_kong_shift_text(peer->version));
    }

    if (!(view->kscf->shift->checked & (1 << pool))) {
        return json;
    }

    reason = ngx_http_kong_shift_peer_reason(peer);

    (void) json_object_set_new(json, "reason", reason[0]
                                     ? ngx_http_kong_shift_text(reason)
                                     : json_null());

    since = ngx_time()
            - (int64_t) (ngx_current_msec - peer->health.since) / 1000;

    (void) json_object_set_new(json, "since", peer->health.since
                                     ? ngx_kong_shift_json_time(since)
                                     : json_null());

    (void) json_object_set_new(json, "last_check", peer->checked
                                     ? ngx_kong_shift_json_time(peer->checked)
                                     : json_null());

    if (peer->hash[0]) {
        (void) json_object_set_new(json, "configuration_hash",
                                   ngx_http_kong_shift_text(peer->hash));
    }

    return json;
}


static const char *
ngx_http_kong_shift_peer_state(ngx_http_kong_shift_view_t *view,
    ngx_kong_shift_pool_e pool, ngx_kong_shift_peer_t *peer)
{
    ngx_uint_t                 i;
    ngx_kong_shift_drained_t  *drained;

    if (peer->down) {
        return "down";
    }

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {
        drained = &view->snap.state.peer[i];

        if (drained->pool == pool && drained->addr[0]
            && ngx_strcmp(drained->addr, peer->addr) == 0)
        {
            return "drained";
        }
    }

    if (!(view->kscf->shift->checked & (1 << pool))) {
        return "unchecked";
    }

    return peer->health.ready ? "ready" : "not_ready";
}


static const char *
ngx_http_kong_shift_peer_reason(ngx_kong_shift_peer_t *peer)
{
    if (peer->reason[0] == '\0' && !peer->health.ready) {
        return peer->health.checked ? "has not passed often enough"
                                    : "was not checked yet";
    }

    return peer->reason;
}


static json_t *
ngx_http_kong_shift_counters(ngx_kong_shift_pool_t *pool)
{
    return json_pack("{sI, sI, sI, sI, sI, sI, so, so, so, sI, sI, sI}",
                     "chosen", (json_int_t) pool->chosen,
                     "served", (json_int_t) pool->served,
                     "failed", (json_int_t) pool->failed,
                     "canceled", (json_int_t) pool->canceled,
                     "rescued", (json_int_t) pool->rescued,
                     "fallback", (json_int_t) pool->fallback,
                     "responses", ngx_http_kong_shift_classes(pool->responses),
                     "not_found",
                     ngx_http_kong_shift_by_origin(pool->not_found),
                     "errors", ngx_http_kong_shift_by_origin(pool->errors),
                     "connect_errors", (json_int_t) pool->connect_errors,
                     "suspected", (json_int_t) pool->suspected,
                     "wrong_version", (json_int_t) pool->wrong_version);
}


static json_t *
ngx_http_kong_shift_classes(uint64_t *responses)
{
    return json_pack("{sI, sI, sI, sI, sI}",
                     "1xx", (json_int_t) responses[1],
                     "2xx", (json_int_t) responses[2],
                     "3xx", (json_int_t) responses[3],
                     "4xx", (json_int_t) responses[4],
                     "5xx", (json_int_t) responses[5]);
}


static json_t *
ngx_http_kong_shift_by_origin(uint64_t *count)
{
    json_t      *json;
    ngx_uint_t   i;

    json = json_object();

    for (i = 0; i < NGX_KONG_SHIFT_ORIGINS; i++) {
        (void) json_object_set_new(json, ngx_http_kong_shift_origins[i],
                                   json_integer(count[i]));
    }

    return json;
}


static json_t *
ngx_http_kong_shift_versions(ngx_kong_shift_pool_t *pool)
{
    json_t                    *list;
    ngx_uint_t                 i;
    ngx_kong_shift_version_t  *v;

    list = json_array();

    for (i = 0; i < NGX_KONG_SHIFT_VERSIONS; i++) {
        v = &pool->version[i];

        if (v->text[0]) {
            (void) json_array_append_new(list,
                       json_pack("{so, sI}",
                                 "version", ngx_http_kong_shift_text(v->text),
                                 "responses", (json_int_t) v->responses));
        }
    }

    return list;
}


void
ngx_http_kong_shift_add_census(ngx_kong_shift_total_t *total,
    ngx_kong_shift_pool_e pool, json_t *json)
{
    (void) json_object_set_new(json, "active",
                               json_integer(total->active[pool]));
    (void) json_object_set_new(json, "oldest_ms",
                          ngx_http_kong_shift_age(total->oldest[pool]));
    (void) json_object_set_new(json, "long_lived",
                               json_integer(total->lasting[pool]));
    (void) json_object_set_new(json, "oldest_long_lived_ms",
                          ngx_http_kong_shift_age(total->oldest_lasting[pool]));
}


static json_t *
ngx_http_kong_shift_age(uint64_t start)
{
    int64_t  age;

    if (start == 0) {
        return json_null();
    }

    /* the clock of another worker may be a little ahead */

    age = (int64_t) (ngx_current_msec - start);

    return json_integer(ngx_max(age, 0));
}


/* it may be of a header or a path, which need not be UTF-8 */

static json_t *
ngx_http_kong_shift_text(const char *text)
{
    json_t  *json;

    json = json_string(text);

    return json ? json : json_string("?");
}


void
ngx_http_kong_shift_set_not_ready(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t                      *list;
    uint32_t                     n, ready;
    ngx_uint_t                   i;
    const char                  *state, *reason;
    ngx_kong_shift_peer_t       *peer;
    ngx_http_kong_shift_view_t  *view;

    ngx_kong_shift_count_peers(kscf->shift->record, NGX_KONG_SHIFT_NEW, &n,
                               &ready);

    ngx_http_kong_shift_set_problem(problem, "pool_not_ready",
        "%uD of %uD peers of \"%V\" %s ready, min_ready is %ui%%; "
        "\"force\": true overrides this", ready, n,
        &kscf->pool[NGX_KONG_SHIFT_NEW]->host, ready == 1 ? "is" : "are",
        kscf->shift->min_ready);

    view = ngx_alloc(sizeof(ngx_http_kong_shift_view_t), ngx_cycle->log);
    if (view == NULL) {
        return;
    }

    ngx_http_kong_shift_view(conf, kscf, view);

    list = json_array();

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &view->pool[NGX_KONG_SHIFT_NEW].peer[i];

        if (!peer->configured || peer->down) {
            continue;
        }

        state = ngx_http_kong_shift_peer_state(view, NGX_KONG_SHIFT_NEW,
                                               peer);
        if (ngx_strcmp(state, "ready") == 0) {
            continue;
        }

        reason = (state[0] == 'd') ? state
                                   : ngx_http_kong_shift_peer_reason(peer);

        (void) json_array_append_new(list,
                   json_pack("{so, so}",
                             "addr", ngx_http_kong_shift_text(peer->addr),
                             "reason", ngx_http_kong_shift_text(reason)));
    }

    problem->more = json_pack("{so}", "peers", list);

    ngx_free(view);
}
