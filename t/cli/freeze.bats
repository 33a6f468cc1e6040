#!/usr/bin/env bats
#
# kong-shift cp freeze and unfreeze, by the module and by rights; the quiet dump.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# check CODE TEXT ARG...: runs kong-shift, wants that code and that text.
check() {
    local code=$1 text=$2
    shift 2
    run kong_shift "$@"
    echo "$output"
    [ "$status" -eq "$code" ]
    says "$text"
}

says() { [[ $output == *"$1"* ]] || { echo "not said: $1"; return 1; }; }

@test "an admin write under way when the freeze begins is waited for, before freeze and dump count" {
    local begun
    set_conf freeze_timeout 1
    exec {late}<>"/dev/tcp/127.0.0.1/${PORT[shift]}"
    printf 'POST /admin-x/consumers HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 19\r\n\r\n{"username":' >&"$late"
    begun=$SECONDS
    until [ "$(get freeze .active)" = 1 ]; do (( SECONDS - begun < 20 )); sleep 0.1; done

    check 3 'still under way after 1 s: 1 on http://' cp freeze
    [ "$(get freeze .state)" = on ]
    check 3 'still under way' cp backup
    [ ! -e "$WORK/backup.json" ]

    set_conf freeze_timeout 60
    kong_shift cp freeze >"$BATS_TEST_TMPDIR/out" 2>&1 &
    sleep 1
    kill -0 $!
    printf '"late"}' >&"$late"
    wait $!
    exec {late}>&-
    kong_shift cp backup
    [ "$(jq -r '.[] | select(.table == "consumers") | .rows' "$WORK"/x-*.digest.json)" = 4 ]
    curl -s -f -X DELETE "http://127.0.0.1:${PORT[shift]}/open-x/consumers/late"
}

@test "no dump while somebody writes past the freeze" {
    local writer
    kong_shift cp freeze
    ( while [[ ! -e $BATS_TEST_TMPDIR/done ]]; do sql_x 'UPDATE services SET retries = retries + 1'; sleep 0.1; done ) 3>&- &
    writer=$!
    check 1 'was written to while it was about to be dumped: services' cp backup
    touch "$BATS_TEST_TMPDIR/done"
    wait "$writer"
    [ ! -e "$WORK/backup.json" ]
    [ "$(find "$WORK" -name 'x-*' | wc -l)" = 0 ]
    check 0 'backup' cp backup
}
