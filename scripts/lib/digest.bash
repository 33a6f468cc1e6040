# Digests of a whole database, to tell whether two are the same and whether one
# was written to. One line of JSON per table, all of one snapshot:
#   rows, all    every row, every column: what a dump must carry over
#   kept, same   without the rows that expire by themselves: what only an admin changes
#   keys         the primary keys of those: what a migration must not lose
# and one line per kind of object beside the tables.

# Written by a control plane on its own, so neither compared after the dump nor
# watched for drift. The first three are of no use to another control plane at
# all and are emptied in the copy.
readonly DB_PURGED=(clustering_data_planes cluster_events locks)
readonly DB_VOLATILE=("${DB_PURGED[@]}" clustering_rpc_requests clustering_sync_version clustering_sync_delta
    ratelimiting_metrics response_ratelimiting_metrics sessions oauth2_tokens oauth2_authorization_codes
    acme_storage)

# Tables that a migration removes, their content having moved elsewhere.
readonly DB_REPLACED=(ttls vaults_beta)

# The SQL runs within a repeatable-read transaction. How a row reads as text
# depends on the session, hence the settings. The digests of the rows are added
# up, so that neither the order of rows nor the size of a table matters.
digest_sql() {
    cat <<'SQL'
SET LOCAL statement_timeout = 0;
SET LOCAL search_path = pg_catalog;
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 3;
SET LOCAL bytea_output = 'hex';

WITH tables AS (
    SELECT c.oid, n.nspname, c.relname,
        (SELECT string_agg(format('kong_shift_row.%I', a.attname), ',' ORDER BY array_position(i.indkey::int2[], a.attnum))
            FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
            WHERE i.indrelid = c.oid AND i.indisprimary) AS key,
        (SELECT string_agg(format('kong_shift_row.%I IS NULL', a.attname), ' AND ')
            FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname IN ('ttl', 'expire_at') AND NOT a.attisdropped) AS lasting
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
        AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
), expiring AS (
    SELECT coalesce(string_agg(quote_literal(relname), ','), '''''') AS names FROM tables WHERE lasting IS NOT NULL
)
SELECT format($f$
    SELECT json_build_object('table', %L, 'rows', count(*), 'kept', count(*) FILTER (WHERE lasting),
        'all', concat_ws(':', sum(row1), sum(row2)),
        'same', concat_ws(':', sum(row1) FILTER (WHERE lasting), sum(row2) FILTER (WHERE lasting)),
        'keys', concat_ws(':', sum(key1) FILTER (WHERE lasting), sum(key2) FILTER (WHERE lasting)))
    FROM (SELECT lasting,
            ('x' || left(row_digest, 16))::bit(64)::bigint AS row1, ('x' || right(row_digest, 16))::bit(64)::bigint AS row2,
            ('x' || left(key_digest, 16))::bit(64)::bigint AS key1, ('x' || right(key_digest, 16))::bit(64)::bigint AS key2
        FROM (SELECT md5(kong_shift_row::text) AS row_digest, md5(ROW(%s)::text) AS key_digest, %s AS lasting
            FROM %I.%I AS kong_shift_row OFFSET 0) AS digests) AS halves
    $f$,
    CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END || relname,
    coalesce(key, 'kong_shift_row'),
    -- Triggers keep one row in tags for each row of the others.
    coalesce(lasting, CASE relname WHEN 'tags' THEN format('kong_shift_row.entity_name NOT IN (%s)', names) END, 'true'),
    nspname, relname)
FROM tables, expiring ORDER BY relname
\gexec

SELECT json_build_object('object', kind, 'rows', count(*), 'all', md5(string_agg(def, E'\n' ORDER BY def)))
FROM (
    SELECT 'indexes' AS kind, indexdef AS def FROM pg_indexes
        WHERE schemaname NOT LIKE 'pg\_%'
    UNION ALL
    SELECT 'constraints', conrelid::regclass || ' ' || conname || ' ' || pg_get_constraintdef(c.oid)
        FROM pg_constraint c JOIN pg_namespace n ON n.oid = connamespace
        WHERE conrelid <> 0 AND nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
    UNION ALL
    SELECT 'columns', format('%s.%s %s %s %s %s', table_schema, table_name, column_name, data_type, is_nullable, column_default)
        FROM information_schema.columns WHERE table_schema NOT LIKE 'pg\_%' AND table_schema <> 'information_schema'
    UNION ALL
    SELECT 'triggers', pg_get_triggerdef(oid) FROM pg_trigger WHERE NOT tgisinternal
    UNION ALL
    SELECT 'functions', nspname || '.' || proname || ' ' || coalesce(md5(prosrc), '')
        FROM pg_proc p JOIN pg_namespace n ON n.oid = pronamespace
        WHERE nspname NOT LIKE 'pg\_%' AND nspname <> 'information_schema'
) AS objects GROUP BY kind;
SQL
}

