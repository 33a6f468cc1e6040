# What "cp dual-cluster" or "cp in-place" would say and do, without doing it.

PLAN_CODE=0

## plan
##     Run every guard, show the commands of the upgrade; change nothing.
##     The settings mean "cp in-place" when y.db.* is the database of X, else
##     "cp dual-cluster".
##     All guards are asked, even after a refusal. One that "may be forced" does not
##     stop a run that is given --force GUARD; the journal and the gate keep that.
cmd_plan() {
    no_more_arguments "$@"
    settings_load
    [[ $COMMAND != @(cp dual-cluster|cp in-place) ]] || need_strategy "${COMMAND#cp }"
    need_upgrade
    # Its logs and prefixes are not for keeping, so work_dir need not be there.
    KONG_HOME=$SCRATCH RUN=plan
    mkdir -p -- "$SCRATCH/log"
    guard_tools

    plan_guards
    plan_commands >"$SCRATCH/commands"
    if [[ $OPT_JSON ]]; then
        jq -n --arg strategy "$STRATEGY" --rawfile warnings <(plan_warnings) \
            --slurpfile guards "$SCRATCH/guards" --rawfile commands "$SCRATCH/commands" '{$strategy, $guards,
            warnings: [$warnings | splits("\n") | select(. != "")],
            commands: [$commands | splits("\n") | select(. != "") | split("\t") | {step: .[0], command: .[1]}]}'
    else
        plan_print
    fi
    (( PLAN_CODE == 0 )) || end "$PLAN_CODE"
}

plan_guards() {
    local guard
    node_cache on
    for guard in "${GUARDS[@]}"; do
        guard_try "$guard"
        plan_note "$guard" "$REPLY"
    done
    node_cache off
}

# plan_note GUARD TEXT: a line of what guard_try saw.
plan_note() {
    local result=ok forceable=false
    case $GUARD_STATUS in
        0)                                  ;;
        "$EXIT_REFUSED" | "$EXIT_USAGE")    result=refused ;;
        "$EXIT_UNKNOWN")                    result=unknown ;;
        *)                                  result=failed ;;
    esac
    ! is_one_of "$1" "${GUARDS_FORCEABLE[@]}" || forceable=true
    if (( GUARD_STATUS != 0 )); then
        if is_one_of "$1" "${OPT_FORCE[@]}"; then
            result=forced
        elif [[ $result = refused ]] || (( PLAN_CODE == 0 )); then
            PLAN_CODE=$GUARD_STATUS
        fi
    fi
    jq -nc --arg guard "$1" --arg result "$result" --arg checked "${GUARD_CHECKS[$1]}" --arg found "$2" \
        --argjson forceable "$forceable" --rawfile warnings "$SCRATCH/guard.warnings" '{$guard, $result, $checked, $found,
        warnings: [$warnings | splits("\n") | select(. != "") | ltrimstr("kong-shift: warning: ")], $forceable}' \
        >>"$SCRATCH/guards"
}

plan_print() {
    jq -r '"\(.result | . + "       "[length:]) \(.guard): \(.checked)",
        (if .found != "" then "        \(if .result == "ok" then "found" else "says" end): \(.found)" else empty end),
        (if .forceable and (.result | IN("refused", "failed", "unknown")) then "        may be forced: --force \(.guard)" else empty end),
        (.warnings[] | "        warning: \(.)")' "$SCRATCH/guards"
    printf '\nWhat "kong-shift cp %s" would do; what is right already is kept:\n' "$STRATEGY"
    awk -F '\t' '$1 != step { step = $1; print step } { print "        " $2 }' "$SCRATCH/commands"
    plan_warnings | sed 's/^/!!! /; 1s/^/\n/'
    if (( PLAN_CODE == 0 )); then
        printf '\nNothing stands against it.\n'
    else
        printf '\nIt would stop before it changes anything: %s.\n' "$(
            jq -r 'select(.result | IN("ok", "forced") | not) | .guard' "$SCRATCH/guards" | paste -sd ' ')"
    fi
}

plan_warnings() {
    [[ $STRATEGY != in-place ]] || in_place_warning_list
}

