
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


static ngx_int_t ngx_http_kong_shift_reinit_request(ngx_http_request_t *r);
static void ngx_http_kong_shift_stand_in(ngx_http_kong_shift_peer_data_t *kp);
static void ngx_http_kong_shift_suspect(ngx_http_kong_shift_peer_data_t *kp);
static ngx_uint_t ngx_http_kong_shift_is_not_routed(ngx_http_upstream_t *u);


ngx_int_t
ngx_http_kong_shift_look_again(ngx_http_request_t *r, ngx_int_t rc)
{
    ngx_http_kong_shift_peer_data_t  *kp;

    kp = ngx_http_kong_shift_get_peer_data(r);

    if (rc == NGX_OK) {
        ngx_http_kong_shift_suspect(kp);

    } else {

        /* it may have put the next step in our place */

        ngx_http_kong_shift_stand_in(kp);
    }

    return rc;
}


static ngx_int_t
ngx_http_kong_shift_reinit_request(ngx_http_request_t *r)
{
    ngx_int_t                         rc;
    ngx_http_kong_shift_peer_data_t  *kp;

    kp = ngx_http_kong_shift_get_peer_data(r);

    if (kp->suspect) {

        /* whatever the next try ends with is none of our business */

        r->upstream->conf = kp->suspect->original;
        kp->suspect->doubted = 0;
    }

    rc = kp->reinit_request(r);

    ngx_http_kong_shift_stand_in(kp);

    return rc;
}


ngx_http_kong_shift_peer_data_t *
ngx_http_kong_shift_get_peer_data(ngx_http_request_t *r)
{
    ngx_http_kong_shift_ctx_t        *ctx;
    ngx_http_kong_shift_peer_data_t  *kp;

    ctx = ngx_http_kong_shift_get_ctx(r->main);

    for (kp = ctx->peers; kp->upstream != r->upstream; kp = kp->next) {
        /* void */
    }

    return kp;
}


static void
ngx_http_kong_shift_stand_in(ngx_http_kong_shift_peer_data_t *kp)
{
    ngx_http_upstream_t  *u;

    u = kp->upstream;

    if (u->process_header != ngx_http_kong_shift_process_header) {
        kp->process_header = u->process_header;
        u->process_header = ngx_http_kong_shift_process_header;
    }
}


/*
 * A data plane that has lost its configuration answers 404 to everything.  So
 * a 404 which nobody behind it can have sent is tried elsewhere, as if
 * proxy_next_upstream had "http_404", and the peer is checked at once.
 */

static void
ngx_http_kong_shift_suspect(ngx_http_kong_shift_peer_data_t *kp)
{
    ngx_uint_t                       next;
    ngx_http_request_t              *r;
    ngx_http_upstream_t             *u;
    ngx_kong_shift_peer_t           *peer;
    ngx_kong_shift_origin_e          origin;
    ngx_http_kong_shift_suspect_t   *suspect;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    r = kp->request;
    u = kp->upstream;
    kscf = kp->choice->kscf;
    suspect = kp->suspect;

    if (r->cached || !kscf->check[kp->pool].set
        || kp->place == NGX_HTTP_KONG_SHIFT_NO_PLACE)
    {
        return;
    }

    origin = ngx_http_kong_shift_tell_origin(&u->headers_in);

    if (origin == NGX_KONG_SHIFT_BACKEND) {
        return;
    }

    peer = &kscf->shared[kp->pool]->peer[kp->place];

    __atomic_store_n(&peer->suspected, 1, __ATOMIC_SEQ_CST);

    if (ngx_http_kong_shift_is_honest(peer)
        || (kscf->record->fail_open & (1 << kp->pool))
        || (suspect && suspect->back))
    {
        return;
    }

    next = u->conf->next_upstream;

    if ((next & NGX_HTTP_UPSTREAM_FT_OFF) || u->peer.tries < 2) {
        return;
    }

    if ((r->method & (NGX_HTTP_POST|NGX_HTTP_LOCK|NGX_HTTP_PATCH))
        && origin == NGX_KONG_SHIFT_GATEWAY
        && ngx_http_kong_shift_is_not_routed(u))
    {
        /* nobody has done anything yet */

        next |= NGX_HTTP_UPSTREAM_FT_NON_IDEMPOTENT;
    }

    if (suspect == NULL) {
        suspect = ngx_pcalloc(r->pool, sizeof(ngx_http_kong_shift_suspect_t));
        if (suspect == NULL) {
            return;
        }

        suspect->conf = *u->conf;
        suspect->original = u->conf;

        kp->suspect = suspect;
    }

    suspect->conf.next_upstream = next | NGX_HTTP_UPSTREAM_FT_HTTP_404;
    suspect->doubted = 1;

    u->conf = &suspect->conf;
}


/* what Kong says when it has no route for a request, and so did not proxy it */

static ngx_uint_t
ngx_http_kong_shift_is_not_routed(ngx_http_upstream_t *u)
{
    u_char  *p, *last;

    static u_char  text[] = "no Route matched";

    last = u->buffer.last - (sizeof(text) - 1);

    for (p = u->buffer.pos; p <= last; p++) {
        if (ngx_memcmp(p, text, sizeof(text) - 1) == 0) {
            return 1;
        }
    }

    return 0;
}


void
ngx_http_kong_shift_doubt(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state)
{
    ngx_http_upstream_t            *u;
    ngx_http_kong_shift_suspect_t  *suspect;

    u = kp->upstream;
    suspect = kp->suspect;

    /* the next try begins with it */

    if (u->reinit_request != ngx_http_kong_shift_reinit_request) {
        kp->reinit_request = u->reinit_request;
        u->reinit_request = ngx_http_kong_shift_reinit_request;
    }

    if ((state & NGX_PEER_FAILED) || suspect == NULL || !suspect->doubted) {
        return;
    }

    suspect->doubted = 0;
    suspect->retried = 1;
    suspect->choice = kp->choice->choice;

    ngx_http_kong_shift_inc(&kp->choice->kscf->shared[kp->pool]->suspected);
}


void
ngx_http_kong_shift_keep_try(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp, ngx_uint_t state)
{
    /*
     * Those who were asked after a 404 have failed: it may have been true, so
     * that an error would be worse.
     */

    if ((state & NGX_PEER_FAILED)
        && pc->tries == 0
        && kp->suspect->retried
        && !kp->suspect->back
        && kp->suspect->original->next_upstream_tries == 0)
    {
        pc->tries = 1;
        kp->reserve = 1;
    }
}
