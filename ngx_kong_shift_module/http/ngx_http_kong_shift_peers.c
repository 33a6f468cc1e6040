
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


/* in "down" of nginx: not ready or drained; "down" itself is 1 */

#define NGX_HTTP_KONG_SHIFT_DOWN   0x10000

/* a slow start needs steps between 0 and the usual weight of 1 */

#define NGX_HTTP_KONG_SHIFT_SCALE  100


static ngx_int_t ngx_http_kong_shift_init_pool_places(ngx_cycle_t *cycle,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);
static ngx_uint_t ngx_http_kong_shift_take_place(
    ngx_kong_shift_record_t *rec, ngx_kong_shift_pool_e pool,
    ngx_str_t *name);
static ngx_uint_t ngx_http_kong_shift_find_addr(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, ngx_str_t *name);
static void ngx_http_kong_shift_scale(ngx_http_upstream_rr_peers_t *peers);
static void ngx_http_kong_shift_refresh_drained(ngx_kong_shift_record_t *rec);
static void ngx_http_kong_shift_see_pools(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_t *shift, unsigned empty, unsigned fail_open);
static void ngx_http_kong_shift_refresh_pool(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_uint_t unchecked);
static void ngx_http_kong_shift_refresh_peer(
    ngx_http_upstream_rr_peer_t *peer, ngx_uint_t usable, ngx_int_t weight);
static ngx_uint_t ngx_http_kong_shift_is_dynamic(
    ngx_http_upstream_rr_peers_t *peers);
static void ngx_http_kong_shift_lock(ngx_http_upstream_rr_peers_t *peers);
static void ngx_http_kong_shift_unlock(ngx_http_upstream_rr_peers_t *peers);


