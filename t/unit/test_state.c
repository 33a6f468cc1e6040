
/*
 * Copyright (C) kong-shift contributors
 */


#include "test.h"


static ngx_kong_shift_state_t  st;


static ngx_kong_shift_change_t
change(ngx_kong_shift_action_e action, uint32_t weight)
{
    ngx_kong_shift_change_t  c;

    memset(&c, 0, sizeof(c));

    c.action = action;
    c.weight = weight;

    return c;
}


/* what is refused must leave every byte as it was */

static void
refused(ngx_kong_shift_change_t c, unsigned gated,
    ngx_kong_shift_result_e result)
{
    ngx_kong_shift_state_t  before = st;

    is(ngx_kong_shift_apply(&st, &c, gated, 99), result);
    ok(memcmp(&st, &before, sizeof(st)) == 0);
}


static void
accepted(ngx_kong_shift_change_t c, unsigned gated)
{
    uint64_t  generation = st.generation;

    is(ngx_kong_shift_apply(&st, &c, gated, 42), NGX_KONG_SHIFT_DONE);
    is(st.generation, generation + 1);
    is(st.changed, 42);
}


static ngx_kong_shift_change_t
drain(ngx_kong_shift_pool_e pool, uint32_t rate, uint32_t deadline)
{
    ngx_kong_shift_change_t  c;

    c = change(NGX_KONG_SHIFT_SET_DRAIN, 0);

    c.on = 1;
    c.pool = pool;
    c.rate = rate;
    c.deadline = deadline;

    return c;
}


static ngx_kong_shift_change_t
lift(ngx_kong_shift_pool_e pool)
{
    ngx_kong_shift_change_t  c;

    c = change(NGX_KONG_SHIFT_SET_DRAIN, 0);
    c.pool = pool;

    return c;
}


static ngx_kong_shift_change_t
peer(ngx_kong_shift_pool_e pool, const char *addr, uint8_t on)
{
    ngx_kong_shift_change_t  c;

    c = change(NGX_KONG_SHIFT_SET_PEER, 0);

    c.on = on;
    c.pool = pool;
    strcpy(c.addr, addr);

    return c;
}


static int
drained_peers(void)
{
    int  i, n;

    n = 0;

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED; i++) {
        n += (st.peer[i].addr[0] != '\0');
    }

    return n;
}


/* leaving 0 and raising need ready peers, lowering never does */

static void
weights_and_readiness(void)
{
    ngx_kong_shift_change_t  c;

    ngx_kong_shift_init_state(&st, 0, 7);

    c = change(NGX_KONG_SHIFT_SET_WEIGHT, 100);
    c.not_ready = 1;
    refused(c, 0, NGX_KONG_SHIFT_POOL_NOT_READY);

    /* the gate is the first to be asked, and nothing opens it */

    c.forced = 1;
    refused(c, 1, NGX_KONG_SHIFT_GATE_CLOSED);
    accepted(c, 0);
    is(st.weight, 100);

    c.forced = 0;
    accepted(c, 0);
    c.weight = 101;
    refused(c, 0, NGX_KONG_SHIFT_POOL_NOT_READY);
    c.weight = 99;
    accepted(c, 0);
    c.weight = 0;
    accepted(c, 0);

    /* a weight that waits for the gate is a leaving of 0 when that opens */

    ngx_kong_shift_init_state(&st, 500000, 7);

    c = change(NGX_KONG_SHIFT_OPEN_GATE, 0);
    c.not_ready = 1;
    refused(c, 1, NGX_KONG_SHIFT_POOL_NOT_READY);
    c.forced = 1;
    accepted(c, 1);

    /* and one that is open already may be opened once more */

    c.forced = 0;
    accepted(c, 1);

    ngx_kong_shift_init_state(&st, 0, 7);
    accepted(c, 1);
}


