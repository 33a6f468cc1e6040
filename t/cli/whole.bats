#!/usr/bin/env bats
#
# Both strategies from the first command to the last, with data planes on both sides
# and clients that must not notice; and the way back when DPs of X are on CP Y already.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

setup() { . "$BATS_TEST_DIRNAME/world.bash"; }

# begin RESET: X with a DP, and clients.
begin() {
    "$1"
    [[ $1 != in_place_reset || ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || skip 'see major.bats'
    set_conf x.prefix "$RUN/cp_x"
    set_conf hold 1s
    set_conf attach_timeout 60
    # Both pools lead to a page of the balancer itself.
    curl -s -f -o /dev/null -X PATCH -d "port=${PORT[shift]}" -d path=/page/ "http://127.0.0.1:${PORT[cp_x.admin]}/services/orders"
    write_dp_conf dp_x cp_x
    write_dp_conf dp_y cp_y
    node_start x dp_x 3>&-
    wait_dp x dp_x 3>&-
    sed -i "s/\(upstream dp_old\) .*/\1 { zone dp_old 64k; server 127.0.0.1:${PORT[dp_x.proxy]}; }/
        s/\(upstream dp_new\) .*/\1 { zone dp_new 64k; server 127.0.0.1:${PORT[dp_y.proxy]}; }/" "$RUN/nginx/nginx.conf"
    "$NGINX" -p "$RUN/nginx" -c nginx.conf -e logs/error.log -s reload
    until [[ $(http_status "http://127.0.0.1:${PORT[shift]}/api/orders/1") = 200 ]]; do sleep 0.1; done
    "$ROOT/t/lib/load" "127.0.0.1:${PORT[shift]}" --path /api/orders/1 --connections 8 --rate 50 \
        --status "$BATS_TEST_TMPDIR/load.json" >"$BATS_TEST_TMPDIR/summary.json" 3>&- &
    LOADER=$!
    until [ -s "$BATS_TEST_TMPDIR/load.json" ]; do sleep 0.1; done
}

teardown() {
    [[ ! ${LOADER-} ]] || kill "$LOADER" 2>/dev/null || true
    "${KONG[x]}" stop -p "$RUN/dp_x" >/dev/null 2>&1 || true
    "${KONG[y]}" stop -p "$RUN/dp_y" >/dev/null 2>&1 || true
    rm -rf "$RUN/dp_x" "$RUN/dp_y"
}

# no_failures: clients had none, and were served by both versions.
no_failures() {
    kill "$LOADER"
    wait "$LOADER" || true
    cat "$BATS_TEST_TMPDIR/summary.json"
    jq -e --arg x "$X_VERSION" --arg y "$Y_VERSION" '.failures == 0 and .errors == {} and (.statuses | keys == ["200"])
        and .versions[$x] > 100 and .versions[$y] > 20' "$BATS_TEST_TMPDIR/summary.json"
}

# Its CP tells only 45 s after it ended.
dp_x_gone() {
    node_quit x dp_x
    sql_x "UPDATE clustering_data_planes SET last_seen = last_seen - interval '1 minute' WHERE version = '$X_VERSION'"
}

# Until DPs of X have what CP Y sends.
until_attached() {
    check 0 '' cp in-place
    node_start y dp_y 3>&-
    wait_dp y dp_y 3>&-
    check 0 '10 % to new' weight 10
    # The port is opened to them: CP Y listens where CP X did.
    sed -i "s/^\(cluster_listen\|cluster_telemetry_listen\) = .*/&, 127.0.0.1:\1/
        s/\(, 127.0.0.1:\)cluster_listen/\1${PORT[cp_x.cluster]}/; s/\(, 127.0.0.1:\)cluster_telemetry_listen/\1${PORT[cp_x.telemetry]}/" "$RUN/cp_y.conf"
    "${KONG[y]}" restart -p "$RUN/cp_y" -c "$RUN/cp_y.conf" >/dev/null 3>&-
    check 0 '1 DPs of X have what CP Y sends' cp attached
    [[ $output != *'too few to tell'* ]]
    check 0 '50 % to new' weight 50
}

@test "dual-cluster, the whole way" {
    begin world_reset
    check 0 '' cp dual-cluster
    node_start y dp_y 3>&-
    wait_dp y dp_y 3>&-
    check 0 '10 % to new' weight 10
    sleep 2
    check 0 '100 % to new' weight 100
    check 0 'old: safe to stop' drain old --wait --hold 1s
    dp_x_gone
    check 0 'is all there is now' decommission
    no_failures
}

@test "in-place, the whole way: DPs of X on CP Y, finish, decommission" {
    begin in_place_reset
    until_attached
    check 0 '100 % to new' weight 100
    sleep 2 # the time of the setting hold
    check 3 "DPs of another version than $Y_VERSION are alive on CP Y" cp finish kong
    check 0 'old: safe to stop' drain old --wait
    dp_x_gone
    check 0 "alone now" cp finish kong
    check 0 'is all there is now' decommission
    no_failures
}

@test "in-place, the way back: DPs of X come back to CP X by themselves" {
    begin in_place_reset
    until_attached
    check 0 '' abort
    check 0 'they come back to CP X by themselves' cp rollback
    # Those of Y have nowhere to go.
    "${KONG[y]}" stop -p "$RUN/dp_y" >/dev/null 2>&1
    SECONDS=0
    until kong_shift dp list 2>/dev/null | grep -q "^x .* fresh"; do
        (( SECONDS < 60 ))
        sleep 0.5
    done
    no_failures
}
