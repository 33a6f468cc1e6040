
/*
 * Copyright (C) kong-shift contributors
 */


#ifndef _NGX_HTTP_KONG_SHIFT_H_INCLUDED_
#define _NGX_HTTP_KONG_SHIFT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_http.h>

#include "ngx_kong_shift.h"


extern ngx_module_t  ngx_http_kong_shift_module;


#define NGX_HTTP_KONG_SHIFT_BODY   (64 * 1024)


/* how the peers of one pool are checked; times in milliseconds */

typedef struct {
    ngx_uint_t                     set;        /* unsigned  set:1; */
    ngx_uint_t                     port;       /* 0: that of the peer */
    ngx_str_t                      uri;        /* empty: only the hash */
    ngx_uint_t                     config_hash;
    ngx_msec_t                     interval;
    ngx_msec_t                     timeout;
    ngx_uint_t                     fails;
    ngx_uint_t                     passes;
    ngx_uint_t                     min_ready;  /* percent */
    ngx_msec_t                     slow_start;

#if (NGX_SSL)
    ngx_ssl_t                     *ssl;        /* NULL: plain */
    ngx_str_t                      ssl_name;
#endif

    u_char                        *file;
    ngx_uint_t                     line;
} ngx_http_kong_shift_check_t;


/* a peer of nginx, and its place in shared memory */

typedef struct {
    ngx_str_t                     *name;       /* as in pc->name */
    ngx_uint_t                     place;
    ngx_int_t                      weight;     /* configured, scaled */
} ngx_http_kong_shift_place_t;


typedef struct {
    ngx_http_kong_shift_place_t   *elts;
    ngx_uint_t                     nelts;
    ngx_uint_t                     dynamic;    /* names come and go */
} ngx_http_kong_shift_places_t;


#define NGX_HTTP_KONG_SHIFT_NO_PLACE  NGX_KONG_SHIFT_PEERS


/* how the answers of a pool have told their version so far */

typedef struct {
    u_char                         text[64];   /* of "Via" */
    size_t                         len;
    ngx_uint_t                     index;      /* of that header */
    ngx_uint_t                     place;      /* of its version */
    ngx_uint_t                     wrong;      /* 1 << place */
    uint64_t                       generation; /* of "wrong" */
} ngx_http_kong_shift_via_t;


/* of an upstream{} block */

typedef struct {
    ngx_kong_shift_t              *shift;      /* NULL: no kong_shift here */
    ngx_kong_shift_conf_t         *conf;       /* of this cycle */

    ngx_http_kong_shift_check_t    check[2];   /* of each pool */
    ngx_http_kong_shift_places_t   places[2];
    ngx_flag_t                     rescue;

    ngx_str_t                      name[2];    /* of the pools: old, new */
    ngx_http_upstream_srv_conf_t  *pool[2];

    ngx_http_complex_value_t      *key;
    ngx_int_t                      key_index;  /* if it is one variable */
    ngx_str_t                      key_text;
    ngx_http_complex_value_t      *override;
    ngx_str_t                      seed;
    uint32_t                       seed_hash;

    ngx_flag_t                     gate;

    /* of this worker */
    ngx_kong_shift_record_t       *record;
    ngx_kong_shift_census_t       *census;
    ngx_queue_t                    under_way[2];
    ngx_http_kong_shift_via_t      via[2];
    uint64_t                       word;       /* of "may_take" */
    uint64_t                       empty;
    ngx_uint_t                     may_take;   /* 1 << pool */

    u_char                        *file;       /* of kong_shift, or of the */
    ngx_uint_t                     line;       /* first directive beside it */
    const char                    *directive;
} ngx_http_kong_shift_srv_conf_t;


typedef struct {
    ngx_array_t                    freezes;    /* loc confs to resolve */
} ngx_http_kong_shift_main_conf_t;


typedef struct {
    ngx_uint_t                     api;        /* unsigned  api:1; */
    ngx_uint_t                     write;      /* unsigned  write:1; */
    size_t                         max_body;
    ngx_array_t                    names;      /* ngx_http_server_name_t */

    ngx_str_t                      freeze_name;
    ngx_kong_shift_t              *freeze;     /* after configuration */
    u_char                        *file;
    ngx_uint_t                     line;
} ngx_http_kong_shift_loc_conf_t;


/* what was chosen for a main request, for each shift it came through */

typedef struct ngx_http_kong_shift_choice_s  ngx_http_kong_shift_choice_t;

struct ngx_http_kong_shift_choice_s {
    ngx_http_kong_shift_srv_conf_t   *kscf;
    uint64_t                          word;
    ngx_kong_shift_choice_t           choice;   /* changed by a rescue */

