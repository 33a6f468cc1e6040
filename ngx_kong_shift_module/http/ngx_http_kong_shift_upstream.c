
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


static ngx_inline ngx_int_t ngx_http_kong_shift_set_pool(
    ngx_http_request_t *r, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp);
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
static ngx_inline void ngx_http_kong_shift_count_attempt(
    ngx_http_kong_shift_peer_data_t *kp, ngx_uint_t state);
static ngx_inline void ngx_http_kong_shift_count_version(
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_via_t *via, ngx_kong_shift_pool_t *pool,
    ngx_kong_shift_peer_t *peer);
static ngx_inline ngx_uint_t ngx_http_kong_shift_same_via(u_char *p,
    ngx_http_kong_shift_via_t *via);

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

    if (kp->data.notify) {
        u->peer.notify = ngx_http_kong_shift_notify_peer;
    }

    kp->suspect = NULL;

    if (kscf->checked) {
        kp->process_header = u->process_header;
        u->process_header = ngx_http_kong_shift_process_header;
    }

#if (NGX_HTTP_SSL)

    if (u->ssl) {
        u->peer.set_session = ngx_http_kong_shift_set_session;
        u->peer.save_session = ngx_http_kong_shift_save_session;
    }

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

        ngx_memzero(&choice->outcome,
                    sizeof(ngx_http_kong_shift_outcome_t));

        choice->kscf = kscf;
        choice->upstream = kp->upstream;
        choice->outcome.main = (r == r->main);

        if (!kscf->by_request) {
            ngx_http_kong_shift_choose_pool(kp, choice, NGX_KONG_SHIFT_ANY,
                                            NULL);

        } else if (ngx_http_kong_shift_choose_by_request(r, kp, choice)
                   != NGX_OK)
        {
            return NGX_ERROR;
        }

        choice->outcome.first = choice->choice.pool;
        choice->outcome.fallback = (choice->choice.reason
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
    ngx_http_set_ctx(r, ctx, ngx_http_kong_shift_module);

    ctx->cleanup.handler = ngx_http_kong_shift_cleanup;
    ctx->cleanup.data = ctx;
    ctx->cleanup.next = r->pool->cleanup;
    r->pool->cleanup = &ctx->cleanup;

    ctx->peers = NULL;
    ctx->choices = NULL;
}


/*
 * Comes right after the log phase, when the request is still whole: counts it,
 * and ends what it has left in the census, whatever became of it.
 */

