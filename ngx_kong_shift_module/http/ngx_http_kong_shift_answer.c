
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


static ngx_int_t ngx_http_kong_shift_parse_headers(
    ngx_http_kong_shift_probe_t *probe);
static ngx_int_t ngx_http_kong_shift_begin_body(
    ngx_http_kong_shift_probe_t *probe);


/*
 * NGX_AGAIN; NGX_OK when the whole answer, or all that is needed of it, is
 * there; NGX_ERROR with the reason set.
 */

ngx_int_t
ngx_http_kong_shift_parse_answer(ngx_http_kong_shift_probe_t *probe)
{
    ngx_int_t   rc;
    ngx_buf_t  *b;

    b = probe->answer;

    if (probe->step == NGX_HTTP_KONG_SHIFT_PROBE_STATUS) {

        rc = ngx_http_parse_status_line(probe->parser, b, &probe->status);

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        if (rc == NGX_ERROR) {
            ngx_cpystrn((u_char *) probe->reason,
                        (u_char *) "answer is not HTTP",
                        NGX_KONG_SHIFT_REASON_SIZE);
            return NGX_ERROR;
        }

        probe->parser->state = 0;
        probe->step = NGX_HTTP_KONG_SHIFT_PROBE_HEADER;
    }

    if (probe->step == NGX_HTTP_KONG_SHIFT_PROBE_HEADER) {

        rc = ngx_http_kong_shift_parse_headers(probe);

        if (rc != NGX_OK) {
            return rc;
        }

        rc = ngx_http_kong_shift_begin_body(probe);

        if (rc != NGX_AGAIN) {
            return rc;
        }

        probe->step = NGX_HTTP_KONG_SHIFT_PROBE_BODY;
    }

    return (probe->length != -1
            && probe->answer->last - probe->answer->pos >= probe->length)
           ? NGX_OK : NGX_AGAIN;
}


static ngx_int_t
ngx_http_kong_shift_parse_headers(ngx_http_kong_shift_probe_t *probe)
{
    size_t               len;
    ngx_int_t            rc;
    ngx_http_request_t  *r;

    r = probe->parser;

    for ( ;; ) {
        rc = ngx_http_parse_header_line(r, probe->answer, 1);

        if (rc == NGX_AGAIN) {
            return NGX_AGAIN;
        }

        if (rc == NGX_HTTP_PARSE_HEADER_DONE) {
            return NGX_OK;
        }

        if (rc != NGX_OK) {
            break;
        }

        len = r->header_name_end - r->header_name_start;

        if (len == sizeof("Transfer-Encoding") - 1
            && ngx_strncasecmp(r->header_name_start,
                               (u_char *) "Transfer-Encoding", len)
               == 0)
        {
            probe->chunked = 1;

        } else if (len == sizeof("Content-Length") - 1
                   && ngx_strncasecmp(r->header_name_start,
                                      (u_char *) "Content-Length", len)
                      == 0)
        {
            if (probe->length != -1) {
                break;
            }

            probe->length = ngx_atoof(r->header_start,
                                      r->header_end - r->header_start);

            if (probe->length == NGX_ERROR) {
                break;
            }
        }
    }

    ngx_cpystrn((u_char *) probe->reason,
                (u_char *) "answer has an invalid header",
                NGX_KONG_SHIFT_REASON_SIZE);

    return NGX_ERROR;
}


/* The body matters for its hash, or for why there is an error. */

static ngx_int_t
ngx_http_kong_shift_begin_body(ngx_http_kong_shift_probe_t *probe)
{
    if (probe->status.code / 100 == 2) {

        if (!probe->hashing) {
            return NGX_OK;
        }

        if (probe->chunked) {
            ngx_cpystrn((u_char *) probe->reason,
                        (u_char *) "answer to HTTP/1.0 is chunked",
                        NGX_KONG_SHIFT_REASON_SIZE);
            return NGX_ERROR;
        }

        return NGX_AGAIN;
    }

    if (probe->chunked || probe->length > NGX_HTTP_KONG_SHIFT_BODY) {
        probe->answer->last = probe->answer->pos;
        return NGX_OK;
    }

    return NGX_AGAIN;
}


