
/*
 * Copyright (C) kong-shift contributors
 */


#ifndef _NGX_KONG_SHIFT_H_INCLUDED_
#define _NGX_KONG_SHIFT_H_INCLUDED_


#include <ngx_config.h>
#include <ngx_core.h>
#include <ngx_event.h>

#if (NGX_THREADS)
#include <ngx_thread_pool.h>
#endif

#include <jansson.h>

#include "ngx_kong_shift_core.h"


#if (NGX_PTR_SIZE != 8)
#error "kong_shift needs a 64-bit platform: a change is one 64-bit store"
#endif


#define NGX_KONG_SHIFT_NAME_SIZE   128
#define NGX_KONG_SHIFT_BY_SIZE     48
#define NGX_KONG_SHIFT_EVENTS      256
#define NGX_KONG_SHIFT_PATH_SIZE   1024
#define NGX_KONG_SHIFT_WORKERS     96
#define NGX_KONG_SHIFT_VERSIONS    4
#define NGX_KONG_SHIFT_VERSION_SIZE  16
#define NGX_KONG_SHIFT_HASH_SIZE   33
#define NGX_KONG_SHIFT_REASON_SIZE  72


/* what happened to a shift, for GET .../events */

typedef struct {
    uint64_t                   id;
    uint64_t                   generation;
    int64_t                    time;

    ngx_kong_shift_action_e    action;
    uint32_t                   forced;

    /* of the state before and after: weight and flags, no generation */
    uint64_t                   before;
    uint64_t                   after;

    char                       by[NGX_KONG_SHIFT_BY_SIZE];
    char                       comment[NGX_KONG_SHIFT_COMMENT_SIZE];
} ngx_kong_shift_event_t;


/* whose fault an answer is */

typedef enum {
    NGX_KONG_SHIFT_GATEWAY = 0,            /* Kong made it */
    NGX_KONG_SHIFT_BACKEND,                /* Kong proxied it */
    NGX_KONG_SHIFT_TRANSPORT,              /* there was no answer */
    NGX_KONG_SHIFT_UNKNOWN,                /* Kong does not tell */
    NGX_KONG_SHIFT_ORIGINS
} ngx_kong_shift_origin_e;


/* one peer of a pool; its place stays the same while it is configured */

typedef struct {
    char                       addr[NGX_KONG_SHIFT_ADDR_SIZE];  /* "": free */

    ngx_kong_shift_health_t    health;
    int64_t                    checked;    /* seconds since the epoch */
    char                       reason[NGX_KONG_SHIFT_REASON_SIZE];
    uint32_t                   started;    /* the last check: low bits of ms */
    uint32_t                   honest;     /* its 404s are true: since then */
    char                       hash[NGX_KONG_SHIFT_HASH_SIZE];

    char                       version[NGX_KONG_SHIFT_VERSION_SIZE];

    uint8_t                    configured;
    uint8_t                    down;       /* by the configuration */
    uint8_t                    backup;
    uint8_t                    drained;
    uint8_t                    wrong;      /* its version, and noted */
    uint8_t                    suspected;  /* it sent a 404: to be checked */

    /* attempts */
    uint64_t                   requests;   /* sum of "responses" */
    uint64_t                   failed;
    uint64_t                   connect_errors;
    uint64_t                   responses[6];   /* by class; 0: no status */
} ngx_kong_shift_peer_t;


typedef struct {
    char                       text[NGX_KONG_SHIFT_VERSION_SIZE];
    uint64_t                   responses;
    uint64_t                   noted;      /* 1 << place: wrong, and told */
} ngx_kong_shift_version_t;


typedef struct {
    /* main requests, counted as they are logged */
    uint64_t                   chosen;
    uint64_t                   served;     /* sum of "responses" */
    uint64_t                   failed;
    uint64_t                   canceled;   /* the client left before */
    uint64_t                   rescued;    /* of failed: by the other pool */
    uint64_t                   fallback;   /* of chosen: for the other pool */
    uint64_t                   responses[6];   /* of served, by class */
    uint64_t                   not_found[NGX_KONG_SHIFT_ORIGINS];
    uint64_t                   errors[NGX_KONG_SHIFT_ORIGINS];   /* 5xx */

    /* attempts */
    uint64_t                   connect_errors;
    uint64_t                   suspected;  /* 404s that were tried elsewhere */
    uint64_t                   wrong_version;

    uint64_t                   drain_next; /* when to close the next one */

    ngx_kong_shift_version_t   version[NGX_KONG_SHIFT_VERSIONS];
    ngx_kong_shift_peer_t      peer[NGX_KONG_SHIFT_PEERS];
} ngx_kong_shift_pool_t;


