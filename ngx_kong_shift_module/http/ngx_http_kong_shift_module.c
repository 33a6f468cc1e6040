
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static void *ngx_http_kong_shift_create_main_conf(ngx_conf_t *cf);
static void *ngx_http_kong_shift_create_srv_conf(ngx_conf_t *cf);
static void *ngx_http_kong_shift_create_loc_conf(ngx_conf_t *cf);
static char *ngx_http_kong_shift_merge_loc_conf(ngx_conf_t *cf, void *parent,
    void *child);

static ngx_int_t ngx_http_kong_shift_merge_api(ngx_conf_t *cf,
    ngx_http_kong_shift_loc_conf_t *conf);

static char *ngx_http_kong_shift(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_kong_shift_params(ngx_conf_t *cf,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *weight);
static ngx_int_t ngx_http_kong_shift_add_placeholder(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *uscf);
static ngx_uint_t ngx_http_kong_shift_is_variable(ngx_str_t *value);
static char *ngx_http_kong_shift_key(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_kong_shift_override(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_kong_shift_flag(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_kong_shift_api(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_http_kong_shift_freeze(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static ngx_int_t ngx_http_kong_shift_init_process(ngx_cycle_t *cycle);


static ngx_command_t  ngx_http_kong_shift_commands[] = {

    { ngx_string("kong_shift"),
      NGX_HTTP_UPS_CONF|NGX_CONF_1MORE,
      ngx_http_kong_shift,
      NGX_HTTP_SRV_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("kong_shift_key"),
      NGX_HTTP_UPS_CONF|NGX_CONF_TAKE12,
      ngx_http_kong_shift_key,
      NGX_HTTP_SRV_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("kong_shift_override"),
      NGX_HTTP_UPS_CONF|NGX_CONF_TAKE1,
      ngx_http_kong_shift_override,
      NGX_HTTP_SRV_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("kong_shift_gate"),
      NGX_HTTP_UPS_CONF|NGX_CONF_FLAG,
      ngx_http_kong_shift_flag,
      NGX_HTTP_SRV_CONF_OFFSET,
      offsetof(ngx_http_kong_shift_srv_conf_t, gate),
      NULL },

    { ngx_string("kong_shift_rescue"),
      NGX_HTTP_UPS_CONF|NGX_CONF_FLAG,
      ngx_http_kong_shift_flag,
      NGX_HTTP_SRV_CONF_OFFSET,
      offsetof(ngx_http_kong_shift_srv_conf_t, rescue),
      NULL },

    { ngx_string("kong_shift_check"),
      NGX_HTTP_UPS_CONF|NGX_CONF_ANY,
      ngx_http_kong_shift_check,
      NGX_HTTP_SRV_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("kong_shift_api"),
      NGX_HTTP_LOC_CONF|NGX_CONF_NOARGS|NGX_CONF_TAKE1,
      ngx_http_kong_shift_api,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

    { ngx_string("kong_shift_freeze"),
      NGX_HTTP_MAIN_CONF|NGX_HTTP_SRV_CONF|NGX_HTTP_LOC_CONF|NGX_CONF_TAKE1,
      ngx_http_kong_shift_freeze,
      NGX_HTTP_LOC_CONF_OFFSET,
      0,
      NULL },

      ngx_null_command
};


static ngx_http_module_t  ngx_http_kong_shift_module_ctx = {
    ngx_http_kong_shift_add_variables,     /* preconfiguration */
    ngx_http_kong_shift_init,              /* postconfiguration */

    ngx_http_kong_shift_create_main_conf,  /* create main configuration */
    NULL,                                  /* init main configuration */

    ngx_http_kong_shift_create_srv_conf,   /* create server configuration */
    NULL,                                  /* merge server configuration */

    ngx_http_kong_shift_create_loc_conf,   /* create location configuration */
    ngx_http_kong_shift_merge_loc_conf     /* merge location configuration */
};


ngx_module_t  ngx_http_kong_shift_module = {
    NGX_MODULE_V1,
    &ngx_http_kong_shift_module_ctx,       /* module context */
    ngx_http_kong_shift_commands,          /* module directives */
    NGX_HTTP_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_http_kong_shift_init_places,       /* init module */
    ngx_http_kong_shift_init_process,      /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_http_kong_shift_end_checks,        /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_http_kong_shift_create_main_conf(ngx_conf_t *cf)
{
    ngx_http_kong_shift_main_conf_t  *ksmcf;

    ksmcf = ngx_pcalloc(cf->pool, sizeof(ngx_http_kong_shift_main_conf_t));
    if (ksmcf == NULL) {
        return NULL;
    }

    if (ngx_array_init(&ksmcf->freezes, cf->pool, 2,
                       sizeof(ngx_http_kong_shift_loc_conf_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return ksmcf;
}


static void *
ngx_http_kong_shift_create_srv_conf(ngx_conf_t *cf)
{
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = ngx_pcalloc(cf->pool, sizeof(ngx_http_kong_shift_srv_conf_t));
    if (kscf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     kscf->shift = NULL;
     *     kscf->name = { { 0, NULL }, { 0, NULL } };
     *     kscf->pool = { NULL, NULL };
     *     kscf->key = NULL;
     *     kscf->override = NULL;
     *     kscf->key_text = { 0, NULL };
     *     kscf->seed = { 0, NULL };
     *     kscf->seed_hash = 0;
     *     kscf->directive = NULL;
     */

    /* an upstream{} has nothing to inherit, so this is never merged */

    kscf->gate = NGX_CONF_UNSET;
    kscf->rescue = NGX_CONF_UNSET;
    kscf->key_index = NGX_CONF_UNSET;

    return kscf;
}


static void *
ngx_http_kong_shift_create_loc_conf(ngx_conf_t *cf)
{
    return ngx_pcalloc(cf->pool, sizeof(ngx_http_kong_shift_loc_conf_t));
}


static char *
ngx_http_kong_shift_merge_loc_conf(ngx_conf_t *cf, void *parent, void *child)
{
    ngx_http_kong_shift_loc_conf_t  *prev = parent;
    ngx_http_kong_shift_loc_conf_t  *conf = child;

    ngx_http_core_loc_conf_t          *clcf;
    ngx_http_kong_shift_loc_conf_t   **kslcf;
    ngx_http_kong_shift_main_conf_t   *ksmcf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);

    /*
     * A handler belongs to its own location, so "api" is not inherited but by
     * what "limit_except" makes of that location.
     */

    if (clcf->lmt_excpt && clcf->handler == NULL && prev->api) {
        conf->api = 1;
        conf->write = prev->write;
        clcf->handler = ngx_http_kong_shift_api_handler;
    }

    if (conf->api && ngx_http_kong_shift_merge_api(cf, conf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (conf->freeze_name.len == 0) {
        conf->freeze_name = prev->freeze_name;
        conf->file = prev->file;
        conf->line = prev->line;
    }

    if (conf->freeze_name.len == 0) {
        return NGX_CONF_OK;
    }

    ksmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_kong_shift_module);

    kslcf = ngx_array_push(&ksmcf->freezes);
    if (kslcf == NULL) {
        return NGX_CONF_ERROR;
    }

    *kslcf = conf;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_kong_shift_merge_api(ngx_conf_t *cf,
    ngx_http_kong_shift_loc_conf_t *conf)
{
    void                      *names;
    ngx_http_core_loc_conf_t  *clcf;
    ngx_http_core_srv_conf_t  *cscf;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    cscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_core_module);

    /* the limit is kept by the handler, which tells it in JSON */

    conf->max_body = NGX_HTTP_KONG_SHIFT_BODY;

    if (clcf->client_max_body_size
        && clcf->client_max_body_size < NGX_HTTP_KONG_SHIFT_BODY)
    {
        conf->max_body = (size_t) clcf->client_max_body_size;
    }

    clcf->client_max_body_size = 0;

    /* nginx keeps its own list only while it reads the configuration */

    if (ngx_array_init(&conf->names, cf->pool, cscf->server_names.nelts + 1,
                       sizeof(ngx_http_server_name_t))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    names = ngx_array_push_n(&conf->names, cscf->server_names.nelts);
    if (names == NULL) {
        return NGX_ERROR;
    }

    ngx_memcpy(names, cscf->server_names.elts,
               cscf->server_names.nelts * sizeof(ngx_http_server_name_t));

    return NGX_OK;
}


void
ngx_http_kong_shift_note(ngx_conf_t *cf, ngx_http_kong_shift_srv_conf_t *kscf,
    const char *directive)
{
    if (kscf->shift == NULL) {
        kscf->directive = directive;
        kscf->file = cf->conf_file->file.name.data;
        kscf->line = cf->conf_file->line;
    }
}


static char *
ngx_http_kong_shift(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_srv_conf_t  *kscf = conf;

    uint32_t                       weight;
    ngx_http_upstream_srv_conf_t  *uscf;

    if (kscf->shift) {
        return "is duplicate";
    }

    if (ngx_http_kong_shift_params(cf, kscf, &weight) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    uscf = ngx_http_conf_get_module_srv_conf(cf, ngx_http_upstream_module);

    if (ngx_http_kong_shift_add_placeholder(cf, uscf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    /* whatever else wants to balance here is told later, when all is known */

    if (uscf->peer.init_upstream == NULL) {
        uscf->flags = NGX_HTTP_UPSTREAM_CREATE;
        uscf->peer.init_upstream = ngx_http_kong_shift_init_upstream;
    }

    kscf->shift = ngx_kong_shift_add(cf, &uscf->host, "http");
    if (kscf->shift == NULL) {
        return NGX_CONF_ERROR;
    }

    kscf->shift->weight = weight;
    kscf->file = cf->conf_file->file.name.data;
    kscf->line = cf->conf_file->line;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_kong_shift_params(ngx_conf_t *cf,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *weight)
{
    ngx_str_t   *value, s;
    ngx_uint_t   i, n, seen;

    static const char  *names[] = { "old=", "new=", "weight=" };

    value = cf->args->elts;
    *weight = 0;
    seen = 0;

    for (i = 1; i < cf->args->nelts; i++) {

        for (n = 0; n < 3; n++) {
            s.len = ngx_strlen(names[n]);

            if (ngx_strncmp(value[i].data, names[n], s.len) == 0) {
                s.data = value[i].data + s.len;
                s.len = value[i].len - s.len;
                break;
            }
        }

        if (n == 3) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in \"%V\", known "
                               "are \"old=\", \"new=\" and \"weight=\"",
                               &value[i], &value[0]);
            return NGX_ERROR;
        }

        if (seen & (1 << n)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate parameter \"%V\" in \"%V\"",
                               &value[i], &value[0]);
            return NGX_ERROR;
        }

        seen |= 1 << n;

        if (n < 2) {
            kscf->name[n] = s;
            continue;
        }

        if (ngx_kong_shift_parse_weight((char *) s.data, s.len, weight)
            != 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid weight \"%V\" in \"%V\", it must be "
                               "a number from 0 to 100 with up to 4 decimals",
                               &s, &value[0]);
            return NGX_ERROR;
        }
    }

    for (n = 0; n < 2; n++) {
        if (!ngx_kong_shift_is_text(&kscf->name[n])) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "\"%V\" must have the parameter \"%s\" with "
                               "the name of an upstream", &value[0],
                               names[n]);
            return NGX_ERROR;
        }
    }

    if (kscf->name[0].len == kscf->name[1].len
        && ngx_strncasecmp(kscf->name[0].data, kscf->name[1].data,
                           kscf->name[0].len)
           == 0)
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "\"old=\" and \"new=\" of \"%V\" are the same "
                           "upstream \"%V\"", &value[0], &kscf->name[0]);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* nginx wants a server in each upstream; this one is never asked */

static ngx_int_t
ngx_http_kong_shift_add_placeholder(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *uscf)
{
    ngx_http_upstream_server_t  *server;

    server = ngx_array_push(uscf->servers);
    if (server == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(server, sizeof(ngx_http_upstream_server_t));

    server->addrs = ngx_pcalloc(cf->pool, sizeof(ngx_addr_t));
    if (server->addrs == NULL) {
        return NGX_ERROR;
    }

    ngx_str_set(&server->addrs->name, "kong_shift");
    server->name = server->addrs->name;
    server->naddrs = 1;
    server->weight = 1;
    server->down = 1;

    return ngx_parse_addr_port(cf->pool, server->addrs,
                               (u_char *) "0.0.0.0:1", 9);
}


static ngx_uint_t
ngx_http_kong_shift_is_variable(ngx_str_t *value)
{
    u_char      ch;
    ngx_uint_t  i;

    if (value->len < 2 || value->data[0] != '$') {
        return 0;
    }

    for (i = 1; i < value->len; i++) {
        ch = ngx_tolower(value->data[i]);

        if (!((ch >= 'a' && ch <= 'z') || ch == '_'
              || (ch >= '0' && ch <= '9')))
        {
            return 0;
        }
    }

    /* $1 .. $9 are captures, which have no index */

    return value->data[1] < '0' || value->data[1] > '9';
}


static char *
ngx_http_kong_shift_key(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_srv_conf_t  *kscf = conf;

    ngx_str_t                         *value, name;
    ngx_http_compile_complex_value_t   ccv;

    if (kscf->key) {
        return "is duplicate";
    }

    value = cf->args->elts;
    kscf->key_text = value[1];

    if (!ngx_kong_shift_is_text(&value[1])) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid key \"%V\" in \"%V\", it must be "
                           "non-empty UTF-8 without control characters",
                           &value[1], &cmd->name);
        return NGX_CONF_ERROR;
    }

    kscf->key = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (kscf->key == NULL) {
        return NGX_CONF_ERROR;
    }

    /* the usual key, a variable alone, need not be copied for each request */

    if (ngx_http_kong_shift_is_variable(&value[1])) {
        name.data = value[1].data + 1;
        name.len = value[1].len - 1;

        kscf->key_index = ngx_http_get_variable_index(cf, &name);
        if (kscf->key_index == NGX_ERROR) {
            return NGX_CONF_ERROR;
        }
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = kscf->key;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (cf->args->nelts == 3) {

        if (ngx_strncmp(value[2].data, "seed=", 5) != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in \"%V\", only "
                               "\"seed=\" is known", &value[2], &cmd->name);
            return NGX_CONF_ERROR;
        }

        kscf->seed.data = value[2].data + 5;
        kscf->seed.len = value[2].len - 5;

        if (!ngx_kong_shift_is_text(&kscf->seed)) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid seed \"%V\" in \"%V\", it must be "
                               "non-empty UTF-8 without control characters",
                               &kscf->seed, &cmd->name);
            return NGX_CONF_ERROR;
        }
    }

    ngx_http_kong_shift_note(cf, kscf, "kong_shift_key");

    return NGX_CONF_OK;
}


static char *
ngx_http_kong_shift_override(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_srv_conf_t  *kscf = conf;

    ngx_str_t                         *value;
    ngx_http_compile_complex_value_t   ccv;

    if (kscf->override) {
        return "is duplicate";
    }

    value = cf->args->elts;

    kscf->override = ngx_palloc(cf->pool, sizeof(ngx_http_complex_value_t));
    if (kscf->override == NULL) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&ccv, sizeof(ngx_http_compile_complex_value_t));

    ccv.cf = cf;
    ccv.value = &value[1];
    ccv.complex_value = kscf->override;

    if (ngx_http_compile_complex_value(&ccv) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_http_kong_shift_note(cf, kscf, "kong_shift_override");

    return NGX_CONF_OK;
}


static char *
ngx_http_kong_shift_flag(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_note(cf, conf, (char *) cmd->name.data);

    return ngx_conf_set_flag_slot(cf, cmd, conf);
}


static char *
ngx_http_kong_shift_api(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_loc_conf_t  *kslcf = conf;

    ngx_str_t                 *value;
    ngx_http_core_loc_conf_t  *clcf;

    if (kslcf->api) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (cf->args->nelts == 2) {

        if (ngx_strcmp(value[1].data, "write=on") == 0) {
            kslcf->write = 1;

        } else if (ngx_strcmp(value[1].data, "write=off") != 0) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid parameter \"%V\" in \"%V\", it may be "
                               "\"write=on\" or \"write=off\"",
                               &value[1], &cmd->name);
            return NGX_CONF_ERROR;
        }
    }

    kslcf->api = 1;

    clcf = ngx_http_conf_get_module_loc_conf(cf, ngx_http_core_module);
    clcf->handler = ngx_http_kong_shift_api_handler;

    return NGX_CONF_OK;
}


static char *
ngx_http_kong_shift_freeze(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_loc_conf_t  *kslcf = conf;

    ngx_str_t  *value;

    if (kslcf->freeze_name.len) {
        return "is duplicate";
    }

    value = cf->args->elts;

    if (value[1].len == 0) {
        return "needs the name of a shift";
    }

    kslcf->freeze_name = value[1];
    kslcf->file = cf->conf_file->file.name.data;
    kslcf->line = cf->conf_file->line;

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_kong_shift_init_process(ngx_cycle_t *cycle)
{
    if (ngx_process != NGX_PROCESS_WORKER
        && ngx_process != NGX_PROCESS_SINGLE)
    {
        return NGX_OK;
    }

    if (ngx_http_kong_shift_init_census(cycle) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_init_checks(cycle);
}
