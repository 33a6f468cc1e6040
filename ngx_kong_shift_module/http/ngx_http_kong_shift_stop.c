
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_http_kong_shift.h"


#define NGX_HTTP_KONG_SHIFT_LOOKS    10

/* beside NGX_KONG_SHIFT_HAS_...: what another nginx has is not known here */
#define NGX_HTTP_KONG_SHIFT_UPGRADE  0x10


typedef struct {
    unsigned                     reasons;      /* 0: it may be stopped */
    int64_t                      held;         /* seconds */
    int64_t                      hold;
    ngx_kong_shift_snapshot_t    snap;
    ngx_kong_shift_total_t       total;
} ngx_http_kong_shift_stop_t;


static void ngx_http_kong_shift_look(ngx_http_kong_shift_object_t *target,
    ngx_http_kong_shift_stop_t *stop);
static ngx_uint_t ngx_http_kong_shift_is_upgrading(void);
static ngx_int_t ngx_http_kong_shift_unsafe(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target, ngx_http_kong_shift_stop_t *stop,
    json_t *json);


/* by bit */

static const char  *ngx_http_kong_shift_reasons[] = {
    "weight", "active", "long_lived", "hold_time", "upgrade"
};


ngx_int_t
ngx_http_kong_shift_safe_to_stop(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target)
{
    json_t                         *json;
    ngx_str_t                       arg;
    ngx_http_kong_shift_stop_t      stop;
    ngx_http_kong_shift_problem_t   problem;

    stop.hold = 0;

    if (r->args.len
        && (r->args.len < sizeof("hold=") - 1
            || ngx_strncmp(r->args.data, "hold=", sizeof("hold=") - 1) != 0
            || ngx_strlchr(r->args.data, r->args.data + r->args.len, '&')))
    {
        ngx_http_kong_shift_set_problem(&problem, "invalid_query",
                                        "only \"hold=TIME\" may be asked "
                                        "here, not \"%V\"", &r->args);
        return ngx_http_kong_shift_send_problem(r, &problem);
    }

    if (ngx_http_arg(r, (u_char *) "hold", sizeof("hold") - 1, &arg)
        == NGX_OK)
    {
        stop.hold = ngx_parse_time(&arg, 1);

        if (stop.hold == NGX_ERROR) {
            ngx_http_kong_shift_set_problem(&problem, "invalid_query",
                                            "hold=%V must be a time such as "
                                            "\"90s\" or \"10m\"", &arg);
            return ngx_http_kong_shift_send_problem(r, &problem);
        }
    }

    ngx_http_kong_shift_look(target, &stop);

    json = json_pack("{sb, sb, sI, sI, sI}", "safe", stop.reasons == 0,
                     "drained", (int) stop.snap.state.drained[target->pool],
                     "held_seconds", (json_int_t) stop.held,
                     "hold_seconds", (json_int_t) stop.hold,
                     "generation", (json_int_t) stop.snap.state.generation);

    ngx_http_kong_shift_add_census(&stop.total, target->pool, json);

    if (stop.reasons) {
        return ngx_http_kong_shift_unsafe(r, target, &stop, json);
    }

    return ngx_http_kong_shift_send_json(r, NGX_HTTP_OK, json,
                                         stop.snap.state.generation);
}


