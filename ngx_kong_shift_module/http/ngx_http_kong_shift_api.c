
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


typedef json_t *(*ngx_http_kong_shift_json_pt)(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);


/* what is below /shifts/NAME */

typedef struct {
    ngx_str_t                      name;
    ngx_uint_t                     methods;    /* but GET and HEAD */
    const char                    *allow;
    ngx_http_kong_shift_json_pt    json;
    ngx_http_kong_shift_parse_pt   parse;
} ngx_http_kong_shift_resource_t;


typedef struct {
    ngx_http_kong_shift_srv_conf_t   *kscf;
    ngx_http_kong_shift_resource_t   *resource;
    ngx_uint_t                        starting;
    ngx_uint_t                        done;
    ngx_kong_shift_op_t               op;
} ngx_http_kong_shift_write_t;


static ngx_int_t ngx_http_kong_shift_list(ngx_http_request_t *r);
static ngx_int_t ngx_http_kong_shift_route(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t **kscf,
    ngx_http_kong_shift_resource_t **resource,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_path(ngx_http_request_t *r,
    ngx_str_t *path);
static ngx_http_kong_shift_srv_conf_t *ngx_http_kong_shift_find_name(
    ngx_http_request_t *r, ngx_str_t *name);
static ngx_int_t ngx_http_kong_shift_check_method(ngx_http_request_t *r,
    ngx_http_kong_shift_resource_t *resource,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_show(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_resource_t *resource);
static ngx_int_t ngx_http_kong_shift_events(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf);
static void ngx_http_kong_shift_write(ngx_http_request_t *r, u_char *text,
    size_t len);
static void ngx_http_kong_shift_match(ngx_http_request_t *r,
    ngx_kong_shift_t *shift, ngx_kong_shift_change_t *change);
static void ngx_http_kong_shift_written(ngx_kong_shift_op_t *op);
static void ngx_http_kong_shift_answer(ngx_http_request_t *r);
static void ngx_http_kong_shift_op_problem(ngx_http_kong_shift_write_t *w,
    ngx_http_kong_shift_problem_t *problem);


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


static ngx_kong_shift_conf_t *
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


/*
 * Finds what the path names; *kscf is NULL for the list of shifts.
 */

static ngx_int_t
ngx_http_kong_shift_route(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t **kscf,
    ngx_http_kong_shift_resource_t **resource,
    ngx_http_kong_shift_problem_t *problem)
{
    u_char      *p, *last;
    ngx_str_t    path, name;
    ngx_uint_t   i;

    static ngx_str_t  shifts = ngx_string("/shifts");

    *kscf = NULL;
    *resource = &ngx_http_kong_shift_resources[0];

    if (ngx_http_kong_shift_path(r, &path) != NGX_OK
        || path.len < shifts.len
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

    *kscf = ngx_http_kong_shift_find_name(r, &name);

    if (*kscf == NULL) {
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

static ngx_int_t
ngx_http_kong_shift_path(ngx_http_request_t *r, ngx_str_t *path)
{
    size_t                     len;
    ngx_http_core_loc_conf_t  *clcf;

    clcf = ngx_http_get_module_loc_conf(r, ngx_http_core_module);

    *path = r->uri;

#if (NGX_PCRE)
    if (clcf->regex) {
        return NGX_OK;
    }
#endif

    len = clcf->name.len;

    if (clcf->named || len > path->len) {
        return NGX_OK;
    }

    if (len && clcf->name.data[len - 1] == '/') {
        len--;
    }

    path->data += len;
    path->len -= len;

    return NGX_OK;
}


static ngx_http_kong_shift_srv_conf_t *
ngx_http_kong_shift_find_name(ngx_http_request_t *r, ngx_str_t *name)
{
    ngx_uint_t                       i;
    ngx_http_upstream_srv_conf_t   **uscfp;
    ngx_http_upstream_main_conf_t   *umcf;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    umcf = ngx_http_get_module_main_conf(r, ngx_http_upstream_module);

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf == NULL
            || uscfp[i]->host.len != name->len
            || ngx_strncmp(uscfp[i]->host.data, name->data, name->len) != 0)
        {
            continue;
        }

        kscf = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                               ngx_http_kong_shift_module);

        return kscf->shift ? kscf : NULL;
    }

    return NULL;
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
                                        "%V is not allowed here, %s is",
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


static void
ngx_http_kong_shift_write(ngx_http_request_t *r, u_char *text, size_t len)
{
    ngx_int_t                       rc;
    ngx_http_kong_shift_ctx_t      *ctx;
    ngx_http_kong_shift_write_t    *w;
    ngx_http_kong_shift_problem_t   problem;

    w = ngx_pcalloc(r->pool, sizeof(ngx_http_kong_shift_write_t));
    if (w == NULL) {
        ngx_http_finalize_request(r, NGX_HTTP_INTERNAL_SERVER_ERROR);
        return;
    }

    if (ngx_http_kong_shift_route(r, &w->kscf, &w->resource, &problem)
        != NGX_OK)
    {
        rc = ngx_http_kong_shift_send_problem(r, &problem);
        ngx_http_finalize_request(r, rc);
        return;
    }

    w->op.change.action = NGX_KONG_SHIFT_ABORT;

    if (ngx_http_kong_shift_parse_body(text, len,
                                       r->method == NGX_HTTP_POST,
                                       w->resource->parse, &w->op.change,
                                       &problem)
        != NGX_OK)
    {
        rc = ngx_http_kong_shift_send_problem(r, &problem);
        ngx_http_finalize_request(r, rc);
        return;
    }

    ngx_http_kong_shift_match(r, w->kscf->shift, &w->op.change);

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);
    ctx->api = w;

    w->op.kscf = ngx_http_kong_shift_conf();
    w->op.shift = w->kscf->shift;
    w->op.pool = r->pool;
    w->op.log = r->connection->log;
    w->op.handler = ngx_http_kong_shift_written;
    w->op.data = r;

    ngx_cpystrn((u_char *) w->op.by, r->connection->addr_text.data,
                ngx_min(r->connection->addr_text.len + 1,
                        sizeof(w->op.by)));

    r->write_event_handler = ngx_http_kong_shift_answer;

    /* a client that goes away must not take the memory of the change along */

    r->main->blocked++;

    w->starting = 1;

    ngx_kong_shift_op_start(&w->op);

    w->starting = 0;

    if (w->done) {
        ngx_http_kong_shift_answer(r);
    }
}


static void
ngx_http_kong_shift_match(ngx_http_request_t *r, ngx_kong_shift_t *shift,
    ngx_kong_shift_change_t *change)
{
    u_char                     *p, *last, tag[NGX_INT64_LEN + 2];
    size_t                      len;
    ngx_str_t                   value;
    ngx_kong_shift_snapshot_t   snap;

    /* what stops the traffic to new is never refused */

    if (r->headers_in.if_match == NULL
        || change->action == NGX_KONG_SHIFT_ABORT
        || change->action == NGX_KONG_SHIFT_CLOSE_GATE)
    {
        return;
    }

    value = r->headers_in.if_match->value;

    if (value.len == 1 && value.data[0] == '*') {
        return;
    }

    ngx_kong_shift_read(shift->record, &snap);

    len = ngx_sprintf(tag, "\"%uL\"", snap.state.generation) - tag;

    /*
     * One of the list must be the current one, and it must still be when the
     * change is made.  Generation 0 never is.
     */

    change->match = 1;
    change->generation = 0;

    last = value.data + value.len;

    for (p = value.data; p < last; p++) {

        while (p < last && (*p == ' ' || *p == '\t')) {
            p++;
        }

        if ((size_t) (last - p) >= len
            && ngx_strncmp(p, tag, len) == 0
            && (p + len == last || p[len] == ' ' || p[len] == '\t'
                || p[len] == ','))
        {
            change->generation = snap.state.generation;
            return;
        }

        while (p < last && *p != ',') {
            p++;
        }
    }
}


static void
ngx_http_kong_shift_written(ngx_kong_shift_op_t *op)
{
    ngx_connection_t             *c;
    ngx_http_request_t           *r;
    ngx_http_kong_shift_ctx_t    *ctx;
    ngx_http_kong_shift_write_t  *w;

    r = op->data;
    c = r->connection;

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);
    w = ctx->api;

    w->done = 1;
    r->main->blocked--;

    if (w->starting) {
        return;
    }

    /* or what nginx put there to end the request of a client that left */

    r->write_event_handler(r);

    ngx_http_run_posted_requests(c);
}


static void
ngx_http_kong_shift_answer(ngx_http_request_t *r)
{
    json_t                         *json;
    ngx_int_t                       rc;
    ngx_http_kong_shift_ctx_t      *ctx;
    ngx_kong_shift_snapshot_t       snap;
    ngx_http_kong_shift_write_t    *w;
    ngx_http_kong_shift_problem_t   problem;

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);
    w = ctx->api;

    if (!w->done) {
        return;
    }

    r->write_event_handler = ngx_http_request_empty_handler;

    if (w->op.status != NGX_KONG_SHIFT_OP_DONE) {
        ngx_http_kong_shift_op_problem(w, &problem);
        rc = ngx_http_kong_shift_send_problem(r, &problem);
        ngx_http_finalize_request(r, rc);
        return;
    }

    /* the state that this change made, whatever came after it */

    snap.state = w->op.state;
    snap.word = ngx_kong_shift_word(&snap.state, 0);
    snap.unsaved = !w->op.saved;

    json = w->resource->json(w->op.kscf, w->kscf, &snap);

    rc = ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json,
                                       snap.state.generation);

    ngx_http_finalize_request(r, rc);
}


