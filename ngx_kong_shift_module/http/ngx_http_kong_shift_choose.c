
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


static ngx_int_t ngx_http_kong_shift_get_override(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e *pool);
static ngx_int_t ngx_http_kong_shift_get_hash(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *hash);


ngx_int_t
ngx_http_kong_shift_choose_by_request(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice)
{
    uint32_t                         hash, *hashp;
    ngx_int_t                        rc;
    ngx_kong_shift_pool_e            override;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = choice->kscf;

    override = NGX_KONG_SHIFT_ANY;
    hashp = NULL;

    if (kscf->override
        && ngx_http_kong_shift_get_override(r, kscf, &override) != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (kscf->key) {
        rc = ngx_http_kong_shift_get_hash(r, kscf, &hash);

        if (rc == NGX_ERROR) {
            return NGX_ERROR;
        }

        hashp = (rc == NGX_OK) ? &hash : NULL;
    }

    ngx_http_kong_shift_choose_pool(kp, choice, override, hashp);

    return NGX_OK;
}


ngx_int_t
ngx_http_kong_shift_stay(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice)
{
    uint64_t                         word;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = choice->kscf;

    if (r == r->main || !choice->outcome.main) {

        /* redirected since nobody answered */

        if (choice->outcome.main && choice->outcome.status == 0) {
            choice->outcome.failed |= 1 << choice->choice.pool;
        }

        choice->upstream = kp->upstream;
        choice->outcome.status = 0;
        choice->outcome.lost = 0;
        choice->outcome.main = (r == r->main);
    }

    word = ngx_http_kong_shift_begin(kscf);

    if (ngx_kong_shift_may_stay(choice->word, word, kscf->shift->gated,
                                choice->choice.pool))
    {
        ngx_http_kong_shift_enter(kscf, kp, choice->choice.pool);
        return NGX_OK;
    }

    ngx_http_kong_shift_end(kscf);

    return ngx_http_kong_shift_choose_by_request(r, kp, choice);
}


static ngx_int_t
ngx_http_kong_shift_get_override(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e *pool)
{
    ngx_str_t  value;

    if (ngx_http_complex_value(r, kscf->override, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_OK;
    }

    if (value.len == 3 && ngx_strncmp(value.data, "old", 3) == 0) {
        *pool = NGX_KONG_SHIFT_OLD;

    } else if (value.len == 3 && ngx_strncmp(value.data, "new", 3) == 0) {
        *pool = NGX_KONG_SHIFT_NEW;

    } else {
        ngx_log_error(NGX_LOG_INFO, r->connection->log, 0,
                      "kong_shift_override value \"%V\" is ignored, it may "
                      "be \"old\", \"new\" or empty", &value);
    }

    return NGX_OK;
}


/* NGX_DECLINED: the client has no key */

static ngx_int_t
ngx_http_kong_shift_get_hash(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t *kscf, uint32_t *hash)
{
    ngx_str_t                   value;
    ngx_http_variable_value_t  *vv;

    if (kscf->key_index != NGX_CONF_UNSET) {
        vv = ngx_http_get_flushed_variable(r, kscf->key_index);

        if (vv == NULL || vv->not_found) {
            return NGX_DECLINED;
        }

        value.len = vv->len;
        value.data = vv->data;

    } else if (ngx_http_complex_value(r, kscf->key, &value) != NGX_OK) {
        return NGX_ERROR;
    }

    if (value.len == 0) {
        return NGX_DECLINED;
    }

    *hash = ngx_kong_shift_mix(ngx_murmur_hash2(value.data, value.len),
                               kscf->seed_hash);

    return NGX_OK;
}


void
ngx_http_kong_shift_note_word(ngx_http_kong_shift_srv_conf_t *kscf,
    uint64_t word, uint64_t empty)
{
    ngx_uint_t  pool;

    kscf->word = word;
    kscf->empty = empty;
    kscf->may_take = 0;

    for (pool = 0; kscf->rescue && pool < 2; pool++) {
        if (ngx_kong_shift_may_take(word, kscf->shift->gated, pool,
                                    (unsigned) empty))
        {
            kscf->may_take |= 1 << pool;
        }
    }
}
