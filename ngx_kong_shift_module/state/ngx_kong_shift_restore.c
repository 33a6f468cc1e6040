
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"

#include <sys/wait.h>


#define NGX_KONG_SHIFT_TAKEOVER_TRIES  500     /* 10 ms apart */


static void ngx_kong_shift_set_aside(ngx_kong_shift_conf_t *kscf,
    const char *reason, ngx_err_t err, ngx_log_t *log);
static void ngx_kong_shift_keep(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_saved_t *saved);
static void ngx_kong_shift_adopt_one(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_record_t *rec, ngx_kong_shift_saved_t *saved,
    ngx_log_t *log);
static ngx_int_t ngx_kong_shift_take_over(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_conf_t *old, ngx_log_t *log);
static ngx_kong_shift_record_t *ngx_kong_shift_spare_record(
    ngx_kong_shift_conf_t *kscf, ngx_kong_shift_conf_t *old);
static ngx_uint_t ngx_kong_shift_is_configured(ngx_kong_shift_conf_t *kscf,
    const char *name);
static ngx_int_t ngx_kong_shift_bind(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_conf_t *old, ngx_kong_shift_t *shift, ngx_log_t *log);
static ngx_uint_t ngx_kong_shift_can_write(ngx_core_conf_t *ccf,
    const char *folder);


