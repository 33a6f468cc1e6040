
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"


#define NGX_KONG_SHIFT_OP_WAIT    5000     /* for the lease */
#define NGX_KONG_SHIFT_OP_POLL    10
#define NGX_KONG_SHIFT_OP_HOLD    1000     /* renewal of the lease */


static void ngx_kong_shift_op_try(ngx_kong_shift_op_t *op);
static ngx_int_t ngx_kong_shift_op_publish(ngx_kong_shift_op_t *op,
    ngx_uint_t prepared);
static ngx_int_t ngx_kong_shift_op_prepare(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_leased(ngx_kong_shift_op_t *op);
static ngx_int_t ngx_kong_shift_op_encode(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_post(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_checked(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_loaded(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_saved(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_not_saved(ngx_kong_shift_op_t *op);
static void ngx_kong_shift_op_timer(ngx_event_t *ev);
static void ngx_kong_shift_op_finish(ngx_kong_shift_op_t *op,
    ngx_kong_shift_op_status_e status);


#define ngx_kong_shift_op_is_abort(op)                                        \
    ((op)->change.action == NGX_KONG_SHIFT_ABORT                              \
     || (op)->change.action == NGX_KONG_SHIFT_CLOSE_GATE)


void
ngx_kong_shift_op_start(ngx_kong_shift_op_t *op)
{
    op->deadline = ngx_current_msec + NGX_KONG_SHIFT_OP_WAIT;

    op->timer.handler = ngx_kong_shift_op_timer;
    op->timer.log = ngx_cycle->log;
    op->timer.data = &op->dumb;

    /* a worker that shuts down must still answer a client */

    op->timer.cancelable = (op->shift == NULL);

    op->dumb.fd = (ngx_socket_t) -1;
    op->dumb.data = op;

    if (op->kcf->path.len) {
        ngx_kong_shift_file_init(&op->file, (char *) op->kcf->path.data,
                                 op->buf);
    }

    if (op->shift == NULL && op->step == NGX_KONG_SHIFT_STEP_CHECK) {
        ngx_kong_shift_op_post(op);
        return;
    }

    ngx_kong_shift_op_try(op);
}


void
ngx_kong_shift_op_drop(ngx_kong_shift_op_t *op)
{
    /* whoever deletes a timer after this must not come across it */

    if (op->timer.timer_set) {
        ngx_del_timer(&op->timer);
    }

    free(op->file.text);

    ngx_destroy_pool(op->pool);
}


static void
ngx_kong_shift_op_try(ngx_kong_shift_op_t *op)
{
    ngx_int_t  rc;

    if (ngx_kong_shift_is_replaced(op->kcf)) {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_REPLACED);
        return;
    }

    /* an abort waits for nobody: it is in force before it is saved */

    if (op->shift && !op->published
        && (op->kcf->path.len == 0 || ngx_kong_shift_op_is_abort(op)))
    {
        rc = ngx_kong_shift_op_publish(op, 0);

        if (rc != NGX_OK) {
            ngx_kong_shift_op_finish(op, rc == NGX_ABORT
                                         ? NGX_KONG_SHIFT_OP_REPLACED
                                         : NGX_KONG_SHIFT_OP_REFUSED);
            return;
        }

        if (op->kcf->path.len == 0) {
            ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_DONE);
            return;
        }
    }

    op->token = ngx_kong_shift_lease_take(op->kcf);

    if (op->token) {
        ngx_kong_shift_op_leased(op);
        return;
    }

    if ((ngx_msec_int_t) (op->deadline - ngx_current_msec) <= 0) {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_BUSY);
        return;
    }

    ngx_add_timer(&op->timer, NGX_KONG_SHIFT_OP_POLL);
}


/*
 * Applies the change to the state of this moment, or, if "prepared", publishes
 * the saved op->state provided that nobody was faster.  NGX_OK; NGX_DECLINED
 * with op->result; NGX_BUSY when the lease was lost; NGX_ABORT when the workers
 * of a new configuration took over.
 */

static ngx_int_t
ngx_kong_shift_op_publish(ngx_kong_shift_op_t *op, ngx_uint_t prepared)
{
    char                      text[NGX_KONG_SHIFT_COMMENT_SIZE];
    ngx_int_t                 rc;
    ngx_kong_shift_conf_t    *kcf;
    ngx_kong_shift_record_t  *rec;

    kcf = op->kcf;
    rec = op->shift->record;

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (ngx_kong_shift_is_replaced(kcf)) {
        rc = NGX_ABORT;

    } else if (prepared) {
        rc = NGX_OK;

        if (kcf->sh->token != op->token) {
            rc = NGX_BUSY;

        } else if (ngx_kong_shift_word_generation(rec->word) != op->base) {
            op->result = NGX_KONG_SHIFT_MISMATCH;
            rc = NGX_DECLINED;
        }

    } else {
        rc = ngx_kong_shift_op_prepare(op);
    }

    if (rc == NGX_OK) {
        ngx_kong_shift_op_text(op, text);

        ngx_kong_shift_publish_locked(rec, &op->state, op->change.action,
                                      op->change.forced, op->by, text);
        rec->unsaved = 1;
        rec->ahead = !prepared;
        op->published = 1;

        if (op->change.action == NGX_KONG_SHIFT_SET_DRAIN) {

            /* its pace is not that of the drain before */

            rec->pool[op->change.pool].drain_next = 0;
        }
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    if (rc == NGX_OK && op->shift->refresh) {
        op->shift->refresh(op->shift);
    }

    return rc;
}


static ngx_int_t
ngx_kong_shift_op_prepare(ngx_kong_shift_op_t *op)
{
    uint32_t                   n, ready;
    ngx_kong_shift_snapshot_t  snap;

    ngx_kong_shift_read(op->shift->record, &snap);

    op->state = snap.state;
    op->base = snap.state.generation;

    if (op->shift->checked & (1 << NGX_KONG_SHIFT_NEW)) {
        ngx_kong_shift_count_peers(op->shift->record, NGX_KONG_SHIFT_NEW, &n,
                                   &ready);

        op->change.not_ready = !ngx_kong_shift_enough(ready, n,
                                                      op->shift->min_ready);
    }

    op->change.last = (op->change.action == NGX_KONG_SHIFT_SET_PEER
                       && ngx_kong_shift_is_last(op->shift->record,
                                                 op->change.pool,
                                                 op->change.addr));

    op->result = ngx_kong_shift_apply(&op->state, &op->change,
                                      op->shift->gated, ngx_time());

    return (op->result == NGX_KONG_SHIFT_DONE) ? NGX_OK : NGX_DECLINED;
}


static void
ngx_kong_shift_op_leased(ngx_kong_shift_op_t *op)
{
    if (op->step == NGX_KONG_SHIFT_STEP_LOAD) {
        ngx_kong_shift_op_post(op);
        return;
    }

    if (op->shift && !op->published
        && ngx_kong_shift_op_prepare(op) != NGX_OK)
    {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_REFUSED);
        return;
    }

    op->step = NGX_KONG_SHIFT_STEP_SAVE;

    if (ngx_kong_shift_op_encode(op) != NGX_OK) {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_FAILED);
        return;
    }

    ngx_kong_shift_op_post(op);
}


/* the file holds all shifts, so this one goes among the others as they are */

static ngx_int_t
ngx_kong_shift_op_encode(ngx_kong_shift_op_t *op)
{
    ngx_uint_t                  i;
    ngx_kong_shift_saved_t     *s;
    ngx_kong_shift_shctx_t     *sh;
    ngx_kong_shift_record_t    *rec;
    ngx_kong_shift_snapshot_t   snap;

    sh = op->kcf->sh;

    if (op->saves == NULL) {
        op->nsaves = sh->nrecords;

        op->saves = ngx_palloc(op->pool,
                               op->nsaves * sizeof(ngx_kong_shift_saved_t));
        if (op->saves == NULL) {
            return NGX_ERROR;
        }
    }

    for (i = 0; i < op->nsaves; i++) {
        s = &op->saves[i];
        rec = &sh->record[i];

        ngx_kong_shift_read(rec, &snap);

        ngx_memcpy(s->name, rec->name, sizeof(s->name));
        s->state = snap.state;
        s->nevents = rec->nevents;

        if (op->shift && !op->published && rec == op->shift->record) {
            s->state = op->state;
            s->nevents++;
        }
    }

    op->file.text = (u_char *) ngx_kong_shift_encode(op->saves, op->nsaves,
                                                     sh->serial + 1);
    if (op->file.text == NULL) {
        return NGX_ERROR;
    }

    op->file.len = ngx_strlen(op->file.text);

    return NGX_OK;
}


#if (NGX_THREADS)

static void
ngx_kong_shift_op_thread(void *data, ngx_log_t *log)
{
    ngx_kong_shift_op_t  *op = *(ngx_kong_shift_op_t **) data;

    switch (op->step) {

    case NGX_KONG_SHIFT_STEP_CHECK:
        op->rc = ngx_kong_shift_file_stat(op->file.path, &op->file.id);
        break;

    case NGX_KONG_SHIFT_STEP_LOAD:
        op->rc = ngx_kong_shift_file_load(&op->file);
        break;

    case NGX_KONG_SHIFT_STEP_SAVE:
        op->rc = ngx_kong_shift_file_save(&op->file);
        break;
    }
}


static void
ngx_kong_shift_op_thread_done(ngx_event_t *ev)
{
    ngx_kong_shift_op_t  *op = ev->data;

    if (op->timer.timer_set) {
        ngx_del_timer(&op->timer);
    }

    if (ngx_kong_shift_is_replaced(op->kcf)) {
        free(op->file.text);
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_REPLACED);
        return;
    }

    switch (op->step) {

    case NGX_KONG_SHIFT_STEP_CHECK:
        ngx_kong_shift_op_checked(op);
        break;

    case NGX_KONG_SHIFT_STEP_LOAD:
        ngx_kong_shift_op_loaded(op);
        break;

    case NGX_KONG_SHIFT_STEP_SAVE:
        free(op->file.text);
        op->file.text = NULL;

        if (op->rc == NGX_OK) {
            ngx_kong_shift_op_saved(op);

        } else if (op->rc == NGX_DECLINED) {
            op->step = NGX_KONG_SHIFT_STEP_LOAD;
            ngx_kong_shift_op_post(op);

        } else if (op->rc == NGX_BUSY) {
            ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_BUSY);

        } else {
            ngx_kong_shift_op_not_saved(op);
        }

        break;
    }
}

