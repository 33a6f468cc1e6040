
/*
 * Copyright (C) kong-shift contributors
 */


/*
 * "Safe to stop" against a model of several workers, the writer and the reader,
 * in which every single step is interleaved at random.  The choices and the
 * changes are those of the core; only the memory and the requests are played.
 */


#include "test.h"


#define OLD        NGX_KONG_SHIFT_OLD
#define NEW        NGX_KONG_SHIFT_NEW

#define SCHEDULES  10000
#define STEPS      1000
#define WORKERS    4
#define REQUESTS   8


/* what a worker does, one step at a time */

typedef enum {
    ENTER = 0,                           /* choosing++ */
    LOAD,                                /* the word */
    DECIDE,
    STAY,                                /* where it was before, or anew */
    COUNT,                               /* active[to]++ */
    UNCOUNT,                             /* active[from]-- */
    LEAVE,                               /* choosing-- */
    DONE
} step_e;


/* ways to do it wrong */

typedef enum {
    RIGHT = 0,
    LOADS_BEFORE_CHOOSING,
    LEAVES_BEFORE_ACTIVE,
    RESCUES_WITHOUT_CHOOSING,
    RESCUES_BY_OLD_WORD,
    STAYS_WITHOUT_CHOOSING,
    STAYS_ALWAYS,
    READS_ACTIVE_FIRST,
    READS_WORD_LATE,
    READS_WORD_LAST,
    READS_NO_CHOOSING,
    READS_NO_WEIGHT,
    MUTANTS
} mutant_e;


static const char  *mutants[MUTANTS] = {
    "none",
    "the word is loaded before choosing",
    "choosing ends before active begins",
    "a rescue without choosing",
    "a rescue by the word of the first choice",
    "a redirect without choosing",
    "a redirect goes where the request was before",
    "active is read before choosing",
    "choosing is read before the word",
    "the word is read last",
    "choosing is not read",
    "the weight is not looked at"
};


typedef struct {
    int          used;
    int          pool;                   /* -1: not decided yet */
    int          worker;
    int          by_weight;              /* of the last choice */
    uint64_t     word;
    unsigned     time;                   /* of the last choice */
} request_t;


typedef struct {
    const step_e  *next;                 /* of the request in hand */
    request_t     *request;
    uint64_t       word;
    int            from;
    int            to;
} worker_t;


typedef struct {
    int          step;
    int          pool;
    unsigned     time;                   /* of the first step */
    uint64_t     word;
    uint64_t     choosing;
    uint64_t     active;
} reader_t;


static struct {
    mutant_e                 mutant;
    unsigned                 gated;
    unsigned                 empty;
    unsigned                 time;
    ngx_kong_shift_state_t   state;
    uint64_t                 word;
    uint64_t                 credit;
    ngx_kong_shift_census_t  row[WORKERS];

    worker_t                 worker[WORKERS];
    request_t                request[REQUESTS];
    reader_t                 reader;

    uint64_t                 safe[2];    /* word of the last good verdict */
    unsigned                 verdicts;
    unsigned                 drained;    /* of these, of a drained pool */
    unsigned                 violations;
} m;


static const step_e  starts[] = { ENTER, LOAD, DECIDE, COUNT, LEAVE, DONE };
static const step_e  rescues[] = { ENTER, LOAD, DECIDE, COUNT, UNCOUNT, LEAVE,
                                   DONE };
static const step_e  ends[] = { UNCOUNT, DONE };

/* a redirect: it has left the pool, and comes again */

static const step_e  redirects[] = { UNCOUNT, ENTER, LOAD, STAY, COUNT, LEAVE,
                                     DONE };

static const step_e  starts_late[] = { LOAD, ENTER, DECIDE, COUNT, LEAVE,
                                       DONE };
static const step_e  starts_early[] = { ENTER, LOAD, DECIDE, LEAVE, COUNT,
                                        DONE };
static const step_e  rescues_bare[] = { LOAD, DECIDE, UNCOUNT, COUNT, DONE };
static const step_e  rescues_old[] = { ENTER, DECIDE, COUNT, UNCOUNT, LEAVE,
                                       DONE };
static const step_e  redirects_bare[] = { UNCOUNT, LOAD, STAY, COUNT, DONE };


