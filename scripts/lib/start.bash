# CP Y, the node.

## cp start
##     Start CP Y on its database and wait until it answers.
cmd_cp_start() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    work_dir_open step 1/1 start phase_start
}

phase_start() {
    [[ $Y_VERSION ]] || { kong_version y; Y_VERSION=$REPLY; }
    migrate_need
    [[ $TARGET_STATE != restored ]] || refuse \
        "database $(db_label y) is not migrated yet; run \"kong-shift cp migrate\" first"

    if kong_admin y; then
        kong_admin_is y "$Y_VERSION"
        STEP_RESULT='already up'
        return
    fi
    target_mark started
    node_start
    evidence version "$KONG_VERSION"
    evidence database "$KONG_DATABASE_NAME"
}

# node_words start|stop: the command, into WORDS.
node_words() {
    if [[ ${SETTING[y.$1]-} ]]; then
        split_words "${SETTING[y.$1]}"
        return
    fi
    [[ ${SETTING[y.prefix]-} ]] \
        || refuse "CP Y must be stopped first: there is neither y.stop nor y.prefix to do it with"
    split_words "${SETTING[y.kong]}"
    if [[ $1 = stop ]]; then
        WORDS+=(quit -p "${SETTING[y.prefix]}")
        return
    fi
    WORDS+=(start -p "${SETTING[y.prefix]}")
    [[ -z ${SETTING[y.conf]-} ]] || WORDS+=(-c "${SETTING[y.conf]}")
}

node_start() {
    local status=0 begun=$SECONDS

    log_name y-start
    node_words start
    kong_run y '' "${WORDS[@]}" || status=$?
    (( status == 0 )) || failed \
        "starting CP Y ended with $status: $(log_says "$KONG_LOG"); log: $KONG_LOG"

    until kong_admin y; do
        (( SECONDS - begun < SETTING[start_timeout] )) || failed \
            "CP Y was started, but y.admin ${SETTING[y.admin]} does not answer within ${SETTING[start_timeout]} s: $HTTP_ERROR; log: $KONG_LOG"
        progress "waiting for CP Y to answer"
        sleep 0.2
    done
    kong_admin_is y "$Y_VERSION"
}

node_stop() {
    local status=0 begun=$SECONDS

    log_name y-stop
    node_words stop
    kong_run y '' "${WORDS[@]}" || status=$?
    while kong_admin y; do
        (( SECONDS - begun < SETTING[start_timeout] )) || failed \
            "CP Y does not stop (exit code $status): $(log_says "$KONG_LOG")"
        progress "waiting for CP Y to end"
        sleep 0.2
    done
}
