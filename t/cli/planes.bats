#!/usr/bin/env bats
#
# kong-shift dp list: whether a data plane is as it should be.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; sql_x 'DELETE FROM clustering_data_planes'; }
teardown()      { stop_dps; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

readonly HASH=0123456789abcdef0123456789abcdef ZEROS=00000000000000000000000000000000

# row HOST AGO VERSION [HASH [SYNC_STATUS]]: one more in the list of CP X.
row() {
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES (gen_random_uuid(), '$1', '127.0.0.1', now() - interval '$2', '${4:-$HASH}', now() + interval '1 day', '$3',
        '${5:-normal}')"
}

# list CODE: JSON into LIST.
list() {
    LIST=$(kong_shift --json dp list 2>"$BATS_TEST_TMPDIR/err") && status=0 || status=$?
    cat "$BATS_TEST_TMPDIR/err"
    jq -c . <<<"$LIST"
    [ "$status" -eq "$1" ]
}

verdict() { [ "$(jq -r --arg host "$1" '.[] | select(.hostname == $host) | .verdict' <<<"$LIST")" = "$2" ]; }

without_y() { sed -i '/^y.admin/d' "$CONF"; }

stop_dps() {
    local dp
    for dp in dp_x dp_y; do
        [[ ! -d $RUN/$dp ]] || "${KONG[${dp#dp_}]}" stop -p "$RUN/$dp" >/dev/null 2>&1 || true
        rm -rf "${RUN:?}/$dp"
    done
}

@test "verdicts" {
    without_y
    row good-1 '1 second' "$X_VERSION"
    row good-2 '30 seconds' "$X_VERSION"
    row dead '3 hours' "$X_VERSION"
    row dead-too '50 seconds' "$X_VERSION" "$ZEROS" plugin_set_incompatible
    row newer '1 second' "${X_VERSION%%.*}.99.0"
    row major '1 second' "$(( ${X_VERSION%%.*} - 1 )).8.5"
    row told '1 second' "$X_VERSION" "$ZEROS" kong_version_incompatible
    row empty '1 second' "$X_VERSION" "$ZEROS"
    row frozen '1 second' "$X_VERSION" "$HASH" plugin_version_incompatible
    row other '1 second' "$X_VERSION" abababababababababababababababab
    row unchecked '1 second' "$X_VERSION" "$HASH" unknown
    row future '-1 hour' "$X_VERSION"
    list 0
    verdict good-1 fresh
    verdict good-2 fresh
    verdict dead stale
    verdict dead-too stale
    verdict newer refused
    verdict major refused
    verdict told refused
    verdict empty 'no config'
    verdict frozen frozen
    verdict other frozen
    verdict unchecked unknown
    verdict future unknown

    run kong_shift dp list
    echo "$output"
    [ "${#lines[@]}" -eq 13 ]
    [[ $output == *'frozen: on another config than most'* ]]
    [[ $output == *'refused: CP is '* ]]
}

@test "two DPs with two configurations: none is believed" {
    without_y
    row one '1 second' "$X_VERSION"
    row two '1 second' "$X_VERSION" abababababababababababababababab
    list 0
    verdict one unknown
    verdict two unknown
}

@test "an empty list, a long list" {
    without_y
    list 0
    [ "$LIST" = '[]' ]
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        SELECT gen_random_uuid(), 'web-' || n, '127.0.0.1', now(), '$HASH', now() + interval '1 day', '$X_VERSION', 'normal'
        FROM generate_series(1, 1203) AS n"
    list 0 >/dev/null
    [ "$(jq 'map(.id) | unique | length' <<<"$LIST")" = 1203 ]
    [ "$(jq -r 'map(.verdict) | unique[]' <<<"$LIST")" = fresh ]
}

@test "what a DP calls itself drives no terminal" {
    without_y
    row $'a\e[31mb\n' '1 second' "$X_VERSION"
    run kong_shift dp list
    [ "$status" -eq 0 ]
    [ "${#lines[@]}" -eq 2 ]
    [[ $output == *'a [31mb '* ]]
}

@test "a CP that does not answer is said, and is not taken for one without DPs" {
    row good '1 second' "$X_VERSION"
    list 4
    grep -q 'CP Y http.* does not answer, its DPs are unknown' "$BATS_TEST_TMPDIR/err"
    verdict good fresh
    set_conf x.admin http://127.0.0.1:1
    without_y
    list 4
}

has_config() {
    kong_shift --json dp list 2>/dev/null | jq -e --arg cp "$1" 'any(.[]; .cp == $cp and .verdict == "fresh")' >/dev/null
}

@test "real data planes of both: each on its own CP, the copy lists none of X" {
    write_dp_conf dp_x cp_x
    node_start x dp_x 3>&-
    wait_node has_config x
    kong_shift cp dual-cluster >/dev/null
    write_dp_conf dp_y cp_y
    node_start y dp_y 3>&-
    wait_node has_config y
    list 0
    [ "$(jq -r 'map("\(.cp) \(.version) \(.verdict)") | join(", ")' <<<"$LIST")" = "x $X_VERSION fresh, y $Y_VERSION fresh" ]

    # one that moved is in both lists, unless CP Y refuses it
    "${KONG[x]}" stop -p "$RUN/dp_x" >/dev/null
    sed -i "s/^cluster_control_plane = .*/cluster_control_plane = 127.0.0.1:${PORT[cp_y.cluster]}/" "$RUN/dp_x.conf"
    node_start x dp_x 3>&-
    sql_x "UPDATE clustering_data_planes SET last_seen = last_seen - interval '1 hour'"
    SECONDS=0
    if [[ ${X_VERSION%%.*} != "${Y_VERSION%%.*}" ]]; then
        until list 0 && [ "$(jq -r '.[] | select(.cp == "y" and .verdict == "refused") | .note' <<<"$LIST")" \
            = "CP is $Y_VERSION; it goes on with what it has" ]; do
            [ "$SECONDS" -lt 60 ]
            sleep 0.2
        done
        return
    fi
    until list 0 && [ "$(jq 'map(select(.cp == "y" and .verdict == "fresh")) | length' <<<"$LIST")" = 2 ]; do
        [ "$SECONDS" -lt 60 ]
        sleep 0.2
    done
    [ "$(jq -r '.[] | select(.cp == "x") | "\(.verdict), \(.note)"' <<<"$LIST")" = 'stale, now on CP Y' ]
}
