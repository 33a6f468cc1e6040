#!/usr/bin/env bats
#
# kong-shift cp dual-cluster, on a real PostgreSQL and nginx with the module.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# Runs the whole sequence; with a number: and expects that exit code.
dual_cluster() {
    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq "${1:-0}" ]
}

# wrap WHICH NAME: a kong which runs SCRIPT (standard input) before the real one.
wrap() {
    local file=$BATS_TEST_TMPDIR/$2
    { echo '#!/usr/bin/env bash'; printf 'REAL=%q\n' "${KONG[$1]}"; cat; echo 'exec "$REAL" "$@"'; } >"$file"
    chmod +x "$file"
    set_conf "$1.kong" "$file"
}

@test "the whole run, and again: X only read, gate opened with evidence, no password anywhere" {
    local before
    before=$(digest_x)
    watch_arguments
    cd "$BATS_TEST_TMPDIR"
    dual_cluster
    nothing_seen

    [ "$(get gate .state)" = open ]
    [ "$(get gate .evidence.strategy)" = dual-cluster ]
    [ "$(get gate .evidence.x)" = "$X_VERSION" ]
    [ "$(get gate .evidence.y)" = "$Y_VERSION" ]
    [ "$(get gate .evidence.journal)" = "$WORK/journal.jsonl" ]
    [ "$(get freeze .state)" = on ]
    [ "$(digest_x)" = "$before" ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 3 ]
    [ "$(sql_y "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")" = kong ]

    printf '%s\n' "$output" >output
    run grep -rF -e "$PASSWORD" output "$WORK"
    [ "$status" -eq 1 ]
    [ ! -e x ]
    [ "$(stat -c %a "$WORK"/*.dump)" = 600 ]
    # every step began, and ended well
    [ "$(jq -rs 'map(.event + " " + .step) | join(", ")' "$WORK/journal.jsonl")" = "$(
        for step in preflight freeze backup restore migrate start verify open; do
            printf '%s' "${sep-}start $step, end $step"; sep=', '
        done)" ]

    dual_cluster
    [ "$(grep -c -E 'kept|already' <<<"$output")" -eq 6 ]
    run kong_shift cp status
    [ "$status" -eq 0 ]
    says 'open: already open'
    says 'started from'
}

@test "an admin write that slips in after the dump is found; the next run makes a fresh copy" {
    wrap y slip <<EOF
if [[ \$1 = start && ! -e $BATS_TEST_TMPDIR/slipped ]]; then
    touch $BATS_TEST_TMPDIR/slipped
    curl -s -f -o /dev/null -d username=late http://127.0.0.1:${PORT[shift]}/open-x/consumers
fi
EOF
    dual_cluster 1
    says 'consumers has 4 rows instead of 3'
    [ "$(get gate .state)" = closed ]

    dual_cluster
    says 'stopping CP Y'
    says 'the earlier database is kept as'
    [ "$(get gate .state)" = open ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 4 ]
    curl -s -f -X DELETE "http://127.0.0.1:${PORT[shift]}/open-x/consumers/late"
    # a change that keeps the number of rows
    sql_x "UPDATE services SET retries = retries + 1"
    run kong_shift cp verify
    [ "$status" -eq 1 ]
    says 'services has changed rows'
}

@test "CP Y does not start, or never answers: one sentence, gate closed; a re-run completes; a copy that lacks a row is found" {
    set_conf y.start "sh -c 'echo Error: no port; exit 1'"
    dual_cluster 1
    says 'starting CP Y ended with 1: Error: no port'
    [ "$(get gate .state)" = closed ]
    journal_has '.step == "start" and .result == "failed" and (.reason | test("no port"))'
    set_conf y.start true
    set_conf start_timeout 1
    dual_cluster 1
    says 'does not answer within 1 s'
    [ "$(get gate .state)" = closed ]
    set_conf y.start "${KONG[y]} start -c $RUN/cp_y.conf -p $RUN/cp_y"
    set_conf start_timeout 60
    dual_cluster
    [ "$(get gate .state)" = open ]

    stop_y
    sql_y "DELETE FROM routes"
    run kong_shift cp verify
    [ "$status" -eq 1 ]
    says 'routes has 0 rows instead of 1'
}

@test "a dump cut short is not trusted, and not taken again" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/pg_dump" <<EOF
#!/bin/bash
$PG_BIN/pg_dump "\$@" || exit
[[ \$1 = --version ]] || truncate -s -10 "\${@: -1}"
EOF
    chmod +x "$BATS_TEST_TMPDIR/bin/pg_dump"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH dual_cluster 1
    says 'pg_restore into database'
    [ "$(sql_y "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")" = 0 ]
    run kong_shift cp restore
    [ "$status" -eq 3 ]
    says 'there is no dump in'
    run kong_shift cp backup
    [ "$status" -eq 0 ]
    run kong_shift cp restore
    [ "$status" -eq 0 ]
}

