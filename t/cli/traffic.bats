#!/usr/bin/env bats
#
# kong-shift weight, status, abort: with one load balancer and with two.

# shellcheck disable=SC2016,SC2154

setup_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_balancer; }

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    LB=http://127.0.0.1:${PORT[shift]}/shift
    echo "lb = $LB" >"$CONF"
    put gate '{"state":"open","force":true,"comment":"test"}'
    put weight '{"new":0}'
}

teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# check CODE TEXT ARG...: runs kong-shift, wants that code and that text.
check() {
    local code=$1 text=$2
    shift 2
    run kong_shift "$@"
    echo "$output"
    [ "$status" -eq "$code" ]
    [[ $output == *"$text"* ]]
}

@test "weight: shows and sets" {
    check 0 '0 % to new, gate open' weight
    check 0 '12.5 % to new' weight 12.5
    [ "$(get weight .effective)" = 12.5 ]
    check 0 '0.0001 % to new' weight 0.0001
    check 0 '100 % to new' weight 100
    check 0 '100 % to new' weight
    check 0 '0 % to new' weight 0
    [ "$(kong_shift --quiet weight 3)" = '' ]
    [ "$(kong_shift --json weight | jq '.[0].weight.new')" = 3 ]
}

@test "weight: a bad number is one sentence with the range, and changes nothing" {
    local bad
    for bad in 101 100.1 -5 abc '' 1e1 007 10% ' 10' 0.00001 1. .5 NaN 99999999999999999999 $'1\n2' '$(id)'; do
        check 2 'a number from 0 to 100 with up to 4 decimals' weight "$bad"
        [ "${#lines[@]}" -eq 1 ]
    done
    check 2 'takes one number' weight 1 2
    [ "$(get weight .new)" = 0 ]
}

@test "weight: more than 0 needs an open gate" {
    put gate '{"state":"closed"}'
    check 3 'the gate is closed' weight 10
    [ "$(get weight .new)" = 0 ]
    check 0 '0 % to new, gate closed' weight 0
}

@test "weight: of a shift without a gate" {
    echo 'shift = other' >>"$CONF"
    check 0 '10 % to new, gate off' weight 10
    check 0 'aborted' abort
}

@test "abort: everything to the old pool" {
    check 0 '50 % to new' weight 50
    check 0 "$LB: aborted" abort
    [ "$(get weight .new)" = 0 ]
    check 0 'aborted' status
    [ "$(get events '.events[-1].comment')" = "kong-shift abort, $(id -un)@$(uname -n)" ]
}

@test "two balancers, one dead: weight changes neither, abort reaches the other, status says unknown" {
    check 0 '' weight 20
    echo 'lb = http://127.0.0.1:1/shift' >>"$CONF"
    check 4 'http://127.0.0.1:1/shift: reading the shift kong: no answer' weight 30
    [ "$(get weight .new)" = 20 ]
    check 4 'unknown' status
    [[ $output == *'20 % to new'* ]]
    check 4 'NOT aborted' abort
    [ "$(get weight .new)" = 0 ]
}

@test "two balancers, the second takes no writes: the sentence says which already changed" {
    echo "lb = http://127.0.0.1:${PORT[shift]}/readonly" >>"$CONF"
    check 3 "writes_off" weight 5
    [[ $output == *"(already set on: $LB)"* ]]
}

@test "an answer that is not the endpoint's is unknown, not zero" {
    # nothing listens behind that location
    sed -i 's/shift$/open-x/' "$CONF"
    check 4 'unknown, HTTP 502' weight
    check 1 'HTTP 502' weight 0
    sed -i 's/open-x$/page/' "$CONF"
    check 4 'unknown' weight
    check 4 'no answer of a kong_shift_api' weight 0
    check 1 'NOT aborted' abort
}

@test "a unix socket" {
    check 2 'must be a URL' --config <(echo "lb = unix:/tmp/x") status
    check 4 'unknown' --config <(echo "lb = http://unix:/nonexistent/socket:/shift") status
}
