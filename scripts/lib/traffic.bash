# The shift itself: who gets how much.

## status
##     Show weight, gate and freeze on every load balancer, and where they differ.
##     Also which pool is drained and, of pools that are checked, how many are ready.
cmd_status() {
    no_more_arguments "$@"
    settings_load
    need lb
    status_read
    status_print
}

## weight [N]
##     Show the weight, or set it: percent to the new pool, 0 to 100.
##     Up to 4 decimals. More than 0 needs an open gate. It is not raised while
##     "cp watch" finds a write, but with --force drift.
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
    weight_drained "$weight"
    if [[ $weight =~ [1-9] ]]; then
        weight_gate
        drift_hold "$weight"
    fi
    json_object comment "$(comment)"
    lb_put_all weight "{\"new\":$weight,${REPLY:1}" .new "$weight"
    [[ ! $OPT_DRY_RUN ]] || return 0
    status_read
    # What was asked for is done, and was read back; other differences are for "status".
    [[ $OPT_QUIET ]] || ( status_print ) || true
}

# Asked of all before one is changed: half a shift is worse than none.
weight_gate() {
    local i
    for i in "${!LBS[@]}"; do
        [[ $(lb_field "$i" gate) != closed ]] || refuse \
            "${LBS[i]}: the gate is closed, nothing may go to the new pool before the CP phase passed: kong-shift cp $STRATEGY"
    done
}

# weight_drained WEIGHT: the same, of a pool that is closed and would get requests.
weight_drained() {
    local i pool
    for i in "${!LBS[@]}"; do
        pool=$(jq -r --argjson weight "$1" '(select(.pools.old.drained and $weight != 100) | "old"),
            (select(.pools.new.drained and $weight != 0) | "new")' <<<"${LB_STATE[i]}")
        [[ -z $pool ]] || refuse \
            "${LBS[i]}: nothing was changed anywhere, as the $pool pool is drained: kong-shift undrain $pool"
    done
}

# weight_held COMMAND: what wants that the weight has been 100 on all of them for the time
# "hold". A freeze, a drain, or what a balancer saw of a peer is no change of the weight.
weight_held() {
    local i since latest=0 held
    lb_all effective 100 || refuse \
        "not everything goes to the new pool on every load balancer; $1 only when the weight has been 100 for ${SETTING[hold]}: kong-shift weight 100"
    duration_seconds "${SETTING[hold]}"
    held=$REPLY
    for i in "${!LBS[@]}"; do
        lb_must "${LBS[i]}" 'reading its events' GET /events
        since=$(jq -r --argjson shift "${LB_STATE[i]}" '[.events[] | select(.action | IN("weight", "gate", "abort", "config", "state")) | .time] | last // $shift.changed | fromdate' \
            <<<"$HTTP_BODY" 2>/dev/null) || since=
        [[ $since =~ ^[0-9]+$ ]] || unknown "${LBS[i]} does not tell when the shift changed"
        (( since <= latest )) || latest=$since
    done
    since=$(( $(now %s) - latest ))
    (( since >= held )) || refuse \
        "the shift was changed $since s ago, but must have stayed at 100 for ${SETTING[hold]} (setting hold); wait $(( held - since )) s more"
    evidence held "$since"
}

## abort
##     Send everything to the old pool again, now, on every load balancer.
cmd_abort() {
    no_more_arguments "$@"
    settings_load
    need lb
    if [[ $OPT_DRY_RUN ]]; then
        abort_dry_run
        return
    fi
    lb_abort_all
    if [[ $OPT_JSON ]]; then
        ( status_read; status_print ) || true
    fi
    (( REPLY == 0 )) || die "$REPLY" "not every load balancer was aborted, run it again"
}

abort_dry_run() {
    local lb
    lb_read_all
    lb_dry_run weight
    for lb in "${LBS[@]}"; do
        printf '%s\n' "$(printable "$(quoted curl -X POST "$lb/shifts/$SHIFT_URI/abort")")"
    done
}

# lb_abort_all: REPLY is 0 when all of them did.
lb_abort_all() {
    local lb code=0 body
    json_object comment "$(comment)"
    body=$REPLY

    # One that does not answer must not keep the others from turning back.
    for lb in "${LBS[@]}"; do
        if ! lb_call "$lb" POST /abort "$body"; then
            warn "$lb: NOT aborted, no answer: $HTTP_ERROR"
            code=$EXIT_UNKNOWN
        elif [[ $HTTP_STATUS != 200 || $(field .effective) != 0 ]]; then
            warn "$lb: NOT aborted: $(http_says lb)"
            (( code )) || code=$EXIT_FAILED
        else
            [[ $(jq -r .saved <<<"$HTTP_BODY") != false ]] \
                || warn "$lb: aborted, but its state file could not be written: a restart may bring the weight back"
            say "$lb: aborted, everything goes to the old pool"
        fi
    done
    REPLY=$code
}

# status_read: every balancer's shift, or why there is none, into STATUS;
# unlike lb_read_all it goes on. STATUS_CODE tells whether one is missing, or
# not like the others.
status_read() {
    local lb
    STATUS='' STATUS_CODE=0
    for lb in "${LBS[@]}"; do
        if lb_call "$lb" GET '' && [[ $HTTP_STATUS = 200 ]] \
            && STATUS+=$(jq -ce --arg lb "$lb" 'select(.weight and .gate and .freeze) | {$lb} + .' 2>/dev/null <<<"$HTTP_BODY")
        then
            continue
        fi
        STATUS+=$(jq -nc --arg lb "$lb" --arg error "unknown, ${HTTP_ERROR:-$(http_says lb)}" '{$lb, $error}')
        STATUS_CODE=$EXIT_UNKNOWN
    done
    lb_differences <<<"$STATUS"
    STATUS_DIFFERENCES=$REPLY
    [[ -z $REPLY ]] || STATUS_CODE=${STATUS_CODE/#0/$EXIT_FAILED}
}

status_print() {
    if [[ $OPT_JSON ]]; then
        jq -s . <<<"$STATUS"
    else
        jq -r '"\(.lb): " + (if .error then .error else
            "\(.weight.new) % to new\(if .weight.effective != .weight.new then " (in force: \(.weight.effective) %)" else "" end)"
            + ", gate \(.gate.state), freeze \(.freeze.state), generation \(.generation)"
            + (if .aborted then ", aborted" else "" end)
            + ([("old", "new") as $pool | .pools[$pool] | select(.drained) | ", \($pool) drained"] | add // "")
            + ([("old", "new") as $pool | .pools[$pool] | select(.ready != null) | ", \($pool) \(.ready)/\(.total) ready"] | add // "")
            + (if .saved == false then ", NOT saved" else "" end) end)' <<<"$STATUS"
    fi
    [[ -z $STATUS_DIFFERENCES ]] || warn "the load balancers differ: $STATUS_DIFFERENCES"
    (( STATUS_CODE == 0 )) || end "$STATUS_CODE"
}
