
/*
 * Copyright (C) kong-shift contributors
 */


#include "ngx_kong_shift.h"

#include <sys/file.h>


/*
 * These run in a thread too: nothing here logs, or touches a pool or the
 * configuration.
 */


#define NGX_KONG_SHIFT_FILE_MODE   0640
#define NGX_KONG_SHIFT_LOCK_TRIES  400     /* 10 ms apart */


static ngx_int_t ngx_kong_shift_file_write(ngx_kong_shift_file_t *file,
    int dir);
static ngx_int_t ngx_kong_shift_file_failed(ngx_kong_shift_file_t *file,
    const char *what);
static void ngx_kong_shift_file_id(const struct stat *st,
    ngx_kong_shift_file_id_t *id);


void
ngx_kong_shift_file_init(ngx_kong_shift_file_t *file, const char *path,
    char *buf)
{
    char  *slash;

    ngx_memzero(file, sizeof(ngx_kong_shift_file_t));

    ngx_cpystrn((u_char *) buf, (u_char *) path, NGX_KONG_SHIFT_PATH_SIZE);

    slash = strrchr(buf, '/');
    *slash = '\0';

    file->path = path;
    file->folder = (slash == buf) ? "/" : buf;
    file->name = slash + 1;
}


ngx_int_t
ngx_kong_shift_file_stat(const char *path, ngx_kong_shift_file_id_t *id)
{
    struct stat  st;

    ngx_memzero(id, sizeof(ngx_kong_shift_file_id_t));

    if (lstat(path, &st) == -1) {
        return (errno == ENOENT) ? NGX_DECLINED : NGX_ERROR;
    }

    ngx_kong_shift_file_id(&st, id);

    return NGX_OK;
}


ngx_int_t
ngx_kong_shift_file_load(ngx_kong_shift_file_t *file)
{
    int          fd;
    ssize_t      n;
    ngx_int_t    rc;
    struct stat  st;

    file->text = NULL;
    file->len = 0;

    /* a FIFO must not hold us up, nor a link lead us away */

    fd = open(file->path, O_RDONLY|O_NONBLOCK|O_NOFOLLOW|O_CLOEXEC);

    if (fd == -1) {
        if (errno == ENOENT) {
            ngx_memzero(&file->id, sizeof(ngx_kong_shift_file_id_t));
            return NGX_DECLINED;
        }

        return ngx_kong_shift_file_failed(file, "open()");
    }

    rc = NGX_ERROR;

    if (fstat(fd, &st) == -1) {
        (void) ngx_kong_shift_file_failed(file, "fstat()");
        goto done;
    }

    ngx_kong_shift_file_id(&st, &file->id);

    if (!S_ISREG(st.st_mode) || st.st_size > NGX_KONG_SHIFT_FILE_MAX) {
        file->err = 0;
        file->what = S_ISREG(st.st_mode) ? "it is larger than 4 MiB"
                                         : "it is not a regular file";
        goto done;
    }

    file->text = malloc((size_t) st.st_size + 1);

    if (file->text == NULL) {
        (void) ngx_kong_shift_file_failed(file, "malloc()");
        goto done;
    }

    while (file->len < (size_t) st.st_size) {

        n = read(fd, file->text + file->len,
                 (size_t) st.st_size - file->len);

        if (n == -1 && errno == EINTR) {
            continue;
        }

        if (n == -1) {
            (void) ngx_kong_shift_file_failed(file, "read()");
            goto done;
        }

        if (n == 0) {
            break;
        }

        file->len += (size_t) n;
    }

    rc = NGX_OK;

done:

    (void) close(fd);

    if (rc != NGX_OK) {
        free(file->text);
        file->text = NULL;
    }

    return rc;
}