#endif


static void
ngx_kong_shift_op_post(ngx_kong_shift_op_t *op)
{
#if (NGX_THREADS)

    ngx_thread_task_t  *task;

    task = ngx_thread_task_alloc(op->pool, sizeof(ngx_kong_shift_op_t *));

    if (task) {
        *(ngx_kong_shift_op_t **) task->ctx = op;
        task->handler = ngx_kong_shift_op_thread;
        task->event.handler = ngx_kong_shift_op_thread_done;
        task->event.data = op;

        op->file.renamed = 0;

        if (op->step == NGX_KONG_SHIFT_STEP_SAVE) {
            op->file.id = op->kcf->sh->file_id;
        }

        if (ngx_thread_task_post(op->kcf->thread_pool, task) == NGX_OK) {

            if (op->token) {
                ngx_add_timer(&op->timer, NGX_KONG_SHIFT_OP_HOLD);
            }

            return;
        }
    }

#endif

    free(op->file.text);
    op->file.text = NULL;

    ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_FAILED);
}


static void
ngx_kong_shift_op_checked(ngx_kong_shift_op_t *op)
{
    /* for a missing file the id is 0, as it is before the first save */

    if (op->rc == NGX_ERROR
        || ngx_kong_shift_same_file(&op->file.id, &op->kcf->sh->file_id))
    {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_DONE);
        return;
    }

    /* a writer of our own may be just between its two steps: wait for it */

    op->step = NGX_KONG_SHIFT_STEP_LOAD;

    ngx_kong_shift_op_try(op);
}


