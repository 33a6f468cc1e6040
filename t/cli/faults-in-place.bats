#!/usr/bin/env bats
#
# kong-shift cp in-place and what goes wrong around it; 3.5 -> 3.6, of the stand-in.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start 3.5.0 3.6.1; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    . "$BATS_TEST_DIRNAME/faults.bash"
    in_place_reset
    faults cp in-place
}

DP=11111111-1111-1111-1111-111111111111

# dp_row: a DP of X is heard.
dp_row() {
    cat <<EOF
INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
    VALUES ('$DP', 'web-1', '127.0.0.1', now(), '0123456789abcdef0123456789abcdef', now() + interval '1 day', '$X_VERSION', 'normal')
    ON CONFLICT (id) DO UPDATE SET last_seen = now();
EOF
}

# as_admin: a command that runs the SQL of standard input in the database of X.
as_admin() {
    printf "PGHOST=%q PGPORT=%q PGUSER=%q PGPASSFILE=%q PGDATABASE=kong_x %q -Xqc %q\n" \
        "$PGHOST" "$PGPORT" "$PG_SUPERUSER" "$PG_PASSFILE" "$PG_BIN/psql" "$(cat)"
}

rolled_back() {
    mended
    run kong_shift cp rollback
    echo "$output"
    [ "$status" -eq 0 ]
    x_answers
    [ "$(digest_x)" = "$BEFORE" ]
    [ "$(get gate .state) $(get freeze .state)" = 'closed off' ]
}

@test "before anything is changed: PostgreSQL down, wrong password, a balancer of two, no right to make the way back" {
    set_conf x.db.port 1
    fault 4 'look at x.db.host and x.db.port, and whether PostgreSQL runs'
    (umask 077 && printf '*:*:*:*:Wrong\n' >"$BATS_TEST_TMPDIR/passfile")
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"
    set_conf passfile "$BATS_TEST_TMPDIR/passfile"
    fault 4 'look at its line in the passfile'
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"
    echo 'lb = http://127.0.0.1:1/shift' >>"$CONF"
    fault 4 'http://127.0.0.1:1/shift: reading the shift kong: no answer'
    mended
    pg_psql -c 'ALTER ROLE kong NOCREATEDB'
    fault 3 'set y.db.admin to a role that may create and rename databases'
    [ "$(get freeze .state)" = off ]
    x_answers
}

@test "one after the other, X stopped but untouched: it does not stop, is used, cannot be dumped, is written to, hears DPs, is locked" {
    local session
    set_conf x.stop true
    set_conf x.start "${KONG[x]} start -c $RUN/cp_x.conf"
    set_conf start_timeout 1
    fault 1 'CP X does not stop (exit code 0)'
    x_answers

    mended
    PGPASSWORD=$PASSWORD PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=kong PGDATABASE=kong_x psql -Xqc 'SELECT pg_sleep(60)' >/dev/null 2>&1 3>&- &
    session=$!
    fault 3 'is in use by kong (127.0.0.1, pid '
    run ! x_answers
    kill "$session"
    sql_x "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(60)%' AND pid <> pg_backend_pid()" >/dev/null
    wait "$session" || true

    # not the digest beside it
    cutter kong_x routes 'ACCESS EXCLUSIVE' 'LOCK TABLE%'
    tool pg_dump <<<"$BIN/cutter; exec \"\$REAL\" \"\$@\""
    fault 1 'pg_dump of database'
    tool pg_dump <<<'file=${*: -1}; rm -f "$file"; ln -s /dev/full "$file"; exec "$REAL" "$@"'
    fault 1 'No space left on device'
    [ "$(find "$WORK" -name 'x-2*' | wc -l)" = 0 ]

    # while the dump is restored once
    mended
    { printf '"$REAL" "$@" || exit\n[[ $1 = -l ]] || '; as_admin <<<'UPDATE services SET retries = retries + 1'; } | tool pg_restore
    BEFORE='' MIGRATED=1 fault 3 'was written to after dump x-'
    sql_x 'UPDATE services SET retries = retries - 1'

    mended
    { printf '"$REAL" "$@" || exit\n[[ $1 = -l ]] || '; dp_row | as_admin; } | tool pg_restore
    rm "$WORK/backup.json"
    fault 3 "DPs were heard since: $DP; another node of X is at work"
    sql_x 'DELETE FROM clustering_data_planes'

    mended
    sql_x "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', 'another-node', now() + interval '1 hour')"
    fault 3 'is locked for migrations by another-node'
    sql_x 'DELETE FROM locks'
    MIGRATED=1 way_on resume
}

