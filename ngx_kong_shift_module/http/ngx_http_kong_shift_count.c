
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


void
ngx_http_kong_shift_count_failure(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state)
{
    ngx_uint_t              connect;
    ngx_kong_shift_peer_t  *peer;
    ngx_kong_shift_pool_t  *pool;

    if (kp->choice->upstream == kp->upstream) {
        kp->choice->outcome.lost = 1;
    }

    if (kp->choice->kscf->shift->checked) {
        ngx_http_kong_shift_doubt(kp, state);
    }

    if (!(state & NGX_PEER_FAILED)) {
        return;
    }

    pool = &kp->choice->kscf->record->pool[kp->pool];
    connect = (kp->upstream->state->connect_time == (ngx_msec_t) -1);

    if (connect) {
        ngx_http_kong_shift_inc(&pool->connect_errors);
    }

    if (kp->place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {
        peer = &pool->peer[kp->place];

        ngx_http_kong_shift_inc(&peer->failed);

        if (connect) {
            ngx_http_kong_shift_inc(&peer->connect_errors);
        }
    }
}


void
ngx_http_kong_shift_count_request(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice)
{
    ngx_uint_t              status, failed;
    ngx_kong_shift_pool_t  *pool, *server;

    pool = choice->kscf->record->pool;
    status = choice->outcome.status;
    failed = choice->outcome.failed;

    ngx_http_kong_shift_inc(&pool[choice->outcome.first].chosen);

    if (choice->outcome.fallback) {
        ngx_http_kong_shift_inc(&pool[choice->outcome.first].fallback);
    }

    if (status) {
        server = &pool[choice->outcome.server];

        ngx_http_kong_shift_inc(
                       &server->responses[ngx_http_kong_shift_class(status)]);

        if (ngx_http_kong_shift_is_rescued(choice, status)) {
            ngx_http_kong_shift_inc(&pool[!choice->outcome.server].rescued);
        }

        if (status == NGX_HTTP_NOT_FOUND) {

            /* the other pool had the same to say */

            failed &= ~choice->outcome.suspected;

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
            || (!choice->outcome.lost && status >= NGX_HTTP_BAD_REQUEST
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
