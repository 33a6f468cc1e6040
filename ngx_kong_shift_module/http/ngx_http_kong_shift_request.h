
/*
 * Copyright (C) kong-shift contributors
 */


/* the way of a request: its choice, its pool, and how both are counted */


#ifndef _NGX_HTTP_KONG_SHIFT_REQUEST_H_INCLUDED_
#define _NGX_HTTP_KONG_SHIFT_REQUEST_H_INCLUDED_


#include "ngx_http_kong_shift.h"


/* what the counters of pools are told of a main request */

typedef struct {
    uint16_t                          status;   /* that was passed on, or 0 */
    uint8_t                           server;   /* pool which has sent it */
    uint8_t                           first;    /* pool that was chosen first */
    uint8_t                           fallback; /* it stood in for the other */
    uint8_t                           failed:2;     /* 1 << pool */
    uint8_t                           suspected:2;  /* of these, by 404s */
    uint8_t                           lost;     /* the last attempt failed */
    uint8_t                           main;     /* not only of subrequests */
} ngx_http_kong_shift_outcome_t;


/* what was chosen for a main request, for each shift it came through */

typedef struct ngx_http_kong_shift_choice_s  ngx_http_kong_shift_choice_t;

struct ngx_http_kong_shift_choice_s {
    ngx_http_kong_shift_srv_conf_t   *kscf;
    uint64_t                          word;
    ngx_kong_shift_choice_t           choice;   /* changed by a rescue */

    /* of the main request, or of a subrequest as long as it has none */
    ngx_http_upstream_t              *upstream;
    ngx_http_kong_shift_outcome_t     outcome;

    ngx_http_kong_shift_choice_t     *next;
};


typedef struct ngx_http_kong_shift_peer_data_s
    ngx_http_kong_shift_peer_data_t;

typedef struct {
    ngx_pool_cleanup_t                cleanup;  /* finds it after a redirect */
    ngx_http_kong_shift_choice_t     *choices;  /* the newest first */
    ngx_http_kong_shift_peer_data_t  *peers;    /* the newest first */
    void                             *api;      /* body, or change */
} ngx_http_kong_shift_ctx_t;


/* what the balancing method of a pool has set for one request */

typedef struct {
    void                             *data;

    ngx_event_get_peer_pt             get;
    ngx_event_free_peer_pt            free;
    ngx_event_notify_peer_pt          notify;

#if (NGX_HTTP_SSL)
    ngx_event_set_peer_session_pt     set_session;
    ngx_event_save_peer_session_pt    save_session;
#endif
} ngx_http_kong_shift_pool_data_t;


/* of a request that is tried elsewhere since a peer has sent a 404 */

typedef struct {
    ngx_http_upstream_conf_t          conf;     /* the same, but for that */
    ngx_http_upstream_conf_t         *original;
    ngx_kong_shift_choice_t           choice;   /* when the last one came */
    ngx_uint_t                        doubted;  /* the answer that is there */
    ngx_uint_t                        retried;  /* one at least was */
    ngx_uint_t                        back;     /* a 404 is the answer */
} ngx_http_kong_shift_suspect_t;


/*
 * A request, or a subrequest, on its way to a pool; small, as there may be
 * little left of the request's pool of memory.
 */

struct ngx_http_kong_shift_peer_data_s {
    ngx_http_kong_shift_pool_data_t   data;

    ngx_http_request_t               *request;
    ngx_http_upstream_t              *upstream;
    ngx_http_kong_shift_choice_t     *choice;

    ngx_queue_t                       queue;    /* of those in this pool */
    ngx_msec_t                        start;

    uint16_t                          tries;    /* of this pool */
    uint8_t                           reserve;  /* tries for the other one */
    uint8_t                           rescue;   /* it may go there */
    uint8_t                           pool;
    uint8_t                           place;    /* of the peer */
    uint8_t                           active;
    uint8_t                           lasting;

    /* with checks: what we stand in front of */
    ngx_int_t                       (*process_header)(ngx_http_request_t *r);
    ngx_int_t                       (*reinit_request)(ngx_http_request_t *r);
    ngx_http_kong_shift_suspect_t    *suspect;

    ngx_http_kong_shift_peer_data_t  *next;

    ngx_http_kong_shift_choice_t      own;      /* unless there was one */
    ngx_http_kong_shift_ctx_t         ctx;      /* as well */
};


