
/*
 * Copyright (C) kong-shift contributors
 */


#include <pthread.h>

#include "test.h"


#define KEYS     10000
#define THREADS  8
#define CHOICES  100000


static uint64_t  shared_credit;
static uint64_t  shared_word;


static uint64_t
word(uint32_t weight)
{
    ngx_kong_shift_state_t  st;

    ngx_kong_shift_init_state(&st, weight, 0);

    return ngx_kong_shift_word(&st, 0);
}


static unsigned
to_new(uint64_t w, uint64_t *credit)
{
    ngx_kong_shift_choice_t  c;

    c = ngx_kong_shift_choose(w, 0, 0, NGX_KONG_SHIFT_ANY, NULL, credit);

    is(c.reason, NGX_KONG_SHIFT_BY_WEIGHT);

    return c.pool == NGX_KONG_SHIFT_NEW;
}


/* any window of n choices holds n * weight +- 1 new ones */

static void
test_exact(uint32_t weight, unsigned window, unsigned total)
{
    double     want;
    uint64_t   credit, w;
    unsigned   i, sum;
    unsigned  *seen;

    seen = malloc(total * sizeof(unsigned));
    if (seen == NULL) {
        abort();
    }

    credit = 0;
    sum = 0;
    w = word(weight);
    want = (double) window * weight / NGX_KONG_SHIFT_FULL;

    for (i = 0; i < total; i++) {
        seen[i] = to_new(w, &credit);
        sum += seen[i];

        if (i >= window) {
            sum -= seen[i - window];
        }

        if (i + 1 >= window && (sum > want + 1 || sum < want - 1)) {
            fprintf(stderr, "weight %u: %u of %u are new, %g wanted\n",
                    weight, sum, window, want);
            test_failed++;
            break;
        }
    }

    free(seen);
}


/* however often the weight changes, the sum is never off by more than one */

static void
test_changes(void)
{
    uint64_t  credit;
    uint32_t  weight;
    unsigned  i, sum;
    uint64_t  want;

    credit = 0;
    want = 0;
    sum = 0;

    srand(1);

    for (i = 0; i < 1000000; i++) {
        weight = (uint32_t) rand() % (NGX_KONG_SHIFT_FULL - 1) + 1;

        sum += to_new(word(weight), &credit);
        want += weight;

        if (sum != want / NGX_KONG_SHIFT_FULL) {
            fprintf(stderr, "%u new after %u choices\n", sum, i + 1);
            test_failed++;
            return;
        }
    }
}


static void *
chooser(void *data)
{
    unsigned   i;
    unsigned  *sum = data;

    for (i = 0; i < CHOICES; i++) {
        *sum += to_new(shared_word, &shared_credit);
    }

    return NULL;
}


static void
test_threads(void)
{
    unsigned   i, sum, sums[THREADS] = { 0 };
    pthread_t  threads[THREADS];

    shared_word = word(100000);
    sum = 0;

    for (i = 0; i < THREADS; i++) {
        is(pthread_create(&threads[i], NULL, chooser, &sums[i]), 0);
    }

    for (i = 0; i < THREADS; i++) {
        is(pthread_join(threads[i], NULL), 0);
        sum += sums[i];
    }

    is(sum, THREADS * CHOICES / 10);
}


static ngx_kong_shift_pool_e
keyed(uint32_t weight, uint32_t hash)
{
    uint64_t                 credit = 0;
    ngx_kong_shift_choice_t  c;

    c = ngx_kong_shift_choose(word(weight), 0, 0, NGX_KONG_SHIFT_ANY, &hash,
                              &credit);

    is(c.reason, NGX_KONG_SHIFT_BY_KEY);
    is(credit, 0);

    return c.pool;
}


static void
test_monotone(void)
{
    uint32_t  i, hash, w, weights[] = { 0, 1, 100000, 250000, 500000,
                                        999999, 1000000 };
    unsigned  n, moved;

    for (w = 1; w < sizeof(weights) / sizeof(weights[0]); w++) {

        n = 0;
        moved = 0;

        for (i = 0; i < KEYS; i++) {

            /* consecutive numbers are the worst of hashes to be spread */

            hash = ngx_kong_shift_mix(i, 0x12345678);

            n += (keyed(weights[w], hash) == NGX_KONG_SHIFT_NEW);

            moved += (keyed(weights[w - 1], hash) == NGX_KONG_SHIFT_NEW
                      && keyed(weights[w], hash) == NGX_KONG_SHIFT_OLD);
        }

        is(moved, 0);
        ok(n * 100.0 / KEYS > weights[w] / 10000.0 - 2);
        ok(n * 100.0 / KEYS < weights[w] / 10000.0 + 2);
    }

    is(keyed(0, 0), NGX_KONG_SHIFT_OLD);
    is(keyed(NGX_KONG_SHIFT_FULL, 0xffffffff), NGX_KONG_SHIFT_NEW);
    is(keyed(NGX_KONG_SHIFT_FULL - 1, 0xffffffff), NGX_KONG_SHIFT_OLD);

    /* another seed moves others first */

    n = 0;

    for (i = 0; i < KEYS; i++) {
        n += (keyed(100000, ngx_kong_shift_mix(i, 1)) == NGX_KONG_SHIFT_NEW
              && keyed(100000, ngx_kong_shift_mix(i, 2))
                 == NGX_KONG_SHIFT_NEW);
    }

    ok(n > KEYS / 200 && n < KEYS / 50);
}