ngx_int_t
ngx_kong_shift_file_save(ngx_kong_shift_file_t *file)
{
    int                        dir;
    ngx_int_t                  rc;
    ngx_uint_t                 i;
    struct stat                st;
    ngx_kong_shift_file_id_t   id;

    dir = open(file->folder, O_RDONLY|O_DIRECTORY|O_CLOEXEC);

    if (dir == -1) {
        return ngx_kong_shift_file_failed(file, "open() of the folder");
    }

    /*
     * The lease is known to the workers of one master only.  During a binary
     * upgrade there are two, so the last word is a lock that they share and
     * that the kernel gives back whatever happens.
     */

    for (i = 0; flock(dir, LOCK_EX|LOCK_NB) == -1; i++) {

        if (errno != EWOULDBLOCK && errno != EINTR) {
            rc = ngx_kong_shift_file_failed(file, "flock() of the folder");
            goto done;
        }

        if (i == NGX_KONG_SHIFT_LOCK_TRIES) {
            rc = NGX_BUSY;
            goto done;
        }

        ngx_msleep(10);
    }

    ngx_memzero(&id, sizeof(ngx_kong_shift_file_id_t));

    if (fstatat(dir, file->name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        ngx_kong_shift_file_id(&st, &id);

    } else if (errno != ENOENT) {
        rc = ngx_kong_shift_file_failed(file, "stat()");
        goto done;
    }

    /* a removed file takes nothing from us, another one may */

    if (id.inode && !ngx_kong_shift_same_file(&id, &file->id)) {
        rc = NGX_DECLINED;
        goto done;
    }

    rc = ngx_kong_shift_file_write(file, dir);

done:

    (void) close(dir);

    return rc;
}


static ngx_int_t
ngx_kong_shift_file_write(ngx_kong_shift_file_t *file, int dir)
{
    int           fd;
    char          temp[NGX_KONG_SHIFT_PATH_SIZE + sizeof(".tmp")];
    size_t        done;
    ssize_t       n;
    const char   *what;
    struct stat   st;

    *ngx_snprintf((u_char *) temp, sizeof(temp) - 1, "%s.tmp", file->name)
        = '\0';

    /* of a worker that was killed, as the lock is ours */

    (void) unlinkat(dir, temp, 0);

    fd = openat(dir, temp, O_WRONLY|O_CREAT|O_EXCL|O_NOFOLLOW|O_CLOEXEC,
                NGX_KONG_SHIFT_FILE_MODE);

    if (fd == -1) {
        return ngx_kong_shift_file_failed(file, "open() of the .tmp file");
    }

    for (done = 0; done < file->len; done += (size_t) n) {

        n = write(fd, file->text + done, file->len - done);

        if (n == -1 && errno == EINTR) {
            n = 0;
            continue;
        }

        if (n == -1) {
            what = "write()";
            goto failed;
        }
    }

    if (fsync(fd) == -1) {
        what = "fsync()";
        goto failed;
    }

    if (fstat(fd, &st) == -1) {
        what = "fstat()";
        goto failed;
    }

    if (renameat(dir, temp, dir, file->name) == -1) {
        what = "rename()";
        goto failed;
    }

    file->renamed = 1;
    ngx_kong_shift_file_id(&st, &file->id);

    (void) close(fd);

    if (fsync(dir) == -1) {
        return ngx_kong_shift_file_failed(file, "fsync() of the folder");
    }

    return NGX_OK;

failed:

    (void) ngx_kong_shift_file_failed(file, what);

    (void) close(fd);
    (void) unlinkat(dir, temp, 0);

    return NGX_ERROR;
}


static ngx_int_t
ngx_kong_shift_file_failed(ngx_kong_shift_file_t *file, const char *what)
{
    file->err = errno;
    file->what = what;

    return NGX_ERROR;
}


static void
ngx_kong_shift_file_id(const struct stat *st, ngx_kong_shift_file_id_t *id)
{
    id->inode = (uint64_t) st->st_ino;
    id->sec = (int64_t) st->st_mtim.tv_sec;
    id->nsec = (int64_t) st->st_mtim.tv_nsec;
    id->size = (int64_t) st->st_size;
}
