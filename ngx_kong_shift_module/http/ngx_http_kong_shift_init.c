
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static ngx_int_t ngx_http_kong_shift_init_shift(ngx_conf_t *cf,
    ngx_http_upstream_main_conf_t *umcf, ngx_http_upstream_srv_conf_t *us,
    ngx_http_kong_shift_srv_conf_t *kscf);
static ngx_int_t ngx_http_kong_shift_init_freezes(ngx_conf_t *cf,
    ngx_http_upstream_main_conf_t *umcf,
    ngx_http_kong_shift_main_conf_t *ksmcf);


ngx_int_t
ngx_http_kong_shift_init(ngx_conf_t *cf)
{
    ngx_uint_t                         i;
    ngx_http_upstream_srv_conf_t     **uscfp;
    ngx_http_upstream_main_conf_t     *umcf;
    ngx_http_kong_shift_srv_conf_t    *kscf;
    ngx_http_kong_shift_main_conf_t   *ksmcf;

    umcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_upstream_module);
    ksmcf = ngx_http_conf_get_module_main_conf(cf,
                                               ngx_http_kong_shift_module);

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        /* implicit upstreams have none */

        if (uscfp[i]->srv_conf == NULL) {
            continue;
        }

        kscf = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                               ngx_http_kong_shift_module);

        if (kscf->shift) {
            if (ngx_http_kong_shift_init_shift(cf, umcf, uscfp[i], kscf)
                != NGX_OK)
            {
                return NGX_ERROR;
            }

        } else if (kscf->directive) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "\"%s\" needs \"kong_shift\" in the same upstream "
                          "\"%V\" in %s:%ui", kscf->directive,
                          &uscfp[i]->host, kscf->file, kscf->line);
            return NGX_ERROR;
        }
    }

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf == NULL) {
            continue;
        }

        kscf = ngx_http_conf_upstream_srv_conf(uscfp[i],
                                               ngx_http_kong_shift_module);

        if (kscf->shift
            && ngx_http_kong_shift_verify_checks(cf, uscfp[i], kscf)
               != NGX_OK)
        {
            return NGX_ERROR;
        }
    }

    return ngx_http_kong_shift_init_freezes(cf, umcf, ksmcf);
}


static ngx_int_t
ngx_http_kong_shift_init_shift(ngx_conf_t *cf,
    ngx_http_upstream_main_conf_t *umcf, ngx_http_upstream_srv_conf_t *us,
    ngx_http_kong_shift_srv_conf_t *kscf)
{
    ngx_uint_t                       i;
    ngx_http_upstream_srv_conf_t    *pool;
    ngx_http_kong_shift_srv_conf_t  *pkscf;

    if (us->peer.init_upstream != ngx_http_kong_shift_init_upstream) {
        ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                      "no balancing method and no \"keepalive\" is allowed "
                      "beside \"kong_shift\" in upstream \"%V\" in %s:%ui, "
                      "they belong to its pools",
                      &us->host, kscf->file, kscf->line);
        return NGX_ERROR;
    }

    /* since 1.29.7 nginx puts its "keepalive" in front of any upstream */

    us->peer.init = ngx_http_kong_shift_init_peer;

    for (i = 0; i < 2; i++) {

        pool = ngx_http_kong_shift_find(umcf, &kscf->name[i]);

        if (pool == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "unknown pool \"%V\" in \"kong_shift\" of upstream "
                          "\"%V\" in %s:%ui, it must be the name of an "
                          "upstream block", &kscf->name[i], &us->host,
                          kscf->file, kscf->line);
            return NGX_ERROR;
        }

        pkscf = ngx_http_conf_upstream_srv_conf(pool,
                                                ngx_http_kong_shift_module);

        if (pkscf->shift) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "pool \"%V\" in \"kong_shift\" of upstream \"%V\" "
                          "in %s:%ui must not be a shift itself",
                          &kscf->name[i], &us->host, kscf->file, kscf->line);
            return NGX_ERROR;
        }

        kscf->pool[i] = pool;

        ngx_queue_init(&kscf->under_way[i]);

        kscf->via[i] = ngx_pcalloc(cf->pool,
                                   sizeof(ngx_http_kong_shift_via_t));
        if (kscf->via[i] == NULL) {
            return NGX_ERROR;
        }

        /* no "Via" is as long as that */

        kscf->via[i]->len = NGX_MAX_SIZE_T_VALUE;
    }

    ngx_conf_init_value(kscf->rescue, 1);

    kscf->by_request = (kscf->key || kscf->override);

    kscf->shift->gated = (kscf->gate == 1);

    if (kscf->shift->gated && kscf->shift->weight) {
        ngx_log_error(NGX_LOG_WARN, cf->log, 0,
                      "\"kong_shift\" of upstream \"%V\" in %s:%ui has a gate "
                      "and a weight above 0: traffic goes to the new pool as "
                      "soon as the gate opens",
                      &us->host, kscf->file, kscf->line);
    }

    if (kscf->seed.data == NULL) {
        kscf->seed = kscf->shift->name;
    }

    kscf->seed_hash = ngx_murmur_hash2(kscf->seed.data, kscf->seed.len);

    return NGX_OK;
}


static ngx_int_t
ngx_http_kong_shift_init_freezes(ngx_conf_t *cf,
    ngx_http_upstream_main_conf_t *umcf,
    ngx_http_kong_shift_main_conf_t *ksmcf)
{
    ngx_uint_t                         i;
    ngx_http_handler_pt               *h;
    ngx_http_core_main_conf_t         *cmcf;
    ngx_http_upstream_srv_conf_t      *us;
    ngx_http_kong_shift_srv_conf_t    *kscf;
    ngx_http_kong_shift_loc_conf_t   **kslcf;

    if (ksmcf->freezes.nelts == 0) {
        return NGX_OK;
    }

    kslcf = ksmcf->freezes.elts;

    for (i = 0; i < ksmcf->freezes.nelts; i++) {

        us = ngx_http_kong_shift_find(umcf, &kslcf[i]->freeze_name);

        kscf = us ? ngx_http_conf_upstream_srv_conf(us,
                                                   ngx_http_kong_shift_module)
                  : NULL;

        if (kscf == NULL || kscf->shift == NULL) {
            ngx_log_error(NGX_LOG_EMERG, cf->log, 0,
                          "unknown shift \"%V\" in \"kong_shift_freeze\" in "
                          "%s:%ui, it must be the name of an upstream with "
                          "\"kong_shift\"", &kslcf[i]->freeze_name,
                          kslcf[i]->file, kslcf[i]->line);
            return NGX_ERROR;
        }

        kslcf[i]->freeze = kscf->shift;
    }

    cmcf = ngx_http_conf_get_module_main_conf(cf, ngx_http_core_module);

    h = ngx_array_push(&cmcf->phases[NGX_HTTP_PREACCESS_PHASE].handlers);
    if (h == NULL) {
        return NGX_ERROR;
    }

    *h = ngx_http_kong_shift_freeze_handler;

    return NGX_OK;
}


ngx_http_upstream_srv_conf_t *
ngx_http_kong_shift_find(ngx_http_upstream_main_conf_t *umcf, ngx_str_t *name)
{
    ngx_uint_t                      i;
    ngx_http_upstream_srv_conf_t  **uscfp;

    uscfp = umcf->upstreams.elts;

    for (i = 0; i < umcf->upstreams.nelts; i++) {

        if (uscfp[i]->srv_conf
            && uscfp[i]->host.len == name->len
            && ngx_strncasecmp(uscfp[i]->host.data, name->data, name->len)
               == 0)
        {
            return uscfp[i];
        }
    }

    return NULL;
}
