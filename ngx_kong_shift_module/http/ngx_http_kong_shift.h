
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

/* milliseconds since a check began that a 404 had caused, and that passed */

#define NGX_HTTP_KONG_SHIFT_HONEST  500

/* in "down" of nginx: not ready or drained; "down" itself is 1 */

#define NGX_HTTP_KONG_SHIFT_DOWN   0x10000


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
    ngx_uint_t                     ready;      /* as this process saw it */
} ngx_http_kong_shift_place_t;


typedef struct {
    ngx_http_kong_shift_place_t   *elts;
    ngx_uint_t                     nelts;
    ngx_uint_t                     dynamic;    /* names come and go */
} ngx_http_kong_shift_places_t;


/* "zone" defines these of nginx, and must be built in */

#if (NGX_HTTP_UPSTREAM_ZONE)
#define ngx_http_kong_shift_lock(peers)                                       \
    ngx_http_upstream_rr_peers_rlock(peers)
#define ngx_http_kong_shift_unlock(peers)                                     \
    ngx_http_upstream_rr_peers_unlock(peers)
#else
#define ngx_http_kong_shift_lock(peers)
#define ngx_http_kong_shift_unlock(peers)
#endif

#define NGX_HTTP_KONG_SHIFT_NO_PLACE  NGX_KONG_SHIFT_PEERS


/* how the answers of a pool have told their version so far */

typedef struct {
    u_char                         text[64];   /* of "Via" */
    size_t                         len;
    ngx_uint_t                     index;      /* of that header */
    ngx_uint_t                     place;      /* of its version */
    ngx_kong_shift_version_t      *version;    /* at that place */
    ngx_uint_t                     wrong;      /* 1 << place */
    uint64_t                       word;       /* when "wrong" was found */
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
    ngx_uint_t                     by_request; /* a key, or an override */
    ngx_str_t                      seed;
    uint32_t                       seed_hash;

    ngx_flag_t                     gate;

    /* of this worker */
    ngx_uint_t                     checked;    /* as that of the shift */
    ngx_kong_shift_record_t       *record;
    ngx_kong_shift_pool_t         *shared[2];  /* pools of the record */
    ngx_kong_shift_census_t       *census;
    ngx_queue_t                    under_way[2];
    ngx_http_kong_shift_via_t     *via[2];
    uint64_t                       word;       /* of "may_take" */
    uint64_t                       empty;
    ngx_uint_t                     may_take;   /* 1 << pool */

    u_char                        *file;       /* of kong_shift, or of the */
    ngx_uint_t                     line;       /* first directive beside it */
    const char                    *directive;
} ngx_http_kong_shift_srv_conf_t;


typedef struct {
    ngx_array_t                    freezes;    /* loc confs to resolve */
    void                          *checks;     /* of this process */
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
    json_t                        *more;       /* members to add, or NULL */
    char                           detail[512];
} ngx_http_kong_shift_problem_t;


typedef struct ngx_http_kong_shift_resource_s  ngx_http_kong_shift_resource_t;


/* what a path names */

typedef struct {
    ngx_http_kong_shift_srv_conf_t   *kscf;    /* NULL: all shifts */
    ngx_kong_shift_pool_e             pool;
    ngx_str_t                         addr;    /* of a peer */
    ngx_http_kong_shift_resource_t   *resource;
} ngx_http_kong_shift_object_t;


typedef ngx_int_t (*ngx_http_kong_shift_show_pt)(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target);


typedef json_t *(*ngx_http_kong_shift_json_pt)(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);


typedef ngx_int_t (*ngx_http_kong_shift_parse_pt)(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);


/* the levels of a path at which resources are */

typedef enum {
    NGX_HTTP_KONG_SHIFT_TOP = 0,           /* / */
    NGX_HTTP_KONG_SHIFT_ONE,               /* /shifts/NAME/ */
    NGX_HTTP_KONG_SHIFT_POOL,              /* /shifts/NAME/pools/POOL/ */
    NGX_HTTP_KONG_SHIFT_PEER               /* .../peers/ADDR */
} ngx_http_kong_shift_level_e;


struct ngx_http_kong_shift_resource_s {
    ngx_http_kong_shift_level_e    level;
    ngx_str_t                      name;       /* empty: the level itself */
    ngx_uint_t                     methods;    /* but GET and HEAD */
    const char                    *allow;
    ngx_http_kong_shift_show_pt    show;       /* NULL: no GET, no HEAD */
    ngx_http_kong_shift_json_pt    json;       /* also after a change */
    ngx_http_kong_shift_parse_pt   parse;
    ngx_http_kong_shift_parse_pt   undo;       /* of DELETE */
};