static void
drains_of_pools(void)
{
    ngx_kong_shift_change_t  c;

    /* only a pool that the weight does not need */

    ngx_kong_shift_init_state(&st, 500000, 7);
    refused(drain(NGX_KONG_SHIFT_OLD, 0, 0), 0, NGX_KONG_SHIFT_POOL_IN_USE);
    refused(drain(NGX_KONG_SHIFT_NEW, 0, 0), 0, NGX_KONG_SHIFT_POOL_IN_USE);

    /* nor one that will be needed as soon as the gate opens */

    refused(drain(NGX_KONG_SHIFT_NEW, 0, 0), 1, NGX_KONG_SHIFT_POOL_IN_USE);

    ngx_kong_shift_init_state(&st, 1000000, 7);
    refused(drain(NGX_KONG_SHIFT_OLD, 0, 0), 1, NGX_KONG_SHIFT_POOL_IN_USE);
    refused(drain(NGX_KONG_SHIFT_NEW, 0, 0), 0, NGX_KONG_SHIFT_POOL_IN_USE);

    accepted(drain(NGX_KONG_SHIFT_OLD, 20, 600), 0);
    is(st.drained[0], 1);
    is(st.drained[1], 0);
    is(st.drain_rate[0], 20);
    is(st.drain_deadline[0], 642);
    is(st.drain_changed[0], 42);
    is(ngx_kong_shift_word(&st, 0) >> 58 & 3, 1);

    /* other terms, and as long as before */

    c = drain(NGX_KONG_SHIFT_OLD, 0, 0);
    is(ngx_kong_shift_apply(&st, &c, 0, 50), NGX_KONG_SHIFT_DONE);
    is(st.drain_rate[0], 0);
    is(st.drain_deadline[0], 0);
    is(st.drain_changed[0], 42);

    /* a weight that needs it is refused, forced or not */

    c = change(NGX_KONG_SHIFT_SET_WEIGHT, 999999);
    refused(c, 0, NGX_KONG_SHIFT_POOL_DRAINED);
    c.forced = 1;
    refused(c, 0, NGX_KONG_SHIFT_POOL_DRAINED);
    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 1000000), 0);

    accepted(lift(NGX_KONG_SHIFT_OLD), 0);
    is(st.drained[0], 0);
    is(st.drain_rate[0], 0);
    is(st.drain_deadline[0], 0);
    accepted(lift(NGX_KONG_SHIFT_OLD), 0);
    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 0);

    accepted(drain(NGX_KONG_SHIFT_NEW, 1, 1), 1);
    is(ngx_kong_shift_word(&st, 0) >> 58 & 3, 2);
    refused(change(NGX_KONG_SHIFT_SET_WEIGHT, 1), 0,
            NGX_KONG_SHIFT_POOL_DRAINED);
    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 0);
    is(st.drained[1], 1);

    /* an old tag does not drain */

    c = drain(NGX_KONG_SHIFT_NEW, 1, 1);
    c.match = 1;
    c.generation = st.generation - 1;
    refused(c, 0, NGX_KONG_SHIFT_MISMATCH);
}


