# No admin write may happen between the dump and the end of X: it would be in
# one of the two databases only.

## cp freeze
##     Deny admin writes, and prove that it works.
##     Through the load balancers or, with freeze = revoke, by the rights of the role of X.
cmd_cp_freeze() {
    no_more_arguments "$@"
    settings_load
    need lb x.admin
    work_dir_open step 1/1 freeze phase_freeze
}

## cp unfreeze
##     Allow admin writes again.
##     While nothing goes to the new pool this also closes the gate: a write to X
##     makes the copy stale. With the new pool in use a write reaches only one of
##     X and Y, which is right only when X is given up. Both ask first.
cmd_cp_unfreeze() {
    no_more_arguments "$@"
    settings_load
    need lb
    work_dir_open step 1/1 unfreeze phase_unfreeze
}

phase_freeze() {
    if revoke_wanted; then
        revoke_freeze
        return
    fi
    lb_read_all
    if ! lb_all freeze on; then
        json_object state on comment "$(comment)"
        lb_put_all freeze "$REPLY" .state '"on"'
    else
        STEP_RESULT='already on'
    fi
    freeze_probe x || refuse "the freeze does not reach x.admin: DELETE of a consumer that does not exist was answered \
$PROBE instead of 503 by the freeze; put \"kong_shift_freeze ${SETTING[shift]};\" into the location that proxies \
${SETTING[x.admin]}, or let x.admin go through it"
    evidence probe "503 frozen"
    lb_read_all
    freeze_drained
}

# Those under way when the freeze began have passed it, and end when they like; after
# lb_read_all.
freeze_drained() {
    local begun=$SECONDS
    until lb_all active 0; do
        (( SECONDS - begun < SETTING[freeze_timeout] )) || refuse "admin writes that came before the freeze are still under way after \
${SETTING[freeze_timeout]} s: $(jq -rs 'map(select(.freeze.active != 0) | "\(.freeze.active // "unknown") on \(.lb)") | join(", ")' \
<<<"${LB_STATE[*]}"); wait for them or end their connections, then run it again"
        progress "waiting for admin writes to end"
        sleep 0.2
        lb_read_all
    done
}

# freeze_probe WHICH: a write that would change nothing, even if it got through.
freeze_probe() {
    admin_call "$1" DELETE "/consumers/kong-shift-probe-$RUN" \
        || unknown "$1.admin ${SETTING[$1.admin]} does not answer: $HTTP_ERROR"
    PROBE=$HTTP_STATUS
    [[ $HTTP_STATUS = 503 && $(field .code) = frozen ]]
}

phase_unfreeze() {
    lb_read_all
    if lb_all freeze off && ! revoke_recorded; then
        STEP_RESULT='already off'
        return
    fi
    if ! lb_all gate closed off; then
        unfreeze_behind_gate
    fi
    # Whatever the settings say by now.
    revoke_lift
    ! lb_all freeze off || return 0
    json_object state off comment "$(comment)"
    lb_put_all freeze "$REPLY" .state '"off"'
}

# A write to X ends the proof that Y holds what X holds, so the gate must not
# stay open on it, unless Y is in use already.
unfreeze_behind_gate() {
    if lb_all effective 0; then
        confirm "this gives the upgrade up for now: the gate is closed first, and only \"kong-shift cp $STRATEGY\" opens it again"
        json_object state closed comment "$(comment)"
        lb_put_all gate "$REPLY" .state '"closed"'
        say "      the gate is closed"
        return
    fi
    # X is stopped by then, and that was asked already.
    [[ $COMMAND != decommission ]] || return 0
    confirm "the gate is open and the new pool in use: an admin write now reaches X or Y, not both"
}

# freeze_holds: it is on; lb_read_all was called.
freeze_holds() {
    if revoke_wanted; then
        in_place_begun || { revoke_recorded && revoke_holds; }
        return
    fi
    lb_all freeze on
}