# digest WHICH FILE [WHICH FILE]: of the database, or of two at once, as it is now.
digest() {
    # Whoever asks whether something holds has switched "set -e" off for us.
    run_long digest_children "$@" || exit
    while (( $# > 0 )); do
        jq -s . "$2.lines" >"$2" || failed "the digest of database $(db_label "$1") is not readable"
        shift 2
    done
}

digest_children() {
    local child children=() status=0
    while (( $# > 0 )); do
        digest_child "$1" "$2.lines" &
        children+=("$!")
        shift 2
    done
    for child in "${children[@]}"; do
        # Once one has failed nobody waits for the other.
        (( status == 0 )) || kill_tree "$child" || true
        wait "$child" || status=$?
    done
    return "$status"
}

digest_child() {
    { echo 'BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;'; digest_sql; echo 'COMMIT;'; } | sql "$1" >"$2"
}

# digest_compare HOW BEFORE AFTER: the differences, into REPLY; empty is good.
# HOW is exact (all of it), untouched (all but what a control plane writes on its
# own), drift (all that only an admin changes) or migrated (tables and keys of
# what there was before).
digest_compare() {
    local list
    # The last word proves that jq came to the end; silence would pass for equality.
    list=$(jq -rn --arg how "$1" --slurpfile before "$2" --slurpfile after "$3" \
        --argjson volatile "$(jq -nc '$ARGS.positional' --args "${DB_VOLATILE[@]}" \
            "$([[ $1 != migrated ]] || echo schema_meta)")" \
        --argjson replaced "$(jq -nc '$ARGS.positional' --args "${DB_REPLACED[@]}")" '
        def indexed: map({key: (.table // .object), value: .}) | from_entries;
        def watched: $how == "exact" or ($how == "untouched" and .object != null) or
            (.table != null and (.table | split(".") | last | IN($volatile[]) | not));

        def difference($x; $y):
            if $y == null then
                if $how == "migrated" and ($x.rows == 0 or (.table | IN($replaced[]))) then empty
                else "is missing (had \($x.rows) rows)" end
            elif $x == null then
                if $how == "migrated" then empty else "is new (\($y.rows) rows)" end
            elif $how == "exact" or $how == "untouched" then
                if $x.rows != $y.rows then "has \($y.rows) instead of \($x.rows)"
                elif $x.all != $y.all then "differs in content"
                else empty end
            elif $x.kept != $y.kept then "has \($y.kept) rows instead of \($x.kept)"
            elif $x.keys != $y.keys then "has other primary keys"
            elif $how == "drift" and $x.same != $y.same then "has changed rows"
            else empty end;

        ($before[0] | indexed) as $b | ($after[0] | indexed) as $a
        | ($b + $a | to_entries[] | .key as $name | .value | select(watched)
            | "\($name) \(difference($b[$name]; $a[$name]))"), "end"')
    [[ $list = *end ]] || failed "two digests could not be compared"
    list=${list%end}
    REPLY=${list%$'\n'}
    REPLY=${REPLY//$'\n'/; }
}

# digest_rewritten BEFORE AFTER: tables whose content a migration changed.
digest_rewritten() {
    jq -rn --slurpfile before "$1" --slurpfile after "$2" '
        ($after[0] | map({key: (.table // ""), value: .}) | from_entries) as $a
        | [$before[0][] | select(.table != null and .rows > 0 and $a[.table] != null and $a[.table].same != .same) | .table]
        | join(", ")'
}
