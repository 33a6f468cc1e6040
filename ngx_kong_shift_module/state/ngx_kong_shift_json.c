
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"

#include <openssl/evp.h>


#define NGX_KONG_SHIFT_FILE_VERSION  1

/* 3 digits and 4 decimals: a weight is printed as it was typed */
#define NGX_KONG_SHIFT_JSON_REAL     JSON_REAL_PRECISION(7)

#define NGX_KONG_SHIFT_DIGEST_LEN    (2 * 32)


static const char  *ngx_kong_shift_pools[] = { "old", "new" };


static json_t *ngx_kong_shift_encode_state(
    const ngx_kong_shift_saved_t *saved);
static const char *ngx_kong_shift_check(json_t *root, uint64_t *serial,
    json_t **shifts);
static ngx_int_t ngx_kong_shift_decode_state(const json_t *value,
    ngx_kong_shift_saved_t *saved);
static ngx_int_t ngx_kong_shift_decode_gate(json_t *gate,
    ngx_kong_shift_state_t *st);
static json_t *ngx_kong_shift_encode_drains(const ngx_kong_shift_state_t *st);
static ngx_int_t ngx_kong_shift_decode_drains(json_t *drains,
    ngx_kong_shift_state_t *st);
static ngx_int_t ngx_kong_shift_decode_drain(json_t *drain,
    ngx_kong_shift_state_t *st, ngx_kong_shift_pool_e pool);
static ngx_int_t ngx_kong_shift_decode_peers(json_t *peers,
    ngx_kong_shift_state_t *st);
static ngx_int_t ngx_kong_shift_digest(const json_t *root, char *hex);


json_t *
ngx_kong_shift_json_weight(uint32_t weight)
{
    if (weight % NGX_KONG_SHIFT_UNIT == 0) {
        return json_integer(weight / NGX_KONG_SHIFT_UNIT);
    }

    return json_real((double) weight / NGX_KONG_SHIFT_UNIT);
}


json_t *
ngx_kong_shift_json_time(int64_t t)
{
    u_char    buf[sizeof("1970-09-28T12:00:00Z")], *p;
    ngx_tm_t  tm;

    ngx_gmtime((time_t) t, &tm);

    p = ngx_snprintf(buf, sizeof(buf), "%4d-%02d-%02dT%02d:%02d:%02dZ",
                     tm.ngx_tm_year, tm.ngx_tm_mon, tm.ngx_tm_mday,
                     tm.ngx_tm_hour, tm.ngx_tm_min, tm.ngx_tm_sec);

    return json_stringn((char *) buf, p - buf);
}


json_t *
ngx_kong_shift_json_evidence(const ngx_kong_shift_evidence_t *ev)
{
    return json_pack("{ss, ss, ss, ss}", "strategy", ev->strategy,
                     "x", ev->x, "y", ev->y, "journal", ev->journal);
}


ngx_int_t
ngx_kong_shift_json_get_weight(const json_t *value, uint32_t *weight)
{
    json_int_t  n;

    if (json_is_integer(value)) {
        n = json_integer_value(value);

        if (n < 0 || n > 100) {
            return NGX_ERROR;
        }

        *weight = (uint32_t) n * NGX_KONG_SHIFT_UNIT;

        return NGX_OK;
    }

    if (!json_is_real(value)) {
        return NGX_DECLINED;
    }

    if (ngx_kong_shift_real_weight(json_real_value(value), weight) != 0) {
        return NGX_ERROR;
    }

    return NGX_OK;
}


ngx_int_t
ngx_kong_shift_json_get_text(const json_t *value, char *text, size_t size)
{
    size_t       i, len;
    const char  *s;

    if (!json_is_string(value)) {
        return NGX_DECLINED;
    }

    s = json_string_value(value);
    len = json_string_length(value);

    if (len >= size) {
        return NGX_ERROR;
    }

    for (i = 0; i < len; i++) {
        if ((u_char) s[i] < 0x20 || s[i] == 0x7f) {
            return NGX_ERROR;
        }
    }

    ngx_memcpy(text, s, len);
    ngx_memzero(text + len, size - len);

    return NGX_OK;
}


char *
ngx_kong_shift_encode(const ngx_kong_shift_saved_t *saved, ngx_uint_t n,
    uint64_t serial)
{
    char        *text, hex[NGX_KONG_SHIFT_DIGEST_LEN + 1];
    json_t      *root, *shifts;
    ngx_uint_t   i;

    text = NULL;

    root = json_pack("{si, sI, s{}}", "version", NGX_KONG_SHIFT_FILE_VERSION,
                     "serial", (json_int_t) serial, "shifts");
    if (root == NULL) {
        return NULL;
    }

    shifts = json_object_get(root, "shifts");

    for (i = 0; i < n; i++) {
        if (json_object_set_new(shifts, saved[i].name,
                                ngx_kong_shift_encode_state(&saved[i]))
            != 0)
        {
            goto done;
        }
    }

    if (ngx_kong_shift_digest(root, hex) != NGX_OK
        || json_object_set_new(root, "sha256", json_string(hex)) != 0)
    {
        goto done;
    }

    text = json_dumps(root, JSON_INDENT(2)|NGX_KONG_SHIFT_JSON_REAL);

done:

    json_decref(root);

    return text;
}