    /* of the main request, or of a subrequest as long as it has none */
    ngx_http_upstream_t              *upstream;
    uint16_t                          status;   /* that was passed on, or 0 */
    uint8_t                           server;   /* pool which has sent it */
    uint8_t                           first;    /* pool that was chosen first */
    uint8_t                           fallback; /* it stood in for the other */
    uint8_t                           failed;   /* 1 << pool */
    uint8_t                           lost;     /* the last attempt failed */
    uint8_t                           main;

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

    ngx_http_kong_shift_peer_data_t  *next;

    ngx_http_kong_shift_choice_t      own;      /* unless there was one */
    ngx_http_kong_shift_ctx_t         ctx;      /* as well */
};


/* a JSON answer to an API request that could not be carried out */

typedef struct {
    ngx_uint_t                     status;
    const char                    *title;
    const char                    *code;
    char                           field[NGX_KONG_SHIFT_COMMENT_SIZE];
    const char                    *text;       /* about the field, or NULL */
    json_int_t                     current;    /* generation, or 0 */
    ngx_uint_t                     retry;      /* seconds, or 0 */
    const char                    *allow;      /* or NULL */
    char                           detail[512];
} ngx_http_kong_shift_problem_t;


typedef json_t *(*ngx_http_kong_shift_json_pt)(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);


typedef ngx_int_t (*ngx_http_kong_shift_parse_pt)(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);


/* what is below /shifts/NAME */

typedef struct {
    ngx_str_t                      name;
    ngx_uint_t                     methods;    /* but GET and HEAD */
    const char                    *allow;
    ngx_http_kong_shift_json_pt    json;
    ngx_http_kong_shift_parse_pt   parse;
} ngx_http_kong_shift_resource_t;


/* upstream */

/* Checks the configuration when all of it is known. */
ngx_int_t ngx_http_kong_shift_init(ngx_conf_t *cf);

/* The upstream{} block of that name, in any case as nginx takes it. */
ngx_http_upstream_srv_conf_t *ngx_http_kong_shift_find(
    ngx_http_upstream_main_conf_t *umcf, ngx_str_t *name);

ngx_int_t ngx_http_kong_shift_add_variables(ngx_conf_t *cf);

ngx_int_t ngx_http_kong_shift_init_upstream(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us);
ngx_int_t ngx_http_kong_shift_init_peer(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us);

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


/* rescue */

/*
 * Takes the request to the other pool.  What get() of the peer returns there,
 * or NGX_BUSY when it may not go.
 */
ngx_int_t ngx_http_kong_shift_rescue(ngx_peer_connection_t *pc,
    ngx_http_kong_shift_peer_data_t *kp);

/*
 * Lets the balancing method of a pool have the request, and sets *data to what
 * it has set for it.
 */
ngx_int_t ngx_http_kong_shift_init_pool(ngx_http_request_t *r,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_pool_data_t *data);
void ngx_http_kong_shift_notify_peer(ngx_peer_connection_t *pc, void *data,
    ngx_uint_t type);


/* peers */

/*
 * Gives the peers of both pools their places in shared memory, and takes over
 * what was known of them; in the master, after all zones are there.
 */
ngx_int_t ngx_http_kong_shift_init_places(ngx_cycle_t *cycle);

/*
 * The place of a peer by the name nginx has for it, or
 * NGX_HTTP_KONG_SHIFT_NO_PLACE.
 */
ngx_uint_t ngx_http_kong_shift_find_place(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_str_t *name);

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


/*
 * Makes nginx use, in all workers, those peers that are ready and not drained,
 * and notes what follows for the pools.  It may be called at any time by any
 * worker, but not under the mutex.
 */
void ngx_http_kong_shift_refresh(ngx_kong_shift_t *shift);

/* Whether the peers of a pool are in shared memory ("zone"). */
ngx_uint_t ngx_http_kong_shift_is_shared(ngx_http_upstream_srv_conf_t *us);


/* check */

/* Starts what checks the peers, in each worker; only one at a time does it. */
ngx_int_t ngx_http_kong_shift_init_checks(ngx_cycle_t *cycle);


/* census */

/* Starts what looks after the requests under way in this worker. */
ngx_int_t ngx_http_kong_shift_init_census(ngx_cycle_t *cycle);

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

    (void) __atomic_fetch_add(&kscf->census->choosing, 1, __ATOMIC_SEQ_CST);

    return __atomic_load_n(&kscf->record->word, __ATOMIC_SEQ_CST);
}


