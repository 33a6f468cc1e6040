
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


#define ngx_http_kong_shift_class(status)                                     \
    ((status) < 600 ? (status) / 100 : 0)


static void ngx_http_kong_shift_count_request(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice);
static ngx_inline ngx_uint_t ngx_http_kong_shift_same_via(u_char *p,
    ngx_http_kong_shift_via_t *via);
static ngx_inline void ngx_http_kong_shift_count_version(
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_pool_t *pool,
    ngx_kong_shift_peer_t *peer);
static void ngx_http_kong_shift_count_failure(
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_peer_t *peer,
    ngx_uint_t state);


void
ngx_http_kong_shift_count_attempt(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state)
{
    uint16_t                        *under_way;
    ngx_uint_t                       status;
    ngx_kong_shift_peer_t           *peer;
    ngx_kong_shift_pool_t           *pool;
    ngx_http_upstream_state_t       *us;
    ngx_http_kong_shift_choice_t    *choice;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    choice = kp->choice;
    kscf = choice->kscf;
    pool = &kscf->record->pool[kp->pool];
    us = kp->upstream->state;
    peer = NULL;

    status = (us->header_time != (ngx_msec_t) -1) ? us->status : 0;

    if (kp->place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {

        under_way = &kscf->census->peer[kp->pool][kp->place];
        *under_way -= (*under_way != 0);

        peer = &pool->peer[kp->place];

        ngx_http_kong_shift_inc(&peer->requests);
        ngx_http_kong_shift_inc(
                         &peer->responses[ngx_http_kong_shift_class(status)]);
    }

    if (state & (NGX_PEER_FAILED|NGX_PEER_NEXT)) {
        ngx_http_kong_shift_count_failure(kp, peer, state);

    } else if (choice->upstream == kp->upstream) {
        choice->status = status;
        choice->server = kp->pool;
    }

    /* what is sent from a cache is not of today */

    if (status && !kp->request->cached) {
        ngx_http_kong_shift_count_version(kp, pool, peer);
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


static ngx_inline void
ngx_http_kong_shift_count_version(ngx_http_kong_shift_peer_data_t *kp,
    ngx_kong_shift_pool_t *pool, ngx_kong_shift_peer_t *peer)
{
    ngx_uint_t                       i;
    ngx_table_elt_t                 *h;
    ngx_http_kong_shift_via_t       *via;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = kp->choice->kscf;
    via = &kscf->via[kp->pool];

    /* nearly every answer tells the same in the same place */

    h = ngx_http_kong_shift_get_header(&kp->upstream->headers_in, via->index);

    if (peer && h && h->key.len == 3
        && via->len && h->value.len == via->len
        && ngx_http_kong_shift_same_via(h->value.data, via)
        && ngx_memcmp(pool->version[via->place].text, peer->version,
                      NGX_KONG_SHIFT_VERSION_SIZE)
           == 0
        && ngx_kong_shift_word_generation(kscf->record->word)
           == via->generation)
    {
        i = via->place;

    } else {
        i = ngx_http_kong_shift_find_version(kp, pool, peer);

        if (i == NGX_KONG_SHIFT_VERSIONS) {
            return;
        }
    }

    ngx_http_kong_shift_inc(&pool->version[i].responses);

    if (via->wrong & (1 << i)) {
        ngx_http_kong_shift_inc(&pool->wrong_version);
    }
}


static void
ngx_http_kong_shift_count_failure(ngx_http_kong_shift_peer_data_t *kp,
    ngx_kong_shift_peer_t *peer, ngx_uint_t state)
{
    ngx_uint_t              connect;
    ngx_kong_shift_pool_t  *pool;

    if (kp->choice->upstream == kp->upstream) {
        kp->choice->lost = 1;
    }

    if (!(state & NGX_PEER_FAILED)) {
        return;
    }

    pool = &kp->choice->kscf->record->pool[kp->pool];
    connect = (kp->upstream->state->connect_time == (ngx_msec_t) -1);

    if (connect) {
        ngx_http_kong_shift_inc(&pool->connect_errors);
    }

    if (peer) {
        ngx_http_kong_shift_inc(&peer->failed);

        if (connect) {
            ngx_http_kong_shift_inc(&peer->connect_errors);
        }
    }
}


ngx_int_t
ngx_http_kong_shift_log_handler(ngx_http_request_t *r)
{
    ngx_http_kong_shift_ctx_t     *ctx;
    ngx_http_kong_shift_choice_t  *choice;

    if (r != r->main) {
        return NGX_OK;
    }

    ctx = ngx_http_kong_shift_get_ctx(r);

    if (ctx == NULL) {
        return NGX_OK;
    }

    for (choice = ctx->choices; choice; choice = choice->next) {
        ngx_http_kong_shift_count_request(r, choice);
    }

    return NGX_OK;
}


static void
ngx_http_kong_shift_count_request(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice)
{
    ngx_uint_t              status, failed;
    ngx_kong_shift_pool_t  *pool, *server;

    pool = choice->kscf->record->pool;
    status = choice->status;
    failed = choice->failed;

    ngx_http_kong_shift_inc(&pool[choice->first].chosen);

    if (choice->fallback) {
        ngx_http_kong_shift_inc(&pool[choice->first].fallback);
    }

    if (status) {
        server = &pool[choice->server];

        ngx_http_kong_shift_inc(&server->served);
        ngx_http_kong_shift_inc(
                       &server->responses[ngx_http_kong_shift_class(status)]);

        if (choice->choice.reason == NGX_KONG_SHIFT_BY_RESCUE) {
            ngx_http_kong_shift_inc(&pool[!choice->server].rescued);
        }

        if (status == NGX_HTTP_NOT_FOUND) {
            ngx_http_kong_shift_inc(
                 &server->not_found[ngx_http_kong_shift_get_origin(choice)]);

        } else if (status >= NGX_HTTP_INTERNAL_SERVER_ERROR) {
            ngx_http_kong_shift_inc(
                    &server->errors[ngx_http_kong_shift_get_origin(choice)]);
        }

    } else {
        status = r->headers_out.status;

        /* the client has left, or sent what could not be passed on */

        if (status == NGX_HTTP_CLIENT_CLOSED_REQUEST
            || (!choice->lost && status >= NGX_HTTP_BAD_REQUEST
                && status < NGX_HTTP_INTERNAL_SERVER_ERROR))
        {
            ngx_http_kong_shift_inc(&pool[choice->choice.pool].canceled);

        } else {
            failed |= 1 << choice->choice.pool;
            ngx_http_kong_shift_inc(
              &pool[choice->choice.pool].errors[NGX_KONG_SHIFT_TRANSPORT]);
        }
    }

    if (failed & (1 << NGX_KONG_SHIFT_OLD)) {
        ngx_http_kong_shift_inc(&pool[NGX_KONG_SHIFT_OLD].failed);
    }

    if (failed & (1 << NGX_KONG_SHIFT_NEW)) {
        ngx_http_kong_shift_inc(&pool[NGX_KONG_SHIFT_NEW].failed);
    }
}
