#!/usr/bin/env bats
#
# What tells a write: rows that only moved are none.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

@test "rows that only moved are no drift; two that trade a value are; so is a renamed column" {
    check 0 '' cp backup
    sql_x 'VACUUM FULL consumers'
    sql_x 'VACUUM FULL services'
    check 0 'kept' cp backup
    check 0 '' cp dual-cluster
    sql_x "UPDATE consumers AS c SET created_at = o.created_at FROM consumers AS o
        WHERE (c.username, o.username) IN (('team-1', 'team-2'), ('team-2', 'team-1'))"
    check 1 'consumers has changed rows (changed ' cp watch
    sql_x 'ALTER TABLE consumers RENAME custom_id TO other_id'
    check 0 '' cp backup
    [ "$(jq -r 'select(.table == "consumers") | .columns | has("other_id")' "$WORK/$(jq -r .id "$WORK/backup.json").digest.json")" = true ]
    sql_x 'ALTER TABLE consumers RENAME other_id TO custom_id'
}