/* one shift in shared memory; no pointers, old workers read it too */

typedef struct {
    uint64_t                   word;
    uint64_t                   empty;      /* 1 << pool: hands over */
    uint64_t                   fail_open;  /* 1 << pool: used unchecked */
    uint64_t                   reports;    /* of changed health */
    u_char                     pad0[96];

    uint64_t                   credit;     /* a line of its own */
    u_char                     pad1[120];

    ngx_kong_shift_state_t     slot[2];

    uint64_t                   nevents;    /* ever; also the newest id */
    ngx_kong_shift_event_t     event[NGX_KONG_SHIFT_EVENTS];

    ngx_uint_t                 unsaved;    /* the state file is behind, */
    ngx_uint_t                 ahead;      /* by a change already in force */

    ngx_kong_shift_pool_t      pool[2];
    ngx_kong_shift_census_t    census[NGX_KONG_SHIFT_WORKERS];

    char                       name[NGX_KONG_SHIFT_NAME_SIZE];
} ngx_kong_shift_record_t;


/* tells one version of the state file from another */

typedef struct {
    uint64_t                   inode;      /* 0: there is no file */
    int64_t                    sec;
    int64_t                    nsec;
    int64_t                    size;
} ngx_kong_shift_file_id_t;


typedef struct {
    ngx_uint_t                 capacity;
    ngx_uint_t                 nrecords;

    /* the writer's lease; guarded by the slab mutex */
    ngx_pid_t                  owner;      /* 0: free */
    uint64_t                   token;
    ngx_msec_t                 expires;

    /* the zone gave way to another one: its writers are refused */
    ngx_uint_t                 replaced;

    /* counts the paths of the state file; writers of an old one are refused */
    ngx_uint_t                 epoch;

    ngx_kong_shift_file_id_t   file_id;    /* last loaded or saved */
    uint64_t                   serial;     /* of that file */

    ngx_msec_t                 next_poll;
    ngx_msec_t                 next_retry;
    ngx_msec_t                 retry_delay;

    /* the worker that checks the peers */
    ngx_pid_t                  checker;    /* 0: none */
    ngx_msec_t                 checker_expires;

    /* counts configurations; workers of the last one alone check */
    ngx_uint_t                 reloads;

    ngx_pid_t                  worker[NGX_KONG_SHIFT_WORKERS];  /* 0: none */
    ngx_uint_t                 crowded;    /* workers without a row */

    ngx_kong_shift_record_t    record[1];  /* [capacity] */
} ngx_kong_shift_shctx_t;


typedef struct ngx_kong_shift_s  ngx_kong_shift_t;

/* Brings the peers of both pools to what the record says of them. */
typedef void (*ngx_kong_shift_refresh_pt)(ngx_kong_shift_t *shift);


struct ngx_kong_shift_s {
    ngx_str_t                  name;
    const char                *kind;       /* "http" or "stream" */
    uint32_t                   weight;     /* weight= */
    ngx_uint_t                 gated;      /* unsigned  gated:1; */

    ngx_uint_t                 checked;    /* 1 << pool */
    ngx_uint_t                 min_ready;  /* percent of new */
    ngx_kong_shift_refresh_pt  refresh;
    void                      *data;       /* of refresh */

    ngx_kong_shift_record_t   *record;
};


typedef struct {
    ngx_shm_zone_t            *shm_zone;
    ngx_kong_shift_shctx_t    *sh;
    ngx_slab_pool_t           *shpool;
    ngx_uint_t                 epoch;
    ngx_uint_t                 reload;     /* one of sh->reloads */

    ngx_array_t                shifts;     /* ngx_kong_shift_t * */

    size_t                     size;       /* 0: auto */
    ngx_str_t                  path;       /* of the state file, or empty */
    u_char                    *file;       /* of the directive */
    ngx_uint_t                 line;

    struct ngx_kong_shift_op_s  *tick;     /* under way, or NULL */

    ngx_uint_t                 row;        /* of this worker */
    ngx_uint_t                 crowded;    /* unsigned  crowded:1; */

#if (NGX_THREADS)
    ngx_thread_pool_t         *thread_pool;
#endif
} ngx_kong_shift_conf_t;


