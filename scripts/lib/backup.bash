# The dump of X and, of the very same snapshot, the digest of every table: the
# baseline that both the copy and X itself are held to from then on.
#   work_dir/x-TIME.dump            pg_dump -Fc; with jobs a folder, pg_dump -Fd
#   work_dir/x-TIME.digest.json     the baseline, and of each row
#   work_dir/x-TIME.rows            its key and its digest
#   work_dir/backup.json            which of them counts, written last

BACKUP=
BACKUP_READ=
BACKUP_SHA256=
BACKUP_SOURCE=
BACKUP_PROVED=
DUMP=
BASELINE=
# Microseconds, from the first look to the baseline, in which nobody may write.
readonly QUIET_WINDOW=250000

## cp backup
##     Dump the database of X into work_dir, with a digest of the same snapshot.
##     A dump that is still exactly what X holds is kept. The dump is restored once,
##     into a database that is made for it, compared and dropped again; "cp
##     dual-cluster" leaves that to its own restore.
cmd_cp_backup() {
    no_more_arguments "$@"
    settings_load
    work_dir_open step 1/1 backup phase_backup
}

phase_backup() {
    local identity

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
    else
        backup_make "$identity"
    fi
    evidence dump "$BACKUP"
    evidence sha256 "$BACKUP_SHA256"
    if [[ ${SETTING[export]} = on ]]; then
        guard_run export
        evidence export "$(<"$SCRATCH/found")"
    fi
    test_restore
}

backup_make() {
    local dir=${SETTING[work_dir]} id part
    backup_quiet_begin
    id=x-$(now %Y%m%dT%H%M%SZ)
    rm -rf -- "$dir"/x-*.tmp.*
    backup_take "$dir/$id.tmp"
    backup_quiet "$dir/$id.tmp"
    for part in dump digest.json rows; do
        rm -rf -- "$dir/$id.$part"
        mv -- "$dir/$id.tmp.$part" "$dir/$id.$part"
    done
    backup_save "$id" "$1" "$(backup_sha256 "$dir/$id.dump")" ''
    say "      $DUMP, $(backup_bytes) bytes"
}