ngx_int_t
ngx_http_kong_shift_init_places(ngx_cycle_t *cycle)
{
    ngx_uint_t                       i;
    ngx_http_upstream_srv_conf_t   **uscfp;
    ngx_http_upstream_main_conf_t   *umcf;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    umcf = ngx_http_cycle_get_module_main_conf(cycle,
                                               ngx_http_upstream_module);
    if (umcf == NULL) {
        return NGX_OK;
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

        if (ngx_http_kong_shift_init_pool_places(cycle, kscf,
                                                 NGX_KONG_SHIFT_OLD)
            != NGX_OK
            || ngx_http_kong_shift_init_pool_places(cycle, kscf,
                                                    NGX_KONG_SHIFT_NEW)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        kscf->conf = (ngx_kong_shift_conf_t *)
                         ngx_get_conf(cycle->conf_ctx, ngx_kong_shift_module);
        kscf->shift->refresh = ngx_http_kong_shift_refresh;
        kscf->shift->data = kscf;

        /* what was known before a reload holds from the first request on */

        ngx_http_kong_shift_refresh(kscf->shift);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_init_pool_places(ngx_cycle_t *cycle,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool)
{
    ngx_uint_t                     i, n;
    ngx_kong_shift_conf_t         *kcf;
    ngx_kong_shift_peer_t         *known;
    ngx_kong_shift_record_t       *rec;
    ngx_http_kong_shift_place_t   *place;
    ngx_http_upstream_rr_peer_t   *peer;
    ngx_http_upstream_rr_peers_t  *peers, *first;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                                 ngx_kong_shift_module);
    rec = kscf->shift->record;
    first = kscf->pool[pool]->peer.data;
    n = 0;

    for (peers = first; peers; peers = peers->next) {
        for (peer = peers->peer; peer; peer = peer->next) {
            n++;
        }
    }

    kscf->places[pool].elts = ngx_pcalloc(cycle->pool,
                                 n * sizeof(ngx_http_kong_shift_place_t) + 1);
    if (kscf->places[pool].elts == NULL) {
        return NGX_ERROR;
    }

    kscf->places[pool].dynamic = ngx_http_kong_shift_is_dynamic(first);

    if (kscf->check[pool].slow_start) {
        ngx_http_kong_shift_scale(first);
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        rec->pool[pool].peer[i].configured = 0;
    }

    for (peers = first; peers; peers = peers->next) {
        for (peer = peers->peer; peer; peer = peer->next) {

            place = &kscf->places[pool].elts[kscf->places[pool].nelts++];

            place->name = &peer->name;
            place->weight = peer->weight;
            place->place = ngx_http_kong_shift_take_place(rec, pool,
                                                          &peer->name);

            if (place->place == NGX_HTTP_KONG_SHIFT_NO_PLACE) {
                continue;
            }

            known = &rec->pool[pool].peer[place->place];

            known->down = (peer->down & ~NGX_HTTP_KONG_SHIFT_DOWN) != 0;
            known->backup = (peers != first);
        }
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return NGX_OK;
}


/*
 * A peer that was known keeps its place.  Old workers may still count at the
 * place of one that is gone, so it is the last to be given away.
 */

static ngx_uint_t
ngx_http_kong_shift_take_place(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, ngx_str_t *name)
{
    ngx_uint_t              i, spare;
    ngx_kong_shift_peer_t  *peer;

    i = ngx_http_kong_shift_find_addr(rec, pool, name);

    if (i != NGX_HTTP_KONG_SHIFT_NO_PLACE) {
        rec->pool[pool].peer[i].configured = 1;
        return i;
    }

    if (name->len >= NGX_KONG_SHIFT_ADDR_SIZE) {
        return NGX_HTTP_KONG_SHIFT_NO_PLACE;
    }

    spare = NGX_HTTP_KONG_SHIFT_NO_PLACE;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[pool].peer[i];

        if (peer->addr[0] == '\0') {
            spare = i;
            break;
        }

        if (spare == NGX_HTTP_KONG_SHIFT_NO_PLACE && !peer->configured) {
            spare = i;
        }
    }

    if (spare == NGX_HTTP_KONG_SHIFT_NO_PLACE) {
        return spare;
    }

    peer = &rec->pool[pool].peer[spare];

    ngx_memzero(peer, sizeof(ngx_kong_shift_peer_t));
    ngx_memcpy(peer->addr, name->data, name->len);
    ngx_kong_shift_init_health(&peer->health, pool);

    peer->configured = 1;

    return spare;
}


static ngx_uint_t
ngx_http_kong_shift_find_addr(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, ngx_str_t *name)
{
    ngx_uint_t              i;
    ngx_kong_shift_peer_t  *peer;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[pool].peer[i];

        if (ngx_strncmp(peer->addr, name->data, name->len) == 0
            && name->len < NGX_KONG_SHIFT_ADDR_SIZE
            && peer->addr[name->len] == '\0' && name->len)
        {
            return i;
        }
    }

    return NGX_HTTP_KONG_SHIFT_NO_PLACE;
}


ngx_uint_t
ngx_http_kong_shift_find_place(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, ngx_str_t *name)
{
    ngx_uint_t                     i;
    ngx_http_kong_shift_places_t  *places;

    places = &kscf->places[pool];

    if (places->dynamic) {
        return ngx_http_kong_shift_find_addr(kscf->shift->record, pool, name);
    }

    for (i = 0; i < places->nelts; i++) {
        if (places->elts[i].name == name) {
            return places->elts[i].place;
        }
    }

    return NGX_HTTP_KONG_SHIFT_NO_PLACE;
}


static void
ngx_http_kong_shift_scale(ngx_http_upstream_rr_peers_t *peers)
{
    ngx_http_upstream_rr_peer_t  *peer;

    for ( /* void */ ; peers; peers = peers->next) {

        for (peer = peers->peer; peer; peer = peer->next) {
            peer->weight *= NGX_HTTP_KONG_SHIFT_SCALE;
            peer->effective_weight *= NGX_HTTP_KONG_SHIFT_SCALE;
        }

        peers->total_weight *= NGX_HTTP_KONG_SHIFT_SCALE;
    }
}


void
ngx_http_kong_shift_refresh(ngx_kong_shift_t *shift)
{
    unsigned                         empty, fail_open;
    uint32_t                         n, ready[2];
    uint64_t                         word;
    ngx_uint_t                       pool, unchecked;
    ngx_kong_shift_conf_t           *kcf;
    ngx_kong_shift_record_t         *rec;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = shift->data;
    rec = shift->record;
    kcf = kscf->conf;

    ngx_http_kong_shift_refresh_drained(rec);

    word = __atomic_load_n(&rec->word, __ATOMIC_ACQUIRE);

    for (pool = 0; pool < 2; pool++) {
        ngx_kong_shift_count_peers(rec, pool, &n, &ready[pool]);
    }

    empty = ngx_kong_shift_empty(word, shift->gated, shift->checked, ready,
                                 &fail_open);

    for (pool = 0; pool < 2; pool++) {
        unchecked = !(shift->checked & (1 << pool))
                    || (pool == NGX_KONG_SHIFT_OLD && fail_open);

        ngx_http_kong_shift_refresh_pool(kscf, pool, unchecked);
    }

    if (rec->empty != empty || rec->fail_open != fail_open) {
        ngx_http_kong_shift_see_pools(kcf, shift, empty, fail_open);
    }
}


/* which peers are drained alone is part of the state */

static void
ngx_http_kong_shift_refresh_drained(ngx_kong_shift_record_t *rec)
{
    ngx_uint_t                  i, j, pool, drained;
    ngx_kong_shift_peer_t      *peer;
    ngx_kong_shift_drained_t   *d;
    ngx_kong_shift_snapshot_t   snap;

    ngx_kong_shift_read(rec, &snap);

    for (pool = 0; pool < 2; pool++) {
        for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {

            peer = &rec->pool[pool].peer[i];

            if (!peer->configured) {
                continue;
            }

            drained = 0;

            for (j = 0; j < NGX_KONG_SHIFT_DRAINED; j++) {
                d = &snap.state.peer[j];

                if (d->pool == pool && d->addr[0]
                    && ngx_strcmp(d->addr, peer->addr) == 0)
                {
                    drained = 1;
                    break;
                }
            }

            peer->drained = drained;
        }
    }
}


static void
ngx_http_kong_shift_see_pools(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_t *shift, unsigned empty, unsigned fail_open)
{
    ngx_uint_t                pool, level;
    ngx_kong_shift_record_t  *rec;

    static const char  *text[2][2] = {
        { "old has a ready peer again",
          "old has no ready peer, new takes its requests" },
        { "new has a ready peer again",
          "new has no ready peer, old takes its requests" }
    };

    static const char  *open[2] = {
        "old is used as checked again",
        "old has no ready peer and new may not take over, old is used as if "
        "it was not checked"
    };

    rec = shift->record;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    for (pool = 0; pool < 2; pool++) {
        if ((rec->empty ^ empty) & (1 << pool)) {
            ngx_kong_shift_see_locked(rec, NGX_KONG_SHIFT_SEE_FALLBACK,
                                      "check",
                                      text[pool][(empty >> pool) & 1]);
        }
    }

    if (rec->fail_open != fail_open) {
        ngx_kong_shift_see_locked(rec, NGX_KONG_SHIFT_SEE_FAIL_OPEN, "check",
                                  open[fail_open]);
    }

    rec->fail_open = fail_open;

    __atomic_store_n(&rec->empty, (uint64_t) empty, __ATOMIC_RELEASE);

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    level = (empty || fail_open) ? NGX_LOG_ERR : NGX_LOG_NOTICE;

    ngx_log_error(level, ngx_cycle->log, 0,
                  "kong_shift \"%V\": pools without a ready peer:%s%s%s%s",
                  &shift->name, (empty & 1) || fail_open ? " old" : "",
                  (empty & 2) ? " new" : "",
                  (empty || fail_open) ? "" : " none",
                  fail_open ? "; old is used as if it was not checked" : "");
}


static void
ngx_http_kong_shift_refresh_pool(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, ngx_uint_t unchecked)
{
    ngx_int_t                      weight;
    ngx_uint_t                     i, place;
    ngx_kong_shift_peer_t         *known;
    ngx_http_upstream_rr_peer_t   *peer;
    ngx_http_kong_shift_place_t   *elt;
    ngx_http_upstream_rr_peers_t  *peers, *first;

    if (!ngx_http_kong_shift_is_shared(kscf->pool[pool])) {
        return;
    }

    first = kscf->pool[pool]->peer.data;
    elt = kscf->places[pool].elts;
    i = 0;

    ngx_http_kong_shift_lock(first);

    for (peers = first; peers; peers = peers->next) {
        for (peer = peers->peer; peer; peer = peer->next, i++) {

            weight = 0;

            if (kscf->places[pool].dynamic) {
                place = ngx_http_kong_shift_find_addr(kscf->shift->record,
                                                      pool, &peer->name);
            } else {
                place = elt[i].place;
            }

            if (place == NGX_HTTP_KONG_SHIFT_NO_PLACE) {
                continue;
            }

            known = &kscf->shift->record->pool[pool].peer[place];

            if (kscf->check[pool].slow_start) {
                weight = elt[i].weight
                         * ngx_kong_shift_ramp(&known->health,
                                               kscf->check[pool].slow_start,
                                               ngx_current_msec)
                         / 100;
                weight = ngx_max(weight, 1);
            }

            ngx_http_kong_shift_refresh_peer(peer,
                                  (unchecked || known->health.ready)
                                  && !known->drained, weight);
        }
    }

    ngx_http_kong_shift_unlock(first);
}


/*
 * Each is one store of a word that only we write, so no lock of nginx is
 * taken, which a worker killed here would hold for ever.
 */

static void
ngx_http_kong_shift_refresh_peer(ngx_http_upstream_rr_peer_t *peer,
    ngx_uint_t usable, ngx_int_t weight)
{
    /* the weight first: one that comes back must not begin with all of it */

    if (weight) {

        if (peer->weight != weight) {
            peer->weight = weight;
        }

        if (peer->effective_weight > weight) {
            peer->effective_weight = weight;
        }
    }

    if (usable && (peer->down & NGX_HTTP_KONG_SHIFT_DOWN)) {

        /* what nginx has against it is older than what the checks say */

        peer->fails = 0;

        (void) __atomic_and_fetch(&peer->down,
                                  ~(ngx_uint_t) NGX_HTTP_KONG_SHIFT_DOWN,
                                  __ATOMIC_SEQ_CST);

    } else if (!usable && !(peer->down & NGX_HTTP_KONG_SHIFT_DOWN)) {
        (void) __atomic_or_fetch(&peer->down,
                                 (ngx_uint_t) NGX_HTTP_KONG_SHIFT_DOWN,
                                 __ATOMIC_SEQ_CST);
    }
}


ngx_uint_t
ngx_http_kong_shift_is_shared(ngx_http_upstream_srv_conf_t *us)
{
#if (NGX_HTTP_UPSTREAM_ZONE)
    return us->shm_zone != NULL;
#else
    return 0;
#endif
}


/* since 1.27.3 peers of a name that is resolved come and go */

static ngx_uint_t
ngx_http_kong_shift_is_dynamic(ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE && nginx_version >= 1027003)

    for ( /* void */ ; peers; peers = peers->next) {
        if (peers->resolve) {
            return 1;
        }
    }

#endif

    return 0;
}


static void
ngx_http_kong_shift_lock(ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE && nginx_version >= 1027003)

    if (ngx_http_kong_shift_is_dynamic(peers)) {
        ngx_http_upstream_rr_peers_rlock(peers);
    }

#endif
}


static void
ngx_http_kong_shift_unlock(ngx_http_upstream_rr_peers_t *peers)
{
#if (NGX_HTTP_UPSTREAM_ZONE && nginx_version >= 1027003)

    if (ngx_http_kong_shift_is_dynamic(peers)) {
        ngx_http_upstream_rr_peers_unlock(peers);
    }

#endif
}
