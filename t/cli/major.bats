#!/usr/bin/env bats
#
# kong-shift cp across a major version: 2.8 -> 3.4.

# shellcheck disable=SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_start 2.8.5 3.4.2
    # "kong migrations finish" rewrites its headers, and DPs 3.4 refuse them as they are.
    curl -s -f -o /dev/null -H 'Content-Type: application/json' "http://127.0.0.1:${PORT[cp_x.admin]}/services/orders/plugins" \
        -d '{"name":"http-log","config":{"http_endpoint":"http://127.0.0.1:9/","headers":{"X-A":["1"]}}}'
    world_keep
}
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown()      { local node; for node in dp_x dp_y; do [[ ! -d $RUN/$node ]] || "${KONG[${node#dp_}]}" stop -p "$RUN/$node" || true; done; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

dp_start() {
    write_dp_conf "dp_$1" "cp_$1"
    node_start "$1" "dp_$1" 3>&-
    wait_node dp_serves "dp_$1" 30
}

# Nobody listens behind the route, but without a configuration it would be 404.
dp_serves() { [[ $(http_status "http://127.0.0.1:${PORT[$1.proxy]}/orders") = 50[23] ]]; }

pending() { sql_x 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0'; }

@test "2.8 -> 3.4: done, with the warning that DP X must stay on CP X" {
    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *'CP 3.4.2 refuses DPs 2.8.5'* ]]
    [ "$(get gate .state)" = open ]
    [ "$(sql_y "SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0")" = 0 ]
    [ "$(sql_y "SELECT count(*) FROM consumers")" = 3 ]
}

@test "in-place: refused; forced, finish at once, so that DPs of Y get their configuration; and back" {
    local before
    in_place_reset
    before=$(digest_x)
    dp_start x
    check 3 'CP 3.4.2 refuses DPs 2.8.5 (another major version)' cp in-place
    check 0 'finish" is run at once' plan --force major
    [ "$(grep -c 'migrations finish --db-timeout' <<<"$output")" = 1 ]
    [[ $output != *'much later'* ]]

    # killed between the two
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF
#!/usr/bin/env bash
if [[ "\$1 \$2" = 'migrations finish' && ! -e $BATS_TEST_TMPDIR/killed ]]; then
    touch $BATS_TEST_TMPDIR/killed
    kill -9 "\$(<$WORK/lock)"
    exit 1
fi
exec ${KONG[y]} "\$@"
EOF
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"
    run ! kong_shift --force major cp in-place
    [[ -e $BATS_TEST_TMPDIR/killed && $(pending) != 0 ]]
    check 0 'cp in-place was interrupted in step migrate' cp resume --force major
    [ "$(grep -c 'finish" is run at once' <<<"$output")" = 1 ]
    [ "$(pending) $(get gate .state)" = '0 open' ]
    check 0 'pending for finish: none' cp status
    check 0 'database' cp watch
    [[ $output == *'as it was'* ]]
    dp_start y
    # The DP of X has lost its CP, not its configuration.
    dp_serves dp_x
    check 0 'nothing is left to finish: across a major version' cp finish
    [ "$(wc -l <<<"$output")" = 1 ]

    check 0 'is kept as kong_x-' cp rollback
    [ "$(digest_x)" = "$before" ]
    curl -s -f "http://127.0.0.1:${PORT[cp_x.admin]}/" | jq -e '.version == "2.8.5"'
    dp_serves dp_x
}
