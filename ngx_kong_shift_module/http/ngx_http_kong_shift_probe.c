
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_HEAD   (16 * 1024)


static void ngx_http_kong_shift_connect(ngx_http_kong_shift_probe_t *probe);
static ngx_int_t ngx_http_kong_shift_make_request(
    ngx_http_kong_shift_probe_t *probe);
static void ngx_http_kong_shift_connected(ngx_http_kong_shift_probe_t *probe);
static void ngx_http_kong_shift_send(ngx_http_kong_shift_probe_t *probe);
static void ngx_http_kong_shift_write_event(ngx_event_t *wev);
static void ngx_http_kong_shift_read_event(ngx_event_t *rev);
static void ngx_http_kong_shift_dummy_event(ngx_event_t *ev);
static void ngx_http_kong_shift_timer_event(ngx_event_t *ev);
static void ngx_http_kong_shift_end_answer(
    ngx_http_kong_shift_probe_t *probe);
static void ngx_http_kong_shift_fail(ngx_http_kong_shift_probe_t *probe,
    const char *reason, ngx_err_t err);
static void ngx_http_kong_shift_end_probe(ngx_http_kong_shift_probe_t *probe,
    ngx_int_t rc);
static void ngx_http_kong_shift_close(ngx_http_kong_shift_probe_t *probe);

#if (NGX_SSL)
static void ngx_http_kong_shift_handshake(ngx_connection_t *c);
static void ngx_http_kong_shift_handshake_done(ngx_connection_t *c);
#endif


void
ngx_http_kong_shift_start_probe(ngx_http_kong_shift_probe_t *probe)
{
    ngx_event_t  *ev;

    probe->reason[0] = '\0';
    probe->hash[0] = '\0';
    probe->hashing = (probe->check->uri.len == 0);

    ev = &probe->timer;

    ngx_memzero(ev, sizeof(ngx_event_t));

    probe->dumb.fd = (ngx_socket_t) -1;
    probe->dumb.data = probe;

    ev->handler = ngx_http_kong_shift_timer_event;
    ev->log = probe->log;
    ev->data = &probe->dumb;
    ev->cancelable = 1;

    /* both requests have to be done by then */

    ngx_add_timer(ev, probe->check->timeout);

    ngx_http_kong_shift_connect(probe);
}