static void
ngx_http_kong_shift_op_problem(ngx_http_kong_shift_write_t *w,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_str_t                  *name;
    ngx_kong_shift_snapshot_t   snap;

    name = &w->kscf->shift->name;

    ngx_kong_shift_read(w->kscf->shift->record, &snap);

    switch (w->op.status) {

    case NGX_KONG_SHIFT_OP_REFUSED:

        if (w->op.result == NGX_KONG_SHIFT_GATE_CLOSED) {
            ngx_http_kong_shift_set_problem(problem, "gate_closed",
                "the gate of \"%V\" is closed, so its weight stays 0 until "
                "the control-plane phase has passed", name);

        } else if (w->op.result == NGX_KONG_SHIFT_GATE_OFF) {
            ngx_http_kong_shift_set_problem(problem, "gate_off",
                "\"%V\" has no \"kong_shift_gate on\"", name);

        } else if (w->op.change.match) {
            ngx_http_kong_shift_set_problem(problem, "generation_mismatch",
                "If-Match is not the current generation %uL of \"%V\"",
                snap.state.generation, name);

        } else {
            ngx_http_kong_shift_set_problem(problem, "generation_mismatch",
                "\"%V\" was aborted while this change was being saved", name);
        }

        break;

    case NGX_KONG_SHIFT_OP_BUSY:

        ngx_http_kong_shift_set_problem(problem, "busy",
            "another change was being saved for 5 seconds, nothing was "
            "changed");
        problem->retry = 1;
        break;

    case NGX_KONG_SHIFT_OP_REPLACED:

        ngx_http_kong_shift_set_problem(problem, "replaced",
            "this worker is of a configuration that was replaced, nothing "
            "was changed; connect again");
        problem->retry = 1;
        break;

    case NGX_KONG_SHIFT_OP_NOT_SAVED:

        ngx_http_kong_shift_set_problem(problem, "not_saved",
            "%s failed for the state file (%d: %s), nothing was changed",
            w->op.file.what, (int) w->op.file.err,
            strerror(w->op.file.err));
        break;

    default:

        ngx_http_kong_shift_set_problem(problem, "internal_error",
                                        "no memory, nothing was changed");
    }

    problem->current = (json_int_t) snap.state.generation;
}