static json_t *
ngx_kong_shift_encode_state(const ngx_kong_shift_saved_t *saved)
{
    json_t                        *json, *evidence, *drains;
    const ngx_kong_shift_state_t  *st;

    st = &saved->state;

    evidence = st->evidence.strategy[0]
               ? ngx_kong_shift_json_evidence(&st->evidence) : json_null();

    json = json_pack("{sI, sI, so, so, sb, s{ss, sb, sI, ss, so},"
                     " s{ss, sI, ss}, sI}",
                     "generation", (json_int_t) st->generation,
                     "changed", (json_int_t) st->changed,
                     "weight", ngx_kong_shift_json_weight(st->weight),
                     "conf_weight",
                     ngx_kong_shift_json_weight(st->conf_weight),
                     "aborted", (int) st->aborted,
                     "gate",
                     "state", st->gate_open ? "open" : "closed",
                     "forced", (int) st->gate_forced,
                     "changed", (json_int_t) st->gate_changed,
                     "comment", st->gate_comment,
                     "evidence", evidence,
                     "freeze",
                     "state", st->freeze ? "on" : "off",
                     "changed", (json_int_t) st->freeze_changed,
                     "comment", st->freeze_comment,
                     "events", (json_int_t) saved->nevents);

    drains = ngx_kong_shift_encode_drains(st);

    /* as long as nothing is drained the file is as it always was */

    if (drains == NULL
        || (json_object_size(drains)
            && json_object_set(json, "drains", drains) != 0))
    {
        json_decref(json);
        json = NULL;
    }

    json_decref(drains);

    return json;
}


static json_t *
ngx_kong_shift_encode_drains(const ngx_kong_shift_state_t *st)
{
    json_t                          *drains, *peers;
    ngx_uint_t                       i;
    const ngx_kong_shift_drained_t  *peer;

    drains = json_object();
    peers = json_array();

    for (i = 0; i < 2; i++) {
        if (st->drained[i]
            && json_object_set_new(drains, ngx_kong_shift_pools[i],
                       json_pack("{sI, sI, sI}",
                                 "changed", (json_int_t) st->drain_changed[i],
                                 "rate", (json_int_t) st->drain_rate[i],
                                 "deadline",
                                 (json_int_t) st->drain_deadline[i]))
               != 0)
        {
            goto failed;
        }
    }

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {
        peer = &st->peer[i];

        if (peer->addr[0]
            && json_array_append_new(peers,
                       json_pack("{ss, ss}",
                                 "pool", ngx_kong_shift_pools[peer->pool],
                                 "addr", peer->addr))
               != 0)
        {
            goto failed;
        }
    }

    if (json_array_size(peers)
        && json_object_set(drains, "peers", peers) != 0)
    {
        goto failed;
    }

    json_decref(peers);

    return drains;

failed:

    json_decref(peers);
    json_decref(drains);

    return NULL;
}


ngx_int_t
ngx_kong_shift_decode(ngx_pool_t *pool, const u_char *text, size_t len,
    ngx_array_t *saved, uint64_t *serial, const char **reason)
{
    json_t                  *root, *shifts, *value;
    ngx_int_t                rc;
    const char              *key;
    json_error_t             error;
    ngx_kong_shift_saved_t  *s;

    rc = NGX_ERROR;

    root = json_loadb((const char *) text, len, JSON_REJECT_DUPLICATES,
                      &error);
    if (root == NULL) {
        *reason = "it is not JSON";
        return NGX_ERROR;
    }

    *reason = ngx_kong_shift_check(root, serial, &shifts);

    if (*reason) {
        goto done;
    }

    if (ngx_array_init(saved, pool, json_object_size(shifts) + 1,
                       sizeof(ngx_kong_shift_saved_t))
        != NGX_OK)
    {
        *reason = "there is no memory to read it";
        goto done;
    }

    json_object_foreach(shifts, key, value) {

        s = ngx_array_push(saved);
        if (s == NULL) {
            *reason = "there is no memory to read it";
            goto done;
        }

        ngx_memzero(s, sizeof(ngx_kong_shift_saved_t));

        if (ngx_strlen(key) >= sizeof(s->name)
            || ngx_kong_shift_decode_state(value, s) != NGX_OK)
        {
            *reason = "a shift in it has a wrong form";
            goto done;
        }

        ngx_memcpy(s->name, key, ngx_strlen(key));
    }

    rc = NGX_OK;

done:

    json_decref(root);

    return rc;
}


