#!/usr/bin/env bats
#
# kong-shift drain, undrain, safe: with requests and long-lived connections under
# way, with one load balancer and with two.

bats_require_minimum_version 1.5.0

# shellcheck disable=SC2016,SC2030,SC2031,SC2154

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_balancer
    pick_ports second plane.control
    # What the first knows of, the second does too.
    mkdir -p "$RUN/second/logs" "$RUN/second/state"
    if (( EUID == 0 )); then chown nobody "$RUN/second/state"; fi
    sed "s|127.0.0.1:${PORT[shift]};|127.0.0.1:${PORT[second]};|; s|$RUN/state|$RUN/second/state|" "$RUN/nginx/nginx.conf" \
        >"$RUN/second/nginx.conf"
    start_nginx second
    "$ROOT/t/lib/plane" --listen "127.0.0.1:${PORT[dp]}" --control "127.0.0.1:${PORT[plane.control]}" >/dev/null 2>&1 3>&- &
    printf '%s' $! >"$RUN/plane.pid"
    world_save
}

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    LB=http://127.0.0.1:${PORT[shift]}/shift
    LB2=http://127.0.0.1:${PORT[second]}/shift
    echo "lb = $LB" >"$CONF"
    CLIENTS=()
    reset_shift
    SHIFT=$LB2/shifts/kong reset_shift
}

