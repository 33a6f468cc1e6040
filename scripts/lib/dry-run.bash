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
        help | version | plan | status | weight | abort | 'cp status' | 'dp list')
            "cmd_${COMMAND// /_}" "$@"
            return
            ;;
        'cp preflight' | 'cp dual-cluster' | 'cp in-place')
            cmd_plan "$@"
            return
            ;;
    esac
    no_more_arguments "$@"
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
    lb_read_all
    case $1 in
        freeze)          lb_dry_run freeze ;;
        backup)          db_identity x "${SETTING[x.db.name]}" >/dev/null ;;
        restore)
            backup_need
            target_inspect
            [[ $TARGET != foreign ]] || target_refuse
            ;;
        migrate | start) dry_copy ;;
        verify)          backup_need ;;
        open)            dry_guards; lb_dry_run gate ;;
    esac
    plan_commands | awk -F '\t' -v name="$1" '$1 == name' >>"$SCRATCH/dry"
    [[ -s $SCRATCH/dry ]] || usage "\"kong-shift $COMMAND\" is no step of this upgrade"
}

# In-place there is no copy that a step could want.
dry_copy() {
    [[ ${STRATEGY-} = in-place ]] || migrate_need
}

# All guards, those that say no on standard error.
dry_guards() {
    plan_guards
    jq -r 'select(.result | IN("ok", "forced") | not) | "kong-shift: guard \(.guard): \(.found)"' "$SCRATCH/guards" >&2
}

dry_rollback() {
    local lb
    lb_read_all
    lb_dry_run freeze
    for lb in "${LBS[@]}"; do
        plan_line abort "$(quoted curl -X POST "$lb/shifts/$SHIFT_URI/abort")"
    done >>"$SCRATCH/dry"
    {
        dry_put close gate '{"state":"closed"}'
        plan_line stop "$(dry_stop y)"
        if [[ ${STRATEGY-} != in-place ]]; then
            plan_line rename "$(plan_db y-admin psql)  # ALTER DATABASE ${SETTING[y.db.name]@Q} RENAME TO NAME-TIME, if it is ours"
        else
            plan_line restore "dump of ${SETTING[work_dir]}/backup.json into a new ${SETTING[x.db.name]@Q}, if migrations were begun"
            plan_line start "start CP X (x.start, or kong start of x.kong in x.prefix)"
        fi
        dry_put unfreeze freeze '{"state":"off"}'
    } >>"$SCRATCH/dry"
}

dry_unfreeze() {
    lb_read_all
    lb_dry_run freeze
    {
        if lb_all '.gate.state == "open" and .weight.effective == 0'; then
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
    say "${RESUME[command]} was ${RESUME[how]} in step ${RESUME[step]}; what is right already is kept"
    COMMAND=${RESUME[command]}
    if [[ $COMMAND = 'cp rollback' ]]; then
        dry_rollback
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

# dry_stop WHICH: how that CP would be stopped.
dry_stop() {
    if [[ ${SETTING[$1.stop]-} ]]; then
        split_words "${SETTING[$1.stop]}"
    else
        split_words "${SETTING[$1.kong]}"
        WORDS+=(quit -p "${SETTING[$1.prefix]-}")
    fi
    quoted "${WORDS[@]}"
}
