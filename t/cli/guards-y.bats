#!/usr/bin/env bats
#
# Guards of "kong-shift plan" about what is to come: ports and DPs of Y, clients,
# sizes, clocks. Each says no, and does not.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_start 3.5.0 3.6.1; }
setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_reset
    sql_x 'DELETE FROM clustering_data_planes; DELETE FROM plugins'
    [[ "$X_VERSION $Y_VERSION" = '3.5.0 3.6.1' ]] || skip 'of 3.5.0 -> 3.6.1'
    cp "$RUN/cp_y.conf" "$BATS_TEST_TMPDIR/cp_y.conf"
    set_conf y.conf "$BATS_TEST_TMPDIR/cp_y.conf"
}
teardown()      { [[ ! ${LISTENER-} ]] || kill "$LISTENER" 2>/dev/null || true; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# not_said GUARD TEXT
not_said() { ! guard "$1" ok "$2" >/dev/null 2>&1; }

y_conf() { sed -i "/^$1 *=/d" "$BATS_TEST_TMPDIR/cp_y.conf"; echo "$1 = $2" >>"$BATS_TEST_TMPDIR/cp_y.conf"; }

# listen PORT: until the end of the test.
listen() {
    /usr/bin/python3 -c 'import socket, sys, time
s = socket.create_server(("127.0.0.1", int(sys.argv[1])))
time.sleep(300)' "$1" 3>&- &
    LISTENER=$!
    for _ in {1..50}; do
        ! (exec 4<>"/dev/tcp/127.0.0.1/$1") 2>/dev/null || return 0
        sleep 0.1
    done
}

# in_place_conf: the settings mean in-place.
in_place_conf() {
    sed -i '/^y.db.name/d' "$CONF"
    set_conf x.prefix "$RUN/cp_x"
    y_conf pg_database kong_x
}

@test "ports: free is fine; taken is not, unless forced; not known is said" {
    plan 0
    guard ports ok "free: 127.0.0.1:"
    listen "${PORT[cp_y.cluster]}"
    plan 3
    refused_alone ports "listens already where CP Y is to: 127.0.0.1:${PORT[cp_y.cluster]}; give CP Y ports"
    plan 0 --force ports
    guard ports forced
    kill "$LISTENER"

    # Kong's own settings, where none are set: CP X is there already.
    listen 8001
    y_conf admin_listen ''
    plan 3
    guard ports refused '127.0.0.1:8001'
    kill "$LISTENER"
    y_conf admin_listen "127.0.0.1:${PORT[cp_y.admin]}"

    sed -i '/^y.conf/d' "$CONF"
    plan 4
    guard ports ok 'the ports of CP Y are not known'
}

@test "ports: in-place those of CP X will be free" {
    in_place_conf
    y_conf admin_listen "127.0.0.1:${PORT[cp_x.admin]}"
    plan 0
    guard ports ok free
    listen "${PORT[cp_y.cluster]}"
    plan 3
    refused_alone ports "127.0.0.1:${PORT[cp_y.cluster]}"
}

@test "clock: another time on the server of the database" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/psql" <<END
#!/bin/bash
$PG_BIN/psql "\$@" < <(sed 's/clock_timestamp()/clock_timestamp() - interval '"'42 s'"'/')
END
    chmod +x "$BATS_TEST_TMPDIR/bin/psql"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH plan 3
    refused_alone clock 'is -42 s from the one here'
    plan 0
    guard clock ok
}

@test "y-database: the role of Y must be there, be able to log in, and be one that y.db.admin may be" {
    pg_psql -c "CREATE ROLE kong_admin LOGIN CREATEDB PASSWORD 'x'"
    cat "$RUN/passfile" >"$BATS_TEST_TMPDIR/passfile"
    echo '*:*:*:kong_admin:x' >>"$BATS_TEST_TMPDIR/passfile"
    chmod 600 "$BATS_TEST_TMPDIR/passfile"
    set_conf passfile "$BATS_TEST_TMPDIR/passfile"
    set_conf y.db.admin kong_admin
    plan 3
    refused_alone y-database 'may not act as kong of y.db.user'
    pg_psql -c 'GRANT kong TO kong_admin'
    plan 0
    set_conf y.db.user kong_nobody
    plan 3
    guard y-database refused 'role kong_nobody of y.db.user does not exist'
    pg_psql -c 'CREATE ROLE kong_nobody'
    plan 3
    guard y-database refused 'may not log in'
    pg_psql -c 'DROP ROLE kong_admin' -c 'DROP ROLE kong_nobody'
}

