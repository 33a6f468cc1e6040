
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


/* events of one peer: so many within so many milliseconds */

#define NGX_HTTP_KONG_SHIFT_TELLS      10
#define NGX_HTTP_KONG_SHIFT_TELL_TIME  60000


static void ngx_http_kong_shift_judge_waiting(
    ngx_http_kong_shift_server_t *target);
static ngx_uint_t ngx_http_kong_shift_is_busy(
    ngx_http_kong_shift_server_t *target);
static ngx_uint_t ngx_http_kong_shift_agrees(
    ngx_http_kong_shift_server_t *target);
static void ngx_http_kong_shift_note_result(
    ngx_http_kong_shift_server_t *target, ngx_kong_shift_peer_t *known,
    ngx_uint_t passed);
static void ngx_http_kong_shift_see_peer_locked(
    ngx_http_kong_shift_server_t *target, ngx_kong_shift_peer_t *known);


void
ngx_http_kong_shift_checked(ngx_http_kong_shift_probe_t *probe)
{
    ngx_kong_shift_peer_t         *known;
    ngx_kong_shift_conf_t         *kcf;
    ngx_http_kong_shift_server_t  *target;

    target = probe->data;
    target->busy = 0;
    kcf = target->checks->kcf;

    if (probe->rc == NGX_DECLINED) {

        if (!ngx_exiting) {
            ngx_log_error(NGX_LOG_ERR, ngx_cycle->log, 0,
                          "kong_shift \"%V\": no socket or memory to check "
                          "%V with", &target->kscf->shift->name,
                          &probe->name);
        }

    } else if (ngx_http_kong_shift_holds(target->checks)) {
        known = &target->kscf->shift->record->pool[target->pool]
                                             .peer[target->place];

        ngx_shmtx_lock(&kcf->shpool->mutex);

        ngx_memcpy(known->hash, probe->hash, NGX_KONG_SHIFT_HASH_SIZE);

        ngx_shmtx_unlock(&kcf->shpool->mutex);

        target->waiting = 1;
    }

    ngx_http_kong_shift_judge_waiting(target);
}


/*
 * A hash is compared with those of the others, as they are after checks under
 * way: a change of the configuration reaches all of them, but not at once.
 */

static void
ngx_http_kong_shift_judge_waiting(ngx_http_kong_shift_server_t *target)
{
    ngx_uint_t                     busy;
    ngx_http_kong_shift_server_t  *other;

    busy = ngx_http_kong_shift_is_busy(target);

    for (other = target->checks->targets; other; other = other->next) {

        if (other->waiting && other->kscf == target->kscf
            && other->pool == target->pool
            && (!busy || other->probe.rc != NGX_OK
                || ngx_http_kong_shift_agrees(other)))
        {
            ngx_http_kong_shift_judge(other);
        }
    }
}


