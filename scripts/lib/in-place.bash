# The strategy in-place: CP X is stopped, and Y migrates its database and goes on
# with it. The dump taken in between is the way back.
#   work_dir/x-node.json     what CP X, and the table of its DPs, said before it was stopped
#   work_dir/in-place.json   written before "kong migrations up": from then on
#                            the dump it names is all there is of X

IN_PLACE=
IN_PLACE_READ=
IN_PLACE_DUMP=
IN_PLACE_STARTED=
X_STOPPED=
declare -A X_KNOWN=()

# A DP that lost its CP comes back within 10 s.
readonly PLANE_RETRY=12

## cp in-place
##     Stop CP X, migrate its database, start CP Y on it, quarantined; open the gate.
##     Freezes admin writes, stops CP X, dumps its database, runs "kong migrations
##     up", starts CP Y and compares. The DPs of X go on with what they have. Until
##     "kong migrations up" X is untouched; after it "cp rollback" restores the dump.
##     Across a major version (--force major) "kong migrations finish" is run at once.
cmd_cp_in_place() {
    no_more_arguments "$@"
    settings_load
    need_strategy in-place
    need_upgrade
    local finish=
    in_place_warnings
    ! in_place_crosses || finish=' and finishes'
    confirm "this freezes admin writes to shift ${SETTING[shift]}, stops CP X and migrates$finish its database ${SETTING[x.db.name]}; \
both warnings are understood"
    work_dir_open in_place
}

in_place() {
    step 1/8 preflight phase_preflight
    step 2/8 freeze    phase_freeze
    step 3/8 stop      phase_stop_x
    step 4/8 backup    phase_backup
    step 5/8 migrate   phase_migrate
    step 6/8 start     phase_start
    step 7/8 verify    phase_verify
    step 8/8 open      phase_open
    say "CP Y ($Y_VERSION) is up on the database of CP X ($X_VERSION), which is stopped. Attach one DP of Y, look at it, then: kong-shift weight 1"
    in_place_warnings
}

## cp stop
##     Stop CP X, and see that nothing of it is left on the database (in-place only).
cmd_cp_stop() {
    no_more_arguments "$@"
    settings_load
    need_strategy in-place
    need_upgrade
    confirm "this stops CP X: its DPs go on with the configuration they have"
    work_dir_open step 1/1 stop phase_stop_x
}

# Also said by plan, and once more at the end of the run.
in_place_warning_list() {
    if in_place_crosses; then
        cat <<EOF2
CP Y ($Y_VERSION) refuses the DPs of X ($X_VERSION, another major version), and there is no CP X for them any more: they go on with the configuration they have
across a major version "kong migrations finish" is run at once, after "up": only restoring the dump brings X back, "kong-shift cp rollback" does it
EOF2
        return
    fi
    cat <<EOF2
keep the cluster port of CP Y closed to the DPs of X until CP Y is validated: a CP Y that has it sends its configuration to all of them at once
"kong-shift cp finish" removes the way back to X, but for restoring the dump: run it only when every pool has been on Y for long
EOF2
}

in_place_warnings() {
    local line
    while IFS= read -r line; do
        warn "!!! $line"
    done < <(in_place_warning_list)
}

# need_strategy NAME: the settings must mean this one.
need_strategy() {
    [[ $STRATEGY != "$1" ]] || return 0
    if [[ $1 = in-place ]]; then
        die "$EXIT_USAGE" "$OPT_CONFIG: y.db.* is another database than x.db.*, so this is a dual-cluster upgrade; \
\"kong-shift $COMMAND\" is for in-place: leave out y.db.host, y.db.port and y.db.name"
    fi
    die "$EXIT_USAGE" "$OPT_CONFIG: y.db.* is the database of X, so this is an in-place upgrade; \
\"kong-shift $COMMAND\" is for dual-cluster: set y.db.name to the name of a new database"
}

# in_place_begun: "up" was begun, or is about to be.
in_place_begun() {
    [[ $STRATEGY = in-place && -e ${SETTING[work_dir]}/in-place.json ]]
}

# in_place_dump: the dump that X is in; it must be there, and whole.
in_place_dump() {
    backup_need
    in_place_read
    [[ $IN_PLACE_DUMP = "$BACKUP" ]] || failed "${SETTING[work_dir]}/in-place.json names dump ${IN_PLACE_DUMP:-none}, \
backup.json names $BACKUP: nothing is done without the dump of X; put the right backup.json back"
    [[ $(backup_sha256 "$DUMP") = "$BACKUP_SHA256" ]] || failed \
        "the dump $DUMP is not what was written (other checksum): nothing is done without it"
}

