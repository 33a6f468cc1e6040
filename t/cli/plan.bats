#!/usr/bin/env bats
#
# kong-shift plan, and each guard: when it says no, and when it does not.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; without_dps; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# dp_row AGO VERSION [SYNC_STATUS]: a data plane in the list of CP X.
dp_row() {
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES ('11111111-1111-1111-1111-111111111111', 'web-1', '127.0.0.1', now() - interval '$1',
        '0123456789abcdef0123456789abcdef', now() + interval '1 day', '$2', '${3:-normal}')"
}

without_dps() { sql_x 'DELETE FROM clustering_data_planes'; }

@test "nothing stands against it: every guard says so, every command is shown, nothing is changed" {
    local before events
    before=$(digest_x)
    events=$(get events .last)
    plan 0
    [ "$(jq -r '[.guards[].result] | unique | join(" ")' <<<"$PLAN")" = ok ]
    [ "$(jq '[.guards[] | select(.checked == "" or .found == "")] | length' <<<"$PLAN")" = 0 ]
    [ "$(jq -r '[.commands[].step] | unique | sort | join(" ")' <<<"$PLAN")" = 'backup freeze migrate open restore start verify' ]
    [ ! -e "$WORK" ]
    [ "$(digest_x)" = "$before" ]
    [ "$(get events .last)" = "$events" ]
    [ "$(pg_psql -c "SELECT count(*) FROM pg_database WHERE datname LIKE 'kong y%'")" = 0 ]

    run kong_shift plan
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *'Nothing stands against it.'* ]]
    [[ $output == *"migrations up --db-timeout 3600"* ]]
    [[ $output == *"pg_dump -Fc -w"* ]]
    [[ $output != *"$PASSWORD"* && $output != *'cr\et'* ]]
}