/* upstream */

ngx_http_kong_shift_ctx_t *ngx_http_kong_shift_find_ctx(
    ngx_http_request_t *r);

void ngx_http_kong_shift_init_ctx(ngx_http_request_t *r,
    ngx_http_kong_shift_ctx_t *ctx);

/* What was chosen for the main request of r, the last first, or NULL. */
ngx_http_kong_shift_choice_t *ngx_http_kong_shift_get_choice(
    ngx_http_request_t *r);


/* The context of a main request, also after a redirect, or NULL. */

static ngx_inline ngx_http_kong_shift_ctx_t *
ngx_http_kong_shift_get_ctx(ngx_http_request_t *r)
{
    ngx_http_kong_shift_ctx_t  *ctx;

    ctx = ngx_http_get_module_ctx(r, ngx_http_kong_shift_module);

    if (ctx == NULL && (r->internal || r->filter_finalize)) {

        /* a redirect has wiped the module contexts */

        return ngx_http_kong_shift_find_ctx(r);
    }

    return ctx;
}


/* choose */

ngx_int_t ngx_http_kong_shift_choose_by_request(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice);

/*
 * Subrequests and redirects stay where their main request went, unless that
 * was closed to them since.
 */
ngx_int_t ngx_http_kong_shift_stay(ngx_http_request_t *r,
    ngx_http_kong_shift_peer_data_t *kp, ngx_http_kong_shift_choice_t *choice);

/* Notes which pool may take over, as long as the word is this one. */
void ngx_http_kong_shift_note_word(ngx_http_kong_shift_srv_conf_t *kscf,
    uint64_t word, uint64_t empty);


/* rescue */

/*
 * Takes the request to the other pool.  What get() of the peer returns there,
 * or NGX_BUSY when it may not go.
 */
ngx_int_t ngx_http_kong_shift_rescue(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp);

/*
 * When a 404 was tried elsewhere and nobody else is left: has it sent once
 * more where it came from.  What get() of the peer returns, or NGX_BUSY.
 */
ngx_int_t ngx_http_kong_shift_go_back(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp);

/*
 * Lets the balancing method of a pool have the request, and sets *data to what
 * it has set for it.
 */
ngx_int_t ngx_http_kong_shift_init_pool(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_pool_data_t *data);
void ngx_http_kong_shift_notify_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t type);


/* suspect: 404s that may be those of a data plane without configuration */

/* Of a request whose pools are checked: stands in for that of nginx. */
ngx_int_t ngx_http_kong_shift_process_header(ngx_http_request_t *r);

/* The rest of it, for what is not the usual answer; returns "rc". */
ngx_int_t ngx_http_kong_shift_look_again(ngx_http_request_t *r, ngx_int_t rc);

ngx_http_kong_shift_peer_data_t *ngx_http_kong_shift_get_peer_data(
    ngx_http_request_t *r);

/* Comes when an attempt has failed, or is not taken for an answer. */
void ngx_http_kong_shift_doubt(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state);

/* Has a try kept for _go_back() when it would be needed. */
void ngx_http_kong_shift_keep_try(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp, ngx_uint_t state);


/* peers */

static ngx_inline ngx_uint_t
ngx_http_kong_shift_get_place(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool, ngx_str_t *name)
{
    ngx_http_kong_shift_place_t  *place;

    place = kscf->places[pool].elts;

    if (place->name == name) {
        return place->place;
    }

    return ngx_http_kong_shift_find_place(kscf, pool, name);
}


/* census */

/* Takes one that has left out of the count of those that last. */
void ngx_http_kong_shift_leave_lasting(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp);

/*
 * A choice begins with the look at the word that is returned, and ends with
 * _enter(), or with _end() when there was none.
 */

static ngx_inline uint64_t
ngx_http_kong_shift_begin(ngx_http_kong_shift_srv_conf_t *kscf)
{
    /*
     * Counted before the look: whoever closes a pool and then sees nobody
     * choosing, and nobody there, can be sure that none will follow.
     */

    (void) __atomic_exchange_n(&kscf->census->choosing, 1, __ATOMIC_SEQ_CST);

    return __atomic_load_n(&kscf->record->word, __ATOMIC_SEQ_CST);
}


static ngx_inline void
ngx_http_kong_shift_end(ngx_http_kong_shift_srv_conf_t *kscf)
{
    __atomic_store_n(&kscf->census->choosing, 0, __ATOMIC_RELEASE);
}


