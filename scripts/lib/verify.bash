# Nothing lost on the way to Y, nothing written to X since.

## cp verify
##     Compare X with its baseline and Y with X.
cmd_cp_verify() {
    no_more_arguments "$@"
    settings_load
    need x.admin y.kong y.admin y.db.name
    work_dir_open step 1/1 verify phase_verify
}

phase_verify() {
    backup_need
    if [[ $STRATEGY = in-place ]]; then
        in_place_may_start
        digest y "$SCRATCH/y.json"
    else
        drift_of_x y "$SCRATCH/y.json"
        [[ -z $REPLY ]] || failed "database $(db_label x) was written to after the dump: $REPLY; \
run \"kong-shift cp dual-cluster\" again for a fresh copy"
    fi

    digest_compare migrated "$BASELINE" "$SCRATCH/y.json"
    [[ -z $REPLY ]] || failed \
        "database $(db_label y) does not hold what X holds: $REPLY; keep the gate closed"
    evidence tables "$(jq 'map(select(.table)) | length' "$BASELINE")"
    evidence rows "$(jq 'map(.kept // 0) | add' "$BASELINE")"
    evidence rewritten "$(digest_rewritten "$BASELINE" "$SCRATCH/y.json")"

    verify_node
    plugins_verify
    [[ $STRATEGY != in-place ]] || quarantine_proof
}

verify_node() {
    [[ $Y_VERSION ]] || { kong_version y; Y_VERSION=$REPLY; }
    node_up y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    kong_admin_is y "$Y_VERSION"
    admin_call y GET /status || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    [[ $HTTP_STATUS = 200 && $(field .database.reachable) = true ]] || failed \
        "CP Y does not reach its database: GET ${SETTING[y.admin]}/status was answered $(http_says y.admin)"
    freeze_probe y || warn \
        "admin writes to y.admin ${SETTING[y.admin]} are not frozen; keep everybody away from it until X is gone"
}