/* module */

/* Remembers where a directive was that needs "kong_shift" beside it. */
void ngx_http_kong_shift_note(ngx_conf_t *cf,
    ngx_http_kong_shift_srv_conf_t *kscf, const char *directive);


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


/* places */

/*
 * Gives the peers of both pools their places in shared memory, and takes over
 * what was known of them; in the master, after all zones are there.
 */
ngx_int_t ngx_http_kong_shift_init_places(ngx_cycle_t *cycle);

/*
 * Gives places to the peers of names that are resolved, as these come and go;
 * not under the mutex.
 */
void ngx_http_kong_shift_update_places(ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_kong_shift_pool_e pool);

/*
 * The place of a peer by the name nginx has for it, or
 * NGX_HTTP_KONG_SHIFT_NO_PLACE.
 */
ngx_uint_t ngx_http_kong_shift_find_place(
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_pool_e pool,
    ngx_str_t *name);

/* The same by the text of the name. */
ngx_uint_t ngx_http_kong_shift_find_addr(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, ngx_str_t *name);

ngx_uint_t ngx_http_kong_shift_is_addr(ngx_kong_shift_peer_t *peer,
    ngx_str_t *name);

/* Whether the peers of a pool are in shared memory ("zone"). */
ngx_uint_t ngx_http_kong_shift_is_shared(ngx_http_upstream_srv_conf_t *us);

/*
 * Whether they come and go, as those of a name that is resolved; each list of
 * peers is then to be locked.
 */
ngx_uint_t ngx_http_kong_shift_is_dynamic(
    ngx_http_upstream_rr_peers_t *peers);


/* peers */

/* Makes the weights fine enough for a slow start. */
void ngx_http_kong_shift_scale(ngx_http_upstream_rr_peers_t *peers);

/*
 * Makes nginx use, in all workers, those peers that are ready and not drained,
 * and notes what follows for the pools.  It may be called at any time by any
 * worker, but not under the mutex.
 */
void ngx_http_kong_shift_refresh(ngx_kong_shift_t *shift);

/*
 * Of a worker on its way out, whose peers are not those of the workers that
 * check: makes it use what these have found.
 */
void ngx_http_kong_shift_follow(ngx_kong_shift_t *shift);


/* check */

/* Starts what checks the peers, in each worker; only one at a time does it. */
ngx_int_t ngx_http_kong_shift_init_checks(ngx_cycle_t *cycle);


void ngx_http_kong_shift_end_checks(ngx_cycle_t *cycle);


/* check_conf */

char *ngx_http_kong_shift_check(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);

/* What a check asks of its pools; these are known. */
ngx_int_t ngx_http_kong_shift_verify_checks(ngx_conf_t *cf,
    ngx_http_upstream_srv_conf_t *us, ngx_http_kong_shift_srv_conf_t *kscf);


/* probe: one check of one peer, which is one request or two */

typedef struct ngx_http_kong_shift_probe_s  ngx_http_kong_shift_probe_t;

typedef void (*ngx_http_kong_shift_probe_pt)(
    ngx_http_kong_shift_probe_t *probe);


typedef enum {
    NGX_HTTP_KONG_SHIFT_PROBE_IDLE = 0,
    NGX_HTTP_KONG_SHIFT_PROBE_CONNECT,
    NGX_HTTP_KONG_SHIFT_PROBE_HANDSHAKE,
    NGX_HTTP_KONG_SHIFT_PROBE_SEND,
    NGX_HTTP_KONG_SHIFT_PROBE_STATUS,
    NGX_HTTP_KONG_SHIFT_PROBE_HEADER,
    NGX_HTTP_KONG_SHIFT_PROBE_BODY
} ngx_http_kong_shift_probe_e;


struct ngx_http_kong_shift_probe_s {
    /* set by the caller; the memory lives as long as a probe is under way */

    ngx_http_kong_shift_check_t   *check;
    ngx_sockaddr_t                 sockaddr;
    socklen_t                      socklen;
    ngx_str_t                      name;       /* of the address */

    ngx_log_t                     *log;
    ngx_http_kong_shift_probe_pt   handler;
    void                          *data;

    /*
     * The outcome: NGX_OK, NGX_ERROR with a reason, or NGX_DECLINED when
     * nothing can be said of the peer.
     */

    ngx_int_t                      rc;
    char                           reason[NGX_KONG_SHIFT_REASON_SIZE];
    char                           hash[NGX_KONG_SHIFT_HASH_SIZE];

