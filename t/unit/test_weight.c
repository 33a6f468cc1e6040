
/*
 * Copyright (C) kong-shift contributors
 */


#include <math.h>

#include "test.h"


static void
parses(const char *text, uint32_t weight)
{
    uint32_t  w = 7;

    is(ngx_kong_shift_parse_weight(text, strlen(text), &w), 0);
    is(w, weight);
}


static void
refuses(const char *text)
{
    uint32_t  w = 7;

    is(ngx_kong_shift_parse_weight(text, strlen(text), &w), -1);
    is(w, 7);
}


static void
formats(uint32_t weight, const char *text)
{
    char  buf[NGX_KONG_SHIFT_WEIGHT_LEN + 1], *end;

    end = ngx_kong_shift_format_weight(buf, weight);
    *end = '\0';

    ok((size_t) (end - buf) <= NGX_KONG_SHIFT_WEIGHT_LEN);
    ok(strcmp(buf, text) == 0);
}


int
main(void)
{
    char      buf[32], *end;
    uint32_t  w, back;

    parses("0", 0);
    parses("10", 100000);
    parses("100", 1000000);
    parses("100.0000", 1000000);
    parses("000100", 1000000);
    parses("12.5", 125000);
    parses("0.0001", 1);
    parses("99.9999", 999999);
    parses("33.3333", 333333);

    refuses("");
    refuses("-1");
    refuses("+1");
    refuses("101");
    refuses("100.0001");
    refuses("0.00001");
    refuses("1.");
    refuses(".5");
    refuses("1,5");
    refuses("1e1");
    refuses(" 1");
    refuses("1 ");
    refuses("abc");
    refuses("$weight");
    refuses("4294967296");
    refuses("18446744073709551626");
    refuses("0x10");
    refuses("nan");

    formats(0, "0");
    formats(1, "0.0001");
    formats(125000, "12.5");
    formats(100000, "10");
    formats(1000000, "100");
    formats(999999, "99.9999");
    formats(100, "0.01");

    /* text, number and weight agree for each of them */

    for (w = 0; w <= NGX_KONG_SHIFT_FULL; w++) {

        end = ngx_kong_shift_format_weight(buf, w);
        *end = '\0';

        if (ngx_kong_shift_parse_weight(buf, (size_t) (end - buf), &back) != 0
            || back != w
            || ngx_kong_shift_real_weight(strtod(buf, NULL), &back) != 0
            || back != w)
        {
            fprintf(stderr, "weight %u is \"%s\" and comes back as %u\n", w,
                    buf, back);
            return 1;
        }
    }

    w = 7;

    is(ngx_kong_shift_real_weight(-0.0001, &w), -1);
    is(ngx_kong_shift_real_weight(100.0001, &w), -1);
    is(ngx_kong_shift_real_weight(0.00001, &w), -1);
    is(ngx_kong_shift_real_weight(10.00000000000001, &w), -1);
    is(ngx_kong_shift_real_weight(1e308, &w), -1);
    is(ngx_kong_shift_real_weight((double) INFINITY, &w), -1);
    is(ngx_kong_shift_real_weight((double) NAN, &w), -1);
    is(w, 7);

    is(ngx_kong_shift_real_weight(-0.0, &w), 0);
    is(w, 0);

    done();
}
