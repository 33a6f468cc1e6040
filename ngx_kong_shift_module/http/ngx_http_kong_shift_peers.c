
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


/* a slow start needs steps between 0 and the usual weight of 1 */

#define NGX_HTTP_KONG_SHIFT_SCALE  100


static void ngx_http_kong_shift_refresh_drained(ngx_kong_shift_record_t *rec);
static void ngx_http_kong_shift_see_pools(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_t *shift);
static void ngx_http_kong_shift_refresh_pool(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_uint_t unchecked);
static ngx_uint_t ngx_http_kong_shift_is_stuck(
    ngx_http_upstream_rr_peers_t *peers);
static ngx_uint_t ngx_http_kong_shift_is_drained_elsewhere(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_str_t *name);
static void ngx_http_kong_shift_refresh_peer(
    ngx_http_upstream_rr_peer_t *peer, ngx_uint_t usable, ngx_int_t weight);


void
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
    uint64_t                         word, reports;
    ngx_uint_t                       pool, unchecked;
    ngx_kong_shift_conf_t           *kcf;
    ngx_kong_shift_record_t         *rec;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = shift->data;
    rec = shift->record;
    kcf = kscf->conf;

    if (kcf->reload != kcf->sh->reloads) {

        /* what is checked, and how, was before the last reload */

        ngx_http_kong_shift_follow(shift);
        return;
    }

    do {
        word = __atomic_load_n(&rec->word, __ATOMIC_ACQUIRE);
        reports = __atomic_load_n(&rec->reports, __ATOMIC_ACQUIRE);

        ngx_http_kong_shift_refresh_drained(rec);

        for (pool = 0; pool < 2; pool++) {
            ngx_kong_shift_count_peers(rec, pool, &n, &ready[pool]);
        }

        empty = ngx_kong_shift_empty(word, shift->gated, shift->checked,
                                     ready, &fail_open);

        for (pool = 0; pool < 2; pool++) {
            unchecked = !(shift->checked & (1 << pool))
                        || (fail_open & (1 << pool));

            ngx_http_kong_shift_refresh_pool(kscf, pool, unchecked);
        }

        /* another worker may have been faster with something newer */

    } while (word != __atomic_load_n(&rec->word, __ATOMIC_SEQ_CST)
             || reports != __atomic_load_n(&rec->reports, __ATOMIC_SEQ_CST));

    if (rec->empty != empty || rec->fail_open != fail_open) {
        ngx_http_kong_shift_see_pools(kcf, shift);
    }
}


