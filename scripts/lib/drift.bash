# What was written to a database since its baseline: to X since the dump, to Y
# since migrations left it.
#   work_dir/y-TIME.digest.json, y-TIME.rows    the baseline of Y

# drift_base WHICH: where its baseline is, into REPLY; false when there is none.
drift_base() {
    REPLY=${SETTING[work_dir]}/$1${BACKUP#x}
    [[ -f $REPLY.digest.json && -f $REPLY.rows ]]
}

# drift_of WHICH: as text by table and key, into REPLY; empty is good.
drift_of() {
    digest "$1" "$SCRATCH/$1.json"
    drift_compare "$1"
}

# drift_compare WHICH: the same, for the digest in SCRATCH/WHICH.json.
drift_compare() {
    local base
    drift_base "$1" || unknown "the baseline $REPLY.digest.json is gone, so nobody can tell what was written to database $(db_label "$1")"
    base=$REPLY
    digest_compare drift "$base.digest.json" "$SCRATCH/$1.json"
    [[ -z $REPLY ]] || drift_keys "$1" "$base.rows"
}

# drift_keys WHICH ROWS: adds the keys to what digest_compare found.
drift_keys() {
    local which=$1 rows=$2 tables
    tables=$(jq -r '.[].table' "$SCRATCH/differences.json")
    run_long digest_rows_child "$which" "$SCRATCH/rows" "$tables" || exit
    # What only the second has comes after a tab.
    comm -3 "$rows" "$SCRATCH/rows" | jq -R --slurpfile tables "$SCRATCH/differences.json" -n '
        [inputs | {new: startswith("\t"), row: (ltrimstr("\t") | fromjson)} | {new, table: .row[0], key: .row[1]}]
        | group_by(.table) | map({key: .[0].table, value: (group_by(.key) | map({key: (.[0].key | ltrimstr("(") | rtrimstr(")")),
            what: (map(.new) | unique | if length == 2 then "changed" elif .[0] then "added" else "removed" end)})
            | group_by(.what) | map({key: .[0].what, value: map(.key)}) | from_entries)}) | from_entries as $keys
        | $tables[0] | map(. + ($keys[.table] // {}))' >"$SCRATCH/named" \
        || failed "the rows of database $(db_label "$which") could not be compared with those of the dump"
    mv -- "$SCRATCH/named" "$SCRATCH/differences.json"
    differences_text
}

# baseline_y: what migrations left in Y, before CP Y is started on it.
baseline_y() {
    local base
    drift_base y && return
    base=$REPLY
    baseline y "$base.tmp"
    sync -- "$base.tmp.rows" "$base.tmp.digest.json"
    mv -- "$base.tmp.rows" "$base.rows"
    mv -- "$base.tmp.digest.json" "$base.digest.json"
}

baseline_y_forget() {
    local REPLY
    drift_base y || true
    rm -f -- "$REPLY".{digest.json,rows}
}