static void
ngx_kong_shift_op_loaded(ngx_kong_shift_op_t *op)
{
    ngx_kong_shift_file_id_t   id;
    ngx_kong_shift_snapshot_t  snap;

    if (op->rc == NGX_OK
        && !ngx_kong_shift_same_file(&op->file.id, &op->kcf->sh->file_id))
    {
        ngx_kong_shift_adopt(op->kcf, &op->file, op->log);

        if (op->published) {
            ngx_kong_shift_read(op->shift->record, &snap);
            op->state = snap.state;
        }
    }

    if (op->rc != NGX_OK) {
        ngx_log_error(NGX_LOG_ERR, op->log, op->file.err,
                      "kong_shift state file \"%s\" was changed by somebody "
                      "and cannot be used: %s; it will be written anew",
                      op->file.path,
                      op->rc == NGX_DECLINED ? "it is gone" : op->file.what);

        (void) ngx_kong_shift_file_stat(op->file.path, &id);

        ngx_shmtx_lock(&op->kcf->shpool->mutex);

        op->kcf->sh->file_id = id;
        ngx_kong_shift_mark_unsaved_locked(op->kcf->sh);

        ngx_shmtx_unlock(&op->kcf->shpool->mutex);
    }

    free(op->file.text);
    op->file.text = NULL;

    if (op->shift == NULL) {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_DONE);
        return;
    }

    if ((ngx_msec_int_t) (op->deadline - ngx_current_msec) <= 0) {
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_BUSY);
        return;
    }

    /* once more, on top of what the other nginx has done */

    op->step = NGX_KONG_SHIFT_STEP_SAVE;

    ngx_kong_shift_op_leased(op);
}


