
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static ngx_int_t ngx_http_kong_shift_list(ngx_http_request_t *r);
static void ngx_http_kong_shift_path(ngx_http_request_t *r,
    ngx_str_t *path);
static ngx_int_t ngx_http_kong_shift_check_method(ngx_http_request_t *r,
    ngx_http_kong_shift_resource_t *resource,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_show(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_resource_t *resource);
static ngx_int_t ngx_http_kong_shift_events(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf);


static ngx_http_kong_shift_resource_t  ngx_http_kong_shift_resources[] = {

    { ngx_null_string, 0, "GET, HEAD",
      ngx_http_kong_shift_json_shift, NULL },

    { ngx_string("weight"), NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_json_weight, ngx_http_kong_shift_parse_weight },

    { ngx_string("gate"), NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_json_gate, ngx_http_kong_shift_parse_gate },

    { ngx_string("freeze"), NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_json_freeze, ngx_http_kong_shift_parse_freeze },

    /* the one that is not read; it answers with the weight */

    { ngx_string("abort"), NGX_HTTP_POST, "POST",
      ngx_http_kong_shift_json_weight, ngx_http_kong_shift_parse_abort },

    /* it has no generation, and a query */

    { ngx_string("events"), 0, "GET, HEAD", NULL, NULL }
};


#define NGX_HTTP_KONG_SHIFT_RESOURCES                                         \
    (sizeof(ngx_http_kong_shift_resources)                                    \
     / sizeof(ngx_http_kong_shift_resource_t))


ngx_kong_shift_conf_t *
ngx_http_kong_shift_conf(void)
{
    return (ngx_kong_shift_conf_t *) ngx_get_conf(ngx_cycle->conf_ctx,
                                                  ngx_kong_shift_module);
}


ngx_int_t
ngx_http_kong_shift_api_handler(ngx_http_request_t *r)
{
    ngx_int_t                        rc;
    ngx_http_kong_shift_problem_t    problem;
    ngx_http_kong_shift_srv_conf_t  *kscf;
    ngx_http_kong_shift_resource_t  *resource;

    if (ngx_http_kong_shift_route(r, &kscf, &resource, &problem) != NGX_OK
        || ngx_http_kong_shift_check_method(r, resource, &problem) != NGX_OK)
    {
        return ngx_http_kong_shift_send_problem(r, &problem);
    }

    /* what this worker knows is of the past */

    if (ngx_kong_shift_is_replaced(ngx_http_kong_shift_conf())) {
        ngx_http_kong_shift_set_replaced(&problem);
        return ngx_http_kong_shift_send_problem(r, &problem);
    }

    if (!(r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {

        if (ngx_http_kong_shift_check_origin(r, &problem) != NGX_OK) {
            return ngx_http_kong_shift_send_problem(r, &problem);
        }

        return ngx_http_kong_shift_read_body(r, ngx_http_kong_shift_write);
    }

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        return rc;
    }

    if (kscf == NULL) {
        return ngx_http_kong_shift_list(r);
    }

    if (resource->json == NULL) {
        return ngx_http_kong_shift_events(r, kscf);
    }

    return ngx_http_kong_shift_show(r, kscf, resource);
}


ngx_int_t
ngx_http_kong_shift_route(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t **kscf,
    ngx_http_kong_shift_resource_t **resource,
    ngx_http_kong_shift_problem_t *problem)
{
    u_char                         *p, *last;
    ngx_str_t                       path, name;
    ngx_uint_t                      i;
    ngx_http_upstream_srv_conf_t   *us;
    ngx_http_upstream_main_conf_t  *umcf;

    static ngx_str_t  shifts = ngx_string("/shifts");

    *kscf = NULL;
    *resource = &ngx_http_kong_shift_resources[0];

    ngx_http_kong_shift_path(r, &path);

    if (path.len < shifts.len
        || ngx_strncmp(path.data, shifts.data, shifts.len) != 0)
    {
        goto not_found;
    }

    if (path.len == shifts.len) {
        return NGX_OK;
    }

    p = path.data + shifts.len;
    last = path.data + path.len;

    if (*p++ != '/' || p == last) {
        goto not_found;
    }

    for (name.data = p; p < last && *p != '/'; p++) { /* void */ }

    name.len = p - name.data;

    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);
    us = ngx_http_kong_shift_find(umcf, &name);

    *kscf = us ? ngx_http_conf_upstream_srv_conf(us,
                                                ngx_http_kong_shift_module)
               : NULL;

    if (*kscf == NULL || (*kscf)->shift == NULL) {
        ngx_http_kong_shift_set_problem(problem, "unknown_shift",
                                        "no upstream \"%V\" has kong_shift",
                                        &name);
        return NGX_ERROR;
    }

    if (p == last) {
        return NGX_OK;
    }

    p++;

    for (i = 1; i < NGX_HTTP_KONG_SHIFT_RESOURCES; i++) {

        *resource = &ngx_http_kong_shift_resources[i];

        if ((size_t) (last - p) == (*resource)->name.len
            && ngx_strncmp(p, (*resource)->name.data, last - p) == 0)
        {
            return NGX_OK;
        }
    }

not_found:

    ngx_http_kong_shift_set_problem(problem, "not_found",
                                    "there are /shifts and /shifts/NAME, with "
                                    "/weight, /gate, /freeze, /abort and "
                                    "/events below it");

    return NGX_ERROR;
}


/* the URI without what the location matched of it */

static void
ngx_http_kong_shift_path(ngx_http_request_t *r, ngx_str_t *path)
{
    size_t                     len;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    *path = r->uri;

#if (NGX_PCRE)
    if (clcf->regex) {
        return;
    }
#endif

    len = clcf->name.len;

    if (clcf->named || len > path->len) {
        return;
    }

    if (len && clcf->name.data[len - 1] == '/') {
        len--;
    }

    path->data += len;
    path->len -= len;
}


static ngx_int_t
ngx_http_kong_shift_check_method(ngx_http_request_t *r,
    ngx_http_kong_shift_resource_t *resource,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_uint_t                       readable;
    ngx_http_kong_shift_loc_conf_t  *kslcf;

    /* abort is the only one that answers to POST, and to nothing else */

    readable = (resource->methods != NGX_HTTP_POST);

    if (readable && (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
        return NGX_OK;
    }

    /* a subrequest has no body of its own to read, nor a client to answer */

    if (!(r->method & resource->methods) || r != r->main) {
        ngx_http_kong_shift_set_problem(problem, "method_not_allowed",
                                        "%V is not allowed here; allowed: %s",
                                        &r->method_name, resource->allow);
        problem->allow = resource->allow;
        return NGX_ERROR;
    }

    kslcf = ngx_http_get_module_loc_conf(r, ngx_http_kong_shift_module);

    if (!kslcf->write) {
        ngx_http_kong_shift_set_problem(problem, "writes_off",
                                        "this location has no \"write=on\"");
        problem->allow = readable ? "GET, HEAD" : "";
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_list(ngx_http_request_t *r)
{
    json_t                           *json, *list;
    ngx_uint_t                        i;
    ngx_kong_shift_conf_t            *conf;
    ngx_kong_shift_snapshot_t         snap;
    ngx_http_upstream_srv_conf_t    **uscfp;
    ngx_http_upstream_main_conf_t    *umcf;
    ngx_http_kong_shift_srv_conf_t   *kscf;

    conf = ngx_http_kong_shift_conf();
    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);

    json = json_pack("{s[]}", "shifts");
    list = json_object_get(json, "shifts");

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

        ngx_kong_shift_read(kscf->shift->record, &snap);

        if (json_array_append_new(list,
                           ngx_http_kong_shift_json_shift(conf, kscf, &snap))
            != 0)
        {
            json_decref(json);
            return NGX_HTTP_INTERNAL_SERVER_ERROR;
        }
    }

    return ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json, 0);
}


static ngx_int_t
ngx_http_kong_shift_show(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_resource_t *resource)
{
    json_t                     *json;
    ngx_kong_shift_snapshot_t   snap;

    ngx_kong_shift_read(kscf->shift->record, &snap);

    json = resource->json(ngx_http_kong_shift_conf(), kscf, &snap);

    return ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json,
                                         snap.state.generation);
}


static ngx_int_t
ngx_http_kong_shift_events(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf)
{
    json_t                         *json;
    uint64_t                        last;
    ngx_int_t                       since;
    ngx_str_t                       arg;
    ngx_uint_t                      n;
    ngx_kong_shift_event_t         *events;
    ngx_http_kong_shift_problem_t   problem;

    since = 0;

    if (ngx_http_arg(r, (u_char *) "since", sizeof("since") - 1, &arg)
        == NGX_OK)
    {
        since = ngx_atoi(arg.data, arg.len);

        if (since == NGX_ERROR) {
            ngx_http_kong_shift_set_problem(&problem, "invalid_query",
                                            "since=%V must be the id of an "
                                            "event, 0 or more", &arg);
            return ngx_http_kong_shift_send_problem(r, &problem);
        }
    }

    if (ngx_kong_shift_read_events(ngx_http_kong_shift_conf(),
                                   kscf->shift->record, since, &events, &n,
                                   &last, r->connection->log)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    json = ngx_http_kong_shift_json_events(kscf->shift, events, n, last);

    ngx_free(events);

    return ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json, 0);
}
