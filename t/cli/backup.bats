#!/usr/bin/env bats
#
# kong-shift cp backup: a dump that was restored once.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

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

@test "tables that change size while two readers share them out are read all the same" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/psql" <<END
#!/bin/bash
while IFS= read -r line; do
    if [[ \$line = *'set half 1' && \$PGDATABASE = kong_x ]]; then
        sleep 0.5
        PGUSER=$PG_SUPERUSER PGPASSFILE=$PG_PASSFILE $PG_BIN/psql -Xqc "INSERT INTO ratelimiting_metrics (identifier, period, period_date,
                service_id, route_id, value)
            SELECT n, 'year', now(), gen_random_uuid(), gen_random_uuid(), 1 FROM generate_series(1, 1000) AS n" >&2 </dev/null
    fi
    printf '%s\\n' "\$line"
done | $PG_BIN/psql "\$@"
END
    chmod +x "$BATS_TEST_TMPDIR/bin/psql"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH ks 0 cp backup
    [ "$(jq -r .table "$WORK/$(jq -r .id "$WORK/backup.json").digest.json" | grep -c -x -e routes -e services -e plugins -e consumers -e tags -e locks)" = 6 ]
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
