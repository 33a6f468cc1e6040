
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"


#define NGX_KONG_SHIFT_LEASE  10000


static ngx_kong_shift_event_t *ngx_kong_shift_add_event(
    ngx_kong_shift_record_t *rec, const ngx_kong_shift_state_t *before,
    const ngx_kong_shift_state_t *after, ngx_kong_shift_action_e action,
    const char *by, const char *comment);


/*
 * Beside the records the slab pool keeps a page header for each page and its
 * own tables.
 */

size_t
ngx_kong_shift_zone_size(ngx_uint_t capacity)
{
    size_t  size;

    size = sizeof(ngx_kong_shift_shctx_t)
           + (capacity - 1) * sizeof(ngx_kong_shift_record_t);

    size += (size / ngx_pagesize + 1) * sizeof(ngx_slab_page_t)
            + 2 * ngx_pagesize;

    return ngx_align(size, ngx_pagesize);
}


ngx_uint_t
ngx_kong_shift_zone_capacity(size_t size)
{
    ngx_uint_t  n;

    for (n = size / sizeof(ngx_kong_shift_record_t);
         n && ngx_kong_shift_zone_size(n) > size;
         n--)
    {
        /* void */
    }

    return n;
}


ngx_kong_shift_record_t *
ngx_kong_shift_find_record(ngx_kong_shift_shctx_t *sh, const char *name,
    size_t len)
{
    ngx_uint_t                i;
    ngx_kong_shift_record_t  *rec;

    for (i = 0; i < sh->nrecords; i++) {
        rec = &sh->record[i];

        if (ngx_strlen(rec->name) == len
            && ngx_strncmp(rec->name, name, len) == 0)
        {
            return rec;
        }
    }

    return NULL;
}


ngx_kong_shift_record_t *
ngx_kong_shift_add_record(ngx_kong_shift_shctx_t *sh, const char *name,
    size_t len, const ngx_kong_shift_state_t *st)
{
    ngx_kong_shift_record_t  *rec;

    if (sh->nrecords == sh->capacity) {
        return NULL;
    }

    rec = &sh->record[sh->nrecords];

    ngx_kong_shift_init_record(rec, name, len, st);

    /* old workers walk the records too */

    ngx_memory_barrier();

    sh->nrecords++;

    return rec;
}


void
ngx_kong_shift_init_record(ngx_kong_shift_record_t *rec, const char *name,
    size_t len, const ngx_kong_shift_state_t *st)
{
    ngx_memzero(rec, sizeof(ngx_kong_shift_record_t));

    ngx_memcpy(rec->name, name, len);

    rec->slot[0] = *st;
    rec->word = ngx_kong_shift_word(st, 0);
    rec->unsaved = 1;
}


void
ngx_kong_shift_read(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_snapshot_t *snap)
{
    uint64_t  word;

    do {
        word = __atomic_load_n(&rec->word, __ATOMIC_ACQUIRE);

        snap->state = rec->slot[ngx_kong_shift_word_slot(word)];
        snap->unsaved = rec->unsaved;

        ngx_memory_barrier();

        /* two changes while we copied may have reused the slot */

    } while (word != __atomic_load_n(&rec->word, __ATOMIC_ACQUIRE));

    snap->word = word;
}


void
ngx_kong_shift_publish_locked(ngx_kong_shift_record_t *rec,
    const ngx_kong_shift_state_t *st, ngx_kong_shift_action_e action,
    ngx_uint_t forced, const char *by, const char *comment)
{
    ngx_uint_t               slot;
    ngx_kong_shift_event_t  *ev;

    slot = !ngx_kong_shift_word_slot(rec->word);

    ev = ngx_kong_shift_add_event(rec, &rec->slot[!slot], st, action, by,
                                  comment);
    ev->forced = forced;

    /* a writer killed here leaves the current slot whole */

    rec->slot[slot] = *st;

    __atomic_store_n(&rec->word, ngx_kong_shift_word(st, slot),
                     __ATOMIC_RELEASE);
}


void
ngx_kong_shift_see_locked(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_action_e action, const char *by, const char *text)
{
    ngx_kong_shift_event_t  *ev;
    ngx_kong_shift_state_t  *st;

    st = &rec->slot[ngx_kong_shift_word_slot(rec->word)];

    ev = ngx_kong_shift_add_event(rec, st, st, action, by, text);
    ev->time = ngx_time();
}


