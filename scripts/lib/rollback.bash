# The way back, from wherever the upgrade stands. Dual-cluster X was only ever
# read, so it is enough to take everything of Y out of the way. In-place the
# database of Y is that of X, and once "up" was begun only the dump is X.

## cp rollback
##     Undo "cp dual-cluster" or "cp in-place", however far it came: back to X alone.
##     Takes all traffic off the new pool, closes the gate, stops CP Y, keeps its
##     database under another name; in-place restores the dump and starts CP X;
##     looks at X, and allows admin writes again. Nothing is deleted. After a
##     failure the same command goes on.
cmd_cp_rollback() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    local database="renames database ${SETTING[y.db.name]}"
    if [[ $STRATEGY = in-place ]]; then
        database='starts CP X'
        ! in_place_begun || database="renames database ${SETTING[y.db.name]}, restores the dump of X in its place, starts CP X"
    fi
    confirm "this sends everything to the old pool, stops CP Y, $database and allows admin writes"
    work_dir_open rollback
}

rollback() {
    if [[ $STRATEGY = in-place ]]; then
        rollback_in_place
        return
    fi
    step 1/6 abort    phase_abort
    step 2/6 close    phase_close
    step 3/6 stop     phase_stop
    step 4/6 rename   phase_rename
    step 5/6 check-x  phase_check_x
    step 6/6 unfreeze phase_unfreeze
    say "CP X ($X_VERSION) is all there is again. To try once more: kong-shift cp dual-cluster"
}

rollback_in_place() {
    step 1/7 abort     phase_abort
    step 2/7 close     phase_close
    step 3/7 stop      phase_stop
    step 4/7 restore-x phase_restore_x
    step 5/7 start-x   phase_start_x
    step 6/7 check-x   phase_check_x
    step 7/7 unfreeze  phase_unfreeze
    say "CP X ($X_VERSION) is all there is again. To try once more: kong-shift cp in-place"
}

# One that does not answer must not keep the others from turning back; but
# nothing else is undone while somebody may still send requests to Y.
phase_abort() {
    rollback_old_pool
    lb_abort_all
    (( REPLY == 0 )) || die "$REPLY" \
        "not every load balancer was aborted, and CP Y must not go while requests go to its DPs; mend that and run it again"
    lb_read_all
    lb_all effective 0 || unknown \
        "every load balancer was aborted, but ${LBS[*]} do not all say that nothing goes to the new pool; somebody else sets the weight, run it again"
}

# Everything is about to go to the old pool, which must be able to serve it. When
# nothing goes elsewhere nothing changes; "abort" asks none of this.
rollback_old_pool() {
    local bad fresh
    status_read
    holds "$STATUS" '.weight.effective != null and .weight.effective == 0' && return
    versions_known
    if [[ $STRATEGY = in-place ]]; then
        rollback_config_changed
        return
    fi
    if ! planes_read x; then
        insist old-pool "CP X does not answer ($HTTP_ERROR), so nobody can tell whether its DPs can take everything; if they are \
better than what serves now: kong-shift abort, which asks nothing"
        return
    fi
    fresh=$(jq 'map(select(.verdict == "fresh")) | length' <<<"$REPLY")
    bad=$(planes_text 'select(.verdict != "fresh")')
    rollback_config_changed
    if [[ $bad && $fresh = 0 ]]; then
        insist old-pool "no DP of CP X is in order, and everything would go to them: $bad; if they are better than what serves now: \
kong-shift abort, which asks nothing"
    elif [[ $bad ]]; then
        warn "CP X: $bad; the others of the old pool have to take everything"
    elif [[ $fresh = 0 ]]; then
        warn "CP X has no DP, so nothing is known of the old pool"
    fi
}

# DPs of X that hang on CP Y got its configuration: moving requests to them does
# not bring back that of X.
rollback_config_changed() {
    local changed before='[]'
    if ! planes_read y; then
        warn "CP Y does not answer, so nobody can tell whether DPs of the old pool have its configuration: $HTTP_ERROR"
        return
    fi
    [[ $STRATEGY != in-place ]] || before=$(x_saved .planes)
    changed=$(jq -r --arg y "$Y_VERSION" --argjson before "${before:-[]}" '[.[] | select(.version | startswith($y) | not)
        | select(.verdict != "stale") | select(.config_hash as $hash | .id as $id | any($before[]; .id == $id and .config_hash == $hash) | not)
        | "\(.hostname) (\(.id))"] | join(", ")' <<<"$REPLY")
    [[ -z $changed ]] || warn "X also changed configuration: $changed of the old pool hang on CP Y and have what it sent; moving \
requests to them does not bring back that of X, only CP X does, once they hang on it again"
}

phase_close() {
    lb_read_all
    if lb_all gate closed off; then
        STEP_RESULT='already closed'
        return
    fi
    lb_put_all gate '{"state":"closed"}' .state '"closed"'
}

phase_stop() {
    if ! node_up y; then
        STEP_RESULT='already down'
        return
    fi
    [[ $KONG_DATABASE_NAME = "${SETTING[y.db.name]}" ]] || refuse \
        "y.admin ${SETTING[y.admin]} works on database $KONG_DATABASE_NAME, not on ${SETTING[y.db.name]}, so it is not CP Y and is left alone; mend y.admin"
    if [[ $STRATEGY = in-place ]]; then
        versions_known
        kong_admin_is y "$Y_VERSION"
    fi
    rollback_planes
    node_stop y
}

