
/*
 * Copyright (C) kong-shift contributors
 */


/*
 * The pure part: plain data in, plain data out.  Nothing here knows nginx, a
 * clock, an allocator or a file, so that it can be tested and fuzzed alone.
 */


#ifndef _NGX_KONG_SHIFT_CORE_H_INCLUDED_
#define _NGX_KONG_SHIFT_CORE_H_INCLUDED_


#include <stddef.h>
#include <stdint.h>


/* a weight is percent to new in units of 0.0001 %: 0 .. 1,000,000 */

#define NGX_KONG_SHIFT_UNIT          10000
#define NGX_KONG_SHIFT_FULL          (100 * NGX_KONG_SHIFT_UNIT)

#define NGX_KONG_SHIFT_WEIGHT_LEN    (sizeof("100.0000") - 1)

/* texts are kept with a terminating zero */

#define NGX_KONG_SHIFT_TEXT_SIZE     256
#define NGX_KONG_SHIFT_COMMENT_SIZE  129
#define NGX_KONG_SHIFT_ADDR_SIZE     64      /* of a peer: address and port */

/* so many peers of one pool are known one by one */

#define NGX_KONG_SHIFT_PEERS         32

/* connections closed per second by a drain: 1 .. */

#define NGX_KONG_SHIFT_RATE_MAX      10000

/* seconds until the deadline of a drain: 1 .. a year */

#define NGX_KONG_SHIFT_DEADLINE_MAX  (365 * 24 * 3600)


typedef enum {
    NGX_KONG_SHIFT_OLD = 0,
    NGX_KONG_SHIFT_NEW,
    NGX_KONG_SHIFT_ANY                   /* no override was given */
} ngx_kong_shift_pool_e;


typedef enum {
    NGX_KONG_SHIFT_BY_OVERRIDE = 0,
    NGX_KONG_SHIFT_BY_KEY,
    NGX_KONG_SHIFT_BY_WEIGHT,
    NGX_KONG_SHIFT_BY_RESCUE,            /* the other pool had failed it */
    NGX_KONG_SHIFT_BY_FALLBACK           /* the other pool has no ready peer */
} ngx_kong_shift_reason_e;


typedef enum {
    NGX_KONG_SHIFT_SET_WEIGHT = 0,
    NGX_KONG_SHIFT_OPEN_GATE,
    NGX_KONG_SHIFT_CLOSE_GATE,
    NGX_KONG_SHIFT_SET_FREEZE,
    NGX_KONG_SHIFT_ABORT,
    NGX_KONG_SHIFT_SET_CONFIG,           /* weight= was edited */
    NGX_KONG_SHIFT_ADOPT,                /* the state file was newer */
    NGX_KONG_SHIFT_SET_DRAIN,            /* of a pool */
    NGX_KONG_SHIFT_SET_PEER,             /* drain of one peer */

    /* what is seen, not set: only in events */

    NGX_KONG_SHIFT_SEE_PEER,             /* ready, or not any more */
    NGX_KONG_SHIFT_SEE_FALLBACK,         /* began, or ended */
    NGX_KONG_SHIFT_SEE_FAIL_OPEN,
    NGX_KONG_SHIFT_SEE_VERSION           /* another than announced */
} ngx_kong_shift_action_e;


typedef enum {
    NGX_KONG_SHIFT_DONE = 0,
    NGX_KONG_SHIFT_GATE_CLOSED,
    NGX_KONG_SHIFT_GATE_OFF,
    NGX_KONG_SHIFT_MISMATCH,             /* If-Match lost */
    NGX_KONG_SHIFT_POOL_NOT_READY,       /* too few ready peers in new */
    NGX_KONG_SHIFT_POOL_DRAINED,         /* the weight needs a drained pool */
    NGX_KONG_SHIFT_POOL_IN_USE,          /* the weight needs it: no drain */
    NGX_KONG_SHIFT_TOO_MANY_DRAINED      /* peers */
} ngx_kong_shift_result_e;


/* what the control-plane phase showed when it opened the gate */

