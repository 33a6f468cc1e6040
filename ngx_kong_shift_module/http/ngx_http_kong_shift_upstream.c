
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


typedef struct {
    void                          *data;
    ngx_uint_t                     tries;

    ngx_event_get_peer_pt          get;
    ngx_event_free_peer_pt         free;
    ngx_event_notify_peer_pt       notify;

#if (NGX_HTTP_SSL)
    ngx_event_set_peer_session_pt   set_session;
    ngx_event_save_peer_session_pt  save_session;
#endif
} ngx_http_kong_shift_pool_data_t;


typedef struct {
    ngx_http_kong_shift_pool_data_t  pool;
    ngx_http_kong_shift_choice_t     choice;   /* unless there was one */
} ngx_http_kong_shift_peer_data_t;


static ngx_int_t ngx_http_kong_shift_add_choice(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice);
static ngx_int_t ngx_http_kong_shift_choose_pool(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice);
static ngx_int_t ngx_http_kong_shift_get_override(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e *pool);
static ngx_int_t ngx_http_kong_shift_get_hash(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *hash);
static void ngx_http_kong_shift_cleanup(void *data);
static ngx_int_t ngx_http_kong_shift_init_pool(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_pool_data_t *pool);

static ngx_int_t ngx_http_kong_shift_get_peer(ngx_peer_connection_t *pc,
    void *data);
static void ngx_http_kong_shift_free_peer(ngx_peer_connection_t *pc,
    void *data, ngx_uint_t state);
static void ngx_http_kong_shift_notify_peer(ngx_peer_connection_t *pc,
    void *data, ngx_uint_t type);

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
    ngx_http_kong_shift_choice_t     *choice;
    ngx_http_kong_shift_srv_conf_t   *kscf;
    ngx_http_kong_shift_pool_data_t  *pool;
    ngx_http_kong_shift_peer_data_t  *kp;

    kscf = ngx_http_conf_upstream_srv_conf(us, ngx_http_kong_shift_module);

    kp = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_peer_data_t));
    if (kp == NULL) {
        return NGX_ERROR;
    }

    /* subrequests and redirects stay where their main request went */

    for (choice = ngx_http_kong_shift_get_choice(r);
         choice;
         choice = choice->next)
    {
        if (choice->kscf == kscf) {
            break;
        }
    }

    if (choice == NULL) {
        choice = &kp->choice;
        choice->kscf = kscf;

        if (ngx_http_kong_shift_choose_pool(r, choice) != NGX_OK
            || ngx_http_kong_shift_add_choice(r, choice) != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    pool = &kp->pool;

    if (ngx_http_kong_shift_init_pool(r, kscf->pool[choice->choice.pool],
                                      pool)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    u = r->upstream;

    u->peer.data = kp;
    u->peer.get = ngx_http_kong_shift_get_peer;
    u->peer.free = ngx_http_kong_shift_free_peer;
    u->peer.notify = pool->notify ? ngx_http_kong_shift_notify_peer : NULL;

#if (NGX_HTTP_SSL)
    u->peer.set_session = ngx_http_kong_shift_set_session;
    u->peer.save_session = ngx_http_kong_shift_save_session;
#endif

    return NGX_OK;
}


ngx_http_kong_shift_choice_t *
ngx_http_kong_shift_get_choice(ngx_http_request_t *r)
{
    ngx_pool_cleanup_t         *cln;
    ngx_http_kong_shift_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);

    if (ctx == NULL && (r->internal || r->filter_finalize)) {

        /* a redirect has wiped the module contexts */

        for (cln = r->pool->cleanup; cln; cln = cln->next) {
            if (cln->handler == ngx_http_kong_shift_cleanup) {
                ctx = cln->data;
                ngx_http_set_ctx(r, ctx, ngx_http_kong_shift_module);
                break;
            }
        }
    }

    return ctx ? ctx->choices : NULL;
}


static ngx_int_t
ngx_http_kong_shift_add_choice(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice)
{
    ngx_http_kong_shift_ctx_t  *ctx;

    r = r->main;

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);

    if (ctx == NULL) {
        ctx = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_ctx_t));
        if (ctx == NULL) {
            return NGX_ERROR;
        }

        ctx->cleanup.handler = ngx_http_kong_shift_cleanup;
        ctx->cleanup.data = ctx;
        ctx->cleanup.next = r->pool->cleanup;
        r->pool->cleanup = &ctx->cleanup;

        ctx->choices = NULL;
        ctx->api = NULL;

        ngx_http_set_ctx(r, ctx, ngx_http_kong_shift_module);
    }

    choice->next = ctx->choices;
    ctx->choices = choice;

    return NGX_OK;
}


/* only marks where the context is to be found again */

static void
ngx_http_kong_shift_cleanup(void *data)
{
    return;
}


static ngx_int_t
ngx_http_kong_shift_choose_pool(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice)
{
    uint32_t                         hash, *hashp;
    ngx_int_t                        rc;
    ngx_kong_shift_pool_e            override;
    ngx_kong_shift_record_t         *rec;
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

    rec = kscf->shift->record;

    choice->word = __atomic_load_n(&rec->word, __ATOMIC_ACQUIRE);

    choice->choice = ngx_kong_shift_choose(choice->word, kscf->shift->gated,
                                           (unsigned) rec->empty, override,
                                           hashp, &rec->credit);

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, r->connection->log, 0,
                   "kong_shift \"%V\" pool:%d reason:%d generation:%uL",
                   &kscf->shift->name, choice->choice.pool,
                   choice->choice.reason,
                   ngx_kong_shift_word_generation(choice->word));

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


static ngx_int_t
ngx_http_kong_shift_init_pool(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_pool_data_t *pool)
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

    pool->data = u->peer.data;
    pool->tries = u->peer.tries;
    pool->get = u->peer.get;
    pool->free = u->peer.free;
    pool->notify = u->peer.notify;

#if (NGX_HTTP_SSL)
    pool->set_session = u->peer.set_session;
    pool->save_session = u->peer.save_session;
#endif

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_http_kong_shift_pool_data_t  *pool;

    pool = &kp->pool;

    return pool->get(pc, pool->data);
}


static void
ngx_http_kong_shift_free_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t state)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_http_kong_shift_pool_data_t  *pool;

    pool = &kp->pool;

    /*
     * pc->tries is what the request may still do, within the limits of nginx;
     * with one pool to go to, the pool itself counts it down.
     */

    pool->free(pc, pool->data, state);

    pool->tries -= (pool->tries != 0);
}


static void
ngx_http_kong_shift_notify_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t type)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_http_kong_shift_pool_data_t  *pool;

    pool = &kp->pool;

    pool->notify(pc, pool->data, type);
}


#if (NGX_HTTP_SSL)

static ngx_int_t
ngx_http_kong_shift_set_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_http_kong_shift_pool_data_t  *pool;

    pool = &kp->pool;

    return pool->set_session(pc, pool->data);
}


static void
ngx_http_kong_shift_save_session(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_http_kong_shift_pool_data_t  *pool;

    pool = &kp->pool;

    pool->save_session(pc, pool->data);
}

#endif