static void
ngx_http_kong_shift_cleanup(void *data)
{
    ngx_http_kong_shift_ctx_t  *ctx = data;

    ngx_uint_t                        class;
    ngx_http_kong_shift_choice_t     *choice;
    ngx_http_kong_shift_srv_conf_t   *kscf;
    ngx_http_kong_shift_peer_data_t  *kp;

    kp = ctx->peers;

    for (choice = ctx->choices; choice; choice = choice->next) {

        if (choice->outcome.failed || choice->outcome.fallback
            || choice->outcome.status < NGX_HTTP_OK
            || choice->outcome.status >= NGX_HTTP_BAD_REQUEST)
        {
            ngx_http_kong_shift_count_request(kp->request->main, choice);
            continue;
        }

        /* the usual: the pool that was chosen has answered well */

        kscf = choice->kscf;
        class = 2 + (choice->outcome.status >= NGX_HTTP_SPECIAL_RESPONSE);

        ngx_http_kong_shift_inc(&kscf->shared[choice->outcome.first]->chosen);
        ngx_http_kong_shift_inc(
                   &kscf->shared[choice->outcome.server]->responses[class]);
    }

    for ( /* void */ ; kp; kp = kp->next) {
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

    if (choice->choice.reason == NGX_KONG_SHIFT_BY_OVERRIDE
        || choice->choice.reason == NGX_KONG_SHIFT_BY_RESCUE)
    {
        return 0;
    }

    empty = kscf->record->empty;

    if (kscf->word != choice->word || kscf->empty != empty) {
        ngx_http_kong_shift_note_word(kscf, choice->word, empty);
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

    if (u->ssl) {
        data->set_session = u->peer.set_session;
        data->save_session = u->peer.save_session;
    }

#endif

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_peer(ngx_peer_connection_t *pc, void *data)
{
    ngx_http_kong_shift_peer_data_t  *kp = data;

    ngx_int_t                        rc;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    rc = NGX_BUSY;

    if (pc->tries > kp->reserve || kp->reserve == 0) {
        rc = kp->data.get(pc, kp->data.data);
    }

    if (rc == NGX_BUSY) {
        if (kp->upstream == kp->choice->upstream) {
            kp->choice->outcome.lost = 1;
        }

        if (kp->rescue) {
            rc = ngx_http_kong_shift_rescue(pc, kp);
        }

        if (rc == NGX_BUSY && kp->suspect) {
            rc = ngx_http_kong_shift_go_back(pc, kp);
        }
    }

    if (rc == NGX_OK || rc == NGX_DONE) {
        kscf = kp->choice->kscf;
        kp->place = ngx_http_kong_shift_get_place(kscf, kp->pool, pc->name);

        if (kp->place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {
            kscf->census->peer[kp->pool][kp->place]++;
        }
    }

    return rc;
}


ngx_int_t
ngx_http_kong_shift_process_header(ngx_http_request_t *r)
{
    ngx_int_t                         rc;
    ngx_http_upstream_t              *u;
    ngx_http_kong_shift_peer_data_t  *kp;

    u = r->upstream;
    kp = u->peer.data;

    if (u->peer.get != ngx_http_kong_shift_get_peer) {
        kp = ngx_http_kong_shift_get_peer_data(r);
    }

    rc = kp->process_header(r);

    if (rc == NGX_OK
        && r->upstream->headers_in.status_n != NGX_HTTP_NOT_FOUND)
    {
        return NGX_OK;
    }

    return ngx_http_kong_shift_look_again(r, rc);
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

    if (pc->tries) {
        pc->tries -= kp->reserve;
    }

    kp->data.free(pc, kp->data.data, state);

    pc->tries += kp->reserve;

    if (!(state & (NGX_PEER_FAILED|NGX_PEER_NEXT))) {
        ngx_http_kong_shift_leave(kp->choice->kscf, kp);

    } else if (kp->suspect) {
        ngx_http_kong_shift_keep_try(pc, kp, state);
    }
}


static ngx_inline void
ngx_http_kong_shift_count_attempt(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state)
{
    uint16_t                        *under_way;
    ngx_uint_t                       place, status;
    ngx_kong_shift_pool_e            id;
    ngx_kong_shift_peer_t           *peer;
    ngx_kong_shift_pool_t           *pool;
    ngx_http_upstream_state_t       *us;
    ngx_http_kong_shift_via_t       *via;
    ngx_http_kong_shift_choice_t    *choice;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    choice = kp->choice;
    kscf = choice->kscf;
    id = kp->pool;
    pool = kscf->shared[id];
    via = kscf->via[id];
    us = kp->upstream->state;
    peer = NULL;

    status = (us->header_time != (ngx_msec_t) -1) ? us->status : 0;

    if (state & (NGX_PEER_FAILED|NGX_PEER_NEXT)) {
        ngx_http_kong_shift_count_failure(kp, state);

    } else if (choice->upstream == kp->upstream) {
        choice->outcome.status = status;
        choice->outcome.server = id;
    }

    place = kp->place;

    if (place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {

        peer = &pool->peer[place];
        under_way = &kscf->census->peer[id][place];

        *under_way -= (*under_way != 0);

        ngx_http_kong_shift_inc(
                         &peer->responses[ngx_http_kong_shift_class(status)]);
    }

    /* what is sent from a cache is not of today */

    if (status && !kp->request->cached) {
        ngx_http_kong_shift_count_version(kp, kscf, via, pool, peer);
    }
}


static ngx_inline void
ngx_http_kong_shift_count_version(ngx_http_kong_shift_peer_data_t *kp,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_http_kong_shift_via_t *via,
    ngx_kong_shift_pool_t *pool, ngx_kong_shift_peer_t *peer)
{
    ngx_uint_t                 i;
    ngx_table_elt_t           *h;
    ngx_kong_shift_version_t  *version;

    /* nearly every answer tells the same in the same place */

    h = ngx_http_kong_shift_get_header(&kp->upstream->headers_in, via->index);

    if (peer && h && h->key.len == 3
        && h->value.len == via->len
        && ngx_http_kong_shift_same_via(h->value.data, via)
        && ngx_memcmp(via->version->text, peer->version,
                      NGX_KONG_SHIFT_VERSION_SIZE)
           == 0
        && kscf->record->word == via->word)
    {
        i = via->place;
        version = via->version;

    } else {
        i = ngx_http_kong_shift_find_version(kp, pool, peer);

        if (i == NGX_KONG_SHIFT_VERSIONS) {
            return;
        }

        version = &pool->version[i];
    }

    ngx_http_kong_shift_inc(&version->responses);

    if (via->wrong && (via->wrong & (1 << i))) {
        ngx_http_kong_shift_inc(&pool->wrong_version);
    }
}


static ngx_inline ngx_uint_t
ngx_http_kong_shift_same_via(u_char *p, ngx_http_kong_shift_via_t *via)
{
    uint64_t  first, last, value_first, value_last;

    if (via->len < 8 || via->len > 16) {
        return ngx_memcmp(p, via->text, via->len) == 0;
    }

    /* the usual "1.1 kong/3.9.1", without a call */

    ngx_memcpy(&first, via->text, 8);
    ngx_memcpy(&last, via->text + via->len - 8, 8);
    ngx_memcpy(&value_first, p, 8);
    ngx_memcpy(&value_last, p + via->len - 8, 8);

    return first == value_first && last == value_last;
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