static void
test_precedence(void)
{
    uint32_t                 hash = 0;
    uint64_t                 credit = 0, w;
    ngx_kong_shift_state_t   st;
    ngx_kong_shift_choice_t  c;

    ngx_kong_shift_init_state(&st, NGX_KONG_SHIFT_FULL, 0);

    /* gated and closed: nothing at all reaches new */

    w = ngx_kong_shift_word(&st, 0);

    is(ngx_kong_shift_effective(w, 1), 0);
    is(ngx_kong_shift_effective(w, 0), NGX_KONG_SHIFT_FULL);

    c = ngx_kong_shift_choose(w, 1, 0, NGX_KONG_SHIFT_NEW, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);
    is(c.reason, NGX_KONG_SHIFT_BY_WEIGHT);

    c = ngx_kong_shift_choose(w, 1, 0, NGX_KONG_SHIFT_ANY, &hash, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);
    is(c.reason, NGX_KONG_SHIFT_BY_KEY);

    /* open: an override goes before the key */

    st.gate_open = 1;
    w = ngx_kong_shift_word(&st, 1);

    is(ngx_kong_shift_word_slot(w), 1);
    is(ngx_kong_shift_effective(w, 1), NGX_KONG_SHIFT_FULL);

    c = ngx_kong_shift_choose(w, 1, 0, NGX_KONG_SHIFT_OLD, &hash, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);
    is(c.reason, NGX_KONG_SHIFT_BY_OVERRIDE);

    /* weight 0: only an override reaches new, after an abort nothing does */

    st.weight = 0;
    w = ngx_kong_shift_word(&st, 0);

    c = ngx_kong_shift_choose(w, 1, 0, NGX_KONG_SHIFT_NEW, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_NEW);
    is(c.reason, NGX_KONG_SHIFT_BY_OVERRIDE);

    c = ngx_kong_shift_choose(w, 1, 0, NGX_KONG_SHIFT_ANY, &hash, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);

    st.aborted = 1;
    w = ngx_kong_shift_word(&st, 0);

    c = ngx_kong_shift_choose(w, 1, 0, NGX_KONG_SHIFT_NEW, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);
    is(c.reason, NGX_KONG_SHIFT_BY_WEIGHT);

    c = ngx_kong_shift_choose(w, 0, 0, NGX_KONG_SHIFT_NEW, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);

    /* weights 0 and 100 leave the credit to the others */

    is(credit, 0);
}


/* every state that matters for who gets a request, by number */

#define STATES  (3 << 5)

static uint64_t
state(unsigned n, unsigned *gated)
{
    uint32_t                weights[] = { 0, 500000, NGX_KONG_SHIFT_FULL };
    ngx_kong_shift_state_t  st;

    ngx_kong_shift_init_state(&st, weights[n >> 5], 0);

    *gated = n & 1;
    st.gate_open = (n >> 1) & 1;
    st.aborted = (n >> 2) & 1;
    st.drained[NGX_KONG_SHIFT_OLD] = (n >> 3) & 1;
    st.drained[NGX_KONG_SHIFT_NEW] = (n >> 4) & 1;

    return ngx_kong_shift_word(&st, n & 1);
}


/* old takes over unless drained; new only with gate, weight and no abort */

static void
test_may_take(void)
{
    unsigned  n, gated, empty, old, new;
    uint64_t  w;

    for (n = 0; n < STATES; n++) {

        w = state(n, &gated);

        old = !((n >> 3) & 1);
        new = !((n >> 4) & 1) && !((n >> 2) & 1) && (!gated || ((n >> 1) & 1));

        is(ngx_kong_shift_is_open(w, gated, NGX_KONG_SHIFT_OLD), old);
        is(ngx_kong_shift_is_open(w, gated, NGX_KONG_SHIFT_NEW), new);

        for (empty = 0; empty < 4; empty++) {
            is(ngx_kong_shift_may_take(w, gated, NGX_KONG_SHIFT_OLD, empty),
               old && !(empty & 1));
            is(ngx_kong_shift_may_take(w, gated, NGX_KONG_SHIFT_NEW, empty),
               new && (n >> 5) && !(empty & 2));
        }
    }
}


/*
 * Every state with every override, key and set of empty pools: an override is
 * obeyed or void, what falls to an empty pool goes to the other one only if
 * that may take it, and a pool that is closed gets nothing handed over.
 */

