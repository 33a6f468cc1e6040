
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


static ngx_inline ngx_int_t ngx_http_kong_shift_set_pool(
    ngx_http_request_t *r, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp);
static ngx_int_t ngx_http_kong_shift_stay(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice);
static ngx_inline void ngx_http_kong_shift_choose_pool(
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice,
    ngx_kong_shift_pool_e override, uint32_t *hash);
static ngx_int_t ngx_http_kong_shift_choose_by_request(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice);
static ngx_int_t ngx_http_kong_shift_get_override(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e *pool);
static ngx_int_t ngx_http_kong_shift_get_hash(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *hash);
static ngx_inline void ngx_http_kong_shift_link_ctx(ngx_http_request_t *r,
    ngx_http_kong_shift_ctx_t *ctx);
static void ngx_http_kong_shift_cleanup(void *data);
static ngx_inline ngx_int_t ngx_http_kong_shift_set_method(
    ngx_http_request_t *r, ngx_http_upstream_srv_conf_t *us,
    ngx_http_kong_shift_pool_data_t *data);
static ngx_inline ngx_uint_t ngx_http_kong_shift_may_rescue(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_http_kong_shift_choice_t *choice);
static ngx_int_t ngx_http_kong_shift_get_peer(ngx_peer_connection_t *pc,
    void *data);
static void ngx_http_kong_shift_free_peer(ngx_peer_connection_t *pc,
    void *data, ngx_uint_t state);

#if (NGX_HTTP_SSL)
static ngx_int_t ngx_http_kong_shift_set_session(ngx_peer_connection_t *pc,
    void *data);
static void ngx_http_kong_shift_save_session(ngx_peer_connection_t *pc,
    void *data);
#endif


ngx_int_t
ngx_http_kong_shift_init_upstream(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us)
{
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = ngx_http_conf_upstream_srv_conf(us, ngx_http_kong_shift_module);

    if (us->servers->nelts != 1) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"server\" is not allowed beside \"kong_shift\" in "
                      "upstream \"%V\" in %s:%ui, servers belong to its "
                      "pools", &us->host, kscf->file, kscf->line);
        return NGX_ERROR;
    }

    /* "zone" and others expect peers of round robin in us->peer.data */

    if (ngx_http_upstream_init_round_robin(cf, us) != NGX_OK) {
        return NGX_ERROR;
    }

    us->peer.init = ngx_http_kong_shift_init_peer;

    return NGX_OK;
}


ngx_int_t
ngx_http_kong_shift_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us)
{
    ngx_http_upstream_t              *u;
    ngx_http_kong_shift_srv_conf_t   *kscf;
    ngx_http_kong_shift_peer_data_t  *kp;

    kscf = ngx_http_conf_upstream_srv_conf(us, ngx_http_kong_shift_module);

    kp = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_peer_data_t));
    if (kp == NULL) {
        return NGX_ERROR;
    }

    u = r->upstream;

    kp->request = r;
    kp->upstream = u;

    if (ngx_http_kong_shift_set_pool(r, kscf, kp) != NGX_OK) {
        return NGX_ERROR;
    }

    if (ngx_http_kong_shift_set_method(r, kscf->pool[kp->pool], &kp->data)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    kp->tries = u->peer.tries;
    kp->reserve = 0;
    kp->rescue = 0;
    kp->place = NGX_HTTP_KONG_SHIFT_NO_PLACE;

    if (ngx_http_kong_shift_may_rescue(kscf, kp->choice)) {
        kp->rescue = 1;

        /* the only try of a request belongs to the pool that was chosen */

        if (u->conf->next_upstream_tries != 1) {
            kp->reserve = 1;
            u->peer.tries++;
        }
    }

    u->peer.data = kp;
    u->peer.get = ngx_http_kong_shift_get_peer;
    u->peer.free = ngx_http_kong_shift_free_peer;
    u->peer.notify = kp->data.notify ? ngx_http_kong_shift_notify_peer : NULL;

#if (NGX_HTTP_SSL)
    u->peer.set_session = ngx_http_kong_shift_set_session;
    u->peer.save_session = ngx_http_kong_shift_save_session;
#endif

    return NGX_OK;
}


