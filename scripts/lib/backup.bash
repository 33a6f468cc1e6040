# The dump of X and, of the very same snapshot, the digest of every table: the
# baseline that both the copy and X itself are held to from then on.
#   work_dir/x-TIME.dump            pg_dump -Fc
#   work_dir/x-TIME.digest.json     the baseline
#   work_dir/backup.json            which of them counts, written last

BACKUP=
BACKUP_SHA256=
BACKUP_SOURCE=
DUMP=
BASELINE=
readonly DUMP_OPTIONS=(-Fc -w --lock-wait-timeout=60s)

## cp backup
##     Dump the database of X into work_dir, with a digest of the same snapshot.
##     A dump that is still exactly what X holds is kept.
cmd_cp_backup() {
    no_more_arguments "$@"
    settings_load
    work_dir_open step 1/1 backup phase_backup
}

phase_backup() {
    local dir=${SETTING[work_dir]} identity id

    # After "up" of in-place there is no X but that in the dump.
    if in_place_begun; then
        in_place_dump
        STEP_RESULT='kept'
        evidence dump "$BACKUP"
        return
    fi
    identity=$(db_identity x "${SETTING[x.db.name]}")
    if backup_load && backup_is_good "$identity"; then
        STEP_RESULT='kept'
        evidence dump "$BACKUP"
        return
    fi

    id=x-$(now %Y%m%dT%H%M%SZ)
    rm -f -- "$dir"/x-*.tmp
    backup_take "$dir/$id.dump.tmp" "$dir/$id.digest.json.tmp"
    pg_restore -l "$dir/$id.dump.tmp" >"$SCRATCH/list" 2>"$SCRATCH/list.err" \
        || failed "the dump cannot be read back: $(log_says "$SCRATCH/list.err")"
    [[ $(<"$SCRATCH/list") =~ TABLE\ DATA\ [^$'\n']*\ schema_meta\  ]] \
        || failed "the dump holds no data of schema_meta, so it is not a whole Kong database"

    sync -- "$dir/$id.dump.tmp" "$dir/$id.digest.json.tmp"
    mv -- "$dir/$id.dump.tmp" "$dir/$id.dump"
    mv -- "$dir/$id.digest.json.tmp" "$dir/$id.digest.json"
    jq -n --arg id "$id" --arg source "$identity" --arg sha256 "$(backup_sha256 "$dir/$id.dump")" \
        '{$id, $source, $sha256}' | save "$dir/backup.json"
    backup_load || failed "$dir/backup.json does not say what was just written to it"
    evidence dump "$BACKUP"
    evidence sha256 "$BACKUP_SHA256"
    say "      $DUMP, $(stat -c %s -- "$DUMP") bytes"
}

# backup_load: false when there is none yet.
backup_load() {
    local dir=${SETTING[work_dir]} fields
    [[ -f $dir/backup.json ]] || return 1
    fields=$(jq -r '.id, .sha256, .source' "$dir/backup.json" 2>/dev/null) || return 1
    { read -r BACKUP; read -r BACKUP_SHA256; IFS= read -r BACKUP_SOURCE; } <<<"$fields" || return 1
    DUMP=$dir/$BACKUP.dump BASELINE=$dir/$BACKUP.digest.json
    [[ -f $DUMP && -f $BASELINE ]]
}

backup_sha256() {
    local sum
    sum=$(sha256sum <"$1")
    [[ $sum =~ ^[0-9a-f]{64}\  ]] || failed "sha256sum of $1 printed no sum"
    printf '%s' "${sum%% *}"
}

# backup_is_good IDENTITY: of this database, undamaged, and X has not changed since.
backup_is_good() {
    [[ $BACKUP_SOURCE = "$1" && $(backup_sha256 "$DUMP") = "$BACKUP_SHA256" ]] || return 1
    drift_of_x
    [[ -z $REPLY ]]
}

# drift_of_x [WHICH FILE]: what changed in X since the baseline, into REPLY; empty
# is good. With the digest of another database made at the same time.
drift_of_x() {
    digest x "$SCRATCH/x.json" "$@"
    digest_compare drift "$BASELINE" "$SCRATCH/x.json"
}

# backup_take DUMP DIGEST: both from one snapshot. The session that exports it
# must stay open until pg_dump has taken it over, so that session starts pg_dump.
backup_take() {
    local dump=$1 digest=$2 status

    run_long backup_session "$dump" "$digest.lines"
    status=$(cat "$SCRATCH/dump.status" 2>/dev/null) || true
    [[ $status = 0 ]] || failed \
        "pg_dump of database $(db_label x) ended with ${status:-no result}: $(log_says "$SCRATCH/dump.err")"
    jq -se 'if any(.[]; .table == "schema_meta") then . else error end' "$digest.lines" >"$digest" \
        || failed "the digest of database $(db_label x) is not readable"
    rm -f -- "$digest.lines"
}

backup_session() {
    export KONG_SHIFT_DUMP=$1 KONG_SHIFT_SCRATCH=$SCRATCH
    # The empty files are what is read if pg_dump is never reached.
    : >"$SCRATCH/dump.err"
    rm -f -- "$SCRATCH/dump.status"
    { backup_sql; digest_sql; echo 'COMMIT;'; } | sql x >"$2"
}

backup_sql() {
    cat <<SQL
BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;
SET LOCAL idle_in_transaction_session_timeout = 0;
SELECT pg_export_snapshot() AS snapshot \\gset
\\setenv KONG_SHIFT_SNAPSHOT :snapshot
\\! pg_dump ${DUMP_OPTIONS[*]} --snapshot="\$KONG_SHIFT_SNAPSHOT" -f "\$KONG_SHIFT_DUMP" >"\$KONG_SHIFT_SCRATCH/dump.err" 2>&1; echo \$? >"\$KONG_SHIFT_SCRATCH/dump.status"
SQL
}
