# The dump of X into the database of Y.

RESTORE_ASKED=
RESTORE_SAYS=
TEST_RESTORE=

## cp restore
##     Create the database of Y and fill it with the dump.
cmd_cp_restore() {
    no_more_arguments "$@"
    settings_load
    need lb y.kong y.admin
    need_strategy dual-cluster
    work_dir_open step 1/1 restore phase_restore
}

phase_restore() {
    backup_need
    [[ $(db_identity y-admin "${SETTING[y.db.name]}") != "$BACKUP_SOURCE" ]] || refuse \
        "y.db is the database of X itself (${SETTING[y.db.name]}); choose another y.db.name"
    target_inspect
    case $TARGET in
        foreign) target_refuse ;;
        ours)
            if [[ $TARGET_BACKUP = "$BACKUP" && $TARGET_STATE = @(restored|migrated|started) ]]; then
                STEP_RESULT='kept'
                return
            fi
            target_clear
            target_create
            ;;
        absent)  target_create ;;
    esac

    target_mark restoring
    restore_run
    digest y "$SCRATCH/y.json"
    restore_compare
    backup_proved "restored into $(db_label y)"
    restore_purge
    target_mark restored
    evidence database "$(db_label y)"
    evidence dump "$BACKUP"
}

backup_need() {
    backup_load || refuse "there is no dump in ${SETTING[work_dir]}; run \"kong-shift cp backup\" first"
}

# Not -C: that would restore into the database the archive names, which is X.
# In a single transaction, so that a broken restore leaves nothing behind; with
# jobs there are several, and what they leave is thrown away by the next run.
restore_run() {
    local errors=$SCRATCH/restore.err status=0 name
    name=${SETTING[y.db.name]//\\/\\\\}
    name=${name//\'/\\\'}
    PROGRESS_BY=restore_progress
    run_long restore_child "dbname='$name'" "$errors" || status=$?
    PROGRESS_BY=
    (( status == 0 )) || restore_failed \
        "pg_restore into database $(db_label y) ended with $status: $(log_says "$errors")"
}

restore_child() {
    restore_words "$1"
    with_db y "${WORDS[@]}" >"$2" 2>&1
}

restore_words() {
    WORDS=(pg_restore -w --no-owner --no-privileges --role="${SETTING[y.db.user]}" --exit-on-error)
    if (( SETTING[jobs] == 1 )); then
        WORDS+=(--single-transaction)
    else
        WORDS+=(-j "${SETTING[jobs]}")
    fi
    WORDS+=(-d "$1" "$DUMP")
}

# Asked once a second: it is a session of its own each time.
restore_progress() {
    local bytes
    if (( SECONDS != RESTORE_ASKED )); then
        RESTORE_ASKED=$SECONDS
        bytes=$(with_db y "$PSQL" -XAtqw -c 'SELECT pg_database_size(current_database())' 2>/dev/null) || bytes=
        RESTORE_SAYS="pg_restore: $(mebibytes "${bytes:-0}") in the database"
    fi
    REPLY=$RESTORE_SAYS
}

restore_compare() {
    digest_compare exact "$BASELINE" "$SCRATCH/y.json"
    [[ -z $REPLY ]] || restore_failed "database $(db_label y) is not what was dumped: $REPLY"
}

# A dump that did not restore may be the reason, so the next run takes another.
restore_failed() {
    if [[ $TEST_RESTORE ]]; then
        rm -f -- "${SETTING[work_dir]}/backup.json"
        failed "the dump is no good, a test of it failed: $1; run it again to begin with a fresh dump"
    fi
    if [[ $STRATEGY = in-place ]]; then
        failed "$1; the database that was there is kept under its other name; mend it and run \"kong-shift cp rollback\" again"
    fi
    rm -f -- "${SETTING[work_dir]}/backup.json"
    failed "$1; X is untouched, run it again to begin with a fresh dump"
}

# Data planes Y never met, events it must not act on, locks nobody holds.
restore_purge() {
    local row
    row=$(
        for table in "${DB_PURGED[@]}"; do
            printf "SELECT format('DELETE FROM %%1\$s; SELECT count(*) FROM %%1\$s', name) \
FROM to_regclass('%s') AS name WHERE name IS NOT NULL \\gexec\n" "$table"
        done | sql_row y
    )
    [[ ! $row =~ [^0[:space:]] ]] || failed "database $(db_label y): emptying ${DB_PURGED[*]} left rows: $row"
}

# test_restore: the dump into a database of its own, compared and dropped again.
test_restore() {
    local name=${SETTING[y.db.name]} mark=${SETTING[work_dir]}/test-restore sum
    sum=$(printf '%s %s' "$(uname -n)" "${SETTING[work_dir]}" | sha256sum)
    TEST_RESTORE=1 SETTING[y.db.name]=kong-shift-test-${sum:0:16}
    # The marker is of a run that could not drop it.
    if [[ -e $mark ]]; then
        test_restore_drop
    fi
    if [[ ! $BACKUP_PROVED && $COMMAND != 'cp dual-cluster' ]]; then
        test_restore_run "$mark"
    fi
    TEST_RESTORE='' SETTING[y.db.name]=$name
    evidence proved "${BACKUP_PROVED:-not yet}"
}

test_restore_run() {
    target_inspect
    if [[ $TARGET_MAY_CREATE != 1 ]]; then
        insist test-restore "dump $BACKUP should be restored once to be proved, but role ${SETTING[y.db.admin]} may not create \
a database for that; set y.db.admin"
        return
    fi
    [[ $TARGET = absent ]] || target_drop
    : >"$1"
    sync -- "$1"
    target_create
    restore_run
    digest y "$SCRATCH/y.json"
    restore_compare
    target_drop
    rm -f -- "$1"
    backup_proved "restored into ${SETTING[y.db.name]}"
    say "      the dump was restored once, and is what X held"
}

test_restore_drop() {
    target_inspect
    [[ $TARGET = absent ]] || target_drop
    rm -f -- "${SETTING[work_dir]}/test-restore"
}
