
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"


/*
 * The zone grows in large steps, so that hardly a reload has to replace it;
 * room that is not used is never touched.
 */
#define NGX_KONG_SHIFT_STEP      64

#define NGX_KONG_SHIFT_TICK      250
#define NGX_KONG_SHIFT_PERIOD    400


#if (NGX_THREADS)
extern ngx_module_t  ngx_thread_pool_module;
#endif


static void *ngx_kong_shift_create_conf(ngx_cycle_t *cycle);
static char *ngx_kong_shift_zone(ngx_conf_t *cf, ngx_command_t *cmd,
    void *conf);
static char *ngx_kong_shift_zone_state(ngx_conf_t *cf,
    ngx_kong_shift_conf_t *kcf, ngx_str_t *value);
static char *ngx_kong_shift_init_conf(ngx_cycle_t *cycle, void *conf);
static ngx_int_t ngx_kong_shift_set_size(ngx_cycle_t *cycle,
    ngx_kong_shift_conf_t *kcf);
static ngx_kong_shift_conf_t *ngx_kong_shift_old_conf(ngx_cycle_t *old_cycle);
static ngx_int_t ngx_kong_shift_init_zone(ngx_shm_zone_t *shm_zone,
    void *data);
static ngx_int_t ngx_kong_shift_init_module(ngx_cycle_t *cycle);
static ngx_int_t ngx_kong_shift_init_process(ngx_cycle_t *cycle);
static void ngx_kong_shift_exit_process(ngx_cycle_t *cycle);
static void ngx_kong_shift_tick(ngx_event_t *ev);
static void ngx_kong_shift_tick_done(ngx_kong_shift_op_t *op);


static ngx_str_t  ngx_kong_shift_zone_name = ngx_string("kong_shift");


static ngx_command_t  ngx_kong_shift_commands[] = {

    { ngx_string("kong_shift_zone"),
      NGX_MAIN_CONF|NGX_DIRECT_CONF|NGX_CONF_TAKE12,
      ngx_kong_shift_zone,
      0,
      0,
      NULL },

      ngx_null_command
};


static ngx_core_module_t  ngx_kong_shift_module_ctx = {
    ngx_string("kong_shift"),
    ngx_kong_shift_create_conf,
    ngx_kong_shift_init_conf
};


ngx_module_t  ngx_kong_shift_module = {
    NGX_MODULE_V1,
    &ngx_kong_shift_module_ctx,            /* module context */
    ngx_kong_shift_commands,               /* module directives */
    NGX_CORE_MODULE,                       /* module type */
    NULL,                                  /* init master */
    ngx_kong_shift_init_module,            /* init module */
    ngx_kong_shift_init_process,           /* init process */
    NULL,                                  /* init thread */
    NULL,                                  /* exit thread */
    ngx_kong_shift_exit_process,           /* exit process */
    NULL,                                  /* exit master */
    NGX_MODULE_V1_PADDING
};


static void *
ngx_kong_shift_create_conf(ngx_cycle_t *cycle)
{
    ngx_kong_shift_conf_t  *kcf;

    kcf = ngx_pcalloc(cycle->pool, sizeof(ngx_kong_shift_conf_t));
    if (kcf == NULL) {
        return NULL;
    }

    /*
     * set by ngx_pcalloc():
     *
     *     kcf->shm_zone = NULL;
     *     kcf->sh = NULL;
     *     kcf->tick = NULL;
     *     kcf->size = 0;
     *     kcf->path = { 0, NULL };
     *     kcf->file = NULL;
     */

    if (ngx_array_init(&kcf->shifts, cycle->pool, 4,
                       sizeof(ngx_kong_shift_t *))
        != NGX_OK)
    {
        return NULL;
    }

    return kcf;
}