static void
ngx_kong_shift_op_saved(ngx_kong_shift_op_t *op)
{
    ngx_int_t                 rc;
    ngx_uint_t                i;
    ngx_kong_shift_conf_t    *kcf;
    ngx_kong_shift_record_t  *rec;

    kcf = op->kcf;
    rc = NGX_OK;

    if (op->shift && !op->published) {
        rc = ngx_kong_shift_op_publish(op, 1);
    }

    ngx_shmtx_lock(&kcf->shpool->mutex);

    if (ngx_kong_shift_is_replaced(kcf)) {
        ngx_shmtx_unlock(&kcf->shpool->mutex);
        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_REPLACED);
        return;
    }

    if (kcf->sh->token != op->token) {

        /* the lease was lost to somebody who may have saved before us */

        ngx_kong_shift_mark_unsaved_locked(kcf->sh);

        if (rc != NGX_OK) {
            ngx_kong_shift_outrun_locked(op->shift->record,
                                         op->state.generation);
        }

        ngx_shmtx_unlock(&kcf->shpool->mutex);

        ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_BUSY);
        return;
    }

    kcf->sh->file_id = op->file.id;
    kcf->sh->serial++;
    kcf->sh->retry_delay = 0;

    for (i = 0; i < op->nsaves; i++) {
        rec = &kcf->sh->record[i];

        rec->unsaved = (ngx_kong_shift_word_generation(rec->word)
                        != op->saves[i].state.generation);
        rec->ahead &= rec->unsaved;
    }

    if (rc != NGX_OK) {

        /* the change was refused, but it is in the file */

        ngx_kong_shift_outrun_locked(op->shift->record,
                                     op->state.generation);
    }

    if (op->shift) {
        op->saved = !op->shift->record->unsaved;
    }

    ngx_shmtx_unlock(&kcf->shpool->mutex);

    ngx_kong_shift_op_finish(op, rc == NGX_OK ? NGX_KONG_SHIFT_OP_DONE
                                              : NGX_KONG_SHIFT_OP_REFUSED);
}


static void
ngx_kong_shift_op_not_saved(ngx_kong_shift_op_t *op)
{
    ngx_kong_shift_shctx_t  *sh;

    sh = op->kcf->sh;

    ngx_log_error(NGX_LOG_ERR, op->log, op->file.err,
                  "kong_shift state file \"%s\" was not saved: %s failed",
                  op->file.path, op->file.what);

    if (op->file.renamed) {

        /* the state is in the file: put the one in force over it */

        ngx_shmtx_lock(&op->kcf->shpool->mutex);

        sh->file_id = op->file.id;
        ngx_kong_shift_mark_unsaved_locked(op->kcf->sh);

        if (op->shift && !op->published) {
            ngx_kong_shift_outrun_locked(op->shift->record,
                                         op->state.generation);
        }

        ngx_shmtx_unlock(&op->kcf->shpool->mutex);
    }

    if (op->shift && op->published) {
        sh->retry_delay = 0;
    }

    sh->retry_delay = sh->retry_delay ? ngx_min(sh->retry_delay * 2, 60000)
                                      : 1000;
    sh->next_retry = ngx_current_msec + sh->retry_delay;

    ngx_kong_shift_op_finish(op, NGX_KONG_SHIFT_OP_NOT_SAVED);
}


static void
ngx_kong_shift_op_timer(ngx_event_t *ev)
{
    ngx_connection_t     *dumb;
    ngx_kong_shift_op_t  *op;

    dumb = ev->data;
    op = dumb->data;

    if (op->token == 0) {
        ngx_kong_shift_op_try(op);
        return;
    }

    /* the thread is still at it */

    (void) ngx_kong_shift_lease_hold(op->kcf, op->token);

    ngx_add_timer(ev, NGX_KONG_SHIFT_OP_HOLD);
}


static void
ngx_kong_shift_op_finish(ngx_kong_shift_op_t *op,
    ngx_kong_shift_op_status_e status)
{
    ngx_kong_shift_snapshot_t  snap;

    if (op->token) {
        ngx_kong_shift_lease_drop(op->kcf, op->token);
        op->token = 0;
    }

    /* what is in force is done, saved or not */

    op->status = op->published ? NGX_KONG_SHIFT_OP_DONE : status;

    /* an abort may have had to outrun another nginx meanwhile */

    if (op->shift && op->published && ngx_kong_shift_op_is_abort(op)) {
        ngx_kong_shift_read(op->shift->record, &snap);

        if (snap.state.aborted) {
            op->state = snap.state;
        }
    }

    if (op->shift && op->published) {
        ngx_kong_shift_op_log(op);
    }

    op->handler(op);
}
