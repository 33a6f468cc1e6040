# Taking a pool out for good: it is closed on every load balancer, its long-lived
# connections end at a pace, and then the balancers prove that nobody is left.

# Of the command line: wait, rate, deadline, hold.
declare -A DRAIN_OPTION=()

# How long a balancer may stay silent while it is waited for, in seconds.
readonly DRAIN_PATIENCE=30

# drain_options_check: refuses an option that would do nothing.
drain_options_check() {
    local name
    for name in "${!DRAIN_OPTION[@]}"; do
        case $COMMAND/$name in
            drain/* | safe/hold) ;;
            *) usage "--$name has no meaning for \"$COMMAND\"" ;;
        esac
    done
    [[ ${DRAIN_OPTION[rate]-1} =~ ^[1-9][0-9]{0,3}$|^10000$ ]] || usage \
        "--rate is how many connections are closed per second, a number from 1 to 10000; got \"${DRAIN_OPTION[rate]}\""
    for name in deadline hold; do
        { duration_seconds "${DRAIN_OPTION[$name]-1s}" && (( REPLY >= 1 && REPLY <= 31536000 )); } || usage \
            "--$name must be a time from 1s to 365d like 30m or 1h30m, got \"${DRAIN_OPTION[$name]}\""
    done
    [[ ! ${DRAIN_OPTION[hold]-} || $COMMAND = safe || ${DRAIN_OPTION[wait]-} ]] || usage "--hold has no meaning without --wait"
}

# drain_pool WORD...: the one argument that these commands take.
drain_pool() {
    [[ $# = 1 && ${1-} = @(old|new) ]] || usage "$COMMAND takes the name of a pool, old or new"
    POOL=$1
    settings_load
    need lb
}

## drain POOL [--rate N] [--deadline TIME] [--wait [--hold TIME]]
##     Close a pool, old or new, to everything, on every load balancer.
##     Rescue and overrides included; what is under way there may end. Refused while
##     the weight gives that pool anything. With --rate its long-lived connections
##     (WebSocket, streams) are closed at that pace, and all that are left at the
##     --deadline; without either they are left alone. With --wait it ends once it
##     is safe to stop the pool, as "safe" tells. An abort lifts it.
cmd_drain() {
    local body
    drain_pool "$@"
    drain_may
    body=$(jq -nc --arg rate "${DRAIN_OPTION[rate]-}" --arg deadline "${DRAIN_OPTION[deadline]-}" --arg comment "$(comment)" '
        (if $rate != "" then {rate: ($rate | tonumber)} else {} end)
        + (if $deadline != "" then {$deadline} else {} end) + {$comment}')
    drain_all POST "$body" true
    [[ ! $OPT_DRY_RUN ]] || return 0
    if [[ ${DRAIN_OPTION[wait]-} ]]; then
        drain_wait
    else
        drain_read
        drain_show
    fi
}

## undrain POOL
##     Let a drained pool have requests again, on every load balancer.
cmd_undrain() {
    drain_pool "$@"
    lb_read_all
    json_object comment "$(comment)"
    drain_all DELETE "$REPLY" false
    [[ ! $OPT_DRY_RUN ]] || return 0
    if [[ $OPT_JSON ]]; then
        drain_print
    elif [[ ! $OPT_QUIET ]]; then
        printf "%s: $POOL: not drained any more\n" "${LBS[@]}"
    fi
}

## safe POOL [--hold TIME]
##     Tell whether a pool, old or new, may be stopped: nobody is left on it.
##     The exit code is 0 only if every load balancer says so: the pool is drained
##     (with --hold for as long as that), and no request and no long-lived
##     connection is left there. Else it is 3, with the reasons; 4 if one could not
##     be asked.
cmd_safe() {
    drain_pool "$@"
    drain_read
    drain_closed
    drain_print
    (( DRAIN_CODE == 0 )) || end "$DRAIN_CODE"
}

# drain_closed: a pool that is still open is not safe, whatever the weight is.
drain_closed() {
    DRAIN=$(jq -c 'map(if .drained == false and (.reasons | index("weight") | not)
        then .safe = false | .reasons += ["not_drained"] else . end)' <<<"$DRAIN")
    holds "$DRAIN" 'all(.[]; .error or .safe)' || DRAIN_CODE=${DRAIN_CODE/#0/$EXIT_REFUSED}
}

# drain_may: before anything is changed anywhere.
drain_may() {
    local i weight=0
    lb_read_all
    [[ $POOL = new ]] || weight=100
    for i in "${!LBS[@]}"; do
        [[ $(lb_field "$i" effective) = "$weight" ]] || refuse \
            "${LBS[i]}: nothing was changed anywhere, as the weight still gives the $POOL pool requests: kong-shift weight $weight"
    done
}

# drain_all METHOD BODY WANTED: the same change everywhere, once each of them
# would take it; then read back.
drain_all() {
    local method=$1 body=$2 wanted=$3 i bad=

    lb_dry_run drain
    for i in "${!LBS[@]}"; do
        if [[ $OPT_DRY_RUN ]]; then
            printf '%s\n' "$(printable "$(quoted curl -X "$method" -d "$body" "${LBS[i]}/shifts/$SHIFT_URI/pools/$POOL/drain")")"
            continue
        fi
        lb_call "${LBS[i]}" "$method" "/pools/$POOL/drain" "$body" "If-Match: \"$(lb_field "$i" generation)\"" \
            || unknown "${LBS[i]}: $COMMAND $POOL: no answer: $HTTP_ERROR$(lb_done_before "$i")"
        [[ $HTTP_STATUS = 200 ]] || lb_die "${LBS[i]}: $COMMAND $POOL: $(http_says lb)$(lb_done_before "$i")"
    done
    [[ ! $OPT_DRY_RUN ]] || return 0
    drain_read
    bad=$(jq -r --argjson wanted "$wanted" 'map(select(.drained != $wanted) | .lb) | join(", ")' <<<"$DRAIN")
    [[ -z $bad ]] || unknown "$COMMAND $POOL was accepted, but reads back otherwise on $bad; somebody else changes it too, run it again"
}

# drain_read: what each balancer says, as a JSON array into DRAIN; DRAIN_CODE is
# 0 when all of them say that the pool may be stopped.
drain_read() {
    local lb query=
    [[ ! ${DRAIN_OPTION[hold]-} ]] || query="?hold=${DRAIN_OPTION[hold]}"
    DRAIN='' DRAIN_CODE=0
    for lb in "${LBS[@]}"; do
        if lb_call "$lb" GET "/pools/$POOL/safe_to_stop$query" && [[ $HTTP_STATUS = @(200|409) ]] && drain_answer "$lb"; then
            [[ $HTTP_STATUS = 200 ]] || DRAIN_CODE=${DRAIN_CODE/#0/$EXIT_REFUSED}
            continue
        fi
        DRAIN+=$(jq -nc --arg lb "$lb" --arg error "unknown, ${HTTP_ERROR:-$(http_says lb)}" --arg code "$(field .code)" \
            '{$lb, safe: false, $error, $code}')
        DRAIN_CODE=$EXIT_UNKNOWN
    done
    DRAIN=$(jq -sc . <<<"$DRAIN")
}

# drain_answer LB: takes an answer only if status and content say the same.
drain_answer() {
    local answer
    answer=$(jq -ce --arg lb "$1" --arg status "$HTTP_STATUS" '
        select(if $status == "200" then .safe == true else .code == "not_safe_to_stop" and (.reasons | length > 0) end)
        | select(.drained | type == "boolean")
        | {$lb, safe: ($status == "200"), reasons: (.reasons // []), drained, active, oldest_ms,
            long_lived, oldest_long_lived_ms, held_seconds, hold_seconds}' \
        2>/dev/null <<<"$HTTP_BODY") || return 1
    DRAIN+=$answer
}

# drain_text: a line for each balancer, into REPLY.
drain_text() {
    REPLY=$(jq -r --arg pool "$POOL" '
        def age: if . then " (oldest \(. / 1000 | floor) s)" else "" end;
        def words: {
            weight: "the weight gives it requests",
            active: "\(.active) under way\(.oldest_ms | age)",
            long_lived: "\(.long_lived) long-lived\(.oldest_long_lived_ms | age)",
            hold_time: "without weight for \(.held_seconds) s, \(.hold_seconds) s are asked for",
            not_drained: "not drained: overrides and rescue may still go there; run kong-shift drain \($pool) first",
            upgrade: "the old nginx of a binary upgrade still runs"
        } as $text | .reasons | map($text[.] // .) | join(", ");
        .[] | ("\(.lb): \($pool): " + (if .error then .error
            elif .safe then "safe to stop"
            else "not safe to stop: \(words)" end)) | gsub("[[:cntrl:]]"; " ")' <<<"$DRAIN")
}

drain_print() {
    if [[ $OPT_JSON ]]; then
        jq . <<<"$DRAIN"
        return
    fi
    drain_text
    printf '%s\n' "$REPLY"
}

# drain_show: after a change; what was asked for is done, and was read back.
drain_show() {
    [[ $OPT_QUIET && ! $OPT_JSON ]] || drain_print
}

# drain_wait: until every balancer says so; what cannot be asked is asked again
# for a while, but counts as a no.
drain_wait() {
    local heard=$SECONDS told=-10 text=
    STEP_BEGUN=$EPOCHREALTIME
    while :; do
        drain_read
        drain_lost
        (( DRAIN_CODE != 0 )) || break
        (( DRAIN_CODE == EXIT_UNKNOWN )) || heard=$SECONDS
        if (( SECONDS - heard > DRAIN_PATIENCE )); then
            drain_text
            unknown "waiting for the $POOL pool: ${REPLY//$'\n'/; }"
        fi
        drain_text
        if STEP=drain progress_wanted; then
            STEP=drain progress "${REPLY//$'\n'/; }"
        elif [[ $REPLY != "$text" ]] && (( SECONDS - told >= 10 )); then
            say "$REPLY"
            text=$REPLY told=$SECONDS
        fi
        sleep 0.5
    done
    progress_clear
    drain_show
}

# drain_lost: somebody lifted the drain, so there is nothing to wait for.
drain_lost() {
    local bad
    bad=$(jq -r 'map(select(.drained == false) | .lb) | join(", ")' <<<"$DRAIN")
    [[ -z $bad ]] || refuse "the $POOL pool is not drained any more on $bad, by an abort or by somebody else; see \"kong-shift status\""
}

# drain_nobody POOL: refuses when a balancer says that somebody is left on it.
drain_nobody() {
    local POOL=$1
    drain_read
    # A module from before there were drains has no such answer.
    DRAIN=$(jq -c 'map(select((.safe or .code == "not_found") | not))' <<<"$DRAIN")
    [[ $DRAIN != '[]' ]] || return 0
    DRAIN_CODE=$EXIT_REFUSED
    holds "$DRAIN" 'all(.[]; .error == null)' || DRAIN_CODE=$EXIT_UNKNOWN
    drain_text
    die "$DRAIN_CODE" "${REPLY//$'\n'/; }; see \"kong-shift drain $POOL --wait\""
}
