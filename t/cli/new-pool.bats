#!/usr/bin/env bats
#
# What happens to data planes of the new pool, under load: clients see none of it.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_folder
    world_kong
    world_environment
    X_VERSION=$(node_version x)
    Y_VERSION=$(node_version y)
    make_cluster_cert
    pg_start "$RUN" 3>&-
    pg_role kong "$PASSWORD"
    pick_ports api seldom shift backend closed x.{proxy,status} y.{proxy,status}
    balancer
    for which in x y; do
        pg_psql -c "CREATE DATABASE kong_$which OWNER kong"
        write_cp_conf "cp_$which" "kong_$which" "$PASSWORD"
        plane "dp_${which}1" "cp_$which" 1
        plane "dp_${which}2" "cp_$which" 2
        kong_run "$which" migrations bootstrap -c "$RUN/cp_$which.conf"
        node_start "$which" "cp_$which" 3>&-
        wait_cp "cp_$which"
        seed "cp_$which" /services name=orders url="http://127.0.0.1:${PORT[backend]}"
        seed "cp_$which" /services/orders/routes name=orders paths[]=/orders
        node_start "$which" "dp_${which}1" 3>&-
        node_start "$which" "dp_${which}2" 3>&-
    done
    for node in dp_x1 dp_x2; do wait_dp x "$node" 3>&-; done
    for node in dp_y1 dp_y2; do wait_dp y "$node" 3>&-; done
    world_save
    declare -p ADDR | sed 's/^declare -/declare -g/' >>"$RUN/world"
}

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    # A version before 3.9 has no "kong drain".
    NEW=$(printf '%s\n' 3.9 "$Y_VERSION" | sort -C -V && echo yes) || NEW=
    LOAD=$BATS_TEST_TMPDIR/load.json
    until_new 2
    put weight '{"new":50}'
    "$ROOT/t/lib/load" "127.0.0.1:${PORT[api]}" --path /orders/1 --connections 16 --rate 100 \
        --status "$LOAD" >"$BATS_TEST_TMPDIR/summary.json" 3>&- &
    LOADER=$!
    until [ -s "$LOAD" ]; do sleep 0.1; done
}

teardown() {
    [[ ! ${LOADER-} ]] || kill "$LOADER" 2>/dev/null || true
    [[ ! ${SECOND-} ]] || kill "$SECOND" 2>/dev/null || true
}

teardown_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    local run node which
    run=$(<"$BATS_FILE_TMPDIR/run")
    if [[ -f $run/world ]]; then
        # shellcheck source=/dev/null
        . "$run/world"
        for which in x y; do
            for node in "dp_${which}1" "dp_${which}2" "cp_$which"; do
                "${KONG[$which]}" stop -p "$RUN/$node" >/dev/null 2>&1 || true
            done
        done
        "$NGINX" -p "$RUN/nginx" -c nginx.conf -e logs/error.log -s stop 2>/dev/null || true
        pg_stop
    fi
    rm -rf "$run"
}

# plane NODE CP N: each of a pool has an address of its own, and the same ports.
plane() {
    local which=${1:3:1}
    PORT["$1.proxy"]=${PORT["$which.proxy"]}
    PORT["$1.status"]=${PORT["$which.status"]}
    write_dp_conf "$1" "$2" "127.0.0.$((10 + $3))"
}

check_of() {
    if printf '%s\n' 3.3 "$1" | sort -C -V; then echo 'uri=/status/ready'; else echo 'config_hash=on'; fi
}