void
ngx_http_kong_shift_follow(ngx_kong_shift_t *shift)
{
    ngx_uint_t  pool, unchecked;

    for (pool = 0; pool < 2; pool++) {
        unchecked = !(shift->checked & (1 << pool))
                    || (shift->record->fail_open & (1 << pool));

        ngx_http_kong_shift_refresh_pool(shift->data, pool, unchecked);
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
    ngx_kong_shift_t *shift)
{
    unsigned                  empty, fail_open;
    uint32_t                  n, ready[2];
    ngx_uint_t                pool, level, changed;
    ngx_kong_shift_record_t  *rec;

    static const char  *text[2][2] = {
        { "old has a ready peer again",
          "old has no ready peer, new takes its requests" },
        { "new has a ready peer again",
          "new has no ready peer, old takes its requests" }
    };

    static const char  *open[2][2] = {
        { "old is used as checked again",
          "old has no ready peer and new may not take over, old is used as if "
          "it was not checked" },
        { "new is used as checked again",
          "new has no ready peer and old is drained, new is used as if it was "
          "not checked" }
    };

    rec = shift->record;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    /* once more, as it may have changed; one of several tells of it */

    for (pool = 0; pool < 2; pool++) {
        ngx_kong_shift_count_peers(rec, pool, &n, &ready[pool]);
    }

    empty = ngx_kong_shift_empty(rec->word, shift->gated, shift->checked,
                                 ready, &fail_open);

    changed = (rec->empty != empty || rec->fail_open != fail_open);

    for (pool = 0; pool < 2; pool++) {
        if ((rec->empty ^ empty) & (1 << pool)) {
            ngx_kong_shift_see_locked(rec, NGX_KONG_SHIFT_SEE_FALLBACK,
                                      "check",
                                      text[pool][(empty >> pool) & 1]);
        }

        if ((rec->fail_open ^ fail_open) & (1 << pool)) {
            ngx_kong_shift_see_locked(rec, NGX_KONG_SHIFT_SEE_FAIL_OPEN,
                                      "check",
                                      open[pool][(fail_open >> pool) & 1]);
        }
    }

    rec->fail_open = fail_open;

    __atomic_store_n(&rec->empty, (uint64_t) empty, __ATOMIC_RELEASE);

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    if (!changed || ngx_test_config) {
        return;
    }

    /* new without a weight may be empty: it is still to come */

    level = (fail_open || (empty & (1 << NGX_KONG_SHIFT_OLD))
             || (empty && ngx_kong_shift_effective(rec->word, shift->gated)))
            ? NGX_LOG_ERR : NGX_LOG_NOTICE;

    ngx_log_error(level, ngx_cycle->log, 0,
                  "kong_shift \"%V\": pools without a ready peer:%s%s%s%s",
                  &shift->name, ((empty | fail_open) & 1) ? " old" : "",
                  ((empty | fail_open) & 2) ? " new" : "",
                  (empty || fail_open) ? "" : " none",
                  fail_open ? "; it is used as if it was not checked" : "");
}


static void
ngx_http_kong_shift_refresh_pool(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, ngx_uint_t unchecked)
{
    ngx_int_t                      weight;
    ngx_uint_t                     i, place, dynamic, stuck;
    ngx_kong_shift_peer_t         *known;
    ngx_kong_shift_record_t       *rec;
    ngx_http_upstream_rr_peer_t   *peer;
    ngx_http_kong_shift_place_t   *elt;
    ngx_http_upstream_rr_peers_t  *peers;

    if (!ngx_http_kong_shift_is_shared(kscf->pool[pool])) {
        return;
    }

    rec = kscf->shift->record;
    elt = kscf->places[pool].elts;
    i = 0;

    for (peers = kscf->pool[pool]->peer.data; peers; peers = peers->next) {

        dynamic = kscf->places[pool].dynamic;

        if (dynamic) {
            ngx_http_kong_shift_lock(peers);
        }

        stuck = ngx_http_kong_shift_is_stuck(peers);

        for (peer = peers->peer; peer; peer = peer->next, i++) {

            weight = 0;

            place = dynamic ? ngx_http_kong_shift_find_addr(rec, pool,
                                                            &peer->name)
                            : elt[i].place;

            if (place == NGX_HTTP_KONG_SHIFT_NO_PLACE) {
                continue;
            }

            known = &rec->pool[pool].peer[place];

            if (!known->configured
                || !ngx_http_kong_shift_is_addr(known, &peer->name))
            {
                /* this worker is old: its peer has gone, or its place has */

                continue;
            }

            if (kscf->check[pool].slow_start) {
                weight = elt[i].weight
                         * ngx_kong_shift_ramp(&known->health,
                                               kscf->check[pool].slow_start,
                                               ngx_current_msec)
                         / 100;
                weight = ngx_max(weight, 1);
            }

            if (known->health.ready && known->health.fails == 0
                && ((stuck && known->checked > peer->checked)
                    || (!dynamic && !elt[i].ready)))
            {
                /* a check has passed since */

                peer->fails = 0;
            }

            if (!dynamic) {
                elt[i].ready = known->health.ready;
            }

            ngx_http_kong_shift_refresh_peer(peer,
                                  (unchecked || known->health.ready)
                                  && !known->drained
                                  && !ngx_http_kong_shift_is_drained_elsewhere(
                                                   kscf, pool, &peer->name),
                                  weight);
        }

        if (dynamic) {
            ngx_http_kong_shift_unlock(peers);
        }
    }
}


/* a pool that two shifts share has its peers but once */

static ngx_uint_t
ngx_http_kong_shift_is_drained_elsewhere(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, ngx_str_t *name)
{
    ngx_uint_t                        i, p, place;
    ngx_kong_shift_t                **shift;
    ngx_http_kong_shift_srv_conf_t   *other;

    shift = kscf->conf->shifts.elts;

    for (i = 0; i < kscf->conf->shifts.nelts; i++) {

        other = shift[i]->data;

        if (other == NULL || other == kscf) {
            continue;
        }

        for (p = 0; p < 2; p++) {

            if (other->pool[p] != kscf->pool[pool]) {
                continue;
            }

            place = ngx_http_kong_shift_find_addr(shift[i]->record, p, name);

            if (place != NGX_HTTP_KONG_SHIFT_NO_PLACE
                && shift[i]->record->pool[p].peer[place].drained)
            {
                return 1;
            }
        }
    }

    return 0;
}


/*
 * Whether nginx would use none of them, as all that may be used have failed
 * of late: then the checks know better than "fail_timeout" what works again.
 */

static ngx_uint_t
ngx_http_kong_shift_is_stuck(ngx_http_upstream_rr_peers_t *peers)
{
    ngx_http_upstream_rr_peer_t  *peer;

    if (peers->single) {
        return 0;
    }

    for (peer = peers->peer; peer; peer = peer->next) {

        if (peer->down == 0
            && (peer->max_fails == 0 || peer->fails < peer->max_fails))
        {
            return 0;
        }
    }

    return 1;
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

        /*
         * One that fails has less effective weight than that, and gets it
         * back by and by.  nginx may change it at the same time, but only by
         * a little, and soon sets it right.
         */

        if (peer->effective_weight > weight
            || peer->effective_weight == peer->weight)
        {
            peer->effective_weight = weight;
        }

        peer->weight = weight;
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
