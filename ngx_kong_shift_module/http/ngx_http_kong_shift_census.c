
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


ngx_int_t
ngx_http_kong_shift_init_census(ngx_cycle_t *cycle)
{
    return NGX_OK;
}
