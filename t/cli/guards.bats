#!/usr/bin/env bats
#
# Guards that need another world than plan.bats has, or another step than plan.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown()      { [[ ! -s $BATS_TEST_TMPDIR/stub.pid ]] || kill "$(<"$BATS_TEST_TMPDIR/stub.pid")"; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# y_conf SED: a y.conf of its own, edited.
y_conf() {
    sed "$1" "$RUN/cp_y.conf" >"$BATS_TEST_TMPDIR/cp_y.conf"
    set_conf y.conf "$BATS_TEST_TMPDIR/cp_y.conf"
}

# x_says JSON: from now on that is what x.admin answers to GET /.
x_says() {
    local port
    mkdir -p "$BATS_TEST_TMPDIR/stub"
    printf '%s' "$1" >"$BATS_TEST_TMPDIR/stub/index.html"
    [[ ! -s $BATS_TEST_TMPDIR/stub.pid ]] || return 0
    port=$(free_port)
    python3 -m http.server --bind 127.0.0.1 --directory "$BATS_TEST_TMPDIR/stub" "$port" >/dev/null 2>&1 3>&- &
    echo $! >"$BATS_TEST_TMPDIR/stub.pid"
    set_conf x.admin "http://127.0.0.1:$port"
    until curl -s -o /dev/null "http://127.0.0.1:$port/"; do sleep 0.05; done
}

@test "tools: one that is not installed is named" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    ln -s /usr/bin/* "$PG_BIN"/* "$BATS_TEST_TMPDIR/bin" 2>/dev/null || true
    PATH=$BATS_TEST_TMPDIR/bin plan 0
    rm "$BATS_TEST_TMPDIR/bin/openssl"
    PATH=$BATS_TEST_TMPDIR/bin plan 1
    guard tools failed 'the command openssl is not installed'
}

@test "x-database, x-node: a database that is not Kong's, or not that of CP X" {
    set_conf x.db.name postgres
    plan 3
    guard x-database refused 'has no table schema_meta'
    guard x-node refused 'works on database kong_x, but x.db.name is postgres'
}

@test "x-node: no control plane, or no Kong at all" {
    x_says '{"version":"'"$X_VERSION"'","configuration":{"role":"traditional","pg_database":"kong_x"}}'
    plan 3
    guard x-node refused 'has role traditional, not control_plane'
    x_says '{"hello":"world"}'
    plan 4
    guard x-node unknown "this is not Kong's Admin API"
    x_says 'hello'
    plan 4
    guard x-node unknown "this is not Kong's Admin API"
}

@test "y-node: a CP Y that is up is of that version" {
    set_conf y.admin "http://127.0.0.1:${PORT[shift]}/admin-x"
    plan 3
    guard y-node refused "is Kong $X_VERSION, but y.kong is $Y_VERSION"
}

@test "y-conf: a role that is no control plane's is refused; what hides things is warned of" {
    y_conf 's/^role = .*/role = data_plane/'
    plan 3
    guard y-conf refused 'says role = data_plane'
    y_conf 's/^status_listen = .*/status_listen = off/; $a headers = off'
    plan 0
    guard y-conf ok 'headers = off'
    guard y-conf ok 'status_listen = off'
}

@test "y-database: who may not create it is refused" {
    pg_psql -c 'ALTER ROLE kong NOCREATEDB'
    plan 3
    refused_alone y-database 'may not create it; create it, owned by kong, or set y.db.admin'
}

@test "balancers: a gate that is off is warned of" {
    set_conf shift other
    plan 0
    guard balancers ok 'kong_shift_gate is off'
}

