
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


/*
 * Each worker looks this often whether it is the one to check, and the one
 * that is brings the peers to what is known of them.
 */
#define NGX_HTTP_KONG_SHIFT_TICK    250

/*
 * It looks this often for peers that are to be checked at once; that far apart
 * are the checks of one that is, and of one whose 404s are known to be true.
 */
#define NGX_HTTP_KONG_SHIFT_LOOK    50
#define NGX_HTTP_KONG_SHIFT_APART   100
#define NGX_HTTP_KONG_SHIFT_RENEW   400

/* a worker that does not answer is replaced */

#define NGX_HTTP_KONG_SHIFT_LEASE   2000

/* checks that are due together begin this far apart */

#define NGX_HTTP_KONG_SHIFT_SPREAD  5


static void ngx_http_kong_shift_tick(ngx_event_t *ev);
static ngx_uint_t ngx_http_kong_shift_is_current(ngx_kong_shift_conf_t *kcf);
static ngx_uint_t ngx_http_kong_shift_lease(
    ngx_http_kong_shift_checks_t *checks);
static void ngx_http_kong_shift_stop_targets(
    ngx_http_kong_shift_checks_t *checks);
static void ngx_http_kong_shift_release(ngx_http_kong_shift_checks_t *checks);
static void ngx_http_kong_shift_follow_all(
    ngx_http_kong_shift_checks_t *checks);
static void ngx_http_kong_shift_update(ngx_http_kong_shift_checks_t *checks);
static void ngx_http_kong_shift_update_targets(
    ngx_http_kong_shift_checks_t *checks,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool);
static ngx_http_kong_shift_server_t *ngx_http_kong_shift_find_target(
    ngx_http_kong_shift_checks_t *checks,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_str_t *name);
static void ngx_http_kong_shift_add_target(
    ngx_http_kong_shift_checks_t *checks,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_http_upstream_rr_peer_t *peer, ngx_uint_t n);
static void ngx_http_kong_shift_free_target(
    ngx_http_kong_shift_server_t *target);
static void ngx_http_kong_shift_check_target(ngx_event_t *ev);
static void ngx_http_kong_shift_check_suspects(
    ngx_http_kong_shift_checks_t *checks);
static void ngx_http_kong_shift_begin_check(
    ngx_http_kong_shift_server_t *target);


ngx_int_t
ngx_http_kong_shift_init_checks(ngx_cycle_t *cycle)
{
    ngx_event_t                      *ev;
    ngx_kong_shift_conf_t            *kcf;
    ngx_http_kong_shift_checks_t     *checks;
    ngx_http_kong_shift_main_conf_t  *ksmcf;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                                 ngx_kong_shift_module);
    ksmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_kong_shift_module);

    if (ksmcf == NULL || kcf->shm_zone == NULL) {
        return NGX_OK;
    }

    checks = ngx_pcalloc(cycle->pool, sizeof(ngx_http_kong_shift_checks_t));

    if (checks == NULL) {

        /* an error would end the worker for good */

        ngx_log_error(NGX_LOG_ALERT, cycle->log, 0,
                      "no memory for the kong_shift checks, this worker "
                      "leaves them to others");
        return NGX_OK;
    }

    checks->kcf = kcf;

    /*
     * What a check finds is told once, not with each of them, so that nginx
     * itself is to be silent about their connections.
     */

    checks->log = *cycle->log;

    if (checks->log.log_level < NGX_LOG_DEBUG) {
        checks->log.log_level = ngx_min(checks->log.log_level, NGX_LOG_ALERT);
    }

    checks->dumb.fd = (ngx_socket_t) -1;
    checks->dumb.data = checks;

    ev = &checks->event;

    ev->handler = ngx_http_kong_shift_tick;
    ev->log = cycle->log;
    ev->data = &checks->dumb;
    ev->cancelable = 1;

    ksmcf->checks = checks;

    ngx_add_timer(ev, 1);

    return NGX_OK;
}


void
ngx_http_kong_shift_end_checks(ngx_cycle_t *cycle)
{
    ngx_http_kong_shift_checks_t     *checks;
    ngx_http_kong_shift_main_conf_t  *ksmcf;

    ksmcf = ngx_http_cycle_get_module_main_conf(cycle,
                                                ngx_http_kong_shift_module);

    if (ksmcf == NULL || ksmcf->checks == NULL) {
        return;
    }

    checks = ksmcf->checks;
    ksmcf->checks = NULL;

    ngx_http_kong_shift_release(checks);

    if (checks->event.timer_set) {
        ngx_del_timer(&checks->event);
    }
}