# A first look; the baseline is the second. With the freeze on there must be
# no write between them. In-place CP X is stopped, and the second look comes right
# before "kong migrations up".
backup_quiet_begin() {
    local until left
    if (( ${#LBS[@]} > 0 )); then
        lb_read_all
        ! lb_all freeze on || freeze_drained
    fi
    [[ $STRATEGY != in-place ]] || return 0
    until=$(( ${EPOCHREALTIME/[.,]/} + QUIET_WINDOW ))
    stamps x "$SCRATCH/quiet.json"
    left=$(( until - ${EPOCHREALTIME/[.,]/} ))
    (( left <= 0 )) || sleep "$(( left / 1000000 )).$(printf %06d $(( left % 1000000 )))"
}

# backup_quiet BASE
backup_quiet() {
    [[ $STRATEGY != in-place ]] || return 0
    digest_compare stamp "$SCRATCH/quiet.json" "$1.digest.json"
    [[ -n $REPLY ]] || return 0
    rm -rf -- "$1".*
    failed "database $(db_label x) was written to while it was about to be dumped: $REPLY; \
somebody writes past the freeze, or there is none: end that, then run it again"
}

# backup_save ID SOURCE SHA256 PROVED
backup_save() {
    local file=${SETTING[work_dir]}/backup.json
    json_object id "$1" source "$2" sha256 "$3" proved "$4"
    save "$file" <<<"$REPLY"
    BACKUP_READ=$REPLY BACKUP=$1 BACKUP_SOURCE=$2 BACKUP_SHA256=$3 BACKUP_PROVED=$4
    backup_load || failed "$file does not say what was just written to it"
}

# backup_proved HOW: it was restored, and compared.
backup_proved() {
    [[ $BACKUP_PROVED ]] || backup_save "$BACKUP" "$BACKUP_SOURCE" "$BACKUP_SHA256" "$1"
}

# backup_load: false when there is none yet.
backup_load() {
    local dir=${SETTING[work_dir]} fields
    [[ -f $dir/backup.json ]] || return 1
    # Every step asks, and for most it is what it was.
    if [[ ! $BACKUP_READ || $(<"$dir/backup.json") != "$BACKUP_READ" ]]; then
        BACKUP_READ=
        fields=$(jq -r '.id, .sha256, .source, .proved // ""' "$dir/backup.json" 2>/dev/null) || return 1
        { read -r BACKUP; read -r BACKUP_SHA256; IFS= read -r BACKUP_SOURCE; IFS= read -r BACKUP_PROVED || true; } <<<"$fields" || return 1
        BACKUP_READ=$(<"$dir/backup.json")
    fi
    DUMP=$dir/$BACKUP.dump BASELINE=$dir/$BACKUP.digest.json
    [[ -e $DUMP && -f $BASELINE && -f $dir/$BACKUP.rows ]]
}

# backup_sha256 DUMP: of a folder, that of the sums of its files. It is asked for before
# each thing that cannot be undone; meanwhile it is only read again when it was touched.
backup_sha256() {
    local sum known touched
    known=$SCRATCH/sha256.${1##*/}
    touched=$(find "$1" -printf '%p %i %s %T@ %C@\n' | sort)
    if [[ -s $known && $(tail -n +2 -- "$known") = "$touched" ]]; then
        head -n 1 -- "$known"
        return
    fi
    if [[ -d $1 ]]; then
        sum=$(cd -- "$1" && sha256sum -- * | sha256sum)
    else
        sum=$(sha256sum <"$1")
    fi
    [[ $sum =~ ^[0-9a-f]{64}\  ]] || failed "sha256sum of $1 printed no sum"
    printf '%s\n' "${sum%% *}" "$touched" >"$known"
    printf '%s' "${sum%% *}"
}

backup_bytes() {
    du -sb -- "$DUMP" 2>/dev/null | cut -f 1
}

# backup_is_good IDENTITY: of this database, undamaged, and X has not changed since.
backup_is_good() {
    [[ $BACKUP_SOURCE = "$1" && $(backup_sha256 "$DUMP") = "$BACKUP_SHA256" ]] || return 1
    drift_of x
    [[ -z $REPLY ]]
}

# backup_take BASE: BASE.dump, BASE.digest.json and BASE.rows, on the disk.
backup_take() {
    local base=$1 status=0
    DUMP=$base.dump
    digest_ways
    PROGRESS_BY=backup_progress
    run_long backup_session "$base" || status=$?
    PROGRESS_BY=
    if (( status != 0 )); then
        # What is cut short must not take the room that the journal needs.
        rm -rf -- "$base".*
        exit "$status"
    fi
    digest_keep x "$base.digest.json"
    pg_restore -l "$DUMP" >"$SCRATCH/list" 2>"$SCRATCH/list.err" \
        || failed "the dump cannot be read back: $(log_says "$SCRATCH/list.err")"
    [[ $(<"$SCRATCH/list") =~ TABLE\ DATA\ [^$'\n']*\ schema_meta\  ]] \
        || failed "the dump holds no data of schema_meta, so it is not a whole Kong database"
    find "$base".* -exec sync -- {} + || failed "the dump $DUMP cannot be brought to the disk"
}

backup_progress() {
    local bytes
    bytes=$(backup_bytes) || bytes=
    REPLY="pg_dump: $(mebibytes "${bytes:-0}")"
}

# backup_session BASE: dump and baseline side by side, of one snapshot, which is
# there as long as the session that exports it.
backup_session() {
    local base=$1 snapshot='' status=0
    coproc HOLDER { sql x 2>"$SCRATCH/holder"; }
    printf '%s\n' 'BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;' 'SET LOCAL idle_in_transaction_session_timeout = 0;' \
        'SELECT pg_export_snapshot();' >&"${HOLDER[1]}" || true
    IFS= read -r snapshot <&"${HOLDER[0]}" || true
    if [[ -z $snapshot ]]; then
        wait "$HOLDER_PID" || status=$?
        cat -- "$SCRATCH/holder" >&2
        return $(( status ? status : EXIT_UNKNOWN ))
    fi
    child backup_dump "$base.dump" "$snapshot"
    child digest_child x "$base.digest.json" all "$snapshot"
    child digest_rows_child x "$base.rows" '' "$snapshot"
    children_wait
}

# backup_dump FILE SNAPSHOT
backup_dump() {
    local status=0
    dump_words
    with_db x "${WORDS[@]}" --snapshot="$2" -f "$1" >"$SCRATCH/dump.err" 2>&1 || status=$?
    (( status == 0 )) || failed "pg_dump of database $(db_label x) ended with $status: $(log_says "$SCRATCH/dump.err")"
}

dump_words() {
    WORDS=(pg_dump -Fc)
    (( SETTING[jobs] == 1 )) || WORDS=(pg_dump -Fd -j "${SETTING[jobs]}")
    WORDS+=(-w --lock-wait-timeout=60s)
}
