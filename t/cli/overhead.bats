#!/usr/bin/env bats
#
# What the script takes on a large database beyond pg_dump, pg_restore and "kong
# migrations" themselves: below a tenth of theirs, or 5 s. Takes minutes, so only
# with KONG_SHIFT_LONG=1.
#   OVERHEAD_ROWS   routes, plugins, consumers and credentials each, default 50000
#   OVERHEAD_RUNS   runs of which the best counts, default 1; others may work on the machine

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file() {
    [[ ${KONG_SHIFT_LONG-} ]] || return 0
    . "$BATS_TEST_DIRNAME/world.bash"
    world_start
    seed_rows "${OVERHEAD_ROWS:-50000}"
    # That is X as it was, from now on.
    world_keep
}

setup() {
    [[ ${KONG_SHIFT_LONG-} ]] || skip 'KONG_SHIFT_LONG is not set'
    . "$BATS_TEST_DIRNAME/world.bash"
    world_reset
    [ "$(sql_x 'SELECT count(*) FROM routes')" -gt "${OVERHEAD_ROWS:-50000}" ]
    wrappers
}

teardown_file() {
    [[ ! ${KONG_SHIFT_LONG-} ]] || { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }
}

# seed_rows N: a plugin in 50 configurations, and a credential for each consumer.
seed_rows() {
    seed cp_x /plugins name=rate-limiting config.hour=9 config.policy=local
    PGDATABASE=kong_x pg_psql -v "n=$1" <<'SQL'
CREATE TEMP TABLE one AS SELECT n, gen_random_uuid() AS service, gen_random_uuid() AS route, gen_random_uuid() AS plugin,
    gen_random_uuid() AS consumer, gen_random_uuid() AS credential, (SELECT id FROM workspaces LIMIT 1) AS ws
FROM generate_series(1, :n) AS n;
INSERT INTO services (id, name, retries, protocol, host, port, path, connect_timeout, write_timeout, read_timeout, ws_id, enabled)
    SELECT service, 'service-' || n, 5, 'http', '127.0.0.1', 9, '/', 60000, 60000, 60000, ws, true FROM one WHERE n % 10 = 0;
INSERT INTO routes (id, name, service_id, protocols, paths, regex_priority, strip_path, preserve_host, https_redirect_status_code,
        path_handling, ws_id, request_buffering, response_buffering)
    SELECT route, 'route-' || n, (SELECT id FROM services WHERE name = 'orders'), '{http,https}', ARRAY['/route/' || n], 0, true, false,
        426, 'v0', ws, true, true FROM one;
INSERT INTO plugins (id, name, route_id, config, enabled, cache_key, protocols, ws_id)
    SELECT plugin, p.name, route, jsonb_set(p.config, '{hour}', to_jsonb(1 + n % 50)), true, 'plugins:rate-limiting:' || route || '::::' || ws,
        p.protocols, ws FROM one, plugins p;
INSERT INTO consumers (id, username, tags, ws_id) SELECT consumer, 'user-' || n, '{seed}', ws FROM one;
INSERT INTO keyauth_credentials (id, consumer_id, key, ws_id) SELECT credential, consumer, md5(n::text), ws FROM one;
ANALYZE;
SQL
}

# wrappers: pg_dump, pg_restore and kong tell how long they took: what, wall, CPU.
wrappers() {
    local name
    mkdir "$BATS_TEST_TMPDIR/bin"
    for name in pg_dump pg_restore; do timed "$name" "$PG_BIN/$name"; done
    for name in x y; do
        timed "kong-$name" "${KONG[$name]}"
        set_conf "$name.kong" "$BATS_TEST_TMPDIR/bin/kong-$name"
    done
}

timed() {
    cat >"$BATS_TEST_TMPDIR/bin/$1" <<END
#!/bin/bash
TIMEFORMAT="\${0##*/} \${1-} \${2-}|%R|%U|%S"
{ time "$2" "\$@" 2>&4; } 4>&2 2>>"$BATS_TEST_TMPDIR/times"
END
    chmod +x "$BATS_TEST_TMPDIR/bin/$1"
}

# measured STRATEGY: prints a line of figures, and keeps the best in BEST.
measured() {
    local figures
    rm -f "$BATS_TEST_TMPDIR/times"
    TIMEFORMAT='all|%R|%U|%S'
    { time PATH=$BATS_TEST_TMPDIR/bin:$PATH kong_shift cp "$1" >"$BATS_TEST_TMPDIR/out" 2>&1; } 2>"$BATS_TEST_TMPDIR/all"
    # Those of PostgreSQL's server are in no figure but that of the wall.
    figures=$(cat "$BATS_TEST_TMPDIR/times" "$BATS_TEST_TMPDIR/all" | awk -F '|' -v strategy="$1" '
        $1 == "all"          { all = $2; cpu = $3 + $4; next }
        $1 ~ /--version/     { next }
        $1 ~ /pg_dump/       { dump += $2 }
        $1 ~ /pg_restore/    { restore += $2 }
        $1 ~ /migrations/    { migrations += $2 }
        $1 ~ /pg_|migr/      { theirs += $2; theirs_cpu += $3 + $4; next }
        { kong += $2; kong_cpu += $3 + $4 }
        END { limit = theirs / 10 > 5 ? theirs / 10 : 5
            printf "%.1f %s: all %.1f s, pg_dump %.1f, pg_restore %.1f, kong migrations %.1f, on top of these %.1f (%.1f of it other kong commands), limit %.1f; CPU: all %.1f, theirs %.1f, other kong commands %.1f\n",
                all - theirs - limit, strategy, all, dump, restore, migrations, all - theirs, kong, limit, cpu, theirs_cpu, kong_cpu }')
    echo "# ${figures#* }" >&3
    grep -E '^\[|done|kept' "$BATS_TEST_TMPDIR/out" | paste -sd ' ' | tr -s ' '
    # What is left of the limit, below 0 is good.
    BEST=$(printf '%s\n' "${BEST:-999}" "${figures%% *}" | sort -g | head -n 1)
}

@test "dual-cluster of 50,000 routes, plugins, consumers and credentials" {
    local run
    for (( run = 0; run < ${OVERHEAD_RUNS:-1}; run++ )); do
        (( run == 0 )) || { kong_shift cp rollback >/dev/null; drop_y; rm -rf "$WORK"; }
        measured dual-cluster
        [ "$(get gate .state)" = open ]
    done
    [[ $BEST = -* ]]
}

@test "in-place of the same" {
    local run
    sed -i 's/^pg_database = .*/pg_database = kong_x/' "$RUN/cp_y.conf"
    set_conf x.prefix "$RUN/cp_x"
    sed -i '/^y.db.name/d' "$CONF"
    for (( run = 0; run < ${OVERHEAD_RUNS:-1}; run++ )); do
        (( run == 0 )) || { kong_shift cp rollback >/dev/null; rm -rf "$WORK"; }
        measured in-place
        [ "$(get gate .state)" = open ]
    done
    [[ $BEST = -* ]]
}