static void
drains_of_peers(void)
{
    int                      i;
    char                     addr[NGX_KONG_SHIFT_ADDR_SIZE];
    ngx_kong_shift_change_t  c;

    ngx_kong_shift_init_state(&st, 500000, 7);

    accepted(peer(NGX_KONG_SHIFT_OLD, "10.0.0.1:80", 1), 0);
    accepted(peer(NGX_KONG_SHIFT_OLD, "10.0.0.1:80", 1), 0);
    is(drained_peers(), 1);

    /* the same address in the other pool is another peer */

    accepted(peer(NGX_KONG_SHIFT_NEW, "10.0.0.1:80", 1), 0);
    is(drained_peers(), 2);
    accepted(peer(NGX_KONG_SHIFT_OLD, "10.0.0.1:80", 0), 0);
    is(drained_peers(), 1);
    is(st.peer[1].pool, NGX_KONG_SHIFT_NEW);
    accepted(peer(NGX_KONG_SHIFT_OLD, "10.0.0.1:80", 0), 0);
    is(drained_peers(), 1);

    for (i = 0; i < NGX_KONG_SHIFT_DRAINED - 1; i++) {
        sprintf(addr, "unix:/tmp/%d", i);
        accepted(peer(NGX_KONG_SHIFT_OLD, addr, 1), 0);
    }

    refused(peer(NGX_KONG_SHIFT_OLD, "one more", 1), 0,
            NGX_KONG_SHIFT_TOO_MANY_DRAINED);
    accepted(peer(NGX_KONG_SHIFT_OLD, addr, 1), 0);
    accepted(peer(NGX_KONG_SHIFT_OLD, "one more", 0), 0);
    accepted(peer(NGX_KONG_SHIFT_OLD, addr, 0), 0);
    accepted(peer(NGX_KONG_SHIFT_OLD, "one more", 1), 0);

    /* the last one of a pool stays as long as the weight needs it */

    ngx_kong_shift_init_state(&st, 500000, 7);

    c = peer(NGX_KONG_SHIFT_OLD, "10.0.0.1:80", 1);
    c.last = 1;
    refused(c, 0, NGX_KONG_SHIFT_POOL_IN_USE);
    c.pool = NGX_KONG_SHIFT_NEW;
    refused(c, 0, NGX_KONG_SHIFT_POOL_IN_USE);
    c.on = 0;
    accepted(c, 0);

    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 0);
    c.on = 1;
    accepted(c, 0);
    c.pool = NGX_KONG_SHIFT_OLD;
    refused(c, 0, NGX_KONG_SHIFT_POOL_IN_USE);
}


static void
drains_and_the_rest(void)
{
    int                      closed;
    ngx_kong_shift_change_t  c;

    /* whatever stops the traffic to new gives old all of itself back */

    for (closed = 0; closed < 2; closed++) {
        ngx_kong_shift_init_state(&st, 1000000, 7);
        accepted(change(NGX_KONG_SHIFT_OPEN_GATE, 0), 1);
        accepted(drain(NGX_KONG_SHIFT_OLD, 20, 600), 1);
        accepted(peer(NGX_KONG_SHIFT_OLD, "10.0.0.1:80", 1), 1);
        accepted(peer(NGX_KONG_SHIFT_NEW, "10.0.0.2:80", 1), 1);

        accepted(change(closed ? NGX_KONG_SHIFT_CLOSE_GATE
                               : NGX_KONG_SHIFT_ABORT, 0), 1);

        is(st.weight, 0);
        is(st.drained[0], 0);
        is(st.drain_rate[0], 0);
        is(st.drain_deadline[0], 0);
        is(drained_peers(), 0);
        is(ngx_kong_shift_word(&st, 0) >> 58 & 3, 0);
    }

    /* after it, new may be drained */

    accepted(drain(NGX_KONG_SHIFT_NEW, 0, 0), 1);

    /* an edited weight= does not end a drain; its next edit counts again */

    ngx_kong_shift_init_state(&st, 1000000, 7);
    accepted(drain(NGX_KONG_SHIFT_OLD, 0, 0), 0);
    accepted(change(NGX_KONG_SHIFT_SET_CONFIG, 100000), 0);
    is(st.weight, 1000000);
    is(st.conf_weight, 100000);
    is(st.drained[0], 1);
    accepted(lift(NGX_KONG_SHIFT_OLD), 0);
    accepted(change(NGX_KONG_SHIFT_SET_CONFIG, 200000), 0);
    is(st.weight, 200000);

    /* a freeze has nothing to do with it */

    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 0);
    accepted(drain(NGX_KONG_SHIFT_NEW, 3, 0), 0);
    c = change(NGX_KONG_SHIFT_SET_FREEZE, 0);
    c.on = 1;
    accepted(c, 0);
    is(st.drained[1], 1);
    is(st.drain_rate[1], 3);
}


