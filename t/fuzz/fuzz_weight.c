
/*
 * Copyright (C) kong-shift contributors
 */


#include <stdlib.h>
#include <string.h>

#include "ngx_kong_shift_core.h"


int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);


/* what is taken for a weight is in range and comes back as it was */

int
LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    char      text[NGX_KONG_SHIFT_WEIGHT_LEN], *end;
    double    real;
    uint32_t  weight, again;

    weight = NGX_KONG_SHIFT_FULL + 1;

    if (ngx_kong_shift_parse_weight((const char *) data, size, &weight) != 0) {

        if (weight != NGX_KONG_SHIFT_FULL + 1) {
            abort();
        }

    } else {
        end = ngx_kong_shift_format_weight(text, weight);

        if (weight > NGX_KONG_SHIFT_FULL
            || ngx_kong_shift_parse_weight(text, (size_t) (end - text),
                                           &again)
               != 0
            || again != weight)
        {
            abort();
        }
    }

    if (size >= sizeof(real)) {
        memcpy(&real, data, sizeof(real));

        if (ngx_kong_shift_real_weight(real, &weight) == 0
            && weight > NGX_KONG_SHIFT_FULL)
        {
            abort();
        }
    }

    return 0;
}