void
ngx_kong_shift_restore(ngx_kong_shift_conf_t *kscf, ngx_log_t *log)
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

    ngx_kong_shift_file_init(&file, (char *) kscf->state.data, buf);

    rc = ngx_kong_shift_file_load(&file);

    if (rc == NGX_DECLINED) {
        return;
    }

    if (rc == NGX_ERROR) {
        ngx_kong_shift_set_aside(kscf, file.what, file.err, log);
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
        ngx_kong_shift_set_aside(kscf, reason, 0, log);
        goto done;
    }

    kscf->sh->file = file.id;
    kscf->sh->serial = serial;

    s = saved.elts;

    for (i = 0; i < saved.nelts; i++) {
        ngx_kong_shift_keep(kscf, &s[i]);
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
ngx_kong_shift_keep(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_saved_t *saved)
{
    ngx_uint_t                 i, wanted;
    ngx_kong_shift_t         **shift;
    ngx_kong_shift_record_t   *rec;

    if (!ngx_kong_shift_is_configured(kscf, saved->name)) {

        shift = kscf->shifts.elts;
        wanted = 1;

        for (i = 0; i < kscf->shifts.nelts; i++) {
            wanted += (ngx_kong_shift_find_record(kscf->sh,
                                                (char *) shift[i]->name.data,
                                                shift[i]->name.len)
                       == NULL);
        }

        if (kscf->sh->nrecords + wanted > kscf->sh->capacity) {
            return;
        }
    }

    ngx_shmtx_lock(&kscf->shpool->mutex);

    rec = ngx_kong_shift_add_record(kscf->sh, saved->name,
                                    ngx_strlen(saved->name), &saved->state);
    if (rec) {
        rec->nevents = saved->nevents;
        rec->unsaved = 0;
    }

    ngx_shmtx_unlock(&kscf->shpool->mutex);
}


static void
ngx_kong_shift_set_aside(ngx_kong_shift_conf_t *kscf, const char *reason,
    ngx_err_t err, ngx_log_t *log)
{
    char  aside[NGX_KONG_SHIFT_PATH_SIZE + sizeof(".corrupt")];

    *ngx_snprintf((u_char *) aside, sizeof(aside) - 1, "%V.corrupt",
                  &kscf->state)
        = '\0';

    ngx_log_error(NGX_LOG_ERR, log, err,
                  "kong_shift state file \"%V\" cannot be used and %s moved "
                  "to \"%s\": %s; every shift starts with its weight= and a "
                  "closed gate", &kscf->state,
                  ngx_test_config ? "would be" : "is", aside, reason);

    if (!ngx_test_config
        && ngx_rename_file(kscf->state.data, aside) == NGX_FILE_ERROR)
    {
        ngx_log_error(NGX_LOG_ALERT, log, ngx_errno,
                      ngx_rename_file_n " \"%V\" to \"%s\" failed",
                      &kscf->state, aside);
    }
}


void
ngx_kong_shift_adopt(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_file_t *file, ngx_log_t *log)
{
    uint64_t                    serial;
    ngx_uint_t                  i;
    const char                 *reason;
    ngx_pool_t                 *pool;
    ngx_array_t                 saved;
    ngx_kong_shift_saved_t     *s;
    ngx_kong_shift_record_t    *rec;

    pool = ngx_create_pool(NGX_DEFAULT_POOL_SIZE, log);
    if (pool == NULL) {
        return;
    }

    /* from now on this is the file that the next change replaces */

    kscf->sh->file = file->id;

    if (ngx_kong_shift_decode(pool, file->text, file->len, &saved, &serial,
                              &reason)
        != NGX_OK)
    {
        ngx_log_error(NGX_LOG_ERR, log, 0,
                      "kong_shift state file \"%V\" was changed by somebody "
                      "and cannot be used: %s; it will be written anew",
                      &kscf->state, reason);

        for (i = 0; i < kscf->sh->nrecords; i++) {
            kscf->sh->record[i].unsaved = 1;
        }

        ngx_destroy_pool(pool);
        return;
    }

    kscf->sh->serial = ngx_max(kscf->sh->serial, serial);

    s = saved.elts;

    for (i = 0; i < saved.nelts; i++) {

        rec = ngx_kong_shift_find_record(kscf->sh, s[i].name,
                                         ngx_strlen(s[i].name));
        if (rec == NULL) {
            ngx_kong_shift_keep(kscf, &s[i]);
            continue;
        }

        ngx_kong_shift_adopt_one(kscf, rec, &s[i], log);
    }

    ngx_destroy_pool(pool);
}


static void
ngx_kong_shift_adopt_one(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_record_t *rec, ngx_kong_shift_saved_t *saved,
    ngx_log_t *log)
{
    ngx_uint_t                  adopted;
    ngx_kong_shift_snapshot_t   snap;

    adopted = 0;

    ngx_shmtx_lock(&kscf->shpool->mutex);

    ngx_kong_shift_read(rec, &snap);

    rec->nevents = ngx_max(rec->nevents, saved->nevents);

    if (rec->ahead) {

        /* both changed it; ours is an abort or an edited weight= */

        ngx_kong_shift_outrun_locked(rec, saved->state.generation);

    } else if (saved->state.generation > snap.state.generation) {
        adopted = 1;

        ngx_kong_shift_publish_locked(rec, &saved->state,
                                      NGX_KONG_SHIFT_ADOPT, "state file", "");
        rec->unsaved = 0;

    } else if (saved->state.generation < snap.state.generation) {
        rec->unsaved = 1;
    }

    ngx_shmtx_unlock(&kscf->shpool->mutex);

    if (adopted) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "kong_shift \"%s\": generation %uL was taken from the "
                      "state file, which another nginx has saved",
                      saved->name, saved->state.generation);
    }
}