static ngx_inline ngx_int_t
ngx_http_kong_shift_set_pool(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_http_kong_shift_peer_data_t *kp)
{
    ngx_http_kong_shift_ctx_t     *ctx;
    ngx_http_kong_shift_choice_t  *choice;

    ctx = ngx_http_kong_shift_get_ctx(r->main);

    if (ctx == NULL) {
        ctx = &kp->ctx;
        ngx_http_kong_shift_link_ctx(r->main, ctx);
    }

    for (choice = ctx->choices; choice; choice = choice->next) {
        if (choice->kscf == kscf) {
            break;
        }
    }

    if (choice == NULL) {
        choice = &kp->own;

        choice->kscf = kscf;
        choice->upstream = kp->upstream;
        choice->status = 0;
        choice->failed = 0;
        choice->lost = 0;
        choice->main = (r == r->main);

        if (kscf->override == NULL && kscf->key == NULL) {
            ngx_http_kong_shift_choose_pool(kp, choice, NGX_KONG_SHIFT_ANY,
                                            NULL);

        } else if (ngx_http_kong_shift_choose_by_request(r, kp, choice)
                   != NGX_OK)
        {
            return NGX_ERROR;
        }

        choice->first = choice->choice.pool;
        choice->fallback = (choice->choice.reason
                            == NGX_KONG_SHIFT_BY_FALLBACK);

        choice->next = ctx->choices;
        ctx->choices = choice;

    } else if (ngx_http_kong_shift_stay(r, kp, choice) != NGX_OK) {
        return NGX_ERROR;
    }

    kp->choice = choice;

    kp->next = ctx->peers;
    ctx->peers = kp;

    return NGX_OK;
}


/*
 * Subrequests and redirects stay where their main request went, unless that
 * was closed to them since.
 */

static ngx_int_t
ngx_http_kong_shift_stay(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice)
{
    uint64_t                         word;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = choice->kscf;

    if (r == r->main || !choice->main) {

        /* redirected since nobody answered */

        if (choice->main && choice->status == 0) {
            choice->failed |= 1 << choice->choice.pool;
        }

        choice->upstream = kp->upstream;
        choice->status = 0;
        choice->lost = 0;
        choice->main = (r == r->main);
    }

    word = ngx_http_kong_shift_begin(kscf);

    if (ngx_kong_shift_may_stay(choice->word, word, kscf->shift->gated,
                                choice->choice.pool))
    {
        ngx_http_kong_shift_enter(kscf, kp, choice->choice.pool);
        return NGX_OK;
    }

    ngx_http_kong_shift_end(kscf);

    return ngx_http_kong_shift_choose_by_request(r, kp, choice);
}


static ngx_inline void
ngx_http_kong_shift_choose_pool(ngx_http_kong_shift_peer_data_t *kp,
    ngx_http_kong_shift_choice_t *choice, ngx_kong_shift_pool_e override,
    uint32_t *hash)
{
    ngx_kong_shift_record_t         *rec;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = choice->kscf;
    rec = kscf->record;

    choice->word = ngx_http_kong_shift_begin(kscf);

    choice->choice = ngx_kong_shift_choose(choice->word, kscf->shift->gated,
                                           (unsigned) rec->empty, override,
                                           hash, &rec->credit);

    ngx_http_kong_shift_enter(kscf, kp, choice->choice.pool);

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, kp->request->connection->log, 0,
                   "kong_shift \"%V\" pool:%d reason:%d generation:%uL",
                   &kscf->shift->name, choice->choice.pool,
                   choice->choice.reason,
                   ngx_kong_shift_word_generation(choice->word));
}