balancer() {
    mkdir -p "$RUN/nginx/logs"
    cat >"$RUN/nginx/nginx.conf" <<EOF2
$( (( EUID != 0 )) || echo 'user nobody nogroup;')
load_module $ROOT/build/ngx_kong_shift_module.so;
worker_processes 4;
pid nginx.pid;
error_log logs/error.log;
events { worker_connections 256; }
http {
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;
    upstream dp_old { zone dp_old 64k; server 127.0.0.11:${PORT[x.proxy]}; server 127.0.0.12:${PORT[x.proxy]}; keepalive 16; }
    upstream dp_new { zone dp_new 64k; server 127.0.0.11:${PORT[y.proxy]}; server 127.0.0.12:${PORT[y.proxy]}; keepalive 16; }
    upstream kong {
        kong_shift old=dp_old new=dp_new weight=0;
        kong_shift_check pool=old port=${PORT[x.status]} interval=1s timeout=1s $(check_of "$X_VERSION");
        kong_shift_check pool=new port=${PORT[y.status]} interval=1s timeout=1s $(check_of "$Y_VERSION");
    }
    server {
        listen 127.0.0.1:${PORT[api]};
        keepalive_requests 100000;
        add_header X-Kong-Shift-Pool \$kong_shift_pool always;
        location / { proxy_pass http://kong; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$host; }
    }

    # The same planes, asked so seldom that others must notice, and tried again at once.
    upstream seldom_old { zone seldom_old 64k; server 127.0.0.11:${PORT[x.proxy]}; server 127.0.0.12:${PORT[x.proxy]}; keepalive 16; }
    upstream seldom_new { zone seldom_new 64k; server 127.0.0.11:${PORT[y.proxy]} max_fails=0; server 127.0.0.12:${PORT[y.proxy]} max_fails=0; keepalive 16; }
    upstream seldom {
        kong_shift old=seldom_old new=seldom_new weight=50;
        kong_shift_check pool=old port=${PORT[x.status]} interval=15s timeout=1s passes=1 $(check_of "$X_VERSION");
        kong_shift_check pool=new port=${PORT[y.status]} interval=15s timeout=1s passes=1 $(check_of "$Y_VERSION");
    }
    server {
        listen 127.0.0.1:${PORT[seldom]};
        keepalive_requests 100000;
        add_header X-Kong-Shift-Pool \$kong_shift_pool always;
        location / { proxy_pass http://seldom; proxy_http_version 1.1; proxy_set_header Connection ""; proxy_set_header Host \$host; }
    }
    server {
        listen 127.0.0.1:${PORT[shift]};
        location /shift/ { kong_shift_api write=on; }
    }
    server {
        listen 127.0.0.1:${PORT[backend]};
        location / { return 200 "an order\n"; }
    }
}
EOF2
    "$NGINX" -p "$RUN/nginx" -c nginx.conf -e logs/error.log 3>&- 2>"$RUN/nginx/start.log"
}

# until_new N: so many peers of new are ready.
until_new() {
    SECONDS=0
    until [[ $(get pools/new .ready) = "$1" ]]; do
        (( SECONDS < 120 )) || { curl -s "$SHIFT/pools/new"; return 1; }
        sleep 0.1
    done
}

# A while later, all is still well: the sum of what clients have seen.
nothing_seen_by_clients() {
    local before
    before=$(jq .requests "$LOAD")
    SECONDS=0
    until (( $(jq .requests "$LOAD") > before + 200 )); do
        (( SECONDS < 60 )) || return 1
        sleep 0.2
    done
    kill "$LOADER"
    wait "$LOADER" || true
    LOADER=
    cat "$BATS_TEST_TMPDIR/summary.json"
    [ "$(jq .failures "$BATS_TEST_TMPDIR/summary.json")" = 0 ]
    [ "$(jq .pools.new "$BATS_TEST_TMPDIR/summary.json")" != null ]
}

# Of the shift that asks seldom.
seldom() { curl -s "${SHIFT%/kong}/seldom/pools/new" | jq -r "$1"; }

requests_of() { get pools/new ".peers[] | select(.addr | startswith(\"127.0.0.1$1:\")) | .requests"; }

# processes NODE: its master and whatever that has started.
processes() {
    local master
    master=$(<"$RUN/$1/pids/nginx.pid")
    echo "$master"
    pgrep -P "$master" || true
}

@test "kong quit of one, and its start" {
    node_quit y dp_y1
    until_new 1
    node_start y dp_y1 3>&-
    until_new 2
    nothing_seen_by_clients
}

@test "kong drain of one" {
    local before
    [[ $NEW ]] || skip 'kong drain came with 3.9'
    "${KONG[y]}" drain -p "$RUN/dp_y1"
    until_new 1
    sleep 0.2
    before=$(requests_of 1)
    nothing_seen_by_clients
    [ "$(requests_of 1)" = "$before" ]
    kong_run y restart -c "$RUN/dp_y1.conf" 3>&-
    until_new 2
}

@test "kill -9 of one" {
    local pids
    mapfile -t pids < <(processes dp_y1)
    kill -9 "${pids[@]}"
    until_new 1
    nothing_seen_by_clients
    kong_run y restart -c "$RUN/dp_y1.conf" 3>&-
    until_new 2
}

@test "one that has never got a configuration answers 404 to everything, and is asked nothing" {
    local before
    node_quit y dp_y2
    until_new 1
    rm -rf "$RUN/dp_y2"
    sed "s/^cluster_control_plane = .*/cluster_control_plane = 127.0.0.1:${PORT[closed]}/" "$RUN/dp_y2.conf" >"$RUN/empty.conf"
    before=$(requests_of 2)
    mkdir -p "$RUN/dp_y2"
    kong_run y start -c "$RUN/empty.conf" 3>&-
    SECONDS=0
    until [[ $(http_status "http://127.0.0.12:${PORT[y.proxy]}/orders/1") = 404 ]]; do
        (( SECONDS < 60 )) || return 1
        sleep 0.2
    done
    nothing_seen_by_clients
    [ "$(requests_of 2)" = "$before" ]
    kong_run y stop -p "$RUN/dp_y2"
    rm -rf "$RUN/dp_y2"
    node_start y dp_y2 3>&-
    until_new 2
}

@test "a ready one is killed -9 and started empty at the same address at once" {
    local pids doubted second=$BATS_TEST_TMPDIR/second.json
    SECONDS=0
    until [[ $(seldom .ready) = 2 ]]; do
        (( SECONDS < 60 )) || return 1
        sleep 0.2
    done
    "$ROOT/t/lib/load" "127.0.0.1:${PORT[seldom]}" --path /orders/1 --connections 16 --rate 100 >"$second" 3>&- &
    SECOND=$!
    sleep 1
    doubted=$(seldom .counters.suspected)
    sed "s/^cluster_control_plane = .*/cluster_control_plane = 127.0.0.1:${PORT[closed]}/" "$RUN/dp_y2.conf" >"$RUN/empty.conf"
    mapfile -t pids < <(processes dp_y2)
    kill -9 "${pids[@]}"
    rm -rf "$RUN/dp_y2"
    mkdir -p "$RUN/dp_y2"
    kong_run y start -c "$RUN/empty.conf" 3>&-
    SECONDS=0
    until [[ $(seldom .ready) = 1 && $(get pools/new .ready) = 1 ]]; do
        (( SECONDS < 60 )) || return 1
        sleep 0.2
    done
    echo "of the seldom asked: $(seldom .counters.suspected) - $doubted doubted, not ready $SECONDS s after the start"
    nothing_seen_by_clients
    kill "$SECOND"
    wait "$SECOND" || true
    SECOND=
    cat "$second"
    [ "$(jq .failures "$second")" = 0 ]
    [ "$(jq '.statuses["404"]' "$BATS_TEST_TMPDIR/summary.json" "$second" | sort -u)" = null ]
    kong_run y stop -p "$RUN/dp_y2"
    rm -rf "$RUN/dp_y2"
    node_start y dp_y2 3>&-
    until_new 2
}