typedef struct {
    char         strategy[NGX_KONG_SHIFT_TEXT_SIZE];
    char         x[NGX_KONG_SHIFT_TEXT_SIZE];
    char         y[NGX_KONG_SHIFT_TEXT_SIZE];
    char         journal[NGX_KONG_SHIFT_TEXT_SIZE];
} ngx_kong_shift_evidence_t;


/* one peer that is drained alone; an empty address: none */

typedef struct {
    uint8_t      pool;
    char         addr[NGX_KONG_SHIFT_ADDR_SIZE];
} ngx_kong_shift_drained_t;

#define NGX_KONG_SHIFT_DRAINED       16


typedef struct {
    uint64_t     generation;             /* 1 .. 2^38 - 1, one per change */
    int64_t      changed;                /* seconds since the epoch */
    int64_t      gate_changed;
    int64_t      freeze_changed;

    uint32_t     weight;
    uint32_t     conf_weight;            /* weight= this state grew from */

    uint8_t      aborted;
    uint8_t      gate_open;
    uint8_t      gate_forced;
    uint8_t      freeze;

    ngx_kong_shift_evidence_t  evidence; /* empty strategy: none */

    char         gate_comment[NGX_KONG_SHIFT_COMMENT_SIZE];
    char         freeze_comment[NGX_KONG_SHIFT_COMMENT_SIZE];

    /* of each pool */
    uint8_t      drained[2];             /* old: the weight is 100, new: 0 */
    int64_t      drain_changed[2];       /* drained, or not, since then */
    uint32_t     drain_rate[2];          /* closed per second; 0: none */
    int64_t      drain_deadline[2];      /* seconds; 0: none */

    ngx_kong_shift_drained_t  peer[NGX_KONG_SHIFT_DRAINED];
} ngx_kong_shift_state_t;


typedef struct {
    ngx_kong_shift_action_e    action;

    uint32_t     weight;                 /* SET_WEIGHT, SET_CONFIG */
    uint8_t      on;                     /* SET_FREEZE, _DRAIN, _PEER */
    uint8_t      forced;                 /* OPEN_GATE, SET_WEIGHT */
    uint8_t      not_ready;              /* new has too few ready peers */
    uint8_t      last;                   /* SET_PEER: no other is usable */
    uint8_t      match;                  /* "generation" must be current */
    uint8_t      pool;                   /* SET_DRAIN, SET_PEER */
    uint32_t     rate;                   /* SET_DRAIN: as in the state */
    uint32_t     deadline;               /* SET_DRAIN: seconds from now */
    uint64_t     generation;

    ngx_kong_shift_evidence_t  evidence; /* OPEN_GATE */

    char         addr[NGX_KONG_SHIFT_ADDR_SIZE];      /* SET_PEER */
    char         comment[NGX_KONG_SHIFT_COMMENT_SIZE];
} ngx_kong_shift_change_t;


/*
 * The word is all that a request reads: one aligned 64-bit load, so a reader
 * can neither block nor see half a change.
 *
 *     bits 0..37   generation
 *     bits 38..57  weight
 *     bit  58      old is drained
 *     bit  59      new is drained
 *     bit  60      gate is open
 *     bit  61      aborted: nothing at all goes to new
 *     bit  62      freeze is on
 *     bit  63      which of the two state slots is current
 */

#define NGX_KONG_SHIFT_GENERATION_MASK  0x3fffffffffULL
#define NGX_KONG_SHIFT_WEIGHT_SHIFT     38
#define NGX_KONG_SHIFT_WEIGHT_MASK      0xfffffULL
#define NGX_KONG_SHIFT_WORD_DRAINED     (1ULL << 58)       /* << pool */
#define NGX_KONG_SHIFT_WORD_OPEN        (1ULL << 60)
#define NGX_KONG_SHIFT_WORD_ABORTED     (1ULL << 61)
#define NGX_KONG_SHIFT_WORD_FREEZE      (1ULL << 62)
#define NGX_KONG_SHIFT_WORD_SLOT        (1ULL << 63)

