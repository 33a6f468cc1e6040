# What was written to a database since its baseline: to X since the dump, to Y
# since migrations left it.
#   work_dir/y-TIME.digest.json, y-TIME.rows    the baseline of Y

declare -a WATCHED=()

## cp watch [EVERY]
##     Tell what was written to X since the dump, and to Y since migrations, by table and key.
##     Then it ends with 1, and "kong-shift weight" does not raise the weight. With
##     EVERY, a time like 30s, it looks again and again until it finds something. Y
##     is looked at only while admin writes are frozen.
cmd_cp_watch() {
    local every=0
    (( $# <= 1 )) || usage "cp watch takes one time, not $#"
    if (( $# == 1 )); then
        { duration_seconds "$1" && (( REPLY >= 1 )); } || usage "EVERY must be a time of 1s or more like 30s, got \"$1\""
        every=$REPLY
    fi
    settings_load
    need lb
    backup_need
    while :; do
        lb_read_all
        drift_look
        [[ -z $REPLY ]] || break
        drift_print
        (( every > 0 )) || return 0
        run_long sleep "$every"
    done
    drift_print
    end "$EXIT_FAILED"
}

drift_print() {
    local which
    if [[ $OPT_JSON ]]; then
        for which in "${WATCHED[@]}"; do
            jq -c --arg which "$which" '{($which): .}' "$SCRATCH/drift.$which"
        done | jq -cs 'add // {}'
    else
        (( ${#WATCHED[@]} > 0 )) || say "admin writes are allowed, and database $(db_label y) is all there is: nothing to look at"
        for which in "${WATCHED[@]}"; do
            say "$(now %H:%M:%S) database $(db_label "$which"): $(<"$SCRATCH/drift.$which.says")"
        done
    fi
}

# drift_look: into REPLY what was written to which database, and into files of
# SCRATCH, for those that are WATCHED; after lb_read_all.
drift_look() {
    local which all=''
    drift_watched
    for which in "${WATCHED[@]}"; do
        drift_of "$which"
        printf '%s\n' "${REPLY:-as it was}" >"$SCRATCH/drift.$which.says"
        cp -- "$SCRATCH/differences.json" "$SCRATCH/drift.$which"
        [[ -z $REPLY ]] || all+="${all:+; }database $(db_label "$which") was written to: $REPLY"
    done
    REPLY=$all
}

# drift_watched: X always, but in-place there is none once it is migrated; Y
# while it is our copy, and admin writes are frozen.
drift_watched() {
    WATCHED=()
    if ! in_place_begun; then
        WATCHED=(x)
        [[ $STRATEGY = dual-cluster ]] || return 0
        target_inspect
        [[ $TARGET = ours && $TARGET_BACKUP = "$BACKUP" && $TARGET_STATE = @(migrated|started) ]] || return 0
    fi
    lb_all freeze off || WATCHED+=(y)
}

# drift_hold WEIGHT: nothing more goes to the new pool while Y is not what X is.
drift_hold() {
    ! lb_hold ".weight.new >= $1" || return 0
    # Somebody may use nothing but the weight.
    backup_load || ! lb_hold '.gate.evidence == null' || return 0
    if [[ $OPT_DRY_RUN ]]; then
        guard_drift
    else
        work_dir_open step 1/1 drift phase_drift
    fi
}

phase_drift() {
    # With --json the caller shows the shift, not the steps.
    KONG_HOME=$SCRATCH
    guard_run drift
}

guard_drift() {
    backup_load || unknown "the gate was opened by a CP phase, but its dump is not in ${SETTING[work_dir]}, so nobody can tell \
whether X was written to since; do this where it is, or insist: --force drift"
    drift_look
    [[ -z $REPLY ]] || refuse "$REPLY; what only one of X and Y has would be lost: undo it, or bring it to both and insist: --force drift"
}

# drift_base WHICH: where its baseline is, into REPLY; false when there is none.
drift_base() {
    REPLY=${SETTING[work_dir]}/$1${BACKUP#x}
    [[ -f $REPLY.digest.json && -f $REPLY.rows ]]
}

# drift_of WHICH: as text by table and key, into REPLY; empty is good. Only where
# something was written, or rows were moved, is it looked at what is in them.
drift_of() {
    stamps "$1" "$SCRATCH/$1.stamps"
    drift_since "$1"
}

# drift_since WHICH: the same, stamps were taken.
drift_since() {
    local base
    drift_base "$1" || unknown "the baseline $REPLY.digest.json is gone, so nobody can tell what was written to database $(db_label "$1")"
    base=$REPLY
    digest_compare stamp "$base.digest.json" "$SCRATCH/$1.stamps"
    [[ $REPLY ]] || return 0
    digest "$1" "$SCRATCH/$1.json"
    digest_compare drift "$base.digest.json" "$SCRATCH/$1.json"
    [[ -z $REPLY ]] || drift_keys "$1" "$base.rows"
}

# drift_keys WHICH ROWS: adds the keys to what digest_compare found.
drift_keys() {
    local which=$1 rows=$2 tables
    tables=$(jq -r '.[].table' "$SCRATCH/differences.json")
    run_long digest_rows_child "$which" "$SCRATCH/rows" "$tables" || exit
    # What only the second has comes after a tab.
    comm -3 <(sort -- "$rows") <(sort -- "$SCRATCH/rows") | jq -R --slurpfile tables "$SCRATCH/differences.json" -n '
        [inputs | {new: startswith("\t"), row: (ltrimstr("\t") | fromjson)} | {new, table: .row[0], key: .row[1]}]
        | group_by(.table) | map({key: .[0].table, value: (group_by(.key) | map({key: (.[0].key | ltrimstr("(") | rtrimstr(")")),
            what: (map(.new) | unique | if length == 2 then "changed" elif .[0] then "added" else "removed" end)})
            | group_by(.what) | map({key: .[0].what, value: map(.key)}) | from_entries)}) | from_entries as $keys
        | $tables[0] | map(. + ($keys[.table] // {}))' >"$SCRATCH/named" \
        || failed "the rows of database $(db_label "$which") could not be compared with those of the dump"
    mv -- "$SCRATCH/named" "$SCRATCH/differences.json"
    differences_text
}

# baseline_y: what migrations left in Y, before CP Y is started on it.
baseline_y() {
    local base tables rows columns
    drift_base y && return
    base=$REPLY
    digest y "$base.tmp.digest.json"
    digest_changed "$BASELINE" "$base.tmp.digest.json" >"$SCRATCH/tables" || failed "two digests could not be compared"
    tables=$(<"$SCRATCH/tables")
    # The rows of tables in which migrations changed nothing are those of X.
    sed -n 's/^-//p' <<<"$tables" >"$SCRATCH/others"
    grep -v -F -f "$SCRATCH/others" -- "${BASELINE%.digest.json}.rows" >"$base.tmp.rows" || true
    rows=$(sed -n 's/^[!+]//p' <<<"$tables")
    columns=$(sed -n 's/^!//p' <<<"$tables")
    run_long baseline_y_children "$base.tmp" "$rows" "${columns//$'\n'/,}" || exit
    cat -- "$base.tmp.rest" >>"$base.tmp.rows"
    rm -f -- "$base.tmp.rest"
    [[ ! $columns ]] || digest_keep y "$base.tmp.digest.json"
    sync -- "$base.tmp.rows" "$base.tmp.digest.json"
    mv -- "$base.tmp.rows" "$base.rows"
    mv -- "$base.tmp.digest.json" "$base.digest.json"
}

# baseline_y_children BASE ROWS COLUMNS: the rows of these tables, and once more the
# digest, with the columns of those.
baseline_y_children() {
    # An empty list would be all of them.
    child digest_rows_child y "$1.rest" "${2:-,}"
    [[ ! $3 ]] || child digest_child y "$1.digest.json" "$3"
    children_wait
}

baseline_y_forget() {
    local REPLY
    drift_base y || true
    MIGRATED=
    rm -f -- "$REPLY".{digest.json,rows}
}
