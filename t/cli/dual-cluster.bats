#!/usr/bin/env bats
#
# kong-shift cp dual-cluster, on a real PostgreSQL and nginx with the module.

# shellcheck disable=SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

@test "the whole run: copies, migrates, starts CP Y, opens the gate" {
    local before
    before=$(digest_x)
    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(get gate .state)" = open ]
    [ "$(get gate .evidence.strategy)" = dual-cluster ]
    [ "$(get gate .evidence.x)" = "$X_VERSION" ]
    [ "$(get gate .evidence.y)" = "$Y_VERSION" ]
    [ "$(get gate .evidence.journal)" = "$WORK/journal.jsonl" ]
    [ "$(get freeze .state)" = on ]
    [ "$(digest_x)" = "$before" ]
}
