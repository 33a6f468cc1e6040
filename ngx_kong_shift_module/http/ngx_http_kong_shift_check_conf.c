
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_DAY   (24 * 60 * 60 * 1000)

/* intermediate certificates of a Status API */

#define NGX_HTTP_KONG_SHIFT_DEPTH  9

#define NGX_HTTP_KONG_SHIFT_SEEN(param)                                       \
    (1 << NGX_HTTP_KONG_SHIFT_PARAM_##param)


typedef enum {
    NGX_HTTP_KONG_SHIFT_PARAM_POOL = 0,
    NGX_HTTP_KONG_SHIFT_PARAM_PORT,
    NGX_HTTP_KONG_SHIFT_PARAM_URI,
    NGX_HTTP_KONG_SHIFT_PARAM_CONFIG_HASH,
    NGX_HTTP_KONG_SHIFT_PARAM_INTERVAL,
    NGX_HTTP_KONG_SHIFT_PARAM_TIMEOUT,
    NGX_HTTP_KONG_SHIFT_PARAM_FAILS,
    NGX_HTTP_KONG_SHIFT_PARAM_PASSES,
    NGX_HTTP_KONG_SHIFT_PARAM_MIN_READY,
    NGX_HTTP_KONG_SHIFT_PARAM_SLOW_START,
    NGX_HTTP_KONG_SHIFT_PARAM_SSL,
    NGX_HTTP_KONG_SHIFT_PARAM_SSL_TRUSTED_CERTIFICATE,
    NGX_HTTP_KONG_SHIFT_PARAM_SSL_NAME,
    NGX_HTTP_KONG_SHIFT_PARAM_SSL_CERTIFICATE,
    NGX_HTTP_KONG_SHIFT_PARAM_SSL_CERTIFICATE_KEY,
    NGX_HTTP_KONG_SHIFT_PARAMS
} ngx_http_kong_shift_param_e;


typedef enum {
    NGX_HTTP_KONG_SHIFT_TYPE_POOL = 0,
    NGX_HTTP_KONG_SHIFT_TYPE_NUMBER,
    NGX_HTTP_KONG_SHIFT_TYPE_PERCENT,
    NGX_HTTP_KONG_SHIFT_TYPE_TIME,
    NGX_HTTP_KONG_SHIFT_TYPE_FLAG,
    NGX_HTTP_KONG_SHIFT_TYPE_URI,
    NGX_HTTP_KONG_SHIFT_TYPE_TEXT
} ngx_http_kong_shift_type_e;


/* one kong_shift_check */

typedef struct {
    ngx_str_t                    value[NGX_HTTP_KONG_SHIFT_PARAMS];
    ngx_int_t                    number[NGX_HTTP_KONG_SHIFT_PARAMS];
    ngx_uint_t                   seen;         /* 1 << param */
} ngx_http_kong_shift_line_t;


typedef struct {
    ngx_str_t                    name;
    ngx_http_kong_shift_type_e   type;
    ngx_int_t                    min;
    ngx_int_t                    max;
    ngx_int_t                    value;        /* the default */
    const char                  *allowed;
} ngx_http_kong_shift_param_t;


static ngx_int_t ngx_http_kong_shift_read_param(ngx_conf_t *cf,
    ngx_str_t *arg, ngx_http_kong_shift_line_t *line);
static ngx_int_t ngx_http_kong_shift_read_value(
    ngx_http_kong_shift_param_t *param, ngx_str_t *value);
static ngx_uint_t ngx_http_kong_shift_is_graphic(ngx_str_t *value);
static ngx_int_t ngx_http_kong_shift_verify_line(ngx_conf_t *cf,
    ngx_http_kong_shift_line_t *line);
static ngx_int_t ngx_http_kong_shift_set_ssl(ngx_conf_t *cf,
    ngx_http_kong_shift_line_t *line, ngx_http_kong_shift_check_t *check);
static ngx_int_t ngx_http_kong_shift_verify_check(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool);
static ngx_int_t ngx_http_kong_shift_verify_peers(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_check_t *check);
static ngx_int_t ngx_http_kong_shift_verify_owner(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool);


static ngx_http_kong_shift_param_t  ngx_http_kong_shift_params[] = {

    { ngx_string("pool"), NGX_HTTP_KONG_SHIFT_TYPE_POOL,
      0, 0, NGX_KONG_SHIFT_ANY, "\"old\" or \"new\"" },

    { ngx_string("port"), NGX_HTTP_KONG_SHIFT_TYPE_NUMBER,
      1, 65535, 0, "a number from 1 to 65535" },

    { ngx_string("uri"), NGX_HTTP_KONG_SHIFT_TYPE_URI,
      0, 0, 0, "a path of up to 255 characters, without spaces, that begins "
               "with \"/\"" },

    { ngx_string("config_hash"), NGX_HTTP_KONG_SHIFT_TYPE_FLAG,
      0, 0, 0, "\"on\" or \"off\"" },

    { ngx_string("interval"), NGX_HTTP_KONG_SHIFT_TYPE_TIME,
      100, NGX_HTTP_KONG_SHIFT_DAY, 2000, "a time from 100ms to 24h" },

    { ngx_string("timeout"), NGX_HTTP_KONG_SHIFT_TYPE_TIME,
      10, NGX_HTTP_KONG_SHIFT_DAY, 1000, "a time from 10ms to 24h" },

    { ngx_string("fails"), NGX_HTTP_KONG_SHIFT_TYPE_NUMBER,
      1, 1000, 2, "a number from 1 to 1000" },

    { ngx_string("passes"), NGX_HTTP_KONG_SHIFT_TYPE_NUMBER,
      1, 1000, 2, "a number from 1 to 1000" },

    { ngx_string("min_ready"), NGX_HTTP_KONG_SHIFT_TYPE_PERCENT,
      1, 100, 50, "a percentage from 1% to 100%" },

    { ngx_string("slow_start"), NGX_HTTP_KONG_SHIFT_TYPE_TIME,
      0, NGX_HTTP_KONG_SHIFT_DAY, 0, "a time from 0 to 24h" },

    { ngx_string("ssl"), NGX_HTTP_KONG_SHIFT_TYPE_FLAG,
      0, 0, 0, "\"on\" or \"off\"" },

    { ngx_string("ssl_trusted_certificate"), NGX_HTTP_KONG_SHIFT_TYPE_TEXT,
      0, 0, 0, "a file" },

    { ngx_string("ssl_name"), NGX_HTTP_KONG_SHIFT_TYPE_TEXT,
      0, 0, 0, "a name of up to 255 characters" },

    { ngx_string("ssl_certificate"), NGX_HTTP_KONG_SHIFT_TYPE_TEXT,
      0, 0, 0, "a file" },

    { ngx_string("ssl_certificate_key"), NGX_HTTP_KONG_SHIFT_TYPE_TEXT,
      0, 0, 0, "a file" }
};


char *
ngx_http_kong_shift_check(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_http_kong_shift_srv_conf_t  *kscf = conf;

    ngx_str_t                    *value;
    ngx_int_t                    *number;
    ngx_uint_t                    i;
    ngx_http_kong_shift_line_t    line;
    ngx_http_kong_shift_check_t   check;

    value = cf->args->elts;
    number = line.number;

    ngx_memzero(&line, sizeof(ngx_http_kong_shift_line_t));

    for (i = 0; i < NGX_HTTP_KONG_SHIFT_PARAMS; i++) {
        number[i] = ngx_http_kong_shift_params[i].value;
    }

    for (i = 1; i < cf->args->nelts; i++) {
        if (ngx_http_kong_shift_read_param(cf, &value[i], &line) != NGX_OK) {
            return NGX_CONF_ERROR;
        }
    }

    if (ngx_http_kong_shift_verify_line(cf, &line) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&check, sizeof(ngx_http_kong_shift_check_t));

    check.set = 1;
    check.port = number[NGX_HTTP_KONG_SHIFT_PARAM_PORT];
    check.uri = line.value[NGX_HTTP_KONG_SHIFT_PARAM_URI];
    check.config_hash = number[NGX_HTTP_KONG_SHIFT_PARAM_CONFIG_HASH];
    check.interval = number[NGX_HTTP_KONG_SHIFT_PARAM_INTERVAL];
    check.timeout = number[NGX_HTTP_KONG_SHIFT_PARAM_TIMEOUT];
    check.fails = number[NGX_HTTP_KONG_SHIFT_PARAM_FAILS];
    check.passes = number[NGX_HTTP_KONG_SHIFT_PARAM_PASSES];
    check.min_ready = number[NGX_HTTP_KONG_SHIFT_PARAM_MIN_READY];
    check.slow_start = number[NGX_HTTP_KONG_SHIFT_PARAM_SLOW_START];
    check.file = cf->conf_file->file.name.data;
    check.line = cf->conf_file->line;

    if (check.uri.len == 0 && !check.config_hash) {
        ngx_str_set(&check.uri, "/status/ready");
    }

    if (number[NGX_HTTP_KONG_SHIFT_PARAM_SSL]
        && ngx_http_kong_shift_set_ssl(cf, &line, &check) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    for (i = 0; i < 2; i++) {

        if (number[NGX_HTTP_KONG_SHIFT_PARAM_POOL] != NGX_KONG_SHIFT_ANY
            && number[NGX_HTTP_KONG_SHIFT_PARAM_POOL] != (ngx_int_t) i)
        {
            continue;
        }

        if (kscf->check[i].set) {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate \"%V\" of pool \"%s\", there may "
                               "be one for each pool, or one without "
                               "\"pool=\" for both", &cmd->name,
                               i == NGX_KONG_SHIFT_OLD ? "old" : "new");
            return NGX_CONF_ERROR;
        }

        kscf->check[i] = check;
    }

    ngx_http_kong_shift_note(cf, kscf, "kong_shift_check");

    return NGX_CONF_OK;
}


static ngx_int_t
ngx_http_kong_shift_read_param(ngx_conf_t *cf, ngx_str_t *arg,
    ngx_http_kong_shift_line_t *line)
{
    ngx_str_t                    *directive, value;
    ngx_uint_t                    i;
    ngx_http_kong_shift_param_t  *param;

    directive = cf->args->elts;

    for (i = 0; i < NGX_HTTP_KONG_SHIFT_PARAMS; i++) {
        param = &ngx_http_kong_shift_params[i];

        if (arg->len > param->name.len
            && arg->data[param->name.len] == '='
            && ngx_strncmp(arg->data, param->name.data, param->name.len) == 0)
        {
            break;
        }
    }

    if (i == NGX_HTTP_KONG_SHIFT_PARAMS) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in \"%V\", known are "
                           "\"pool=\", \"port=\", \"uri=\", "
                           "\"config_hash=\", \"interval=\", \"timeout=\", "
                           "\"fails=\", \"passes=\", \"min_ready=\", "
                           "\"slow_start=\", \"ssl=\" and \"ssl_*=\"",
                           arg, directive);
        return NGX_ERROR;
    }

    if (line->seen & (1 << i)) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "duplicate parameter \"%V\" in \"%V\"",
                           arg, directive);
        return NGX_ERROR;
    }

    value.data = arg->data + param->name.len + 1;
    value.len = arg->len - param->name.len - 1;

    line->seen |= 1 << i;
    line->value[i] = value;
    line->number[i] = ngx_http_kong_shift_read_value(param, &value);

    if (line->number[i] == NGX_ERROR) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid %V \"%V\" in \"%V\", it must be %s",
                           &param->name, &value, directive, param->allowed);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_read_value(ngx_http_kong_shift_param_t *param,
    ngx_str_t *value)
{
    ngx_int_t  n;

    switch (param->type) {

    case NGX_HTTP_KONG_SHIFT_TYPE_POOL:

        if (value->len == 3 && ngx_strncmp(value->data, "old", 3) == 0) {
            return NGX_KONG_SHIFT_OLD;
        }

        if (value->len == 3 && ngx_strncmp(value->data, "new", 3) == 0) {
            return NGX_KONG_SHIFT_NEW;
        }

        return NGX_ERROR;

    case NGX_HTTP_KONG_SHIFT_TYPE_FLAG:

        if (value->len == 2 && ngx_strncmp(value->data, "on", 2) == 0) {
            return 1;
        }

        if (value->len == 3 && ngx_strncmp(value->data, "off", 3) == 0) {
            return 0;
        }

        return NGX_ERROR;

    case NGX_HTTP_KONG_SHIFT_TYPE_NUMBER:

        n = ngx_atoi(value->data, value->len);
        break;

    case NGX_HTTP_KONG_SHIFT_TYPE_PERCENT:

        if (value->len == 0 || value->data[value->len - 1] != '%') {
            return NGX_ERROR;
        }

        n = ngx_atoi(value->data, value->len - 1);
        break;

    case NGX_HTTP_KONG_SHIFT_TYPE_TIME:

        n = ngx_parse_time(value, 0);
        break;

    case NGX_HTTP_KONG_SHIFT_TYPE_URI:

        return (value->len && value->data[0] == '/'
                && ngx_http_kong_shift_is_graphic(value))
               ? 0 : NGX_ERROR;

    default: /* NGX_HTTP_KONG_SHIFT_TYPE_TEXT */

        return ngx_http_kong_shift_is_graphic(value) ? 0 : NGX_ERROR;
    }

    return (n >= param->min && n <= param->max) ? n : NGX_ERROR;
}