# in_place_read: what in-place.json says, into IN_PLACE_DUMP and IN_PLACE_STARTED.
in_place_read() {
    local file=${SETTING[work_dir]}/in-place.json
    [[ ! $IN_PLACE_READ || $(<"$file") != "$IN_PLACE_READ" ]] || return 0
    { read -r IN_PLACE_DUMP; read -r IN_PLACE_STARTED; } < <(jq -r '.dump // "", .started // ""' "$file" 2>/dev/null) || true
    IN_PLACE_READ=$(<"$file")
}

# What must be known of CP X once it is stopped, and to be put back as it was.
in_place_remember() {
    local file=${SETTING[work_dir]}/x-node.json
    X_KNOWN=()
    rm -f -- "$SCRATCH/saved.x"
    printf '%s' "$HTTP_BODY" >"$SCRATCH/x.root"
    planes_read x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$REPLY" >"$SCRATCH/x.planes"
    jq -n --slurpfile root "$SCRATCH/x.root" --slurpfile planes "$SCRATCH/x.planes" --arg encoding "$(database_encoding)" \
        '{root: $root[0], planes: $planes[0], $encoding, heartbeats: {}}' | save "$file"
}

# x_known NAME: of what was remembered, what is asked for most: user (of CP X on its
# database), alive (the DPs it had) and count (of those).
x_known() {
    if (( ${#X_KNOWN[@]} == 0 )); then
        { IFS= read -r 'X_KNOWN[user]'; IFS= read -r 'X_KNOWN[alive]'; read -r 'X_KNOWN[count]'; } < <(x_saved '(.root.configuration.pg_user // ""),
            (.planes | map(select(.verdict != "stale") | .id) | join(" "), length)') || X_KNOWN=()
    fi
    REPLY=${X_KNOWN[$1]-}
}

# x_saved FILTER: of what was remembered; empty when there is nothing.
x_saved() {
    jq -r "($1) // empty" "${SETTING[work_dir]}/x-node.json" 2>/dev/null || true
}

# node_says WHICH: GET / of a node into HTTP_BODY; for a CP X that this upgrade
# has stopped, what it said before.
node_says() {
    X_STOPPED=
    ! node_up "$1" || return 0
    [[ $1 = x && $STRATEGY = in-place && -s ${SETTING[work_dir]}/x-node.json ]] || return 1
    X_STOPPED=1
    [[ -s $SCRATCH/saved.x ]] || x_saved .root >"$SCRATCH/saved.x"
    HTTP_BODY=$(<"$SCRATCH/saved.x")
    kong_node x
}

phase_stop_x() {
    versions_known
    node_cache on x
    if node_up x; then
        ! in_place_begun || refuse "\"kong migrations up\" of Y was begun on the database of X, but CP X ($KONG_VERSION) answers at \
x.admin ${SETTING[x.admin]}; stop it, two versions on one database harm it"
        kong_admin_is x "$X_VERSION"
        in_place_remember
        # The dump that counts must be of after the stop.
        rm -f -- "${SETTING[work_dir]}/backup.json"
        node_stop x
    else
        [[ -s ${SETTING[work_dir]}/x-node.json ]] || unknown "x.admin ${SETTING[x.admin]} does not answer ($HTTP_ERROR), \
and this upgrade has not stopped it; start CP X, its listeners and DPs must be known"
        STEP_RESULT='already down'
    fi
    node_cache off
    if ! in_place_begun; then
        in_place_alone
        heartbeats >"$SCRATCH/heartbeats"
        jq --slurpfile now "$SCRATCH/heartbeats" '.heartbeats = $now[0]' "${SETTING[work_dir]}/x-node.json" >"$SCRATCH/x-node"
        save "${SETTING[work_dir]}/x-node.json" <"$SCRATCH/x-node"
    fi
    x_known alive
    evidence dps "$REPLY"
}

# When each DP was seen last, to the microsecond: who is seen again has a CP.
heartbeats() {
    sql_row x <<'SQL'
SELECT coalesce(json_object_agg(id, extract(epoch FROM last_seen)), '{}') FROM clustering_data_planes;
SQL
}

# in_place_alone: no Kong has a session on the database.
in_place_alone() {
    local others begun=$SECONDS
    x_known user
    while :; do
        others=$(sql_row x kong="$REPLY" y="${SETTING[y.db.user]}" <<'SQL'
SELECT coalesce(string_agg(DISTINCT format('%s (%s, pid %s)', usename, coalesce(host(client_addr), 'local'), pid), ', '), '-')
FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name <> 'kong-shift'
    AND usename IN (current_user, :'kong', :'y');
SQL
        )
        [[ $others != - ]] || return 0
        # A node that was just stopped may take a moment to be gone.
        (( SECONDS - begun < 5 )) || break
        sleep 0.2
    done
    refuse "CP X does not answer, but database $(db_label x) is in use by $others; stop every node of X (x.stop), then run it again"
}

# in_place_inspect: how far "up" came, into IN_PLACE: before, half or migrated.
in_place_inspect() {
    IN_PLACE=before
    in_place_begun || return 0
    in_place_dump
    kong_schema y
    case $REPLY in
        current | pending) IN_PLACE=migrated ;;
        half | new)
            in_place_untouched || IN_PLACE=half ;;
        *)  unknown "\"kong migrations list\" of y.kong says $REPLY for database $(db_label y): $(log_says "$KONG_LOG")" ;;
    esac
}

# in_place_untouched: everything but what expires or counts is as it was dumped.
in_place_untouched() {
    digest x "$SCRATCH/x.json"
    digest_compare untouched "$BASELINE" "$SCRATCH/x.json"
    [[ -z $REPLY ]]
}

in_place_half() {
    refuse "\"kong migrations up\" was begun on database $(db_label y), but neither came to its end nor left it as it was ($REPLY); \
never run it twice: \"kong-shift cp rollback\" restores dump $BACKUP and starts CP X"
}

in_place_migrate() {
    in_place_inspect
    case $IN_PLACE in
        half)     in_place_half ;;
        migrated) STEP_RESULT='kept' ;;
        *)        in_place_up ;;
    esac
    in_place_finish
    migrate_unlocked
    baseline_y
    verify_migrated
    evidence pending "$(migrate_pending)"
}

