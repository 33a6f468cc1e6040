# Kong's own migrations on the copy. Their exit codes are 0 for much that was
# not done, so what counts is the state read afterwards.

## cp migrate
##     Run "kong migrations up" and "finish" of Y on the database of Y.
cmd_cp_migrate() {
    no_more_arguments "$@"
    settings_load
    need lb y.kong y.db.name
    work_dir_open step 1/1 migrate phase_migrate
}

phase_migrate() {
    if [[ $STRATEGY = in-place ]]; then
        in_place_migrate
        return
    fi
    migrate_need
    migrate_unlocked
    kong_schema y
    if [[ $TARGET_STATE != restored && $REPLY = current ]]; then
        baseline_y
        verify_migrated
        STEP_RESULT='kept'
        return
    fi
    [[ $TARGET_STATE != started ]] || refuse \
        "CP Y was started on database $(db_label y), but \"kong migrations list\" of y.kong says $REPLY for it: \
$(log_says "$KONG_LOG"); stop CP Y, rename or drop that database and run it again"
    [[ $REPLY = @(current|new) ]] || failed \
        "\"kong migrations list\" of y.kong says $REPLY for the fresh copy $(db_label y): $(log_says "$KONG_LOG")"
    target_mark migrating
    baseline_y_forget
    if [[ $REPLY = new ]]; then
        migrate_run up 'current|pending'
    fi
    migrate_run finish current
    migrate_read_back
    baseline_y
    verify_migrated
    target_mark migrated
}

# migrate_need: the copy is of the dump that counts, and ready.
migrate_need() {
    backup_need
    target_inspect
    [[ $TARGET = ours && $TARGET_BACKUP = "$BACKUP" && $TARGET_STATE = @(restored|migrated|started) ]] || refuse \
        "database $(db_label y) does not hold the dump $BACKUP; run \"kong-shift cp restore\" first"
}

# Kong waits for a lock as long as lock_timeout, that is for an hour.
migrate_unlocked() {
    local owner
    owner=$(sql_row y <<'SQL'
SELECT coalesce(string_agg(owner, ', '), '-') FROM locks WHERE key = 'migrations' AND ttl > now();
SQL
    )
    [[ $owner = - ]] || refuse "database $(db_label y) is locked for migrations by $owner: nobody else may work on it; \
wait for that node, or delete the row of table locks if it is dead"
}

# migrate_run WORD GOOD [WAY_ON]: GOOD is a pattern of states allowed afterwards.
migrate_run() {
    local word=$1 good=$2 way=${3:-X is untouched, run it again to begin with a fresh copy} status=0 log

    WORDS=()
    migrate_words "$word"
    kong y "${WORDS[@]}" || status=$?
    log=$KONG_LOG
    evidence "$word.log" "$log"
    evidence "$word.exit" "$status"
    (( status == 0 )) || failed \
        "\"kong migrations $word\" on database $(db_label y) ended with $status: $(log_says "$log"); $way; log: $log"

    kong_schema y
    [[ $REPLY = @($good) ]] || failed \
        "\"kong migrations $word\" on database $(db_label y) ended with 0, but the state afterwards is $REPLY; it said: \
$(log_says "$log"); $way; log: $log"
    # Another node at work on the same database, whatever it came to.
    ! grep -q -i 'aborted' -- "$log" || failed \
        "\"kong migrations $word\" on database $(db_label y) said: $(grep -m 1 -i 'aborted' -- "$log"); find that node and stop it; $way; log: $log"
    evidence "$word.state" "$REPLY"
}

# migrate_words WORD: added to WORDS.
migrate_words() {
    WORDS+=(migrations "$1" --db-timeout "${SETTING[db_timeout]}" --lock-timeout "${SETTING[lock_timeout]}")
}

# migrate_pending: what "finish" would still do, as the tables themselves say.
migrate_pending() {
    sql_row y <<'SQL'
SELECT coalesce(string_agg(subsystem || ': ' || array_to_string(pending, ', '), '; ' ORDER BY subsystem), 'none')
FROM schema_meta WHERE cardinality(pending) > 0;
SQL
}

# What the tables themselves say, without any kong in between.
migrate_read_back() {
    local row
    row=$(sql_row y <<'SQL'
SELECT coalesce((SELECT string_agg(subsystem, ' ') FROM schema_meta WHERE cardinality(pending) > 0), ''),
    (SELECT string_agg(subsystem || ' ' || coalesce(last_executed, '?'), ', ' ORDER BY subsystem)
        FROM schema_meta WHERE subsystem = 'core');
SQL
    )
    [[ $row = '|'* ]] || failed \
        "database $(db_label y) still has pending migrations in schema_meta: ${row%%|*}"
    migrate_unlocked
    evidence schema "${row#*|}"
}
