
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_BUF   (16 * 1024)

/* more than any line: its labels are bounded, twice that when escaped */
#define NGX_HTTP_KONG_SHIFT_LINE  1024


typedef struct {
    ngx_http_request_t            *request;
    ngx_chain_t                   *out;
    ngx_chain_t                   *last;
} ngx_http_kong_shift_text_t;


static ngx_int_t ngx_http_kong_shift_views(ngx_http_request_t *r,
    ngx_array_t *views);
static ngx_int_t ngx_http_kong_shift_metric(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_array_t *views);
static ngx_int_t ngx_http_kong_shift_samples(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s);
static ngx_int_t ngx_http_kong_shift_sample(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s,
    const char *label, size_t offset);
static ngx_buf_t *ngx_http_kong_shift_room(ngx_http_kong_shift_text_t *text);
static u_char *ngx_http_kong_shift_label(u_char *p, const char *name,
    const char *value);
ngx_int_t
ngx_http_kong_shift_metrics(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target)
{
    ngx_array_t                    views;
    ngx_http_kong_shift_text_t     text;
    ngx_http_kong_shift_metric_t  *metric;

    if (ngx_http_kong_shift_views(r, &views) != NGX_OK) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    text.request = r;
    text.out = NULL;
    text.last = NULL;

    for (metric = ngx_http_kong_shift_metric_list; metric->name; metric++) {
        if (ngx_http_kong_shift_metric(&text, metric, &views) != NGX_OK) {
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    return ngx_http_kong_shift_send_text(r, NGX_HTTP_OK,
                                   "text/plain; version=0.0.4; charset=utf-8",
                                   text.out);
}


/* all numbers are of one moment, also those of one pool in several metrics */

static ngx_int_t
ngx_http_kong_shift_views(ngx_http_request_t *r, ngx_array_t *views)
{
    ngx_uint_t                        i;
    ngx_kong_shift_conf_t            *conf;
    ngx_http_upstream_srv_conf_t    **uscfp;
    ngx_http_upstream_main_conf_t    *umcf;
    ngx_http_kong_shift_srv_conf_t   *kscf;
    ngx_http_kong_shift_view_t      **view;

    conf = ngx_http_kong_shift_conf();
    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);

    if (ngx_array_init(views, r->pool, 4,
                       sizeof(ngx_http_kong_shift_view_t *))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf == NULL) {
            continue;
        }

        kscf = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                               ngx_http_kong_shift_module);

        if (kscf->shift == NULL) {
            continue;
        }

        view = ngx_array_push(views);
        if (view == NULL) {
            return NGX_ERROR;
        }

        *view = ngx_palloc(r->pool, sizeof(ngx_http_kong_shift_view_t));
        if (*view == NULL) {
            return NGX_ERROR;
        }

        ngx_http_kong_shift_view(conf, kscf, *view);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_metric(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_array_t *views)
{
    ngx_buf_t                      *b;
    ngx_uint_t                      i, pool, peer;
    ngx_http_kong_shift_view_t    **view;
    ngx_http_kong_shift_subject_t   s;

    b = ngx_http_kong_shift_room(text);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_slprintf(b->last, b->end, "# HELP %s %s\n# TYPE %s %s\n",
                           metric->name, metric->help, metric->name,
                           metric->counter ? "counter" : "gauge");

    ngx_memzero(&s, sizeof(ngx_http_kong_shift_subject_t));

    view = views->elts;

    for (i = 0; i < views->nelts; i++) {
        s.view = view[i];

        if (metric->scope == NGX_HTTP_KONG_SHIFT_OF_SHIFT) {
            if (ngx_http_kong_shift_samples(text, metric, &s) != NGX_OK) {
                return NGX_ERROR;
            }

            continue;
        }

        for (pool = 0; pool < 2; pool++) {
            s.pool = pool;

            if (metric->scope == NGX_HTTP_KONG_SHIFT_OF_POOL) {
                if (ngx_http_kong_shift_samples(text, metric, &s) != NGX_OK) {
                    return NGX_ERROR;
                }

                continue;
            }

            for (peer = 0; peer < NGX_KONG_SHIFT_PEERS; peer++) {
                s.place = peer;

                if (view[i]->pool[pool].peer[peer].configured
                    && ngx_http_kong_shift_samples(text, metric, &s)
                       != NGX_OK)
                {
                    return NGX_ERROR;
                }
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_samples(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s)
{
    size_t       size, offset;
    ngx_uint_t   i;
    const char  *value;

    offset = metric->offset;

    if (metric->counter && metric->scope == NGX_HTTP_KONG_SHIFT_OF_PEER) {
        offset += s->place * sizeof(ngx_kong_shift_peer_t);
    }

    if (metric->label == NULL) {
        return ngx_http_kong_shift_sample(text, metric, s, NULL, offset);
    }

    size = metric->values ? sizeof(uint64_t)
                          : sizeof(ngx_kong_shift_version_t);

    for (i = 0; i < metric->nvalues; i++) {

        value = metric->values ? metric->values[i]
                               : s->view->pool[s->pool].version[i].text;

        if (value[0] && ngx_http_kong_shift_sample(text, metric, s, value,
                                                   offset + i * size)
                        != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_sample(ngx_http_kong_shift_text_t *text,
    ngx_http_kong_shift_metric_t *metric, ngx_http_kong_shift_subject_t *s,
    const char *label, size_t offset)
{
    u_char     *p, *end, value[NGX_INT64_LEN + sizeof(".000")];
    ngx_buf_t  *b;

    end = metric->value(value, s, offset);
    if (end == NULL) {
        return NGX_OK;
    }

    b = ngx_http_kong_shift_room(text);
    if (b == NULL) {
        return NGX_ERROR;
    }

    p = b->last;

    p = ngx_cpymem(p, metric->name, ngx_strlen(metric->name));
    *p++ = '{';

    p = ngx_http_kong_shift_label(p, "shift",
                                  s->view->kscf->shift->record->name);

    if (metric->scope != NGX_HTTP_KONG_SHIFT_OF_SHIFT) {
        *p++ = ',';
        p = ngx_http_kong_shift_label(p, "pool",
                                   ngx_http_kong_shift_pool_names[s->pool]);
    }

    if (metric->scope == NGX_HTTP_KONG_SHIFT_OF_PEER) {
        *p++ = ',';
        p = ngx_http_kong_shift_label(p, "peer",
                              s->view->pool[s->pool].peer[s->place].addr);
    }

    if (label) {
        *p++ = ',';
        p = ngx_http_kong_shift_label(p, metric->label, label);
    }

    *p++ = '}';
    *p++ = ' ';
    p = ngx_cpymem(p, value, end - value);
    *p++ = '\n';

    b->last = p;

    return NGX_OK;
}


/* a buffer with room for one more line */

static ngx_buf_t *
ngx_http_kong_shift_room(ngx_http_kong_shift_text_t *text)
{
    ngx_chain_t  *cl;

    if (text->last && text->last->buf->end - text->last->buf->last
                      >= NGX_HTTP_KONG_SHIFT_LINE)
    {
        return text->last->buf;
    }

    cl = ngx_alloc_chain_link(text->request->pool);
    if (cl == NULL) {
        return NULL;
    }

    cl->buf = ngx_create_temp_buf(text->request->pool,
                                  NGX_HTTP_KONG_SHIFT_BUF);
    if (cl->buf == NULL) {
        return NULL;
    }

    cl->next = NULL;

    if (text->last) {
        text->last->next = cl;

    } else {
        text->out = cl;
    }

    text->last = cl;

    return cl->buf;
}


static u_char *
ngx_http_kong_shift_label(u_char *p, const char *name, const char *value)
{
    ngx_str_t   s;
    ngx_uint_t  i, text;

    p = ngx_cpymem(p, name, ngx_strlen(name));
    *p++ = '=';
    *p++ = '"';

    s.data = (u_char *) value;
    s.len = ngx_strlen(value);

    /* a path need not be UTF-8, and one such byte would spoil all */

    text = ngx_kong_shift_is_text(&s);

    for (i = 0; i < s.len; i++) {

        if (!text && (s.data[i] < 0x20 || s.data[i] > 0x7e)) {
            *p++ = '?';
            continue;
        }

        if (s.data[i] == '"' || s.data[i] == '\\') {
            *p++ = '\\';
        }

        *p++ = s.data[i];
    }

    *p++ = '"';

    return p;
}
