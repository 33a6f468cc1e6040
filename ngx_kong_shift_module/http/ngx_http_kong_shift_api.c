
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


static void ngx_http_kong_shift_route_shift(
    ngx_http_kong_shift_object_t *target, ngx_str_t *path);
static void ngx_http_kong_shift_find_resource(
    ngx_http_kong_shift_object_t *target, ngx_http_kong_shift_level_e level,
    ngx_str_t *name, ngx_str_t *path);
static void ngx_http_kong_shift_segment(ngx_str_t *path, ngx_str_t *name);
static ngx_uint_t ngx_http_kong_shift_is(ngx_str_t *name, ngx_str_t *other);
static void ngx_http_kong_shift_path(ngx_http_request_t *r,
    ngx_str_t *path);
static ngx_int_t ngx_http_kong_shift_check_method(ngx_http_request_t *r,
    ngx_http_kong_shift_resource_t *resource,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_list(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target);
static ngx_int_t ngx_http_kong_shift_show(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target);
static ngx_int_t ngx_http_kong_shift_events(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target);


static ngx_http_kong_shift_resource_t  ngx_http_kong_shift_resources[] = {

    { NGX_HTTP_KONG_SHIFT_TOP, ngx_string("shifts"), 0, "GET, HEAD",
      ngx_http_kong_shift_list, NULL, NULL, NULL },

    { NGX_HTTP_KONG_SHIFT_TOP, ngx_string("metrics"), 0, "GET, HEAD",
      ngx_http_kong_shift_metrics, NULL, NULL, NULL },

    { NGX_HTTP_KONG_SHIFT_ONE, ngx_null_string, 0, "GET, HEAD",
      ngx_http_kong_shift_show, ngx_http_kong_shift_json_shift, NULL, NULL },

    { NGX_HTTP_KONG_SHIFT_ONE, ngx_string("weight"),
      NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_show, ngx_http_kong_shift_json_weight,
      ngx_http_kong_shift_parse_weight, NULL },

    { NGX_HTTP_KONG_SHIFT_ONE, ngx_string("gate"),
      NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_show, ngx_http_kong_shift_json_gate,
      ngx_http_kong_shift_parse_gate, NULL },

    { NGX_HTTP_KONG_SHIFT_ONE, ngx_string("freeze"),
      NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_show, ngx_http_kong_shift_json_freeze,
      ngx_http_kong_shift_parse_freeze, NULL },

    { NGX_HTTP_KONG_SHIFT_ONE, ngx_string("abort"), NGX_HTTP_POST, "POST",
      NULL, ngx_http_kong_shift_json_weight,
      ngx_http_kong_shift_parse_abort, NULL },

    { NGX_HTTP_KONG_SHIFT_ONE, ngx_string("events"), 0, "GET, HEAD",
      ngx_http_kong_shift_events, NULL, NULL, NULL },

    { NGX_HTTP_KONG_SHIFT_POOL, ngx_null_string, 0, "GET, HEAD",
      ngx_http_kong_shift_show, ngx_http_kong_shift_json_pool, NULL, NULL },

    { NGX_HTTP_KONG_SHIFT_POOL, ngx_string("safe_to_stop"), 0, "GET, HEAD",
      ngx_http_kong_shift_safe_to_stop, NULL, NULL, NULL },

    { NGX_HTTP_KONG_SHIFT_POOL, ngx_string("drain"),
      NGX_HTTP_POST|NGX_HTTP_DELETE, "POST, DELETE",
      NULL, ngx_http_kong_shift_json_pool,
      ngx_http_kong_shift_parse_drain, ngx_http_kong_shift_parse_lift },

    { NGX_HTTP_KONG_SHIFT_PEER, ngx_null_string,
      NGX_HTTP_PUT, "GET, HEAD, PUT",
      ngx_http_kong_shift_show, ngx_http_kong_shift_json_peer,
      ngx_http_kong_shift_parse_peer, NULL }
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
    ngx_int_t                      rc;
    ngx_http_kong_shift_object_t   target;
    ngx_http_kong_shift_problem_t  problem;

    if (ngx_http_kong_shift_route(r, &target, &problem) != NGX_OK
        || ngx_http_kong_shift_check_method(r, target.resource, &problem)
           != NGX_OK)
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

    return target.resource->show(r, &target);
}


ngx_int_t
ngx_http_kong_shift_route(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_str_t                       path, name;
    ngx_http_upstream_srv_conf_t   *us;
    ngx_http_upstream_main_conf_t  *umcf;

    static ngx_str_t  shifts = ngx_string("shifts");

    ngx_memzero(target, sizeof(ngx_http_kong_shift_object_t));

    ngx_http_kong_shift_path(r, &path);
    ngx_http_kong_shift_segment(&path, &name);

    if (path.len < 2 || !ngx_http_kong_shift_is(&name, &shifts)) {
        ngx_http_kong_shift_find_resource(target, NGX_HTTP_KONG_SHIFT_TOP,
                                          &name, &path);
        goto done;
    }

    ngx_http_kong_shift_segment(&path, &name);

    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);
    us = ngx_http_kong_shift_find(umcf, &name);

    if (us) {
        target->kscf = ngx_http_conf_upstream_srv_conf(us,
                                                  ngx_http_kong_shift_module);
    }

    if (target->kscf == NULL || target->kscf->shift == NULL) {
        ngx_http_kong_shift_set_problem(problem, "unknown_shift",
                                        "no upstream \"%V\" has kong_shift",
                                        &name);
        return NGX_ERROR;
    }

    ngx_http_kong_shift_route_shift(target, &path);

done:

    if (target->resource == NULL) {
        ngx_http_kong_shift_set_problem(problem, "not_found",
            "there are /metrics, /shifts and /shifts/NAME, below it /weight, "
            "/gate, /freeze, /abort, /events and /pools/old or /pools/new, "
            "and below these /safe_to_stop, /drain and /peers/ADDRESS");
        return NGX_ERROR;
    }

    if (target->resource->level == NGX_HTTP_KONG_SHIFT_PEER
        && !ngx_http_kong_shift_has_peer(target))
    {
        ngx_http_kong_shift_set_problem(problem, "unknown_peer",
            "\"%V\" has no peer \"%V\"; peers are named by address and "
            "port, as GET .../pools/%s lists them",
            &target->kscf->pool[target->pool]->host, &target->addr,
            ngx_http_kong_shift_pool_names[target->pool]);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* below /shifts/NAME */

static void
ngx_http_kong_shift_route_shift(ngx_http_kong_shift_object_t *target,
    ngx_str_t *path)
{
    ngx_str_t  name;

    static ngx_str_t  pools = ngx_string("pools");
    static ngx_str_t  peers = ngx_string("peers");
    static ngx_str_t  old = ngx_string("old");
    static ngx_str_t  new = ngx_string("new");

    ngx_http_kong_shift_segment(path, &name);

    if (path->len == 0 || !ngx_http_kong_shift_is(&name, &pools)) {
        ngx_http_kong_shift_find_resource(target, NGX_HTTP_KONG_SHIFT_ONE,
                                          &name, path);
        return;
    }

    ngx_http_kong_shift_segment(path, &name);

    if (ngx_http_kong_shift_is(&name, &new)) {
        target->pool = NGX_KONG_SHIFT_NEW;

    } else if (!ngx_http_kong_shift_is(&name, &old)) {
        return;
    }

    ngx_http_kong_shift_segment(path, &name);

    if (path->len < 2 || !ngx_http_kong_shift_is(&name, &peers)) {
        ngx_http_kong_shift_find_resource(target, NGX_HTTP_KONG_SHIFT_POOL,
                                          &name, path);
        return;
    }

    /* an address may hold slashes: all of the rest is one */

    target->addr.data = path->data + 1;
    target->addr.len = path->len - 1;

    ngx_str_null(&name);
    ngx_str_null(path);

    ngx_http_kong_shift_find_resource(target, NGX_HTTP_KONG_SHIFT_PEER, &name,
                                      path);
}


/* the resource of that name, but only if it is where the path ends */

static void
ngx_http_kong_shift_find_resource(ngx_http_kong_shift_object_t *target,
    ngx_http_kong_shift_level_e level, ngx_str_t *name, ngx_str_t *path)
{
    ngx_uint_t                       i;
    ngx_http_kong_shift_resource_t  *resource;

    if (path->len) {
        return;
    }

    for (i = 0; i < NGX_HTTP_KONG_SHIFT_RESOURCES; i++) {
        resource = &ngx_http_kong_shift_resources[i];

        if (resource->level == level
            && ngx_http_kong_shift_is(name, &resource->name))
        {
            target->resource = resource;
            return;
        }
    }
}


/*
 * Takes "/NAME" off the path.  A slash with nothing behind it is no end of the
 * path and stays, so that no resource is found.
 */

static void
ngx_http_kong_shift_segment(ngx_str_t *path, ngx_str_t *name)
{
    u_char  *p, *last;

    ngx_str_null(name);

    if (path->len < 2 || path->data[0] != '/') {
        return;
    }

    p = path->data + 1;
    last = path->data + path->len;

    for (name->data = p; p < last && *p != '/'; p++) { /* void */ }

    name->len = p - name->data;

    path->data = p;
    path->len = last - p;
}


static ngx_uint_t
ngx_http_kong_shift_is(ngx_str_t *name, ngx_str_t *other)
{
    return name->len == other->len
           && (name->len == 0
               || ngx_strncmp(name->data, other->data, name->len) == 0);
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
    ngx_http_kong_shift_loc_conf_t  *kslcf;

    if (resource->show && (r->method & (NGX_HTTP_GET|NGX_HTTP_HEAD))) {
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
        problem->allow = resource->show ? "GET, HEAD" : "";
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_list(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target)
{
    json_t                           *json, *list;
    ngx_uint_t                        i;
    ngx_kong_shift_conf_t            *conf;
    ngx_kong_shift_snapshot_t         snap;
    ngx_http_upstream_srv_conf_t    **uscfp;
    ngx_http_upstream_main_conf_t    *umcf;

    conf = ngx_http_kong_shift_conf();
    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);

    json = json_pack("{s[]}", "shifts");
    list = json_object_get(json, "shifts");

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf == NULL) {
            continue;
        }

        target->kscf = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                                  ngx_http_kong_shift_module);

        if (target->kscf->shift == NULL) {
            continue;
        }

        ngx_kong_shift_read(target->kscf->shift->record, &snap);

        if (json_array_append_new(list,
                         ngx_http_kong_shift_json_shift(conf, target, &snap))
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
    ngx_http_kong_shift_object_t *target)
{
    json_t                     *json;
    ngx_kong_shift_snapshot_t   snap;

    ngx_kong_shift_read(target->kscf->shift->record, &snap);

    json = target->resource->json(ngx_http_kong_shift_conf(), target, &snap);

    return ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json,
                                         snap.state.generation);
}


static ngx_int_t
ngx_http_kong_shift_events(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target)
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
                                   target->kscf->shift->record, since,
                                   &events, &n, &last, r->connection->log)
        != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    json = ngx_http_kong_shift_json_events(target->kscf->shift, events, n,
                                           last);

    ngx_free(events);

    return ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json, 0);
}