@test "a step by itself says which one is missing before it; unknown is where CP Y will listen without a conf" {
    fault 3 'there is no dump in' cp migrate
    fault 3 'is not migrated yet; run "kong-shift cp migrate" first' cp start
    run kong_shift cp backup
    fault 3 'CP X still answers at' cp migrate
    x_answers
    sed -i '/^y.conf/d' "$CONF"
    run kong_shift plan
    echo "$output"
    [ "$status" -eq 4 ]
    [[ $output == *'where CP Y will listen for DPs is not known, there is no y.conf to be read here'* ]]
    sed -i '/^x.prefix/d' "$CONF"
    fault 2 'set x.prefix, the folder CP X runs in, or x.stop and x.start'
    [ "$(get freeze .state)" = off ]
}

@test "up lost its connection: not run twice; rollback restores" {
    MIGRATED=1
    cutter kong_x schema_meta EXCLUSIVE
    kong_y <<<"[[ \"\$1 \$2\" != 'migrations up' ]] || $BIN/cutter"
    fault 1 '"kong migrations up" on database'
    [[ $stderr == *'never run it twice: "kong-shift cp rollback" restores dump x-'* ]]
    rolled_back
}

@test "up timed out, but its server went on: not run twice; resume goes on, rollback restores" {
    MIGRATED=1
    kong_y <<<'[[ "$1 $2" != "migrations up" ]] || { "$REAL" "$@"; echo "Error: [PostgreSQL error] timeout"; exit 1; }'
    fault 1 'ended with 1: Error: [PostgreSQL error] timeout; never run it twice: "kong-shift cp rollback" restores dump x-'
    way_on resume
    [ "$(grep -c 'migrations-up' <(ls "$WORK/log"))" = 1 ]

    # the dump is all there is of X
    local dump
    set_conf y.db.name kong_other
    put gate '{"state":"closed"}'
    fault 2 'an in-place upgrade was begun in work_dir' cp rollback
    mended
    dump=$WORK/$(jq -r .dump "$WORK/in-place.json").dump
    cp "$dump" "$BATS_TEST_TMPDIR/dump"
    echo x >>"$dump"
    MIGRATED=1 fault 1 'is not what was written (other checksum): nothing is done without it' cp rollback
    [ "$(pg_psql -c "SELECT count(*) FROM pg_database WHERE datname LIKE 'kong_x%'")" = 1 ]
    cp "$BATS_TEST_TMPDIR/dump" "$dump"
    rolled_back
}

@test "up failed half-way: neither it nor CP Y is run on that; rollback restores, its own restore may be cut" {
    kong_y <<EOF
[[ "\$1 \$2" != 'migrations up' ]] || $(as_admin <<<"CREATE FUNCTION no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''no''; END';
    CREATE TRIGGER no BEFORE INSERT OR UPDATE ON schema_meta FOR EACH ROW WHEN (NEW.subsystem = 'response-ratelimiting') EXECUTE FUNCTION no()")
EOF
    MIGRATED=1
    fault 1 '"kong migrations up" on database'
    # some are pending, others new: the exit code of "list" is that of pending alone
    [ "$(sql_x 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0')" != 0 ]
    mended
    fault 3 'but neither came to its end nor left it as it was'
    fault 3 'never run it twice: "kong-shift cp rollback" restores dump x-' cp resume
    fault 3 'never run it twice' cp start
    fault 3 'neither came to its end' cp finish kong

    tool pg_restore <<'EOF'
[[ $1 != -l ]] || exec "$REAL" "$@"
{ "$REAL" -f - "${@: -1}" | head -n 150; echo 'SELECT pg_terminate_backend(pg_backend_pid());'; } \
    | psql -X -q -1 -v ON_ERROR_STOP=1 -d "${@: -2:1}" >/dev/null
EOF
    fault 1 'mend it and run "kong-shift cp rollback" again' cp rollback
    [ "$(get freeze .state)" = on ]
    rolled_back
}

@test "CP Y does not start, or where the DPs of X come, or they are on it; X must not come back beside it" {
    set_conf y.start "sh -c 'echo Error: no port; exit 1'"
    MIGRATED=1
    fault 1 'starting CP Y ended with 1: Error: no port'

    # its environment is another than ours
    set_conf y.start "env KONG_CLUSTER_LISTEN=127.0.0.1:${PORT[cp_x.cluster]} ${KONG[y]} start -c $RUN/cp_y.conf -p $RUN/cp_y"
    fault 3 "CP Y listens for DPs on 127.0.0.1:${PORT[cp_x.cluster]}, where the DPs of X connect, and was stopped again"
    run ! curl -s -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"

    node_start x cp_x 3>&-
    wait_cp cp_x
    fault 3 'CP X was stopped, but answers again' cp resume
    fault 3 'stop it, two versions on one database harm it'
    "${KONG[x]}" stop -p "$RUN/cp_x" >/dev/null

    mended
    set_conf y.start "$BIN/start"
    { printf '#!/bin/bash\n%q start -c %q -p %q && ' "${KONG[y]}" "$RUN/cp_y.conf" "$RUN/cp_y"; dp_row | as_admin; } >"$BIN/start"
    chmod +x "$BIN/start"
    fault 3 "CP Y is not in quarantine, DPs of X are on it: web-1 ($DP, $X_VERSION)"
    rolled_back
}
