#!/usr/bin/env bats
#
# kong-shift decommission, with a data plane on CP Y.

# shellcheck disable=SC2016,SC2030,SC2031,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    "${KONG[y]}" stop -p "$RUN/dp_y" >/dev/null 2>&1 || true
    world_stop
}

# row DATABASE ID VERSION AGE
row() {
    PGDATABASE=$1 pg_psql -c "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES ('$2', 'web', '127.0.0.1', now() - interval '$4 s', '0123456789abcdef0123456789abcdef',
        now() + interval '1 day', '$3', 'normal')"
}

# answers STATUS BODY ARG...: check, with a balancer that says this of its old pool.
answers() {
    mkdir -p "$BATS_TEST_TMPDIR/bin"
    printf '%s' "$2" >"$BATS_TEST_TMPDIR/answer"
    cat >"$BATS_TEST_TMPDIR/bin/curl" <<EOF
#!/bin/bash
[[ "\$*" == */pools/old/safe_to_stop* ]] || exec $(command -v curl) "\$@"
while [[ \$1 != -o ]]; do shift; done
cp "$BATS_TEST_TMPDIR/answer" "\$2"
printf $1
EOF
    chmod +x "$BATS_TEST_TMPDIR/bin/curl"
    shift 2
    PATH=$BATS_TEST_TMPDIR/bin:$PATH check "$@"
}

# hash_of_y: of the configuration its DP has.
hash_of_y() { sql_y 'SELECT config_hash FROM clustering_data_planes'; }

@test "refused until all of it holds; then CP X is stopped and a write reaches the DPs of Y" {
    local one=11111111-1111-1111-1111-111111111111 before
    before=$(digest_x)
    check 3 'there is no dump' decommission
    check 0 '' cp dual-cluster
    check 3 'not everything goes to the new pool' decommission
    kong_shift weight 100 >/dev/null
    check 3 'must have stayed at 100 for 1h (setting hold)' decommission
    set_conf hold 1s
    sleep 2
    answers 409 '{"code":"not_safe_to_stop","reasons":["active"],"drained":true,"active":2,"oldest_ms":5100,"long_lived":0}' \
        3 'old: not safe to stop: 2 under way (oldest 5 s); see "kong-shift drain old --wait"' decommission
    answers 503 '' 4 'old: unknown, HTTP 503' decommission
    # A module from before there were drains.
    answers 404 '{"code":"not_found"}' 3 'CP Y has no DP that is alive' decommission
    check 3 'CP Y has no DP that is alive' decommission

    write_dp_conf dp_y cp_y
    node_start y dp_y 3>&-
    for _ in {1..300}; do
        [[ $(kong_shift --json dp list | jq -r 'map(select(.cp == "y") | .verdict) | join(" ")') != fresh ]] || break
        sleep 0.2
    done
    check 3 'there is neither x.stop nor x.prefix' decommission
    set_conf x.prefix "$RUN/cp_x"
    row kong_x "$one" "$X_VERSION" 0
    check 3 'CP X still has DPs: DP web' decommission
    sql_x 'DELETE FROM clustering_data_planes'
    check 0 'curl -X POST' --dry-run decommission
    [ "$(get freeze .state)" = on ]
    cp "$WORK"/x-*.dump "$BATS_TEST_TMPDIR/dump"
    echo x >>"$(echo "$WORK"/x-*.dump)"
    check 1 'other checksum' decommission
    cp "$BATS_TEST_TMPDIR/dump" "$(echo "$WORK"/x-*.dump)"

    check 0 'is left where it is' decommission
    [ "$(http_status "http://127.0.0.1:${PORT[cp_x.admin]}/")" = 000 ]
    [ "$(get freeze .state)" = off ]
    [ "$(digest_x)" = "$before" ]
    [ "$(sql_y "SELECT count(*) FROM consumers WHERE username LIKE 'kong-shift%'")" = 0 ]
    [ "$(jq -r 'select(.step == "canary" and .event == "end") | .dps' "$WORK/journal.jsonl")" = 1 ]

    # Again, with what a run that was killed left behind, and a DP that hears nothing.
    before=$(hash_of_y)
    curl -s -f -o /dev/null -d username=kong-shift-canary-old -d 'tags[]=kong-shift-canary' \
        "http://127.0.0.1:${PORT[cp_y.admin]}/consumers"
    # Removed before it got there it would change nothing.
    for _ in {1..150}; do
        [[ $(hash_of_y) = "$before" ]] || break
        sleep 0.2
    done
    check 0 'already down' decommission
    [ "$(sql_y "SELECT count(*) FROM consumers WHERE username LIKE 'kong-shift%'")" = 0 ]
    # Enough for those that hear.
    set_conf canary_timeout 10
    sql_y "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        SELECT '$one', 'deaf', ip, now(), config_hash, ttl, version, sync_status FROM clustering_data_planes LIMIT 1"
    check 1 "did not reach these of its DPs within 10 s (setting canary_timeout): $one" decommission
    [ "$(sql_y "SELECT count(*) FROM consumers WHERE username LIKE 'kong-shift%'")" = 0 ]
}