@test "killed while migrating: the next run begins with a fresh copy" {
    local pid
    wrap y slow <<EOF
if [[ "\$1 \$2" = 'migrations up' && ! -e $BATS_TEST_TMPDIR/slowed ]]; then
    touch $BATS_TEST_TMPDIR/slowed
    exec sleep 300
fi
EOF
    kong_shift cp dual-cluster >"$BATS_TEST_TMPDIR/out" 2>&1 &
    SECONDS=0
    while [[ ! -e $BATS_TEST_TMPDIR/slowed && $SECONDS -lt 300 ]]; do sleep 0.1; done
    [ -e "$BATS_TEST_TMPDIR/slowed" ]
    pid=$(<"$WORK/lock")

    # a second one stays out
    run kong_shift cp status
    [ "$status" -eq 0 ]
    dual_cluster 5
    says "process $pid"

    # TERM ends it and everything it started
    kill -TERM "$pid"
    wait $! || true
    [ "$(pgrep -c -f 'sleep 300' -P "$pid")" -eq 0 ]
    journal_has '.step == "migrate" and .reason == "interrupted by a signal"'
    [ "$(get gate .state)" = closed ]

    dual_cluster
    [ "$(jq -rs 'map(select(.step == "restore" and .event == "end")) | last | .result' "$WORK/journal.jsonl")" = 'done' ]
}

@test "refused: the target is the source, by whatever name" {
    set_conf y.db.name kong_x
    set_conf y.db.host localhost
    dual_cluster 3
    says 'y.db is the database of X itself'
}

@test "refused: the target is somebody else's" {
    pg_psql -c 'CREATE DATABASE "kong y foreign" OWNER kong'
    PGDATABASE='kong y foreign' pg_psql -c 'CREATE TABLE precious ()'
    set_conf y.db.name 'kong y foreign'
    sed -i 's/^pg_database.*/pg_database = kong y foreign/' "$RUN/cp_y.conf"
    dual_cluster 3
    says "neither of kong-shift's making nor empty"
    [ "$(PGDATABASE='kong y foreign' pg_psql -c 'SELECT count(*) FROM precious')" = 0 ]
}

@test "an empty database of the role is taken, as where the role may not create one" {
    pg_psql -c "CREATE DATABASE \"${Y_NAME//\"/\"\"}\" OWNER kong" -c 'ALTER ROLE kong NOCREATEDB'
    run kong_shift cp backup
    [ "$status" -eq 3 ]
    says 'may not create a database for that'
    run kong_shift cp backup --force test-restore
    [ "$status" -eq 0 ]
    run kong_shift cp restore
    pg_psql -c 'ALTER ROLE kong CREATEDB'
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" -ge 3 ]
    [ "$(sql_y 'SELECT count(*) FROM cluster_events')" = 0 ]
}

@test "refused: X is locked by a migration, or has one pending" {
    sql_x "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', 'another-node', now() + interval '1 hour')"
    dual_cluster 3
    sql_x "DELETE FROM locks"
    says 'locked for migrations by another-node until'
    sql_x "UPDATE schema_meta SET pending = ARRAY['999_test'] WHERE subsystem = 'acl'"
    dual_cluster 3
    sql_x "UPDATE schema_meta SET pending = ARRAY[]::text[] WHERE subsystem = 'acl'"
    says 'has pending migrations (acl)'
}

@test "refused: wrong password, without harm and without telling it" {
    (umask 077 && printf '*:*:*:*:Wrong%s\n' "$PASSWORD" >"$BATS_TEST_TMPDIR/passfile")
    set_conf passfile "$BATS_TEST_TMPDIR/passfile"
    dual_cluster 4
    says 'password authentication failed'
    says 'look at its line in the passfile'
    [[ $output != *Wrong* ]]
    [ "$(get freeze .state)" = off ]
}

@test "refused: a passfile that others can read" {
    cp "$RUN/passfile" "$BATS_TEST_TMPDIR/passfile"
    chmod 644 "$BATS_TEST_TMPDIR/passfile"
    set_conf passfile "$BATS_TEST_TMPDIR/passfile"
    dual_cluster 2
    says 'chmod 600'
}

