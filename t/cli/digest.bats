#!/usr/bin/env bats
#
# Nothing lost: content of every column, every row that was written since.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# A kong of Y whose migrations also do this SQL.
migrations_do() {
    printf '%s\n' "$1" >"$BATS_TEST_TMPDIR/sql"
    cat >"$BATS_TEST_TMPDIR/kong" <<END
#!/usr/bin/env bash
[[ \$1 != --version ]] || exit
"${KONG[y]}" "\$@" || exit
[[ "\$1 \$2" != 'migrations finish' ]] || PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=$PG_SUPERUSER PGPASSFILE=$PG_PASSFILE \\
    PGDATABASE=\$KONG_PG_DATABASE $PG_BIN/psql -Xqf $BATS_TEST_TMPDIR/sql
END
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"
}

id_of() {
    sql_x "SELECT id FROM $1 LIMIT 1"
}

@test "what migrations change: rows never, known columns are named, others must be forced" {
    local before
    before=$(digest_x)
    migrations_do "DELETE FROM consumers WHERE username = 'team-1'"
    ks 1 cp dual-cluster
    says 'consumers has 2 rows instead of 3'

    # as many rows, another key
    migrations_do "UPDATE consumers SET id = gen_random_uuid() WHERE username = 'team-1'"
    ks 1 cp dual-cluster
    says 'consumers has other primary keys'

    migrations_do "UPDATE services SET retries = 7; UPDATE routes SET paths = ARRAY['~/orders'];
        ALTER TABLE consumers DROP custom_id; ALTER TABLE services ADD shiny text DEFAULT 'x'"
    ks 3 cp dual-cluster
    says 'changed by migrations, as known: routes.paths'
    says 'removed by migrations: consumers.custom_id'
    says 'not known to change: services.retries; '
    says 'insist: --force columns'
    [ "$(get gate .state)" = closed ]
    run ! journal_has '.step == "start"'
    run ! kong_shift --force columns cp status

    ks 0 --force columns cp dual-cluster
    says 'although: "kong migrations" changed columns'
    journal_has '.step == "migrate" and .result == "done" and ."columns.changed" == "routes.paths"
        and ."columns.gone" == "consumers.custom_id" and (."forced.columns" | test("services.retries"))'
    [ "$(get gate .state)" = open ]
    [[ $(curl -s "$SHIFT/events" | jq -r '[.. | .comment? // empty] | join(" ")') = *'--force columns'* ]]
    # not once and for all
    ks 3 cp verify
    says 'services.retries'
    [ "$(digest_x)" = "$before" ]
}

@test "a write to X or Y is named by table and key" {
    local id
    ks 0 cp dual-cluster

    curl -s -f -o /dev/null -d username=late "http://127.0.0.1:${PORT[shift]}/open-x/consumers"
    id=$(sql_x "SELECT id FROM consumers WHERE username = 'late'")
    ks 1 cp verify
    says "consumers has 4 rows instead of 3 (added $id)"
    curl -s -f -X DELETE "http://127.0.0.1:${PORT[shift]}/open-x/consumers/late"
    ks 0 cp verify

    sql_x "UPDATE services SET retries = retries + 1"
    ks 1 cp verify
    says "services has changed rows (changed $(id_of services))"
    sql_x "UPDATE services SET retries = retries - 1"

    id=$(id_of routes)
    sql_y "UPDATE routes SET name = 'other'"
    ks 1 cp verify
    says "was written to after \"kong migrations\": routes has changed rows (changed $id)"
    sql_y "UPDATE routes SET name = 'orders'"
    ks 0 cp verify

    # Without what migrations left nothing is known of Y.
    rm "$WORK"/y-*.rows
    ks 4 cp verify
    says 'was not recorded'
}