static ngx_inline void
ngx_http_kong_shift_enter(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_pool_e pool)
{
    kp->pool = pool;
    kp->active = 1;
    kp->lasting = 0;
    kp->start = ngx_current_msec;

    ngx_queue_insert_tail(&kscf->under_way[pool], &kp->queue);

    kscf->census->active[pool]++;

    ngx_http_kong_shift_end(kscf);
}


static ngx_inline void
ngx_http_kong_shift_leave(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp)
{
    uint32_t  *active;

    ngx_queue_remove(&kp->queue);

    kp->active = 0;

    if (kp->lasting) {
        ngx_http_kong_shift_leave_lasting(kscf, kp);
    }

    active = &kscf->census->active[kp->pool];

    /* the record may by now be that of a shift of a later configuration */

    __atomic_store_n(active, *active - (*active != 0), __ATOMIC_RELEASE);
}


/* count */

#define ngx_http_kong_shift_inc(counter)                                      \
    (void) __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED)

#define ngx_http_kong_shift_class(status)                                     \
    ((uint32_t) (status) / 100 < 6 ? (uint32_t) (status) / 100 : 0)

/* Counts an attempt that has failed. */
void ngx_http_kong_shift_count_failure(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state);

/* Whether the other pool has answered, and not with the same 404. */
#define ngx_http_kong_shift_is_rescued(choice, status)                        \
    ((choice)->choice.reason == NGX_KONG_SHIFT_BY_RESCUE                      \
     && !((status) == NGX_HTTP_NOT_FOUND && (choice)->outcome.suspected))

/* Counts a main request that was logged. */
void ngx_http_kong_shift_count_request(ngx_http_request_t *r,
    ngx_http_kong_shift_choice_t *choice);


/* version */

/*
 * The place of the version of Kong that an answer tells, or
 * NGX_KONG_SHIFT_VERSIONS when it does not.
 */
ngx_uint_t ngx_http_kong_shift_find_version(
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_pool_t *pool,
    ngx_kong_shift_peer_t *peer);


static ngx_inline ngx_table_elt_t *
ngx_http_kong_shift_get_header(ngx_http_upstream_headers_in_t *headers,
    ngx_uint_t index)
{
    ngx_table_elt_t  *h;
    ngx_list_part_t  *part;

    part = &headers->headers.part;

    while (index >= part->nelts) {
        index -= part->nelts;
        part = part->next;

        if (part == NULL) {
            return NULL;
        }
    }

    h = part->elts;

    return &h[index];
}


/* Whether the pool has answered, so far or at all. */
#define ngx_http_kong_shift_is_answered(choice)                               \
    ((choice)->upstream->state                                                \
     && (choice)->upstream->state->header_time != (ngx_msec_t) -1)

ngx_kong_shift_origin_e ngx_http_kong_shift_get_origin(
    ngx_http_kong_shift_choice_t *choice);

/* The same of an answer by its header. */
ngx_kong_shift_origin_e ngx_http_kong_shift_tell_origin(
    ngx_http_upstream_headers_in_t *headers);


static ngx_inline void
ngx_http_kong_shift_choose_pool(ngx_http_kong_shift_peer_data_t *kp,
    ngx_http_kong_shift_choice_t *choice, ngx_kong_shift_pool_e override,
    uint32_t *hash)
{
    ngx_kong_shift_record_t         *rec;
    ngx_http_kong_shift_srv_conf_t  *kscf;

    kscf = choice->kscf;
    rec = kscf->record;

    choice->word = ngx_http_kong_shift_begin(kscf);

    choice->choice = ngx_kong_shift_choose(choice->word, kscf->shift->gated,
                                           (unsigned) rec->empty, override,
                                           hash, &rec->credit);

    ngx_http_kong_shift_enter(kscf, kp, choice->choice.pool);

    ngx_log_debug4(NGX_LOG_DEBUG_HTTP, kp->request->connection->log, 0,
                   "kong_shift \"%V\" pool:%d reason:%d generation:%uL",
                   &kscf->shift->name, choice->choice.pool,
                   choice->choice.reason,
                   ngx_kong_shift_word_generation(choice->word));
}



#endif /* _NGX_HTTP_KONG_SHIFT_REQUEST_H_INCLUDED_ */