static char *
ngx_kong_shift_zone(ngx_conf_t *cf, ngx_command_t *cmd, void *conf)
{
    ngx_kong_shift_conf_t  *kcf = conf;

    ssize_t      size;
    ngx_str_t   *value, s;

    if (kcf->file) {
        return "is duplicate";
    }

    kcf->file = cf->conf_file->file.name.data;
    kcf->line = cf->conf_file->line;

    value = cf->args->elts;

    if (ngx_strcmp(value[1].data, "auto") != 0) {

        size = ngx_parse_size(&value[1]);

        if (size == NGX_ERROR
            || (size_t) size < ngx_kong_shift_zone_size(1))
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "invalid size \"%V\" in \"%V\", it must be "
                               "\"auto\" or at least %uzk",
                               &value[1], &cmd->name,
                               (ngx_kong_shift_zone_size(1) + 1023) / 1024);
            return NGX_CONF_ERROR;
        }

        kcf->size = size;
    }

    if (cf->args->nelts == 2) {
        return NGX_CONF_OK;
    }

    if (ngx_strncmp(value[2].data, "state=", 6) != 0) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid parameter \"%V\" in \"%V\", only "
                           "\"state=\" is known", &value[2], &cmd->name);
        return NGX_CONF_ERROR;
    }

    s.data = value[2].data + 6;
    s.len = value[2].len - 6;

    return ngx_kong_shift_zone_state(cf, kcf, &s);
}


static char *
ngx_kong_shift_zone_state(ngx_conf_t *cf, ngx_kong_shift_conf_t *kcf,
    ngx_str_t *value)
{
#if (NGX_THREADS)

    ngx_str_t  name = ngx_string("kong_shift");

    static ngx_str_t  args[] = {
        ngx_string("thread_pool"),
        ngx_string("kong_shift"),
        ngx_string("threads=1")
    };

    char           *rv;
    ngx_array_t    *saved, pool;
    ngx_command_t  *cmd;

    if (value->len == 0 || value->data[value->len - 1] == '/') {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid state file \"%V\" in "
                           "\"kong_shift_zone\", it must be a path with a "
                           "file name", value);
        return NGX_CONF_ERROR;
    }

    if (ngx_conf_full_name(cf->cycle, value, 0) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    if (value->len >= NGX_KONG_SHIFT_PATH_SIZE - sizeof(".corrupt")) {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "state file \"%V\" in \"kong_shift_zone\" is too "
                           "long, it may have %d characters", value,
                           (int) (NGX_KONG_SHIFT_PATH_SIZE
                                  - sizeof(".corrupt") - 1));
        return NGX_CONF_ERROR;
    }

    kcf->path = *value;

    /*
     * One thread for saving, as if "thread_pool kong_shift threads=1" was in
     * the configuration: the default pool would start 32 in each worker.
     */

    pool.elts = args;
    pool.nelts = sizeof(args) / sizeof(ngx_str_t);

    saved = cf->args;
    cf->args = &pool;

    cmd = ngx_thread_pool_module.commands;
    rv = cmd->set(cf, cmd, NULL);

    cf->args = saved;

    if (rv != NGX_CONF_OK) {
        return rv;
    }

    kcf->thread_pool = ngx_thread_pool_add(cf, &name);
    if (kcf->thread_pool == NULL) {
        return NGX_CONF_ERROR;
    }

    return NGX_CONF_OK;

#else

    return "with \"state=\" requires nginx built --with-threads";

#endif
}