@test "certificate: a key that Y takes no more" {
    cp "$RUN/cluster.crt" "$BATS_TEST_TMPDIR/kept.crt"
    openssl req -new -x509 -nodes -days 30 -subj /CN=kong_clustering -newkey rsa:1024 \
        -keyout /dev/null -out "$BATS_TEST_TMPDIR/short.crt" 2>/dev/null
    cat "$BATS_TEST_TMPDIR/short.crt" >"$RUN/cluster.crt"
    plan 3
    cat "$BATS_TEST_TMPDIR/kept.crt" >"$RUN/cluster.crt"
    refused_alone certificate 'has a key of 1024 bits, which Kong 3.6.1 does not take'
    plan 0
}

# pools OLD NEW COUNT COUNT: servers in front of the one that each pool has, and how many that makes.
pools() {
    sed "s|upstream dp_old { |&$1|; s|upstream dp_new { |&$2|" "$BATS_TEST_TMPDIR/nginx.conf" >"$RUN/nginx/nginx.conf"
    "$NGINX" -p "$RUN/nginx" -c nginx.conf -e logs/error.log -s reload
    for _ in {1..50}; do
        [[ "$(get pools/old .total) $(get pools/new .total)" != "$3 $4" ]] || return 0
        sleep 0.1
    done
    return 1
}

@test "pools: the new one has as many DPs as the old" {
    plan 0
    guard pools ok 'old 1, new 1'
    cp "$RUN/nginx/nginx.conf" "$BATS_TEST_TMPDIR/nginx.conf"
    pools 'server 127.0.0.1:1; server 127.0.0.1:2 down; ' '' 2 1
    plan 3
    refused_alone pools "the new pool has fewer DPs than the old, 1 where old has 2 on http://127.0.0.1:${PORT[shift]}/shift"
    plan 0 --force pools
    guard pools forced
    # not started yet, but there
    pools 'server 127.0.0.1:1; ' 'server 127.0.0.1:1; server 127.0.0.1:2; ' 2 3
    plan 0
    guard pools ok 'old 2, new 3'
    pools '' '' 1 1
}

