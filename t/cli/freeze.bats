#!/usr/bin/env bats
#
# kong-shift cp freeze and unfreeze, by the module and by rights; the quiet dump.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

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
    [ "$(jq -r 'select(.table == "consumers") | .rows' "$WORK"/x-*.digest.json)" = 4 ]
    curl -s -f -X DELETE "http://127.0.0.1:${PORT[shift]}/open-x/consumers/late"
}

@test "no dump while somebody writes past the freeze" {
    local writer
    kong_shift cp freeze
    # one session, whose writes do not wait for processes to start
    PGAPPNAME=writer sql_x 'DO $$ BEGIN LOOP UPDATE services SET retries = 3 + retries % 9; COMMIT; PERFORM pg_sleep(0.02); END LOOP; END $$' 3>&- &
    writer=$!
    until [ "$(pg_psql -c "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'writer'")" = 1 ]; do sleep 0.05; done
    check 1 'was written to while it was about to be dumped: services' cp backup
    pg_psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'writer'"
    wait "$writer" || true
    [ ! -e "$WORK/backup.json" ]
    [ "$(find "$WORK" -name 'x-*' | wc -l)" = 0 ]
    check 0 'backup' cp backup
}

# What role kong may do, table by table; the rights of a new table are shown as no entry.
rights() {
    sql_x "SELECT c.relname, string_agg(a.privilege_type, ' ' ORDER BY a.privilege_type)
        FROM pg_class c, aclexplode(coalesce(relacl, acldefault('r', relowner))) a
        WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace GROUP BY 1 ORDER BY 1"
}

may_write() { sql_x "SELECT bool_or(has_table_privilege('kong', relname::text, 'INSERT, UPDATE, DELETE, TRUNCATE')) FROM pg_class WHERE relname IN ('consumers', 'tags', 'routes')"; }

# Before and after: by rights, and x.admin past the module.
by_revoke() {
    set_conf freeze revoke
    set_conf x.admin "http://127.0.0.1:${PORT[cp_x.admin]}"
    set_conf freeze_timeout 2
}

@test "freeze = revoke: admin writes fail, heartbeats go on, exactly the rights of before come back" {
    local before digest
    by_revoke
    sql_x "REVOKE TRUNCATE ON consumers FROM kong"
    before=$(rights) digest=$(digest_x)

    run kong_shift plan
    says 'REVOKE INSERT, UPDATE, DELETE, TRUNCATE from'
    says 'by the rights of role kong on'
    [ "$(may_write)" = t ]

    # a write under way is waited for, but not for ever
    PGDATABASE=kong_x PGAPPNAME=late pg_psql -c 'BEGIN' -c 'LOCK TABLE consumers IN ROW EXCLUSIVE MODE' -c 'SELECT pg_sleep(60)' >/dev/null 2>&1 3>&- &
    until [ "$(pg_psql -c "SELECT count(*) FROM pg_locks WHERE mode = 'RowExclusiveLock' AND relation IS NOT NULL AND pid IN
        (SELECT pid FROM pg_stat_activity WHERE application_name = 'late')")" != 0 ]; do sleep 0.1; done
    check 1 'a write takes longer than freeze_timeout' cp freeze
    [ "$(may_write)" = t ]
    pg_psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'late'" >/dev/null
    wait $! || true

    check 0 'freeze' cp freeze
    [ "$(may_write)" = f ]
    [ "$(curl -s -o /dev/null -w '%{http_code}' -d username=no "http://127.0.0.1:${PORT[cp_x.admin]}/consumers")" = 500 ]
    [ "$(sql_x "SELECT has_table_privilege('kong', 'clustering_data_planes', 'INSERT')")" = t ]
    check 0 'already on' cp freeze
    check 0 'freeze revoke: rights of role kong taken' cp status
    check 0 'may write to' cp unfreeze
    [ "$(rights)" = "$before" ]
    [ ! -e "$WORK/revoke.json" ]
    check 0 'already off' cp unfreeze
    sql_x "GRANT TRUNCATE ON consumers TO kong"
    [ "$(digest_x)" = "$digest" ]
}

@test "freeze = revoke: the whole run; rollback gives the rights back" {
    local before
    by_revoke
    before=$(rights)
    check 0 'CP Y' cp dual-cluster
    [ "$(may_write)" = f ]
    [ "$(sql_y "SELECT has_table_privilege('kong', 'consumers', 'INSERT')")" = t ]
    [ "$(get gate .state) $(get freeze .state)" = 'open off' ]
    check 0 'may write to' cp rollback
    [ "$(rights)" = "$before" ]
    [ "$(get gate .state)" = closed ]
}

@test "freeze = revoke: killed after the record or after the revoke, run again, resume and rollback heal it" {
    local before way
    by_revoke
    before=$(rights)
    mkdir "$BATS_TEST_TMPDIR/bin"
    for way in 'cp resume' 'cp rollback' 'cp unfreeze'; do
        # the record is there, nothing else
        printf '#!/bin/bash\n/usr/bin/sync "$@"\n[[ $* != *revoke.json.tmp ]] || kill -9 "$PPID" $(ps -o ppid= "$PPID")\n' >"$BATS_TEST_TMPDIR/bin/sync"
        chmod +x "$BATS_TEST_TMPDIR/bin/sync"
        PATH=$BATS_TEST_TMPDIR/bin:$PATH run ! kong_shift cp dual-cluster
        [ "$(may_write)" = t ]
        # shellcheck disable=SC2086
        check 0 '' $way
        # the rights are gone, the step has not ended
        kong_shift cp rollback
        printf '#!/bin/bash\n[[ $* != *journal.jsonl ]] || [[ $(tail -n 1 "${@: -1}") != *"\\"step\\":\\"freeze\\",\\"event\\":\\"end\\""* ]] || kill -9 "$PPID"\nexec /usr/bin/sync "$@"\n' \
            >"$BATS_TEST_TMPDIR/bin/sync"
        PATH=$BATS_TEST_TMPDIR/bin:$PATH run ! kong_shift cp dual-cluster
        [ "$(may_write)" = f ]
        # shellcheck disable=SC2086
        check 0 '' $way
        [[ $way != 'cp resume' ]] || { [ "$(get gate .state)" = open ]; kong_shift cp rollback; }
        [ "$(rights)" = "$before" ]
    done
}

@test "freeze = revoke is refused for a superuser, and a stranger to the tables; a bad value" {
    by_revoke
    pg_psql -c 'ALTER ROLE kong SUPERUSER'
    run kong_shift plan
    pg_psql -c 'ALTER ROLE kong NOSUPERUSER'
    [ "$status" -eq 3 ]
    says 'role kong is a superuser, whom no missing right stops'
    sql_x 'ALTER TABLE consumers OWNER TO kong_super'
    run kong_shift plan
    sql_x 'ALTER TABLE consumers OWNER TO kong'
    [ "$status" -eq 3 ]
    says 'does not own public.consumers'
    set_conf freeze maybe
    check 2 'freeze must be module or revoke, got "maybe"' plan
}
