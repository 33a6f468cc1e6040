
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


typedef enum {
    NGX_KONG_SHIFT_OLD = 0,
    NGX_KONG_SHIFT_NEW,
    NGX_KONG_SHIFT_ANY                   /* no override was given */
} ngx_kong_shift_pool_e;


typedef enum {
    NGX_KONG_SHIFT_BY_OVERRIDE = 0,
    NGX_KONG_SHIFT_BY_KEY,
    NGX_KONG_SHIFT_BY_WEIGHT
} ngx_kong_shift_reason_e;


typedef enum {
    NGX_KONG_SHIFT_SET_WEIGHT = 0,
    NGX_KONG_SHIFT_OPEN_GATE,
    NGX_KONG_SHIFT_CLOSE_GATE,
    NGX_KONG_SHIFT_SET_FREEZE,
    NGX_KONG_SHIFT_ABORT,
    NGX_KONG_SHIFT_SET_CONFIG,           /* weight= was edited */
    NGX_KONG_SHIFT_ADOPT                 /* the state file was newer */
} ngx_kong_shift_action_e;


typedef enum {
    NGX_KONG_SHIFT_DONE = 0,
    NGX_KONG_SHIFT_GATE_CLOSED,
    NGX_KONG_SHIFT_GATE_OFF,
    NGX_KONG_SHIFT_MISMATCH              /* If-Match lost */
} ngx_kong_shift_result_e;


/* what the control-plane phase showed when it opened the gate */

typedef struct {
    char         strategy[NGX_KONG_SHIFT_TEXT_SIZE];
    char         x[NGX_KONG_SHIFT_TEXT_SIZE];
    char         y[NGX_KONG_SHIFT_TEXT_SIZE];
    char         journal[NGX_KONG_SHIFT_TEXT_SIZE];
} ngx_kong_shift_evidence_t;


typedef struct {
    uint64_t     generation;             /* 1 .. 2^40 - 1, one per change */
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
} ngx_kong_shift_state_t;


typedef struct {
    ngx_kong_shift_action_e    action;

    uint32_t     weight;                 /* SET_WEIGHT, SET_CONFIG */
    uint8_t      on;                     /* SET_FREEZE */
    uint8_t      forced;                 /* OPEN_GATE */
    uint8_t      match;                  /* "generation" must be current */
    uint64_t     generation;

    ngx_kong_shift_evidence_t  evidence; /* OPEN_GATE */

    char         comment[NGX_KONG_SHIFT_COMMENT_SIZE];
} ngx_kong_shift_change_t;


/*
 * The word is all that a request reads: one aligned 64-bit load, so a reader
 * can neither block nor see half a change.
 *
 *     bits 0..39   generation
 *     bits 40..59  weight
 *     bit  60      gate is open
 *     bit  61      aborted: nothing at all goes to new
 *     bit  62      freeze is on
 *     bit  63      which of the two state slots is current
 */

#define NGX_KONG_SHIFT_GENERATION_MASK  0xffffffffffULL
#define NGX_KONG_SHIFT_WEIGHT_SHIFT     40
#define NGX_KONG_SHIFT_WEIGHT_MASK      0xfffffULL
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
 * Chooses the pool of one request.  "hash" is the mixed hash of the client's
 * key, or NULL when the request has none; then *credit, shared by all workers,
 * diffuses the error so that any N choices in a row hold N * weight +- 1 new.
 */
ngx_kong_shift_choice_t ngx_kong_shift_choose(uint64_t word, unsigned gated,
    ngx_kong_shift_pool_e override, const uint32_t *hash, uint64_t *credit);


#endif /* _NGX_KONG_SHIFT_CORE_H_INCLUDED_ */
