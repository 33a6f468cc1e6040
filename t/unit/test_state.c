
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

    done();
}