/* NULL, or what is wrong with it */

static const char *
ngx_kong_shift_check(json_t *root, uint64_t *serial, json_t **shifts)
{
    int            version;
    char           hex[NGX_KONG_SHIFT_DIGEST_LEN + 1];
    json_t        *body;
    ngx_int_t      rc;
    const char    *sha256;
    json_int_t     n;
    json_error_t   error;

    if (json_unpack(root, "{si}", "version", &version) != 0) {
        return "it has no version";
    }

    if (version != NGX_KONG_SHIFT_FILE_VERSION) {
        return "its version is not 1";
    }

    if (json_unpack_ex(root, &error, JSON_STRICT, "{si, sI, ss, so}",
                       "version", &version, "serial", &n,
                       "sha256", &sha256, "shifts", shifts)
        != 0
        || n < 0 || !json_is_object(*shifts))
    {
        return "it is not of the form of version 1";
    }

    body = json_copy(root);

    rc = (json_object_del(body, "sha256") == 0)
         ? ngx_kong_shift_digest(body, hex) : NGX_ERROR;

    json_decref(body);

    if (rc != NGX_OK) {
        return "there is no memory to check it";
    }

    if (ngx_strcmp(hex, sha256) != 0) {
        return "its sha256 does not match";
    }

    *serial = (uint64_t) n;

    return NULL;
}


