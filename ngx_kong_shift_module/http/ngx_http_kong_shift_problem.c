
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


typedef struct {
    const char  *code;
    ngx_uint_t   status;
    const char  *title;
} ngx_http_kong_shift_code_t;


static ngx_http_kong_shift_code_t  ngx_http_kong_shift_codes[] = {
    { "body_required", 400, "The request has no body" },
    { "invalid_json", 400, "The body is not valid JSON" },
    { "duplicate_key", 400, "The body has a key twice" },
    { "too_deep", 400, "The body is nested too deeply" },
    { "out_of_range", 400, "A number is out of range" },
    { "invalid_type", 400, "A value has a wrong type" },
    { "invalid_value", 400, "A value is not allowed" },
    { "unknown_field", 400, "A field is not known" },
    { "missing_field", 400, "A field is missing" },
    { "sum_not_100", 400, "The weights do not sum to 100" },
    { "evidence_required", 400, "The gate needs evidence to open" },
    { "invalid_query", 400, "The query is not valid" },
    { "cross_site", 403, "The request comes from another site" },
    { "foreign_host", 403, "The request is meant for another host" },
    { "not_found", 404, "There is no such resource" },
    { "unknown_shift", 404, "There is no such shift" },
    { "unknown_peer", 404, "There is no such peer" },
    { "method_not_allowed", 405, "The method is not allowed here" },
    { "writes_off", 405, "Writes are switched off here" },
    { "gate_closed", 409, "The gate is closed" },
    { "gate_off", 409, "The shift has no gate" },
    { "pool_not_ready", 409, "Too few peers of the new pool are ready" },
    { "pool_drained", 409, "The weight needs a pool that is drained" },
    { "pool_in_use", 409, "The weight needs the pool" },
    { "too_many_drained", 409, "Too many peers are drained" },
    { "no_zone", 409, "The upstream of the pool has no zone" },
    { "not_safe_to_stop", 409, "The pool must not be stopped yet" },
    { "generation_mismatch", 412, "The shift has changed" },
    { "body_too_large", 413, "The body is too large" },
    { "unsupported_media_type", 415, "The content type is not taken" },
    { "frozen", 503, "Admin writes are frozen" },
    { "busy", 503, "Another change is being saved" },
    { "replaced", 503, "This worker is shutting down" },
    { "not_saved", 507, "The state could not be saved" },

    /* the last one also stands for a code that is not listed */
    { "internal_error", 500, "Something went wrong" }
};


void
ngx_http_kong_shift_set_problem(ngx_http_kong_shift_problem_t *problem,
    const char *code, const char *fmt, ...)
{
    u_char                      *p;
    va_list                      args;
    ngx_http_kong_shift_code_t  *c;

    ngx_memzero(problem, sizeof(ngx_http_kong_shift_problem_t));

    for (c = ngx_http_kong_shift_codes; c->status != 500; c++) {
        if (ngx_strcmp(c->code, code) == 0) {
            break;
        }
    }

    problem->code = c->code;
    problem->status = c->status;
    problem->title = c->title;

    va_start(args, fmt);
    p = ngx_vslprintf((u_char *) problem->detail,
                      (u_char *) problem->detail + sizeof(problem->detail) - 1,
                      fmt, args);
    va_end(args);

    *p = '\0';
}