ngx_kong_shift_t *
ngx_kong_shift_add(ngx_conf_t *cf, ngx_str_t *name, const char *kind)
{
    ngx_uint_t               i;
    ngx_kong_shift_t       **shiftp, *shift;
    ngx_kong_shift_conf_t   *kcf;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cf->cycle->conf_ctx,
                                                  ngx_kong_shift_module);

    if (name->len >= NGX_KONG_SHIFT_NAME_SIZE
        || !ngx_kong_shift_is_text(name))
    {
        ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                           "invalid name \"%V\" of a kong_shift, it must be "
                           "1..%d bytes of UTF-8 without control characters",
                           name, NGX_KONG_SHIFT_NAME_SIZE - 1);
        return NULL;
    }

    shiftp = kcf->shifts.elts;

    for (i = 0; i < kcf->shifts.nelts; i++) {
        if (shiftp[i]->name.len == name->len
            && ngx_strncmp(shiftp[i]->name.data, name->data, name->len) == 0)
        {
            ngx_conf_log_error(NGX_LOG_EMERG, cf, 0,
                               "duplicate kong_shift \"%V\", the %s one has "
                               "this name", name, shiftp[i]->kind);
            return NULL;
        }
    }

    shiftp = ngx_array_push(&kcf->shifts);
    if (shiftp == NULL) {
        return NULL;
    }

    shift = ngx_pcalloc(cf->pool, sizeof(ngx_kong_shift_t));
    if (shift == NULL) {
        return NULL;
    }

    shift->name = *name;
    shift->kind = kind;

    *shiftp = shift;

    return shift;
}


ngx_uint_t
ngx_kong_shift_is_text(ngx_str_t *text)
{
    u_char  *p, *last;

    p = text->data;
    last = p + text->len;

    while (p < last) {

        if (*p < 0x20 || *p == 0x7f) {
            return 0;
        }

        if (*p < 0x80) {
            p++;

        } else if (ngx_utf8_decode(&p, last - p) > 0x10ffff) {
            return 0;
        }
    }

    return text->len != 0;
}


static char *
ngx_kong_shift_init_conf(ngx_cycle_t *cycle, void *conf)
{
    ngx_kong_shift_conf_t  *kcf = conf;

    ngx_conf_t  cf;

    if (kcf->path.len
        && ngx_kong_shift_check_folder(cycle, kcf) != NGX_OK)
    {
        return NGX_CONF_ERROR;
    }

    if (kcf->shifts.nelts == 0) {
        return NGX_CONF_OK;
    }

    if (ngx_kong_shift_set_size(cycle, kcf) != NGX_OK) {
        return NGX_CONF_ERROR;
    }

    ngx_memzero(&cf, sizeof(ngx_conf_t));

    cf.ctx = cycle->conf_ctx;
    cf.cycle = cycle;
    cf.pool = cycle->pool;
    cf.log = cycle->log;

    kcf->shm_zone = ngx_shared_memory_add(&cf, &ngx_kong_shift_zone_name,
                                           kcf->size,
                                           &ngx_kong_shift_module);
    if (kcf->shm_zone == NULL) {
        return NGX_CONF_ERROR;
    }

    kcf->shm_zone->init = ngx_kong_shift_init_zone;
    kcf->shm_zone->data = kcf;

    return NGX_CONF_OK;
}


/*
 * A zone that is used again also keeps the records of shifts that are gone,
 * as old workers may still look at them.
 */

static ngx_int_t
ngx_kong_shift_set_size(ngx_cycle_t *cycle, ngx_kong_shift_conf_t *kcf)
{
    size_t                    size;
    ngx_uint_t                i, n, used;
    ngx_kong_shift_t        **shift;
    ngx_kong_shift_conf_t    *old;

    n = kcf->shifts.nelts;
    old = ngx_kong_shift_old_conf(cycle->old_cycle);
    used = n;

    if (old) {
        used = old->sh->nrecords;
        shift = kcf->shifts.elts;

        for (i = 0; i < n; i++) {
            if (ngx_kong_shift_find_record(old->sh,
                                           (char *) shift[i]->name.data,
                                           shift[i]->name.len)
                == NULL)
            {
                used++;
            }
        }
    }

    if (kcf->size == 0) {

        if (old && used <= old->sh->capacity) {
            kcf->size = old->shm_zone->shm.size;
            return NGX_OK;
        }

        size = ngx_kong_shift_zone_size(ngx_align(n, NGX_KONG_SHIFT_STEP));

        if (old && size == old->shm_zone->shm.size) {
            size = ngx_kong_shift_zone_size(ngx_align(n, NGX_KONG_SHIFT_STEP)
                                            + NGX_KONG_SHIFT_STEP);
        }

        kcf->size = size;

        return NGX_OK;
    }

    if (ngx_kong_shift_zone_capacity(kcf->size) < n) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "kong_shift_zone of %uzk is too small for %ui shifts, "
                      "it must be at least %uzk in %s:%ui",
                      kcf->size / 1024, n,
                      (ngx_kong_shift_zone_size(n) + 1023) / 1024,
                      kcf->file, kcf->line);
        return NGX_ERROR;
    }

    if (old && kcf->size == old->shm_zone->shm.size
        && used > old->sh->capacity)
    {
        /* a zone of another size is a new one, without the removed shifts */

        kcf->size += ngx_pagesize;
    }

    return NGX_OK;
}