static void
ngx_http_kong_shift_tick(ngx_event_t *ev)
{
    ngx_connection_t              *dumb;
    ngx_http_kong_shift_checks_t  *checks;

    dumb = ev->data;
    checks = dumb->data;

    ngx_add_timer(ev, checks->targets ? NGX_HTTP_KONG_SHIFT_LOOK
                                      : NGX_HTTP_KONG_SHIFT_TICK);

    if (checks->targets
        && ngx_current_msec - checks->ticked < NGX_HTTP_KONG_SHIFT_TICK)
    {
        ngx_http_kong_shift_check_suspects(checks);
        return;
    }

    checks->ticked = ngx_current_msec;

    if (ngx_terminate || ngx_exiting
        || !ngx_http_kong_shift_is_current(checks->kcf))
    {
        ngx_http_kong_shift_release(checks);
        ngx_http_kong_shift_follow_all(checks);
        return;
    }

    if (ngx_http_kong_shift_lease(checks)) {
        ngx_http_kong_shift_update(checks);
        ngx_http_kong_shift_check_suspects(checks);

    } else {
        ngx_http_kong_shift_release(checks);
    }
}


/* the workers of the last configuration alone know what is to be checked */

static ngx_uint_t
ngx_http_kong_shift_is_current(ngx_kong_shift_conf_t *kcf)
{
    return !ngx_kong_shift_is_replaced(kcf)
           && kcf->sh->reloads == kcf->reload;
}