in_place_up() {
    local state
    versions_known
    backup_need
    ! node_up x || refuse "CP X still answers at x.admin ${SETTING[x.admin]}; run \"kong-shift cp stop\" first"
    in_place_alone
    kong_ahead '' y migrations list
    in_place_quiet
    migrate_unlocked
    kong_schema y
    state=$REPLY
    [[ $state = @(current|new) ]] || failed \
        "\"kong migrations list\" of y.kong says $state for database $(db_label y): $(log_says "$KONG_LOG")"
    [[ $(backup_sha256 "$DUMP") = "$BACKUP_SHA256" ]] || failed "the dump $DUMP is not what was written (other checksum)"

    baseline_y_forget
    json_object dump "$BACKUP" run "$RUN"
    save "${SETTING[work_dir]}/in-place.json" <<<"$REPLY"
    # CP X is down; what Y does to the database it must be able to.
    revoke_lift
    if [[ $state = new ]]; then
        migrate_run up 'current|pending' \
            "never run it twice: \"kong-shift cp rollback\" restores dump $BACKUP and starts CP X"
    else
        STEP_RESULT='nothing to migrate'
    fi
}

# in_place_crosses: X and Y are known to differ in the major version.
in_place_crosses() {
    if ! ( versions_known ) 2>/dev/null; then
        rm -f -- "$SCRATCH/error"
        return 1
    fi
    versions_known
    [[ $STRATEGY = in-place && ${X_VERSION%%.*} != "${Y_VERSION%%.*}" ]]
}

# The DPs of Y refuse what only "finish" rewrites, and no DP of X hangs on CP Y:
# across a major version there is nothing to wait for.
in_place_finish() {
    versions_known
    in_place_crosses && [[ $(migrate_pending) != none ]] || return 0
    baseline_y_forget
    migrate_run finish current "\"kong-shift cp rollback\" restores dump $BACKUP and starts CP X"
    migrate_read_back
    STEP_RESULT='done'
}

# The dump is of what is there now, and no other CP X hears from DPs.
in_place_quiet() {
    local seen
    [[ $BACKUP_SOURCE = "$(db_identity x "${SETTING[x.db.name]}")" ]] || refuse \
        "the dump $BACKUP is not of database $(db_label x); run \"kong-shift cp backup\" first"
    drift_of x
    [[ -z $REPLY ]] || refuse \
        "database $(db_label x) was written to after dump $BACKUP: $REPLY; run \"kong-shift cp backup\" again, then this"
    heartbeats >"$SCRATCH/heartbeats"
    seen=$(jq -rn --slurpfile x "${SETTING[work_dir]}/x-node.json" --slurpfile now "$SCRATCH/heartbeats" \
        '[$now[0] | to_entries[] | select(.value != $x[0].heartbeats[.key]) | .key] | join(", "), "end"')
    [[ $seen = *$'\n'end ]] || unknown "the heartbeats of the DPs of X could not be compared; run \"kong-shift cp stop\" again"
    seen=${seen%$'\n'end}
    [[ -z $seen ]] || refuse \
        "CP X does not answer, but DPs were heard since: $seen; another node of X is at work, stop it (x.stop), then run it again"
}

in_place_may_start() {
    in_place_inspect
    case $IN_PLACE in
        half)   in_place_half ;;
        before) refuse "database $(db_label y) is not migrated yet; run \"kong-shift cp migrate\" first" ;;
    esac
    ! node_up x || refuse \
        "CP X ($KONG_VERSION) answers at x.admin ${SETTING[x.admin]}; stop it, two versions on one database harm it"
}
