#!/usr/bin/env bats
#
# The gate: opened by what was proved, or by somebody who says so, and it tells.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; sql_x 'DELETE FROM clustering_data_planes'; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

closed() { [ "$(get gate '.state, .evidence' | paste -sd ' ')" = 'closed null' ]; }

@test "the script opens it in one place, after a verification" {
    [ "$(grep -h 'lb_put_all gate ' "$ROOT"/scripts/lib/*.bash | grep -v -c '"\?closed')" = 1 ]
    # Each sequence ends so: verify, then open.
    [ "$(grep -h -B 1 -E 'step [0-9]/[0-9] open ' "$ROOT"/scripts/lib/*.bash | grep -o -E '(verify|open) +phase_[a-z]+' | tr -s ' ' \
        | paste -sd ' ')" = "$(for _ in 1 2 3; do printf '%sverify phase_verify open phase_open' "${sep-}"; sep=' '; done)" ]
}

@test "no step but the last opens it, and cp open wants all of them" {
    local step
    check 3 'the gate is closed' weight 1
    for step in preflight freeze backup restore migrate start; do
        check 0 '' cp "$step"
        closed
    done
    check 3 'the gate is closed' weight 1
    # Not what was proved: a row is missing in Y.
    sql_y "DELETE FROM consumers WHERE username = 'team-1'"
    check 1 'consumers has 2 rows instead of 3' cp open
    closed
    check 0 '' cp rollback
    check 0 '' cp dual-cluster
    check 0 'already open' cp open
}

@test "GET gate shows strategy, versions, journal, and who; the journal has the same" {
    check 0 '' cp dual-cluster
    curl -s -f "$SHIFT/gate" | tee "$BATS_TEST_TMPDIR/gate"
    jq -e --arg x "$X_VERSION" --arg y "$Y_VERSION" --arg journal "$WORK/journal.jsonl" '.state == "open"
        and .evidence == {strategy: "dual-cluster", $x, $y, $journal}
        and (.comment | test("^kong-shift cp dual-cluster, "))' "$BATS_TEST_TMPDIR/gate"
    jq -es --slurpfile gate "$BATS_TEST_TMPDIR/gate" 'last | .step == "open" and .result == "done"
        and (.gate | fromjson) == $gate[0].evidence' "$WORK/journal.jsonl"
    # Of that run every step is there, and ended well.
    [ "$(jq -rs 'last.run as $run | map(select(.run == $run and .event == "end") | .step + " " + .result) | join(", ")' \
        "$WORK/journal.jsonl")" = "$(for step in preflight freeze backup restore migrate start verify open; do
            printf '%s' "${sep-}$step done"; sep=', '; done)" ]
}

@test "what was forced is named by the gate, its event and the journal" {
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES (gen_random_uuid(), 'web-9', '127.0.0.1', now() - interval '1 day', '0123456789abcdef0123456789abcdef',
        now() + interval '1 day', '$X_VERSION', 'normal')"
    check 3 'DP web-9' cp dual-cluster
    closed
    check 0 '' --force data-planes cp dual-cluster
    [[ $(get gate .comment) = 'kong-shift cp dual-cluster --force data-planes, '* ]]
    [[ $(get events '.events | map(select(.action == "gate" and .after.gate == "open")) | last | .comment') = *'--force data-planes'* ]]
    jq -es 'any(.[]; ."forced.data-planes" // "" | test("web-9"))' "$WORK/journal.jsonl"
}

@test "by hand: not without force and a comment, which it shows; the script takes it for no proof" {
    run put gate '{"state":"open"}'
    [ "$status" -ne 0 ]
    run put gate '{"state":"open","force":true}'
    [ "$status" -ne 0 ]
    closed
    put gate '{"state":"open","force":true,"comment":"CHG-1"}'
    [ "$(get gate '.state, .comment, .evidence' | paste -sd ' ')" = 'open CHG-1 null' ]
    # The run proves all of it, and puts its evidence there.
    check 0 '' cp dual-cluster
    [ "$(get gate .evidence.strategy)" = dual-cluster ]
}

@test "migrations that say \"aborted\" are not taken for done, whatever the state is" {
    cat >"$BATS_TEST_TMPDIR/kong" <<END
#!/usr/bin/env bash
"${KONG[y]}" "\$@" || exit
[[ "\$1 \$2" != 'migrations finish' ]] || echo 'aborted: another node is performing database changes'
END
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"
    check 1 'said: aborted: another node is performing database changes; find that node' cp dual-cluster
    closed
    set_conf y.kong "${KONG[y]}"
    check 0 '' cp resume
}