    /* private */

    ngx_http_kong_shift_probe_e    step;
    ngx_uint_t                     hashing;    /* the request for the hash */
    ngx_peer_connection_t          peer;
    ngx_pool_t                    *pool;
    ngx_event_t                    timer;
    ngx_connection_t               dumb;       /* what its data must be */
    ngx_buf_t                     *request;
    ngx_buf_t                     *answer;
    ngx_http_request_t            *parser;
    ngx_http_status_t              status;
    off_t                          length;     /* of the body; -1: to the end */
    ngx_uint_t                     chunked;
};


/* The handler is called once, perhaps at once, unless it is stopped. */
void ngx_http_kong_shift_start_probe(ngx_http_kong_shift_probe_t *probe);

/* Ends it as one that has timed out. */
void ngx_http_kong_shift_expire_probe(ngx_http_kong_shift_probe_t *probe);

/* Ends it without a result and without a call. */
void ngx_http_kong_shift_stop_probe(ngx_http_kong_shift_probe_t *probe);


/* answer: what a probe reads */

/*
 * Reads what is in probe->answer.  NGX_AGAIN; NGX_OK when the whole answer, or
 * all that is needed of it, is there; NGX_ERROR with a reason.
 */
ngx_int_t ngx_http_kong_shift_parse_answer(
    ngx_http_kong_shift_probe_t *probe);

/* Makes room for more of a body; NGX_ERROR when it is too long. */
ngx_int_t ngx_http_kong_shift_grow(ngx_http_kong_shift_probe_t *probe);

/* NGX_OK with probe->hash, or NGX_ERROR with a reason. */
ngx_int_t ngx_http_kong_shift_read_hash(ngx_http_kong_shift_probe_t *probe);

/* Makes "503: what the answer says" the reason. */
void ngx_http_kong_shift_set_status_reason(
    ngx_http_kong_shift_probe_t *probe);


/* check: the checks of this process */

typedef struct ngx_http_kong_shift_server_s  ngx_http_kong_shift_server_t;

typedef struct {
    ngx_kong_shift_conf_t           *kcf;
    ngx_event_t                      event;
    ngx_connection_t                 dumb;     /* what its data must be */
    ngx_log_t                        log;
    ngx_http_kong_shift_server_t    *targets;
    ngx_msec_t                       ticked;
    ngx_uint_t                       checking; /* unsigned  checking:1; */
} ngx_http_kong_shift_checks_t;


/* a peer that is checked */

struct ngx_http_kong_shift_server_s {
    ngx_http_kong_shift_server_t    *next;
    ngx_http_kong_shift_checks_t    *checks;
    ngx_http_kong_shift_srv_conf_t  *kscf;
    ngx_kong_shift_pool_e            pool;
    ngx_uint_t                       place;
    ngx_event_t                      timer;    /* the next regular check */
    ngx_connection_t                 dumb;
    ngx_msec_t                       began;    /* the last check */
    ngx_uint_t                       suspected;  /* a 404 was before it */
    ngx_uint_t                       busy;     /* a check is under way */
    ngx_uint_t                       waiting;  /* with a hash, for others */
    ngx_uint_t                       seen;
    ngx_msec_t                       told;     /* since then, */
    ngx_uint_t                       tells;    /* so many events */
    ngx_http_kong_shift_probe_t      probe;
    u_char                           name[NGX_KONG_SHIFT_ADDR_SIZE];
};


/*
 * Whether this worker is the one to check; not so when another one has taken
 * over, or may do so at any time.
 */
ngx_uint_t ngx_http_kong_shift_holds(ngx_http_kong_shift_checks_t *checks);


/* judge */

/* The handler of a probe. */
void ngx_http_kong_shift_checked(ngx_http_kong_shift_probe_t *probe);

/* Makes what a probe has found count. */
void ngx_http_kong_shift_judge(ngx_http_kong_shift_server_t *target);

/* Whether a peer has shown of late that it sends 404 with good reason. */
#define ngx_http_kong_shift_is_honest(peer)                                   \
    ((uint32_t) ngx_current_msec - (peer)->honest                             \
     < NGX_HTTP_KONG_SHIFT_HONEST)


/* census */

/* Starts what looks after the requests under way in this worker. */
ngx_int_t ngx_http_kong_shift_init_census(ngx_cycle_t *cycle);


/* freeze */

ngx_int_t ngx_http_kong_shift_freeze_handler(ngx_http_request_t *r);


/* api */

ngx_int_t ngx_http_kong_shift_api_handler(ngx_http_request_t *r);

