#!/usr/bin/env bats
#
# kong-shift and what goes wrong around it: each fault ends in one sentence and
# an exit code, leaves X as it was, and the same command succeeds once it is gone.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    . "$BATS_TEST_DIRNAME/faults.bash"
    world_reset
    faults cp dual-cluster
}

@test "PostgreSQL down, or a balancer of two that does not answer: unknown, nothing begun" {
    set_conf x.db.port 1
    fault 4 'look at x.db.host and x.db.port, and whether PostgreSQL runs'
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"
    echo 'lb = http://127.0.0.1:1/shift' >>"$CONF"
    fault 4 'http://127.0.0.1:1/shift: reading the shift kong: no answer'
    [ "$(get freeze .state)" = off ]
}

@test "one after the other: connection cut in the middle of the dump, disk full, cut in the middle of the restore and of up, finish aborted" {
    # not the digest beside it
    cutter kong_x routes 'ACCESS EXCLUSIVE' 'LOCK TABLE%'
    tool pg_dump <<<"$BIN/cutter; exec \"\$REAL\" \"\$@\""
    fault 1 'pg_dump of database'
    # the file that -f names
    tool pg_dump <<<'file=${*: -1}; rm -f "$file"; ln -s /dev/full "$file"; exec "$REAL" "$@"'
    fault 1 'No space left on device'
    [ "$(find "$WORK" -name 'x-*' | wc -l)" = 0 ]

    # the target stays empty
    mended
    tool pg_restore <<'EOF2'
[[ $1 != -l ]] || exec "$REAL" "$@"
{ "$REAL" -f - "${@: -1}" | head -n 150; echo 'SELECT pg_terminate_backend(pg_backend_pid());'; } \
    | psql -X -q -1 -v ON_ERROR_STOP=1 -d "${@: -2:1}" >/dev/null
EOF2
    fault 1 'pg_restore into database'
    [ "$(sql_y "SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")" = 0 ]

    mended
    cutter "$Y_NAME" schema_meta EXCLUSIVE
    kong_y <<<"[[ \"\$1 \$2\" != 'migrations up' ]] || $BIN/cutter"
    fault 1 '"kong migrations up" on database'
    [[ $stderr == *'; X is untouched, run it again to begin with a fresh copy; log: '* ]]

    # another node holds the lock
    mended
    cat >"$BIN/lock" <<EOF2
PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=$PG_SUPERUSER PGPASSFILE=$PG_PASSFILE PGDATABASE=$(printf %q "$Y_NAME") $PG_BIN/psql -X -q \\
    -c "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', 'another-node', now() + interval '1 hour')"
EOF2
    kong_y <<<"[[ \"\$1 \$2\" != 'migrations finish' ]] || bash $BIN/lock"
    fault 1 'said: aborted: another node is performing database changes; find that node'
    way_on
}

@test "CP Y with another cluster certificate: refused before anything is changed" {
    openssl req -new -x509 -nodes -days 30 -subj /CN=kong_clustering -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -keyout "$BATS_TEST_TMPDIR/other.key" -out "$BATS_TEST_TMPDIR/other.crt" 2>/dev/null
    sed "s|^cluster_cert = .*|cluster_cert = $BATS_TEST_TMPDIR/other.crt|" "$RUN/cp_y.conf" >"$BATS_TEST_TMPDIR/cp_y.conf"
    set_conf y.conf "$BATS_TEST_TMPDIR/cp_y.conf"
    fault 3 'cluster certificate'
    [ "$(get freeze .state)" = off ]
}

@test "up timed out, but its server went on: never run twice on one copy" {
    kong_y <<<'[[ "$1 $2" != "migrations up" ]] || { "$REAL" "$@"; echo "Error: [PostgreSQL error] timeout"; exit 1; }'
    fault 1 'ended with 1: Error: [PostgreSQL error] timeout; X is untouched'
    way_on resume
    [ "$(jq -rs '[.[] | select(.step == "restore" and .event == "end") | .result] | join(" ")' "$WORK/journal.jsonl")" = 'done done' ]
}

@test "odd names in every setting are only names" {
    local key odd='a b'\''"; $(touch x) `touch x` \ %s'
    cd "$BATS_TEST_TMPDIR"
    while IFS= read -r key; do
        case $key in
            *_timeout | hold | jobs | *.port | freeze | lb) continue ;;
            *.start | *.stop | *.kong | *.header_file | *.ca | *.cert | *.key | *.watch) odd="/nonexistent/ \$(touch x); touch x" ;;
            *.admin) odd='http://127.0.0.1:1/$(touch${IFS}x);`touch${IFS}x`' ;;
            *.conf | *.prefix | passfile | work_dir) odd="$BATS_TEST_TMPDIR/a b'\"; \$(touch x)" ;;
            *) odd='a b'\''"; $(touch x) `touch x` \ %s' ;;
        esac
        cp conf "$CONF"
        set_conf "$key" "$odd"
        run --separate-stderr kong_shift cp freeze
        echo "$key: $status $stderr"
        [[ $status = [0-4] && $(wc -l <<<"$stderr") = 1 && ! -e x ]]
        put freeze '{"state":"off"}'
    done < <(bash -c '. "$1/scripts/lib/settings.bash"; printf "%s\n" "${!SETTING_TYPE[@]}"' - "$ROOT" | sort)
    [ "$(digest_x)" = "$BEFORE" ]
}
