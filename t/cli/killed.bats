#!/usr/bin/env bats
#
# kong-shift cp dual-cluster and its rollback, killed at every line of the journal.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; . "$BATS_TEST_DIRNAME/killed.bash"; world_reset; BEFORE=$(digest_x); }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

untouched() { [ "$(digest_x)" = "$BEFORE" ]; }

all_is_up() {
    [ "$(get gate .state)" = open ]
    [ "$(get freeze .state)" = on ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 3 ]
    [ "$(sql_y 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0')" = 0 ]
    curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/status"
    [ "$(digest_x)" = "$BEFORE" ]
}

all_is_back() {
    [ "$(get weight .effective)" = 0 ]
    [ "$(get gate .state)" = closed ]
    [ "$(get freeze .state)" = off ]
    [ "$(pg_psql -v name="$Y_NAME" <<<"SELECT count(*) FROM pg_database WHERE datname = :'name'")" = 0 ]
    ! curl -s -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"
    [ "$(digest_x)" = "$BEFORE" ]
}

@test "dual-cluster killed at every line of the journal, one after the other: resume comes to the same end" {
    killed_in_turn 16 cp dual-cluster
    all_is_up
    no_password
}

@test "rollback killed at every line of the journal, one after the other: resume comes to the same end" {
    kong_shift cp dual-cluster >/dev/null
    killed_in_turn 12 cp rollback
    all_is_back
    no_password
}

@test "dual-cluster killed at each line alone" {
    local line
    only_long
    for line in {1..16}; do
        world_reset
        rm -rf "$WORK"
        killed_alone 16 "$line" cp dual-cluster
        all_is_up
    done
    no_password
}

@test "rollback killed at each line alone" {
    local line
    only_long
    for line in {1..12}; do
        kong_shift cp dual-cluster >/dev/null
        killed_alone 12 "$line" cp rollback
        all_is_back
    done
    no_password
}
