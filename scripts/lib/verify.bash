# Nothing lost on the way to Y, nothing written to X since.

# The baseline of Y that was held against that of X.
MIGRATED=

## cp verify
##     Compare X with its baseline and Y with X.
cmd_cp_verify() {
    no_more_arguments "$@"
    settings_load
    need x.admin y.kong y.admin y.db.name
    work_dir_open step 1/1 verify phase_verify
}

phase_verify() {
    local counts written="undo that, or begin anew: \"kong-shift cp rollback\", then \"kong-shift cp $STRATEGY\""
    backup_need
    node_cache on x y
    digest_ways
    # These take long; what follows goes on beside them.
    child stamps_child y "$SCRATCH/y.stamps"
    child schemas_rows
    if [[ $STRATEGY = in-place ]]; then
        in_place_may_start
    else
        child stamps_child x "$SCRATCH/x.stamps"
    fi
    verify_migrated
    counts=$(jq -rs '"\(map(select(.table)) | length) \(map(.kept // 0) | add)"' "$BASELINE") || failed "$BASELINE cannot be read"
    evidence tables "${counts% *}"
    evidence rows "${counts#* }"

    children_wait || exit
    if [[ $STRATEGY != in-place ]]; then
        digest_keep x "$SCRATCH/x.stamps"
        drift_since x
        [[ -z $REPLY ]] || failed "database $(db_label x) was written to after the dump: $REPLY; \
run \"kong-shift cp dual-cluster\" again for a fresh copy"
    fi
    digest_keep y "$SCRATCH/y.stamps"
    drift_since y
    [[ -z $REPLY ]] || failed "database $(db_label y) was written to after \"kong migrations\": $REPLY; $written"

    verify_node
    plugins_verify
    guard_run schemas
    [[ ! -s $SCRATCH/found ]] || evidence schemas "$(<"$SCRATCH/found")"
    [[ $STRATEGY != in-place ]] || quarantine_proof
    node_cache off
}

# verify_migrated: what migrations left holds what X holds, but for what they are
# known to change.
verify_migrated() {
    local known='' gone='' other='' base
    drift_base y || unknown \
        "what \"kong migrations\" left in database $(db_label y) was not recorded in ${SETTING[work_dir]}; run \"kong-shift cp migrate\" first"
    # Neither of the two changes any more.
    if [[ $MIGRATED != "$REPLY" ]]; then
        base=$REPLY
        digest_columns "$BASELINE" "$base.digest.json" >"$SCRATCH/columns.json" || failed "two digests could not be compared"
        digest_compare migrated "$BASELINE" "$base.digest.json"
        [[ -z $REPLY ]] || failed \
            "database $(db_label y) does not hold what X holds: $REPLY; keep the gate closed"
        MIGRATED=$base
    fi

    if [[ $(<"$SCRATCH/columns.json") != '[]' ]]; then
        { IFS= read -r known; IFS= read -r gone; IFS= read -r other; } < <(columns_lists) \
            || failed "the list of changed columns cannot be read"
    fi
    evidence columns.changed "$known"
    evidence columns.gone "$gone"
    [[ -z $known ]] || say "      changed by migrations, as known: $known"
    [[ -z $gone ]] || say "      removed by migrations: $gone"
    [[ -z $other ]] || insist columns "\"kong migrations\" changed columns of database $(db_label y) that they are not known to change: \
$other; compare them with X yourself"
}

# columns_lists: of columns.json, those known to change, those that are gone, the others; a line each.
columns_lists() {
    jq -r '(map(select(.known and (.gone | not))), map(select(.gone)), map(select(.known or .gone | not)))
        | map(.column) | join(", ")' "$SCRATCH/columns.json"
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
