#!/usr/bin/env bats
#
# The old pool, when everything is to go back to it.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; sql_x 'DELETE FROM clustering_data_planes'; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# row DATABASE HOST AGO: a DP of X in the list of a CP.
row() {
    PGDATABASE=$1 pg_psql -c "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES (gen_random_uuid(), '$2', '127.0.0.1', now() - interval '$3', '0123456789abcdef0123456789abcdef',
        now() + interval '1 day', '$X_VERSION', 'normal')"
}

# A DP of X in order, and the new pool in use.
in_use() {
    row kong_x web-1 '1 second'
    kong_shift cp dual-cluster >/dev/null
    kong_shift weight 40 >/dev/null
    # However long that took, it goes on pinging.
    sql_x 'UPDATE clustering_data_planes SET last_seen = now()'
}

gone() { sql_x "UPDATE clustering_data_planes SET last_seen = now() - interval '1 hour'"; }

@test "rollback: an old pool in order takes everything; one of two that is not is said" {
    in_use
    row kong_x web-2 '1 hour'
    check 0 'CP X: DP web-2' cp rollback
    [[ $output == *'the others of the old pool have to take everything'* ]]
    [[ $output != *'also changed configuration'* ]]
}

@test "rollback: not to an old pool that is gone, unless forced; abort asks nothing, then rollback neither" {
    in_use
    gone
    check 3 'no DP of CP X is in order, and everything would go to them: DP web-1' --dry-run cp rollback
    check 3 'which asks nothing, or insist: --force old-pool' cp rollback
    [ "$(get weight .effective) $(get gate .state)" = '40 open' ]
    check 0 'although: no DP of CP X is in order' --force old-pool cp rollback
    [ "$(get weight .effective) $(get gate .state)" = '0 closed' ]
    jq -es 'any(.[]; .step == "abort" and (."forced.old-pool" // "" | test("web-1")))' "$WORK/journal.jsonl"

    sql_x 'DELETE FROM clustering_data_planes'
    in_use
    gone
    check 0 '' abort
    check 0 'is all there is again' cp rollback
}

@test "rollback: unknown is failure, while the new pool is in use" {
    in_use
    cp "$CONF" "$BATS_TEST_TMPDIR/conf"
    set_conf x.admin http://127.0.0.1:1
    check 3 'so nobody can tell whether its DPs can take everything' cp rollback
    [ "$(get weight .effective)" = 40 ]
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"
    check 0 'is all there is again' cp resume
}

@test "dual-cluster: DPs of X that were moved to CP Y: seen by cp attached, and at the way back" {
    in_use
    set_conf attach_timeout 1
    check 3 'CP Y: no DP of X is on it' cp attached
    row "$Y_NAME" web-1 '1 second'
    check 0 '1 DPs of X have what CP Y sends' cp attached
    sql_y "UPDATE clustering_data_planes SET sync_status = 'plugin_version_incompatible'"
    check 3 'to detach: point cluster_control_plane of these back to CP X' cp attached
    check 0 'X also changed configuration: web-1' cp rollback
    says '; set their cluster_control_plane to CP X and reload them'
}
