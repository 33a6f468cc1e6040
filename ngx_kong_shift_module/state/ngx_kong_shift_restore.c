
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"

#include <sys/wait.h>


#define NGX_KONG_SHIFT_TAKEOVER_TRIES  500     /* 10 ms apart */


static void ngx_kong_shift_set_aside(ngx_kong_shift_conf_t *kcf,
    const char *reason, ngx_err_t err, ngx_log_t *log);
static void ngx_kong_shift_keep(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_saved_t *saved);
static void ngx_kong_shift_adopt_one(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_record_t *rec, ngx_kong_shift_saved_t *saved,
    ngx_log_t *log);
static void ngx_kong_shift_take_over(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_conf_t *old, ngx_log_t *log);
static void ngx_kong_shift_take_census(ngx_kong_shift_record_t *to,
    ngx_kong_shift_record_t *from, ngx_kong_shift_shctx_t *old);
static ngx_kong_shift_record_t *ngx_kong_shift_spare_record(
    ngx_kong_shift_conf_t *kcf, ngx_kong_shift_conf_t *old);
static ngx_uint_t ngx_kong_shift_is_configured(ngx_kong_shift_conf_t *kcf,
    const char *name);
static ngx_int_t ngx_kong_shift_bind(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_conf_t *old, ngx_kong_shift_t *shift, ngx_log_t *log);
static void ngx_kong_shift_log_weight(ngx_kong_shift_t *shift,
    ngx_kong_shift_state_t *st, ngx_kong_shift_state_t *now, ngx_log_t *log);
static ngx_uint_t ngx_kong_shift_can_write(ngx_core_conf_t *ccf,
    const char *folder);


void
ngx_kong_shift_restore(ngx_kong_shift_conf_t *kcf, ngx_log_t *log)
{
    char                      buf[NGX_KONG_SHIFT_PATH_SIZE];
    uint64_t                  serial;
    ngx_int_t                 rc;
    ngx_uint_t                i;
    const char               *reason;
    ngx_pool_t               *pool;
    ngx_array_t               saved;
    ngx_kong_shift_file_t     file;
    ngx_kong_shift_saved_t   *s;

    ngx_kong_shift_file_init(&file, (char *) kcf->path.data, buf);

    rc = ngx_kong_shift_file_load(&file);

    if (rc == NGX_DECLINED) {
        return;
    }

    if (rc == NGX_ERROR) {
        ngx_kong_shift_set_aside(kcf, file.what, file.err, log);
        return;
    }

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, log);
    if (pool == NULL) {
        free(file.text);
        return;
    }

    if (ngx_kong_shift_decode(pool, file.text, file.len, &saved, &serial,
                              &reason)
        != NGX_OK)
    {
        ngx_kong_shift_set_aside(kcf, reason, 0, log);
        goto done;
    }

    kcf->sh->file_id = file.id;
    kcf->sh->serial = serial;

    s = saved.elts;

    for (i = 0; i < saved.nelts; i++) {
        ngx_kong_shift_keep(kcf, &s[i]);
    }

done:

    free(file.text);
    ngx_destroy_pool(pool);
}


/*
 * Also keeps a shift that is not configured, here or any more, while there is
 * room beside those that are: the next save would drop it from the file.
 */