static ngx_kong_shift_conf_t *
ngx_kong_shift_old_conf(ngx_cycle_t *old_cycle)
{
    ngx_uint_t              i;
    ngx_shm_zone_t         *zone;
    ngx_list_part_t        *part;
    ngx_kong_shift_conf_t  *old;

    if (old_cycle == NULL || ngx_is_init_cycle(old_cycle)) {
        return NULL;
    }

    part = &old_cycle->shared_memory.part;
    zone = part->elts;

    for (i = 0; /* void */ ; i++) {

        if (i >= part->nelts) {
            if (part->next == NULL) {
                return NULL;
            }

            part = part->next;
            zone = part->elts;
            i = 0;
        }

        if (zone[i].tag == &ngx_kong_shift_module) {
            old = zone[i].data;
            return old->sh ? old : NULL;
        }
    }
}


static ngx_int_t
ngx_kong_shift_init_zone(ngx_shm_zone_t *shm_zone, void *data)
{
    ngx_kong_shift_conf_t  *old = data;

    size_t                  size;
    ngx_kong_shift_conf_t  *kcf;

    kcf = shm_zone->data;

    if (old) {

        /* old workers use it and this reload may yet fail: only attach */

        kcf->sh = old->sh;
        kcf->shpool = old->shpool;

        return NGX_OK;
    }

    kcf->shpool = (ngx_slab_pool_t *) shm_zone->shm.addr;

    if (shm_zone->shm.exists) {
        kcf->sh = kcf->shpool->data;
        return NGX_OK;
    }

    size = sizeof(ngx_kong_shift_shctx_t)
           + (ngx_kong_shift_zone_capacity(shm_zone->shm.size) - 1)
             * sizeof(ngx_kong_shift_record_t);

    kcf->sh = ngx_slab_alloc(kcf->shpool, size);
    if (kcf->sh == NULL) {
        return NGX_ERROR;
    }

    ngx_memzero(kcf->sh, offsetof(ngx_kong_shift_shctx_t, record));

    kcf->shpool->data = kcf->sh;
    kcf->sh->capacity = ngx_kong_shift_zone_capacity(shm_zone->shm.size);

    /* a zone that is only replaced is filled from the running one */

    if (kcf->path.len
        && ngx_kong_shift_old_conf((ngx_cycle_t *) ngx_cycle) == NULL)
    {
        ngx_kong_shift_restore(kcf, shm_zone->shm.log);
    }

    return NGX_OK;
}


static ngx_int_t
ngx_kong_shift_init_module(ngx_cycle_t *cycle)
{
    ngx_kong_shift_conf_t  *kcf;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                                  ngx_kong_shift_module);

    if (kcf->shm_zone == NULL) {
        return NGX_OK;
    }

    return ngx_kong_shift_attach(kcf,
                                 ngx_kong_shift_old_conf(cycle->old_cycle),
                                 cycle->log);
}