@test "clients: sessions across 3.2 need kong_shift_key" {
    # Old enough to cross it.
    cat >"$BATS_TEST_TMPDIR/check" <<'END'
for part in log kong clients; do . "$1/scripts/lib/$part.bash"; done
X_VERSION=$2 Y_VERSION=$3 STRATEGY=dual-cluster LBS=(http://lb) USED=$5
versions_known() { :; }
lb_read_all() { :; }
lb_field() { printf '%s' "$KEY"; }
clients_plugins() { printf '%s' "$USED"; }
KEY=$4
clients_sessions
END
    check() { run bash -eu "$BATS_TEST_TMPDIR/check" "$ROOT" "$@"; echo "$output"; }
    check 2.8.5 3.4.2 '' session
    [ "$status" -eq 3 ]
    [[ $output == *'X uses session, and cookies of 2.8.5 mean nothing to 3.4.2'*'set kong_shift_key'*'on http://lb, or insist: --force clients' ]]
    check 2.8.5 3.4.2 '$http_apikey' session
    [ "$status" -eq 0 ]
    [[ $output == *'has to log in again'* ]]
    check 2.8.5 3.4.2 '' ''
    [ "$status" -eq 0 ] && [ -z "$output" ]
    check 3.5.0 3.6.1 '' session
    [ "$status" -eq 0 ] && [ -z "$output" ]
}

@test "clients: counters that each DP keeps, in-place across 3.6 as well; another router" {
    plan 0
    not_said clients 'policy local'
    curl -s -f -o /dev/null -d name=rate-limiting -d config.hour=9 -d config.policy=local \
        "http://127.0.0.1:${PORT[shift]}/open-x/plugins"
    plan 0
    guard clients ok 'X has 1 rate limits that each DP counts for itself'
    not_said clients 'take no configuration'
    y_conf router_flavor expressions
    plan 0
    guard clients ok 'router_flavor is traditional_compatible for CP X and expressions for CP Y'

    in_place_conf
    y_conf router_flavor traditional_compatible
    plan 0
    guard clients ok 'DPs 3.5.0 take no configuration from CP 3.6.1 as long as'
    not_said clients router_flavor
}

@test "clients: routes without an expression, in-place across 3.7" {
    cat >"$BATS_TEST_TMPDIR/check" <<'END'
for part in log kong clients; do . "$1/scripts/lib/$part.bash"; done
X_VERSION=$2 Y_VERSION=$3 STRATEGY=$4 FLAVOR=$5
versions_known() { :; }
node_conf() { REPLY=$FLAVOR; }
clients_routes
END
    check() { run bash -eu "$BATS_TEST_TMPDIR/check" "$ROOT" "$@"; echo "$output"; [ "$status" -eq 0 ]; }
    check 3.6.1 3.7.1 in-place expressions
    [[ $output == *'a DP 3.6.1 gets nothing from CP 3.7.1 once there is a route without an expression'* ]]
    check 3.6.1 3.7.1 dual-cluster expressions && [ -z "$output" ]
    check 3.6.1 3.7.1 in-place traditional && [ -z "$output" ]
    check 3.7.1 3.8.1 in-place expressions && [ -z "$output" ]
}

@test "payload: the configuration against cluster_max_payload of those who are to take it" {
    plan 0
    guard payload ok 'cluster_max_payload 16 MiB'
    # Rows that do not compress.
    sql_x "INSERT INTO consumers (id, username) SELECT gen_random_uuid(), string_agg(gen_random_uuid()::text, '')
        FROM generate_series(1, 40000) AS n GROUP BY n % 2000"
    y_conf cluster_max_payload 500000
    plan 3
    refused_alone payload 'set that higher on CP Y and on every DP'
    plan 0 --force payload
    guard payload forced
    y_conf cluster_max_payload 1000000
    plan 0
    guard payload ok 'near the limit'
    y_conf cluster_max_payload 4000000
    plan 0
    not_said payload 'near the limit'

    # A DP that would take less than CP Y says.
    dp_conf
    echo 'cluster_max_payload = 500000' >>"$BATS_TEST_TMPDIR/dp.conf"
    plan 3
    refused_alone payload 'y.dp.conf too'
    sed -i '/cluster_max_payload/d' "$BATS_TEST_TMPDIR/dp.conf"
    echo 'lmdb_map_size = 1m' >>"$BATS_TEST_TMPDIR/dp.conf"
    plan 0
    guard payload ok 'lmdb_map_size of the DPs of Y is 1m'
    # The part that is looked at tells for the whole.
    plan 0
    [[ $(jq -r '.guards[] | select(.guard == "payload") | .found' <<<"$PLAN") =~ ^about\ 0\ MiB\ compressed,\ 1\ MiB\ as\ JSON ]]
    sql_x "DELETE FROM consumers WHERE username NOT LIKE 'team-%'"
    sql_x 'VACUUM FULL'
}

# dp_conf: y.dp.conf, as it should be.
dp_conf() {
    cat >"$BATS_TEST_TMPDIR/dp.conf" <<END
role = data_plane
database = off
cluster_control_plane = 127.0.0.1:${PORT[cp_y.cluster]}
cluster_cert = $RUN/cluster.crt
status_listen = 0.0.0.0:8100
END
    set_conf y.dp.conf "$BATS_TEST_TMPDIR/dp.conf"
}

dp_set() { sed -i "/^$1 *=/d" "$BATS_TEST_TMPDIR/dp.conf"; [[ ! ${2-} ]] || echo "$1 = $2" >>"$BATS_TEST_TMPDIR/dp.conf"; }

@test "y-data-planes: role, certificate, Status API, headers; not set is said, not to be read is unknown" {
    plan 0
    guard y-data-planes ok 'nothing is known of the DPs of Y'
    dp_conf
    plan 0
    not_said y-data-planes 'nothing is known'
    guard y-data-planes ok "$BATS_TEST_TMPDIR/dp.conf"
    dp_set role control_plane
    plan 3
    refused_alone y-data-planes 'it says role = control_plane'
    plan 0 --force y-data-planes
    dp_conf
    dp_set status_listen off
    dp_set headers off
    plan 3
    refused_alone y-data-planes 'status_listen is off'
    # 3.6 has one of its own.
    dp_set status_listen ''
    plan 0
    guard y-data-planes ok 'status_listen is 127.0.0.1:8007'
    guard y-data-planes ok 'headers = off'
    dp_set database postgres
    plan 3
    refused_alone y-data-planes 'it says database = postgres'
    dp_conf
    openssl req -new -x509 -nodes -days 30 -subj /CN=kong_clustering -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -keyout /dev/null -out "$BATS_TEST_TMPDIR/other.crt" 2>/dev/null
    dp_set cluster_cert "$BATS_TEST_TMPDIR/other.crt"
    plan 3
    refused_alone y-data-planes 'is not that of CP Y'
    rm "$BATS_TEST_TMPDIR/dp.conf"
    plan 4
    guard y-data-planes unknown 'cannot be read'
}

# plugin WHERE VERSION: a plugin "mine" of one's own, as it would be installed.
plugin() {
    mkdir -p "$BATS_TEST_TMPDIR/$1/kong/plugins/mine"
    printf 'return { VERSION = "%s", PRIORITY = 10 }\n' "$2" >"$BATS_TEST_TMPDIR/$1/kong/plugins/mine/handler.lua"
}

@test "plugins of one's own: missing on a DP of Y, or of another version there, before anything is there" {
    cat >"$BATS_TEST_TMPDIR/check" <<'END'
for part in log settings kong preflight plugins certificate ports y-planes; do . "$1/scripts/lib/$part.bash"; done
OPT_CONFIG=x SCRATCH=$2 X_VERSION=3.5.0 Y_VERSION=3.6.1 STRATEGY=$3
SETTING[y.conf]=$2/cp_y.conf SETTING[x.admin]=http://x
HTTP_BODY='{"plugins":{"enabled_in_cluster":["mine","cors"],"available_on_server":{"mine":{"version":"1.2.0"}}},"configuration":{"plugins":["bundled","mine"]}}'
node_says() { :; }
node_up() { return 1; }
in_place_crosses() { return 1; }
printf '%s' "$HTTP_BODY" >"$2/x"
if [[ $4 = y ]]; then plugins_look "$2/x" bundled,mine; plugins_in_conf "$2/x" bundled,mine; else y_planes_plugins "$2/dp.conf"; fi
END
    check() { run bash -eu "$BATS_TEST_TMPDIR/check" "$ROOT" "$BATS_TEST_TMPDIR" "$@"; echo "$output"; }
    dp_conf
    dp_set lua_package_path "$BATS_TEST_TMPDIR/dp/?.lua;;"
    y_conf lua_package_path "$BATS_TEST_TMPDIR/cp/?.lua;;"
    y_conf plugins bundled,mine
    check dual-cluster dp
    [ "$status" -eq 3 ]
    [[ $output == *'does not enable (plugins = bundled) what X uses: mine;'* ]]
    dp_set plugins bundled,mine
    check dual-cluster dp
    [ "$status" -eq 0 ]
    [[ $output == *'version of plugin mine cannot be seen here (CP Y: unknown, y.dp.conf'* ]]
    plugin cp 1.3.0
    plugin dp 1.3.1
    check dual-cluster dp
    [ "$status" -eq 0 ] && [ -z "$output" ]
    for version in 1.4.0 2.3.0; do
        plugin dp "$version"
        check dual-cluster dp
        [ "$status" -eq 3 ]
        [[ $output == *"plugin mine is $version on the DP and 1.3.0 on CP Y, which would send it nothing"* ]]
    done

    # CP Y and the DPs of X
    check dual-cluster y
    [ "$status" -eq 0 ] && [ -z "$output" ]
    plugin cp 2.0.0
    check dual-cluster y
    [ "$status" -eq 0 ]
    [[ $output == *'mine 1.2.0 -> 2.0.0; they must stay on CP X'* ]]
    check in-place y
    [ "$status" -eq 3 ]
    [[ $output == *'in-place there is no CP X for them'* ]]
}