/*
 * Whether a request must not be at a pool of which "safe" was said by "word":
 * it was chosen by an older one, or by this one which gives the pool nothing.
 * What goes to a pool that is not drained by override, rescue or fallback is
 * no weight.
 */

static int
is_forbidden(const request_t *r, int pool, uint64_t word)
{
    uint64_t  g, safe;

    g = ngx_kong_shift_word_generation(r->word);
    safe = ngx_kong_shift_word_generation(word);

    if (g != safe) {
        return g < safe;
    }

    return r->by_weight || (word & (NGX_KONG_SHIFT_WORD_DRAINED << pool));
}


static void
choose(worker_t *w)
{
    uint32_t                  hash, *key;
    ngx_kong_shift_pool_e     override;
    ngx_kong_shift_choice_t   c;

    hash = test_random(UINT32_MAX);
    key = test_random(2) ? &hash : NULL;
    override = test_random(8) ? NGX_KONG_SHIFT_ANY
                              : (ngx_kong_shift_pool_e) test_random(2);

    c = ngx_kong_shift_choose(w->word, m.gated, m.empty, override, key,
                              &m.credit);

    w->to = (int) c.pool;
    w->request->by_weight = (c.reason == NGX_KONG_SHIFT_BY_KEY
                             || c.reason == NGX_KONG_SHIFT_BY_WEIGHT);
}


static void
arrive(worker_t *w)
{
    request_t  *r = w->request;

    r->word = w->word;
    r->pool = w->to;
    r->time = m.time;

    if (m.safe[w->to] && is_forbidden(r, w->to, m.safe[w->to])) {
        m.violations++;
    }
}


static void
stay(worker_t *w)
{
    w->to = w->from;

    if (m.mutant != STAYS_ALWAYS
        && !ngx_kong_shift_may_stay(w->request->word, w->word, m.gated,
                                    (ngx_kong_shift_pool_e) w->to))
    {
        choose(w);
    }

    arrive(w);
}


static void
decide(worker_t *w)
{
    request_t  *r = w->request;

    if (w->from == -1) {
        choose(w);

    } else {

        /* a rescue; nowhere to go: it ends where it is */

        w->to = !w->from;

        if (!ngx_kong_shift_may_take(w->word, m.gated,
                                     (ngx_kong_shift_pool_e) w->to, m.empty))
        {
            w->to = -1;
            return;
        }

        r->by_weight = 0;
    }

    arrive(w);
}


static void
work(int i)
{
    worker_t                 *w = &m.worker[i];
    ngx_kong_shift_census_t  *c = &m.row[i];

    switch (*w->next++) {

    case ENTER:
        c->choosing++;
        break;

    case LOAD:
        w->word = m.word;
        break;

    case DECIDE:
        decide(w);
        break;

    case STAY:
        stay(w);
        break;

    case COUNT:
        if (w->to != -1) {
            c->active[w->to]++;
        }

        break;

    case UNCOUNT:
        ok(c->active[w->from] > 0);
        c->active[w->from]--;

        if (*w->next == ENTER || *w->next == LOAD) {
            w->request->pool = -1;

        } else if (w->to == -1) {
            w->request->used = 0;
        }

        break;

    case LEAVE:
        ok(c->choosing > 0);
        c->choosing--;
        break;

    default: /* DONE */
        w->next = NULL;
    }
}


/* an idle worker takes up something */

static void
begin(int i)
{
    worker_t   *w = &m.worker[i];
    request_t  *r = &m.request[test_random(REQUESTS)];

    if (r->used && r->worker != i) {
        return;
    }

    memset(w, 0, sizeof(worker_t));
    w->request = r;
    w->to = -1;

    if (!r->used) {
        memset(r, 0, sizeof(request_t));
        r->used = 1;
        r->pool = -1;
        r->worker = i;
        w->from = -1;
        w->next = m.mutant == LOADS_BEFORE_CHOOSING ? starts_late
                  : m.mutant == LEAVES_BEFORE_ACTIVE ? starts_early : starts;
        return;
    }

    w->from = r->pool;

    if (test_random(3)) {
        w->next = ends;
        return;
    }

    if (test_random(2)) {
        w->next = m.mutant == STAYS_WITHOUT_CHOOSING ? redirects_bare
                                                     : redirects;
        return;
    }

    w->word = r->word;
    w->next = m.mutant == RESCUES_WITHOUT_CHOOSING ? rescues_bare
              : m.mutant == RESCUES_BY_OLD_WORD ? rescues_old : rescues;
}