static ngx_int_t
ngx_kong_shift_decode_state(const json_t *value,
    ngx_kong_shift_saved_t *saved)
{
    int                      aborted;
    json_t                  *weight, *conf_weight, *gate, *comment, *drains;
    json_int_t               generation, changed, freeze_changed, nevents;
    const char              *freeze;
    json_error_t             error;
    ngx_kong_shift_state_t  *st;

    st = &saved->state;
    drains = NULL;

    if (json_unpack_ex((json_t *) value, &error, JSON_STRICT,
                       "{sI, sI, so, so, sb, so, s{ss, sI, so}, sI, s?o}",
                       "generation", &generation, "changed", &changed,
                       "weight", &weight, "conf_weight", &conf_weight,
                       "aborted", &aborted, "gate", &gate,
                       "freeze", "state", &freeze,
                       "changed", &freeze_changed, "comment", &comment,
                       "events", &nevents, "drains", &drains)
        != 0)
    {
        return NGX_ERROR;
    }

    if (generation < 1
        || generation >= (json_int_t) NGX_KONG_SHIFT_GENERATION_MASK
        || nevents < 0
        || ngx_kong_shift_json_get_weight(weight, &st->weight) != NGX_OK
        || ngx_kong_shift_json_get_weight(conf_weight, &st->conf_weight)
           != NGX_OK
        || ngx_kong_shift_json_get_text(comment, st->freeze_comment,
                                        sizeof(st->freeze_comment))
           != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (ngx_strcmp(freeze, "on") != 0 && ngx_strcmp(freeze, "off") != 0) {
        return NGX_ERROR;
    }

    st->generation = (uint64_t) generation;
    st->changed = changed;
    st->aborted = (uint8_t) aborted;
    st->freeze = (freeze[1] == 'n');
    st->freeze_changed = freeze_changed;

    saved->nevents = (uint64_t) nevents;

    if (drains && ngx_kong_shift_decode_drains(drains, st) != NGX_OK) {
        return NGX_ERROR;
    }

    return ngx_kong_shift_decode_gate(gate, st);
}


static ngx_int_t
ngx_kong_shift_decode_drains(json_t *drains, ngx_kong_shift_state_t *st)
{
    json_t        *old, *new, *peers;
    json_error_t   error;

    old = NULL;
    new = NULL;
    peers = NULL;

    if (json_unpack_ex(drains, &error, JSON_STRICT, "{s?o, s?o, s?o}",
                       "old", &old, "new", &new, "peers", &peers)
        != 0)
    {
        return NGX_ERROR;
    }

    /* of a pool that has a weight no request would find its way */

    if ((old && st->weight != NGX_KONG_SHIFT_FULL)
        || (new && st->weight != 0))
    {
        return NGX_ERROR;
    }

    if (old && ngx_kong_shift_decode_drain(old, st, NGX_KONG_SHIFT_OLD)
               != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (new && ngx_kong_shift_decode_drain(new, st, NGX_KONG_SHIFT_NEW)
               != NGX_OK)
    {
        return NGX_ERROR;
    }

    return peers ? ngx_kong_shift_decode_peers(peers, st) : NGX_OK;
}


static ngx_int_t
ngx_kong_shift_decode_drain(json_t *drain, ngx_kong_shift_state_t *st,
    ngx_kong_shift_pool_e pool)
{
    json_int_t    changed, rate, deadline;
    json_error_t  error;

    if (json_unpack_ex(drain, &error, JSON_STRICT, "{sI, sI, sI}",
                       "changed", &changed, "rate", &rate,
                       "deadline", &deadline)
        != 0
        || rate < 0 || rate > NGX_KONG_SHIFT_RATE_MAX || deadline < 0)
    {
        return NGX_ERROR;
    }

    st->drained[pool] = 1;
    st->drain_changed[pool] = changed;
    st->drain_rate[pool] = (uint32_t) rate;
    st->drain_deadline[pool] = deadline;

    return NGX_OK;
}


static ngx_int_t
ngx_kong_shift_decode_peers(json_t *peers, ngx_kong_shift_state_t *st)
{
    size_t                     i, j;
    json_t                    *addr;
    const char                *pool;
    json_error_t               error;
    ngx_kong_shift_drained_t  *peer;

    if (!json_is_array(peers)
        || json_array_size(peers) > NGX_KONG_SHIFT_DRAINED)
    {
        return NGX_ERROR;
    }

    for (i = 0; i < json_array_size(peers); i++) {
        peer = &st->peer[i];

        if (json_unpack_ex(json_array_get(peers, i), &error, JSON_STRICT,
                           "{ss, so}", "pool", &pool, "addr", &addr)
            != 0
            || ngx_kong_shift_json_get_text(addr, peer->addr,
                                            sizeof(peer->addr))
               != NGX_OK
            || peer->addr[0] == '\0'
            || (ngx_strcmp(pool, "old") != 0 && ngx_strcmp(pool, "new") != 0))
        {
            return NGX_ERROR;
        }

        peer->pool = (pool[0] == 'n');

        for (j = 0; j < i; j++) {
            if (ngx_memcmp(&st->peer[j], peer,
                           sizeof(ngx_kong_shift_drained_t))
                == 0)
            {
                return NGX_ERROR;
            }
        }
    }

    return NGX_OK;
}


static ngx_int_t
ngx_kong_shift_decode_gate(json_t *gate, ngx_kong_shift_state_t *st)
{
    int                         forced;
    json_t                     *evidence, *comment, *strategy, *x, *y;
    json_t                     *journal;
    json_int_t                  changed;
    const char                 *state;
    json_error_t                error;
    ngx_kong_shift_evidence_t  *ev;

    ev = &st->evidence;

    if (json_unpack_ex(gate, &error, JSON_STRICT, "{ss, sb, sI, so, so}",
                       "state", &state, "forced", &forced,
                       "changed", &changed, "comment", &comment,
                       "evidence", &evidence)
        != 0)
    {
        return NGX_ERROR;
    }

    if (ngx_strcmp(state, "open") != 0 && ngx_strcmp(state, "closed") != 0) {
        return NGX_ERROR;
    }

    st->gate_open = (state[0] == 'o');
    st->gate_forced = (uint8_t) forced;
    st->gate_changed = changed;

    if (ngx_kong_shift_json_get_text(comment, st->gate_comment,
                                     sizeof(st->gate_comment))
        != NGX_OK)
    {
        return NGX_ERROR;
    }

    if (json_is_null(evidence)) {
        return NGX_OK;
    }

    if (json_unpack_ex(evidence, &error, JSON_STRICT, "{so, so, so, so}",
                       "strategy", &strategy, "x", &x, "y", &y,
                       "journal", &journal)
        != 0
        || ngx_kong_shift_json_get_text(strategy, ev->strategy,
                                        sizeof(ev->strategy)) != NGX_OK
        || ngx_kong_shift_json_get_text(x, ev->x, sizeof(ev->x)) != NGX_OK
        || ngx_kong_shift_json_get_text(y, ev->y, sizeof(ev->y)) != NGX_OK
        || ngx_kong_shift_json_get_text(journal, ev->journal,
                                        sizeof(ev->journal)) != NGX_OK)
    {
        return NGX_ERROR;
    }

    return NGX_OK;
}


/* SHA-256 of the canonical form, in which white space does not count */

static ngx_int_t
ngx_kong_shift_digest(const json_t *root, char *hex)
{
    int            rc;
    char          *text;
    u_char         md[EVP_MAX_MD_SIZE];
    unsigned int   len;

    text = json_dumps(root, JSON_COMPACT|JSON_SORT_KEYS
                            |NGX_KONG_SHIFT_JSON_REAL);
    if (text == NULL) {
        return NGX_ERROR;
    }

    rc = EVP_Digest(text, ngx_strlen(text), md, &len, EVP_sha256(), NULL);

    free(text);

    if (rc != 1 || len * 2 != NGX_KONG_SHIFT_DIGEST_LEN) {
        return NGX_ERROR;
    }

    *ngx_hex_dump((u_char *) hex, md, len) = '\0';

    return NGX_OK;
}
