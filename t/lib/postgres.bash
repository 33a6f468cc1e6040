# A private PostgreSQL for tests and the demo. To be sourced.
#
#   pg_start [PARENT]   new cluster in a new directory below PARENT (default ${TMPDIR:-/tmp}), started; sets
#                         PGHOST, PGPORT   address and port (loopback)
#                         PG_SUPERUSER     name of the superuser
#                         PG_PASSFILE      passfile holding its password
#                         PG_DIR           directory of all of it; holds the Unix socket and server.log
#                         PG_BIN           directory of the server's and the client's programs
#   pg_psql ARG...      psql as the superuser (-X -q -A -t, stops at the first error)
#   pg_role NAME PASS   creates a login role that may create databases; PASS goes over stdin, not argv
#   pg_stop             stops and removes everything; may be called twice, from a trap, or without pg_start
#   free_port           prints a loopback port nobody listens on, below the range of outgoing connections
#
# The variables are not exported: a tool under test must find the database by its own settings.
# Callers: trap pg_stop EXIT; trap 'exit 130' INT; trap 'exit 143' TERM

free_port() {
    local port
    while :; do
        # $RANDOM is seeded alike in subshells forked together; SRANDOM is not.
        port=$((10000 + SRANDOM % 22000))
        (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
    done
    printf '%s\n' "$port"
}

# PostgreSQL refuses to run as root.
pg_as() {
    if [ "$(id -u)" -ne 0 ]; then
        "$@"
        return
    fi
    setpriv --reuid=postgres --regid=postgres --init-groups --reset-env -- "$@"
}

# Sets PG_DIR to a new directory the server's user can work in. A checkout below /root is closed to that user, and the
# path of a Unix socket must fit in 107 bytes: then /tmp takes over.
pg_make_dir() {
    local parent dir
    for parent in "$1" /tmp; do
        dir=$(mktemp -d "$parent/pg.XXXXXX") || continue
        if [ "$(id -u)" -eq 0 ]; then
            chown postgres:postgres "$dir"
        fi
        if [ "${#dir}" -le 80 ] && pg_as test -w "$dir"; then
            PG_DIR=$dir
            return 0
        fi
        rm -rf -- "$dir"
    done
    printf 'postgres.bash: no usable directory below %s or /tmp\n' "$1" >&2
    return 1
}

pg_start() {
    local parent=${1:-${TMPDIR:-/tmp}} password try
    PG_BIN=$(find /usr/lib/postgresql/*/bin -maxdepth 0 2>/dev/null | sort -V | tail -n 1)
    if [ -z "$PG_BIN" ] || [ ! -x "$PG_BIN/initdb" ]; then
        printf 'postgres.bash: no /usr/lib/postgresql/*/bin/initdb; install the package postgresql\n' >&2
        return 1
    fi
    mkdir -p -- "$parent"
    parent=$(cd -- "$parent" && pwd)
    pg_make_dir "$parent" || return 1

    PGHOST=127.0.0.1
    PG_SUPERUSER=kong_super
    PG_PASSFILE=$PG_DIR/passfile
    password=$(od -An -N16 -tx1 /dev/urandom | tr -d ' \n')
    (umask 077 && printf '*:*:*:%s:%s\n' "$PG_SUPERUSER" "$password" >"$PG_PASSFILE")

    # cat reads the pipe, since another user may not reopen /dev/stdin of root.
    # shellcheck disable=SC2016
    if ! (cd / && printf '%s\n' "$password" | pg_as bash -c '
        set -eu; umask 077; cat >"$1/pwfile"
        "$2/initdb" -D "$1/data" -U "$3" --auth=scram-sha-256 --pwfile="$1/pwfile" --no-sync --encoding=UTF8 --locale=C
        rm -- "$1/pwfile"' - "$PG_DIR" "$PG_BIN" "$PG_SUPERUSER") >"$PG_DIR/initdb.log" 2>&1; then
        cat -- "$PG_DIR/initdb.log" >&2
        pg_stop
        return 1
    fi

    # Another process may take the port between the look and the bind.
    for try in 1 2 3 4 5; do
        PGPORT=$(free_port)
        if pg_launch; then
            return 0
        fi
        [ "$try" -lt 5 ] || cat -- "$PG_DIR/server.log" >&2
    done
    printf 'postgres.bash: PostgreSQL did not start in %s\n' "$PG_DIR" >&2
    pg_stop
    return 1
}

# Nothing here outlives the run, so nothing needs to survive a power cut: fsync is off. Shared memory stays below the
# data directory, so removing that is enough even after a hard kill.
pg_launch() (
    cd /
    local fd
    for fd in /proc/self/fd/*; do
        fd=${fd##*/}
        # bats waits for every holder of its descriptors, a server included.
        if [ "$fd" -gt 2 ]; then eval "exec $fd>&-"; fi
    done
    pg_as "$PG_BIN/pg_ctl" start -w -t 60 -s -D "$PG_DIR/data" -l "$PG_DIR/server.log" -o "-h $PGHOST -p $PGPORT -k $PG_DIR \
-c fsync=off -c synchronous_commit=off -c full_page_writes=off -c max_connections=200 -c shared_buffers=32MB \
-c dynamic_shared_memory_type=mmap -c timezone=UTC" </dev/null >/dev/null 2>&1
)

# shellcheck disable=SC2120
pg_psql() {
    PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=$PG_SUPERUSER PGPASSFILE=$PG_PASSFILE PGDATABASE=${PGDATABASE:-postgres} \
        "$PG_BIN/psql" -X -q -A -t -v ON_ERROR_STOP=1 "$@"
}

pg_role() {
    # shellcheck disable=SC2119
    pg_psql <<SQL
CREATE ROLE "${1//\"/\"\"}" LOGIN CREATEDB PASSWORD '${2//\'/\'\'}';
SQL
}

pg_stop() {
    local dir=${PG_DIR:-}
    PG_DIR=
    [ -n "$dir" ] || return 0
    if [ -f "$dir/data/postmaster.pid" ]; then
        (cd / && pg_as "$PG_BIN/pg_ctl" stop -w -t 20 -s -m fast -D "$dir/data" ||
            pg_as "$PG_BIN/pg_ctl" stop -w -t 20 -s -m immediate -D "$dir/data") >/dev/null 2>&1 || :
    fi
    rm -rf -- "$dir"
}
