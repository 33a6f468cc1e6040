
/*
 * Copyright (C) kong-shift contributors
 */


/* the little of nginx that its strings and pools need when they run alone */


#include <ngx_config.h>
#include <ngx_core.h>


volatile ngx_cycle_t  *ngx_cycle;


static void __attribute__((constructor))
init(void)
{
    ngx_pagesize = 4096;
    ngx_cacheline_size = 64;
}


void
ngx_log_error_core(ngx_uint_t level, ngx_log_t *log, ngx_err_t err,
    const char *fmt, ...)
{
    return;
}