static void
ngx_http_kong_shift_connect(ngx_http_kong_shift_probe_t *probe)
{
    ngx_int_t               rc;
    ngx_connection_t       *c;
    ngx_peer_connection_t  *pc;

    probe->step = NGX_HTTP_KONG_SHIFT_PROBE_CONNECT;
    probe->length = -1;
    probe->chunked = 0;

    pc = &probe->peer;

    ngx_memzero(pc, sizeof(ngx_peer_connection_t));
    ngx_memzero(&probe->status, sizeof(ngx_http_status_t));

    if (ngx_http_kong_shift_make_request(probe) != NGX_OK) {
        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

    pc->sockaddr = &probe->sockaddr.sockaddr;
    pc->socklen = probe->socklen;
    pc->name = &probe->name;
    pc->get = ngx_event_get_peer;
    pc->log = probe->log;
    pc->log_error = NGX_ERROR_ERR;

    ngx_set_errno(0);

    rc = ngx_event_connect_peer(pc);

    if (rc == NGX_DECLINED) {
        ngx_http_kong_shift_fail(probe, "connect() failed", ngx_errno);
        return;
    }

    if (rc == NGX_ERROR || rc == NGX_BUSY) {

        /* it is this worker that has no socket or no connection left */

        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

    c = pc->connection;

    c->data = probe;
    c->pool = probe->pool;
    c->log = probe->log;
    c->read->log = probe->log;
    c->write->log = probe->log;
    c->sendfile = 0;

    /* a worker on its way out does not wait for it */

    c->idle = 1;

    c->read->handler = ngx_http_kong_shift_read_event;
    c->write->handler = ngx_http_kong_shift_write_event;

    if (rc == NGX_OK) {
        ngx_http_kong_shift_connected(probe);
    }
}


static ngx_int_t
ngx_http_kong_shift_make_request(ngx_http_kong_shift_probe_t *probe)
{
    u_char      host[NGX_KONG_SHIFT_ADDR_SIZE];
    ngx_str_t   uri, name;
    ngx_buf_t  *b;

    probe->pool = ngx_create_pool(1024, probe->log);
    if (probe->pool == NULL) {
        return NGX_ERROR;
    }

    probe->parser = ngx_pcalloc(probe->pool, sizeof(ngx_http_request_t));
    probe->answer = ngx_create_temp_buf(probe->pool,
                                        NGX_HTTP_KONG_SHIFT_HEAD);

    if (probe->parser == NULL || probe->answer == NULL) {
        return NGX_ERROR;
    }

    ngx_str_set(&uri, "/status");

    if (!probe->hashing) {
        uri = probe->check->uri;
    }

    name.data = host;
    name.len = ngx_sock_ntop(&probe->sockaddr.sockaddr, probe->socklen, host,
                             sizeof(host), 1);

    if (probe->sockaddr.sockaddr.sa_family == AF_UNIX) {
        ngx_str_set(&name, "localhost");
    }

#if (NGX_SSL)
    if (probe->check->ssl) {
        name = probe->check->ssl_name;
    }
#endif

    b = ngx_create_temp_buf(probe->pool, uri.len + name.len + 128);
    if (b == NULL) {
        return NGX_ERROR;
    }

    b->last = ngx_sprintf(b->last,
                          "GET %V HTTP/1.0" CRLF
                          "Host: %V" CRLF
                          "User-Agent: kong-shift" CRLF
                          "Accept: application/json, */*" CRLF
                          "Connection: close" CRLF CRLF,
                          &uri, &name);
    probe->request = b;

    return NGX_OK;
}


static void
ngx_http_kong_shift_connected(ngx_http_kong_shift_probe_t *probe)
{
    int                err;
    socklen_t          len;
    ngx_connection_t  *c;

    c = probe->peer.connection;

    err = 0;
    len = sizeof(int);

    /* as ngx_http_upstream_test_connect() does it without kqueue */

    if (getsockopt(c->fd, SOL_SOCKET, SO_ERROR, (void *) &err, &len) == -1) {
        err = ngx_socket_errno;
    }

    if (err) {
        ngx_http_kong_shift_fail(probe, "connect() failed", err);
        return;
    }

#if (NGX_SSL)

    if (probe->check->ssl) {
        ngx_http_kong_shift_handshake(c);
        return;
    }

#endif

    ngx_http_kong_shift_send(probe);
}


#if (NGX_SSL)

static void
ngx_http_kong_shift_handshake(ngx_connection_t *c)
{
    ngx_http_kong_shift_probe_t  *probe;

    probe = c->data;
    probe->step = NGX_HTTP_KONG_SHIFT_PROBE_HANDSHAKE;

    if (ngx_ssl_create_connection(probe->check->ssl, c, NGX_SSL_CLIENT)
        != NGX_OK)
    {
        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

#ifdef SSL_CTRL_SET_TLSEXT_HOSTNAME

    /* the name ends with the parameter, so there is a zero after it */

    if (SSL_set_tlsext_host_name(c->ssl->connection,
                                 (char *) probe->check->ssl_name.data)
        == 0)
    {
        ngx_ssl_error(NGX_LOG_ALERT, probe->log, 0,
                      "SSL_set_tlsext_host_name(\"%V\") failed",
                      &probe->check->ssl_name);
        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

#endif

    c->ssl->handler = ngx_http_kong_shift_handshake_done;

    if (ngx_ssl_handshake(c) == NGX_AGAIN) {
        return;
    }

    ngx_http_kong_shift_handshake_done(c);
}


static void
ngx_http_kong_shift_handshake_done(ngx_connection_t *c)
{
    long                          rc;
    u_char                       *last;
    ngx_http_kong_shift_probe_t  *probe;

    probe = c->data;

    if (c->close) {
        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

    if (!c->ssl->handshaked) {
        ngx_http_kong_shift_fail(probe, "TLS handshake failed", 0);
        return;
    }

    rc = SSL_get_verify_result(c->ssl->connection);

    if (rc != X509_V_OK) {
        last = ngx_snprintf((u_char *) probe->reason,
                            NGX_KONG_SHIFT_REASON_SIZE - 1,
                            "TLS certificate is not valid: %s",
                            X509_verify_cert_error_string(rc));
        *last = '\0';

        ngx_http_kong_shift_end_probe(probe, NGX_ERROR);
        return;
    }

    if (ngx_ssl_check_host(c, &probe->check->ssl_name) != NGX_OK) {
        ngx_http_kong_shift_fail(probe, "TLS certificate is of another name",
                                 0);
        return;
    }

    c->read->handler = ngx_http_kong_shift_read_event;
    c->write->handler = ngx_http_kong_shift_write_event;

    ngx_http_kong_shift_send(probe);
}

#endif


static void
ngx_http_kong_shift_send(ngx_http_kong_shift_probe_t *probe)
{
    ssize_t            n;
    ngx_buf_t         *b;
    ngx_connection_t  *c;

    c = probe->peer.connection;
    b = probe->request;

    probe->step = NGX_HTTP_KONG_SHIFT_PROBE_SEND;

    while (b->pos < b->last) {

        ngx_set_errno(0);

        n = c->send(c, b->pos, b->last - b->pos);

        if (n == NGX_AGAIN) {
            if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
                ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
            }

            return;
        }

        if (n <= 0) {
            ngx_http_kong_shift_fail(probe, "send() failed", ngx_errno);
            return;
        }

        b->pos += n;
    }

    probe->step = NGX_HTTP_KONG_SHIFT_PROBE_STATUS;
    c->write->handler = ngx_http_kong_shift_dummy_event;

    if (ngx_handle_write_event(c->write, 0) != NGX_OK) {
        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

    ngx_http_kong_shift_read_event(c->read);
}


static void
ngx_http_kong_shift_write_event(ngx_event_t *wev)
{
    ngx_connection_t             *c;
    ngx_http_kong_shift_probe_t  *probe;

    c = wev->data;
    probe = c->data;

    if (probe->step == NGX_HTTP_KONG_SHIFT_PROBE_CONNECT) {
        ngx_http_kong_shift_connected(probe);
        return;
    }

    ngx_http_kong_shift_send(probe);
}


static void
ngx_http_kong_shift_read_event(ngx_event_t *rev)
{
    ssize_t                       n;
    ngx_int_t                     rc;
    ngx_buf_t                    *b;
    ngx_connection_t             *c;
    ngx_http_kong_shift_probe_t  *probe;

    c = rev->data;
    probe = c->data;

    if (c->close) {
        ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
        return;
    }

    if (probe->step < NGX_HTTP_KONG_SHIFT_PROBE_STATUS) {

        /* an error shows when it is written to */

        return;
    }

    for ( ;; ) {
        b = probe->answer;

        if (b->last == b->end) {

            rc = ngx_http_kong_shift_grow(probe);

            if (rc != NGX_OK) {
                ngx_http_kong_shift_fail(probe, "answer is too long", 0);
                return;
            }

            b = probe->answer;
        }

        ngx_set_errno(0);

        n = c->recv(c, b->last, b->end - b->last);

        if (n == NGX_AGAIN) {
            if (ngx_handle_read_event(rev, 0) != NGX_OK) {
                ngx_http_kong_shift_end_probe(probe, NGX_DECLINED);
            }

            return;
        }

        if (n == NGX_ERROR) {
            ngx_http_kong_shift_fail(probe, "recv() failed", ngx_errno);
            return;
        }

        if (n == 0) {

            if (probe->step == NGX_HTTP_KONG_SHIFT_PROBE_BODY
                && probe->length == -1)
            {
                ngx_http_kong_shift_end_answer(probe);
                return;
            }

            ngx_http_kong_shift_fail(probe,
                                     "connection closed before the answer "
                                     "was complete", 0);
            return;
        }

        b->last += n;

        rc = ngx_http_kong_shift_parse_answer(probe);

        if (rc == NGX_OK) {
            ngx_http_kong_shift_end_answer(probe);
            return;
        }

        if (rc == NGX_ERROR) {
            ngx_http_kong_shift_end_probe(probe, NGX_ERROR);
            return;
        }
    }
}


static void
ngx_http_kong_shift_dummy_event(ngx_event_t *ev)
{
    ngx_log_debug0(NGX_LOG_DEBUG_EVENT, ev->log, 0,
                   "kong_shift check dummy handler");
}


static void
ngx_http_kong_shift_timer_event(ngx_event_t *ev)
{
    ngx_connection_t  *dumb;

    dumb = ev->data;

    ngx_http_kong_shift_expire_probe(dumb->data);
}


void
ngx_http_kong_shift_expire_probe(ngx_http_kong_shift_probe_t *probe)
{
    switch (probe->step) {

    case NGX_HTTP_KONG_SHIFT_PROBE_IDLE:
        return;

    case NGX_HTTP_KONG_SHIFT_PROBE_CONNECT:
        ngx_http_kong_shift_fail(probe, "timed out while connecting", 0);
        return;

    case NGX_HTTP_KONG_SHIFT_PROBE_HANDSHAKE:
        ngx_http_kong_shift_fail(probe, "timed out in the TLS handshake", 0);
        return;

    default:
        ngx_http_kong_shift_fail(probe, "timed out before the answer was "
                                 "complete", 0);
        return;
    }
}


static void
ngx_http_kong_shift_end_answer(ngx_http_kong_shift_probe_t *probe)
{
    if (probe->status.code / 100 != 2) {
        ngx_http_kong_shift_set_status_reason(probe);
        ngx_http_kong_shift_end_probe(probe, NGX_ERROR);
        return;
    }

    if (probe->hashing) {
        ngx_http_kong_shift_end_probe(probe,
                                      ngx_http_kong_shift_read_hash(probe));
        return;
    }

    if (!probe->check->config_hash) {
        ngx_http_kong_shift_end_probe(probe, NGX_OK);
        return;
    }

    ngx_http_kong_shift_close(probe);

    probe->hashing = 1;

    ngx_http_kong_shift_connect(probe);
}


static void
ngx_http_kong_shift_fail(ngx_http_kong_shift_probe_t *probe,
    const char *reason, ngx_err_t err)
{
    u_char  *p, *last;

    if (probe->step == NGX_HTTP_KONG_SHIFT_PROBE_BODY
        && probe->status.code / 100 != 2)
    {
        /* that it is an error is what matters */

        ngx_http_kong_shift_set_status_reason(probe);
        ngx_http_kong_shift_end_probe(probe, NGX_ERROR);
        return;
    }

    p = (u_char *) probe->reason;
    last = p + NGX_KONG_SHIFT_REASON_SIZE - 1;

    p = ngx_slprintf(p, last, "%s", reason);

    if (err) {
        p = ngx_slprintf(p, last, " (%d: ", err);

        if (p < last) {
            p = ngx_strerror(err, p, last - p);
        }

        p = ngx_slprintf(p, last, ")");
    }

    *p = '\0';

    ngx_http_kong_shift_end_probe(probe, NGX_ERROR);
}


static void
ngx_http_kong_shift_end_probe(ngx_http_kong_shift_probe_t *probe,
    ngx_int_t rc)
{
    ngx_http_kong_shift_stop_probe(probe);

    probe->rc = rc;
    probe->handler(probe);
}


void
ngx_http_kong_shift_stop_probe(ngx_http_kong_shift_probe_t *probe)
{
    if (probe->step == NGX_HTTP_KONG_SHIFT_PROBE_IDLE) {
        return;
    }

    if (probe->timer.timer_set) {
        ngx_del_timer(&probe->timer);
    }

    ngx_http_kong_shift_close(probe);

    probe->step = NGX_HTTP_KONG_SHIFT_PROBE_IDLE;
}


static void
ngx_http_kong_shift_close(ngx_http_kong_shift_probe_t *probe)
{
    ngx_connection_t  *c;

    c = probe->peer.connection;

    if (c) {

#if (NGX_SSL)
        if (c->ssl) {

            /* nothing is sent or waited for: it may be the last we do */

            c->timedout = 1;

            (void) ngx_ssl_shutdown(c);
        }
#endif

        ngx_close_connection(c);
        probe->peer.connection = NULL;
    }

    if (probe->pool) {
        ngx_destroy_pool(probe->pool);
        probe->pool = NULL;
    }
}