plan_commands() {
    DUMP=${SETTING[work_dir]}/x-TIME.dump

    plan_freeze
    if [[ $STRATEGY = in-place ]]; then
        node_words x stop
        plan_line stop "$(plan_kong x "${WORDS[@]}")"
        plan_line stop "$(plan_db x psql)  # pg_stat_activity must show no session of Kong"
    fi
    dump_words
    plan_line backup "$(plan_db x "${WORDS[@]}" --snapshot=SNAPSHOT -f "$DUMP")"
    [[ ${SETTING[export]} = off ]] || plan_export
    if [[ $STRATEGY = in-place ]]; then
        plan_migrate up migrate
        ! in_place_crosses || plan_migrate finish migrate
    else
        plan_restore
        plan_migrate up migrate
        plan_migrate finish migrate
    fi
    node_words y start
    plan_line start "$(plan_kong y "${WORDS[@]}")"
    if [[ $STRATEGY = in-place ]]; then
        plan_line verify "compare $(db_label y) with the dump, row by row; no DP of X may be on CP Y"
    else
        plan_line verify "compare $(db_label x) with the dump, $(db_label y) with it, row by row"
    fi
    plan_line verify "$(quoted curl -X POST "${SETTING[y.admin]}/schemas/plugins/validate")  # each plugin of CP Y; changes nothing"
    plan_put open "$(jq -nc --arg strategy "$STRATEGY" --arg journal "${SETTING[work_dir]}/journal.jsonl" \
        '{state: "open", evidence: {$strategy, x: "X", y: "Y", $journal}}')"
    [[ $STRATEGY != in-place ]] || in_place_crosses || plan_migrate finish "much later: cp finish"
}

plan_freeze() {
    if revoke_wanted; then
        plan_line freeze "$(plan_db x psql)  # REVOKE INSERT, UPDATE, DELETE, TRUNCATE from ${SETTING[x.db.user]@Q}, but for ${DB_VOLATILE[*]} ${REVOKE_SPARED[*]}"
        plan_line freeze "$(quoted curl -X POST -d username=kong-shift-probe "${SETTING[x.admin]}/consumers")  # must fail"
        return
    fi
    plan_put freeze '{"state":"on"}'
    plan_line freeze "$(quoted curl -X DELETE "${SETTING[x.admin]}/consumers/kong-shift-probe")  # must be denied"
}

plan_export() {
    local name=backup
    [[ $COMMAND != 'cp export' ]] || name='export'
    split_words "${SETTING[x.kong]}"
    WORDS+=(config db_export "${SETTING[work_dir]}/x-TIME.yml")
    [[ -z ${SETTING[x.conf]-} ]] || WORDS+=(-c "${SETTING[x.conf]}")
    plan_line "$name" "$(plan_kong x KONG_PREFIX="${SETTING[work_dir]}/prefix-x" "${WORDS[@]}")"
}

plan_restore() {
    local name=${SETTING[y.db.name]}
    plan_line restore "$(plan_db y-admin psql)  # CREATE DATABASE ${name@Q} OWNER ${SETTING[y.db.user]@Q} TEMPLATE template0"
    restore_words "dbname=$name"
    plan_line restore "$(plan_db y "${WORDS[@]}")"
    plan_line restore "$(plan_db y psql)  # DELETE FROM ${DB_PURGED[*]}"
}

# plan_migrate WORD STEP
plan_migrate() {
    split_words "${SETTING[y.kong]}"
    migrate_words "$1"
    [[ -z ${SETTING[y.conf]-} ]] || WORDS+=(-c "${SETTING[y.conf]}")
    WORDS=(KONG_PREFIX="${SETTING[work_dir]}/prefix-y" "${WORDS[@]}")
    plan_line "$2" "$(plan_kong y "${WORDS[@]}")"
}

plan_line() {
    printf '%s\t%s\n' "$1" "$(printable "$2")"
}

plan_put() {
    local lb path=$1
    [[ $1 != open ]] || path=gate
    for lb in "${LBS[@]}"; do
        plan_line "$1" "$(quoted curl -X PUT -d "$2" "$lb/shifts/$SHIFT_URI/$path")"
    done
}

plan_db() {
    local which=$1
    shift
    with_db "$which" plan_db_words "$@"
}

plan_db_words() {
    quoted PGHOST="$PGHOST" PGPORT="$PGPORT" PGUSER="$PGUSER" PGDATABASE="$PGDATABASE" "$@"
}

plan_kong() {
    local which=$1
    shift
    quoted KONG_DATABASE=postgres KONG_PG_HOST="${SETTING[$which.db.host]}" KONG_PG_PORT="${SETTING[$which.db.port]}" \
        KONG_PG_USER="${SETTING[$which.db.user]}" KONG_PG_DATABASE="${SETTING[$which.db.name]}" "$@"
}

# quoted WORD...: as one would type it.
quoted() {
    local word text=
    for word in "$@"; do
        if [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]]; then
            text+=" $word"
        elif [[ $word =~ ^([A-Z_]+)=(.*)$ ]]; then
            text+=" ${BASH_REMATCH[1]}=${BASH_REMATCH[2]@Q}"
        else
            text+=" ${word@Q}"
        fi
    done
    printf '%s' "${text# }"
}
