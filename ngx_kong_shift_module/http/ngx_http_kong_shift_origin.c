
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static ngx_uint_t ngx_http_kong_shift_is_own_host(ngx_http_request_t *r);
static ngx_uint_t ngx_http_kong_shift_is_server_name(ngx_http_request_t *r,
    ngx_str_t *host);
static ngx_uint_t ngx_http_kong_shift_is_foreign(ngx_http_request_t *r,
    ngx_table_elt_t *h);
static ngx_uint_t ngx_http_kong_shift_is_own_origin(ngx_http_request_t *r,
    ngx_str_t *origin);
static ngx_uint_t ngx_http_kong_shift_is_json(ngx_http_request_t *r);


ngx_int_t
ngx_http_kong_shift_check_origin(ngx_http_request_t *r,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_uint_t        i;
    ngx_list_part_t  *part;
    ngx_table_elt_t  *h;

    /* a browser that resolves a foreign name to us still sends that name */

    if (!ngx_http_kong_shift_is_own_host(r)) {
        ngx_http_kong_shift_set_problem(problem, "foreign_host",
                                        "Host \"%V\" is neither an address "
                                        "nor \"localhost\" nor a server_name "
                                        "of this server",
                                        &r->headers_in.server);
        return NGX_ERROR;
    }

    part = &r->headers_in.headers.part;
    h = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                break;
            }

            part = part->next;
            h = part->elts;
            i = 0;
        }

        if (ngx_http_kong_shift_is_foreign(r, &h[i])) {
            ngx_http_kong_shift_set_problem(problem, "cross_site",
                                            "%V \"%V\" says that another site "
                                            "sent this request", &h[i].key,
                                            &h[i].value);
            return NGX_ERROR;
        }
    }

    if (!ngx_http_kong_shift_is_json(r)) {
        ngx_http_kong_shift_set_problem(problem, "unsupported_media_type",
                                        "Content-Type must be "
                                        "\"application/json\", the form type "
                                        "of \"curl -d\", or missing");
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_uint_t
ngx_http_kong_shift_is_own_host(ngx_http_request_t *r)
{
    u_char     addr6[16];
    ngx_str_t  host;

    host = r->headers_in.server;

    /* of HTTP/1.0, and no browser's */

    if (host.len == 0) {
        return 1;
    }

    if (ngx_inet_addr(host.data, host.len) != INADDR_NONE) {
        return 1;
    }

    if (host.len > 2 && host.data[0] == '['
        && host.data[host.len - 1] == ']'
        && ngx_inet6_addr(host.data + 1, host.len - 2, addr6) == NGX_OK)
    {
        return 1;
    }

    if (host.len == sizeof("localhost") - 1
        && ngx_strncmp(host.data, "localhost", host.len) == 0)
    {
        return 1;
    }

    return ngx_http_kong_shift_is_server_name(r, &host);
}


static ngx_uint_t
ngx_http_kong_shift_is_server_name(ngx_http_request_t *r, ngx_str_t *host)
{
    ngx_str_t                        name;
    ngx_uint_t                       i;
    ngx_http_server_name_t          *sn;
    ngx_http_kong_shift_loc_conf_t  *kslcf;

    kslcf = ngx_http_get_module_loc_conf(r, ngx_http_kong_shift_module);

    sn = kslcf->names.elts;

    for (i = 0; i < kslcf->names.nelts; i++) {

#if (NGX_PCRE)

        if (sn[i].regex) {
            if (ngx_regex_exec(sn[i].regex->regex, host, NULL, 0) >= 0) {
                return 1;
            }

            continue;
        }

#endif

        name = sn[i].name;

        if (name.len == 0) {
            continue;
        }

        /* ".example.com" is itself and all below, "*.example.com" all below */

        if (name.data[0] == '.'
            && host->len == name.len - 1
            && ngx_strncasecmp(host->data, name.data + 1, host->len) == 0)
        {
            return 1;
        }

        if (name.data[0] == '*') {
            name.data++;
            name.len--;
        }

        if (name.data[0] == '.') {

            if (host->len > name.len
                && ngx_strncasecmp(host->data + host->len - name.len,
                                   name.data, name.len)
                   == 0)
            {
                return 1;
            }

            continue;
        }

        if (name.len > 2 && name.data[name.len - 1] == '*') {

            name.len--;

            if (host->len > name.len
                && ngx_strncasecmp(host->data, name.data, name.len) == 0)
            {
                return 1;
            }

            continue;
        }

        if (host->len == name.len
            && ngx_strncasecmp(host->data, name.data, name.len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_uint_t
ngx_http_kong_shift_is_foreign(ngx_http_request_t *r, ngx_table_elt_t *h)
{
    static ngx_str_t  origin = ngx_string("origin");
    static ngx_str_t  fetch = ngx_string("sec-fetch-site");
    static ngx_str_t  cross = ngx_string("cross-site");

    if (h->key.len == origin.len
        && ngx_strncmp(h->lowcase_key, origin.data, origin.len) == 0)
    {
        return !ngx_http_kong_shift_is_own_origin(r, &h->value);
    }

    return h->key.len == fetch.len
           && ngx_strncmp(h->lowcase_key, fetch.data, fetch.len) == 0
           && h->value.len == cross.len
           && ngx_strncasecmp(h->value.data, cross.data, cross.len) == 0;
}


/* scheme://host[:port] against what the client named as the host */

static ngx_uint_t
ngx_http_kong_shift_is_own_origin(ngx_http_request_t *r, ngx_str_t *origin)
{
    u_char           *p, *last;
    ngx_table_elt_t  *host;

    host = r->headers_in.host;

    if (host == NULL) {
        return 0;
    }

    last = origin->data + origin->len;

    for (p = origin->data; p < last && *p != ':'; p++) { /* void */ }

    if (last - p < 3 || p[1] != '/' || p[2] != '/') {
        return 0;
    }

    p += 3;

    return (size_t) (last - p) == host->value.len
           && ngx_strncasecmp(p, host->value.data, host->value.len) == 0;
}


static ngx_uint_t
ngx_http_kong_shift_is_json(ngx_http_request_t *r)
{
    size_t      len;
    ngx_str_t  *value;
    ngx_uint_t  i;

    static ngx_str_t  types[] = {
        ngx_string("application/json"),
        ngx_string("application/x-www-form-urlencoded"),
        ngx_null_string
    };

    if (r->headers_in.content_type == NULL) {
        return 1;
    }

    value = &r->headers_in.content_type->value;

    for (len = 0; len < value->len; len++) {
        if (value->data[len] == ';' || value->data[len] == ' '
            || value->data[len] == '\t')
        {
            break;
        }
    }

    for (i = 0; types[i].len; i++) {
        if (len == types[i].len
            && ngx_strncasecmp(value->data, types[i].data, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}
