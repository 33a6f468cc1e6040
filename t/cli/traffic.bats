#!/usr/bin/env bats
#
# kong-shift weight, status, abort: with one load balancer and with two.

# shellcheck disable=SC2016,SC2154

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_balancer
    second_balancer
}

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    LB=http://127.0.0.1:${PORT[shift]}/shift
    echo "lb = $LB" >"$CONF"
    put gate '{"state":"open","force":true,"comment":"test"}'
    put weight '{"new":0}'
    LB2=http://127.0.0.1:$(<"$RUN/second.port")/shift
}

teardown_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    "$NGINX" -p "$RUN/second" -c nginx.conf -e logs/error.log -s stop || true
    world_stop
}

# Another nginx with the same shift.
second_balancer() {
    pick_ports second
    mkdir -p "$RUN/second/logs" "$RUN/second/state"
    if (( EUID == 0 )); then chown nobody "$RUN/second/state"; fi
    sed "s|127.0.0.1:${PORT[shift]};|127.0.0.1:${PORT[second]};|; s|$RUN/state|$RUN/second/state|" "$RUN/nginx/nginx.conf" \
        >"$RUN/second/nginx.conf"
    # And one whose pools are checked: old passes, nobody listens for new.
    sed -i "s|^    upstream other |    upstream c_old { zone c_old 64k; server 127.0.0.1:${PORT[second]}; }\n    upstream c_new { zone c_new 64k; server 127.0.0.1:1; }\n    upstream checked { kong_shift old=c_old new=c_new; kong_shift_check uri=/page/ interval=100ms; }\n&|" \
        "$RUN/second/nginx.conf"
    "$NGINX" -p "$RUN/second" -c nginx.conf -e logs/error.log 3>&- 2>"$RUN/second/start.log"
    printf '%s' "${PORT[second]}" >"$RUN/second.port"
}

# with_second: two balancers that are alike.
with_second() {
    SHIFT=$LB2/shifts/kong put gate '{"state":"open","force":true,"comment":"test"}'
    SHIFT=$LB2/shifts/kong put weight '{"new":0}'
    echo "lb = $LB2" >>"$CONF"
}

get2() { SHIFT=$LB2/shifts/kong get "$@"; }

@test "weight: shows and sets" {
    check 0 '0 % to new, gate open' weight
    check 0 '12.5 % to new' weight 12.5
    [ "$(get weight .effective)" = 12.5 ]
    check 0 '0.0001 % to new' weight 0.0001
    check 0 '100 % to new' weight 100
    check 0 '100 % to new' weight
    [[ $output != *ready* && $output != *drained* ]]
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

@test "pools that are checked: status shows who is ready, and the weight is not raised before new is, with the reason" {
    printf 'lb = %s\nshift = checked\n' "$LB2" >"$CONF"
    check 0 ', old 1/1 ready, new 0/1 ready' status
    check 3 '0 of 1 peers of "c_new" are ready' weight 10
    [[ $output =~ 'min_ready is 50%'.*': 127.0.0.1:1 '[a-z] ]]
    [ "${#lines[@]}" -eq 1 ]
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

@test "two balancers: both are changed, both are shown" {
    with_second
    check 0 "$LB: 7 % to new" weight 7
    [[ $output == *"$LB2: 7 % to new"* ]]
    [ "$(get weight .new) $(get2 weight .new)" = '7 7' ]
    check 0 "$LB2: aborted" abort
    [ "$(get weight .new) $(get2 weight .new)" = '0 0' ]
}

@test "two balancers that differ: said with both values, by name; a new weight makes them alike" {
    with_second
    SHIFT=$LB2/shifts/kong put weight '{"new":3}'
    SHIFT=$LB2/shifts/kong put freeze '{"state":"on"}'
    check 1 "the load balancers differ: weight is 0 on $LB and 3 on $LB2; freeze is off on $LB and on on $LB2" status
    run kong_shift --json status
    [ "$status" -eq 1 ]
    SHIFT=$LB2/shifts/kong put freeze '{"state":"off"}'
    check 0 "$LB2: 4 % to new" weight 4
    [[ $output != *differ* ]]
    SHIFT=$LB2/shifts/kong put gate '{"state":"closed"}'
    check 3 "$LB2: the gate is closed" weight 5
    [ "$(get weight .new)" = 4 ]
}

@test "two balancers, the second takes no writes: nothing is changed anywhere" {
    local generation
    generation=$(get weight .generation)
    with_second
    sed -i "s|^lb = $LB2|lb = ${LB2%shift}readonly|" "$CONF"
    check 3 "${LB2%shift}readonly: nothing was changed anywhere, as it takes no changes" weight 5
    [[ $output == *writes_off* ]]
    [ "$(get weight .new)" = 0 ]
    [ "$(get weight .generation)" = "$generation" ]
    # but an abort does what it can
    check 1 'NOT aborted' abort
    [[ $output == *"$LB: aborted"* ]]
}

# meddle N: a curl that lets somebody else set 9 before its Nth call of the second balancer.
meddle() {
    mkdir -p "$BATS_TEST_TMPDIR/bin"
    cat >"$BATS_TEST_TMPDIR/bin/curl" <<EOF
#!/bin/bash
if [[ "\$*" == *$LB2* ]]; then
    echo >>$BATS_TEST_TMPDIR/calls
    [[ \$(wc -l <$BATS_TEST_TMPDIR/calls) != $1 ]] \\
        || $(command -v curl) -s -o /dev/null -X PUT -d '{"new":9}' $LB2/shifts/kong/weight
fi
exec $(command -v curl) "\$@"
EOF
    chmod +x "$BATS_TEST_TMPDIR/bin/curl"
    rm -f "$BATS_TEST_TMPDIR/calls"
}

# Reading, dry run, change, reading back: four calls.
@test "two balancers, somebody else changes the second in between" {
    with_second
    meddle 2
    PATH=$BATS_TEST_TMPDIR/bin:$PATH check 3 "$LB2: nothing was changed anywhere, as somebody else just changed the shift" weight 5
    [ "$(get weight .new) $(get2 weight .new)" = '0 9' ]
    meddle 3
    PATH=$BATS_TEST_TMPDIR/bin:$PATH check 3 "generation_mismatch" weight 6
    [[ $output == *"already set on $LB, so they differ now"* ]]
    meddle 4
    PATH=$BATS_TEST_TMPDIR/bin:$PATH check 4 "the weight was accepted as 6, but reads back as 9 on $LB2" weight 6
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
