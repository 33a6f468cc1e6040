
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static ngx_int_t ngx_http_kong_shift_init_pool_places(ngx_cycle_t *cycle,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);
static void ngx_http_kong_shift_leave_places(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool);
static void ngx_http_kong_shift_forget_left(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool);
static void ngx_http_kong_shift_init_pool_health(
    ngx_kong_shift_record_t *rec, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, ngx_kong_shift_pool_e as);
static ngx_uint_t ngx_http_kong_shift_was_new_in_use(ngx_cycle_t *cycle,
    ngx_kong_shift_t *shift);
static ngx_uint_t ngx_http_kong_shift_take_place(
    ngx_kong_shift_record_t *rec, ngx_kong_shift_pool_e pool,
    ngx_str_t *name);


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
        kscf->checked = kscf->shift->checked;
        kscf->record = kscf->shift->record;
        kscf->shared[NGX_KONG_SHIFT_OLD] =
                                    &kscf->record->pool[NGX_KONG_SHIFT_OLD];
        kscf->shared[NGX_KONG_SHIFT_NEW] =
                                    &kscf->record->pool[NGX_KONG_SHIFT_NEW];
        kscf->census = &kscf->record->census[kscf->conf->row];
        kscf->shift->refresh = ngx_http_kong_shift_refresh;
        kscf->shift->data = kscf;

        /* what was known before a reload holds from the first request on */

        ngx_http_kong_shift_refresh(kscf->shift);
    }

    if (ngx_process == NGX_PROCESS_SINGLE
        && !ngx_is_init_cycle(cycle->old_cycle))
    {
        /*
         * Without a master nginx gives no connections to a new cycle, and
         * frees the old one some time later.
         */

        ngx_http_kong_shift_end_checks(cycle->old_cycle);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_init_pool_places(ngx_cycle_t *cycle,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool)
{
    ngx_uint_t                     n;
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

    /* one more, without a name: the first is looked at in any case */

    kscf->places[pool].elts = ngx_pcalloc(cycle->pool,
                               (n + 1) * sizeof(ngx_http_kong_shift_place_t));
    if (kscf->places[pool].elts == NULL) {
        return NGX_ERROR;
    }

    kscf->places[pool].dynamic = ngx_http_kong_shift_is_dynamic(first);

    if (kscf->check[pool].slow_start) {
        ngx_http_kong_shift_scale(first);
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    ngx_http_kong_shift_leave_places(rec, pool);

    for (peers = first; peers; peers = peers->next) {
        for (peer = peers->peer; peer; peer = peer->next) {

            place = &kscf->places[pool].elts[kscf->places[pool].nelts++];

            place->name = kscf->places[pool].dynamic ? NULL : &peer->name;
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

    ngx_http_kong_shift_forget_left(rec, pool);
    ngx_http_kong_shift_init_pool_health(rec, kscf, pool,
                   ngx_http_kong_shift_was_new_in_use(cycle, kscf->shift)
                   ? NGX_KONG_SHIFT_OLD : pool);

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return NGX_OK;
}


/*
 * After a restart, and in the new binary of an upgrade, a weight that was set
 * at run time says that new was in use.  It is not taken out of use until its
 * checks have passed: old may long be stopped.
 */

static ngx_uint_t
ngx_http_kong_shift_was_new_in_use(ngx_cycle_t *cycle,
    ngx_kong_shift_t *shift)
{
    uint64_t  word;

    word = shift->record->word;

    return ngx_is_init_cycle(cycle->old_cycle)
           && ngx_kong_shift_word_generation(word) > 1
           && ngx_kong_shift_effective(word, shift->gated) > 0;
}


/* "as" is the pool whose peers start as these do */

static void
ngx_http_kong_shift_init_pool_health(ngx_kong_shift_record_t *rec,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_kong_shift_pool_e as)
{
    ngx_uint_t              i;
    ngx_kong_shift_peer_t  *peer;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[pool].peer[i];

        if (!kscf->check[pool].set) {

            /* what is known will be too old when they are checked again */

            peer->health.checked = 0;

        } else if (!peer->health.checked) {
            ngx_kong_shift_init_health(&peer->health, as);

            ngx_cpystrn((u_char *) peer->reason,
                        (u_char *) "not checked yet",
                        NGX_KONG_SHIFT_REASON_SIZE);
        }
    }
}


/* until it is seen again, each peer has left */

static void
ngx_http_kong_shift_leave_places(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        rec->pool[pool].peer[i].configured = 0;
    }
}


/* what was once known of a peer does not hold when it comes again */

static void
ngx_http_kong_shift_forget_left(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool)
{
    ngx_uint_t              i;
    ngx_kong_shift_peer_t  *peer;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[pool].peer[i];

        if (!peer->configured) {
            ngx_kong_shift_init_health(&peer->health, pool);

            peer->reason[0] = '\0';
            peer->hash[0] = '\0';
            peer->checked = 0;
        }
    }
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


ngx_uint_t
ngx_http_kong_shift_find_addr(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, ngx_str_t *name)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        if (ngx_http_kong_shift_is_addr(&rec->pool[pool].peer[i], name)) {
            return i;
        }
    }

    return NGX_HTTP_KONG_SHIFT_NO_PLACE;
}


