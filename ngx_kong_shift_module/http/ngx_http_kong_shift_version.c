
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift_request.h"


typedef struct {
    ngx_table_elt_t                 *header;
    ngx_uint_t                       index;
    const char                      *version;
    size_t                           len;
} ngx_http_kong_shift_found_t;


static ngx_uint_t ngx_http_kong_shift_see_version(
    ngx_http_kong_shift_peer_data_t *kp, const char *version, size_t len,
    uint64_t word);
static ngx_uint_t ngx_http_kong_shift_add_version(
    ngx_kong_shift_pool_t *pool, const char *version, size_t len);
static ngx_uint_t ngx_http_kong_shift_has_version(
    ngx_kong_shift_pool_t *pool, const char *text);
static void ngx_http_kong_shift_judge_versions(
    ngx_http_kong_shift_peer_data_t *kp, const char *announced);
static ngx_uint_t ngx_http_kong_shift_read_version(
    ngx_http_upstream_headers_in_t *headers,
    ngx_http_kong_shift_found_t *found);
static ngx_uint_t ngx_http_kong_shift_find_via(
    ngx_http_upstream_headers_in_t *headers,
    ngx_http_kong_shift_found_t *found);
static ngx_uint_t ngx_http_kong_shift_has_header(
    ngx_http_upstream_headers_in_t *headers, const char *name, size_t len);


ngx_uint_t
ngx_http_kong_shift_find_version(ngx_http_kong_shift_peer_data_t *kp,
    ngx_kong_shift_pool_t *pool, ngx_kong_shift_peer_t *peer)
{
    uint64_t                         word;
    ngx_uint_t                       i;
    ngx_http_kong_shift_via_t       *via;
    ngx_http_kong_shift_found_t      found;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    if (!ngx_http_kong_shift_read_version(&kp->upstream->headers_in, &found))
    {
        return NGX_KONG_SHIFT_VERSIONS;
    }

    kscf = kp->choice->kscf;
    via = kscf->via[kp->pool];
    word = kscf->record->word;

    for (i = 0; i < NGX_KONG_SHIFT_VERSIONS; i++) {
        if (ngx_kong_shift_same_version(found.version, found.len,
                                        pool->version[i].text))
        {
            break;
        }
    }

    if (i == NGX_KONG_SHIFT_VERSIONS
        || via->word != word
        || (peer && ngx_memcmp(peer->version, pool->version[i].text,
                               NGX_KONG_SHIFT_VERSION_SIZE)
                    != 0))
    {
        i = ngx_http_kong_shift_see_version(kp, found.version, found.len, word);
    }

    if (found.header && found.header->value.len <= sizeof(via->text)) {
        via->index = found.index;
        via->place = i;
        via->version = &pool->version[i];
        via->len = found.header->value.len;
        ngx_memcpy(via->text, found.header->value.data, via->len);
    }

    return i;
}


/*
 * Comes when a peer has another version than before, or when another one may
 * have been announced.
 */

static ngx_uint_t
ngx_http_kong_shift_see_version(ngx_http_kong_shift_peer_data_t *kp,
    const char *version, size_t len, uint64_t word)
{
    u_char                           text[NGX_KONG_SHIFT_COMMENT_SIZE];
    ngx_uint_t                       i, wrong;
    ngx_kong_shift_pool_t           *pool;
    ngx_kong_shift_peer_t           *peer;
    ngx_kong_shift_record_t         *rec;
    ngx_kong_shift_version_t        *v;
    ngx_kong_shift_snapshot_t        snap;
    ngx_kong_shift_evidence_t       *ev;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = kp->choice->kscf;
    rec = kscf->record;
    pool = &rec->pool[kp->pool];

    ngx_kong_shift_read(rec, &snap);
    ev = &snap.state.evidence;

    ngx_shmtx_lock(&kscf->conf->shpool->mutex);

    i = ngx_http_kong_shift_add_version(pool, version, len);
    v = &pool->version[i];

    kscf->via[kp->pool]->word = word;

    ngx_http_kong_shift_judge_versions(kp,
                                       kp->pool == NGX_KONG_SHIFT_OLD
                                       ? ev->x : ev->y);

    wrong = 0;

    if (kp->place != NGX_HTTP_KONG_SHIFT_NO_PLACE) {
        peer = &pool->peer[kp->place];

        ngx_memcpy(peer->version, v->text, NGX_KONG_SHIFT_VERSION_SIZE);

        peer->wrong = (kscf->via[kp->pool]->wrong >> i) & 1;
        wrong = peer->wrong && !(v->noted & ((uint64_t) 1 << kp->place));
    }

    if (wrong) {
        v->noted |= (uint64_t) 1 << kp->place;

        *ngx_snprintf(text, sizeof(text) - 1, "%s of %s answers as %s, but %s "
                      "was announced", peer->addr,
                      kp->pool == NGX_KONG_SHIFT_OLD ? "old" : "new", v->text,
                      kp->pool == NGX_KONG_SHIFT_OLD ? ev->x : ev->y) = '\0';

        ngx_kong_shift_see_locked(rec, NGX_KONG_SHIFT_SEE_VERSION, "answer",
                                  (char *) text);
    }

    ngx_shmtx_unlock(&kscf->conf->shpool->mutex);

    if (wrong) {
        ngx_log_error(NGX_LOG_ERR, kp->request->connection->log, 0,
                      "kong_shift \"%V\": %s", &kscf->shift->name, text);
    }

    return i;
}


