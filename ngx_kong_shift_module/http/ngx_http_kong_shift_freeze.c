
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_RETRY  60


static void ngx_http_kong_shift_write_done(void *data);
static ngx_uint_t ngx_http_kong_shift_is_harmless(ngx_http_request_t *r);
static ngx_uint_t ngx_http_kong_shift_is_validate(ngx_http_request_t *r);


ngx_int_t
ngx_http_kong_shift_freeze_handler(ngx_http_request_t *r)
{
    uint64_t                         word;
    uint32_t                        *writes;
    ngx_pool_cleanup_t              *cln;
    ngx_kong_shift_record_t         *rec;
    ngx_http_kong_shift_loc_conf_t  *kslcf;
    ngx_http_kong_shift_problem_t    problem;

    kslcf = ngx_http_get_module_loc_conf(r, ngx_http_kong_shift_module);

    /* the endpoint that lifts it is never frozen itself */

    if (kslcf->freeze == NULL || kslcf->api
        || ngx_http_kong_shift_is_harmless(r))
    {
        return NGX_DECLINED;
    }

    cln = ngx_pool_cleanup_add(r->pool, 0);
    if (cln == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    rec = kslcf->freeze->record;
    writes = &rec->census[ngx_http_kong_shift_conf()->row].writes;

    /*
     * Counted before the look: whoever sets the freeze and then sees no write
     * under way can be sure that none will follow.
     */

    __atomic_add_fetch(writes, 1, __ATOMIC_SEQ_CST);

    word = __atomic_load_n(&rec->word, __ATOMIC_SEQ_CST);

    if (!(word & NGX_KONG_SHIFT_WORD_FREEZE)) {
        cln->handler = ngx_http_kong_shift_write_done;
        cln->data = writes;

        return NGX_DECLINED;
    }

    ngx_http_kong_shift_write_done(writes);

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


static void
ngx_http_kong_shift_write_done(void *data)
{
    uint32_t  *writes = data;

    /* the record may by now be that of a shift of a later configuration */

    if (*writes) {
        __atomic_sub_fetch(writes, 1, __ATOMIC_SEQ_CST);
    }
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
