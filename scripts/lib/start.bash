# The nodes: CP Y is started; CP X is stopped, and started again, in-place only.

## cp start
##     Start CP Y on its database and wait until it answers.
cmd_cp_start() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    work_dir_open step 1/1 start phase_start
}

phase_start() {
    versions_known
    if [[ $STRATEGY = in-place ]]; then
        node_cache on
        in_place_may_start
    else
        node_cache on x
        migrate_need
        [[ $TARGET_STATE != restored ]] || refuse \
            "database $(db_label y) is not migrated yet; run \"kong-shift cp migrate\" first"
    fi

    if node_up y; then
        kong_admin_is y "$Y_VERSION"
        STEP_RESULT='already up'
    else
        if [[ $STRATEGY = in-place ]]; then
            quarantine_guard
        else
            target_mark started
        fi
        node_start y
    fi
    evidence version "$KONG_VERSION"
    evidence database "$KONG_DATABASE_NAME"
    node_cache on x y
    [[ $STRATEGY != in-place ]] || quarantine_of_running
    node_cache off
}

# node_words WHICH start|stop: the command, into WORDS.
node_words() {
    local which=$1 action=$2
    if [[ ${SETTING[$which.$action]-} ]]; then
        split_words "${SETTING[$which.$action]}"
        return
    fi
    [[ ${SETTING[$which.prefix]-} ]] \
        || refuse "there is neither $which.$action nor $which.prefix in $OPT_CONFIG to $action CP ${which^} with; set one of them"
    split_words "${SETTING[$which.kong]}"
    if [[ $action = stop ]]; then
        WORDS+=(quit -p "${SETTING[$which.prefix]}")
        return
    fi
    WORDS+=(start -p "${SETTING[$which.prefix]}")
    [[ -z ${SETTING[$which.conf]-} ]] || WORDS+=(-c "${SETTING[$which.conf]}")
}

# node_up WHICH: the node answers. Where both have one URL, as in-place they
# may, its version tells which of them it is.
node_up() {
    local version
    kong_admin "$1" || return 1
    [[ $STRATEGY = in-place && ${SETTING[x.admin]} = "${SETTING[y.admin]}" ]] || return 0
    versions_known
    [[ $1 = x ]] && version=$X_VERSION || version=$Y_VERSION
    [[ $KONG_VERSION != "$version"* ]] || return 0
    HTTP_ERROR="it is Kong $KONG_VERSION"
    return 1
}

node_start() {
    local which=$1 version status=0 begun=$SECONDS
    [[ $which = x ]] && version=$X_VERSION || version=$Y_VERSION

    node_cache off
    log_name "$which-start"
    node_words "$which" start
    kong_run "$which" '' "${WORDS[@]}" || status=$?
    (( status == 0 )) || failed \
        "starting CP ${which^} ended with $status: $(log_says "$KONG_LOG"); log: $KONG_LOG"

    until node_up "$which"; do
        (( SECONDS - begun < SETTING[start_timeout] )) || failed "CP ${which^} was started, but $which.admin \
${SETTING[$which.admin]} does not answer within ${SETTING[start_timeout]} s: $HTTP_ERROR; log: $KONG_LOG"
        progress "waiting for CP ${which^} to answer"
        sleep 0.2
    done
    kong_admin_is "$which" "$version"
}

node_stop() {
    local which=$1 status=0 begun=$SECONDS

    node_cache off
    log_name "$which-stop"
    node_words "$which" stop
    kong_run "$which" '' "${WORDS[@]}" || status=$?
    while node_up "$which"; do
        (( SECONDS - begun < SETTING[start_timeout] )) || failed \
            "CP ${which^} does not stop (exit code $status): $(log_says "$KONG_LOG")"
        progress "waiting for CP ${which^} to end"
        sleep 0.2
    done
}
