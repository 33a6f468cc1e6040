# The declarative backup: "kong config db_export" of X, beside the dump. A second
# copy that people can read; only the dump is restored.
#   work_dir/x-TIME.yml

EXPORT=

## cp export
##     Write the configuration of X as declarative YAML, beside the dump.
##     By "kong config db_export" of X, read back by "kong config parse". With
##     "export = on" the step backup does it too. It may fail on a large database.
cmd_cp_export() {
    no_more_arguments "$@"
    settings_load
    need x.kong
    work_dir_open step 1/1 export phase_export
}

phase_export() {
    backup_need
    ! in_place_begun || refuse "the database of X is migrated, so X cannot export it any more"
    drift_of x
    [[ -z $REPLY ]] || refuse "database $(db_label x) was written to since dump $BACKUP: $REPLY; run \"kong-shift cp backup\" again"
    guard_run export
    evidence export "$(<"$SCRATCH/found")"
}

# The dump was just taken, or found to be what X holds.
guard_export() {
    local file=${SETTING[work_dir]}/$BACKUP.yml tmp=${SETTING[work_dir]}/$BACKUP.tmp.yml status=0
    if [[ ! -s $file ]]; then
        # It overwrites nothing, and leaves a part behind when it fails. What it is to
        # parse must end in .yml.
        rm -f -- "$tmp"
        mkdir -p -- "$KONG_HOME/prefix-x"
        PROGRESS_BY=export_progress EXPORT=$tmp
        kong x config db_export "$tmp" || status=$?
        PROGRESS_BY=
        export_check "$tmp" "$status"
        mv -- "$tmp" "$file"
        sync -- "$file" "${SETTING[work_dir]}"
    fi
    found "$file, $(stat -c %s -- "$file") bytes"
}

# export_check FILE STATUS: what the exit code says is not enough.
export_check() {
    local says
    says=$(log_says "$KONG_LOG")
    [[ ! -e $1 ]] || chmod 600 -- "$1"
    if (( $2 != 0 )); then
        rm -f -- "$1"
        failed "\"kong config db_export\" of X ended with $2: $says; Kong is known to fail so on large databases, and the dump \
$BACKUP is whole without it: set export = off, or insist: --force export"
    fi
    [[ -s $1 ]] || failed "\"kong config db_export\" of X wrote no $1: $says; where x.kong runs elsewhere, work_dir must be seen there \
under the same name; or set export = off"
    kong x config parse "$1" || failed "\"kong config parse\" of X does not take what it exported: $(log_says "$KONG_LOG")"
}

export_progress() {
    local bytes
    bytes=$(stat -c %s -- "$EXPORT" 2>/dev/null) || bytes=
    REPLY="kong config db_export: $(mebibytes "${bytes:-0}")"
}
