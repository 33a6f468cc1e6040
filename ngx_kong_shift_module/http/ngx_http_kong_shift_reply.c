
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static ngx_int_t ngx_http_kong_shift_send(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, json_t *json);
static ngx_int_t ngx_http_kong_shift_add_header(ngx_http_request_t *r,
    const char *name, const char *fmt, ...);
static json_t *ngx_http_kong_shift_json_flags(uint64_t word,
    ngx_uint_t gated);


static const char  *ngx_http_kong_shift_actions[] = {
    "weight", "gate", "gate", "freeze", "abort", "config", "state", "drain",
    "drain_peer", "peer", "fallback", "fail_open", "wrong_version"
};


ngx_int_t
ngx_http_kong_shift_send_problem(ngx_http_request_t *r,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t      *json;
    ngx_int_t    rc;
    const char  *detail;
    ngx_str_t    text;

    /* clients' bytes are quoted in it, and need not be UTF-8 */

    text.data = (u_char *) problem->detail;
    text.len = ngx_strlen(problem->detail);

    detail = ngx_kong_shift_is_text(&text) ? problem->detail : problem->title;

    json = json_pack("{ss, si, ss, ss}", "title", problem->title,
                     "status", (int) problem->status, "detail", detail,
                     "code", problem->code);

    if (json && problem->text) {
        (void) json_object_set_new(json, "fields",
                                   json_pack("{ss}", problem->field,
                                             problem->text));
    }

    if (json && problem->current) {
        (void) json_object_set_new(json, "current",
                                   json_integer(problem->current));
    }

    if (json && problem->more) {
        (void) json_object_update_missing(json, problem->more);
    }

    json_decref(problem->more);

    /* a body that nobody will read is not asked for */

    r->expect_tested = 1;

    rc = ngx_http_discard_request_body(r);

    if (rc != NGX_OK) {
        json_decref(json);
        return rc;
    }

    if ((problem->allow
         && ngx_http_kong_shift_add_header(r, "Allow", "%s", problem->allow)
            != NGX_OK)
        || (problem->retry
            && ngx_http_kong_shift_add_header(r, "Retry-After", "%ui",
                                              problem->retry)
               != NGX_OK))
    {
        json_decref(json);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_kong_shift_send(r, problem->status,
                                    "application/problem+json", json);
}


ngx_int_t
ngx_http_kong_shift_send_json(ngx_http_request_t *r, ngx_uint_t status,
    json_t *json, uint64_t generation)
{
    if (generation
        && ngx_http_kong_shift_add_header(r, "ETag", "\"%uL\"", generation)
           != NGX_OK)
    {
        json_decref(json);
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    return ngx_http_kong_shift_send(r, status, "application/json", json);
}


static ngx_int_t
ngx_http_kong_shift_send(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, json_t *json)
{
    char         *text;
    size_t        len;
    ngx_buf_t    *b;
    ngx_chain_t   out;

    text = json ? json_dumps(json, JSON_COMPACT|JSON_REAL_PRECISION(7)) : NULL;

    json_decref(json);

    if (text == NULL) {
        ngx_log_error(NGX_LOG_ERR, r->connection->log, 0,
                      "no memory for a kong_shift answer");
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    len = ngx_strlen(text);

    b = ngx_create_temp_buf(r->pool, len + 1);

    if (b) {
        b->last = ngx_cpymem(b->last, text, len);
        *b->last++ = '\n';
    }

    free(text);

    if (b == NULL) {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    out.buf = b;
    out.next = NULL;

    return ngx_http_kong_shift_send_text(r, status, type, &out);
}


ngx_int_t
ngx_http_kong_shift_send_text(ngx_http_request_t *r, ngx_uint_t status,
    const char *type, ngx_chain_t *out)
{
    off_t         len;
    ngx_int_t     rc;
    ngx_chain_t  *cl;

    if (ngx_http_kong_shift_add_header(r, "Cache-Control", "no-store")
        != NGX_OK
        || ngx_http_kong_shift_add_header(r, "X-Content-Type-Options",
                                          "nosniff")
           != NGX_OK)
    {
        return NGX_HTTP_INTERNAL_SERVER_ERROR;
    }

    len = 0;

    for (cl = out; cl; cl = cl->next) {
        len += cl->buf->last - cl->buf->pos;

        if (cl->next == NULL) {
            cl->buf->last_buf = (r == r->main) ? 1 : 0;
            cl->buf->last_in_chain = 1;
        }
    }

    /* the tags are ours to compare, before a change and not after it */

    r->disable_not_modified = 1;

    r->headers_out.status = status;
    r->headers_out.content_length_n = len;
    r->headers_out.content_type.data = (u_char *) type;
    r->headers_out.content_type.len = ngx_strlen(type);
    r->headers_out.content_type_len = r->headers_out.content_type.len;

    rc = ngx_http_send_header(r);

    if (rc == NGX_ERROR || rc > NGX_OK || r->header_only) {
        return rc;
    }

    return ngx_http_output_filter(r, out);
}


static ngx_int_t
ngx_http_kong_shift_add_header(ngx_http_request_t *r, const char *name,
    const char *fmt, ...)
{
    u_char           *p, buf[64];
    va_list           args;
    ngx_table_elt_t  *h;

    va_start(args, fmt);
    p = ngx_vslprintf(buf, buf + sizeof(buf), fmt, args);
    va_end(args);

    h = ngx_list_push(&r->headers_out.headers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    h->hash = 1;
    h->key.data = (u_char *) name;
    h->key.len = ngx_strlen(name);
    h->value.len = p - buf;
    h->value.data = ngx_pnalloc(r->pool, h->value.len);

#if (nginx_version >= 1023000)
    h->next = NULL;
#endif

    if (h->value.data == NULL) {
        h->hash = 0;
        return NGX_ERROR;
    }

    ngx_memcpy(h->value.data, buf, h->value.len);

    return NGX_OK;
}


json_t *
ngx_http_kong_shift_json_weight(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap)
{
    json_t    *json;
    uint32_t   weight, effective;

    weight = snap->state.weight;
    effective = ngx_kong_shift_effective(snap->word,
                                         target->kscf->shift->gated);

    json = json_pack("{so, so, so, sb, sI}",
                     "old",
                     ngx_kong_shift_json_weight(NGX_KONG_SHIFT_FULL - weight),
                     "new", ngx_kong_shift_json_weight(weight),
                     "effective", ngx_kong_shift_json_weight(effective),
                     "aborted", (int) snap->state.aborted,
                     "generation", (json_int_t) snap->state.generation);

    ngx_http_kong_shift_json_saved(conf, snap, json);

    return json;
}


json_t *
ngx_http_kong_shift_json_gate(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap)
{
    json_t                  *json;
    ngx_kong_shift_state_t  *st;

    st = &snap->state;

    if (!target->kscf->shift->gated) {
        return json_pack("{ss, sI}", "state", "off",
                         "generation", (json_int_t) st->generation);
    }

    json = json_pack("{ss, sI, so}",
                     "state", st->gate_open ? "open" : "closed",
                     "generation", (json_int_t) st->generation,
                     "changed", ngx_kong_shift_json_time(st->gate_changed));
    if (json == NULL) {
        return NULL;
    }

    if (st->evidence.strategy[0]) {
        (void) json_object_set_new(json, "evidence",
                                ngx_kong_shift_json_evidence(&st->evidence));
    }

    if (st->gate_forced) {
        (void) json_object_set_new(json, "forced", json_true());
    }

    if (st->gate_comment[0]) {
        (void) json_object_set_new(json, "comment",
                                   json_string(st->gate_comment));
    }

    ngx_http_kong_shift_json_saved(conf, snap, json);

    return json;
}


json_t *
ngx_http_kong_shift_json_freeze(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap)
{
    json_t                  *json;
    ngx_kong_shift_state_t  *st;
    ngx_kong_shift_total_t   total;

    st = &snap->state;

    ngx_kong_shift_count(conf->sh, target->kscf->shift->record, &total);

    json = json_pack("{ss, sI, sI, so}", "state", st->freeze ? "on" : "off",
                     "active", (json_int_t) total.writes,
                     "generation", (json_int_t) st->generation,
                     "changed", ngx_kong_shift_json_time(st->freeze_changed));

    if (json && st->freeze_comment[0]) {
        (void) json_object_set_new(json, "comment",
                                   json_string(st->freeze_comment));
    }

    ngx_http_kong_shift_json_saved(conf, snap, json);

    return json;
}


json_t *
ngx_http_kong_shift_json_shift(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap)
{
    json_t                          *json, *weight, *gate, *freeze, *key;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = target->kscf;

    key = kscf->key ? json_stringn((char *) kscf->key_text.data,
                                   kscf->key_text.len)
                    : json_null();

    weight = ngx_http_kong_shift_json_weight(conf, target, snap);
    gate = ngx_http_kong_shift_json_gate(conf, target, snap);
    freeze = ngx_http_kong_shift_json_freeze(conf, target, snap);

    /* these stand once, for all of the shift */

    (void) json_object_del(weight, "aborted");
    (void) json_object_del(weight, "generation");
    (void) json_object_del(weight, "saved");
    (void) json_object_del(gate, "generation");
    (void) json_object_del(gate, "saved");
    (void) json_object_del(freeze, "generation");
    (void) json_object_del(freeze, "saved");

    json = json_pack("{ss%, sI, so, sb, so, so, so, so, ss%, so}",
                     "name", kscf->shift->name.data, kscf->shift->name.len,
                     "generation", (json_int_t) snap->state.generation,
                     "weight", weight,
                     "aborted", (int) snap->state.aborted,
                     "gate", gate,
                     "freeze", freeze,
                     "pools",
                     ngx_http_kong_shift_json_pools(conf, kscf, snap),
                     "key", key,
                     "seed", kscf->seed.data, kscf->seed.len,
                     "changed", ngx_kong_shift_json_time(snap->state.changed));

    ngx_http_kong_shift_json_saved(conf, snap, json);

    return json;
}


void
ngx_http_kong_shift_json_saved(ngx_kong_shift_conf_t *conf,
    ngx_kong_shift_snapshot_t *snap, json_t *json)
{
    if (conf->path.len) {
        (void) json_object_set_new(json, "saved",
                                   json_boolean(!snap->unsaved));
    }
}


json_t *
ngx_http_kong_shift_json_events(ngx_kong_shift_t *shift,
    ngx_kong_shift_event_t *events, ngx_uint_t n, uint64_t last)
{
    json_t                  *json, *list, *event, *before, *after;
    ngx_uint_t               i;
    ngx_kong_shift_event_t  *ev;

    json = json_pack("{s[], sI}", "events", "last", (json_int_t) last);
    list = json_object_get(json, "events");

    for (i = 0; i < n; i++) {
        ev = &events[i];

        before = ngx_http_kong_shift_json_flags(ev->before, shift->gated);
        after = ngx_http_kong_shift_json_flags(ev->after, shift->gated);

        event = json_pack("{sI, so, ss, ss, ss, sI, so, so}",
                          "id", (json_int_t) ev->id,
                          "time", ngx_kong_shift_json_time(ev->time),
                          "action", ngx_http_kong_shift_actions[ev->action],
                          "by", ev->by, "comment", ev->comment,
                          "generation", (json_int_t) ev->generation,
                          "before", before, "after", after);

        if (event && ev->forced) {
            (void) json_object_set_new(event, "forced", json_true());
        }

        if (json_array_append_new(list, event) != 0) {
            json_decref(json);
            return NULL;
        }
    }

    return json;
}


static json_t *
ngx_http_kong_shift_json_flags(uint64_t word, ngx_uint_t gated)
{
    json_t      *json, *drained;
    ngx_uint_t   pool;
    const char  *gate;

    gate = (word & NGX_KONG_SHIFT_WORD_OPEN) ? "open" : "closed";

    json = json_pack("{so, ss, ss, sb}",
                     "weight",
                     ngx_kong_shift_json_weight(
                                          ngx_kong_shift_effective(word, 0)),
                     "gate", gated ? gate : "off",
                     "freeze",
                     (word & NGX_KONG_SHIFT_WORD_FREEZE) ? "on" : "off",
                     "aborted", (word & NGX_KONG_SHIFT_WORD_ABORTED) != 0);

    drained = json_array();

    for (pool = 0; pool < 2; pool++) {
        if (word & (NGX_KONG_SHIFT_WORD_DRAINED << pool)) {
            (void) json_array_append_new(drained,
                         json_string(ngx_http_kong_shift_pool_names[pool]));
        }
    }

    if (json_array_size(drained)) {
        (void) json_object_set(json, "drained", drained);
    }

    json_decref(drained);

    return json;
}
