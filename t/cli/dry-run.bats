#!/usr/bin/env bats
#
# --dry-run and --json of every command; version.

bats_require_minimum_version 1.5.0

# shellcheck disable=SC2016,SC2030,SC2031,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# What no dry run may change.
state() {
    digest_x
    get events .last
    pg_psql -c 'SELECT datname FROM pg_database ORDER BY 1'
    find "$WORK" -type f -printf '%p %s\n' 2>/dev/null | sort
    curl -s -o /dev/null -w '%{http_code}' "http://127.0.0.1:${PORT[cp_y.admin]}/" || true
}

# dry CODE TEXT ARG...
dry() {
    local code=$1 text=$2
    shift 2
    run kong_shift --dry-run "$@"
    echo "$* ($status): $output"
    [ "$status" -eq "$code" ]
    [[ $output == *"$text"* ]]
}

@test "before anything is there: each says what it would do, or why it could not; nothing changes" {
    local before
    before=$(state)
    dry 0 'pg_dump -Fc' cp backup
    dry 0 'migrations up' cp dual-cluster
    dry 0 'Nothing stands against it' cp preflight
    dry 0 '/shift/shifts/kong/freeze' cp freeze
    dry 0 '/shift/shifts/kong/freeze' cp unfreeze
    dry 3 'there is no dump' cp restore
    dry 3 'there is no dump' cp migrate
    dry 3 'there is no dump' cp start
    dry 3 'there is no dump' cp verify
    dry 0 '/shift/shifts/kong/gate' cp open
    dry 0 'shifts/kong/abort' cp rollback
    dry 0 'nothing to resume' cp resume
    dry 2 'is for in-place' cp stop
    dry 2 'is for in-place' cp in-place
    dry 2 'is for in-place' cp finish
    dry 0 "curl -X POST http://127.0.0.1:${PORT[shift]}/shift/shifts/kong/abort" abort
    dry 0 '/shift/shifts/kong/weight' weight 0
    dry 3 'the gate is closed' weight 10
    dry 2 'a number from 0 to 100' weight 101
    dry 0 'gate closed' status
    dry 4 'VERDICT' dp list
    [ "$(kong_shift --dry-run --json cp backup | jq -r '.commands[0].step')" = backup ]
    [[ $(kong_shift --dry-run cp rollback) != *"$PASSWORD"* ]]
    [ "$(state)" = "$before" ]
    [ ! -e "$WORK" ]
}

@test "after the whole run: a dry rollback and a dry weight change nothing; --json shows the steps" {
    local before
    [ "$(kong_shift --json cp dual-cluster 2>/dev/null | jq -r 'map(.step) | join(" ")')" \
        = 'preflight freeze backup restore migrate start verify open' ]
    before=$(state)
    dry 0 'curl -X PUT -d' weight 10
    dry 0 'RENAME TO' cp rollback
    [[ $output == *"quit -p $RUN/cp_y"* ]]
    dry 0 'pg_restore' cp restore
    dry 0 'migrations finish' cp migrate
    dry 0 ' start -p ' cp start
    dry 0 'gate' cp unfreeze
    [ "$(state)" = "$before" ]
    [ "$(kong_shift --json abort 2>/dev/null | jq -r '.[0].aborted')" = true ]
}

@test "a guard that says no makes the exit code of a dry run" {
    sql_x "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', 'another-node', now() + interval '1 hour')"
    run kong_shift --dry-run cp dual-cluster
    [ "$status" -eq 3 ]
    run kong_shift --dry-run cp open
    sql_x 'DELETE FROM locks'
    echo "$output"
    [ "$status" -eq 3 ]
    [[ $output == *'guard migrations: '*'another-node'* ]]
    # A run that ends early has its end in the JSON too.
    run --separate-stderr kong_shift --json cp migrate
    [ "$status" -eq 3 ]
    [ "$(jq -r '.[-1] | .step, .result, .exit' <<<"$output" | paste -sd ' ')" = 'migrate failed 3' ]
    set_conf x.admin http://127.0.0.1:1
    dry 4 'unknown' cp preflight
}

@test "version; --json where it has no meaning" {
    run kong_shift version
    [ "$status" -eq 0 ]
    [[ $output =~ ^kong-shift\ [0-9]+\.[0-9]+\.[0-9]+$ ]]
    [ "$(kong_shift --json version | jq -r .version)" = "${output#* }" ]
    run kong_shift --json help
    [ "$status" -eq 2 ]
    [ "${#lines[@]}" -eq 1 ]
}

# The last, as the world is in-place from here on.
@test "in-place: stop, resume, rollback, finish" {
    in_place_reset
    dry 0 'quit -p' cp stop
    dry 2 'is for dual-cluster' cp restore
    dry 3 'was never run' cp finish kong
    dry 0 'migrations up' cp in-place
    kong_shift cp in-place >/dev/null 2>&1
    local before
    before=$(PGDATABASE=kong_x digest_x; get events .last)
    dry 0 'restore-x' cp rollback
    [[ $output == *'RENAME TO'*pg_restore*start-x*' start -p '* ]]
    dry 3 'not everything goes to the new pool' cp finish
    dry 3 '"other" is not the name of the shift' cp finish other
    dry 0 'nothing to resume' cp resume
    [ "$(PGDATABASE=kong_x digest_x; get events .last)" = "$before" ]
    kong_shift weight 100 >/dev/null
    set_conf hold 1s
    sleep 2
    dry 0 'migrations finish' cp finish
    # Not the name, which would be needed to do it.
    [ "$(kong_shift --dry-run --json cp finish | jq -r '.commands[0].step')" = finish ]
}