static void
ngx_kong_shift_keep(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_saved_t *saved)
{
    ngx_uint_t                 i, wanted;
    ngx_kong_shift_t         **shift;
    ngx_kong_shift_record_t   *rec;

    if (!ngx_kong_shift_is_configured(kcf, saved->name)) {

        shift = kcf->shifts.elts;
        wanted = 1;

        for (i = 0; i < kcf->shifts.nelts; i++) {
            wanted += (ngx_kong_shift_find_record(kcf->sh,
                                                (char *) shift[i]->name.data,
                                                shift[i]->name.len)
                       == NULL);
        }

        if (kcf->sh->nrecords + wanted > kcf->sh->capacity) {
            return;
        }
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    rec = ngx_kong_shift_add_record(kcf->sh, saved->name,
                                    ngx_strlen(saved->name), &saved->state);
    if (rec) {
        rec->nevents = saved->nevents;
        rec->unsaved = 0;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);
}


static void
ngx_kong_shift_set_aside(ngx_kong_shift_conf_t *kcf, const char *reason,
    ngx_err_t err, ngx_log_t *log)
{
    char  aside[NGX_KONG_SHIFT_PATH_SIZE + sizeof(".corrupt")];

    *ngx_snprintf((u_char *) aside, sizeof(aside) - 1, "%V.corrupt",
                  &kcf->path)
        = '\0';

    ngx_log_error(NGX_LOG_ERR, log, err,
                  "kong_shift state file \"%V\" cannot be used and %s moved "
                  "to \"%s\": %s; every shift starts with its weight= and a "
                  "closed gate", &kcf->path,
                  ngx_test_config ? "would be" : "is", aside, reason);

    if (!ngx_test_config
        && ngx_rename_file(kcf->path.data, aside) == NGX_FILE_ERROR)
    {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      ngx_rename_file_n " \"%V\" to \"%s\" failed",
                      &kcf->path, aside);
    }
}


void
ngx_kong_shift_adopt(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_file_t *file, ngx_log_t *log)
{
    uint64_t                    serial;
    ngx_uint_t                  i;
    const char                 *reason;
    ngx_pool_t                 *pool;
    ngx_array_t                 saved;
    ngx_kong_shift_t          **shift;
    ngx_kong_shift_saved_t     *s;
    ngx_kong_shift_record_t    *rec;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, log);
    if (pool == NULL) {
        return;
    }

    /* from now on this is the file that the next change replaces */

    kcf->sh->file_id = file->id;

    if (ngx_kong_shift_decode(pool, file->text, file->len, &saved, &serial,
                              &reason)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "kong_shift state file \"%V\" was changed by somebody "
                      "and cannot be used: %s; it will be written anew",
                      &kcf->path, reason);

        ngx_shmtx_lock(&kcf->shpool->mutex);
        ngx_kong_shift_mark_unsaved_locked(kcf->sh);
        ngx_shmtx_unlock(&kcf->shpool->mutex);

        ngx_destroy_pool(pool);
        return;
    }

    kcf->sh->serial = ngx_max(kcf->sh->serial, serial);

    s = saved.elts;

    for (i = 0; i < saved.nelts; i++) {

        rec = ngx_kong_shift_find_record(kcf->sh, s[i].name,
                                         ngx_strlen(s[i].name));
        if (rec == NULL) {
            ngx_kong_shift_keep(kcf, &s[i]);
            continue;
        }

        ngx_kong_shift_adopt_one(kcf, rec, &s[i], log);
    }

    ngx_destroy_pool(pool);

    /* the peers that are drained may be others now */

    shift = kcf->shifts.elts;

    for (i = 0; i < kcf->shifts.nelts; i++) {
        if (shift[i]->refresh) {
            shift[i]->refresh(shift[i]);
        }
    }
}


static void
ngx_kong_shift_adopt_one(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_record_t *rec, ngx_kong_shift_saved_t *saved,
    ngx_log_t *log)
{
    ngx_uint_t                  adopted;
    ngx_kong_shift_snapshot_t   snap;

    adopted = 0;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    ngx_kong_shift_read(rec, &snap);

    rec->nevents = ngx_max(rec->nevents, saved->nevents);

    if (rec->ahead) {

        /* both changed it; ours is an abort or an edited weight= */

        ngx_kong_shift_outrun_locked(rec, saved->state.generation);

    } else if (saved->state.generation > snap.state.generation) {
        adopted = 1;

        ngx_kong_shift_publish_locked(rec, &saved->state,
                                      NGX_KONG_SHIFT_ADOPT, 0, "state file",
                                      "");
        rec->unsaved = 0;

    } else if (saved->state.generation < snap.state.generation) {
        rec->unsaved = 1;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    if (adopted) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "kong_shift \"%s\": generation %uL was taken from the "
                      "state file, which another nginx has saved",
                      saved->name, saved->state.generation);
    }
}