static void
ngx_http_kong_shift_look(ngx_http_kong_shift_object_t *target,
    ngx_http_kong_shift_stop_t *stop)
{
    int64_t                   since;
    ngx_uint_t                i, pool;
    ngx_kong_shift_state_t   *st;
    ngx_kong_shift_total_t   *total;
    ngx_kong_shift_record_t  *rec;

    pool = target->pool;
    rec = target->kscf->shift->record;
    st = &stop->snap.state;
    total = &stop->total;

    for (i = 0; i < NGX_HTTP_KONG_SHIFT_LOOKS; i++) {

        /* in this order, see ngx_kong_shift_unsafe() */

        ngx_kong_shift_read(rec, &stop->snap);
        ngx_kong_shift_count(ngx_http_kong_shift_conf()->sh, rec, total);

        /* a worker that chooses just now is done with it in no time */

        if (total->choosing == 0 || total->active[pool]) {
            break;
        }
    }

    /* while it is drained it can have got no weight since */

    since = st->drained[pool] ? st->drain_changed[pool] : st->changed;

    stop->held = ngx_time() - since;
    stop->held = ngx_max(stop->held, 0);

    stop->reasons = ngx_kong_shift_unsafe(stop->snap.word,
                                          target->kscf->shift->gated, pool,
                                          total->choosing,
                                          total->active[pool],
                                          total->lasting[pool], stop->held,
                                          stop->hold);

    if (ngx_http_kong_shift_is_upgrading()) {
        stop->reasons |= NGX_HTTP_KONG_SHIFT_UPGRADE;
    }
}


/*
 * As long as the old nginx of a binary upgrade lives there is its ".oldbin".
 * One that cannot be read means no less.
 */

static ngx_uint_t
ngx_http_kong_shift_is_upgrading(void)
{
    u_char            buf[NGX_INT64_LEN + 2];
    size_t            len;
    ssize_t           n;
    ngx_fd_t          fd;
    ngx_int_t         pid;
    ngx_core_conf_t  *ccf;

    ccf = (ngx_core_conf_t *) ngx_get_conf(ngx_cycle->conf_ctx,
                                           ngx_core_module);

    fd = ngx_open_file(ccf->oldpid.data, NGX_FILE_RDONLY|NGX_FILE_NONBLOCK,
                       NGX_FILE_OPEN, 0);

    if (fd == NGX_INVALID_FILE) {
        return ngx_errno != NGX_ENOENT;
    }

    n = ngx_read_fd(fd, buf, sizeof(buf));

    (void) ngx_close_file(fd);

    for (len = 0; n > 0 && len < (size_t) n && buf[len] != LF; len++) {
        /* void */
    }

    pid = ngx_atoi(buf, len);

    return pid <= 0 || ngx_kong_shift_is_alive((ngx_pid_t) pid);
}


static ngx_int_t
ngx_http_kong_shift_unsafe(ngx_http_request_t *r,
    ngx_http_kong_shift_object_t *target, ngx_http_kong_shift_stop_t *stop,
    json_t *json)
{
    json_t                         *list;
    ngx_uint_t                      i, n;
    ngx_http_kong_shift_problem_t   problem;

    ngx_http_kong_shift_set_problem(&problem, "not_safe_to_stop",
        "%s of \"%V\" has %uL requests under way, %uL of them long-lived%s%s"
        "%s%s", ngx_http_kong_shift_pool_names[target->pool],
        &target->kscf->shift->name, stop->total.active[target->pool],
        stop->total.lasting[target->pool],
        stop->total.choosing ? "; a worker may be choosing it" : "",
        (stop->reasons & NGX_KONG_SHIFT_HAS_WEIGHT) ? "; it has a weight" : "",
        (stop->reasons & NGX_KONG_SHIFT_HAS_NOT_HELD)
        ? "; it was not held long enough" : "",
        (stop->reasons & NGX_HTTP_KONG_SHIFT_UPGRADE)
        ? "; the other nginx of a binary upgrade is still there" : "");

    list = json_array();
    n = sizeof(ngx_http_kong_shift_reasons) / sizeof(char *);

    for (i = 0; i < n; i++) {
        if (stop->reasons & (1U << i)) {
            (void) json_array_append_new(list,
                                json_string(ngx_http_kong_shift_reasons[i]));
        }
    }

    if (json == NULL) {
        json_decref(list);

    } else {
        (void) json_object_set_new(json, "reasons", list);
    }

    problem.more = json;

    return ngx_http_kong_shift_send_problem(r, &problem);
}