static ngx_uint_t
ngx_http_kong_shift_lease(ngx_http_kong_shift_checks_t *checks)
{
    ngx_uint_t               expired, mine;
    ngx_kong_shift_conf_t   *kcf;
    ngx_kong_shift_shctx_t  *sh;

    kcf = checks->kcf;
    sh = kcf->sh;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    expired = ((ngx_msec_int_t) (sh->checker_expires - ngx_current_msec) <= 0);
    mine = (checks->checking && sh->checker == ngx_pid && !expired);

    if (mine || expired || sh->checker == 0 || sh->checker == ngx_pid
        || !ngx_kong_shift_is_alive(sh->checker))
    {
        sh->checker = ngx_pid;
        sh->checker_expires = ngx_current_msec + NGX_HTTP_KONG_SHIFT_LEASE;

        ngx_shmtx_unlock(&kcf->shpool->mutex);

        if (!mine) {

            /* what began before tells more of this worker than of the peers */

            ngx_http_kong_shift_stop_targets(checks);
        }

        checks->checking = 1;

        return 1;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return 0;
}


ngx_uint_t
ngx_http_kong_shift_holds(ngx_http_kong_shift_checks_t *checks)
{
    ngx_kong_shift_shctx_t  *sh;

    sh = checks->kcf->sh;

    return checks->checking && sh->checker == ngx_pid
           && (ngx_msec_int_t) (sh->checker_expires - ngx_current_msec) > 0
           && ngx_http_kong_shift_is_current(checks->kcf);
}


static void
ngx_http_kong_shift_stop_targets(ngx_http_kong_shift_checks_t *checks)
{
    ngx_http_kong_shift_server_t  *target;

    while (checks->targets) {
        target = checks->targets;
        checks->targets = target->next;

        ngx_http_kong_shift_free_target(target);
    }
}


static void
ngx_http_kong_shift_release(ngx_http_kong_shift_checks_t *checks)
{
    ngx_kong_shift_conf_t  *kcf;

    if (!checks->checking) {
        return;
    }

    kcf = checks->kcf;
    checks->checking = 0;

    ngx_http_kong_shift_stop_targets(checks);

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (kcf->sh->checker == ngx_pid) {
        kcf->sh->checker = 0;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);
}


static void
ngx_http_kong_shift_follow_all(ngx_http_kong_shift_checks_t *checks)
{
    ngx_uint_t          i;
    ngx_kong_shift_t  **shift;

    shift = checks->kcf->shifts.elts;

    for (i = 0; i < checks->kcf->shifts.nelts; i++) {
        if (shift[i]->refresh == ngx_http_kong_shift_refresh) {
            ngx_http_kong_shift_follow(shift[i]);
        }
    }
}


static void
ngx_http_kong_shift_update(ngx_http_kong_shift_checks_t *checks)
{
    ngx_uint_t                        i, pool;
    ngx_kong_shift_t                **shift;
    ngx_http_kong_shift_srv_conf_t   *kscf;

    shift = checks->kcf->shifts.elts;

    for (i = 0; i < checks->kcf->shifts.nelts; i++) {

        if (shift[i]->refresh != ngx_http_kong_shift_refresh) {
            continue;
        }

        kscf = shift[i]->data;

        for (pool = 0; pool < 2; pool++) {

            if (kscf->places[pool].dynamic) {
                ngx_http_kong_shift_update_places(kscf, pool);
            }

            if (shift[i]->checked & (1 << pool)) {
                ngx_http_kong_shift_update_targets(checks, kscf, pool);
            }
        }

        ngx_http_kong_shift_refresh(shift[i]);
    }
}


static void
ngx_http_kong_shift_update_targets(ngx_http_kong_shift_checks_t *checks,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool)
{
    ngx_uint_t                      n, dynamic;
    ngx_http_upstream_rr_peer_t    *peer;
    ngx_http_upstream_rr_peers_t   *peers;
    ngx_http_kong_shift_server_t   *target, **targetp;

    dynamic = kscf->places[pool].dynamic;
    n = 0;

    for (target = checks->targets; target; target = target->next) {

        if (target->kscf == kscf && target->pool == pool) {

            if (!dynamic) {
                return;
            }

            target->seen = 0;
        }
    }

    for (peers = kscf->pool[pool]->peer.data; peers; peers = peers->next) {

        if (dynamic) {
            ngx_http_kong_shift_lock(peers);
        }

        for (peer = peers->peer; peer; peer = peer->next) {

            if (peer->down & 1) {
                continue;
            }

            target = ngx_http_kong_shift_find_target(checks, kscf, pool,
                                                     &peer->name);
            if (target) {
                target->seen = 1;

            } else {
                ngx_http_kong_shift_add_target(checks, kscf, pool, peer, n++);
            }
        }

        if (dynamic) {
            ngx_http_kong_shift_unlock(peers);
        }
    }

    targetp = &checks->targets;

    while (*targetp) {
        target = *targetp;

        if (target->kscf == kscf && target->pool == pool && !target->seen) {
            *targetp = target->next;
            ngx_http_kong_shift_free_target(target);

        } else {
            targetp = &target->next;
        }
    }
}


static ngx_http_kong_shift_server_t *
ngx_http_kong_shift_find_target(ngx_http_kong_shift_checks_t *checks,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_str_t *name)
{
    ngx_http_kong_shift_server_t  *target;

    for (target = checks->targets; target; target = target->next) {

        if (target->kscf == kscf && target->pool == pool
            && target->probe.name.len == name->len
            && ngx_strncmp(target->name, name->data, name->len) == 0)
        {
            return target;
        }
    }

    return NULL;
}


static void
ngx_http_kong_shift_add_target(ngx_http_kong_shift_checks_t *checks,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_http_upstream_rr_peer_t *peer, ngx_uint_t n)
{
    uint32_t                       passed;
    ngx_msec_t                     delay;
    ngx_uint_t                     place;
    ngx_http_kong_shift_probe_t   *probe;
    ngx_http_kong_shift_check_t   *check;
    ngx_http_kong_shift_server_t  *target;

    check = &kscf->check[pool];

    place = ngx_http_kong_shift_find_place(kscf, pool, &peer->name);

    if (place == NGX_HTTP_KONG_SHIFT_NO_PLACE
        || peer->name.len >= NGX_KONG_SHIFT_ADDR_SIZE
        || peer->socklen > (socklen_t) sizeof(ngx_sockaddr_t))
    {
        return;
    }

    target = ngx_calloc(sizeof(ngx_http_kong_shift_server_t),
                        ngx_cycle->log);
    if (target == NULL) {
        return;
    }

    target->checks = checks;
    target->kscf = kscf;
    target->pool = pool;
    target->place = place;
    target->seen = 1;

    ngx_memcpy(target->name, peer->name.data, peer->name.len);

    probe = &target->probe;

    probe->check = check;
    probe->socklen = peer->socklen;
    probe->name.data = target->name;
    probe->name.len = peer->name.len;
    probe->log = &checks->log;
    probe->handler = ngx_http_kong_shift_checked;
    probe->data = target;

    ngx_memcpy(&probe->sockaddr, peer->sockaddr, peer->socklen);

    if (check->port) {
        ngx_inet_set_port(&probe->sockaddr.sockaddr, check->port);
    }

    target->dumb.fd = (ngx_socket_t) -1;
    target->dumb.data = target;

    target->timer.handler = ngx_http_kong_shift_check_target;
    target->timer.log = &checks->log;
    target->timer.data = &target->dumb;
    target->timer.cancelable = 1;

    /*
     * A reload or another worker goes on where the last one was.  Hashes are
     * compared, so that those checks are to begin together.
     */

    passed = (uint32_t) ngx_current_msec
             - kscf->shift->record->pool[pool].peer[place].started;

    if (passed < check->interval) {
        delay = check->interval - passed;

    } else {
        delay = check->config_hash
                ? 0
                : n * NGX_HTTP_KONG_SHIFT_SPREAD % (check->interval / 4);
    }

    target->next = checks->targets;
    checks->targets = target;

    ngx_add_timer(&target->timer, delay);
}


static void
ngx_http_kong_shift_free_target(ngx_http_kong_shift_server_t *target)
{
    ngx_http_kong_shift_stop_probe(&target->probe);

    if (target->timer.timer_set) {
        ngx_del_timer(&target->timer);
    }

    ngx_free(target);
}


static void
ngx_http_kong_shift_check_target(ngx_event_t *ev)
{
    ngx_connection_t              *dumb;
    ngx_kong_shift_peer_t         *known;
    ngx_http_kong_shift_server_t  *target;

    dumb = ev->data;
    target = dumb->data;

    if (ngx_terminate || ngx_exiting) {
        return;
    }

    if (!ngx_http_kong_shift_holds(target->checks)) {

        /* this worker was stopped meanwhile; its next tick clears up */

        ngx_add_timer(ev, target->probe.check->interval);
        return;
    }

    known = &target->kscf->shift->record->pool[target->pool]
                                         .peer[target->place];

    known->started = (uint32_t) ngx_current_msec;

    /* one that a 404 has caused may be under way, and serves as well */

    if (!target->busy
        || ngx_current_msec - target->began >= target->probe.check->timeout)
    {
        ngx_http_kong_shift_begin_check(target);
    }

    /* the timer of the probe is to be the first when both are due at once */

    ngx_add_timer(ev, target->probe.check->interval);
}


/* those that sent a 404 are not given time until their next regular check */

static void
ngx_http_kong_shift_check_suspects(ngx_http_kong_shift_checks_t *checks)
{
    ngx_msec_t                     apart;
    ngx_kong_shift_peer_t         *known;
    ngx_http_kong_shift_server_t  *target;

    if (ngx_terminate || ngx_exiting || !ngx_http_kong_shift_holds(checks)) {
        return;
    }

    for (target = checks->targets; target; target = target->next) {

        known = &target->kscf->shift->record->pool[target->pool]
                                             .peer[target->place];

        if (!known->suspected || target->busy) {
            continue;
        }

        apart = ngx_http_kong_shift_is_honest(known)
                ? NGX_HTTP_KONG_SHIFT_RENEW : NGX_HTTP_KONG_SHIFT_APART;

        if (ngx_current_msec - target->began >= apart) {
            ngx_http_kong_shift_begin_check(target);
        }
    }
}


static void
ngx_http_kong_shift_begin_check(ngx_http_kong_shift_server_t *target)
{
    ngx_kong_shift_peer_t  *known;

    if (target->busy) {
        ngx_http_kong_shift_expire_probe(&target->probe);
    }

    if (target->waiting) {
        ngx_http_kong_shift_judge(target);
    }

    known = &target->kscf->shift->record->pool[target->pool]
                                         .peer[target->place];

    /* what it sends from here on is later than the check */

    target->suspected = __atomic_exchange_n(&known->suspected, 0,
                                            __ATOMIC_SEQ_CST);
    target->began = ngx_current_msec;
    target->busy = 1;

    ngx_http_kong_shift_start_probe(&target->probe);
}
