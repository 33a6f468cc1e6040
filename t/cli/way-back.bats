#!/usr/bin/env bats
#
# docs/rollback.md: the way back from the very end, after decommission.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()      { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; sql_x 'DELETE FROM clustering_data_planes'; }
teardown_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    "${KONG[y]}" stop -p "$RUN/dp_y" >/dev/null 2>&1 || true
    world_stop
}

# ended: a DP of Y serves all, X is given up, and Y took a write since.
ended() {
    set_conf hold 1s
    set_conf x.prefix "$RUN/cp_x"
    check 0 '' cp "$1"
    write_dp_conf dp_y cp_y
    node_start y dp_y 3>&-
    for _ in {1..150}; do
        [[ $(kong_shift --json dp list 2>/dev/null | jq -r 'map(select(.cp == "y") | .verdict) | join(" ")') != fresh ]] || break
        sleep 0.2
    done
    kong_shift weight 100 >/dev/null
    sleep 2
    [[ $1 = dual-cluster ]] || check 0 '' cp finish kong
    [[ $1 = dual-cluster ]] || sleep 2
    check 0 '' decommission
    curl -s -f -o /dev/null -d username=only-y "http://127.0.0.1:${PORT[cp_y.admin]}/consumers"
}

@test "dual-cluster: CP X is started, then rollback; what only Y took is named and kept" {
    local before
    before=$(digest_x)
    ended dual-cluster
    check 0 '' abort
    node_start x cp_x 3>&-
    wait_cp cp_x
    check 0 'CP Y took admin writes that X does not have' cp rollback
    [[ $output == *'consumers has 4 rows instead of 3'* ]]
    [ "$(digest_x)" = "$before" ]
    [ "$(get weight .effective) $(get gate .state) $(get freeze .state)" = '0 closed off' ]
    [ "$(PGDATABASE=$(pg_psql -c "SELECT datname FROM pg_database WHERE datname LIKE 'kong y%Z'") pg_psql \
        -c "SELECT count(*) FROM consumers WHERE username = 'only-y'")" = 1 ]
    "${KONG[y]}" stop -p "$RUN/dp_y" >/dev/null
    rm -rf "$RUN/dp_y"
}

@test "in-place: after finish and decommission rollback restores the dump" {
    local before
    sed -i 's/^pg_database = .*/pg_database = kong_x/' "$RUN/cp_y.conf"
    sed -i '/^y.db.name/d' "$CONF"
    before=$(digest_x)
    ended in-place
    check 0 'is all there is again' cp rollback
    [[ $output == *'CP Y took admin writes that X does not have'* && $output == *'is kept as kong_x-'* ]]
    [ "$(digest_x)" = "$before" ]
    curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_x.admin]}/"
    [ "$(get weight .effective) $(get gate .state) $(get freeze .state)" = '0 closed off' ]
}