/* a consistent copy of one shift */

typedef struct {
    ngx_kong_shift_state_t     state;
    uint64_t                   word;
    ngx_uint_t                 unsaved;
} ngx_kong_shift_snapshot_t;


/* one shift as read from the state file */

typedef struct {
    char                       name[NGX_KONG_SHIFT_NAME_SIZE];
    ngx_kong_shift_state_t     state;
    uint64_t                   nevents;
} ngx_kong_shift_saved_t;


/* module */

/*
 * Registers a shift while the configuration is read.  NULL after an error
 * that has been logged: a name taken by another shift, or one which is not
 * 1 .. 127 bytes of UTF-8 without control characters.
 */
ngx_kong_shift_t *ngx_kong_shift_add(ngx_conf_t *cf, ngx_str_t *name,
    const char *kind);

ngx_uint_t ngx_kong_shift_is_text(ngx_str_t *text);


/* shm */

size_t ngx_kong_shift_zone_size(ngx_uint_t capacity);
ngx_uint_t ngx_kong_shift_zone_capacity(size_t size);
ngx_kong_shift_record_t *ngx_kong_shift_find_record(
    ngx_kong_shift_shctx_t *sh, const char *name, size_t len);
ngx_kong_shift_record_t *ngx_kong_shift_add_record(
    ngx_kong_shift_shctx_t *sh, const char *name, size_t len,
    const ngx_kong_shift_state_t *st);
void ngx_kong_shift_init_record(ngx_kong_shift_record_t *rec,
    const char *name, size_t len, const ngx_kong_shift_state_t *st);
void ngx_kong_shift_read(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_snapshot_t *snap);

/*
 * Makes *st the state of the record at once for all workers; the caller holds
 * the lease and the slab mutex.
 */
void ngx_kong_shift_publish_locked(ngx_kong_shift_record_t *rec,
    const ngx_kong_shift_state_t *st, ngx_kong_shift_action_e action,
    ngx_uint_t forced, const char *by, const char *comment);

/*
 * Gives this worker a row of its own in the census of each shift, and takes it
 * back at its end.
 */
void ngx_kong_shift_join(ngx_kong_shift_conf_t *kcf, ngx_log_t *log);
void ngx_kong_shift_leave(ngx_kong_shift_conf_t *kcf);

/*
 * What all workers have under way; what a killed one left is nothing.  The
 * numbers of "choosing" are read before any other, see
 * ngx_kong_shift_unsafe(); "oldest" is the smallest.
 */
typedef struct {
    uint64_t                   choosing;
    uint64_t                   writes;
    uint64_t                   active[2];
    uint64_t                   lasting[2];
    uint64_t                   oldest[2];
    uint64_t                   oldest_lasting[2];
    uint64_t                   peer[2][NGX_KONG_SHIFT_PEERS];
} ngx_kong_shift_total_t;

void ngx_kong_shift_count(ngx_kong_shift_shctx_t *sh,
    ngx_kong_shift_record_t *rec, ngx_kong_shift_total_t *total);

/* Peers of a pool that are configured and not down, and the ready ones. */
void ngx_kong_shift_count_peers(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, uint32_t *n, uint32_t *ready);

/* Whether no peer of a pool is usable but this one, if that is. */
ngx_uint_t ngx_kong_shift_is_last(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_pool_e pool, const char *addr);

/* Adds an event of something that was seen; the caller holds the mutex. */
void ngx_kong_shift_see_locked(ngx_kong_shift_record_t *rec,
    ngx_kong_shift_action_e action, const char *by, const char *text);

ngx_uint_t ngx_kong_shift_is_alive(ngx_pid_t pid);

void ngx_kong_shift_mark_unsaved_locked(ngx_kong_shift_shctx_t *sh);

/*
 * Gives the state in force a generation above the one that was refused here
 * but may already have been read from the file by another nginx.
 */
void ngx_kong_shift_outrun_locked(ngx_kong_shift_record_t *rec,
    uint64_t generation);

