
/*
 * Copyright (C) kong-shift contributors
 */


#include <string.h>

#include "ngx_kong_shift_core.h"


#define ngx_kong_shift_in_version(ch)                                         \
    (((ch) >= '0' && (ch) <= '9') || (ch) == '.')


size_t
ngx_kong_shift_find_version(const char *value, size_t len,
    const char **version)
{
    size_t       n;
    const char  *p, *last;

    last = value + len;

    for (p = value; last - p > 5; p++) {

        if (*p != 'k' || memcmp(p, "kong/", 5) != 0) {
            continue;
        }

        p += 5;
        n = 0;

        while (p + n < last && ngx_kong_shift_in_version(p[n])) {
            n++;
        }

        *version = p;

        return n;
    }

    return 0;
}


unsigned
ngx_kong_shift_same_version(const char *version, size_t len,
    const char *text)
{
    size_t  i;

    for (i = 0; i < len; i++) {
        if (text[i] != version[i]) {
            return 0;
        }
    }

    return text[len] == '\0';
}


unsigned
ngx_kong_shift_wrong_version(const char *text, const char *announced)
{
    size_t  n;

    n = 0;

    while (ngx_kong_shift_in_version(announced[n])) {
        n++;
    }

    if (n == 0) {
        return 0;
    }

    if (strncmp(text, announced, n) != 0) {
        return 1;
    }

    return text[n] != '\0' && text[n] != '.';
}