/* its requests are gone, and nobody counts its row any more */

static void
crash(int i)
{
    int  n;

    for (n = 0; n < REQUESTS; n++) {
        if (m.request[n].used && m.request[n].worker == i) {
            m.request[n].used = 0;
        }
    }

    memset(&m.row[i], 0, sizeof(ngx_kong_shift_census_t));
    memset(&m.worker[i], 0, sizeof(worker_t));
}


static void
publish(void)
{
    uint32_t                 ready[2], weights[] = { 0, 0, 500000,
                                                     NGX_KONG_SHIFT_FULL,
                                                     NGX_KONG_SHIFT_FULL };
    unsigned                 fail_open;
    ngx_kong_shift_change_t  c;

    memset(&c, 0, sizeof(ngx_kong_shift_change_t));

    switch (test_random(12)) {

    case 0:
        c.action = NGX_KONG_SHIFT_ABORT;
        break;

    case 1:
        c.action = NGX_KONG_SHIFT_CLOSE_GATE;
        break;

    case 2:
    case 3:
        c.action = NGX_KONG_SHIFT_OPEN_GATE;
        break;

    case 4:
    case 5:
    case 6:
    case 7:
        c.action = NGX_KONG_SHIFT_SET_WEIGHT;
        c.weight = weights[test_random(5)];
        break;

    default:
        c.action = NGX_KONG_SHIFT_SET_DRAIN;
        c.pool = (uint8_t) test_random(2);
        c.on = test_random(4) > 0;
    }

    (void) ngx_kong_shift_apply(&m.state, &c, m.gated, 0);

    m.word = ngx_kong_shift_word(&m.state, m.state.generation & 1);

    ready[OLD] = test_random(3);
    ready[NEW] = test_random(3);
    m.empty = ngx_kong_shift_empty(m.word, m.gated, 3, ready, &fail_open);
}


/* in which order the reader looks at what, by mutant */

static void
look(reader_t *d)
{
    int  row, what, step;

    step = d->step++;
    row = -1;
    what = 'w';

    switch (m.mutant) {

    case READS_ACTIVE_FIRST:
        if (step > 0) {
            row = (step - 1) % WORKERS;
            what = step <= WORKERS ? 'a' : 'c';
        }

        break;

    case READS_WORD_LATE:
        if (step != WORKERS) {
            row = step < WORKERS ? step : step - WORKERS - 1;
            what = step < WORKERS ? 'c' : 'a';
        }

        break;

    case READS_WORD_LAST:
        if (step != 2 * WORKERS) {
            row = step % WORKERS;
            what = step < WORKERS ? 'c' : 'a';
        }

        break;

    default:
        if (step > 0) {
            row = (step - 1) % WORKERS;
            what = step <= WORKERS ? 'c' : 'a';
        }
    }

    if (what == 'w') {
        d->word = m.word;

    } else if (what == 'c') {
        d->choosing += m.row[row].choosing;

    } else {
        d->active += m.row[row].active[d->pool];
    }
}


static void
verdict(reader_t *d)
{
    int         i;
    unsigned    unsafe;
    request_t  *r;

    unsafe = ngx_kong_shift_unsafe(d->word, m.gated,
                                   (ngx_kong_shift_pool_e) d->pool,
                                   m.mutant == READS_NO_CHOOSING ? 0
                                                             : d->choosing,
                                   d->active, 0, 0, 0);

    if (m.mutant == READS_NO_WEIGHT) {
        unsafe &= ~(unsigned) NGX_KONG_SHIFT_HAS_WEIGHT;
    }

    if (unsafe) {
        return;
    }

    m.verdicts++;
    m.drained += ((d->word & (NGX_KONG_SHIFT_WORD_DRAINED << d->pool)) != 0);
    m.safe[d->pool] = d->word;

    for (i = 0; i < REQUESTS; i++) {
        r = &m.request[i];

        /* neither one that must not be there, nor one that was before */

        if (r->used && r->pool == d->pool
            && (is_forbidden(r, d->pool, d->word) || r->time < d->time))
        {
            m.violations++;
        }
    }
}