/*
 * The newest events with an id above "since", oldest first, in an allocated
 * array which the caller frees with ngx_free(); *last is the newest id.
 */
ngx_int_t ngx_kong_shift_read_events(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_record_t *rec, uint64_t since,
    ngx_kong_shift_event_t **events, ngx_uint_t *nevents, uint64_t *last,
    ngx_log_t *log);

/* A reload gave the zone or the state file to other workers than these. */
#define ngx_kong_shift_is_replaced(kcf)                                      \
    ((kcf)->sh->replaced || (kcf)->sh->epoch != (kcf)->epoch)

/*
 * The lease lets one writer of all workers at a time change and save state.
 * A dead or silent owner is replaced.  Returns a token for the other calls,
 * or 0 when another one holds the lease.  _hold() extends it, and is NGX_BUSY
 * after somebody else took it.
 */
uint64_t ngx_kong_shift_lease_take(ngx_kong_shift_conf_t *kcf);
ngx_int_t ngx_kong_shift_lease_hold(ngx_kong_shift_conf_t *kcf,
    uint64_t token);
void ngx_kong_shift_lease_drop(ngx_kong_shift_conf_t *kcf, uint64_t token);


/* json */

/* weight in the shape of the API: an integer, or a real of 4 decimals */
json_t *ngx_kong_shift_json_weight(uint32_t weight);
json_t *ngx_kong_shift_json_time(int64_t t);
json_t *ngx_kong_shift_json_evidence(const ngx_kong_shift_evidence_t *ev);

/*
 * Reads a number of percent.  NGX_OK; NGX_DECLINED when it is no number,
 * NGX_ERROR when it is out of 0 .. 100 or has more than 4 decimals.
 */
ngx_int_t ngx_kong_shift_json_get_weight(const json_t *value,
    uint32_t *weight);

/*
 * Copies a JSON string of 0 .. size - 1 bytes without control characters.
 * NGX_OK; NGX_DECLINED when it is no string, NGX_ERROR when it does not fit.
 */
ngx_int_t ngx_kong_shift_json_get_text(const json_t *value, char *text,
    size_t size);

/* The text of the state file; freed with free().  NULL: no memory. */
char *ngx_kong_shift_encode(const ngx_kong_shift_saved_t *saved, ngx_uint_t n,
    uint64_t serial);

/*
 * Reads the text of a state file.  The array is from "pool".  On NGX_ERROR
 * *reason is a sentence that says what is wrong with it.
 */
ngx_int_t ngx_kong_shift_decode(ngx_pool_t *pool, const u_char *text,
    size_t len, ngx_array_t *saved, uint64_t *serial, const char **reason);


/* file; plain system calls, as they also run in a thread */

typedef struct {
    const char                *path;
    const char                *folder;
    const char                *name;       /* within the folder */

    ngx_kong_shift_file_id_t   id;         /* in: expected, out: found */
    ngx_uint_t                 renamed;    /* out: the file was replaced */

    u_char                    *text;       /* save: in, load: out, malloc() */
    size_t                     len;

    ngx_err_t                  err;        /* of the call that failed */
    const char                *what;       /* the call that failed */
} ngx_kong_shift_file_t;

/* The largest state file that is read, in bytes. */
#define NGX_KONG_SHIFT_FILE_MAX    (4 * 1024 * 1024)

/* Splits a path into *file, which keeps pointers into "buf". */
void ngx_kong_shift_file_init(ngx_kong_shift_file_t *file, const char *path,
    char *buf);

/* NGX_OK, NGX_DECLINED when there is no file, or NGX_ERROR. */
ngx_int_t ngx_kong_shift_file_stat(const char *path,
    ngx_kong_shift_file_id_t *id);
ngx_int_t ngx_kong_shift_file_load(ngx_kong_shift_file_t *file);

/*
 * Replaces the file: temporary file, fsync, rename, fsync of the folder.
 * NGX_OK; NGX_DECLINED when somebody else has replaced the file since
 * file->id was taken; NGX_BUSY when somebody else was at it for 4 seconds;
 * NGX_ERROR with file->err and file->what.
 */
ngx_int_t ngx_kong_shift_file_save(ngx_kong_shift_file_t *file);