/* a place that is needed is taken from a version no peer answers as */

static ngx_uint_t
ngx_http_kong_shift_add_version(ngx_kong_shift_pool_t *pool,
    const char *version, size_t len)
{
    char        text[NGX_KONG_SHIFT_VERSION_SIZE];
    ngx_uint_t  i, n;

    ngx_memzero(text, sizeof(text));
    ngx_memcpy(text, version, len);

    n = NGX_KONG_SHIFT_VERSIONS - 1;

    for (i = 0; i < NGX_KONG_SHIFT_VERSIONS; i++) {

        if (ngx_strcmp(pool->version[i].text, text) == 0) {
            return i;
        }

        if (pool->version[i].text[0] == '\0') {
            n = i;
            break;
        }

        if (!ngx_http_kong_shift_has_version(pool, pool->version[i].text)) {
            n = i;
        }
    }

    ngx_memzero(&pool->version[n], sizeof(ngx_kong_shift_version_t));
    ngx_memcpy(pool->version[n].text, text, NGX_KONG_SHIFT_VERSION_SIZE);

    return n;
}


static ngx_uint_t
ngx_http_kong_shift_has_version(ngx_kong_shift_pool_t *pool, const char *text)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        if (ngx_strcmp(pool->peer[i].version, text) == 0) {
            return 1;
        }
    }

    return 0;
}


static void
ngx_http_kong_shift_judge_versions(ngx_http_kong_shift_peer_data_t *kp,
    const char *announced)
{
    ngx_uint_t                       i, wrong;
    ngx_kong_shift_version_t        *v;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = kp->choice->kscf;
    v = kscf->record->pool[kp->pool].version;
    wrong = 0;

    for (i = 0; i < NGX_KONG_SHIFT_VERSIONS; i++) {

        if (ngx_kong_shift_wrong_version(v[i].text, announced)) {
            wrong |= 1 << i;

        } else {
            v[i].noted = 0;
        }
    }

    kscf->via[kp->pool]->wrong = wrong;
}


static ngx_uint_t
ngx_http_kong_shift_read_version(ngx_http_upstream_headers_in_t *headers,
    ngx_http_kong_shift_found_t *found)
{
    ngx_table_elt_t  *h;

    if (!ngx_http_kong_shift_find_via(headers, found)) {
        found->header = NULL;

        h = headers->server;

        if (h == NULL || ngx_strncmp(h->value.data, "kong/", 5) != 0) {
            return 0;
        }

        found->len = ngx_kong_shift_find_version((char *) h->value.data,
                                                 h->value.len,
                                                 &found->version);
        if (found->len == 0) {
            return 0;
        }
    }

    found->len = ngx_min(found->len, NGX_KONG_SHIFT_VERSION_SIZE - 1);

    return 1;
}


/* others on the way may have a "Via" of their own */

static ngx_uint_t
ngx_http_kong_shift_find_via(ngx_http_upstream_headers_in_t *headers,
    ngx_http_kong_shift_found_t *found)
{
    ngx_uint_t        i;
    ngx_table_elt_t  *h;
    ngx_list_part_t  *part;

    found->index = 0;

    for (part = &headers->headers.part; part; part = part->next) {

        h = part->elts;

        for (i = 0; i < part->nelts; i++, found->index++) {

            if (h[i].key.len != 3
                || ngx_strncasecmp(h[i].key.data, (u_char *) "via", 3) != 0)
            {
                continue;
            }

            found->len = ngx_kong_shift_find_version((char *) h[i].value.data,
                                                     h[i].value.len,
                                                     &found->version);
            if (found->len) {
                found->header = &h[i];
                return 1;
            }
        }
    }

    return 0;
}


/* X-Kong-... tell whose the answer is, and Via what it came through */

ngx_kong_shift_origin_e
ngx_http_kong_shift_get_origin(ngx_http_kong_shift_choice_t *choice)
{
    if (!ngx_http_kong_shift_is_answered(choice)) {
        return NGX_KONG_SHIFT_TRANSPORT;
    }

    return ngx_http_kong_shift_tell_origin(&choice->upstream->headers_in);
}


ngx_kong_shift_origin_e
ngx_http_kong_shift_tell_origin(ngx_http_upstream_headers_in_t *headers)
{
    ngx_http_kong_shift_found_t  via;

    static const char  response[] = "x-kong-response-latency";
    static const char  upstream[] = "x-kong-upstream-latency";

    if (ngx_http_kong_shift_has_header(headers, upstream,
                                       sizeof(upstream) - 1))
    {
        return NGX_KONG_SHIFT_BACKEND;
    }

    if (ngx_http_kong_shift_has_header(headers, response,
                                       sizeof(response) - 1))
    {
        return NGX_KONG_SHIFT_GATEWAY;
    }

    if (ngx_http_kong_shift_find_via(headers, &via)) {
        return NGX_KONG_SHIFT_BACKEND;
    }

    return NGX_KONG_SHIFT_UNKNOWN;
}


static ngx_uint_t
ngx_http_kong_shift_has_header(ngx_http_upstream_headers_in_t *headers,
    const char *name, size_t len)
{
    ngx_uint_t        i;
    ngx_table_elt_t  *h;

    for (i = 0; /* void */ ; i++) {

        h = ngx_http_kong_shift_get_header(headers, i);

        if (h == NULL) {
            return 0;
        }

        if (h->key.len == len
            && ngx_strncasecmp(h->key.data, (u_char *) name, len) == 0)
        {
            return 1;
        }
    }
}
