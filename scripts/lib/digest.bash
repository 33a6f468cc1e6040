# Digests of a whole database, to tell whether two are the same and whether one
# was written to. One line of JSON per table, as psql prints it, all of one snapshot:
#   rows, all    every row, every column: what a dump must carry over
#   kept, same   without the rows that expire by themselves: what only an admin changes
#   keys         the primary keys of those: what a migration must not lose
#   names        of its columns
#   columns      each column of those, where asked for: what a migration must not change
#   stamp        place and transaction of those: while it is the same nothing was written,
#                of this one database, and nobody has to read what is in the rows
# and one line per kind of object beside the tables.

DIGEST_HASH=
DIGEST_FIRST=

# Written by a control plane on its own, so neither compared after the dump nor
# watched for drift. The first three are of no use to another control plane at
# all and are emptied in the copy.
readonly DB_PURGED=(clustering_data_planes cluster_events locks)
readonly DB_VOLATILE=("${DB_PURGED[@]}" clustering_rpc_requests clustering_sync_version clustering_sync_delta
    ratelimiting_metrics response_ratelimiting_metrics sessions oauth2_tokens oauth2_authorization_codes
    acme_storage)

# Columns that migrations of Kong are known to rewrite: regex paths get their "~"
# (3.0), plugins their new fields (3.0, 3.6 and later).
readonly DB_REWRITTEN=(routes.paths plugins.config)

# Tables that a migration removes, their content having moved elsewhere.
readonly DB_REPLACED=(ttls vaults_beta)

# The SQL runs within a repeatable-read transaction. How a value reads as text
# depends on the session, hence the settings. The digests of the rows are added
# up, so that neither the order of rows nor the size of a table matters.
digest_session_sql() {
    printf '\\set hash %s\n\\set first %s\n' "${DIGEST_HASH:?}" "'$DIGEST_FIRST'"
    cat <<'SQL'
SET LOCAL statement_timeout = 0;
SET LOCAL search_path = pg_catalog;
SET LOCAL TimeZone = 'UTC';
SET LOCAL DateStyle = 'ISO';
SET LOCAL IntervalStyle = 'postgres';
SET LOCAL extra_float_digits = 3;
SET LOCAL bytea_output = 'hex';
SQL
}

# digest_ways: what hashes a row, into DIGEST_HASH: "record", which servers older than 14
# cannot, when both can; else "text". Into DIGEST_FIRST half of the tables. For those who
# are about to start children that digest, which must agree on both.
digest_ways() {
    local which
    [[ ! $DIGEST_HASH ]] || return 0
    for which in x y-admin; do
        server_facts "$which"
        (( FACTS[0] >= 140000 )) || DIGEST_HASH=text
        [[ $which != x ]] || DIGEST_FIRST=${FACTS[5]-}
    done
    DIGEST_HASH=${DIGEST_HASH:-record}
}

