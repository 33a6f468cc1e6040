# What the tests of kong-shift run on: PostgreSQL, CP X with a configuration,
# nginx with the module in front of both Admin APIs. To be sourced by a .bats file:
#
#   setup_file()    { world_start; }            # or world_start 2.8.5 3.4.2; or world_balancer
#   setup()         { world_reset; }
#   teardown_file() { world_stop; }
#
# KONG_X and KONG_Y name two other kong executables, taken where their versions fit.

ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)

die() {
    printf '%s\n' "$1" >&2
    exit 1
}

# shellcheck source=/dev/null
. "$ROOT/t/lib/postgres.bash"
# shellcheck source=/dev/null
. "$ROOT/t/demo/nodes.bash"

NGINX=${TEST_NGINX_BINARY:-/usr/sbin/nginx}
# Odd, and harmless: it never meets a shell.
# shellcheck disable=SC2016
PASSWORD='s3:cr\et $(touch x);'"'"
Y_NAME="kong y'\"\$(id);x"

world_folder() {
    # PostgreSQL, as another user, must reach it.
    RUN=$(mktemp -d /tmp/kong-shift-cli.XXXXXX)
    chmod 755 "$RUN"
    printf '%s' "$RUN" >"$BATS_FILE_TMPDIR/run"
    # No other file that is run meanwhile has this one.
    PASSWORD+=${RUN##*.}
    pick_ports shift dp
}

# Only the load balancer: for what needs no Kong.
world_balancer() {
    world_folder
    pick_ports cp_x.admin cp_y.admin
    world_nginx
    world_save
}

# world_start [X Y]: of these versions.
world_start() {
    world_folder
    world_kong "$@"
    world_environment
    X_VERSION=$(node_version x)
    Y_VERSION=$(node_version y)

    make_cluster_cert
    pg_start "$RUN" 3>&-
    pg_role kong "$PASSWORD"
    pg_psql -c 'CREATE DATABASE kong_x OWNER kong'
    write_cp_conf cp_x kong_x "$PASSWORD"
    write_cp_conf cp_y "$Y_NAME" "$PASSWORD"
    # shellcheck disable=SC2016
    (umask 077 && printf '%s:*:*:kong:s3\:cr\\\\et $(touch x);'\''%s\n' "$PGHOST" "${RUN##*.}" localhost "${RUN##*.}" >"$RUN/passfile")

    kong_run x migrations bootstrap -c "$RUN/cp_x.conf"
    kong_run x start -c "$RUN/cp_x.conf" 3>&-
    wait_cp cp_x
    world_seed
    world_nginx
    world_keep
    world_save
}

# What a test may change, and the next gets back.
world_keep() {
    mkdir -p "$RUN/kept"
    cp "$RUN"/cp_?.conf "$RUN/cluster.crt" "$RUN/kept"
    as_super pg_dump -Fc -f "$RUN/x.dump" kong_x
    digest_x >"$RUN/x.digest"
}

# Nothing that Kong would take for a setting: it goes by the environment first.
world_environment() {
    local name
    for name in "${!KONG_@}"; do
        [[ $name = KONG_SHIFT_LONG ]] || unset "$name"
    done
}

# KONG_X and KONG_Y, unless a test wants other versions than they are.
world_kong() {
    KONG[x]=$(realpath "${KONG_X:-$ROOT/t/kong/${1:-3.8.1}/kong}")
    KONG[y]=$(realpath "${KONG_Y:-$ROOT/t/kong/${2:-3.9.3}/kong}")
    if (( $# == 2 )) && [[ "$(node_version x) $(node_version y)" != "$1 $2" ]]; then
        KONG[x]=$ROOT/t/kong/$1/kong
        KONG[y]=$ROOT/t/kong/$2/kong
    fi
}

world_seed() {
    local i
    seed cp_x /services name=orders url=http://127.0.0.1:9/
    seed cp_x /services/orders/routes name=orders paths[]=/orders
    for i in 1 2 3; do
        seed cp_x /consumers username="team-$i" tags[]=seed
    done
}

world_nginx() {
    mkdir -p "$RUN/nginx/logs" "$RUN/state"
    if (( EUID == 0 )); then chown nobody "$RUN/state"; fi
    cat >"$RUN/nginx/nginx.conf" <<EOF
$( (( EUID != 0 )) || echo 'user nobody nogroup;')
load_module $ROOT/build/ngx_kong_shift_module.so;
worker_processes 2;
pid nginx.pid;
error_log logs/error.log;
kong_shift_zone auto state=$RUN/state/state.json;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;
    upstream dp_old { server 127.0.0.1:${PORT[dp]}; }
    upstream dp_new { server 127.0.0.1:${PORT[dp]}; }
    upstream kong  { kong_shift old=dp_old new=dp_new weight=0; kong_shift_gate on; }
    upstream other { kong_shift old=dp_old new=dp_new weight=0; }
    server {
        listen 127.0.0.1:${PORT[shift]};
        location /shift/    { kong_shift_api write=on; }
        location /readonly/ { kong_shift_api; }
        location /admin-x/  { kong_shift_freeze kong; access_log admin.log; proxy_pass http://127.0.0.1:${PORT[cp_x.admin]}/; }
        location /admin-y/  { kong_shift_freeze kong; access_log admin.log; proxy_pass http://127.0.0.1:${PORT[cp_y.admin]}/; }
        location /deaf-y/   { limit_except GET DELETE { deny all; } proxy_pass http://127.0.0.1:${PORT[cp_y.admin]}/; }
        location /api/      { proxy_pass http://kong/; proxy_http_version 1.1; proxy_set_header Upgrade \$http_upgrade; }
        location /page/     { return 200 "hello"; }
        location /open-x/   { proxy_pass http://127.0.0.1:${PORT[cp_x.admin]}/; }
    }
}
EOF
    "$NGINX" -p "$RUN/nginx" -c nginx.conf -e logs/error.log 3>&- 2>"$RUN/nginx/start.log"
}

# bats runs each test in a process of its own: what it must know goes by file.
world_save() {
    declare -p RUN PASSWORD KONG PORT X_VERSION Y_VERSION PGHOST PGPORT PG_SUPERUSER PG_PASSFILE PG_DIR PG_BIN \
        2>/dev/null | sed 's/^declare -\([^ ]*\)/declare -g\1/' | sed 's/-g-/-g/' >"$RUN/world"
}

# What was saved, and where this test keeps its own things.
world_enter() {
    # shellcheck source=/dev/null
    . "$(<"$BATS_FILE_TMPDIR/run")/world"
    SHIFT=http://127.0.0.1:${PORT[shift]}/shift/shifts/kong
    WORK=$BATS_TEST_TMPDIR/work
    CONF=$BATS_TEST_TMPDIR/kong-shift.conf
    world_environment
    # Not Debian's wrappers of psql and its like: they take longer than what they wrap.
    [[ :$PATH: = *:${PG_BIN-}:* ]] || PATH=$PG_BIN:$PATH
}

# Before each test: X as it was, no Y, everything to the old pool.
world_reset() {
    world_enter
    if [[ -d $RUN/cp_y ]]; then stop_y; fi
    rm -rf "$RUN/cp_y"
    cp "$RUN"/kept/* "$RUN"
    drop_y
    x_is_as_it_was || x_again
    put freeze '{"state":"off"}'
    put gate '{"state":"closed"}'
    cat >"$CONF" <<EOF
# as a person would write it
lb      = http://127.0.0.1:${PORT[shift]}/shift
x.kong  = ${KONG[x]}
y.kong  = ${KONG[y]}
y.conf  = $RUN/cp_y.conf
y.prefix = $RUN/cp_y
x.conf  = $RUN/cp_x.conf
x.admin = http://127.0.0.1:${PORT[shift]}/admin-x   # through the freeze
y.admin = http://127.0.0.1:${PORT[shift]}/admin-y
x.db.host = $PGHOST
x.db.port = $PGPORT
x.db.name = kong_x
y.db.name = $Y_NAME
passfile = $RUN/passfile
work_dir = $WORK
EOF
}

world_stop() {
    local run
    run=$(<"$BATS_FILE_TMPDIR/run")
    if [[ -f $run/world ]]; then
        # shellcheck source=/dev/null
        . "$run/world"
        [[ ! -d $RUN/cp_y ]] || stop_y
        [[ ! -d $RUN/cp_x ]] || stop_x
        "$NGINX" -p "$RUN/nginx" -c nginx.conf -e logs/error.log -s stop 2>/dev/null || true
        pg_stop
    fi
    rm -rf "$run"
}

stop_x() {
    "${KONG[x]}" stop -p "$RUN/cp_x" >/dev/null 2>&1 || true
}

x_answers() { curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_x.admin]}/"; }

x_is_as_it_was() {
    local found
    x_answers && [[ $(pg_psql -c "SELECT count(*) FROM pg_database WHERE datname LIKE 'kong_x%'") = 1 ]] || return 1
    found=$(PGDATABASE=kong_x pg_psql -c 'DELETE FROM locks' -c 'DELETE FROM clustering_data_planes' -c "SELECT count(*) FROM pg_class
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace AND NOT has_table_privilege('kong', oid, 'INSERT')") || return 1
    [[ $found = 0 && $(digest_x) = "$(<"$RUN/x.digest")" ]]
}

# Its database anew.
x_again() {
    stop_x
    pg_psql <<'SQL' >/dev/null
SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database WHERE datname LIKE 'kong_x%' \gexec
CREATE DATABASE kong_x OWNER kong;
SQL
    as_super pg_restore -d kong_x "$RUN/x.dump"
    node_start x cp_x 3>&-
    wait_cp cp_x
}

stop_y() {
    "${KONG[y]}" stop -p "$RUN/cp_y" >/dev/null 2>&1 || true
}

drop_y() {
    pg_psql <<'SQL' >/dev/null
SELECT format('DROP DATABASE %I WITH (FORCE)', datname) FROM pg_database
WHERE datname LIKE 'kong y%' \gexec
ALTER ROLE kong CREATEDB NOSUPERUSER;
SQL
}

put() {
    curl -s -f -o /dev/null -X PUT -d "$2" "$SHIFT/$1"
}

get() {
    curl -s -f "$SHIFT/$1" | jq -r "$2"
}

# set_conf KEY VALUE: replaces, or adds, a line of the settings.
set_conf() {
    local line rest=()
    while IFS= read -r line; do
        [[ $line =~ ^$1[[:space:]]*= ]] || rest+=("$line")
    done <"$CONF"
    printf '%s\n' "${rest[@]}" "$1 = $2" >"$CONF"
}

kong_shift() {
    "$ROOT/scripts/kong-shift" --config "$CONF" --yes "$@" </dev/null 3>&-
}

# ks CODE ARG...: kong-shift, which must end with CODE.
ks() {
    local code=$1
    shift
    run kong_shift "$@"
    echo "$* ($status): $output"
    [ "$status" -eq "$code" ]
}

# says TEXT: it did.
says() { [[ $output == *"$1"* ]] || { echo "not said: $1"; return 1; }; }

# check CODE TEXT ARG...: kong-shift ends with that code, and says that text.
check() {
    ks "$1" "${@:3}"
    says "$2"
}

# journal_has FILTER: some line of the journal is so.
journal_has() { jq -es "any(.[]; $1)" "$WORK/journal.jsonl" >/dev/null; }

# plan CODE [ARG]...: JSON into PLAN.
plan() {
    local code=$1
    shift
    PLAN=$(kong_shift --json plan "$@") && status=0 || status=$?
    jq -r '.guards[] | "\(.result) \(.guard): \(.found) \(.warnings | join("; "))"' <<<"$PLAN"
    [ "$status" -eq "$code" ]
}

# guard NAME RESULT TEXT: what the plan says of a guard, its warnings included.
guard() {
    jq -e --arg guard "$1" --arg result "$2" --arg text "${3-}" \
        '.guards[] | select(.guard == $guard) | .result == $result and ("\(.found) \(.warnings)" | contains($text))' <<<"$PLAN" \
        || { echo "not so: $*"; return 1; }
}

# refused_alone GUARD TEXT: this guard says no, and no other does.
refused_alone() {
    guard "$1" refused "$2"
    [ "$(jq -r '[.guards[] | select(.result != "ok") | .guard] | join(" ")' <<<"$PLAN")" = "$1" ]
}

# watch_arguments: looks for the password in every process's arguments, until nothing_seen.
watch_arguments() {
    printf '%s\n' "$PASSWORD" >"$BATS_TEST_TMPDIR/pattern"
    : >"$BATS_TEST_TMPDIR/seen"
    {
        SECONDS=0
        while [[ ! -e $BATS_TEST_TMPDIR/watched && $SECONDS -lt 600 ]]; do
            { grep -a -l -F -f "$BATS_TEST_TMPDIR/pattern" /proc/[0-9]*/cmdline 2>/dev/null || true; } \
                | while IFS= read -r process; do { tr '\0' ' ' <"$process"; echo; } >>"$BATS_TEST_TMPDIR/seen" 2>/dev/null || true; done
            sleep 0.02
        done
    } 3>&- &
    WATCHER=$!
}

nothing_seen() {
    touch "$BATS_TEST_TMPDIR/watched"
    wait "$WATCHER"
    cat "$BATS_TEST_TMPDIR/seen"
    [ ! -s "$BATS_TEST_TMPDIR/seen" ]
}

# sql_x SQL, sql_y SQL: as the superuser.
sql_x() { PGDATABASE=kong_x pg_psql -c "$1"; }
sql_y() { PGDATABASE=$Y_NAME pg_psql -c "$1"; }

# Digest of what the script must not change in X.
digest_x() {
    PGDATABASE=kong_x pg_psql <<'SQL' | md5sum
SELECT format('SELECT %L, md5(string_agg(t::text, chr(10) ORDER BY t::text)) FROM %s t', oid::regclass, oid::regclass)
FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
    AND relname NOT IN ('clustering_data_planes', 'cluster_events', 'locks') ORDER BY relname \gexec
SQL
}

# as_super TOOL ARG...
as_super() { PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=$PG_SUPERUSER PGPASSFILE=$PG_PASSFILE "$PG_BIN/$1" "${@:2}"; }

# in_place_reset: instead of world_reset; the settings mean in-place.
in_place_reset() {
    Y_NAME=kong_x
    world_reset
    sed -i 's/^pg_database = .*/pg_database = kong_x/' "$RUN/cp_y.conf"
    set_conf x.prefix "$RUN/cp_x"
    sed -i '/^y.db.name/d' "$CONF"
}