/* it is sent in a request, and shown */

static ngx_uint_t
ngx_http_kong_shift_is_graphic(ngx_str_t *value)
{
    size_t  i;

    for (i = 0; i < value->len; i++) {
        if (value->data[i] <= 0x20 || value->data[i] >= 0x7f) {
            return 0;
        }
    }

    return value->len >= 1 && value->len <= 255;
}


/* what one parameter means for another */

static ngx_int_t
ngx_http_kong_shift_verify_line(ngx_conf_t *cf,
    ngx_http_kong_shift_line_t *line)
{
    ngx_str_t    *directive;
    ngx_int_t    *number;
    ngx_uint_t    seen;
    const char   *what;

    directive = cf->args->elts;
    number = line->number;
    seen = line->seen;
    what = NULL;

    if (!(seen & NGX_HTTP_KONG_SHIFT_SEEN(TIMEOUT))) {
        number[NGX_HTTP_KONG_SHIFT_PARAM_TIMEOUT] =
                       ngx_min(number[NGX_HTTP_KONG_SHIFT_PARAM_TIMEOUT],
                               number[NGX_HTTP_KONG_SHIFT_PARAM_INTERVAL]);
    }

    if (number[NGX_HTTP_KONG_SHIFT_PARAM_TIMEOUT]
        > number[NGX_HTTP_KONG_SHIFT_PARAM_INTERVAL])
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid timeout \"%V\" in \"%V\", it must be a "
                           "time from 10ms to the interval, which is %ims",
                           &line->value[NGX_HTTP_KONG_SHIFT_PARAM_TIMEOUT],
                           directive,
                           number[NGX_HTTP_KONG_SHIFT_PARAM_INTERVAL]);
        return NGX_ERROR;
    }

    if ((seen & NGX_HTTP_KONG_SHIFT_SEEN(MIN_READY))
        && number[NGX_HTTP_KONG_SHIFT_PARAM_POOL] == NGX_KONG_SHIFT_OLD)
    {
        what = "has \"min_ready=\" with \"pool=old\", it is for the new pool";

    } else if (number[NGX_HTTP_KONG_SHIFT_PARAM_SSL]) {

        if (!(seen & NGX_HTTP_KONG_SHIFT_SEEN(SSL_TRUSTED_CERTIFICATE))) {
            what = "with \"ssl=on\" must have \"ssl_trusted_certificate=\" "
                   "with a file";

        } else if (!(seen & NGX_HTTP_KONG_SHIFT_SEEN(SSL_NAME))) {
            what = "with \"ssl=on\" must have \"ssl_name=\" with the name "
                   "in the certificate";

        } else if (!(seen & NGX_HTTP_KONG_SHIFT_SEEN(SSL_CERTIFICATE))
                   != !(seen & NGX_HTTP_KONG_SHIFT_SEEN(SSL_CERTIFICATE_KEY)))
        {
            what = "must have both of \"ssl_certificate=\" and "
                   "\"ssl_certificate_key=\", or none";
        }

    } else if (seen & (NGX_HTTP_KONG_SHIFT_SEEN(SSL_TRUSTED_CERTIFICATE)
                       |NGX_HTTP_KONG_SHIFT_SEEN(SSL_NAME)
                       |NGX_HTTP_KONG_SHIFT_SEEN(SSL_CERTIFICATE)
                       |NGX_HTTP_KONG_SHIFT_SEEN(SSL_CERTIFICATE_KEY)))
    {
        what = "has a parameter \"ssl_*=\" without \"ssl=on\"";
    }

    if (what) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0, "\"%V\" %s", directive,
                           what);
        return NGX_ERROR;
    }

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_set_ssl(ngx_conf_t *cf, ngx_http_kong_shift_line_t *line,
    ngx_http_kong_shift_check_t *check)
{
#if (NGX_SSL)

    ngx_str_t           *value;
    ngx_pool_cleanup_t  *cln;

    value = line->value;

    check->ssl = ngx_pcalloc(cf->pool, sizeof(ngx_ssl_t));
    if (check->ssl == NULL) {
        return NGX_ERROR;
    }

    check->ssl->log = cf->log;
    check->ssl_name = value[NGX_HTTP_KONG_SHIFT_PARAM_SSL_NAME];

    if (ngx_ssl_create(check->ssl, NGX_SSL_TLSv1_2|NGX_SSL_TLSv1_3, NULL)
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    cln = ngx_pool_cleanup_add(cf->pool, 0);
    if (cln == NULL) {
        ngx_ssl_cleanup_ctx(check->ssl);
        return NGX_ERROR;
    }

    cln->handler = ngx_ssl_cleanup_ctx;
    cln->data = check->ssl;

    if (value[NGX_HTTP_KONG_SHIFT_PARAM_SSL_CERTIFICATE].len
        && ngx_ssl_certificate(cf, check->ssl,
                      &value[NGX_HTTP_KONG_SHIFT_PARAM_SSL_CERTIFICATE],
                      &value[NGX_HTTP_KONG_SHIFT_PARAM_SSL_CERTIFICATE_KEY],
                      NULL)
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    return ngx_ssl_trusted_certificate(cf, check->ssl,
                  &value[NGX_HTTP_KONG_SHIFT_PARAM_SSL_TRUSTED_CERTIFICATE],
                  NGX_HTTP_KONG_SHIFT_DEPTH);

#else

    ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                       "\"kong_shift_check\" with \"ssl=on\" requires nginx "
                       "built --with-http_ssl_module");
    return NGX_ERROR;

#endif
}


ngx_int_t
ngx_http_kong_shift_verify_checks(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_srv_conf_t *kscf)
{
    ngx_uint_t         pool;
    ngx_kong_shift_t  *shift;

    shift = kscf->shift;

    for (pool = 0; pool < 2; pool++) {

        if (!kscf->check[pool].set) {
            continue;
        }

        if (ngx_http_kong_shift_verify_check(cf, us, kscf, pool) != NGX_OK
            || ngx_http_kong_shift_verify_owner(cf, us, kscf, pool)
               != NGX_OK)
        {
            return NGX_ERROR;
        }

        shift->checked |= 1 << pool;
    }

    shift->min_ready = kscf->check[NGX_KONG_SHIFT_NEW].min_ready;

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_verify_check(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    const char                    *what;
    ngx_http_upstream_srv_conf_t  *puscf;
    ngx_http_kong_shift_check_t   *check;
    ngx_http_upstream_rr_peers_t  *peers;

    puscf = kscf->pool[pool];
    check = &kscf->check[pool];
    peers = puscf->peer.data;
    what = NULL;

    if (!ngx_http_kong_shift_is_shared(puscf)) {
        what = "needs \"zone\" in its pool";

    } else if (check->slow_start && !(puscf->flags & NGX_HTTP_UPSTREAM_BACKUP))
    {
        what = "with \"slow_start=\" needs the balancing method round robin "
               "or \"least_conn\" in its pool";

    } else if (check->slow_start && ngx_http_kong_shift_is_dynamic(peers)) {
        what = "with \"slow_start=\" allows no \"resolve\" in its pool";
    }

    if (what) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "\"kong_shift_check\" of upstream \"%V\" %s \"%V\" "
                      "in %s:%ui", &us->host, what, &puscf->host,
                      check->file, check->line);
        return NGX_ERROR;
    }

    return ngx_http_kong_shift_verify_peers(cf, puscf, check);
}


