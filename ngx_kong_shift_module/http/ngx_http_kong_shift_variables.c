
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


#define NGX_HTTP_KONG_SHIFT_VAR_POOL        0
#define NGX_HTTP_KONG_SHIFT_VAR_REASON      1
#define NGX_HTTP_KONG_SHIFT_VAR_WEIGHT      2
#define NGX_HTTP_KONG_SHIFT_VAR_GENERATION  3
#define NGX_HTTP_KONG_SHIFT_VAR_RESCUED     4
#define NGX_HTTP_KONG_SHIFT_VAR_ORIGIN      5


static ngx_int_t ngx_http_kong_shift_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data);
static ngx_str_t *ngx_http_kong_shift_variable_text(
    ngx_http_kong_shift_choice_t *choice, uintptr_t data);


static ngx_str_t  ngx_http_kong_shift_pools[] = {
    ngx_string("old"),
    ngx_string("new")
};


static ngx_str_t  ngx_http_kong_shift_reasons[] = {
    ngx_string("override"),
    ngx_string("key"),
    ngx_string("weight"),
    ngx_string("rescue"),
    ngx_string("fallback")
};


static ngx_str_t  ngx_http_kong_shift_origin_values[] = {
    ngx_string("gateway"),
    ngx_string("backend"),
    ngx_string("transport"),
    ngx_string("unknown")
};


static ngx_str_t  ngx_http_kong_shift_flag_values[] = {
    ngx_string("0"),
    ngx_string("1")
};


/* not cacheable: early readers see them empty, the log must not */

static ngx_http_variable_t  ngx_http_kong_shift_vars[] = {

    { ngx_string("kong_shift_pool"), NULL,
      ngx_http_kong_shift_variable, NGX_HTTP_KONG_SHIFT_VAR_POOL,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("kong_shift_reason"), NULL,
      ngx_http_kong_shift_variable, NGX_HTTP_KONG_SHIFT_VAR_REASON,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("kong_shift_weight"), NULL,
      ngx_http_kong_shift_variable, NGX_HTTP_KONG_SHIFT_VAR_WEIGHT,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("kong_shift_generation"), NULL,
      ngx_http_kong_shift_variable, NGX_HTTP_KONG_SHIFT_VAR_GENERATION,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("kong_shift_rescued"), NULL,
      ngx_http_kong_shift_variable, NGX_HTTP_KONG_SHIFT_VAR_RESCUED,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

    { ngx_string("kong_shift_origin"), NULL,
      ngx_http_kong_shift_variable, NGX_HTTP_KONG_SHIFT_VAR_ORIGIN,
      NGX_HTTP_VAR_NOCACHEABLE, 0 },

      ngx_http_null_variable
};


ngx_int_t
ngx_http_kong_shift_add_variables(ngx_conf_t *cf)
{
    ngx_http_variable_t  *var, *v;

    for (v = ngx_http_kong_shift_vars; v->name.len; v++) {

        var = ngx_http_add_variable(cf, &v->name, v->flags);
        if (var == NULL) {
            return NGX_ERROR;
        }

        var->get_handler = v->get_handler;
        var->data = v->data;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_variable(ngx_http_request_t *r,
    ngx_http_variable_value_t *v, uintptr_t data)
{
    u_char                        *p;
    uint32_t                       weight;
    ngx_str_t                     *s;
    ngx_http_kong_shift_choice_t  *choice;

    choice = ngx_http_kong_shift_get_choice(r);

    if (choice == NULL) {
        v->not_found = 1;
        return NGX_OK;
    }

    v->valid = 1;
    v->no_cacheable = 0;
    v->not_found = 0;

    s = ngx_http_kong_shift_variable_text(choice, data);

    if (s) {
        v->data = s->data;
        v->len = s->len;

        return NGX_OK;
    }

    p = ngx_pnalloc(r->pool, NGX_INT64_LEN);
    if (p == NULL) {
        return NGX_ERROR;
    }

    v->data = p;

    if (data == NGX_HTTP_KONG_SHIFT_VAR_WEIGHT) {
        weight = ngx_kong_shift_effective(choice->word,
                                          choice->kscf->shift->gated);
        p = (u_char *) ngx_kong_shift_format_weight((char *) p, weight);

    } else {
        p = ngx_sprintf(p, "%uL", ngx_kong_shift_word_generation(choice->word));
    }

    v->len = p - v->data;

    return NGX_OK;
}


static ngx_str_t *
ngx_http_kong_shift_variable_text(ngx_http_kong_shift_choice_t *choice,
    uintptr_t data)
{
    switch (data) {

    case NGX_HTTP_KONG_SHIFT_VAR_POOL:
        return &ngx_http_kong_shift_pools[choice->choice.pool];

    case NGX_HTTP_KONG_SHIFT_VAR_REASON:
        return &ngx_http_kong_shift_reasons[choice->choice.reason];

    case NGX_HTTP_KONG_SHIFT_VAR_RESCUED:
        return &ngx_http_kong_shift_flag_values[
                   ngx_http_kong_shift_is_answered(choice)
                   && ngx_http_kong_shift_is_rescued(choice,
                                         choice->upstream->state->status)];

    case NGX_HTTP_KONG_SHIFT_VAR_ORIGIN:
        return &ngx_http_kong_shift_origin_values[
                   ngx_http_kong_shift_get_origin(choice)];

    default:
        return NULL;
    }
}