ngx_int_t
ngx_kong_shift_attach(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_conf_t *old, ngx_log_t *log)
{
    ngx_uint_t           i;
    ngx_kong_shift_t   **shift;

    if (old && old->sh && old->sh != kscf->sh) {
        if (ngx_kong_shift_take_over(kscf, old, log) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    shift = kscf->shifts.elts;

    for (i = 0; i < kscf->shifts.nelts; i++) {
        if (ngx_kong_shift_bind(kscf, old, shift[i], log) != NGX_OK) {
            return NGX_ERROR;
        }
    }

    if (old && old->sh && kscf->state.len
        && (old->state.len != kscf->state.len
            || ngx_strcmp(old->state.data, kscf->state.data) != 0))
    {
        /*
         * What runs is the truth, whatever an old file there says, and what
         * old workers still have to save belongs to the path of before.
         */

        ngx_shmtx_lock(&kscf->shpool->mutex);

        kscf->sh->epoch++;

        (void) ngx_kong_shift_file_stat((char *) kscf->state.data,
                                        &kscf->sh->file);

        for (i = 0; i < kscf->sh->nrecords; i++) {
            kscf->sh->record[i].unsaved = 1;
        }

        ngx_shmtx_unlock(&kscf->shpool->mutex);
    }

    kscf->epoch = kscf->sh->epoch;

    return NGX_OK;
}


/*
 * The zone has another size than before.  No writer may be between its two
 * steps while the records are copied: an old worker would save a change that
 * only the old zone ever sees.
 */

static ngx_int_t
ngx_kong_shift_take_over(ngx_kong_shift_conf_t *kscf,
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

    shift = kscf->shifts.elts;

    for (i = 0; i < kscf->shifts.nelts; i++) {

        from = ngx_kong_shift_find_record(old->sh,
                                          (char *) shift[i]->name.data,
                                          shift[i]->name.len);
        if (from == NULL) {
            continue;
        }

        ngx_kong_shift_read(from, &snap);

        to = ngx_kong_shift_add_record(kscf->sh, from->name,
                                       shift[i]->name.len, &snap.state);
        if (to == NULL) {
            continue;
        }

        to->credit = from->credit;
        to->unsaved = from->unsaved;
        to->ahead = from->ahead;
        to->nevents = from->nevents;
        ngx_memcpy(to->event, from->event, sizeof(from->event));
    }

    kscf->sh->file = old->sh->file;
    kscf->sh->serial = old->sh->serial;

    ngx_shmtx_unlock(&old->shpool->mutex);

    ngx_log_error(NGX_LOG_NOTICE, log, 0,
                  "kong_shift zone was replaced: %ui shifts, room for %ui",
                  kscf->shifts.nelts, kscf->sh->capacity);

    return NGX_OK;
}


/*
 * The room was counted before, but a worker may have kept a shift of another
 * nginx since.  Such a record is nobody's here and is given away.
 */

static ngx_kong_shift_record_t *
ngx_kong_shift_spare_record(ngx_kong_shift_conf_t *kscf,
    ngx_kong_shift_conf_t *old)
{
    ngx_uint_t                i;
    ngx_kong_shift_record_t  *rec;

    for (i = 0; i < kscf->sh->nrecords; i++) {
        rec = &kscf->sh->record[i];

        if (!ngx_kong_shift_is_configured(kscf, rec->name)
            && !(old && ngx_kong_shift_is_configured(old, rec->name)))
        {
            return rec;
        }
    }

    return NULL;
}


static ngx_uint_t
ngx_kong_shift_is_configured(ngx_kong_shift_conf_t *kscf, const char *name)
{
    size_t               len;
    ngx_uint_t           i;
    ngx_kong_shift_t   **shift;

    len = ngx_strlen(name);
    shift = kscf->shifts.elts;

    for (i = 0; i < kscf->shifts.nelts; i++) {
        if (shift[i]->name.len == len
            && ngx_strncmp(shift[i]->name.data, name, len) == 0)
        {
            return 1;
        }
    }

    return 0;
}


static ngx_int_t
ngx_kong_shift_bind(ngx_kong_shift_conf_t *kscf, ngx_kong_shift_conf_t *old,
    ngx_kong_shift_t *shift, ngx_log_t *log)
{
    u_char                      was[NGX_KONG_SHIFT_WEIGHT_LEN];
    u_char                      is[NGX_KONG_SHIFT_WEIGHT_LEN];
    u_char                     *was_end, *is_end;
    ngx_kong_shift_state_t      st;
    ngx_kong_shift_change_t     change;
    ngx_kong_shift_record_t    *rec;
    ngx_kong_shift_snapshot_t   snap;

    ngx_shmtx_lock(&kscf->shpool->mutex);

    rec = ngx_kong_shift_find_record(kscf->sh, (char *) shift->name.data,
                                     shift->name.len);

    if (rec == NULL) {
        ngx_kong_shift_init_state(&st, shift->weight, ngx_time());

        rec = ngx_kong_shift_add_record(kscf->sh, (char *) shift->name.data,
                                        shift->name.len, &st);
        if (rec == NULL) {
            rec = ngx_kong_shift_spare_record(kscf, old);

            if (rec) {
                ngx_kong_shift_init_record(rec, (char *) shift->name.data,
                                           shift->name.len, &st);
            }
        }

        shift->record = rec;

        ngx_shmtx_unlock(&kscf->shpool->mutex);

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

        ngx_kong_shift_publish_locked(rec, &st, NGX_KONG_SHIFT_SET_CONFIG,
                                      "configuration", "");
        rec->unsaved = 1;
        rec->ahead = 1;
    }

    ngx_shmtx_unlock(&kscf->shpool->mutex);

    if (ngx_test_config || snap.state.weight == shift->weight) {
        return NGX_OK;
    }

    was_end = (u_char *) ngx_kong_shift_format_weight((char *) was,
                                                      snap.state.weight);
    is_end = (u_char *) ngx_kong_shift_format_weight((char *) is,
                                                     shift->weight);

    if (snap.state.conf_weight == shift->weight) {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "kong_shift \"%V\": the runtime weight %*s stays in "
                      "force, weight=%*s was not edited since",
                      &shift->name, (size_t) (was_end - was), was,
                      (size_t) (is_end - is), is);

    } else {
        ngx_log_error(NGX_LOG_NOTICE, log, 0,
                      "kong_shift \"%V\": weight=%*s was edited and replaces "
                      "the runtime weight %*s",
                      &shift->name, (size_t) (is_end - is), is,
                      (size_t) (was_end - was), was);
    }

    return NGX_OK;
}


ngx_int_t
ngx_kong_shift_check_folder(ngx_cycle_t *cycle, ngx_kong_shift_conf_t *kscf)
{
    char                    buf[NGX_KONG_SHIFT_PATH_SIZE];
    struct stat             st;
    ngx_core_conf_t        *ccf;
    ngx_kong_shift_file_t   file;

    ccf = (ngx_core_conf_t *) ngx_get_conf(cycle->conf_ctx, ngx_core_module);

    ngx_kong_shift_file_init(&file, (char *) kscf->state.data, buf);

    if (stat(file.folder, &st) == -1) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, ngx_errno,
                      "the folder of the kong_shift state file \"%V\" cannot "
                      "be used in %s:%ui", &kscf->state, kscf->file,
                      kscf->line);
        return NGX_ERROR;
    }

    if (!S_ISDIR(st.st_mode)) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "\"%s\" of the kong_shift state file \"%V\" is not a "
                      "folder in %s:%ui", file.folder, &kscf->state,
                      kscf->file, kscf->line);
        return NGX_ERROR;
    }

    if (!ngx_kong_shift_can_write(ccf, file.folder)) {
        ngx_log_error(NGX_LOG_EMERG, cycle->log, 0,
                      "%s%s cannot write the folder \"%s\" of the kong_shift "
                      "state file in %s:%ui",
                      geteuid() == 0 ? "user " : "the current user",
                      geteuid() == 0 ? ccf->username : "",
                      file.folder, kscf->file, kscf->line);
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
    int    status = 0;
    pid_t  pid, rc;

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

    do {
        rc = (pid == -1) ? -1 : waitpid(pid, &status, 0);
    } while (rc == -1 && pid != -1 && errno == EINTR);

    if (rc == -1) {
        /* not known; the first save will tell */
        return 1;
    }

    return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}
