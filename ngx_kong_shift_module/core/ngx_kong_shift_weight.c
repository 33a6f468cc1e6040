
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift_core.h"


int
ngx_kong_shift_parse_weight(const char *text, size_t len, uint32_t *weight)
{
    size_t    i;
    uint32_t  value, unit;

    value = 0;

    for (i = 0; i < len && text[i] >= '0' && text[i] <= '9'; i++) {

        value = value * 10 + (uint32_t) (text[i] - '0');

        if (value > 100) {
            return -1;
        }
    }

    if (i == 0) {
        return -1;
    }

    value *= NGX_KONG_SHIFT_UNIT;

    if (i < len) {

        if (text[i++] != '.' || i == len) {
            return -1;
        }

        for (unit = NGX_KONG_SHIFT_UNIT / 10; i < len; unit /= 10, i++) {

            if (unit == 0 || text[i] < '0' || text[i] > '9') {
                return -1;
            }

            value += unit * (uint32_t) (text[i] - '0');
        }
    }

    if (value > NGX_KONG_SHIFT_FULL) {
        return -1;
    }

    *weight = value;

    return 0;
}


int
ngx_kong_shift_real_weight(double percent, uint32_t *weight)
{
    uint32_t  value;

    /* written so that a NaN fails too */

    if (!(percent >= 0 && percent <= 100)) {
        return -1;
    }

    value = (uint32_t) (percent * NGX_KONG_SHIFT_UNIT + 0.5);

    /* the division is exactly rounded, as was the parsing of 4 decimals */

    if ((double) value / NGX_KONG_SHIFT_UNIT != percent) {
        return -1;
    }

    *weight = value;

    return 0;
}


char *
ngx_kong_shift_format_weight(char *text, uint32_t weight)
{
    uint32_t  value, unit;

    value = weight / NGX_KONG_SHIFT_UNIT;

    if (value >= 100) {
        *text++ = (char) ('0' + value / 100 % 10);
    }

    if (value >= 10) {
        *text++ = (char) ('0' + value / 10 % 10);
    }

    *text++ = (char) ('0' + value % 10);

    value = weight % NGX_KONG_SHIFT_UNIT;

    if (value) {
        *text++ = '.';
    }

    for (unit = NGX_KONG_SHIFT_UNIT / 10; value; unit /= 10) {
        *text++ = (char) ('0' + value / unit);
        value %= unit;
    }

    return text;
}