#define ngx_kong_shift_word_generation(w)                                     \
    ((w) & NGX_KONG_SHIFT_GENERATION_MASK)

#define ngx_kong_shift_word_slot(w)                                           \
    (((w) & NGX_KONG_SHIFT_WORD_SLOT) ? 1 : 0)


typedef struct {
    ngx_kong_shift_pool_e      pool;
    ngx_kong_shift_reason_e    reason;
} ngx_kong_shift_choice_t;


/*
 * Reads a decimal such as "10", "12.5" or "0.0001" of at most 4 decimals into
 * *weight.  Returns 0, or -1 when it is not such a number or not within
 * 0 .. 100; *weight is then left alone.
 */
int ngx_kong_shift_parse_weight(const char *text, size_t len,
    uint32_t *weight);

/* The same for a number already read by a JSON parser. */
int ngx_kong_shift_real_weight(double percent, uint32_t *weight);

/*
 * Writes the shortest decimal of the weight, NGX_KONG_SHIFT_WEIGHT_LEN bytes
 * at most and no terminating zero.  Returns the end of what was written.
 */
char *ngx_kong_shift_format_weight(char *text, uint32_t weight);

/*
 * The state a shift starts with, before anybody changed it: the gate closed,
 * the freeze off, weight as configured.
 */
void ngx_kong_shift_init_state(ngx_kong_shift_state_t *st,
    uint32_t conf_weight, int64_t now);

/*
 * Applies a change to *st; "gated" is the kong_shift_gate setting.  Whatever
 * is returned but NGX_KONG_SHIFT_DONE means that *st was not touched.
 */
ngx_kong_shift_result_e ngx_kong_shift_apply(ngx_kong_shift_state_t *st,
    const ngx_kong_shift_change_t *change, unsigned gated, int64_t now);

/* The word of a state that is held in "slot" (0 or 1). */
uint64_t ngx_kong_shift_word(const ngx_kong_shift_state_t *st, unsigned slot);

/*
 * Weight in force, in units: 0 as long as a gated shift is not open.
 */
uint32_t ngx_kong_shift_effective(uint64_t word, unsigned gated);

/*
 * Joins the hash of a client's key with that of the seed, so that the clients
 * that move first are others for another seed.
 */
uint32_t ngx_kong_shift_mix(uint32_t key, uint32_t seed);

/*
 * Whether a pool may get requests at all: the only question for those that the
 * operator sends there by an override.
 */
unsigned ngx_kong_shift_is_open(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool);

/*
 * Whether a pool may take over requests of the other one, by rescue or
 * fallback: new only while it has a weight.  "empty" has 1 << pool set for one
 * that has no ready peer.
 */
unsigned ngx_kong_shift_may_take(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool, unsigned empty);

/*
 * Whether a request that was given a pool under the word "before" may go there
 * again, or has to be given one anew, since others may know by now that nobody
 * is left there.
 */
unsigned ngx_kong_shift_may_stay(uint64_t before, uint64_t word,
    unsigned gated, ngx_kong_shift_pool_e pool);

/*
 * Chooses the pool of one request.  "hash" is the mixed hash of the client's
 * key, or NULL when the request has none; then *credit, shared by all workers,
 * diffuses the error so that any N choices in a row hold N * weight +- 1 new.
 * What falls to an empty pool is handed over, but for overrides.
 */
ngx_kong_shift_choice_t ngx_kong_shift_choose(uint64_t word, unsigned gated,
    unsigned empty, ngx_kong_shift_pool_e override, const uint32_t *hash,
    uint64_t *credit);


/* health */

/* of one peer; times in milliseconds of a clock that never goes back */

typedef struct {
    uint8_t      ready;
    uint8_t      checked;                /* there was a result */
    uint32_t     passes;                 /* in a row */
    uint32_t     fails;                  /* in a row */
    uint64_t     since;                  /* ready or not since; 0: start */
} ngx_kong_shift_health_t;