static ngx_int_t
ngx_http_kong_shift_verify_peers(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_check_t *check)
{
    ngx_uint_t                     n;
    ngx_http_upstream_rr_peer_t   *peer;
    ngx_http_upstream_rr_peers_t  *peers;

    n = 0;

    for (peers = us->peer.data; peers; peers = peers->next) {
        for (peer = peers->peer; peer; peer = peer->next) {
            n++;

            if (peer->name.len >= NGX_KONG_SHIFT_ADDR_SIZE) {
                ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                              "server \"%V\" of pool \"%V\" is too long for "
                              "\"kong_shift_check\", it may have %d "
                              "characters in %s:%ui",
                              &peer->name, &us->host,
                              NGX_KONG_SHIFT_ADDR_SIZE - 1,
                              check->file, check->line);
                return NGX_ERROR;
            }

            if (check->port && peer->sockaddr->sa_family == AF_UNIX) {
                ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                              "\"kong_shift_check\" has \"port=%ui\", but "
                              "server \"%V\" of pool \"%V\" has no port in "
                              "%s:%ui", check->port, &peer->name,
                              &us->host, check->file, check->line);
                return NGX_ERROR;
            }
        }
    }

    if (n > NGX_KONG_SHIFT_PEERS) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "pool \"%V\" has %ui servers, with "
                      "\"kong_shift_check\" it may have from 1 to %d in "
                      "%s:%ui", &us->host, n, NGX_KONG_SHIFT_PEERS,
                      check->file, check->line);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* two shifts would not agree on whether a peer is ready */

static ngx_int_t
ngx_http_kong_shift_verify_owner(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool)
{
    ngx_uint_t                        i;
    ngx_http_upstream_srv_conf_t    **uscfp;
    ngx_http_upstream_main_conf_t    *umcf;
    ngx_http_kong_shift_srv_conf_t   *other;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_upstream_module);
    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf == NULL) {
            continue;
        }

        other = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                                ngx_http_kong_shift_module);

        if (other == kscf || other->shift == NULL
            || (other->pool[0] != kscf->pool[pool]
                && other->pool[1] != kscf->pool[pool]))
        {
            continue;
        }

        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "pool \"%V\" with \"kong_shift_check\" of upstream "
                      "\"%V\" must not be a pool of upstream \"%V\" too "
                      "in %s:%ui",
                      &kscf->pool[pool]->host, &us->host, &uscfp[i]->host,
                      kscf->check[pool].file, kscf->check[pool].line);
        return NGX_ERROR;
    }

    return NGX_OK;
}