# Stopping CP Y harms no DP at once, but those of X would stay on what they have.
rollback_planes() {
    local moved back='set their cluster_control_plane to CP X and reload them, or they get no configuration any more'
    versions_known
    [[ $STRATEGY != in-place ]] || back="they come back to CP X by themselves if it has its old address, else $back"
    if ! planes_read y; then
        warn "the DPs of CP Y are unknown: $HTTP_ERROR"
        return
    fi
    moved=$(jq -r --arg x "$X_VERSION" '[.[] | select(.verdict != "stale" and .version == $x) | "\(.hostname) (\(.id))"] | join(", ")' \
        <<<"$REPLY")
    evidence planes.of.y "$(jq -r 'map(select(.verdict != "stale") | .id) | join(" ")' <<<"$REPLY")"
    [[ -z $moved ]] || warn \
        "DPs of version $X_VERSION hang on CP Y: $moved; $back"
}

phase_rename() {
    target_inspect
    case $TARGET in
        absent)  STEP_RESULT='there is none'; return ;;
        empty)   STEP_RESULT='empty, left as it is'; return ;;
        foreign) STEP_RESULT="not of kong-shift's making, left as it is"; return ;;
    esac
    rollback_writes
    target_unused "must be put aside"
    if (( ! TARGET_MAY_CREATE )); then
        # Renaming takes the same right.
        warn "role ${SETTING[y.db.admin]} may not rename database ${SETTING[y.db.name]}: it keeps its name; rename or drop it yourself before the next attempt"
        STEP_RESULT='kept under its name'
        return
    fi
    target_rename "${SETTING[y.db.name]:0:40}-$(now %Y%m%dT%H%M%SZ)"
}

# In-place: before "up" there is nothing to be done, after it no other way. What a
# run before this one left half done is thrown away, but never the database itself.
phase_restore_x() {
    if ! in_place_begun; then
        STEP_RESULT='not needed, "kong migrations up" was never begun'
        return
    fi
    in_place_dump
    target_inspect
    if [[ $TARGET = ours && $TARGET_BACKUP = "$BACKUP" && $TARGET_STATE = restoring ]]; then
        target_unused "must be made anew"
        target_drop
        TARGET=absent
    elif [[ $TARGET = @(ours|foreign) ]]; then
        target_unused "must be put aside"
        if in_place_untouched; then
            rollback_unlock
            rollback_forget
            STEP_RESULT="not needed, as it was at dump $BACKUP"
            return
        fi
        rollback_compare
        target_rename "${SETTING[y.db.name]:0:40}-$(now %Y%m%dT%H%M%SZ)"
        TARGET=absent
    fi
    [[ $TARGET != absent ]] || target_create
    target_mark restoring
    restore_run
    digest y "$SCRATCH/y.json"
    restore_compare
    target_unmark
    rollback_forget
    evidence dump "$BACKUP"
}

# Nobody is on the database any more, so who holds the lock is dead.
rollback_unlock() {
    local row
    row=$(sql_row x <<'SQL'
WITH gone AS (DELETE FROM locks WHERE key = 'migrations' RETURNING owner)
SELECT count(*) || ' ' || coalesce(string_agg(owner, ', '), '') FROM gone;
SQL
    )
    [[ ${row%% *} = 0 ]] || evidence unlocked "${row#* }"
}

rollback_forget() {
    rm -f -- "${SETTING[work_dir]}/in-place.json"
    sync -- "${SETTING[work_dir]}"
}

phase_start_x() {
    versions_known
    if node_up x; then
        kong_admin_is x "$X_VERSION"
        STEP_RESULT='already up'
    else
        node_start x
    fi
    rm -f -- "${SETTING[work_dir]}/x-node.json"
}

# Only what was migrated can have been written to by anybody.
rollback_writes() {
    [[ $TARGET_STATE = started ]] && backup_load && [[ $TARGET_BACKUP = "$BACKUP" ]] || return 0
    rollback_compare
}

rollback_compare() {
    drift_base y || return 0
    drift_of y
    [[ -z $REPLY ]] || {
        evidence written.to.y "$REPLY"
        warn "CP Y took admin writes that X does not have, and that stay in the renamed database only: $REPLY"
    }
}

# Admin writes are allowed only to an X that can take them.
phase_check_x() {
    versions_known
    kong_admin x || unknown \
        "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR; start CP X, then run \"kong-shift cp rollback\" again to allow admin writes"
    kong_admin_is x "$X_VERSION"
    guard_migrations
    evidence x "$X_VERSION"
    if backup_load && [[ $BACKUP_SOURCE = "$(db_identity x "${SETTING[x.db.name]}")" ]]; then
        drift_of x
        STEP_RESULT="as it was at dump $BACKUP"
        if [[ $REPLY ]]; then
            STEP_RESULT="written to since dump $BACKUP: $REPLY"
            warn "database $(db_label x) was $STEP_RESULT"
        fi
    fi
}