static ngx_uint_t
ngx_http_kong_shift_is_busy(ngx_http_kong_shift_server_t *target)
{
    ngx_http_kong_shift_server_t  *other;

    for (other = target->checks->targets; other; other = other->next) {

        if (other->busy && other->kscf == target->kscf
            && other->pool == target->pool)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_kong_shift_agrees(ngx_http_kong_shift_server_t *target)
{
    int                     best;
    ngx_uint_t              i;
    const char             *hash[NGX_KONG_SHIFT_PEERS];
    ngx_kong_shift_peer_t  *peer;

    if (!target->probe.check->config_hash) {
        return 1;
    }

    peer = target->kscf->shift->record->pool[target->pool].peer;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        hash[i] = (peer[i].configured && !peer[i].down && peer[i].hash[0])
                  ? peer[i].hash : NULL;
    }

    best = ngx_kong_shift_agree(hash, NGX_KONG_SHIFT_PEERS);

    return best >= 0 && ngx_strcmp(hash[best], target->probe.hash) == 0;
}


void
ngx_http_kong_shift_judge(ngx_http_kong_shift_server_t *target)
{
    uint32_t                         failed;
    ngx_uint_t                       passed, changed, first, fails, level;
    ngx_kong_shift_peer_t           *known;
    ngx_kong_shift_conf_t           *kcf;
    ngx_http_kong_shift_check_t     *check;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    target->waiting = 0;

    kcf = target->checks->kcf;
    kscf = target->kscf;
    check = target->probe.check;
    known = &kscf->shift->record->pool[target->pool].peer[target->place];

    passed = (target->probe.rc == NGX_OK);

    if (passed && !ngx_http_kong_shift_agrees(target)) {
        passed = 0;
        ngx_cpystrn((u_char *) target->probe.reason,
                    (u_char *) "configuration_hash is another than that of "
                               "most peers", NGX_KONG_SHIFT_REASON_SIZE);
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (!ngx_http_kong_shift_holds(target->checks)) {
        ngx_shmtx_unlock(&kcf->shpool->mutex);
        return;
    }

    first = !known->health.checked;
    failed = known->health.fails;

    /* one of new that was in use before a restart is not given the doubt */

    fails = (first && target->pool == NGX_KONG_SHIFT_NEW) ? 1 : check->fails;

    changed = ngx_kong_shift_report(&known->health, passed, check->passes,
                                    fails, ngx_current_msec);

    known->checked = ngx_time();

    /*
     * A regular check does not tell what a 404 after it will mean, and one
     * that passes after another has failed is no proof yet.
     */

    if (!passed) {
        known->honest = (uint32_t) ngx_current_msec
                        - NGX_HTTP_KONG_SHIFT_HONEST;

    } else if (target->suspected && failed == 0) {
        known->honest = (uint32_t) target->began;
    }

    ngx_http_kong_shift_note_result(target, known, passed);

    if (changed) {
        kscf->shift->record->reports++;
        ngx_http_kong_shift_see_peer_locked(target, known);
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    if (changed || (first && !passed && !known->health.ready)) {
        level = known->health.ready ? NGX_LOG_NOTICE : NGX_LOG_ERR;

        ngx_log_error(level, ngx_cycle->log, 0,
                      "kong_shift \"%V\": %s %V is %s%s%s", &kscf->shift->name,
                      target->pool == NGX_KONG_SHIFT_OLD ? "old" : "new",
                      &target->probe.name,
                      known->health.ready ? "ready" : "not ready",
                      known->reason[0] ? ": " : "", known->reason);
    }

    if (changed) {
        ngx_http_kong_shift_refresh(kscf->shift);
    }
}


static void
ngx_http_kong_shift_note_result(ngx_http_kong_shift_server_t *target,
    ngx_kong_shift_peer_t *known, ngx_uint_t passed)
{
    u_char  *last;

    if (!passed) {
        ngx_cpystrn((u_char *) known->reason,
                    (u_char *) target->probe.reason,
                    NGX_KONG_SHIFT_REASON_SIZE);
        return;
    }

    last = (u_char *) known->reason;

    if (!known->health.ready) {
        last = ngx_snprintf(last, NGX_KONG_SHIFT_REASON_SIZE - 1,
                            "passed %uD of %ui checks",
                            known->health.passes,
                            target->probe.check->passes);
    }

    *last = '\0';
}


static void
ngx_http_kong_shift_see_peer_locked(ngx_http_kong_shift_server_t *target,
    ngx_kong_shift_peer_t *known)
{
    u_char                   *last;
    u_char                    text[NGX_KONG_SHIFT_COMMENT_SIZE];
    ngx_kong_shift_record_t  *rec;

    rec = target->kscf->shift->record;

    /* one that flaps must not push out what people did */

    if (ngx_current_msec - target->told > NGX_HTTP_KONG_SHIFT_TELL_TIME) {
        target->told = ngx_current_msec;
        target->tells = 0;
    }

    if (target->tells++ >= NGX_HTTP_KONG_SHIFT_TELLS) {
        return;
    }

    last = ngx_snprintf(text, sizeof(text) - 1, "%s %V is %s%s%s",
                        target->pool == NGX_KONG_SHIFT_OLD ? "old" : "new",
                        &target->probe.name,
                        known->health.ready ? "ready" : "not ready",
                        known->reason[0] ? ": " : "", known->reason);
    *last = '\0';

    ngx_kong_shift_see_locked(rec, NGX_KONG_SHIFT_SEE_PEER, "check",
                              (char *) text);
}
