# The gate of the shift: only a CP phase that was proved opens it.

## cp open
##     Verify once more, then open the gate with the evidence.
cmd_cp_open() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    work_dir_open gate_open_alone
}

gate_open_alone() {
    step 1/3 preflight phase_preflight
    step 2/3 verify phase_verify
    step 3/3 open phase_open
}

phase_open() {
    local journal=${SETTING[work_dir]}/journal.jsonl evidence

    # The endpoint takes 255 bytes; the run names the lines just as well.
    (( ${#journal} <= 255 )) || journal="run $RUN"
    json_object strategy "$STRATEGY" x "$X_VERSION" y "$Y_VERSION" journal "$journal"
    evidence=$REPLY
    evidence gate "$evidence"

    lb_read_all
    if lb_all gate off; then
        STEP_RESULT='nothing to open, kong_shift_gate is off'
        [[ -s ${SETTING[work_dir]}/old-pool.json ]] || old_pool_keep
    elif lb_all gate open && lb_hold ".gate.evidence == $evidence"; then
        STEP_RESULT='already open'
    else
        # Now, as DPs of X may be let on CP Y once it is open.
        old_pool_keep
        json_object state open comment "$(comment)"
        lb_put_all gate "{\"evidence\":$evidence,${REPLY:1}" '[.state, .evidence]' "[\"open\",$evidence]"
    fi
}