@test "refused: the wrong nodes" {
    set_conf x.kong "${KONG[y]}"
    dual_cluster 3
    says 'x.admin'
    set_conf x.kong "${KONG[y]}"
    set_conf y.kong "${KONG[x]}"
    dual_cluster 3
    says 'a downgrade'
    set_conf x.kong "${KONG[x]}"
    set_conf y.kong "${KONG[y]}"
    set_conf y.admin "http://127.0.0.1:${PORT[shift]}/admin-x"
    dual_cluster 3
    says "is Kong $X_VERSION"
    set_conf y.admin "http://127.0.0.1:${PORT[shift]}/admin-y"
    set_conf y.prefix "$RUN/cp_x"
    dual_cluster 3
    says 'is the prefix of the running CP X'
}

@test "refused: a freeze that does not reach the Admin API" {
    set_conf x.admin "http://127.0.0.1:${PORT[shift]}/open-x"
    dual_cluster 3
    says 'the freeze does not reach x.admin'
    says '204'
}

@test "the endpoint is unreachable, or knows no such shift, or takes no writes" {
    set_conf lb http://127.0.0.1:1/shift
    dual_cluster 4
    says 'no answer'
    set_conf lb "http://127.0.0.1:${PORT[shift]}/shift"
    set_conf shift nope
    dual_cluster 1
    says 'unknown_shift'
    set_conf shift kong
    set_conf lb "http://127.0.0.1:${PORT[shift]}/readonly"
    run kong_shift cp freeze
    [ "$status" -eq 3 ]
    says 'writes_off'
}

@test "cp freeze, cp unfreeze" {
    local consumers=http://127.0.0.1:${PORT[shift]}/admin-x/consumers
    run kong_shift cp freeze
    [ "$status" -eq 0 ]
    [ "$(curl -s -o /dev/null -w '%{http_code}' -d username=no "$consumers")" = 503 ]
    run kong_shift cp unfreeze
    [ "$status" -eq 0 ]
    [ "$(curl -s -o /dev/null -w '%{http_code}' -X DELETE "$consumers/nobody")" = 204 ]
    # with the gate open, only when one insists
    put gate '{"state":"open","force":true,"comment":"test"}'
    kong_shift cp freeze
    run "$ROOT/scripts/kong-shift" -c "$CONF" cp unfreeze </dev/null
    [ "$status" -eq 3 ]
    [ "$(get freeze .state)" = on ]
    # nothing goes to Y: the copy of X is not proved any more
    run kong_shift cp unfreeze
    [ "$status" -eq 0 ]
    [ "$(get freeze .state) $(get gate .state)" = 'off closed' ]
    # Y is in use: what it holds is the truth now
    put gate '{"state":"open","force":true,"comment":"test"}'
    put weight '{"new":100}'
    kong_shift cp freeze
    run kong_shift cp unfreeze
    [ "$status" -eq 0 ]
    [ "$(get freeze .state) $(get gate .state)" = 'off open' ]
}

@test "a step by itself says which one is missing before it" {
    run kong_shift cp restore
    [ "$status" -eq 3 ]
    says 'kong-shift cp backup'
    run kong_shift cp backup
    [ "$status" -eq 0 ]
    run kong_shift cp migrate
    [ "$status" -eq 3 ]
    says 'kong-shift cp restore'
    run kong_shift cp restore
    [ "$status" -eq 0 ]
    run kong_shift cp start
    [ "$status" -eq 3 ]
    says 'kong-shift cp migrate'
}

@test "a line of the journal that a crash cut short takes no other with it" {
    mkdir -m 700 "$WORK"
    printf '{"time":"2026' >"$WORK/journal.jsonl"
    kong_shift cp freeze
    [ "$(jq -rR 'fromjson? | .event' "$WORK/journal.jsonl" | paste -sd ' ')" = 'start end' ]
}

@test "a work_dir that others may write to is refused; one that is made is mode 700" {
    local dir
    kong_shift cp freeze
    [ "$(stat -c %a "$WORK")" = 700 ]
    for dir in mode link; do
        mkdir -p "$BATS_TEST_TMPDIR/mode"
        chmod 770 "$BATS_TEST_TMPDIR/mode"
        ln -sfn mode "$BATS_TEST_TMPDIR/link"
        set_conf work_dir "$BATS_TEST_TMPDIR/$dir"
        run kong_shift cp freeze
        echo "$output"
        [ "$status" -eq 2 ]
        [[ $output == *"$dir\" has mode 770, so others may write to it; chmod 700"* ]]
        [ -z "$(ls -A "$BATS_TEST_TMPDIR/mode")" ]
    done
    # Somebody else's; to be had as root only.
    (( EUID == 0 )) || return 0
    chmod 700 "$BATS_TEST_TMPDIR/mode"
    chown nobody "$BATS_TEST_TMPDIR/mode"
    run kong_shift cp freeze
    [ "$status" -eq 2 ]
    [[ $output == *'link" belongs to nobody, not to root'* ]]
}