@test "certificate: with a CA of their own, Y's must be of X's CA" {
    local ca=$BATS_TEST_TMPDIR/ca y=$BATS_TEST_TMPDIR/y
    says() {
        x_says "$(jq -nc --arg version "$X_VERSION" --arg cert "$ca.crt" --arg ca "$1" \
            '{$version, configuration: {role: "control_plane", pg_database: "kong_x", cluster_mtls: "pki", cluster_cert: $cert, cluster_ca_cert: $ca}}')"
    }
    for name in ca other; do
        openssl req -new -x509 -nodes -days 30 -subj "/CN=$name" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
            -keyout "$BATS_TEST_TMPDIR/$name.key" -out "$BATS_TEST_TMPDIR/$name.crt" 2>/dev/null
    done
    openssl req -new -nodes -subj /CN=cp-y -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout "$y.key" -out "$y.csr" 2>/dev/null
    openssl x509 -req -days 30 -in "$y.csr" -CA "$ca.crt" -CAkey "$ca.key" -CAcreateserial -out "$y.crt" 2>/dev/null
    y_conf "s|^cluster_cert = .*|cluster_cert = $y.crt|; \$a cluster_mtls = pki"
    says "$ca.crt"
    plan 4
    guard certificate ok pki
    y_conf "s|^cluster_cert = .*|cluster_cert = $BATS_TEST_TMPDIR/other.crt|; \$a cluster_mtls = pki"
    plan 3
    guard certificate refused 'is not of the CA of CP X'
    says /nonexistent
    plan 4
    guard certificate unknown 'cluster_ca_cert of CP X (/nonexistent) cannot be read here'
}

@test "freeze = revoke: of a CP X that comes as another role it is of no use" {
    set_conf freeze revoke
    x_says '{"version":"'"$X_VERSION"'","configuration":{"role":"control_plane","pg_database":"kong_x","pg_user":"other"}}'
    plan 3
    guard freeze refused other
}

@test "rollback stops no node that is not CP Y" {
    set_conf y.admin "http://127.0.0.1:${PORT[shift]}/admin-x"
    check 3 'so it is not CP Y and is left alone; mend y.admin' cp rollback
    x_answers
}

@test "a copy that must be made anew is not, while requests go to the new pool" {
    check 0 '' cp dual-cluster
    kong_shift weight 5 >/dev/null
    sql_x 'UPDATE services SET retries = retries + 1'
    check 3 'requests already go to the new pool; take them away first: kong-shift abort' cp dual-cluster
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 3 ]
    kong_shift abort >/dev/null
    pg_psql -c 'ALTER ROLE kong NOCREATEDB'
    check 3 'may not create databases; drop it and create it empty' cp restore
    pg_psql -c 'ALTER ROLE kong CREATEDB'
    check 0 'the earlier database is kept as' cp dual-cluster
}

@test "work_dir: where it cannot be, and a journal that cannot be written, end it before anything is changed" {
    set_conf work_dir /dev/null/work
    check 1 'work_dir "/dev/null/work" cannot be made' cp freeze
    [ "$(wc -l <<<"$output")" = 1 ]
    [ "$(get freeze .state)" = off ]
    set_conf work_dir "$WORK"
    mkdir -m 700 "$WORK" "$WORK/journal.jsonl"
    check 1 'cannot be written; nothing is done without it' cp freeze
    [ "$(grep -c '^kong-shift: ' <<<"$output")" = 1 ]
    [ "$(get freeze .state)" = off ]
    rmdir "$WORK/journal.jsonl"
    # Read-only even for root.
    mkdir "$BATS_TEST_TMPDIR/read only"
    if unshare -m true 2>/dev/null; then
        set_conf work_dir "$BATS_TEST_TMPDIR/read only/work"
        run unshare -m bash -c 'mount -t tmpfs -o ro none "$1" && shift && exec "$@" </dev/null 3>&-' - "$BATS_TEST_TMPDIR/read only" \
            "$ROOT/scripts/kong-shift" -c "$CONF" --yes cp freeze
        echo "$output"
        [ "$status" -eq 1 ]
        [[ $output == *'cannot be made: '*'Read-only file system'* ]]
    fi
    [ "$(get freeze .state)" = off ]
    set_conf work_dir "$WORK"
    check 0 'freeze' cp freeze
}
