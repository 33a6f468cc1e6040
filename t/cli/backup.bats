#!/usr/bin/env bats
#
# kong-shift cp backup: a dump that was restored once.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

ks() {
    local code=$1
    shift
    run kong_shift "$@"
    echo "$output"
    [ "$status" -eq "$code" ]
}

says() {
    [[ $output == *"$1"* ]] || { echo "not said: $1"; return 1; }
}

test_databases() {
    pg_psql -c "SELECT count(*) FROM pg_database WHERE datname LIKE 'kong-shift-test-%'"
}

@test "the dump is restored once, compared, and the database dropped again" {
    ks 0 cp backup
    says 'the dump was restored once'
    [ "$(test_databases)" = 0 ]
    [[ $(jq -r .proved "$WORK/backup.json") = 'restored into kong-shift-test-'* ]]
    jq -es 'any(.[]; .step == "backup" and (.proved // "" | startswith("restored into")))' "$WORK/journal.jsonl"
    ks 0 cp backup
    says kept
    [[ $output != *'was restored once'* ]]

    # dual-cluster has a restore of its own
    sql_x "UPDATE services SET retries = retries + 1"
    ks 0 cp dual-cluster
    [[ $output != *'was restored once'* ]]
    [[ $(jq -r .proved "$WORK/backup.json") = 'restored into kong y'* ]]
}

@test "a dump that gives something else is no dump; the database left over is dropped" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/pg_restore" <<END
#!/bin/bash
$PG_BIN/pg_restore "\$@" || exit
[[ " \$* " != *' -d '* ]] || $PG_BIN/psql -Xqc 'DELETE FROM consumers'
END
    chmod +x "$BATS_TEST_TMPDIR/bin/pg_restore"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH ks 1 cp backup
    says 'the dump is no good, a test of it failed'
    says 'consumers has 0 instead of 3'
    [ ! -e "$WORK/backup.json" ]
    [ "$(test_databases)" = 1 ]
    ks 0 cp dual-cluster
    [ "$(test_databases)" = 0 ]
    [ ! -e "$WORK/test-restore" ]
}
