#!/usr/bin/env bats
#
# kong-shift cp rollback and cp resume, from every state; see also killed.bats.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; . "$BATS_TEST_DIRNAME/killed.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

names_of_y() { pg_psql -c "SELECT count(*) FROM pg_database WHERE datname LIKE 'kong y%$1'"; }

all_is_up() {
    [ "$(get gate .state)" = open ]
    [ "$(get freeze .state)" = on ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 3 ]
    [ "$(sql_y 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0')" = 0 ]
    curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/status"
    [ "$(digest_x)" = "$BEFORE" ]
}

all_is_back() {
    [ "$(get weight .effective)" = 0 ]
    [ "$(get gate .state)" = closed ]
    [ "$(get freeze .state)" = off ]
    [ "$(pg_psql -v name="$Y_NAME" <<<"SELECT count(*) FROM pg_database WHERE datname = :'name'")" = 0 ]
    ! curl -s -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"
    [ "$(digest_x)" = "$BEFORE" ]
}

@test "rollback of the whole: X as before, Y down, its database kept under another name, and a new attempt" {
    BEFORE=$(digest_x)
    kong_shift cp dual-cluster >/dev/null
    kong_shift weight 30 >/dev/null
    check 0 'the earlier database is kept as' cp rollback
    [[ $output == *'as it was at dump x-'* ]]
    all_is_back
    [ "$(names_of_y Z)" = 1 ]
    curl -s -f -o /dev/null -X DELETE "http://127.0.0.1:${PORT[shift]}/admin-x/consumers/nobody"

    # once more: nothing is left to do
    check 0 'already down' cp rollback
    [[ $output == *'there is none'* ]]
    [ "$(names_of_y Z)" = 1 ]
    check 0 'check-x: as it was' cp status

    kong_shift cp dual-cluster >/dev/null
    all_is_up
}

@test "rollback before anything, and from each state of the database" {
    local step
    BEFORE=$(digest_x)
    check 0 'there is none' cp rollback
    all_is_back
    kong_shift cp freeze >/dev/null
    for step in backup restore migrate start; do
        kong_shift cp "$step" >/dev/null
        if [[ $step != backup ]]; then
            check 0 'the earlier database is kept as' cp rollback
            all_is_back
            kong_shift cp freeze >/dev/null
            kong_shift cp restore >/dev/null
            [[ $step = restore ]] || kong_shift cp migrate >/dev/null
        fi
    done
    [ "$(names_of_y Z)" = 3 ]
}

@test "rollback: what stands in its way, one after the other; what it tells on the way" {
    local session
    BEFORE=$(digest_x)
    kong_shift cp dual-cluster >/dev/null
    kong_shift weight 20 >/dev/null
    cp "$CONF" "$BATS_TEST_TMPDIR/conf"

    # a balancer that does not answer stops it before CP Y goes
    echo 'lb = http://127.0.0.1:1/shift' >>"$CONF"
    check 4 'CP Y must not go while requests go to its DPs' cp rollback
    [ "$(get weight .effective)" = 0 ]
    [ "$(get freeze .state)" = on ]
    curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"

    # a database in use is not renamed; DPs of X that hang on CP Y are told
    sql_y "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES (gen_random_uuid(), 'web-7', '127.0.0.1', now(), '0123456789abcdef0123456789abcdef', now() + interval '1 day',
        '$X_VERSION', 'normal')"
    PGDATABASE=$Y_NAME pg_psql -c 'SELECT pg_sleep(600)' >/dev/null 2>&1 3>&- &
    session=$!
    check 3 'but is in use by kong_super (psql)' cp rollback
    [[ $output == *"DPs of version $X_VERSION hang on CP Y: web-7"* ]]
    [ "$(get freeze .state)" = on ]
    kill "$session"
    wait "$session" || true
    pg_psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(600)%' AND pid <> pg_backend_pid()" >/dev/null

    # what was written to Y only is told; admin writes stay frozen while CP X does not answer
    sql_y "DELETE FROM consumers WHERE username = 'team-1'"
    set_conf x.admin "http://127.0.0.1:1"
    check 4 'start CP X, then run' cp rollback
    [[ $output == *'CP Y took admin writes that X does not have'*'consumers has 2 rows instead of 3'* ]]
    [[ $output == *'the earlier database is kept as'* ]]
    [ "$(get freeze .state)" = on ]
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"
    check 0 'cp rollback was ended: x.admin' cp resume
    all_is_back
}

@test "rollback asks first" {
    run "$ROOT/scripts/kong-shift" -c "$CONF" cp rollback </dev/null
    [ "$status" -eq 3 ]
    [[ $output == *'add --yes'* ]]
    [ ! -e "$WORK" ]
}

@test "resume: nothing to resume; another run's words" {
    check 0 'nothing to resume: no run is in' cp resume
    kong_shift cp preflight >/dev/null
    check 0 'nothing to resume: no run is in' cp resume
}

@test "resume: where things differ from the journal it stops, and both ways on work" {
    killer 9
    killed cp dual-cluster && false
    put freeze '{"state":"off"}'
    check 3 'admin writes were frozen, but are allowed now' cp resume
    put freeze '{"state":"on"}'
    drop_y
    check 3 'step restore was done, but database' cp resume
    [[ $output == *'is now absent; to go on from what is there: kong-shift cp dual-cluster; to give up: kong-shift cp rollback' ]]
    [ "$(get gate .state)" = closed ]
    kong_shift cp dual-cluster >/dev/null
    [ "$(get gate .state)" = open ]

    killer 3
    killed cp dual-cluster && false
    check 0 'cp dual-cluster was interrupted' cp resume
    kong_shift cp rollback >/dev/null
}

@test "resume: not with other versions than it began with" {
    killer 5
    killed cp dual-cluster && false
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF2
#!/usr/bin/env bash
if [[ \$1 = version ]]; then echo 3.10.0; else exec "${KONG[y]}" "\$@"; fi
EOF2
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"
    check 3 "the run was of $X_VERSION -> $Y_VERSION, but x.kong and y.kong are now $X_VERSION -> 3.10.0" cp resume
}