static ngx_inline void
ngx_http_kong_shift_end(ngx_http_kong_shift_srv_conf_t *kscf)
{
    ngx_kong_shift_census_t  *c;

    c = kscf->census;

    /* the record may by now be that of a shift of a later configuration */

    __atomic_store_n(&c->choosing, c->choosing - (c->choosing != 0),
                     __ATOMIC_RELEASE);
}


static ngx_inline void
ngx_http_kong_shift_enter(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_peer_data_t *kp, ngx_kong_shift_pool_e pool)
{
    kp->pool = pool;
    kp->active = 1;
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

    __atomic_store_n(active, *active - (*active != 0), __ATOMIC_RELEASE);
}


/* count */

#define ngx_http_kong_shift_inc(counter)                                      \
    (void) __atomic_fetch_add(counter, 1, __ATOMIC_RELAXED)

/* Counts an attempt that has ended, as free() of the peer is told. */
void ngx_http_kong_shift_count_attempt(ngx_http_kong_shift_peer_data_t *kp,
    ngx_uint_t state);

ngx_int_t ngx_http_kong_shift_log_handler(ngx_http_request_t *r);


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


/* freeze */

ngx_int_t ngx_http_kong_shift_freeze_handler(ngx_http_request_t *r);


/* api */

ngx_int_t ngx_http_kong_shift_api_handler(ngx_http_request_t *r);

/*
 * Finds what the path names; *kscf is NULL for the list of shifts.  NGX_ERROR
 * with *problem when it names nothing.
 */
ngx_int_t ngx_http_kong_shift_route(ngx_http_request_t *r,
    ngx_http_kong_shift_srv_conf_t **kscf,
    ngx_http_kong_shift_resource_t **resource,
    ngx_http_kong_shift_problem_t *problem);

ngx_kong_shift_conf_t *ngx_http_kong_shift_conf(void);


/* write */

/* Carries out the change in the body, and answers. */
void ngx_http_kong_shift_write(ngx_http_request_t *r, u_char *text,
    size_t len);

/* Of a worker whose zone now belongs to others. */
void ngx_http_kong_shift_set_replaced(ngx_http_kong_shift_problem_t *problem);


/* body */

/*
 * Reads a body in any chunking and calls the handler with it; one of more than
 * NGX_HTTP_KONG_SHIFT_BODY bytes, or than client_max_body_size when that is
 * less, is answered here with 413.
 */

typedef void (*ngx_http_kong_shift_body_pt)(ngx_http_request_t *r,
    u_char *text, size_t len);

ngx_int_t ngx_http_kong_shift_read_body(ngx_http_request_t *r,
    ngx_http_kong_shift_body_pt handler);


/* parse */

/*
 * The handlers below turn a JSON body into a change.  NGX_OK, or NGX_ERROR
 * with *problem filled.
 */

ngx_int_t ngx_http_kong_shift_parse_body(u_char *text, size_t len,
    ngx_uint_t optional, ngx_http_kong_shift_parse_pt parse,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);

ngx_int_t ngx_http_kong_shift_parse_weight(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);
ngx_int_t ngx_http_kong_shift_parse_gate(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);
ngx_int_t ngx_http_kong_shift_parse_freeze(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);
ngx_int_t ngx_http_kong_shift_parse_abort(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);


/* origin */

/*
 * NGX_OK when a write may be meant by its sender.  NGX_ERROR with *problem for
 * one that a foreign web page made a browser send, or in a type that is not
 * taken.
 */
ngx_int_t ngx_http_kong_shift_check_origin(ngx_http_request_t *r,
    ngx_http_kong_shift_problem_t *problem);


/* problem */

/*
 * Describes a problem by its code.  The detail is formatted as by
 * ngx_snprintf(); the status and title come with the code.
 */
void ngx_http_kong_shift_set_problem(ngx_http_kong_shift_problem_t *problem,
    const char *code, const char *fmt, ...);


/* reply */

/* Sends it; the request body is discarded unless it was read. */
ngx_int_t ngx_http_kong_shift_send_problem(ngx_http_request_t *r,
    ngx_http_kong_shift_problem_t *problem);

/*
 * Sends the JSON, and gives back the reference to it.  "generation" is the
 * ETag; 0: none.
 */
ngx_int_t ngx_http_kong_shift_send_json(ngx_http_request_t *r,
    ngx_uint_t status, json_t *json, uint64_t generation);

json_t *ngx_http_kong_shift_json_shift(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_weight(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_gate(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_freeze(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_events(ngx_kong_shift_t *shift,
    ngx_kong_shift_event_t *events, ngx_uint_t n, uint64_t last);


#endif /* _NGX_HTTP_KONG_SHIFT_H_INCLUDED_ */