@test "drift is watched, and holds the weight" {
    local id before
    ks 3 cp watch
    says 'run "kong-shift cp backup" first'
    ks 0 cp dual-cluster
    ks 0 weight 1
    says '[1/1] drift'
    ks 0 --json cp watch
    [ "$(jq -c . <<<"$output")" = '{"x":[],"y":[]}' ]
    [ "$(kong_shift --json weight 2 2>/dev/null | jq -r '.[0].weight.new')" = 2 ]
    ks 2 cp watch 0s
    ks 2 --force path weight 2

    id=$(id_of services)
    sql_x "UPDATE services SET retries = retries + 1"
    ks 1 cp watch
    says "services has changed rows (changed $id)"
    says ': as it was'
    ks 1 --json cp watch
    [ "$(jq -r '.x[0] | .table + .changed[0]' <<<"$output")" = "services$id" ]
    ks 3 weight 3
    says "database kong_x on $PGHOST:$PGPORT as kong was written to: services has changed rows (changed $id)"
    says '--force drift'
    ks 3 --dry-run weight 3
    [ "$(get weight .new)" = 2 ]
    journal_has '.step == "drift" and .result == "failed" and (.reason | test("services"))'
    # less is always allowed, and so is more when one insists
    ks 0 weight 1
    ks 0 --force drift weight 3
    journal_has '.step == "drift" and .result == "done" and (."forced.drift" // "" | test("services"))'
    [[ $(curl -s "$SHIFT/events" | jq -r '[.. | .comment? // empty] | join(" ")') = *'kong-shift weight --force drift'* ]]
    sql_x "UPDATE services SET retries = retries - 1"

    # Y, but only while nothing may be written to it
    sql_y "DELETE FROM consumers WHERE username = 'team-2'"
    ks 3 weight 4
    says 'consumers has 2 rows instead of 3 (removed '
    put freeze '{"state":"off"}'
    ks 0 weight 4
    sql_x "UPDATE services SET retries = retries + 1"
    ks 3 weight 5
    sql_x "UPDATE services SET retries = retries - 1"

    # it looks until it finds
    { sleep 2; sql_x "INSERT INTO consumers (id, username) VALUES (gen_random_uuid(), 'late')"; } 3>&- &
    ks 1 cp watch 1s
    says 'consumers has 4 rows instead of 3 (added '
    sql_x "DELETE FROM consumers WHERE username = 'late'"

    # the gate was opened by somebody who knows more than this work_dir
    mv "$WORK" "$WORK.away"
    ks 4 weight 5
    says 'its dump is not in'
    put gate '{"state":"closed"}'
    put gate '{"state":"open","force":true,"comment":"test"}'
    ks 0 weight 5
}

@test "jobs: dump and restore in parallel, kept while whole" {
    local dump
    set_conf jobs 0
    ks 2 cp backup
    says 'jobs must be a number from 1 to 99'
    set_conf jobs 2
    ks 0 plan
    says 'pg_dump -Fd -j 2 '
    says '--exit-on-error -j 2 '
    ks 0 cp dual-cluster
    dump=$(jq -r .id "$WORK/backup.json").dump
    [ -d "$WORK/$dump" ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 3 ]
    ks 0 cp backup
    says kept
    # one file of it is damaged
    : >"$WORK/$dump/toc.dat"
    ks 0 cp backup
    run ! says kept
    run ! ls "$WORK"/*.tmp*
}

@test "a server that cannot hash rows: as text, and nothing escapes it either" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/psql" <<END
#!/usr/bin/env bash
set -o pipefail
tee -a '$BATS_TEST_TMPDIR/asked' | '$(command -v psql)' "\$@" | sed -u 's/^1[0-9]\{5\}|\(-\?[0-9]*|[tf]|\)/130014|\1/'
END
    chmod +x "$BATS_TEST_TMPDIR/bin/psql"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH
    ks 0 cp dual-cluster
    sql_x "UPDATE services SET retries = retries + 1"
    ks 1 cp verify
    says "services has changed rows (changed $(id_of services))"
    sql_x "UPDATE services SET retries = retries - 1"
    sql_y "UPDATE routes SET name = 'other'"
    ks 1 cp verify
    says "routes has changed rows (changed $(id_of routes))"
    [ "$(grep -a '^.set hash' "$BATS_TEST_TMPDIR/asked" | sort -u)" = '\set hash text' ]
}
