#!/usr/bin/env bats
#
# CP Y checks the plugins it is to send: the guard schemas.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

@test "schemas: right plugins pass; a wrong one, or no answer, does not, unless forced" {
    local plugins=http://127.0.0.1:${PORT[shift]}/open-x/plugins id i
    # Alike but for where they are: asked about once; the consumer makes another.
    for i in 1 2; do
        curl -s -f -o /dev/null -d name=orders-$i -d paths[]=/$i "http://127.0.0.1:${PORT[shift]}/open-x/services/orders/routes"
        curl -s -f -o /dev/null -d name=rate-limiting -d config.hour=9 -d config.policy=local \
            "http://127.0.0.1:${PORT[shift]}/open-x/routes/orders-$i/plugins"
    done
    id=$(curl -s -f -d name=rate-limiting -d config.hour=9 -d config.policy=local \
        "http://127.0.0.1:${PORT[shift]}/open-x/consumers/team-1/plugins" | jq -r .id)

    check 0 'done' cp dual-cluster
    journal_has '.step == "verify" and .schemas == "2 configurations of plugins"'

    # no answer is not a yes
    set_conf y.admin "http://127.0.0.1:${PORT[shift]}/deaf-y"
    check 4 'and answered HTTP 403' cp verify
    set_conf y.admin "http://127.0.0.1:${PORT[shift]}/admin-y"

    # one that X has, but Y would not take
    stop_y
    put freeze '{"state":"off"}'
    sql_x "UPDATE plugins SET config = config || '{\"hour\": -5}' WHERE id = '$id'"
    check 3 "rate-limiting ($id): schema violation" cp dual-cluster
    [ "$(get gate .state)" = closed ]
    check 0 "--force schemas, although: CP Y refuses" cp dual-cluster --force schemas
    [[ $(get gate .comment) == *'--force schemas'* ]]
    [[ $(cat "$WORK"/journal.jsonl "$WORK"/log/*) != *'"hour"'* ]]
}