/* Only a body gets more room: the parsers point into what is before it. */

ngx_int_t
ngx_http_kong_shift_grow(ngx_http_kong_shift_probe_t *probe)
{
    size_t      len;
    ngx_buf_t  *b;

    len = probe->answer->last - probe->answer->pos;

    if (probe->step != NGX_HTTP_KONG_SHIFT_PROBE_BODY
        || len >= NGX_HTTP_KONG_SHIFT_BODY
        || probe->length > NGX_HTTP_KONG_SHIFT_BODY)
    {
        return NGX_DECLINED;
    }

    b = ngx_create_temp_buf(probe->pool,
                            ngx_min(2 * len + 4096,
                                    NGX_HTTP_KONG_SHIFT_BODY));
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_cpymem(b->last, probe->answer->pos, len);

    /* large ones are allocated one by one, and this one is done with */

    ngx_pfree(probe->pool, probe->answer->start);

    probe->answer = b;

    return NGX_OK;
}


ngx_int_t
ngx_http_kong_shift_read_hash(ngx_http_kong_shift_probe_t *probe)
{
    size_t        i, len;
    json_t       *json;
    ngx_uint_t    zeroes;
    ngx_buf_t    *b;
    const char   *hash, *reason;

    b = probe->answer;
    reason = NULL;

    len = b->last - b->pos;

    if (probe->length != -1 && (off_t) len > probe->length) {
        len = (size_t) probe->length;
    }

    json = json_loadb((char *) b->pos, len, 0, NULL);

    if (json == NULL) {
        reason = "answer of /status is not JSON";
        goto failed;
    }

    hash = json_string_value(json_object_get(json, "configuration_hash"));

    if (hash == NULL) {
        reason = "no configuration_hash in the answer of /status";
        goto failed;
    }

    len = ngx_strlen(hash);
    zeroes = 0;

    if (len != NGX_KONG_SHIFT_HASH_SIZE - 1) {
        reason = "configuration_hash is not 32 hexadecimal digits";
        goto failed;
    }

    for (i = 0; i < len; i++) {

        probe->hash[i] = (char) ngx_tolower(hash[i]);

        if (!((probe->hash[i] >= '0' && probe->hash[i] <= '9')
              || (probe->hash[i] >= 'a' && probe->hash[i] <= 'f')))
        {
            reason = "configuration_hash is not 32 hexadecimal digits";
            goto failed;
        }

        zeroes += (hash[i] == '0');
    }

    if (zeroes == len) {
        reason = "configuration_hash is zero";
        goto failed;
    }

    probe->hash[len] = '\0';

    json_decref(json);

    return NGX_OK;

failed:

    json_decref(json);

    probe->hash[0] = '\0';

    ngx_cpystrn((u_char *) probe->reason, (u_char *) reason,
                NGX_KONG_SHIFT_REASON_SIZE);

    return NGX_ERROR;
}


/* "503", or "503: no configuration available" if it says so */

void
ngx_http_kong_shift_set_status_reason(ngx_http_kong_shift_probe_t *probe)
{
    u_char      *p, *last;
    json_t      *json;
    ngx_buf_t   *b;
    const char  *message;

    b = probe->answer;

    json = json_loadb((char *) b->pos, b->last - b->pos,
                      JSON_DISABLE_EOF_CHECK, NULL);
    message = json_string_value(json_object_get(json, "message"));

    last = ngx_snprintf((u_char *) probe->reason,
                        NGX_KONG_SHIFT_REASON_SIZE - 1, "%ui%s%s",
                        probe->status.code, message ? ": " : "",
                        message ? message : "");
    *last = '\0';

    /* it is cut anywhere, and shown in logs and JSON */

    for (p = (u_char *) probe->reason; *p; p++) {
        if (*p < 0x20 || *p >= 0x7f) {
            *p = '?';
        }
    }

    json_decref(json);
}
