
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


typedef struct {
    ngx_http_kong_shift_object_t      target;
    ngx_uint_t                        starting;
    ngx_uint_t                        done;
    ngx_kong_shift_op_t               op;
} ngx_http_kong_shift_write_t;


static ngx_int_t ngx_http_kong_shift_get_change(ngx_http_request_t *r,
    ngx_http_kong_shift_write_t *w, u_char *text, size_t len,
    ngx_http_kong_shift_problem_t *problem);
static void ngx_http_kong_shift_match(ngx_http_request_t *r,
    ngx_kong_shift_t *shift, ngx_kong_shift_change_t *change);
static void ngx_http_kong_shift_written(ngx_kong_shift_op_t *op);
static void ngx_http_kong_shift_answer(ngx_http_request_t *r);
static void ngx_http_kong_shift_op_problem(ngx_http_kong_shift_write_t *w,
    ngx_http_kong_shift_problem_t *problem);
static void ngx_http_kong_shift_refused(ngx_http_kong_shift_write_t *w,
    ngx_kong_shift_snapshot_t *snap, ngx_http_kong_shift_problem_t *problem);


void
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

    if (ngx_http_kong_shift_route(r, &w->target, &problem) != NGX_OK
        || ngx_http_kong_shift_get_change(r, w, text, len, &problem)
           != NGX_OK)
    {
        rc = ngx_http_kong_shift_send_problem(r, &problem);
        ngx_http_finalize_request(r, rc);
        return;
    }

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);
    ctx->api = w;

    w->op.kcf = ngx_http_kong_shift_conf();
    w->op.shift = w->target.kscf->shift;
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


static ngx_int_t
ngx_http_kong_shift_get_change(ngx_http_request_t *r,
    ngx_http_kong_shift_write_t *w, u_char *text, size_t len,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_kong_shift_change_t         *change;
    ngx_http_kong_shift_object_t    *target;
    ngx_http_upstream_srv_conf_t    *pool;
    ngx_http_kong_shift_resource_t  *resource;

    change = &w->op.change;
    target = &w->target;
    resource = target->resource;

    if (ngx_http_kong_shift_parse_body(text, len, r->method != NGX_HTTP_PUT,
                                       r->method == NGX_HTTP_DELETE
                                       ? resource->undo : resource->parse,
                                       change, problem)
        != NGX_OK)
    {
        if (!target->kscf->shift->gated
            && ngx_strcmp(problem->code, "evidence_required") == 0)
        {
            /* there is nothing that evidence would open */

            ngx_http_kong_shift_set_problem(problem, "gate_off",
                                  "\"%V\" has no \"kong_shift_gate on\"",
                                  &target->kscf->shift->name);
        }

        return NGX_ERROR;
    }

    change->pool = target->pool;

    if (change->action == NGX_KONG_SHIFT_SET_PEER) {

        pool = target->kscf->pool[target->pool];

        /* each worker balances for itself what is not in shared memory */

        if (!ngx_http_kong_shift_is_shared(pool)) {
            ngx_http_kong_shift_set_problem(problem, "no_zone",
                                            "upstream \"%V\" needs a \"zone\" "
                                            "for its peers to be drained",
                                            &pool->host);
            return NGX_ERROR;
        }

        if (!ngx_kong_shift_is_text(&target->addr)) {
            ngx_http_kong_shift_set_problem(problem, "invalid_value",
                                            "an address that is not UTF-8 "
                                            "cannot be drained");
            return NGX_ERROR;
        }

        ngx_memcpy(change->addr, target->addr.data, target->addr.len);
    }

    ngx_http_kong_shift_match(r, target->kscf->shift, change);

    return NGX_OK;
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

    json = w->target.resource->json(w->op.kcf, &w->target, &snap);

    rc = ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json,
                                       snap.state.generation);

    ngx_http_finalize_request(r, rc);
}


void
ngx_http_kong_shift_set_replaced(ngx_http_kong_shift_problem_t *problem)
{
    ngx_http_kong_shift_set_problem(problem, "replaced",
                                    "this worker is of a configuration that "
                                    "was replaced, nothing was changed; "
                                    "connect again");
    problem->retry = 1;
}