teardown() {
    (( ${#CLIENTS[@]} == 0 )) || kill "${CLIENTS[@]}" 2>/dev/null || true
}

teardown_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    kill "$(<"$RUN/plane.pid")" || true
    "$NGINX" -p "$RUN/second" -c nginx.conf -e logs/error.log -s stop || true
    world_stop
}

start_nginx() {
    for _ in {1..50}; do
        if "$NGINX" -p "$RUN/$1" -c nginx.conf -e logs/error.log 3>&- 2>"$RUN/$1/start.log"; then return 0; fi
        sleep 0.1
    done
    return 1
}

reset_shift() {
    curl -s -o /dev/null -X DELETE "$SHIFT/pools/old/drain"
    curl -s -o /dev/null -X DELETE "$SHIFT/pools/new/drain"
    put gate '{"state":"open","force":true,"comment":"test"}'
    put weight '{"new":0}'
}

# client PATH [HEADER]...: in the background, through the first balancer, until
# the balancer has it under way.
client() {
    local path=$1 before
    shift
    before=$(get pools/old .active)
    curl -s -N -o /dev/null "$@" "http://127.0.0.1:${PORT[shift]}/api/$path" 3>&- &
    CLIENTS+=($!)
    for _ in {1..100}; do
        [[ $(get pools/old .active) = "$before" ]] || return 0
        sleep 0.05
    done
    return 1
}

# waiting ARG...: kong-shift in the background, until it shows that it waits.
waiting() {
    kong_shift "$@" >"$BATS_TEST_TMPDIR/out" 2>&1 &
    WAITING=$!
    for _ in {1..600}; do
        ! grep -q 'under way' "$BATS_TEST_TMPDIR/out" || return 0
        sleep 0.1
    done
    return 1
}

# waited CODE TEXT: how that ended.
waited() {
    local code=0
    wait "$WAITING" || code=$?
    cat "$BATS_TEST_TMPDIR/out"
    [ "$code" -eq "$1" ]
    grep -qF -e "$2" "$BATS_TEST_TMPDIR/out"
}

plane() { curl -s -f "127.0.0.1:${PORT[plane.control]}/state" "$@"; }
release() { curl -s -f -o /dev/null -X PUT "127.0.0.1:${PORT[plane.control]}/release"; }

# until_lasting N: nginx looks twice a second for what lasts.
until_lasting() {
    for _ in {1..100}; do
        [[ $(get pools/old .long_lived) != "$1" ]] || return 0
        sleep 0.05
    done
    return 1
}

@test "what is no pool, no rate, no time, or has no meaning" {
    check 2 'takes the name of a pool, old or new' drain
    check 2 'takes the name of a pool, old or new' drain both
    check 2 'takes the name of a pool, old or new' undrain
    check 2 'takes the name of a pool, old or new' safe old new
    check 2 'a number from 1 to 10000' drain old --rate 0
    check 2 'a number from 1 to 10000' drain old --rate 10001
    check 2 'a number from 1 to 10000' drain old --rate=x
    check 2 'a time from 1s to 365d' drain old --deadline soon
    check 2 'a time from 1s to 365d' safe old --hold -1
    check 2 'needs a value' drain old --rate
    check 2 '--rate has no meaning for "safe"' safe old --rate 5
    check 2 '--wait has no meaning for "weight"' weight 10 --wait
    check 2 '--hold has no meaning without --wait' drain old --hold 5m
}

@test "a pool that the weight needs is not drained, and not safe" {
    check 3 'the weight still gives the old pool requests: kong-shift weight 100' drain old
    check 3 'old: not safe to stop: the weight gives it requests' safe old
    check 3 'new: not safe to stop: not drained: overrides and rescue may still go there; run kong-shift drain new first' safe new
    [ "$(kong_shift --json safe new | jq -c '.[0] | [.safe, .drained, .reasons]')" = '[false,false,["not_drained"]]' ]
    put weight '{"new":50}'
    check 3 'kong-shift weight 0' drain new
    check 3 'new: not safe to stop: the weight' safe new
    [ "$(get pools/old .drained) $(get pools/new .drained)" = 'false false' ]
}

@test "drain, safe, undrain; a drained pool keeps the weight where it is; an abort lifts it" {
    local generation
    put weight '{"new":100}'
    generation=$(get '' .generation)
    check 0 "curl -X POST -d" --dry-run drain old --rate 20
    [[ $output == *'/pools/old/drain'* && $output == *'"rate":20'* ]]
    [ "$(get '' .generation)" = "$generation" ]

    check 0 "$LB: old: safe to stop" drain old --rate 20 --deadline 10m
    [ "$(get pools/old '.drained, .drain.rate' | paste -sd ' ')" = 'true 20' ]
    [[ $(get events '.events[-1] | .action + " " + .comment') == "drain kong-shift drain, "* ]]
    check 0 "$LB: old: safe to stop" safe old
    check 0 'old drained' status
    [[ $output != *'new drained'* ]]
    check 3 "$LB: nothing was changed anywhere, as the old pool is drained: kong-shift undrain old" weight 50
    [ "${#lines[@]}" -eq 1 ]
    check 3 'as the old pool is drained' weight 0
    check 0 '100 % to new' weight 100
    [ "$(kong_shift --json safe old | jq -c '.[0] | [.lb, .safe, .drained, .active]')" = "[\"$LB\",true,true,0]" ]
    [ "$(kong_shift --quiet drain old)" = '' ]
    check 3 ' s, 3600 s are asked for' safe old --hold 1h
    [[ $output =~ 'not safe to stop: without weight for '[0-9]+' s, 3600 s' ]]
    sleep 1.1
    check 0 'safe to stop' safe old --hold 1s

    check 0 '' undrain old
    [ "$output" = "$LB: old: not drained any more" ]
    [ "$(get pools/old .drained)" = false ]
    check 3 'not drained: ' safe old
    check 0 '' drain old
    [ "$(kong_shift --quiet undrain old)" = '' ]
    check 0 '' drain old
    [ "$(kong_shift --json undrain old | jq -c '.[0] | [.lb, .drained]')" = "[\"$LB\",false]" ]
    check 0 '' drain old
    check 0 'aborted' abort
    [ "$(get pools/old .drained)" = false ]
    check 3 'not safe to stop' safe old
}

@test "requests under way: not safe, with how many and how old; --wait sees them end" {
    client hold
    client hold
    # nginx looks twice a second how old they are
    for _ in {1..100}; do
        [[ $(get pools/old .oldest_ms) = null ]] || break
        sleep 0.05
    done
    put weight '{"new":100}'
    # nginx looks for the oldest twice a second
    until [[ $(get pools/old .oldest_ms) != null ]]; do sleep 0.1; done
    check 3 '2 under way (oldest ' safe old
    [ "$(kong_shift --json safe old | jq -c '.[0] | [.safe, .reasons, .active]')" = '[false,["active","not_drained"],2]' ]
    waiting drain old --wait
    release
    waited 0 "$LB: old: safe to stop"
    grep -q 'not safe to stop: 2 under way' "$BATS_TEST_TMPDIR/out"
    wait "${CLIENTS[@]}"
    [ "$(plane | jq .inflight)" = 0 ]
}

@test "long-lived connections last until they are closed: by rate, or at the deadline" {
    client ws -H 'Upgrade: websocket' -H 'Connection: Upgrade'
    client events
    client events
    until_lasting 3
    put weight '{"new":100}'
    check 3 '3 under way (oldest ' safe old
    [[ $output == *'3 long-lived (oldest '* ]]
    check 0 'not safe to stop: 3 under way' drain old
    sleep 0.7
    [ "$(get pools/old .long_lived)" = 3 ]

    check 0 'safe to stop' drain old --wait --rate 2
    [ "$(plane | jq .lasting)" = 0 ]

    check 0 '' undrain old
    put weight '{"new":0}'
    client events
    until_lasting 1
    put weight '{"new":100}'
    check 0 'safe to stop' drain old --wait --deadline 2s
}

@test "waiting ends when somebody lifts the drain" {
    client hold
    put weight '{"new":100}'
    waiting drain old --wait
    curl -s -f -o /dev/null -X POST "$SHIFT/abort"
    waited 3 'not drained any more'
    release
}

@test "two balancers: both are drained; nobody is left on both; one that does not answer is unknown" {
    echo "lb = $LB2" >>"$CONF"
    put weight '{"new":100}'
    check 3 "$LB2: nothing was changed anywhere, as the weight still gives the old pool requests" drain old
    [ "$(get pools/old .drained)" = false ]
    SHIFT=$LB2/shifts/kong put weight '{"new":100}'
    put weight '{"new":0}'
    client hold
    put weight '{"new":100}'
    check 3 "$LB: old: not safe to stop: 1 under way" safe old
    [[ $output == *"$LB2: old: not safe to stop: not drained"* ]]
    waiting drain old --wait
    release
    waited 0 "$LB2: old: safe to stop"
    [ "$(get pools/old .drained) $(SHIFT=$LB2/shifts/kong get pools/old .drained)" = 'true true' ]

    # One that takes no writes keeps the other as it is.
    check 0 '' undrain old
    sed -i "s|^lb = $LB2|lb = ${LB2%shift}readonly|" "$CONF"
    check 3 'nothing was changed anywhere, as it takes no changes' drain old
    [ "$(get pools/old .drained)" = false ]

    sed -i "s|^lb = ${LB2%shift}readonly|lb = http://127.0.0.1:1/shift|" "$CONF"
    check 4 'http://127.0.0.1:1/shift: old: unknown' safe old
    [[ $output == *"$LB: old: not safe to stop: not drained"* ]]
    check 4 'no answer' drain old
    [ "$(get pools/old .drained)" = false ]
}

@test "an answer that is not the endpoint's is unknown" {
    sed -i 's/shift$/page/' "$CONF"
    check 4 'unknown' safe old
    sed -i 's/page$/open-x/' "$CONF"
    check 4 'unknown, HTTP 502' safe old
}
