#!/usr/bin/env bats
#
# kong-shift cp dual-cluster across a major version: 2.8 -> 3.4, of the stand-in.

# shellcheck disable=SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start 2.8.5 3.4.2; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

@test "2.8 -> 3.4: done, with the warning that DP X must stay on CP X" {
    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 0 ]
    [[ $output == *'CP 3.4.2 refuses DPs 2.8.5'* ]]
    [ "$(get gate .state)" = open ]
    [ "$(sql_y "SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0")" = 0 ]
    [ "$(sql_y "SELECT count(*) FROM consumers")" = 3 ]
}