/*
 * A peer of old is ready until it fails, one of new only after it passed, so
 * that a wrong check can neither empty old nor open new.
 */
void ngx_kong_shift_init_health(ngx_kong_shift_health_t *h,
    ngx_kong_shift_pool_e pool);

/*
 * Counts one result; "passes" and "fails", 1 or more, are how many in a row
 * make a peer ready or not.  Returns 1 when that changed.
 */
unsigned ngx_kong_shift_report(ngx_kong_shift_health_t *h, unsigned passed,
    uint32_t passes, uint32_t fails, uint64_t now);

/*
 * Percent of its weight, 1 .. 100, that a peer may have "slow_start"
 * milliseconds after it turned ready; 100 when it was so from the start.
 */
uint32_t ngx_kong_shift_ramp(const ngx_kong_shift_health_t *h,
    uint64_t slow_start, uint64_t now);

/* Whether "ready" of "n" peers are at least "percent" of them; 0 of 0 never. */
unsigned ngx_kong_shift_enough(uint32_t ready, uint32_t n, uint32_t percent);

/*
 * What follows from the number of ready peers in each pool; "checked" has
 * 1 << pool set for the pools that are checked, others are never empty.
 *
 * Returns 1 << pool for each pool that hands its requests over.  One whose
 * requests the other may not take is not among them: 1 << pool is then set in
 * *fail_open, and it is used as if it were unchecked.
 */
unsigned ngx_kong_shift_empty(uint64_t word, unsigned gated, unsigned checked,
    const uint32_t ready[2], unsigned *fail_open);

/*
 * The configuration hash most peers have, as an index into "hash", whose
 * entries may be NULL; among equals that of the first.  -1: there is none.
 */
int ngx_kong_shift_agree(const char *const *hash, int n);


/* drain */

/* what one worker has under way, written by that worker only */

typedef struct {
    uint32_t     choosing;               /* between the look and "active" */
    uint32_t     active[2];              /* requests a pool is working on */
    uint32_t     lasting[2];             /* of these, upgraded or streams */
    uint32_t     writes;                 /* admin writes */
    uint64_t     oldest[2];              /* start, in milliseconds; 0: none */
    uint64_t     oldest_lasting[2];

    /* a peer has no more ports than that for the connections of one host */
    uint16_t     peer[2][NGX_KONG_SHIFT_PEERS];
} ngx_kong_shift_census_t;


/* reasons not to stop a pool yet */

#define NGX_KONG_SHIFT_HAS_WEIGHT    0x01
#define NGX_KONG_SHIFT_HAS_ACTIVE    0x02
#define NGX_KONG_SHIFT_HAS_LASTING   0x04
#define NGX_KONG_SHIFT_HAS_NOT_HELD  0x08


/*
 * Whether a pool may be stopped: 0, or the reasons against it.  The word must
 * have been read before "choosing" of every worker was, and that before any
 * "active": a request that has seen an older word is then in one of the two.
 * "held" is for how many seconds the pool has been without weight, "hold" for
 * how many it has to be.
 */
unsigned ngx_kong_shift_unsafe(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e pool, uint64_t choosing, uint64_t active,
    uint64_t lasting, int64_t held, int64_t hold);


/* version */

/*
 * Finds the version of Kong in a "Via" or "Server" header: digits and dots
 * after "kong/".  Returns its length and sets *version, or returns 0.
 */
size_t ngx_kong_shift_find_version(const char *value, size_t len,
    const char **version);

/* Whether what was found, of "len" bytes, is the version "text". */
unsigned ngx_kong_shift_same_version(const char *version, size_t len,
    const char *text);

/*
 * Whether the version "text" is not the one that was announced, such as
 * "3.9.3", "3.9" for all of them, or "3.9.3.0-enterprise-edition".  Nothing is
 * wrong as long as nothing that looks like a version was announced.
 */
unsigned ngx_kong_shift_wrong_version(const char *text,
    const char *announced);


#endif /* _NGX_KONG_SHIFT_CORE_H_INCLUDED_ */