static ngx_int_t
ngx_http_kong_shift_choose_by_request(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice)
{
    uint32_t                         hash, *hashp;
    ngx_int_t                        rc;
    ngx_kong_shift_pool_e            override;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = choice->kscf;

    override = NGX_KONG_SHIFT_ANY;
    hashp = NULL;

    if (kscf->override
        && ngx_http_kong_shift_get_override(r, kscf, &override) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (kscf->key) {
        rc = ngx_http_kong_shift_get_hash(r, kscf, &hash);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        hashp = (rc == NGX_OK) ? &hash : NULL;
    }

    ngx_http_kong_shift_choose_pool(kp, choice, override, hashp);

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_override(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e *pool)
{
    ngx_str_t  value;

    if (ngx_http_complex_value(r, kscf->override, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    if (value.len == 3 && ngx_strncmp(value.data, "old", 3) == 0) {
        *pool = NGX_KONG_SHIFT_OLD;

    } else if (value.len == 3 && ngx_strncmp(value.data, "new", 3) == 0) {
        *pool = NGX_KONG_SHIFT_NEW;

    } else {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "kong_shift_override value \"%V\" is ignored, it may "
                      "be \"old\", \"new\" or empty", &value);
    }

    return NGX_OK;
}


/* NGX_DECLINED: the client has no key */

static ngx_int_t
ngx_http_kong_shift_get_hash(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *hash)
{
    ngx_str_t                   value;
    ngx_http_variable_value_t  *vv;

    if (kscf->key_index != NGX_CONF_UNSET) {
        vv = ngx_http_get_flushed_variable(r, kscf->key_index);

        if (vv == NULL || vv->not_found) {
            return NGX_DECLINED;
        }

        value.len = vv->len;
        value.data = vv->data;

    } else if (ngx_http_complex_value(r, kscf->key, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_DECLINED;
    }

    *hash = ngx_kong_shift_mix(ngx_murmur_hash2(value.data, value.len),
                               kscf->seed_hash);

    return NGX_OK;
}


ngx_http_kong_shift_choice_t *
ngx_http_kong_shift_get_choice(ngx_http_request_t *r)
{
    ngx_http_kong_shift_ctx_t  *ctx;

    ctx = ngx_http_kong_shift_get_ctx(r->main);

    return ctx ? ctx->choices : NULL;
}


ngx_http_kong_shift_ctx_t *
ngx_http_kong_shift_find_ctx(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t  *cln;

    for (cln = r->pool->cleanup; cln; cln = cln->next) {
        if (cln->handler == ngx_http_kong_shift_cleanup) {
            ngx_http_set_ctx(r, cln->data, ngx_http_kong_shift_module);
            return cln->data;
        }
    }

    return NULL;
}


void
ngx_http_kong_shift_init_ctx(ngx_http_request_t *r,
    ngx_http_kong_shift_ctx_t *ctx)
{
    ngx_http_kong_shift_link_ctx(r, ctx);
}


static ngx_inline void
ngx_http_kong_shift_link_ctx(ngx_http_request_t *r,
    ngx_http_kong_shift_ctx_t *ctx)
{
    ctx->cleanup.handler = ngx_http_kong_shift_cleanup;
    ctx->cleanup.data = ctx;
    ctx->cleanup.next = r->pool->cleanup;
    r->pool->cleanup = &ctx->cleanup;

    ctx->choices = NULL;
    ctx->peers = NULL;
    ctx->api = NULL;

    ngx_http_set_ctx(r, ctx, ngx_http_kong_shift_module);
}


/* ends what a request has left in the census, whatever became of it */

static void
ngx_http_kong_shift_cleanup(void *data)
{
    ngx_http_kong_shift_ctx_t  *ctx = data;

    ngx_http_kong_shift_peer_data_t  *kp;

    for (kp = ctx->peers; kp; kp = kp->next) {
        if (kp->active) {
            ngx_http_kong_shift_leave(kp->choice->kscf, kp);
        }
    }
}


static ngx_inline ngx_uint_t
ngx_http_kong_shift_may_rescue(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_choice_t *choice)
{
    uint64_t  empty;

    /* what an operator sent to a pool stays there, and no way leads back */

    if (!kscf->rescue
        || choice->choice.reason == NGX_KONG_SHIFT_BY_OVERRIDE
        || choice->choice.reason == NGX_KONG_SHIFT_BY_RESCUE)
    {
        return 0;
    }

    empty = kscf->record->empty;

    if (kscf->word != choice->word || kscf->empty != empty) {
        kscf->word = choice->word;
        kscf->empty = empty;

        kscf->may_take = ngx_kong_shift_may_take(kscf->word,
                                                 kscf->shift->gated,
                                                 NGX_KONG_SHIFT_OLD,
                                                 (unsigned) empty)
                         | ngx_kong_shift_may_take(kscf->word,
                                                   kscf->shift->gated,
                                                   NGX_KONG_SHIFT_NEW,
                                                   (unsigned) empty)
                           << NGX_KONG_SHIFT_NEW;
    }

    return kscf->may_take & (1 << !choice->choice.pool);
}


ngx_int_t
ngx_http_kong_shift_init_pool(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_pool_data_t *data)
{
    return ngx_http_kong_shift_set_method(r, us, data);
}


static ngx_inline ngx_int_t
ngx_http_kong_shift_set_method(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_pool_data_t *data)
{
    ngx_http_upstream_t  *u;

    u = r->upstream;

    /* round robin takes peer.data that is not NULL for its own */

    u->peer.data = NULL;
    u->peer.notify = NULL;

    if (us->peer.init(r, us) != NGX_OK) {
        return NGX_ERROR;
    }

    /* from here on nginx shall see the pool, not the shift, as upstream */

    u->upstream = us;

    data->data = u->peer.data;
    data->get = u->peer.get;
    data->free = u->peer.free;
    data->notify = u->peer.notify;

#if (NGX_HTTP_SSL)
    data->set_session = u->peer.set_session;
    data->save_session = u->peer.save_session;
#endif

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_int_t                        rc;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = kp->choice->kscf;
    rc = NGX_BUSY;

    if (pc->tries > kp->reserve || kp->reserve == 0) {
        rc = kp->data.get(pc, kp->data.data);
    }

    if (rc == NGX_BUSY) {
        if (kp->upstream == kp->choice->upstream) {
            kp->choice->lost = 1;
        }

        if (kp->rescue) {
            rc = ngx_http_kong_shift_rescue(pc, kp);
        }
    }

    if (rc == NGX_OK || rc == NGX_DONE) {
        kp->place = ngx_http_kong_shift_get_place(kscf, kp->pool, pc->name);

        if (kp->place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {
            kscf->census->peer[kp->pool][kp->place]++;
        }
    }

    return rc;
}


static void
ngx_http_kong_shift_free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_http_kong_shift_count_attempt(kp, state);

    /*
     * pc->tries is what the request may still do, within the limits of nginx;
     * the pool itself counts its part down.
     */

    pc->tries -= ngx_min(pc->tries, kp->reserve);

    kp->data.free(pc, kp->data.data, state);

    pc->tries += kp->reserve;

    if (!(state & (NGX_PEER_FAILED|NGX_PEER_NEXT))) {
        ngx_http_kong_shift_leave(kp->choice->kscf, kp);
    }
}


void
ngx_http_kong_shift_notify_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t type)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    /* that of the pool before may have had one */

    if (kp->data.notify) {
        kp->data.notify(pc, kp->data.data, type);
    }
}


#if (NGX_HTTP_SSL)

static ngx_int_t
ngx_http_kong_shift_set_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    return kp->data.set_session(pc, kp->data.data);
}


static void
ngx_http_kong_shift_save_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    kp->data.save_session(pc, kp->data.data);
}

#endif