static void
ngx_http_kong_shift_op_problem(ngx_http_kong_shift_write_t *w,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_kong_shift_snapshot_t  snap;

    ngx_kong_shift_read(w->op.shift->record, &snap);

    switch (w->op.status) {

    case NGX_KONG_SHIFT_OP_REFUSED:

        ngx_http_kong_shift_refused(w, &snap, problem);
        break;

    case NGX_KONG_SHIFT_OP_BUSY:

        ngx_http_kong_shift_set_problem(problem, "busy",
            "another change was being saved for 5 seconds, nothing was "
            "changed");
        problem->retry = 1;
        break;

    case NGX_KONG_SHIFT_OP_REPLACED:

        ngx_http_kong_shift_set_replaced(problem);
        break;

    case NGX_KONG_SHIFT_OP_NOT_SAVED:

        ngx_http_kong_shift_set_problem(problem, "not_saved",
            "state file \"%V\" was not saved, %s failed (%d: %s); nothing "
            "was changed", &w->op.kcf->path, w->op.file.what,
            (int) w->op.file.err, strerror(w->op.file.err));
        break;

    default:

        ngx_http_kong_shift_set_problem(problem, "internal_error",
                                        "no memory, nothing was changed");
    }

    problem->current = (json_int_t) snap.state.generation;
}


static void
ngx_http_kong_shift_refused(ngx_http_kong_shift_write_t *w,
    ngx_kong_shift_snapshot_t *snap, ngx_http_kong_shift_problem_t *problem)
{
    ngx_str_t   *name;
    const char  *pool;

    name = &w->op.shift->name;

    /* never both of them */

    pool = snap->state.drained[NGX_KONG_SHIFT_OLD] ? "old" : "new";

    switch (w->op.result) {

    case NGX_KONG_SHIFT_GATE_CLOSED:

        ngx_http_kong_shift_set_problem(problem, "gate_closed",
            "the gate of \"%V\" is closed, so its weight stays 0; it is "
            "opened by \"kong-shift cp dual-cluster\" or PUT .../gate",
            name);
        break;

    case NGX_KONG_SHIFT_GATE_OFF:

        ngx_http_kong_shift_set_problem(problem, "gate_off",
            "\"%V\" has no \"kong_shift_gate on\"", name);
        break;

    case NGX_KONG_SHIFT_POOL_NOT_READY:

        ngx_http_kong_shift_set_not_ready(w->op.kcf, w->target.kscf, problem);
        break;

    case NGX_KONG_SHIFT_POOL_DRAINED:

        ngx_http_kong_shift_set_problem(problem, "pool_drained",
            "%s is drained, and with this weight it would get requests; "
            "DELETE .../pools/%s/drain ends that",
            pool, pool);
        break;

    case NGX_KONG_SHIFT_POOL_IN_USE:

        ngx_http_kong_shift_set_problem(problem, "pool_in_use",
            w->op.change.action == NGX_KONG_SHIFT_SET_PEER
            ? "no other peer of the pool is usable, and the weight of \"%V\" "
              "needs the pool"
            : w->target.pool == NGX_KONG_SHIFT_OLD
            ? "old gets requests until new has all of the weight of \"%V\", "
              "and an open gate if there is one"
            : "new gets requests until the weight of \"%V\" is 0", name);
        break;

    case NGX_KONG_SHIFT_TOO_MANY_DRAINED:

        ngx_http_kong_shift_set_problem(problem, "too_many_drained",
            "%d peers of \"%V\" are drained, no more may be; drain the pool",
            NGX_KONG_SHIFT_DRAINED, name);
        break;

    default: /* NGX_KONG_SHIFT_MISMATCH */

        if (w->op.change.match) {
            ngx_http_kong_shift_set_problem(problem, "generation_mismatch",
                "If-Match is not the current generation of \"%V\", which is "
                "\"%uL\", with the quotes", name, snap->state.generation);

        } else {
            ngx_http_kong_shift_set_problem(problem, "generation_mismatch",
                "\"%V\" was changed while this change was being saved",
                name);
        }
    }
}
