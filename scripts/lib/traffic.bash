# shellcheck shell=bash
# The shift itself: who gets how much.

## status
##     Show weight, gate and freeze on every load balancer.
cmd_status() {
    no_more_arguments "$@"
    settings_load
    need lb
    if [[ $OPT_JSON ]]; then
        status_json
    else
        status_text
    fi
}

## weight [N]
##     Show the weight, or set it: percent to the new pool, 0 to 100.
##     Up to 4 decimals. More than 0 needs an open gate.
cmd_weight() {
    local weight=${1-}
    (( $# <= 1 )) || usage "weight takes one number, not $#"
    if (( $# == 0 )); then
        cmd_status
        return
    fi
    if [[ ! $weight =~ ^(0|[1-9][0-9]?)(\.[0-9]{1,4})?$ && ! $weight =~ ^100(\.0{1,4})?$ ]]; then
        die "$EXIT_USAGE" "the weight is percent to the new pool, a number from 0 to 100 with up to 4 decimals; got \"$weight\""
    fi
    settings_load
    need lb

    lb_read_all
    if [[ $weight =~ [1-9] ]]; then
        weight_gate
    fi
    lb_put_all weight "$(jq -nc --argjson new "$weight" --arg comment "$(comment)" '{$new, $comment}')" .new "$weight"
    lb_read_all
    say "$(status_text)"
}

# Asked of all before one is changed: half a shift is worse than none.
weight_gate() {
    local i
    for i in "${!LBS[@]}"; do
        [[ $(lb_field "$i" .gate.state) != closed ]] || refuse \
            "${LBS[i]}: the gate is closed, nothing may go to the new pool before the CP phase passed: kong-shift cp dual-cluster"
    done
}

## abort
##     Send everything to the old pool again, now, on every load balancer.
cmd_abort() {
    local lb code=0
    no_more_arguments "$@"
    settings_load
    need lb

    # One that does not answer must not keep the others from turning back.
    for lb in "${LBS[@]}"; do
        if ! lb_call "$lb" POST /abort "$(jq -nc --arg comment "$(comment)" '{$comment}')"; then
            warn "$lb: NOT aborted, no answer: $HTTP_ERROR"
            code=$EXIT_UNKNOWN
        elif [[ $HTTP_STATUS != 200 || $(field .effective) != 0 ]]; then
            warn "$lb: NOT aborted: $(http_says)"
            (( code )) || code=$EXIT_FAILED
        else
            [[ $(jq -r .saved <<<"$HTTP_BODY") != false ]] \
                || warn "$lb: aborted, but its state file could not be written: a restart may bring the weight back"
            say "$lb: aborted, everything goes to the old pool"
        fi
    done
    (( code == 0 )) || die "$code" "not every load balancer was aborted, run it again"
}

status_text() {
    local lb
    for lb in "${LBS[@]}"; do
        status_of "$lb" | jq -r '"\(.lb): " + (if .error then .error else
            "\(.weight.new) % to new\(if .weight.effective != .weight.new then " (in force: \(.weight.effective) %)" else "" end)"
            + ", gate \(.gate.state), freeze \(.freeze.state), generation \(.generation)"
            + (if .aborted then ", aborted" else "" end)
            + (if .saved == false then ", NOT saved" else "" end) end)'
    done
}

status_json() {
    local lb
    for lb in "${LBS[@]}"; do
        status_of "$lb"
    done | jq -s .
}

# status_of LB: its shift as JSON, or why there is none.
status_of() {
    if lb_call "$1" GET '' && [[ $HTTP_STATUS = 200 ]] \
        && jq -ce --arg lb "$1" 'select(.weight and .gate and .freeze) | {$lb} + .' 2>/dev/null <<<"$HTTP_BODY"
    then
        return
    fi
    jq -nc --arg lb "$1" --arg error "unknown, ${HTTP_ERROR:-$(http_says)}" '{$lb, $error}'
}