static void
test_fallback(unsigned n, unsigned empty, ngx_kong_shift_pool_e override,
    const uint32_t *hash)
{
    unsigned                 gated;
    uint64_t                 w, credit, other;
    ngx_kong_shift_pool_e    first;
    ngx_kong_shift_choice_t  c, plain;

    w = state(n, &gated);
    credit = 0;
    other = 0;

    c = ngx_kong_shift_choose(w, gated, empty, override, hash, &credit);

    if (override != NGX_KONG_SHIFT_ANY
        && ngx_kong_shift_is_open(w, gated, override))
    {
        is(c.pool, override);
        is(c.reason, NGX_KONG_SHIFT_BY_OVERRIDE);
        is(credit, 0);
        return;
    }

    plain = ngx_kong_shift_choose(w, gated, 0, NGX_KONG_SHIFT_ANY, hash,
                                  &other);
    first = plain.pool;

    is(plain.reason, hash ? NGX_KONG_SHIFT_BY_KEY : NGX_KONG_SHIFT_BY_WEIGHT);

    /* who is handed over was counted before: the split stays exact */

    is(credit, other);

    if ((empty & (1 << first))
        && ngx_kong_shift_may_take(w, gated, !first, empty))
    {
        is(c.pool, !first);
        is(c.reason, NGX_KONG_SHIFT_BY_FALLBACK);
        ok(ngx_kong_shift_is_open(w, gated, c.pool));
        return;
    }

    is(c.pool, first);
    is(c.reason, plain.reason);
}


static void
test_fallbacks(void)
{
    int       override;
    uint32_t  low = 0, high = 0xffffffff;
    unsigned  n, empty;

    for (n = 0; n < STATES; n++) {
        for (empty = 0; empty < 4; empty++) {
            for (override = 0; override <= NGX_KONG_SHIFT_ANY; override++) {
                test_fallback(n, empty, (ngx_kong_shift_pool_e) override,
                              NULL);
                test_fallback(n, empty, (ngx_kong_shift_pool_e) override,
                              &low);
                test_fallback(n, empty, (ngx_kong_shift_pool_e) override,
                              &high);
            }
        }
    }
}


/* the cases an operator meets, by name */

static void
test_handed_over(void)
{
    uint64_t                 credit = 0, w;
    unsigned                 i, new, fallback;
    ngx_kong_shift_state_t   st;
    ngx_kong_shift_choice_t  c;

    ngx_kong_shift_init_state(&st, 100000, 0);
    w = ngx_kong_shift_word(&st, 0);

    /* 90/10 with an empty new: all to old, and a tenth of it says why */

    fallback = 0;

    for (i = 0; i < 1000; i++) {
        c = ngx_kong_shift_choose(w, 0, 1 << NGX_KONG_SHIFT_NEW,
                                  NGX_KONG_SHIFT_ANY, NULL, &credit);
        is(c.pool, NGX_KONG_SHIFT_OLD);
        fallback += (c.reason == NGX_KONG_SHIFT_BY_FALLBACK);
    }

    is(fallback, 100);

    /* an empty old: all to new */

    new = 0;
    fallback = 0;

    for (i = 0; i < 1000; i++) {
        c = ngx_kong_shift_choose(w, 0, 1 << NGX_KONG_SHIFT_OLD,
                                  NGX_KONG_SHIFT_ANY, NULL, &credit);
        new += (c.pool == NGX_KONG_SHIFT_NEW);
        fallback += (c.reason == NGX_KONG_SHIFT_BY_FALLBACK);
    }

    is(new, 1000);
    is(fallback, 900);

    /* but not at weight 0, when new is for nobody */

    st.weight = 0;
    w = ngx_kong_shift_word(&st, 0);
    c = ngx_kong_shift_choose(w, 0, 1 << NGX_KONG_SHIFT_OLD,
                              NGX_KONG_SHIFT_ANY, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_OLD);
    is(c.reason, NGX_KONG_SHIFT_BY_WEIGHT);

    /* all to new, old drained: an empty new keeps what it has */

    st.weight = NGX_KONG_SHIFT_FULL;
    st.drained[NGX_KONG_SHIFT_OLD] = 1;
    w = ngx_kong_shift_word(&st, 0);
    c = ngx_kong_shift_choose(w, 0, 1 << NGX_KONG_SHIFT_NEW,
                              NGX_KONG_SHIFT_ANY, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_NEW);
    is(c.reason, NGX_KONG_SHIFT_BY_WEIGHT);

    /* and an override to old is void */

    c = ngx_kong_shift_choose(w, 0, 0, NGX_KONG_SHIFT_OLD, NULL, &credit);
    is(c.pool, NGX_KONG_SHIFT_NEW);
    is(c.reason, NGX_KONG_SHIFT_BY_WEIGHT);
}


int
main(void)
{
    test_exact(100000, 10, 100000);
    test_exact(100000, 7, 100000);
    test_exact(1, 1000000, 3000000);
    test_exact(100, 100000, 300000);
    test_exact(333333, 10, 100000);
    test_exact(999999, 1000, 3000000);
    test_exact(0, 10, 1000);
    test_exact(1000000, 10, 1000);

    test_changes();
    test_threads();
    test_monotone();
    test_precedence();
    test_may_take();
    test_fallbacks();
    test_handed_over();

    done();
}
