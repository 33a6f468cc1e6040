# The end of an in-place upgrade: after it only the dump is a way back to X.

## cp finish [SHIFT]
##     In-place: run "kong migrations finish", once every pool has been on Y for long.
##     Refused until every load balancer has sent everything to the new pool for
##     the time "hold", CP X is down and no DP of its version is alive on CP Y. The
##     name of the shift must be typed, or given; --yes is not enough.
cmd_cp_finish() {
    (( $# <= 1 )) || usage "cp finish takes one argument, the name of the shift"
    settings_load
    [[ $STRATEGY = in-place ]] || refuse \
        "this is a dual-cluster upgrade: \"kong migrations finish\" was run on the copy by the step migrate, nothing is left to finish"
    need_upgrade
    if finish_early; then
        say "nothing is left to finish: across a major version \"kong migrations finish\" was run by the step migrate"
        return
    fi
    finish_typed "$@"
    work_dir_open finish
}

finish() {
    step 1/3 check     phase_finish_check
    step 2/3 finish    phase_finish
    step 3/3 read-back phase_finish_read_back
    say "the database is Y's ($Y_VERSION) alone now. Only restoring dump $BACKUP would bring X back: kong-shift cp rollback"
}

# finish_early: "cp in-place" has done it.
finish_early() {
    in_place_crosses && in_place_begun && [[ $(migrate_pending) = none ]]
}

# finish_typed [SHIFT]
finish_typed() {
    local name=${1-}
    if (( $# == 0 )); then
        [[ -t 0 ]] || refuse "cp finish: this removes the way back to X; to do it without being asked, give the name of the shift: kong-shift cp finish SHIFT"
        printf 'This removes the way back to CP X, but for restoring the dump. Type the name of the shift to go on: ' >&2
        IFS= read -r name || true
    fi
    [[ $name = "${SETTING[shift]}" ]] || refuse \
        "cp finish: \"$(printable "$name")\" is not the name of the shift, which is ${SETTING[shift]}; nothing was changed"
}

phase_finish_check() {
    local pending
    versions_known
    in_place_begun || refuse "\"kong migrations up\" was never run by \"cp in-place\" in ${SETTING[work_dir]}; there is nothing to finish"
    in_place_inspect
    [[ $IN_PLACE = migrated ]] || in_place_half

    lb_read_all
    lb_all gate open || refuse "the gate is not open on every load balancer; run \"kong-shift cp open\" first"
    weight_held finish

    ! node_up x || refuse "CP X ($KONG_VERSION) answers at x.admin ${SETTING[x.admin]}; stop it, it must not see a finished database"
    node_up y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    kong_admin_is y "$Y_VERSION"
    finish_planes
    migrate_unlocked
    pending=$(migrate_pending)
    evidence pending "$pending"
    say "      pending: $pending"
}

# A DP of X would be sent what only Y can have.
finish_planes() {
    local left
    planes_read y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    left=$(jq -r --arg y "$Y_VERSION" '[.[] | select(.verdict != "stale" and (.version | startswith($y) | not))
        | "\(.hostname) (\(.id), \(.version))"] | join(", "), "end"' <<<"$REPLY")
    [[ $left = *$'\n'end ]] || unknown "the list of DPs of CP Y could not be read"
    left=${left%$'\n'end}
    [[ -z $left ]] || refuse "DPs of another version than $Y_VERSION are alive on CP Y: $left; every pool must be on Y first"
}

phase_finish() {
    if [[ $(migrate_pending) = none ]]; then
        STEP_RESULT='nothing was pending'
        return
    fi
    # Before, lest a kill leaves the baseline of what is not there any more.
    baseline_y_forget
    migrate_run finish current "run \"kong-shift cp finish\" again"
}

phase_finish_read_back() {
    migrate_read_back
    baseline_y
}