#define ngx_kong_shift_same_file(a, b)                                        \
    ((a)->inode == (b)->inode && (a)->sec == (b)->sec                         \
     && (a)->nsec == (b)->nsec && (a)->size == (b)->size)


/* restore */

/*
 * Fills a fresh zone from the state file.  A bad file is moved aside and never
 * an error.
 */
void ngx_kong_shift_restore(ngx_kong_shift_conf_t *kcf, ngx_log_t *log);

/*
 * Publishes what another nginx has saved in the loaded file, as far as it is
 * newer; an abort that is not saved yet stays, as a newer one.  The caller
 * holds the lease.
 */
void ngx_kong_shift_adopt(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_file_t *file, ngx_log_t *log);

/*
 * Binds the shifts of a new configuration to their records.  "old" is the
 * configuration of the cycle before, or NULL.
 */
ngx_int_t ngx_kong_shift_attach(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_conf_t *old, ngx_log_t *log);

/* NGX_ERROR, logged, unless "user" can write the folder of the state file. */
ngx_int_t ngx_kong_shift_check_folder(ngx_cycle_t *cycle,
    ngx_kong_shift_conf_t *kcf);


/* op: one change, from the wait for the lease to the saved state */

typedef enum {
    NGX_KONG_SHIFT_OP_DONE = 0,
    NGX_KONG_SHIFT_OP_REFUSED,             /* see "result" */
    NGX_KONG_SHIFT_OP_BUSY,
    NGX_KONG_SHIFT_OP_REPLACED,
    NGX_KONG_SHIFT_OP_NOT_SAVED,
    NGX_KONG_SHIFT_OP_FAILED               /* no memory */
} ngx_kong_shift_op_status_e;


typedef enum {
    NGX_KONG_SHIFT_STEP_SAVE = 0,
    NGX_KONG_SHIFT_STEP_LOAD,
    NGX_KONG_SHIFT_STEP_CHECK              /* has the file changed? */
} ngx_kong_shift_step_e;


typedef struct ngx_kong_shift_op_s  ngx_kong_shift_op_t;

typedef void (*ngx_kong_shift_op_pt)(ngx_kong_shift_op_t *op);


struct ngx_kong_shift_op_s {
    /* set by the caller; the memory lives until "handler" is called */

    ngx_kong_shift_conf_t       *kcf;
    ngx_kong_shift_t            *shift;    /* NULL: bring file and zone
                                              to the same state */
    ngx_kong_shift_change_t      change;
    char                         by[NGX_KONG_SHIFT_BY_SIZE];

    ngx_pool_t                  *pool;
    ngx_log_t                   *log;
    ngx_kong_shift_op_pt         handler;
    void                        *data;

    /* the outcome */

    ngx_kong_shift_op_status_e   status;
    ngx_kong_shift_result_e      result;
    ngx_uint_t                   saved;    /* unsigned  saved:1; */
    ngx_kong_shift_state_t       state;    /* current, changed or not */

    /* private */

    ngx_kong_shift_step_e        step;
    uint64_t                     token;
    uint64_t                     base;     /* generation that is changed */
    ngx_msec_t                   deadline;
    ngx_event_t                  timer;
    ngx_connection_t             dumb;     /* what a timer's data must be */
    ngx_uint_t                   published;
    ngx_int_t                    rc;
    ngx_kong_shift_saved_t      *saves;
    ngx_uint_t                   nsaves;
    ngx_kong_shift_file_t        file;
    char                         buf[NGX_KONG_SHIFT_PATH_SIZE];
};


/* Starts a change; "handler" is called exactly once, perhaps at once. */
void ngx_kong_shift_op_start(ngx_kong_shift_op_t *op);

/* Ends one that nobody waits for, together with its pool. */
void ngx_kong_shift_op_drop(ngx_kong_shift_op_t *op);

/* Writes what the event says, NGX_KONG_SHIFT_COMMENT_SIZE bytes at most. */
void ngx_kong_shift_op_text(ngx_kong_shift_op_t *op, char *text);
void ngx_kong_shift_op_log(ngx_kong_shift_op_t *op);

ngx_int_t ngx_kong_shift_init_worker(ngx_cycle_t *cycle,
    ngx_kong_shift_conf_t *kcf);


extern ngx_module_t  ngx_kong_shift_module;


#endif /* _NGX_KONG_SHIFT_H_INCLUDED_ */
