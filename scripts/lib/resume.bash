# An interrupted run, gone on with; but only where things are as it left them.

declare -A RESUME=()

## cp resume
##     Go on with the "cp dual-cluster", "cp in-place", "cp finish" or "cp rollback" that was cut short.
##     What the journal says is held against what is there. Where the two differ
##     it stops: the command itself goes on from what is there, "cp rollback" gives up.
cmd_cp_resume() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    resume_read
    if [[ ! ${RESUME[command]-} ]]; then
        say "nothing to resume: no run is in ${SETTING[work_dir]}/journal.jsonl"
        return
    fi
    if [[ ${RESUME[ended]} ]]; then
        say "nothing to resume: ${RESUME[command]} came to its end at ${RESUME[time]}"
        return
    fi
    resume_may
    say "${RESUME[command]} was ${RESUME[how]} in step ${RESUME[step]} at ${RESUME[time]}"
    confirm "this goes on with ${RESUME[command]}"
    work_dir_open resume
}

# Whether the run is one that can be gone on with.
resume_may() {
    [[ ${RESUME[command]} = "cp $STRATEGY" || ${RESUME[command]} = @(cp rollback|cp finish) ]] || refuse \
        "the run was ${RESUME[command]}, but y.db.* and x.db.* now mean $STRATEGY; put them back"
    # Where it said no, the name of the shift must be typed again.
    [[ ${RESUME[command]}/${RESUME[step]}/${RESUME[how]} != 'cp finish/check/ended: '* ]] || refuse \
        "cp finish was ${RESUME[how]}; nothing was begun, so run it again yourself: kong-shift cp finish"
}

resume() {
    # Read again, now that nobody else can write.
    resume_read
    COMMAND=${RESUME[command]}
    if [[ $COMMAND = 'cp rollback' ]]; then
        rollback
        return
    fi
    if [[ $COMMAND = 'cp finish' ]]; then
        # Its first step compares all there is.
        finish
        return
    fi
    resume_compare
    if [[ $STRATEGY = in-place ]]; then
        in_place
    else
        dual_cluster
    fi
}

# resume_read: what the journal tells of the last whole run, into RESUME.
resume_read() {
    local journal=${SETTING[work_dir]}/journal.jsonl name value
    RESUME=()
    [[ -f $journal ]] || return 0

    # The last line may have been cut short by a crash; it then never happened.
    jq -cR 'fromjson? | select(.step and .event)' "$journal" >"$SCRATCH/journal"
    while IFS='=' read -r name value; do
        RESUME[$name]=$value
    done < <(jq -rs '
        def done: .event == "end" and .result != "failed";
        . as $all | ([.[] | select(.command | IN("cp dual-cluster", "cp in-place", "cp finish", "cp rollback"))] | last) as $last
        | if $last == null then empty else
            ([$all[] | select(.step | IN("restore", "migrate", "start", "rename", "restore-x"))]) as $data
            | {command: $last.command, step: $last.step, time: $last.time,
                ended: (if ($last | done) and ($last.step | IN("open", "read-back", "unfreeze")) then "yes" else "" end),
                how: (if $last | done then "interrupted after it was done" elif $last.event == "start" then "interrupted" else "ended: \($last.reason)" end),
                done: ([$data[] | select(done and (.result | IN("kept", "already up") | not)) | .step] | last),
                open: ($data | last | if . == null or done then null else .step end),
                stopped: ([$all[] | select(done and (.step == "start-x" or .step == "stop" and .command != "cp rollback")) | .step] | last),
                frozen: ([$all[] | select(done and (.step | IN("freeze", "unfreeze"))) | .step] | last),
                versions: ([$all[] | select(.run == $last.run and .step == "preflight" and done) | "\(.x) -> \(.y)"] | last)}
            | to_entries[] | "\(.key)=\(.value // "" | gsub("[[:cntrl:]]"; " "))" end' "$SCRATCH/journal")
}

# resume_compare: the end, unless what is there is what the run left.
resume_compare() {
    local good
    versions_known
    [[ ! ${RESUME[versions]} || ${RESUME[versions]} = "$X_VERSION -> $Y_VERSION" ]] || resume_refuse \
        "the run was of ${RESUME[versions]}, but x.kong and y.kong are now $X_VERSION -> $Y_VERSION"

    lb_read_all
    [[ ${RESUME[frozen]} != freeze ]] || freeze_holds || resume_refuse \
        "admin writes were frozen, but are allowed now"

    if [[ $STRATEGY = in-place ]]; then
        resume_in_place
        return
    fi
    # A step that was cut short has its mark before or after its end.
    case ${RESUME[done]}/${RESUME[open]} in
        */restore | rename/* | /*)  return ;;
        restore/migrate)    good='restored|migrating|migrated' ;;
        restore/*)          good='restored' ;;
        migrate/start)      good='migrated|started' ;;
        migrate/*)          good='migrated' ;;
        *)                  good='started' ;;
    esac
    target_inspect
    [[ $TARGET = ours && $TARGET_STATE = @($good) ]] || resume_refuse \
        "step ${RESUME[done]} was done, but database $(db_label y) is now ${TARGET_STATE:-$TARGET}"
    if ! backup_load || [[ $TARGET_BACKUP != "$BACKUP" ]]; then
        resume_refuse "database $(db_label y) holds dump $TARGET_BACKUP, but the one in ${SETTING[work_dir]} is ${BACKUP:-gone}"
    fi
}

resume_in_place() {
    ! [[ ${RESUME[stopped]} = stop ]] || ! node_up x || resume_refuse "CP X was stopped, but answers again"
    [[ ${RESUME[done]} != @(migrate|start) ]] || {
        in_place_inspect
        [[ $IN_PLACE = migrated ]] || resume_refuse \
            "step ${RESUME[done]} was done, but database $(db_label y) is not what \"kong migrations up\" made of it"
    }
}

resume_refuse() {
    refuse "$1; to go on from what is there: kong-shift cp $STRATEGY; to give up: kong-shift cp rollback"
}