@test "the commands shown are those that are run" {
    local line
    mkdir "$BATS_TEST_TMPDIR/bin"
    for tool in pg_dump pg_restore; do
        printf '#!/bin/bash\nprintf "%%s " "%s" "$@" >>%q; echo >>%q\nexec %q "$@"\n' "$tool" \
            "$BATS_TEST_TMPDIR/ran" "$BATS_TEST_TMPDIR/ran" "$PG_BIN/$tool" >"$BATS_TEST_TMPDIR/bin/$tool"
    done
    printf '#!/bin/bash\nprintf "%%s " "$@" >>%q; echo >>%q\nexec %q "$@"\n' \
        "$BATS_TEST_TMPDIR/ran" "$BATS_TEST_TMPDIR/ran" "${KONG[y]}" >"$BATS_TEST_TMPDIR/bin/kong"
    chmod +x "$BATS_TEST_TMPDIR"/bin/*
    set_conf y.kong "$BATS_TEST_TMPDIR/bin/kong"
    run kong_shift plan
    PATH=$BATS_TEST_TMPDIR/bin:$PATH kong_shift cp dual-cluster
    cat "$BATS_TEST_TMPDIR/ran"
    for line in 'pg_dump -Fc -w --lock-wait-timeout=60s' \
        'pg_restore -w --no-owner --no-privileges --role=kong --exit-on-error --single-transaction' \
        "migrations up --db-timeout 3600 --lock-timeout 3600 -c $RUN/cp_y.conf" \
        "migrations finish --db-timeout 3600 --lock-timeout 3600 -c $RUN/cp_y.conf" \
        "start -p $RUN/cp_y -c $RUN/cp_y.conf"
    do
        grep -qF -- "$line" "$BATS_TEST_TMPDIR/ran"
        [[ $output == *"$line"* ]]
    done
}

@test "all refusals at once, not only the first" {
    sql_x "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', 'another-node', now() + interval '1 hour')"
    set_conf y.prefix "$RUN/cp_x"
    set_conf y.db.name kong_x
    set_conf y.db.host localhost
    dp_row '3 hours' "$X_VERSION"
    plan 3
    sql_x 'DELETE FROM locks'
    without_dps
    guard migrations refused 'locked for migrations by another-node'
    guard x-node refused 'is the prefix of the running CP X'
    guard y-database refused 'the database of X itself'
    guard y-conf refused 'make them the same'
    guard data-planes refused 'web-1'
    guard path ok
    run kong_shift plan
    [ "$status" -eq 3 ]
    [[ $output == *'It would stop before it changes anything'* ]]
}

@test "unknown is failure: CP X does not answer" {
    set_conf x.admin http://127.0.0.1:1
    plan 4
    guard x-node unknown 'does not answer'
    guard data-planes unknown
    guard plugins unknown
    guard path ok
}

@test "data-planes: alive is fine; dead, newer than CP Y, or not checked is not, unless forced" {
    dp_row '5 seconds' "$X_VERSION"
    plan 0
    guard data-planes ok '1 DPs'
    without_dps

    dp_row '3 hours' "$X_VERSION"
    plan 3
    refused_alone data-planes 'DP web-1 (11111111-1111-1111-1111-111111111111'
    guard data-planes refused 'is stale, last seen 108'
    plan 0 --force data-planes
    guard data-planes forced 'web-1'
    without_dps

    dp_row '1 second' 3.99.0
    plan 3
    refused_alone data-planes 'newer than CP Y'
    without_dps
    dp_row '1 second' "$X_VERSION" unknown
    plan 3
    refused_alone data-planes 'its plugins were not checked'
    without_dps
    dp_row '1 second' "$X_VERSION" plugin_set_incompatible
    plan 0
    guard data-planes ok 'gets no other'
    without_dps
}

@test "plugins: one in use on X must be enabled for Y" {
    local plugins=http://127.0.0.1:${PORT[shift]}/open-x/plugins id
    id=$(curl -s -f -d name=rate-limiting -d config.hour=9 -d config.policy=local "$plugins" | jq -r .id)
    plan 0
    guard plugins ok 'in use on X: rate-limiting'
    cp "$RUN/cp_y.conf" "$BATS_TEST_TMPDIR/cp_y.conf"
    set_conf y.conf "$BATS_TEST_TMPDIR/cp_y.conf"
    echo 'plugins = key-auth' >>"$BATS_TEST_TMPDIR/cp_y.conf"
    plan 3
    curl -s -f -X DELETE "$plugins/$id"
    refused_alone plugins 'does not enable (plugins = key-auth): rate-limiting'
    plan 0
}

# compare X Y: what the script says of two answers to GET /.
compare() {
    printf '%s' "$1" >"$BATS_TEST_TMPDIR/x.root"
    printf '%s' "$2" >"$BATS_TEST_TMPDIR/y.root"
    run bash -euc 'STRATEGY=dual-cluster; for part in log plugins; do . "$1/scripts/lib/$part.bash"; done
        plugins_compare "$2/x.root" "$2/y.root"' - "$ROOT" "$BATS_TEST_TMPDIR"
    echo "$output"
}

@test "plugins: of a CP Y that runs, missing, not enabled, of another version" {
    local x='{"plugins":{"enabled_in_cluster":["mine","cors"],"available_on_server":{"cors":{"version":"3.8.1"},"mine":{"version":"1.2.0"}}},"configuration":{"plugins":["bundled","mine"]}}'
    compare "$x" '{"plugins":{"available_on_server":{"cors":{"version":"3.9.3"},"mine":{"version":"1.3.0"}}},"configuration":{"loaded_plugins":{"cors":true,"mine":true}}}'
    [ "$status" -eq 0 ]
    [ -z "$output" ]
    compare "$x" '{"plugins":{"available_on_server":{"cors":{"version":"3.9.3"}}},"configuration":{}}'
    [ "$status" -eq 3 ]
    [[ $output == *'has not enabled: mine;'* ]]
    compare "$x" '{"plugins":{"available_on_server":{"cors":true,"mine":true}},"configuration":{"loaded_plugins":{"cors":true}}}'
    [ "$status" -eq 3 ]
    for version in 2.0.0 1.1.9; do
        compare "$x" '{"plugins":{"available_on_server":{"cors":{"version":"3.9.3"},"mine":{"version":"'$version'"}}},"configuration":{}}'
        [ "$status" -eq 0 ]
        [[ $output == *"mine 1.2.0 -> $version"* ]]
    done
}

@test "certificate: another one, one that ends soon, none to be seen" {
    cp "$RUN/cp_y.conf" "$BATS_TEST_TMPDIR/cp_y.conf"
    set_conf y.conf "$BATS_TEST_TMPDIR/cp_y.conf"
    certificate() {
        openssl req -new -x509 -nodes -days "$1" -subj /CN=kong_clustering -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
            -keyout "$BATS_TEST_TMPDIR/other.key" -out "$BATS_TEST_TMPDIR/other.crt" 2>/dev/null
    }
    certificate 30
    sed -i "s|^cluster_cert = .*|cluster_cert = $BATS_TEST_TMPDIR/other.crt|" "$BATS_TEST_TMPDIR/cp_y.conf"
    plan 3
    refused_alone certificate 'another cluster certificate'
    plan 0 --force certificate
    guard certificate forced

    # the same on both, but at its end
    certificate 3
    cp "$RUN/cluster.crt" "$BATS_TEST_TMPDIR/kept.crt"
    cat "$BATS_TEST_TMPDIR/other.crt" >"$RUN/cluster.crt"
    plan 3
    cat "$BATS_TEST_TMPDIR/kept.crt" >"$RUN/cluster.crt"
    refused_alone certificate 'ends within a week'

    sed -i "s|^cluster_cert = .*|cluster_cert = /nonexistent|" "$BATS_TEST_TMPDIR/cp_y.conf"
    plan 4
    guard certificate unknown 'cannot be read here'
    sed -i "s|^cluster_cert = .*|cluster_cert = $RUN/cp_y.conf|; \$a cluster_mtls = pki" "$BATS_TEST_TMPDIR/cp_y.conf"
    # Kong does not take such settings either, so other guards may not know.
    plan 3
    guard certificate refused 'is no certificate'
    sed -i "s|^cluster_cert = .*|cluster_cert = $RUN/cluster.crt|" "$BATS_TEST_TMPDIR/cp_y.conf"
    plan 3
    guard certificate refused 'cluster_mtls is shared for CP X and pki for CP Y'
}

@test "space and client tools" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/bash\necho Avail\necho 1048576\n' >"$BATS_TEST_TMPDIR/bin/df"
    printf '#!/bin/bash\necho "pg_dump (PostgreSQL) 9.6.1"\n' >"$BATS_TEST_TMPDIR/bin/pg_dump"
    chmod +x "$BATS_TEST_TMPDIR"/bin/*
    PATH=$BATS_TEST_TMPDIR/bin:$PATH plan 3
    guard space refused 'has 1 MiB free'
    guard x-database refused 'pg_dump is of PostgreSQL 9'
    rm "$BATS_TEST_TMPDIR/bin/pg_dump"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH plan 3
    refused_alone space 'room for three times'
    PATH=$BATS_TEST_TMPDIR/bin:$PATH plan 0 --force=space
}

# way X Y: the steps the script knows, or why there is no way.
way() {
    bash -euc 'for part in log kong path; do . "$1/scripts/lib/$part.bash"; done
        path_hole "$2" "$3"; [[ -z $REPLY ]] || { echo hole; exit; }
        path_steps "$2" "$3"; echo "$REPLY"' - "$ROOT" "$1" "$2"
}

@test "path: what Kong supports" {
    [ "$(way 3.8.0 3.8.1)" = 3.8 ]
    [ "$(way 3.8.1 3.9.3)" = '3.8 3.9' ]
    [ "$(way 2.8.5 3.4.2)" = '2.8 3.4' ]
    [ "$(way 3.4.3.5 3.10.0.1)" = '3.4 3.10' ]
    [ "$(way 2.8.5 3.0.0)" = '2.8 3.0' ]
    [ "$(way 2.8.5 3.10.0)" = '2.8 3.4 3.10' ]
    [ "$(way 3.5.0 3.7.1)" = '3.5 3.6 3.7' ]
    [ "$(way 2.7.2 3.4.0)" = '2.7 2.8 3.4' ]
    [ "$(way 3.9.3 3.10.0)" = '3.9 3.10' ]
    [ "$(way 3.1.1 3.2.0)" = hole ]
    [ "$(way 3.1.1.1 3.2.0.0)" = hole ]
    [ "$(way 3.1.1.2 3.2.0.0)" = '3.1 3.2' ]
    [ "$(way 2.8.5 3.1.0)" = hole ]
    [ "$(way 3.0.1 3.1.1)" = '3.0 3.1' ]
}

@test "versions: a downgrade is refused, and cannot be forced" {
    set_conf x.kong "${KONG[y]}"
    set_conf y.kong "${KONG[x]}"
    plan 3 --force path
    guard versions refused 'a downgrade'
}

@test "path: too long a way is refused, unless forced; the gate and the journal tell" {
    local x=${X_VERSION%.*} y=${Y_VERSION%.*} before
    # A minor version before X, from which Y is two steps away.
    before=${x%.*}.$(( ${x#*.} - 1 ))
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF2
#!/usr/bin/env bash
if [[ \$1 = version ]]; then echo $before.1; else exec "${KONG[x]}" "\$@"; fi
EOF2
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf x.kong "$BATS_TEST_TMPDIR/kong"
    plan 3
    guard path refused "upgrade in steps ($before -> $x -> $y)"
    guard x-node refused "is Kong $X_VERSION"

    set_conf x.kong "${KONG[x]}"
    dp_row '3 hours' "$X_VERSION"
    run kong_shift cp dual-cluster
    [ "$status" -eq 3 ]
    [ "$(get freeze .state)" = off ]
    run kong_shift cp dual-cluster --force data-planes
    without_dps
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *'warning: --force data-planes, although: CP X: DP web-1'* ]]
    [[ $(get gate .comment) == 'kong-shift cp dual-cluster --force data-planes, '* ]]
    jq -es 'any(.[]; .step == "preflight" and (."forced.data-planes" // "" | test("web-1")))' "$WORK/journal.jsonl"
}

@test "--force: only of a guard that may be forced, only where guards are asked" {
    run kong_shift plan --force migrations
    [ "$status" -eq 2 ]
    [[ $output == *'these may: path major data-planes certificate quarantine space'* ]]
    run kong_shift status --force path
    [ "$status" -eq 2 ]
    run kong_shift plan --force
    [ "$status" -eq 2 ]
}