ngx_int_t
ngx_kong_shift_attach(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_conf_t *old, ngx_log_t *log)
{
    ngx_uint_t                  i;
    ngx_kong_shift_t          **shift;
    ngx_kong_shift_file_id_t    id;

    if (old && old->sh && old->sh != kcf->sh) {
        ngx_kong_shift_take_over(kcf, old, log);
    }

    shift = kcf->shifts.elts;

    for (i = 0; i < kcf->shifts.nelts; i++) {
        if (ngx_kong_shift_bind(kcf, old, shift[i], log) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (old && old->sh && kcf->path.len
        && (old->path.len != kcf->path.len
            || ngx_strcmp(old->path.data, kcf->path.data) != 0))
    {
        /*
         * What runs is the truth, whatever an old file there says, and what
         * old workers still have to save belongs to the path of before.
         */

        (void) ngx_kong_shift_file_stat((char *) kcf->path.data, &id);

        ngx_shmtx_lock(&kcf->shpool->mutex);

        kcf->sh->epoch++;
        kcf->sh->file_id = id;
        kcf->sh->next_poll = ngx_current_msec;
        ngx_kong_shift_mark_unsaved_locked(kcf->sh);

        ngx_shmtx_unlock(&kcf->shpool->mutex);
    }

    kcf->epoch = kcf->sh->epoch;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    kcf->reload = ++kcf->sh->reloads;
    kcf->sh->checker = 0;

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    return NGX_OK;
}


/*
 * The zone has another size than before.  No writer may be between its two
 * steps while the records are copied: an old worker would save a change that
 * only the old zone ever sees.
 */

static void
ngx_kong_shift_take_over(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_conf_t *old, ngx_log_t *log)
{
    uint64_t                    token;
    ngx_uint_t                  i;
    ngx_kong_shift_t          **shift;
    ngx_kong_shift_record_t    *from, *to;
    ngx_kong_shift_snapshot_t   snap;

    token = ngx_kong_shift_lease_take(old);

    for (i = 0; token == 0 && i < NGX_KONG_SHIFT_TAKEOVER_TRIES; i++) {
        ngx_msleep(10);
        ngx_time_update();
        token = ngx_kong_shift_lease_take(old);
    }

    ngx_shmtx_lock(&old->shpool->mutex);

    /* the lease is never given back: a stalled writer finds it lost */

    old->sh->replaced = 1;
    old->sh->owner = ngx_pid;
    old->sh->token++;

    shift = kcf->shifts.elts;

    for (i = 0; i < kcf->shifts.nelts; i++) {

        from = ngx_kong_shift_find_record(old->sh,
                                          (char *) shift[i]->name.data,
                                          shift[i]->name.len);
        if (from == NULL) {
            continue;
        }

        ngx_kong_shift_read(from, &snap);

        to = ngx_kong_shift_add_record(kcf->sh, from->name,
                                       shift[i]->name.len, &snap.state);
        if (to == NULL) {
            continue;
        }

        to->credit = from->credit;
        to->unsaved = from->unsaved;
        to->ahead = from->ahead;
        to->nevents = from->nevents;
        ngx_memcpy(to->event, from->event, sizeof(from->event));
        ngx_memcpy(to->pool, from->pool, sizeof(from->pool));
        ngx_kong_shift_take_census(to, from, old->sh);
    }

    for (i = 0; i < NGX_KONG_SHIFT_WORKERS; i++) {
        if (old->sh->worker[i] != ngx_pid) {
            kcf->sh->worker[i] = old->sh->worker[i];
        }
    }

    kcf->sh->file_id = old->sh->file_id;
    kcf->sh->serial = old->sh->serial;

    ngx_shmtx_unlock(&old->shpool->mutex);

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "kong_shift zone was replaced, shifts: %ui, room for: %ui",
                  kcf->shifts.nelts, kcf->sh->capacity);
}


/*
 * What old workers have under way is counted in their zone, where nobody here
 * can look.  Until they are gone each counts as one that is about to choose.
 */

static void
ngx_kong_shift_take_census(ngx_kong_shift_record_t *to,
    ngx_kong_shift_record_t *from, ngx_kong_shift_shctx_t *old)
{
    ngx_uint_t  i;

    for (i = 0; i < NGX_KONG_SHIFT_WORKERS; i++) {
        if (old->worker[i] && old->worker[i] != ngx_pid) {
            to->census[i] = from->census[i];
            to->census[i].choosing = 1;

            /* a drain that begins here does not reach them, nor waits */

            ngx_memzero(to->census[i].lasting,
                        sizeof(to->census[i].lasting));
            ngx_memzero(to->census[i].oldest_lasting,
                        sizeof(to->census[i].oldest_lasting));
        }
    }
}


/*
 * The room was counted before, but a worker may have kept a shift of another
 * nginx since.  Such a record is nobody's here and is given away.
 */

static ngx_kong_shift_record_t *
ngx_kong_shift_spare_record(ngx_kong_shift_conf_t *kcf,
    ngx_kong_shift_conf_t *old)
{
    ngx_uint_t                i;
    ngx_kong_shift_total_t    total;
    ngx_kong_shift_record_t  *rec, *used;

    used = NULL;

    for (i = 0; i < kcf->sh->nrecords; i++) {
        rec = &kcf->sh->record[i];

        if (ngx_kong_shift_is_configured(kcf, rec->name)
            || (old && ngx_kong_shift_is_configured(old, rec->name)))
        {
            continue;
        }

        /* workers of before the last reload may still have requests of it */

        ngx_kong_shift_count(kcf->sh, rec, &total);

        if (total.active[0] + total.active[1] + total.writes == 0) {
            return rec;
        }

        used = rec;
    }

    return used;
}


static ngx_uint_t
ngx_kong_shift_is_configured(ngx_kong_shift_conf_t *kcf, const char *name)
{
    size_t               len;
    ngx_uint_t           i;
    ngx_kong_shift_t   **shift;

    len = ngx_strlen(name);
    shift = kcf->shifts.elts;

    for (i = 0; i < kcf->shifts.nelts; i++) {
        if (shift[i]->name.len == len
            && ngx_strncmp(shift[i]->name.data, name, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_kong_shift_bind(ngx_kong_shift_conf_t *kcf, ngx_kong_shift_conf_t *old,
    ngx_kong_shift_t *shift, ngx_log_t *log)
{
    ngx_kong_shift_state_t      st;
    ngx_kong_shift_change_t     change;
    ngx_kong_shift_record_t    *rec;
    ngx_kong_shift_snapshot_t   snap;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    rec = ngx_kong_shift_find_record(kcf->sh, (char *) shift->name.data,
                                     shift->name.len);

    if (rec == NULL) {
        ngx_kong_shift_init_state(&st, shift->weight, ngx_time());

        rec = ngx_kong_shift_add_record(kcf->sh, (char *) shift->name.data,
                                        shift->name.len, &st);
        if (rec == NULL) {
            rec = ngx_kong_shift_spare_record(kcf, old);

            if (rec) {
                ngx_kong_shift_init_record(rec, (char *) shift->name.data,
                                           shift->name.len, &st);
            }
        }

        shift->record = rec;

        ngx_shmtx_unlock(&kcf->shpool->mutex);

        if (rec == NULL) {
            ngx_log_error(NGX_LOG_EMERG, log, 0,
                          "no room for kong_shift \"%V\" in the zone",
                          &shift->name);
            return NGX_ERROR;
        }

        return NGX_OK;
    }

    shift->record = rec;

    ngx_kong_shift_read(rec, &snap);

    st = snap.state;

    if (st.conf_weight != shift->weight) {
        ngx_memzero(&change, sizeof(ngx_kong_shift_change_t));

        change.action = NGX_KONG_SHIFT_SET_CONFIG;
        change.weight = shift->weight;

        (void) ngx_kong_shift_apply(&st, &change, shift->gated, ngx_time());

        ngx_kong_shift_publish_locked(rec, &st, NGX_KONG_SHIFT_SET_CONFIG, 0,
                                      "configuration", "");
        rec->unsaved = 1;
        rec->ahead = 1;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    ngx_kong_shift_log_weight(shift, &snap.state, &st, log);

    return NGX_OK;
}


/* which of the two won */

static void
ngx_kong_shift_log_weight(ngx_kong_shift_t *shift, ngx_kong_shift_state_t *st,
    ngx_kong_shift_state_t *now, ngx_log_t *log)
{
    u_char   was[NGX_KONG_SHIFT_WEIGHT_LEN], is[NGX_KONG_SHIFT_WEIGHT_LEN];
    u_char  *was_end, *is_end;

    if (ngx_test_config || st->weight == shift->weight) {
        return;
    }

    was_end = (u_char *) ngx_kong_shift_format_weight((char *) was,
                                                      st->weight);
    is_end = (u_char *) ngx_kong_shift_format_weight((char *) is,
                                                     shift->weight);

    if (st->conf_weight == shift->weight) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "kong_shift \"%V\": the runtime weight %*s stays in "
                      "force, weight=%*s was not edited since",
                      &shift->name, (size_t) (was_end - was), was,
                      (size_t) (is_end - is), is);

    } else if (st->aborted) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "kong_shift \"%V\": weight=%*s was edited, but the "
                      "abort stays in force until a weight is set at run time",
                      &shift->name, (size_t) (is_end - is), is);

    } else if (now->weight != shift->weight) {
        ngx_log_error(NGX_LOG_WARN, log, 0,
                      "kong_shift \"%V\": weight=%*s was edited, but the "
                      "runtime weight %*s stays in force while a pool is "
                      "drained", &shift->name, (size_t) (is_end - is), is,
                      (size_t) (was_end - was), was);

    } else {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "kong_shift \"%V\": weight=%*s was edited and replaces "
                      "the runtime weight %*s",
                      &shift->name, (size_t) (is_end - is), is,
                      (size_t) (was_end - was), was);
    }
}


ngx_int_t
ngx_kong_shift_check_folder(ngx_cycle_t *cycle, ngx_kong_shift_conf_t *kcf)
{
    char                    buf[NGX_KONG_SHIFT_PATH_SIZE];
    struct stat             st;
    ngx_core_conf_t        *ccf;
    ngx_kong_shift_file_t   file;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    ngx_kong_shift_file_init(&file, (char *) kcf->path.data, buf);

    if (stat(file.folder, &st) == -1) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "the folder of the kong_shift state file \"%V\" cannot "
                      "be used in %s:%ui", &kcf->path, kcf->file,
                      kcf->line);
        return NGX_ERROR;
    }

    if (!S_ISDIR(st.st_mode)) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "\"%s\" of the kong_shift state file \"%V\" is not a "
                      "folder in %s:%ui", file.folder, &kcf->path,
                      kcf->file, kcf->line);
        return NGX_ERROR;
    }

    if (!ngx_kong_shift_can_write(ccf, file.folder)) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "%s%s cannot write the folder \"%s\" of the kong_shift "
                      "state file in %s:%ui",
                      geteuid() == 0 ? "user " : "the current user",
                      geteuid() == 0 ? ccf->username : "",
                      file.folder, kcf->file, kcf->line);
        return NGX_ERROR;
    }

    return NGX_OK;
}


/*
 * Only the kernel knows all of modes, groups and access lists, so ask it as
 * the user that will write.
 */

static ngx_uint_t
ngx_kong_shift_can_write(ngx_core_conf_t *ccf, const char *folder)
{
    int    status;
    pid_t  pid;

    if (geteuid() != 0 || ccf->master == 0) {
        return access(folder, R_OK|W_OK|X_OK) == 0;
    }

    pid = fork();

    if (pid == 0) {
        _exit(setgid(ccf->group) == -1
              || initgroups(ccf->username, ccf->group) == -1
              || setuid(ccf->user) == -1
              || access(folder, R_OK|W_OK|X_OK) == -1);
    }

    if (pid == -1) {
        return 1;
    }

    while (waitpid(pid, &status, 0) == -1) {
        if (errno != EINTR) {
            return 1;
        }
    }

    /* if the child was killed it is not known; the first save will tell */

    return !WIFEXITED(status) || WEXITSTATUS(status) == 0;
}
