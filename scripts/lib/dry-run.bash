# --dry-run: the checks of a command, and what it would do then, as commands one
# could type. Nothing is changed, not even work_dir.

## version
##     Show the version of kong-shift.
cmd_version() {
    no_more_arguments "$@"
    if [[ $OPT_JSON ]]; then
        jq -n --arg version "$KONG_SHIFT_VERSION" '{$version}'
    else
        printf 'kong-shift %s\n' "$KONG_SHIFT_VERSION"
    fi
}

# dry_run ARG...: of COMMAND.
dry_run() {
    case $COMMAND in
        # These change nothing, or have a place of their own for it (lb_put_all).
        help | version | plan | status | weight | abort | drain | undrain | safe | 'cp status' | 'cp watch' | 'dp list')
            "cmd_${COMMAND// /_}" "$@"
            return
            ;;
        'cp preflight' | 'cp dual-cluster' | 'cp in-place')
            cmd_plan "$@"
            return
            ;;
    esac
    [[ $COMMAND = 'cp finish' ]] || no_more_arguments "$@"
    settings_load
    need_upgrade
    # As for plan: its logs and prefixes are not for keeping.
    KONG_HOME=$SCRATCH RUN=dry-run
    mkdir -p -- "$SCRATCH/log"
    : >"$SCRATCH/dry"
    case $COMMAND in
        'cp rollback')    dry_rollback ;;
        'cp resume')      dry_resume ;;
        'cp unfreeze')    dry_unfreeze ;;
        'cp finish')      dry_finish "$@" ;;
        decommission)     dry_decommission ;;
        *)                dry_step "${COMMAND#cp }" ;;
    esac
    dry_print
    (( PLAN_CODE == 0 )) || end "$PLAN_CODE"
}

dry_print() {
    if [[ $OPT_JSON ]]; then
        jq -Rn '{commands: [inputs | split("\t") | {step: .[0], command: .[1]}]}' "$SCRATCH/dry"
    else
        awk -F '\t' '$1 != step { step = $1; print step } { print "        " $2 }' "$SCRATCH/dry"
    fi
}

# dry_step NAME: one of those that plan shows.
dry_step() {
    [[ $1 != restore ]] || need_strategy dual-cluster
    [[ $1 != stop ]] || need_strategy in-place
    lb_read_all
    case $1 in
        freeze)          lb_dry_run freeze ;;
        stop)            dry_stop_x ;;
        backup)          db_identity x "${SETTING[x.db.name]}" >/dev/null ;;
        restore)
            backup_need
            target_inspect
            [[ $TARGET != foreign ]] || target_refuse
            ;;
        migrate | start) dry_copy ;;
        verify | export | attached) backup_need ;;
        open)            dry_guards; lb_dry_run gate ;;
    esac
    [[ $1 != export ]] || plan_export >>"$SCRATCH/dry"
    plan_commands | awk -F '\t' -v name="$1" '$1 == name' >>"$SCRATCH/dry"
}

dry_stop_x() {
    versions_known
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    [[ $X_STOPPED ]] || kong_admin_is x "$X_VERSION"
}

# In-place there is no copy that a step could want, but the dump.
dry_copy() {
    if [[ $STRATEGY = in-place ]]; then
        backup_need
    else
        migrate_need
    fi
}

# dry_finish [SHIFT]: nobody is asked, but a name that is given must be right.
dry_finish() {
    (( $# == 0 )) || finish_typed "$@"
    need_strategy in-place
    phase_finish_check
    plan_migrate finish finish >>"$SCRATCH/dry"
}

# All guards, those that say no on standard error.
dry_guards() {
    plan_guards
    jq -r 'select(.result | IN("ok", "forced") | not) | "kong-shift: guard \(.guard): \(.found)"' "$SCRATCH/guards" >&2
}

dry_decommission() {
    phase_decommission_check
    {
        if node_up x; then
            node_words x stop
            plan_line retire "$(quoted "${WORDS[@]}")"
        fi
        dry_put unfreeze freeze '{"state":"off"}'
        plan_line canary "$(quoted curl -X POST "${SETTING[y.admin]}/consumers")  # and DELETE, once every DP has it"
    } >>"$SCRATCH/dry"
}

dry_rollback() {
    local lb
    lb_read_all
    lb_dry_run freeze
    rollback_old_pool
    {
        for lb in "${LBS[@]}"; do
            plan_line abort "$(quoted curl -X POST "$lb/shifts/$SHIFT_URI/abort")"
        done
        dry_put close gate '{"state":"closed"}'
        node_words y stop
        plan_line stop "$(quoted "${WORDS[@]}")"
        if [[ $STRATEGY = in-place ]]; then
            dry_rollback_in_place
        else
            plan_line rename "$(plan_db y-admin psql)  # ALTER DATABASE ${SETTING[y.db.name]@Q} RENAME TO NAME-TIME, if it is ours"
        fi
        dry_put unfreeze freeze '{"state":"off"}'
    } >>"$SCRATCH/dry"
}

dry_rollback_in_place() {
    if in_place_begun; then
        in_place_dump
        plan_line restore-x "$(plan_db y-admin psql)  # ALTER DATABASE ${SETTING[y.db.name]@Q} RENAME TO NAME-TIME, if it changed; CREATE DATABASE"
        restore_words "dbname=${SETTING[y.db.name]}"
        plan_line restore-x "$(plan_db y "${WORDS[@]}")"
    fi
    node_words x start
    plan_line start-x "$(plan_kong x "${WORDS[@]}")"
}

dry_unfreeze() {
    lb_read_all
    lb_dry_run freeze
    {
        if lb_all gate open && lb_all effective 0; then
            dry_put close gate '{"state":"closed"}'
        fi
        dry_put unfreeze freeze '{"state":"off"}'
    } >>"$SCRATCH/dry"
}

dry_resume() {
    resume_read
    if [[ ! ${RESUME[command]-} || ${RESUME[ended]} ]]; then
        say "nothing to resume"
        return
    fi
    resume_may
    say "${RESUME[command]} was ${RESUME[how]} in step ${RESUME[step]}; what is right already is kept"
    COMMAND=${RESUME[command]}
    if [[ $COMMAND = 'cp rollback' ]]; then
        dry_rollback
        return
    fi
    if [[ $COMMAND = 'cp finish' ]]; then
        dry_finish
        return
    fi
    dry_guards
    plan_commands >>"$SCRATCH/dry"
}

# dry_put STEP PATH BODY
dry_put() {
    local lb
    for lb in "${LBS[@]}"; do
        plan_line "$1" "$(quoted curl -X PUT -d "$3" "$lb/shifts/$SHIFT_URI/$2")"
    done
}
