
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


typedef struct {
    ngx_http_kong_shift_body_pt  handler;
    size_t                       len;
    size_t                       max;
    u_char                      *text;
} ngx_http_kong_shift_body_t;


static void ngx_http_kong_shift_read_handler(ngx_http_request_t *r);
static ngx_int_t ngx_http_kong_shift_read(ngx_http_request_t *r,
    ngx_http_kong_shift_body_t *body);
static ngx_int_t ngx_http_kong_shift_body_too_large(ngx_http_request_t *r,
    size_t max);


ngx_int_t
ngx_http_kong_shift_read_body(ngx_http_request_t *r,
    ngx_http_kong_shift_body_pt handler)
{
    ngx_int_t                        rc;
    ngx_http_kong_shift_ctx_t       *ctx;
    ngx_http_kong_shift_body_t      *body;
    ngx_http_kong_shift_loc_conf_t  *kslcf;

    kslcf = ngx_http_get_module_loc_conf(r, ngx_http_kong_shift_module);

    if (r->headers_in.content_length_n > (off_t) kslcf->max_body) {
        return ngx_http_kong_shift_body_too_large(r, kslcf->max_body);
    }

    ctx = ngx_http_kong_shift_get_ctx(r);

    if (ctx == NULL) {
        ctx = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_ctx_t));
        if (ctx == NULL) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }

        ngx_http_kong_shift_init_ctx(r, ctx);
    }

    body = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_body_t));
    if (body == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    body->handler = handler;
    body->len = 0;
    body->max = kslcf->max_body;

    if (r->headers_in.content_length_n != -1) {
        body->max = (size_t) r->headers_in.content_length_n;
    }

    body->text = ngx_pnalloc(r->pool, body->max + 1);
    if (body->text == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    ctx->api = body;

    /* never to disk, and never more than what may still be JSON of ours */

    r->request_body_no_buffering = 1;

    rc = ngx_http_read_client_request_body(r,
                                           ngx_http_kong_shift_read_handler);

    if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
        return rc;
    }

    return NGX_DONE;
}


static void
ngx_http_kong_shift_read_handler(ngx_http_request_t *r)
{
    ngx_int_t                        rc;
    ngx_http_kong_shift_ctx_t       *ctx;
    ngx_http_kong_shift_body_t      *body;
    ngx_http_kong_shift_loc_conf_t  *kslcf;

    kslcf = ngx_http_get_module_loc_conf(r, ngx_http_kong_shift_module);

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);
    body = ctx->api;

    rc = ngx_http_kong_shift_read(r, body);

    if (rc == NGX_AGAIN) {
        r->read_event_handler = ngx_http_kong_shift_read_handler;
        return;
    }

    r->read_event_handler = ngx_http_block_reading;

    if (rc == NGX_OK) {
        body->handler(r, body->text, body->len);
        return;
    }

    if (rc == NGX_DECLINED) {
        rc = ngx_http_kong_shift_body_too_large(r, kslcf->max_body);
    }

    ngx_http_finalize_request(r, rc);
}


static ngx_int_t
ngx_http_kong_shift_body_too_large(ngx_http_request_t *r, size_t max)
{
    ngx_http_kong_shift_problem_t  problem;

    ngx_http_kong_shift_set_problem(&problem, "body_too_large",
                                    "the body may have %uz bytes", max);

    return ngx_http_kong_shift_send_problem(r, &problem);
}


/* NGX_DECLINED: too large */

static ngx_int_t
ngx_http_kong_shift_read(ngx_http_request_t *r,
    ngx_http_kong_shift_body_t *body)
{
    size_t        size, before;
    ngx_int_t     rc;
    ngx_buf_t    *b;
    ngx_chain_t  *cl;

    rc = NGX_OK;

    for ( ;; ) {

        before = body->len;

        for (cl = r->request_body->bufs; cl; cl = cl->next) {

            b = cl->buf;
            size = b->last - b->pos;

            if (size > body->max - body->len) {
                return NGX_DECLINED;
            }

            ngx_memcpy(body->text + body->len, b->pos, size);

            body->len += size;
            b->pos = b->last;
        }

        r->request_body->bufs = NULL;

        if (!r->reading_body) {
            return NGX_OK;
        }

        /* a buffer that was full has room again, and no event will tell */

        if (rc == NGX_AGAIN && body->len == before) {
            return NGX_AGAIN;
        }

        rc = ngx_http_read_unbuffered_request_body(r);

        if (rc >= NGX_HTTP_SPECIAL_RESPONSE) {
            return rc;
        }
    }
}