# The tables: label, name as SQL takes it, which half of all of them it is in, columns of
# the primary key, the condition for rows that do not expire by themselves, and what
# hashes a row, its key and its stamp. A hash of a row alone is a sum over its columns;
# hashed once more, rows that trade a value do not add up to the same. What has no hash
# of its own, or a weak one, is hashed as text.
digest_tables_sql() {
    cat <<'SQL'
WITH found AS (
    SELECT c.oid, n.nspname, c.relname,
        (SELECT string_agg(format('(kong_shift_row).%I', a.attname), ',' ORDER BY array_position(i.indkey::int2[], a.attnum))
            FROM pg_index i JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum = ANY (i.indkey::int2[])
            WHERE i.indrelid = c.oid AND i.indisprimary) AS key,
        (SELECT string_agg(format('kong_shift_row.%I IS NULL', a.attname), ' AND ')
            FROM pg_attribute a
            WHERE a.attrelid = c.oid AND a.attname IN ('ttl', 'expire_at') AND NOT a.attisdropped) AS lasting
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition
        AND n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema'
), expiring AS (
    SELECT coalesce(string_agg(quote_literal(relname), ','), quote_literal('')) AS names FROM found WHERE lasting IS NOT NULL
), hashes AS (
    SELECT CASE :'hash' WHEN 'record' THEN 'hashint8extended(hash_record_extended(ROW(%s), 0), 0)'
        ELSE 'hashtextextended(ROW(%s)::text COLLATE "C", 0)' END AS hash
), labels AS (
    SELECT oid, format('%I.%I', nspname, relname) AS name,
        CASE nspname WHEN 'public' THEN '' ELSE nspname || '.' END || relname AS label,
        coalesce(key, 'kong_shift_row') AS key,
        -- Triggers keep one row in tags for each row of the others.
        coalesce(lasting, CASE relname WHEN 'tags' THEN format('kong_shift_row.entity_name NOT IN (%s)', names) END, 'true') AS lasting,
        (SELECT string_agg(CASE WHEN format_type(atttypid, NULL) IN ('uuid', 'text', 'character varying', 'smallint', 'integer', 'bigint',
                    'boolean', 'timestamp with time zone', 'timestamp without time zone', 'text[]', 'uuid[]')
                THEN format('(kong_shift_row).%I', attname) ELSE format('(kong_shift_row).%I::text COLLATE "C"', attname) END, ',' ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = found.oid AND attnum > 0 AND NOT attisdropped) AS columns,
        (SELECT md5(string_agg(attname, ',' ORDER BY attnum)) FROM pg_attribute
            WHERE attrelid = found.oid AND attnum > 0 AND NOT attisdropped) AS names
    FROM found, expiring
), tables AS (
    SELECT labels.*, CASE WHEN label = ANY (string_to_array(:'first', ',')) THEN 0 ELSE 1 END AS half, format(hash, columns) AS row_hash,
        format(hash, CASE key WHEN 'kong_shift_row' THEN columns ELSE key END) AS key_hash,
        format(hash, 'kong_shift_row.tableoid, kong_shift_row.ctid, kong_shift_row.xmin') AS stamp_hash
    FROM labels, hashes
)
SQL
}

# digest_sql HALF [TABLES]: of half of the tables, of the second also the objects; of TABLES,
# a list with commas, or all, also a digest of each column, seeded with the key of
# the row: to compare by when columns came or went.
digest_sql() {
    digest_session_sql
    printf "\\\\set half %d\\n\\\\set columns '%s'\\n" "$1" "${2-}"
    digest_tables_sql
    cat <<'SQL'
SELECT format($f$
    SELECT json_build_object('table', %L, 'rows', count(*), 'kept', count(*) FILTER (WHERE lasting),
        'all', sum(row1)::text, 'same', (sum(row1) FILTER (WHERE lasting))::text, 'keys', (sum(key1) FILTER (WHERE lasting))::text,
        'stamp', (sum(stamp1) FILTER (WHERE lasting))::text, 'names', %L%s)
    FROM (SELECT %s%s AS row1, %s AS key1, %s AS stamp1, %s AS lasting FROM %s AS kong_shift_row OFFSET 0) AS digests
    $f$, label, names, digests, CASE WHEN digests IS NOT NULL THEN 'kong_shift_row,' END, row_hash, key_hash, stamp_hash, lasting, name)
FROM tables LEFT JOIN LATERAL (
    SELECT format(', ''columns'', json_object(ARRAY[%s]::text[], ARRAY[%s]::text[])', string_agg(quote_literal(attname), ','),
        string_agg(format(CASE :'hash' WHEN 'record' THEN 'coalesce(sum(hash_record_extended(ROW(%s), key1)) FILTER (WHERE lasting), 0)'
            ELSE 'coalesce(sum(hashtextextended(%s::text COLLATE "C", key1)) FILTER (WHERE lasting), 0)' END, item), ',')) AS digests
    FROM (SELECT attname, CASE WHEN format_type(atttypid, NULL) IN ('uuid', 'text', 'bigint', 'integer', 'boolean', 'timestamp with time zone')
            THEN format('(kong_shift_row).%I', attname) ELSE format('(kong_shift_row).%I::text COLLATE "C"', attname) END AS item
        FROM pg_attribute WHERE attrelid = tables.oid AND attnum > 0 AND NOT attisdropped) AS items
    HAVING :'columns' = 'all' OR label = ANY (string_to_array(:'columns', ','))) AS c ON true
WHERE half = :half
ORDER BY label
\gexec

SELECT :half = 1 AS objects \gset
\if :objects
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
\endif
SQL
}

# stamp_sql: only what tells whether anything was written.
stamp_sql() {
    digest_session_sql
    digest_tables_sql
    cat <<'SQL'
SELECT format($f$
    SELECT json_build_object('table', %L, 'rows', count(*), 'kept', count(*) FILTER (WHERE lasting),
        'stamp', (sum(stamp1) FILTER (WHERE lasting))::text)
    FROM (SELECT %s AS stamp1, %s AS lasting FROM %s AS kong_shift_row OFFSET 0) AS stamps
    $f$, label, stamp_hash, lasting, name)
FROM tables ORDER BY label
\gexec
SQL
}

# digest_rows_sql: the rows behind the digests, a line of JSON each: table, key,
# digest. psql's :tables are the labels wanted, a line each, or empty for all;
# :volatile is left out.
digest_rows_sql() {
    digest_session_sql
    digest_tables_sql
    cat <<'SQL'
SELECT format($f$SELECT %L || %s || ',"' || to_hex(%s) || '"]' FROM %s AS kong_shift_row WHERE %s$f$, '[' || to_json(label) || ',',
    -- A row without a key may hold anything, so it is not for showing.
    CASE key WHEN 'kong_shift_row' THEN format($f$'"' || to_hex(%s) || '"'$f$, row_hash) ELSE format('to_json(ROW(%s)::text)', key) END,
    row_hash, name, lasting)
FROM tables
WHERE (:'tables' = '' OR label = ANY (string_to_array(:'tables', E'\n')))
    AND substring(label FROM '[^.]*$') <> ALL (string_to_array(:'volatile', ' '))
\gexec
SQL
}

# digest WHICH FILE [WHICH FILE]: of the database, or of two at once, as it is now.
digest() { digest_all digest_child "$@"; }

# stamps WHICH FILE [WHICH FILE]: only those.
stamps() { digest_all stamps_child "$@"; }

digest_all() {
    digest_ways
    # Whoever asks whether something holds has switched "set -e" off for us.
    run_long digest_children "$@" || exit
    shift
    while (( $# > 0 )); do
        digest_keep "$1" "$2"
        shift 2
    done
}

# digest_children FUNCTION WHICH FILE [WHICH FILE]
digest_children() {
    local function=$1
    shift
    while (( $# > 0 )); do
        child "$function" "$1" "$2"
        shift 2
    done
    children_wait
}

stamps_child() {
    { digest_begin_sql ''; stamp_sql; echo 'COMMIT;'; } | sql "$1" >"$2.lines"
}

# digest_child WHICH FILE [TABLES [SNAPSHOT]]: in two sessions, the second processor is idle.
digest_child() {
    child digest_half 0 "$@"
    child digest_half 1 "$@"
    children_wait || return
    cat -- "$2.lines.0" "$2.lines.1" >"$2.lines"
    rm -f -- "$2.lines."[01]
}

digest_half() {
    { digest_begin_sql "${5-}"; digest_sql "$1" "${4-}"; echo 'COMMIT;'; } | sql "$2" >"$3.lines.$1"
}

# digest_rows_child WHICH FILE TABLES [SNAPSHOT]
digest_rows_child() {
    { digest_begin_sql "${4-}"; digest_rows_sql; echo 'COMMIT;'; } \
        | sql "$1" tables="$3" volatile="${DB_VOLATILE[*]}" >"$2"
}

digest_begin_sql() {
    echo 'BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY;'
    [[ -z $1 ]] || printf "SET TRANSACTION SNAPSHOT '%s';\n" "$1"
}

# digest_keep WHICH FILE: from here on FILE is whole. Every database of Kong has that
# table, and the objects come last.
digest_keep() {
    { grep -q '"table" : "schema_meta"' -- "$2.lines" && [[ $(tail -n 1 -- "$2.lines") = *'}' ]]; } \
        || failed "the digest of database $(db_label "$1") is not readable"
    mv -- "$2.lines" "$2"
}

# digest_compare HOW BEFORE AFTER: the differences, as text into REPLY; empty is
# good; as a list of table and what it says into differences.json.
# HOW is exact (all of it), stamp (nothing written that only an admin writes), untouched (all but what a control plane writes on its
# own), drift (all that only an admin changes) or migrated (tables and keys of
# what there was before).
digest_compare() {
    jq -n --arg how "$1" --slurpfile before "$2" --slurpfile after "$3" \
        --argjson volatile "$(json_list "${DB_VOLATILE[@]}" "$([[ $1 != migrated ]] || echo schema_meta)")" \
        --argjson replaced "$(json_list "${DB_REPLACED[@]}")" '
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
            elif $how == "stamp" then if $x.stamp != $y.stamp then "has changed rows" else empty end
            elif $x.keys != $y.keys then "has other primary keys"
            elif $how == "drift" and $x.same != $y.same then "has changed rows"
            else empty end;

        ($before | indexed) as $b | ($after | indexed) as $a
        | [$b + $a | to_entries[] | .key as $name | .value | select(watched)
            | {table: $name, says: difference($b[$name]; $a[$name])}]' >"$SCRATCH/differences.json" \
        || failed "two digests could not be compared"
    differences_text
}

# differences_text: differences.json as text, into REPLY.
differences_text() {
    REPLY=
    [[ $(<"$SCRATCH/differences.json") != '[]' ]] || return 0
    # The last word proves that jq came to the end; silence would pass for equality.
    REPLY=$(jq -r 'def keys($what): .[$what] // [] | if . == [] then empty
            else "\($what) " + (.[:5] | join(" ")) + if length > 5 then " and \(length - 5) more" else "" end end;
        map([keys("added", "removed", "changed")] as $keys
            | "\(.table) \(.says)" + if $keys == [] then "" else " (\($keys | join(", ")))" end) | join("; "), "end"' \
        "$SCRATCH/differences.json")
    [[ $REPLY = *$'\n'end ]] || failed "two digests could not be compared"
    REPLY=${REPLY%$'\n'end}
}

# digest_changed BEFORE AFTER: the tables that are not what they were, but for what a
# control plane writes: "-LINE", what the rows of BEFORE begin with that are no longer
# so, "+NAME" what is to be read instead, "!NAME" where columns can be compared too.
digest_changed() {
    digest_both "$1" "$2" '
        def changed($others): select(.table != null and (.table | split(".") | last | IN($volatile[]) | not) or .table == "schema_meta")
            | select([.kept, .same, .names] != ($others[.table] // {} | [.kept, .same, .names])) | .table;
        ($pairs | map(.before.table)) as $columns
        | ($after[] | changed($b) | if IN($columns[]) then "!" + . else "+" + . end),
            ($before[] | changed($a) | "-[\(tojson),")' -r
}

# digest_columns BEFORE AFTER: what migrations changed in columns that both have,
# and columns that are gone, as JSON: column, and whether it is known that they do.
digest_columns() {
    digest_both "$1" "$2" '[$pairs[] | .before.table as $table | .after.columns as $now | .before.columns | to_entries[]
        | .key as $key | select($now[$key] != .value) | "\($table).\($key)" as $column
        | {column: $column, gone: ($now | has($key) | not), known: ($column | IN($known[]))}]'
}

# digest_both BEFORE AFTER FILTER [OPTION]...: FILTER sees $pairs of changed tables, and
# all of both by name as $b and $a.
digest_both() {
    local before=$1 after=$2 filter=$3
    shift 3
    jq -n "$@" --slurpfile before "$before" --slurpfile after "$after" --argjson known "$(json_list "${DB_REWRITTEN[@]}")" \
        --argjson volatile "$(json_list "${DB_VOLATILE[@]}" schema_meta)" '
        def named: map({key: (.table // ""), value: .}) | from_entries;
        ($before | named) as $b | ($after | named) as $a
        | [$before[] | select(.table != null and .kept > 0 and (.table | split(".") | last | IN($volatile[]) | not))
            | {before: ., after: $a[.table]} | select(.after != null and (.before | [.same, .names]) != (.after | [.same, .names]))] as $pairs
        | '"$filter"
}

# json_list WORD...: names of ours, which need no escaping, as JSON.
json_list() {
    local list
    printf -v list ',"%s"' "$@"
    printf '[%s]' "${list:1}"
}
