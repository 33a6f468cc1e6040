
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


/* one member of a JSON object, and where its value goes */

typedef struct {
    const char  *name;
    json_t     **value;
} ngx_http_kong_shift_field_t;


static void ngx_http_kong_shift_json_problem(
    ngx_http_kong_shift_problem_t *problem, json_error_t *error);

static ngx_int_t ngx_http_kong_shift_get_fields(json_t *object,
    const char *where, ngx_http_kong_shift_field_t *fields,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_get_text(json_t *value,
    const char *name, char *text, size_t size,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_get_weight(json_t *value,
    const char *name, uint32_t *weight,
    ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_get_flag(json_t *value,
    const char *name, uint8_t *flag, ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_get_state(json_t *value, const char *yes,
    const char *no, uint8_t *flag, ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_parse_comment(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_get_deadline(json_t *value,
    uint32_t *deadline, ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_get_evidence(json_t *value,
    ngx_kong_shift_evidence_t *ev, ngx_http_kong_shift_problem_t *problem);
static ngx_int_t ngx_http_kong_shift_field_problem(
    ngx_http_kong_shift_problem_t *problem, const char *code,
    const char *field, const char *text);


ngx_int_t
ngx_http_kong_shift_parse_body(u_char *text, size_t len, ngx_uint_t optional,
    ngx_http_kong_shift_parse_pt parse, ngx_kong_shift_change_t *change,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t        *body;
    ngx_int_t      rc;
    json_error_t   error;

    if (len == 0 && optional) {
        text = (u_char *) "{}";
        len = 2;
    }

    if (len == 0) {
        ngx_http_kong_shift_set_problem(problem, "body_required",
                                        "a JSON object was expected");
        return NGX_ERROR;
    }

    /* the parser takes a zero byte for the end */

    if (ngx_strlchr(text, text + len, '\0')) {
        ngx_http_kong_shift_set_problem(problem, "invalid_json",
                                        "the body has a zero byte");
        return NGX_ERROR;
    }

    body = json_loadb((char *) text, len,
                      JSON_REJECT_DUPLICATES|JSON_DECODE_ANY, &error);

    if (body == NULL) {
        ngx_http_kong_shift_json_problem(problem, &error);
        return NGX_ERROR;
    }

    rc = parse(body, change, problem);

    json_decref(body);

    return rc;
}


static void
ngx_http_kong_shift_json_problem(ngx_http_kong_shift_problem_t *problem,
    json_error_t *error)
{
    const char  *code;

    switch (json_error_code(error)) {

    case json_error_duplicate_key:
        code = "duplicate_key";
        break;

    case json_error_numeric_overflow:
        code = "out_of_range";
        break;

    case json_error_stack_overflow:
        code = "too_deep";
        break;

    default:
        code = "invalid_json";
    }

    ngx_http_kong_shift_set_problem(problem, code,
                                    "%s at line %d, column %d", error->text,
                                    error->line, error->column);
}


ngx_int_t
ngx_http_kong_shift_parse_weight(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem)
{
    json_t    *old, *new, *comment, *force;
    uint32_t   weight;

    ngx_http_kong_shift_field_t  fields[] = {
        { "new", &new },
        { "old", &old },
        { "comment", &comment },
        { "force", &force },
        { NULL, NULL }
    };

    change->action = NGX_KONG_SHIFT_SET_WEIGHT;

    if (ngx_http_kong_shift_get_fields(body, "", fields, problem) != NGX_OK) {
        return NGX_ERROR;
    }

    if (new == NULL) {
        return ngx_http_kong_shift_field_problem(problem, "missing_field",
                   "new", "is required: percent to new, 0 to 100");
    }

    if (ngx_http_kong_shift_get_weight(new, "new", &change->weight, problem)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (old) {
        if (ngx_http_kong_shift_get_weight(old, "old", &weight, problem)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (weight + change->weight != NGX_KONG_SHIFT_FULL) {
            return ngx_http_kong_shift_field_problem(problem, "sum_not_100",
                       "old", "must be 100 minus \"new\"");
        }
    }

    if (force
        && ngx_http_kong_shift_get_flag(force, "force", &change->forced,
                                        problem)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_get_text(comment, "comment", change->comment,
                                        sizeof(change->comment), problem);
}


ngx_int_t
ngx_http_kong_shift_parse_gate(json_t *body, ngx_kong_shift_change_t *change,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t   *state, *evidence, *comment, *force;
    uint8_t   open;

    ngx_http_kong_shift_field_t  fields[] = {
        { "state", &state },
        { "evidence", &evidence },
        { "comment", &comment },
        { "force", &force },
        { NULL, NULL }
    };

    if (ngx_http_kong_shift_get_fields(body, "", fields, problem) != NGX_OK
        || ngx_http_kong_shift_get_state(state, "open", "closed", &open,
                                         problem)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    change->action = open ? NGX_KONG_SHIFT_OPEN_GATE
                          : NGX_KONG_SHIFT_CLOSE_GATE;

    if (force
        && ngx_http_kong_shift_get_flag(force, "force", &change->forced,
                                        problem)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_http_kong_shift_get_text(comment, "comment", change->comment,
                                     sizeof(change->comment), problem)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (evidence) {
        if (!open) {
            return ngx_http_kong_shift_field_problem(problem, "invalid_value",
                       "evidence", "only goes with the state \"open\"");
        }

        return ngx_http_kong_shift_get_evidence(evidence, &change->evidence,
                                                problem);
    }

    if (open && !(change->forced && change->comment[0])) {
        return ngx_http_kong_shift_field_problem(problem,
                   "evidence_required", "evidence",
                   "is required; without it only \"force\": true together "
                   "with a \"comment\" opens the gate");
    }

    return NGX_OK;
}


ngx_int_t
ngx_http_kong_shift_parse_freeze(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem)
{
    json_t  *state, *comment;

    ngx_http_kong_shift_field_t  fields[] = {
        { "state", &state },
        { "comment", &comment },
        { NULL, NULL }
    };

    change->action = NGX_KONG_SHIFT_SET_FREEZE;

    if (ngx_http_kong_shift_get_fields(body, "", fields, problem) != NGX_OK
        || ngx_http_kong_shift_get_state(state, "on", "off", &change->on,
                                         problem)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_get_text(comment, "comment", change->comment,
                                        sizeof(change->comment), problem);
}


ngx_int_t
ngx_http_kong_shift_parse_abort(json_t *body, ngx_kong_shift_change_t *change,
    ngx_http_kong_shift_problem_t *problem)
{
    change->action = NGX_KONG_SHIFT_ABORT;

    return ngx_http_kong_shift_parse_comment(body, change, problem);
}


ngx_int_t
ngx_http_kong_shift_parse_lift(json_t *body, ngx_kong_shift_change_t *change,
    ngx_http_kong_shift_problem_t *problem)
{
    change->action = NGX_KONG_SHIFT_SET_DRAIN;
    change->on = 0;

    return ngx_http_kong_shift_parse_comment(body, change, problem);
}


ngx_int_t
ngx_http_kong_shift_parse_drain(json_t *body, ngx_kong_shift_change_t *change,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t      *rate, *deadline, *comment;
    json_int_t   n;

    ngx_http_kong_shift_field_t  fields[] = {
        { "rate", &rate },
        { "deadline", &deadline },
        { "comment", &comment },
        { NULL, NULL }
    };

    change->action = NGX_KONG_SHIFT_SET_DRAIN;
    change->on = 1;

    if (ngx_http_kong_shift_get_fields(body, "", fields, problem) != NGX_OK) {
        return NGX_ERROR;
    }

    if (rate) {
        n = json_integer_value(rate);

        if (n < 1 || n > NGX_KONG_SHIFT_RATE_MAX) {
            return ngx_http_kong_shift_field_problem(problem,
                       json_is_number(rate) ? "out_of_range" : "invalid_type",
                       "rate", "must be an integer from 1 to 10000: "
                       "connections closed per second");
        }

        change->rate = (uint32_t) n;
    }

    if (deadline
        && ngx_http_kong_shift_get_deadline(deadline, &change->deadline,
                                            problem)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_get_text(comment, "comment", change->comment,
                                        sizeof(change->comment), problem);
}


ngx_int_t
ngx_http_kong_shift_parse_peer(json_t *body, ngx_kong_shift_change_t *change,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t  *state, *comment;

    ngx_http_kong_shift_field_t  fields[] = {
        { "state", &state },
        { "comment", &comment },
        { NULL, NULL }
    };

    change->action = NGX_KONG_SHIFT_SET_PEER;

    if (ngx_http_kong_shift_get_fields(body, "", fields, problem) != NGX_OK
        || ngx_http_kong_shift_get_state(state, "drain", "ready", &change->on,
                                         problem)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_get_text(comment, "comment", change->comment,
                                        sizeof(change->comment), problem);
}


/* a body that has nothing else */

static ngx_int_t
ngx_http_kong_shift_parse_comment(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem)
{
    json_t  *comment;

    ngx_http_kong_shift_field_t  fields[] = {
        { "comment", &comment },
        { NULL, NULL }
    };

    if (ngx_http_kong_shift_get_fields(body, "", fields, problem) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_get_text(comment, "comment", change->comment,
                                        sizeof(change->comment), problem);
}


/* a time as nginx writes it, in seconds */

static ngx_int_t
ngx_http_kong_shift_get_deadline(json_t *value, uint32_t *deadline,
    ngx_http_kong_shift_problem_t *problem)
{
    ngx_int_t    n;
    ngx_str_t    s;
    const char  *text;

    text = "must be a time such as \"90s\" or \"10m\", from 1s to 365d";

    if (!json_is_string(value)) {
        return ngx_http_kong_shift_field_problem(problem, "invalid_type",
                                                 "deadline", text);
    }

    s.data = (u_char *) json_string_value(value);
    s.len = json_string_length(value);

    n = ngx_parse_time(&s, 1);

    if (n == NGX_ERROR) {
        return ngx_http_kong_shift_field_problem(problem, "invalid_value",
                                                 "deadline", text);
    }

    if (n < 1 || n > NGX_KONG_SHIFT_DEADLINE_MAX) {
        return ngx_http_kong_shift_field_problem(problem, "out_of_range",
                                                 "deadline", text);
    }

    *deadline = (uint32_t) n;

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_evidence(json_t *value, ngx_kong_shift_evidence_t *ev,
    ngx_http_kong_shift_problem_t *problem)
{
    json_t      *strategy, *x, *y, *journal;
    ngx_uint_t   i;

    ngx_http_kong_shift_field_t  fields[] = {
        { "strategy", &strategy },
        { "x", &x },
        { "y", &y },
        { "journal", &journal },
        { NULL, NULL }
    };

    static const char  *names[] = {
        "evidence.strategy", "evidence.x", "evidence.y", "evidence.journal"
    };

    char  *text[] = { ev->strategy, ev->x, ev->y, ev->journal };

    if (ngx_http_kong_shift_get_fields(value, "evidence.", fields, problem)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < 4; i++) {

        if (*fields[i].value == NULL) {
            return ngx_http_kong_shift_field_problem(problem, "missing_field",
                                                     names[i], "is required");
        }

        if (ngx_http_kong_shift_get_text(*fields[i].value, names[i], text[i],
                                         NGX_KONG_SHIFT_TEXT_SIZE, problem)
            != NGX_OK)
        {
            return NGX_ERROR;
        }

        if (text[i][0] == '\0') {
            return ngx_http_kong_shift_field_problem(problem, "invalid_value",
                                                     names[i],
                                                     "must not be empty");
        }
    }

    if (ngx_strcmp(ev->strategy, "dual-cluster") != 0
        && ngx_strcmp(ev->strategy, "in-place") != 0)
    {
        return ngx_http_kong_shift_field_problem(problem, "invalid_value",
                   "evidence.strategy",
                   "must be \"dual-cluster\" or \"in-place\"");
    }

    return NGX_OK;
}


/* takes the object apart; a member that is not among the fields is refused */

static ngx_int_t
ngx_http_kong_shift_get_fields(json_t *object, const char *where,
    ngx_http_kong_shift_field_t *fields,
    ngx_http_kong_shift_problem_t *problem)
{
    char                          name[NGX_KONG_SHIFT_COMMENT_SIZE];
    json_t                       *value;
    const char                   *key;
    ngx_http_kong_shift_field_t  *f;

    if (!json_is_object(object)) {
        ngx_http_kong_shift_set_problem(problem, "invalid_type",
                                        "%s must be a JSON object",
                                        *where ? "\"evidence\""
                                               : "the body");
        return NGX_ERROR;
    }

    for (f = fields; f->name; f++) {
        *f->value = NULL;
    }

    json_object_foreach(object, key, value) {

        for (f = fields; f->name; f++) {
            if (ngx_strcmp(f->name, key) == 0) {
                *f->value = value;
                break;
            }
        }

        if (f->name == NULL) {
            *ngx_snprintf((u_char *) name, sizeof(name) - 1, "%s%s", where,
                          key)
                = '\0';

            return ngx_http_kong_shift_field_problem(problem, "unknown_field",
                                                     name, "is not known");
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_text(json_t *value, const char *name, char *text,
    size_t size, ngx_http_kong_shift_problem_t *problem)
{
    ngx_int_t  rc;

    if (value == NULL) {
        return NGX_OK;
    }

    rc = ngx_kong_shift_json_get_text(value, text, size);

    if (rc == NGX_OK) {
        return NGX_OK;
    }

    if (rc == NGX_DECLINED) {
        return ngx_http_kong_shift_field_problem(problem, "invalid_type",
                                                 name, "must be a string");
    }

    return ngx_http_kong_shift_field_problem(problem, "invalid_value", name,
               size == NGX_KONG_SHIFT_TEXT_SIZE
               ? "may have 255 bytes and no control characters"
               : "may have 128 bytes and no control characters");
}


static ngx_int_t
ngx_http_kong_shift_get_weight(json_t *value, const char *name,
    uint32_t *weight, ngx_http_kong_shift_problem_t *problem)
{
    ngx_int_t  rc;

    rc = ngx_kong_shift_json_get_weight(value, weight);

    if (rc == NGX_OK) {
        return NGX_OK;
    }

    return ngx_http_kong_shift_field_problem(problem,
               rc == NGX_DECLINED ? "invalid_type" : "out_of_range", name,
               "must be a number from 0 to 100 with up to 4 decimals");
}


static ngx_int_t
ngx_http_kong_shift_get_flag(json_t *value, const char *name, uint8_t *flag,
    ngx_http_kong_shift_problem_t *problem)
{
    if (!json_is_boolean(value)) {
        return ngx_http_kong_shift_field_problem(problem, "invalid_type",
                                                 name,
                                                 "must be true or false");
    }

    *flag = json_is_true(value);

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_get_state(json_t *value, const char *yes, const char *no,
    uint8_t *flag, ngx_http_kong_shift_problem_t *problem)
{
    const char  *code, *state, *text;

    text = (*yes == 'd') ? "must be \"drain\" or \"ready\""
           : (yes[1] == 'n') ? "must be \"on\" or \"off\""
                             : "must be \"open\" or \"closed\"";

    state = json_string_value(value);

    if (state && ngx_strcmp(state, yes) == 0) {
        *flag = 1;
        return NGX_OK;
    }

    if (state && ngx_strcmp(state, no) == 0) {
        *flag = 0;
        return NGX_OK;
    }

    code = (value == NULL) ? "missing_field"
                           : state ? "invalid_value" : "invalid_type";

    return ngx_http_kong_shift_field_problem(problem, code, "state", text);
}


static ngx_int_t
ngx_http_kong_shift_field_problem(ngx_http_kong_shift_problem_t *problem,
    const char *code, const char *field, const char *text)
{
    ngx_http_kong_shift_set_problem(problem, code, "\"%s\" %s", field, text);

    problem->text = text;

    ngx_cpystrn((u_char *) problem->field, (u_char *) field,
                sizeof(problem->field));

    return NGX_ERROR;
}
