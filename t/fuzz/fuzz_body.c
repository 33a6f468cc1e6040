
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* a body is refused with a code of 4xx, or makes a change that is in range */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    u_char                         *text;
    ngx_uint_t                      i;
    ngx_kong_shift_change_t         change;
    ngx_http_kong_shift_problem_t   problem;

    static ngx_http_kong_shift_parse_pt  parsers[] = {
        ngx_http_kong_shift_parse_weight,
        ngx_http_kong_shift_parse_gate,
        ngx_http_kong_shift_parse_freeze,
        ngx_http_kong_shift_parse_abort,
        ngx_http_kong_shift_parse_drain,
        ngx_http_kong_shift_parse_lift,
        ngx_http_kong_shift_parse_peer
    };

    /* of its own, so that the sanitizer sees a byte read too far */

    text = malloc(size + 1);
    if (text == NULL) {
        abort();
    }

    ngx_memcpy(text, data, size);

    for (i = 0; i < sizeof(parsers) / sizeof(parsers[0]); i++) {

        ngx_memzero(&change, sizeof(change));
        ngx_memzero(&problem, sizeof(problem));

        if (ngx_http_kong_shift_parse_body(text, size, 0, parsers[i], &change,
                                           &problem)
            == NGX_OK)
        {
            if (change.weight > NGX_KONG_SHIFT_FULL
                || change.rate > NGX_KONG_SHIFT_RATE_MAX
                || change.deadline > NGX_KONG_SHIFT_DEADLINE_MAX
                || change.on > 1 || change.forced > 1
                || ngx_strlen(change.comment) >= sizeof(change.comment)
                || ngx_strlen(change.evidence.journal)
                   >= sizeof(change.evidence.journal))
            {
                abort();
            }

        } else if (problem.status < 400 || problem.status > 499
                   || ngx_strlen(problem.detail) == 0)
        {
            abort();
        }
    }

    free(text);

    return 0;
}