static ngx_int_t
ngx_kong_shift_init_process(ngx_cycle_t *cycle)
{
    ngx_event_t            *ev;
    ngx_connection_t       *dumb;
    ngx_kong_shift_conf_t  *kcf;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                                  ngx_kong_shift_module);

    if (kcf->shm_zone == NULL
        || (ngx_process != NGX_PROCESS_WORKER
            && ngx_process != NGX_PROCESS_SINGLE))
    {
        return NGX_OK;
    }

    ngx_kong_shift_join(kcf, cycle->log);

    if (kcf->path.len == 0) {
        return NGX_OK;
    }

    ev = ngx_pcalloc(cycle->pool, sizeof(ngx_event_t));
    dumb = ngx_pcalloc(cycle->pool, sizeof(ngx_connection_t));

    if (ev == NULL || dumb == NULL) {

        /* an error would end the worker for good */

        ngx_log_error(NGX_LOG_ALERT, cycle->log, 0,
                      "no memory for the kong_shift timer, this worker does "
                      "not follow the state file");
        return NGX_OK;
    }

    dumb->fd = (ngx_socket_t) -1;
    dumb->data = kcf;

    ev->handler = ngx_kong_shift_tick;
    ev->log = cycle->log;
    ev->data = dumb;
    ev->cancelable = 1;

    /* a new state= has nothing in it yet */

    ngx_add_timer(ev, 1);

    return NGX_OK;
}


/* the threads are gone by now, and nobody else waits for their work */

static void
ngx_kong_shift_exit_process(ngx_cycle_t *cycle)
{
    ngx_kong_shift_conf_t  *kcf;

    kcf = (ngx_kong_shift_conf_t *) ngx_get_conf(cycle->conf_ctx,
                                                 ngx_kong_shift_module);

    if (kcf->tick) {
        ngx_kong_shift_op_drop(kcf->tick);
    }

    if (kcf->shm_zone
        && (ngx_process == NGX_PROCESS_WORKER
            || ngx_process == NGX_PROCESS_SINGLE))
    {
        ngx_kong_shift_leave(kcf);
    }
}


/*
 * One worker at a time looks whether the file and the zone have parted: a save
 * that failed is repeated, a file that another nginx saved is followed.
 */

static void
ngx_kong_shift_tick(ngx_event_t *ev)
{
    ngx_uint_t               i, due;
    ngx_pool_t              *pool;
    ngx_connection_t        *dumb;
    ngx_kong_shift_op_t     *op;
    ngx_kong_shift_conf_t   *kcf;
    ngx_kong_shift_shctx_t  *sh;

    dumb = ev->data;
    kcf = dumb->data;
    sh = kcf->sh;

    if (ngx_terminate || ngx_exiting || ngx_kong_shift_is_replaced(kcf)) {
        return;
    }

    ngx_add_timer(ev, NGX_KONG_SHIFT_TICK);

    if (kcf->tick) {
        return;
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    due = ((ngx_msec_int_t) (sh->next_poll - ngx_current_msec) <= 0);

    if (due) {
        sh->next_poll = ngx_current_msec + NGX_KONG_SHIFT_PERIOD;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    if (!due) {
        return;
    }

    pool = ngx_create_pool(8192, ngx_cycle->log);
    if (pool == NULL) {
        return;
    }

    op = ngx_pcalloc(pool, sizeof(ngx_kong_shift_op_t));
    if (op == NULL) {
        ngx_destroy_pool(pool);
        return;
    }

    kcf->tick = op;

    op->kcf = kcf;
    op->pool = pool;
    op->log = ngx_cycle->log;
    op->handler = ngx_kong_shift_tick_done;
    op->step = NGX_KONG_SHIFT_STEP_CHECK;

    if (sh->retry_delay == 0
        || (ngx_msec_int_t) (sh->next_retry - ngx_current_msec) <= 0)
    {
        for (i = 0; i < sh->nrecords; i++) {
            if (sh->record[i].unsaved) {
                op->step = NGX_KONG_SHIFT_STEP_SAVE;
                break;
            }
        }
    }

    ngx_kong_shift_op_start(op);
}


static void
ngx_kong_shift_tick_done(ngx_kong_shift_op_t *op)
{
    op->kcf->tick = NULL;

    ngx_destroy_pool(op->pool);
}
