
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


static ngx_int_t ngx_http_kong_shift_move(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_pool_e pool,
    ngx_uint_t tries);
static ngx_uint_t ngx_http_kong_shift_tries_left(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp);


ngx_int_t
ngx_http_kong_shift_rescue(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp)
{
    uint64_t                         word;
    ngx_uint_t                       tries;
    ngx_kong_shift_pool_e            other;
    ngx_kong_shift_record_t         *rec;
    ngx_http_kong_shift_choice_t    *choice;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    choice = kp->choice;
    kscf = choice->kscf;
    rec = kscf->record;
    other = !kp->pool;

    tries = ngx_http_kong_shift_tries_left(pc, kp);

    kp->rescue = 0;
    kp->reserve = 0;

    word = ngx_http_kong_shift_begin(kscf);

    if (!ngx_kong_shift_may_take(word, kscf->shift->gated, other,
                                 (unsigned) rec->empty))
    {
        ngx_http_kong_shift_end(kscf);

        pc->name = &kp->upstream->upstream->host;

        return NGX_BUSY;
    }

    ngx_log_error(NGX_LOG_INFO, pc->log, 0,
                  "kong_shift \"%V\": \"%V\" takes over what \"%V\" failed",
                  &kscf->shift->name, &kscf->pool[other]->host,
                  &kscf->pool[kp->pool]->host);

    choice->outcome.failed |= 1 << kp->pool;

    if (kp->suspect && kp->suspect->retried) {
        choice->outcome.suspected |= 1 << kp->pool;
    }

    choice->choice.pool = other;
    choice->choice.reason = NGX_KONG_SHIFT_BY_RESCUE;

    return ngx_http_kong_shift_move(pc, kp, other, tries);
}


ngx_int_t
ngx_http_kong_shift_go_back(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp)
{
    uint64_t                         word;
    ngx_kong_shift_pool_e            pool;
    ngx_http_kong_shift_choice_t    *choice;
    ngx_http_kong_shift_suspect_t   *suspect;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    suspect = kp->suspect;

    if (!suspect->retried || suspect->back) {
        return NGX_BUSY;
    }

    choice = kp->choice;
    kscf = choice->kscf;
    pool = suspect->choice.pool;

    suspect->back = 1;
    kp->rescue = 0;
    kp->reserve = 0;

    word = ngx_http_kong_shift_begin(kscf);

    if (!ngx_kong_shift_is_open(word, kscf->shift->gated, pool)) {
        ngx_http_kong_shift_end(kscf);
        return NGX_BUSY;
    }

    ngx_log_error(NGX_LOG_INFO, pc->log, 0,
                  "kong_shift \"%V\": nobody else is left, the 404 of \"%V\" "
                  "is taken for true", &kscf->shift->name,
                  &kscf->pool[pool]->host);

    choice->outcome.failed &= ~(1 << pool);
    choice->choice = suspect->choice;

    return ngx_http_kong_shift_move(pc, kp, pool, 1);
}


/* between begin() and end() */

static ngx_int_t
ngx_http_kong_shift_move(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_pool_e pool,
    ngx_uint_t tries)
{
    ngx_int_t                        rc;
    ngx_peer_connection_t            saved;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = kp->choice->kscf;

    ngx_http_kong_shift_leave(kscf, kp);
    ngx_http_kong_shift_enter(kscf, kp, pool);

    /* others may have put themselves in front of what was set here */

    saved = *pc;

    rc = ngx_http_kong_shift_init_pool(kp->request, kscf->pool[pool],
                                       &kp->data);

    pc->tries = ngx_min(pc->tries, tries);

    pc->data = saved.data;
    pc->get = saved.get;
    pc->free = saved.free;
    pc->notify = saved.notify;

    if (pc->notify == NULL && kp->data.notify) {
        pc->notify = ngx_http_kong_shift_notify_peer;
    }

#if (NGX_HTTP_SSL)
    pc->set_session = saved.set_session;
    pc->save_session = saved.save_session;
#endif

    if (rc != NGX_OK) {
        return NGX_ERROR;
    }

    return kp->data.get(pc, kp->data.data);
}


/* what proxy_next_upstream_tries leaves for the other pool */

static ngx_uint_t
ngx_http_kong_shift_tries_left(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp)
{
    ngx_uint_t  limit, left, used;

    limit = kp->upstream->conf->next_upstream_tries;

    if (limit == 0) {
        return NGX_MAX_INT_T_VALUE;
    }

    left = pc->tries - ngx_min(pc->tries, kp->reserve);

    used = ngx_min(kp->tries, limit - kp->reserve);
    used -= ngx_min(used, left);

    return limit - used;
}