/*
 * Finds what the path names.  NGX_ERROR with *problem when it names nothing.
 */
ngx_int_t ngx_http_kong_shift_route(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target,
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
ngx_int_t ngx_http_kong_shift_parse_drain(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);
ngx_int_t ngx_http_kong_shift_parse_lift(json_t *body,
    ngx_kong_shift_change_t *change, ngx_http_kong_shift_problem_t *problem);
ngx_int_t ngx_http_kong_shift_parse_peer(json_t *body,
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

/* The same for a text in buffers, the last of which is marked here. */
ngx_int_t ngx_http_kong_shift_send_text(ngx_http_request_t *r,
    ngx_uint_t status, const char *type, ngx_chain_t *out);

json_t *ngx_http_kong_shift_json_shift(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_weight(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_gate(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_freeze(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);

/* Adds whether the state file has it. */
void ngx_http_kong_shift_json_saved(ngx_kong_shift_conf_t *conf,
    ngx_kong_shift_snapshot_t *snap, json_t *json);
json_t *ngx_http_kong_shift_json_events(ngx_kong_shift_t *shift,
    ngx_kong_shift_event_t *events, ngx_uint_t n, uint64_t last);


/* pools */

/* a copy of what is known of a shift at one moment */

typedef struct {
    ngx_http_kong_shift_srv_conf_t  *kscf;
    ngx_kong_shift_snapshot_t        snap;
    ngx_kong_shift_total_t           total;
    unsigned                         empty;
    unsigned                         fail_open;
    ngx_kong_shift_pool_t            pool[2];
} ngx_http_kong_shift_view_t;

void ngx_http_kong_shift_view(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_http_kong_shift_view_t *view);

extern const char  *ngx_http_kong_shift_pool_names[2];
extern const char  *ngx_http_kong_shift_origins[NGX_KONG_SHIFT_ORIGINS];

/* Whether there is such a peer, or one that was drained before it went. */
ngx_uint_t ngx_http_kong_shift_has_peer(ngx_http_kong_shift_object_t *target);

/* of both pools, the little that goes into the answer about a shift */
json_t *ngx_http_kong_shift_json_pools(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf, ngx_kong_shift_snapshot_t *snap);

json_t *ngx_http_kong_shift_json_pool(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);
json_t *ngx_http_kong_shift_json_peer(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_object_t *target, ngx_kong_shift_snapshot_t *snap);

/* Says which peers of new are missing. */
void ngx_http_kong_shift_set_not_ready(ngx_kong_shift_conf_t *conf,
    ngx_http_kong_shift_srv_conf_t *kscf,
    ngx_http_kong_shift_problem_t *problem);

/* Adds what a pool has under way. */
void ngx_http_kong_shift_add_census(ngx_kong_shift_total_t *total,
    ngx_kong_shift_pool_e pool, json_t *json);


/* stop */

ngx_int_t ngx_http_kong_shift_safe_to_stop(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target);


/* metrics */

/* what a metric is of, which says how many samples it has */

typedef enum {
    NGX_HTTP_KONG_SHIFT_OF_SHIFT = 0,
    NGX_HTTP_KONG_SHIFT_OF_POOL,
    NGX_HTTP_KONG_SHIFT_OF_PEER
} ngx_http_kong_shift_scope_e;


typedef struct {
    ngx_http_kong_shift_view_t   *view;
    ngx_kong_shift_pool_e         pool;
    ngx_uint_t                    place;      /* of the peer */
} ngx_http_kong_shift_subject_t;


typedef struct ngx_http_kong_shift_metric_s  ngx_http_kong_shift_metric_t;

/* Writes a value.  NULL: the subject has none. */
typedef u_char *(*ngx_http_kong_shift_value_pt)(u_char *p,
    ngx_http_kong_shift_subject_t *s, size_t offset);


struct ngx_http_kong_shift_metric_s {
    ngx_http_kong_shift_scope_e    scope;
    const char                    *name;
    const char                    *help;
    ngx_http_kong_shift_value_pt   value;
    size_t                         offset;     /* or what "value" tells by */
    ngx_uint_t                     counter;    /* unsigned  counter:1; */

    const char                    *label;      /* one more, or NULL */
    const char                   **values;     /* of it; NULL: versions */
    ngx_uint_t                     nvalues;
};

/* Ends with one that has no name. */
extern ngx_http_kong_shift_metric_t  ngx_http_kong_shift_metric_list[];

ngx_int_t ngx_http_kong_shift_metrics(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target);


#endif /* _NGX_HTTP_KONG_SHIFT_H_INCLUDED_ */