ngx_uint_t
ngx_http_kong_shift_is_addr(ngx_kong_shift_peer_t *peer, ngx_str_t *name)
{
    return name->len && name->len < NGX_KONG_SHIFT_ADDR_SIZE
           && ngx_strncmp(peer->addr, name->data, name->len) == 0
           && peer->addr[name->len] == '\0';
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


ngx_uint_t
ngx_http_kong_shift_is_shared(ngx_http_upstream_srv_conf_t *us)
{
#if (NGX_HTTP_UPSTREAM_ZONE)
    return us->shm_zone != NULL;
#else
    return 0;
#endif
}


/*
 * Each list has a lock of its own.  The number of tries is that of peers which
 * are not down, and counted up and down by nginx as they come and go; for what
 * we have set in between it is counted here.
 */

void
ngx_http_kong_shift_update_places(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
#if (NGX_HTTP_UPSTREAM_ZONE && nginx_version >= 1027003)

    u_char                         seen[NGX_KONG_SHIFT_PEERS];
    ngx_uint_t                     i, tries, place;
    ngx_slab_pool_t               *shpool;
    ngx_kong_shift_peer_t         *known;
    ngx_kong_shift_record_t       *rec;
    ngx_http_upstream_rr_peer_t   *peer;
    ngx_http_upstream_rr_peers_t  *peers, *first;

    rec = kscf->shift->record;
    shpool = kscf->conf->shpool;
    first = kscf->pool[pool]->peer.data;

    ngx_memzero(seen, sizeof(seen));

    for (peers = first; peers; peers = peers->next) {

        tries = 0;

        ngx_http_upstream_rr_peers_wlock(peers);

        /* a new peer of new is not ready, and gets nothing from the start */

        for (peer = peers->resolve; peer; peer = peer->next) {
            if (pool == NGX_KONG_SHIFT_NEW && kscf->check[pool].set) {
                peer->down |= NGX_HTTP_KONG_SHIFT_DOWN;
            }
        }

        for (peer = peers->peer; peer; peer = peer->next) {
            tries += ((peer->down & ~NGX_HTTP_KONG_SHIFT_DOWN) == 0);

            ngx_shmtx_lock(&shpool->mutex);

            place = ngx_http_kong_shift_take_place(rec, pool, &peer->name);

            if (place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {
                known = &rec->pool[pool].peer[place];

                known->down = (peer->down & ~NGX_HTTP_KONG_SHIFT_DOWN) != 0;
                known->backup = (peers != first);
                seen[place] = 1;
            }

            ngx_shmtx_unlock(&shpool->mutex);
        }

        peers->tries = tries;

        ngx_http_upstream_rr_peers_unlock(peers);
    }

    ngx_shmtx_lock(&shpool->mutex);

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        rec->pool[pool].peer[i].configured = seen[i];
    }

    ngx_http_kong_shift_forget_left(rec, pool);

    ngx_shmtx_unlock(&shpool->mutex);

#endif
}


/* since 1.27.3 peers of a name that is resolved come and go */

ngx_uint_t
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
