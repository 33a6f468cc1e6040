# The whole control-plane phase, and where it stands.

## cp dual-cluster
##     Bring up CP Y beside CP X, on a migrated copy of X's database; open the gate.
##     Freezes admin writes, dumps X, restores into a new database, migrates that,
##     starts CP Y, compares, and only then lets the weight leave 0. X is only
##     read. After a failure the same command goes on where it makes sense.
cmd_cp_dual_cluster() {
    no_more_arguments "$@"
    settings_load
    need_strategy dual-cluster
    need_upgrade
    confirm "this freezes admin writes to shift ${SETTING[shift]} and fills database ${SETTING[y.db.name]}"
    work_dir_open dual_cluster
}

dual_cluster() {
    step 1/8 preflight phase_preflight
    step 2/8 freeze    phase_freeze
    step 3/8 backup    phase_backup
    step 4/8 restore   phase_restore
    step 5/8 migrate   phase_migrate
    step 6/8 start     phase_start
    step 7/8 verify    phase_verify
    step 8/8 open      phase_open
    say "CP Y ($Y_VERSION) is up and holds what CP X ($X_VERSION) holds. Attach its DPs, then: kong-shift weight 1"
}

## cp status
##     Show the last result of every step, the database of Y and the load balancers.
cmd_cp_status() {
    no_more_arguments "$@"
    settings_load
    need lb y.db.name
    local journal=${SETTING[work_dir]}/journal.jsonl steps='[]' target=unknown code=0

    if [[ -f $journal ]]; then
        # The last line may have been cut short by a crash; it then never happened.
        steps=$(jq -cR 'fromjson? | select(.step and .event)' "$journal" | jq -cs '
            reduce .[] as $line ({}; .[$line.step] = $line)
            | map(. + {result: (.result // "not ended")}) | sort_by(.time)')
    fi
    if [[ $STRATEGY = in-place ]]; then
        status_in_place
    elif ( target_inspect ) 2>"$SCRATCH/target.err"; then
        target_inspect
        target=$TARGET${TARGET_STATE:+, $TARGET_STATE from $TARGET_BACKUP}
    else
        code=$EXIT_UNKNOWN
        target="unknown: $(<"$SCRATCH/target.err")"
    fi
    status_read

    if [[ $OPT_JSON ]]; then
        jq -s --argjson steps "$steps" --arg database "$target" --arg differences "$STATUS_DIFFERENCES" \
            --arg strategy "$STRATEGY" '{$strategy, $steps, $database, balancers: ., differences: ($differences | if . == "" then null else . end)}' <<<"$STATUS"
    else
        printf 'strategy %s\n' "$STRATEGY"
        jq -r '.[] | "\(.time)  \(.step): \(.result)\(if .reason then ", " + .reason else "" end)"' <<<"$steps"
        printf 'database %s: %s\n' "$(db_label y)" "$target"
        revoke_says
        ( status_print ) || true
    fi
    (( code = code ? code : STATUS_CODE )) && end "$code"
    return 0
}

# status_in_place: which version the database of X is of, into target.
status_in_place() {
    target='that of X, before "kong migrations up"'
    in_place_begun || return 0
    if ( migrate_pending ) >"$SCRATCH/pending" 2>"$SCRATCH/target.err"; then
        target="\"kong migrations up\" of Y was begun on it, dump $(jq -r .dump "${SETTING[work_dir]}/in-place.json"), \
pending for finish: $(<"$SCRATCH/pending")"
    else
        code=$EXIT_UNKNOWN
        target="unknown: $(<"$SCRATCH/target.err")"
    fi
}