void
ngx_kong_shift_join(ngx_kong_shift_conf_t *kcf, ngx_log_t *log)
{
    ngx_uint_t               i, n;
    ngx_kong_shift_shctx_t  *sh;

    sh = kcf->sh;
    n = NGX_KONG_SHIFT_WORKERS;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    for (i = 0; i < NGX_KONG_SHIFT_WORKERS; i++) {

        /* a process without a master comes here with each reload */

        if (sh->worker[i] == ngx_pid) {
            n = i;
            goto done;
        }

        if (n == NGX_KONG_SHIFT_WORKERS
            && (sh->worker[i] == 0 || !ngx_kong_shift_is_alive(sh->worker[i])))
        {
            n = i;
        }
    }

    if (n < NGX_KONG_SHIFT_WORKERS) {

        for (i = 0; i < sh->nrecords; i++) {
            ngx_memzero(&sh->record[i].census[n],
                        sizeof(ngx_kong_shift_census_t));
        }

        sh->worker[n] = ngx_pid;

    } else {
        sh->crowded++;
    }

done:

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    if (n == NGX_KONG_SHIFT_WORKERS) {
        n--;

        ngx_log_error(NGX_LOG_ALERT, log, 0,
                      "more than %d workers at a time, this one counts what "
                      "it has under way together with another, and no pool "
                      "is safe to stop as long as it runs",
                      NGX_KONG_SHIFT_WORKERS);

        kcf->crowded = 1;
    }

    kcf->row = n;
}


void
ngx_kong_shift_leave(ngx_kong_shift_conf_t *kcf)
{
    if (kcf->sh->worker[kcf->row] == ngx_pid) {
        kcf->sh->worker[kcf->row] = 0;
    }

    if (kcf->crowded) {
        (void) __atomic_sub_fetch(&kcf->sh->crowded, 1, __ATOMIC_SEQ_CST);
    }
}


void
ngx_kong_shift_count(ngx_kong_shift_shctx_t *sh,
    ngx_kong_shift_record_t *rec, ngx_kong_shift_total_t *total)
{
    u_char                    alive[NGX_KONG_SHIFT_WORKERS];
    ngx_uint_t                i, pool, peer;
    ngx_kong_shift_census_t  *c;

    ngx_memzero(total, sizeof(ngx_kong_shift_total_t));

    /* what those have is not known for sure */

    total->choosing = sh->crowded;

    for (i = 0; i < NGX_KONG_SHIFT_WORKERS; i++) {
        alive[i] = sh->worker[i] && ngx_kong_shift_is_alive(sh->worker[i]);

        if (alive[i]) {
            total->choosing += __atomic_load_n(&rec->census[i].choosing,
                                               __ATOMIC_SEQ_CST);
        }
    }

    for (i = 0; i < NGX_KONG_SHIFT_WORKERS; i++) {

        if (!alive[i]) {
            continue;
        }

        c = &rec->census[i];

        total->writes += __atomic_load_n(&c->writes, __ATOMIC_SEQ_CST);

        for (pool = 0; pool < 2; pool++) {
            total->active[pool] += __atomic_load_n(&c->active[pool],
                                                   __ATOMIC_SEQ_CST);
            total->lasting[pool] += c->lasting[pool];

            /* that is looked after only now and then */

            if (c->active[pool] && c->oldest[pool]
                && (total->oldest[pool] == 0
                    || c->oldest[pool] < total->oldest[pool]))
            {
                total->oldest[pool] = c->oldest[pool];
            }

            if (c->oldest_lasting[pool]
                && (total->oldest_lasting[pool] == 0
                    || c->oldest_lasting[pool] < total->oldest_lasting[pool]))
            {
                total->oldest_lasting[pool] = c->oldest_lasting[pool];
            }

            for (peer = 0; peer < NGX_KONG_SHIFT_PEERS; peer++) {
                total->peer[pool][peer] += c->peer[pool][peer];
            }
        }
    }
}


void
ngx_kong_shift_count_peers(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, uint32_t *n, uint32_t *ready)
{
    ngx_uint_t              i;
    ngx_kong_shift_peer_t  *peer;

    *n = 0;
    *ready = 0;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[pool].peer[i];

        if (peer->configured && !peer->down) {
            (*n)++;
            *ready += (peer->health.ready && !peer->drained);
        }
    }
}


ngx_uint_t
ngx_kong_shift_is_last(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, const char *addr)
{
    ngx_uint_t              i;
    ngx_kong_shift_peer_t  *peer;

    for (i = 0; i < NGX_KONG_SHIFT_PEERS; i++) {
        peer = &rec->pool[pool].peer[i];

        if (peer->configured && !peer->down && !peer->drained
            && ngx_strcmp(peer->addr, addr) != 0)
        {
            return 0;
        }
    }

    return 1;
}


