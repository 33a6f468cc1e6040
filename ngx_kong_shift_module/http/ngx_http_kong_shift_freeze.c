
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_RETRY  60


static ngx_uint_t ngx_http_kong_shift_is_harmless(ngx_http_request_t *r);
static ngx_uint_t ngx_http_kong_shift_is_validate(ngx_http_request_t *r);


ngx_int_t
ngx_http_kong_shift_freeze_handler(ngx_http_request_t *r)
{
    uint64_t                         word;
    ngx_http_kong_shift_loc_conf_t  *kslcf;
    ngx_http_kong_shift_problem_t    problem;

    kslcf = ngx_http_get_module_loc_conf(r, ngx_http_kong_shift_module);

    /* the endpoint that lifts it is never frozen itself */

    if (kslcf->freeze == NULL || kslcf->api) {
        return NGX_DECLINED;
    }

    word = __atomic_load_n(&kslcf->freeze->record->word, __ATOMIC_ACQUIRE);

    if (!(word & NGX_KONG_SHIFT_WORD_FREEZE)
        || ngx_http_kong_shift_is_harmless(r))
    {
        return NGX_DECLINED;
    }

    ngx_http_kong_shift_set_problem(&problem, "frozen",
                                    "admin writes are frozen while \"%V\" is "
                                    "upgraded; reads are answered as before",
                                    &kslcf->freeze->name);

    problem.retry = NGX_HTTP_KONG_SHIFT_RETRY;

    ngx_log_error(NGX_LOG_NOTICE, r->connection->log, 0,
                  "kong_shift \"%V\": admin write denied by the freeze",
                  &kslcf->freeze->name);

    ngx_http_finalize_request(r,
                              ngx_http_kong_shift_send_problem(r, &problem));

    return NGX_DONE;
}


static ngx_uint_t
ngx_http_kong_shift_is_harmless(ngx_http_request_t *r)
{
    if (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD|NGX_HTTP_OPTIONS)) {
        return 1;
    }

    return r->method == NGX_HTTP_POST && ngx_http_kong_shift_is_validate(r);
}


/*
 * .../schemas/NAME/validate writes nothing.  Kong sees the path as the client
 * sent it, so one that needs decoding or merging is not trusted to be this.
 */

static ngx_uint_t
ngx_http_kong_shift_is_validate(ngx_http_request_t *r)
{
    u_char  *p, *start;

    static u_char  schemas[] = "/schemas";
    static u_char  validate[] = "/validate";

    if (r->quoted_uri || r->complex_uri
        || r->uri.len < sizeof(validate) - 1)
    {
        return 0;
    }

    start = r->uri.data;
    p = start + r->uri.len - (sizeof(validate) - 1);

    if (ngx_strncmp(p, validate, sizeof(validate) - 1) != 0) {
        return 0;
    }

    /* the name: one segment, not empty */

    if (p == start || *(p - 1) == '/') {
        return 0;
    }

    while (p > start && *(p - 1) != '/') {
        p--;
    }

    p--;

    return (size_t) (p - start) >= sizeof(schemas) - 1
           && ngx_strncmp(p - (sizeof(schemas) - 1), schemas,
                          sizeof(schemas) - 1)
              == 0;
}