static void
read_on(void)
{
    int        pool;
    reader_t  *d = &m.reader;

    if (d->step == 0) {
        pool = (int) test_random(2);
        memset(d, 0, sizeof(reader_t));
        d->pool = pool;
        d->time = m.time;
    }

    look(d);

    if (d->step == 1 + 2 * WORKERS) {
        verdict(d);
        d->step = 0;
    }
}


static void
run(mutant_e mutant)
{
    int       i;
    unsigned  n, verdicts, drained, violations;

    verdicts = m.verdicts;
    drained = m.drained;
    violations = m.violations;

    memset(&m, 0, sizeof(m));

    m.verdicts = verdicts;
    m.drained = drained;
    m.violations = violations;
    m.mutant = mutant;
    m.gated = test_random(2);

    ngx_kong_shift_init_state(&m.state, 500000, 0);
    m.word = ngx_kong_shift_word(&m.state, 0);

    for (m.time = 1; m.time <= STEPS; m.time++) {

        n = test_random(100);
        i = (int) test_random(WORKERS);

        if (n < 2) {
            publish();

        } else if (n < 50) {
            read_on();

        } else if (test_random(500) == 0) {
            crash(i);

        } else if (m.worker[i].next) {
            work(i);

        } else {
            begin(i);
        }
    }
}


/* the reasons, one by one and together */

static void
test_reasons(void)
{
    uint64_t                w;
    unsigned                i, want;
    ngx_kong_shift_state_t  st;

    ngx_kong_shift_init_state(&st, 500000, 0);

    for (i = 0; i < 16; i++) {

        st.weight = (i & 1) ? 999999 : NGX_KONG_SHIFT_FULL;
        w = ngx_kong_shift_word(&st, 0);

        want = (i & 1) ? NGX_KONG_SHIFT_HAS_WEIGHT : 0;
        want |= (i & 2) ? NGX_KONG_SHIFT_HAS_ACTIVE : 0;
        want |= (i & 4) ? NGX_KONG_SHIFT_HAS_LASTING : 0;
        want |= (i & 8) ? NGX_KONG_SHIFT_HAS_NOT_HELD : 0;

        is(ngx_kong_shift_unsafe(w, 0, OLD, 0, (i & 2) ? 1 : 0,
                                 (i & 4) ? 1 : 0, 60, (i & 8) ? 61 : 60),
           want);
    }

    /* somebody is just choosing, and may choose this one */

    w = ngx_kong_shift_word(&st, 0);
    is(ngx_kong_shift_unsafe(w, 0, OLD, 1, 0, 0, 0, 0),
       NGX_KONG_SHIFT_HAS_WEIGHT | NGX_KONG_SHIFT_HAS_ACTIVE);

    /* new: without weight, or behind a closed gate */

    is(ngx_kong_shift_unsafe(w, 0, NEW, 0, 0, 0, 0, 0),
       NGX_KONG_SHIFT_HAS_WEIGHT);
    is(ngx_kong_shift_unsafe(w, 1, NEW, 0, 0, 0, 0, 0), 0);
    is(ngx_kong_shift_unsafe(w, 1, OLD, 0, 0, 0, 0, 0),
       NGX_KONG_SHIFT_HAS_WEIGHT);

    st.weight = 0;
    w = ngx_kong_shift_word(&st, 0);
    is(ngx_kong_shift_unsafe(w, 0, NEW, 0, 0, 0, 0, 0), 0);
}


int
main(void)
{
    int  i, mutant;

    test_reasons();

    for (i = 0; i < SCHEDULES; i++) {
        run(RIGHT);
    }

    is(m.violations, 0);

    /* it was said often enough to mean something */

    printf("%u verdicts \"safe\", %u of them of a drained pool\n", m.verdicts,
           m.drained);
    ok(m.verdicts > SCHEDULES);
    ok(m.drained > SCHEDULES / 10);

    for (mutant = RIGHT + 1; mutant < MUTANTS; mutant++) {

        m.violations = 0;

        for (i = 0; i < 10 * SCHEDULES && m.violations == 0; i++) {
            run((mutant_e) mutant);
        }

        printf("%s: seen in schedule %d\n", mutants[mutant], i);
        ok(m.violations > 0);
    }

    done();
}