void
ngx_kong_shift_mark_unsaved_locked(ngx_kong_shift_shctx_t *sh)
{
    ngx_uint_t  i;

    for (i = 0; i < sh->nrecords; i++) {
        sh->record[i].unsaved = 1;
    }
}


void
ngx_kong_shift_outrun_locked(ngx_kong_shift_record_t *rec,
    uint64_t generation)
{
    ngx_kong_shift_snapshot_t  snap;

    rec->unsaved = 1;
    rec->ahead = 1;

    ngx_kong_shift_read(rec, &snap);

    if (snap.state.generation > generation) {
        return;
    }

    snap.state.generation = generation + 1;

    ngx_kong_shift_publish_locked(rec, &snap.state, NGX_KONG_SHIFT_ADOPT, 0,
                                  "state file", "");
}


static ngx_kong_shift_event_t *
ngx_kong_shift_add_event(ngx_kong_shift_record_t *rec,
    const ngx_kong_shift_state_t *before, const ngx_kong_shift_state_t *after,
    ngx_kong_shift_action_e action, const char *by, const char *comment)
{
    ngx_kong_shift_event_t  *ev;

    ev = &rec->event[rec->nevents % NGX_KONG_SHIFT_EVENTS];

    ngx_memzero(ev, sizeof(ngx_kong_shift_event_t));

    ev->id = rec->nevents + 1;
    ev->generation = after->generation;
    ev->time = after->changed;
    ev->action = action;
    ev->before = ngx_kong_shift_word(before, 0);
    ev->after = ngx_kong_shift_word(after, 0);

    ngx_cpystrn((u_char *) ev->by, (u_char *) by, sizeof(ev->by));
    ngx_cpystrn((u_char *) ev->comment, (u_char *) comment,
                sizeof(ev->comment));

    rec->nevents++;

    return ev;
}


ngx_int_t
ngx_kong_shift_read_events(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_record_t *rec, uint64_t since,
    ngx_kong_shift_event_t **events, ngx_uint_t *nevents, uint64_t *last,
    ngx_log_t *log)
{
    uint64_t                 id;
    ngx_kong_shift_event_t  *ev;

    *nevents = 0;

    *events = ngx_alloc(sizeof(rec->event), log);
    if (*events == NULL) {
        return NGX_ERROR;
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    *last = rec->nevents;

    id = (rec->nevents > NGX_KONG_SHIFT_EVENTS)
         ? rec->nevents - NGX_KONG_SHIFT_EVENTS : 0;

    for (id = ngx_max(id, since) + 1; id <= rec->nevents; id++) {

        ev = &rec->event[(id - 1) % NGX_KONG_SHIFT_EVENTS];

        /* those of before a restart are not kept */

        if (ev->id == id) {
            (*events)[(*nevents)++] = *ev;
        }
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return NGX_OK;
}


uint64_t
ngx_kong_shift_lease_take(ngx_kong_shift_conf_t *kcf)
{
    uint64_t                 token;
    ngx_kong_shift_shctx_t  *sh;

    sh = kcf->sh;
    token = 0;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (sh->owner == 0
        || (ngx_msec_int_t) (sh->expires - ngx_current_msec) <= 0
        || !ngx_kong_shift_is_alive(sh->owner))
    {
        token = ++sh->token;
        sh->owner = ngx_pid;
        sh->expires = ngx_current_msec + NGX_KONG_SHIFT_LEASE;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return token;
}


ngx_int_t
ngx_kong_shift_lease_hold(ngx_kong_shift_conf_t *kcf, uint64_t token)
{
    ngx_int_t                rc;
    ngx_kong_shift_shctx_t  *sh;

    sh = kcf->sh;
    rc = NGX_BUSY;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (sh->owner && sh->token == token) {
        sh->expires = ngx_current_msec + NGX_KONG_SHIFT_LEASE;
        rc = NGX_OK;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return rc;
}


void
ngx_kong_shift_lease_drop(ngx_kong_shift_conf_t *kcf, uint64_t token)
{
    ngx_kong_shift_shctx_t  *sh;

    sh = kcf->sh;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (sh->token == token) {
        sh->owner = 0;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);
}


ngx_uint_t
ngx_kong_shift_is_alive(ngx_pid_t pid)
{
    return kill(pid, 0) == 0 || ngx_errno != NGX_ESRCH;
}