int
main(void)
{
    ngx_kong_shift_change_t  c;

    ngx_kong_shift_init_state(&st, 100000, 7);

    is(st.generation, 1);
    is(st.weight, 100000);
    is(st.conf_weight, 100000);
    is(st.gate_open, 0);
    is(st.freeze, 0);
    is(st.aborted, 0);

    /* behind a closed gate only 0 is a weight */

    refused(change(NGX_KONG_SHIFT_SET_WEIGHT, 1), 1,
            NGX_KONG_SHIFT_GATE_CLOSED);
    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 1);
    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 500000), 0);
    is(st.weight, 500000);
    is(st.conf_weight, 100000);

    /* without a gate there is nothing to open */

    refused(change(NGX_KONG_SHIFT_OPEN_GATE, 0), 0, NGX_KONG_SHIFT_GATE_OFF);
    refused(change(NGX_KONG_SHIFT_CLOSE_GATE, 0), 0, NGX_KONG_SHIFT_GATE_OFF);

    c = change(NGX_KONG_SHIFT_OPEN_GATE, 0);
    strcpy(c.evidence.strategy, "in-place");
    strcpy(c.comment, "CHG-1");
    c.forced = 1;
    accepted(c, 1);
    is(st.gate_open, 1);
    is(st.gate_forced, 1);
    is(st.gate_changed, 42);
    ok(strcmp(st.evidence.strategy, "in-place") == 0);
    ok(strcmp(st.gate_comment, "CHG-1") == 0);
    is(st.weight, 500000);

    /* an abort holds until the next weight, a PUT of 0 included */

    accepted(change(NGX_KONG_SHIFT_ABORT, 0), 1);
    is(st.weight, 0);
    is(st.aborted, 1);
    is(st.gate_open, 1);
    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 1);
    is(st.aborted, 0);

    /* closing the gate is an abort, and forgets the evidence */

    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 1000000), 1);
    accepted(change(NGX_KONG_SHIFT_CLOSE_GATE, 0), 1);
    is(st.weight, 0);
    is(st.aborted, 1);
    is(st.gate_open, 0);
    is(st.gate_forced, 0);
    is(st.evidence.strategy[0], '\0');
    is(st.gate_comment[0], '\0');

    /* opening it again does not lift the abort */

    accepted(change(NGX_KONG_SHIFT_OPEN_GATE, 0), 1);
    is(st.aborted, 1);

    c = change(NGX_KONG_SHIFT_SET_FREEZE, 0);
    c.on = 1;
    strcpy(c.comment, "until noon");
    accepted(c, 0);
    is(st.freeze, 1);
    ok(strcmp(st.freeze_comment, "until noon") == 0);
    accepted(change(NGX_KONG_SHIFT_SET_FREEZE, 0), 0);
    is(st.freeze, 0);
    is(st.freeze_comment[0], '\0');

    /* an edited weight= is in force, but after an abort */

    accepted(change(NGX_KONG_SHIFT_SET_CONFIG, 300000), 0);
    is(st.weight, 0);
    is(st.conf_weight, 300000);
    is(st.aborted, 1);

    accepted(change(NGX_KONG_SHIFT_SET_WEIGHT, 0), 0);
    accepted(change(NGX_KONG_SHIFT_SET_CONFIG, 250000), 0);
    is(st.weight, 250000);
    is(st.conf_weight, 250000);
    is(st.aborted, 0);

    /* a generation that has passed loses */

    c = change(NGX_KONG_SHIFT_SET_WEIGHT, 0);
    c.match = 1;
    c.generation = st.generation - 1;
    refused(c, 0, NGX_KONG_SHIFT_MISMATCH);
    c.generation = st.generation;
    accepted(c, 0);
    refused(c, 0, NGX_KONG_SHIFT_MISMATCH);

    weights_and_readiness();
    drains_of_pools();
    drains_of_peers();
    drains_and_the_rest();

    done();
}
