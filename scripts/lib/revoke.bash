# freeze = revoke: the role of X loses its rights to write the tables that only
# an admin changes; what a control plane writes by itself goes on.
#   work_dir/revoke.json   the rights that were there, written before any is taken

# Of Kong itself, besides DB_VOLATILE, as migrations and a start need them.
readonly REVOKE_SPARED=(schema_meta parameters)

revoke_file() {
    printf '%s' "${SETTING[work_dir]}/revoke.json"
}

revoke_wanted() {
    [[ ${SETTING[freeze]} = revoke ]]
}

# revoke_recorded: rights were taken, or were about to be.
revoke_recorded() {
    [[ -e ${SETTING[work_dir]}/revoke.json ]]
}

# The tables, as a list of oids: "WITH frozen AS (...)".
revoke_tables_sql() {
    local names
    printf -v names ", '%s'" "${DB_VOLATILE[@]}" "${REVOKE_SPARED[@]}"
    cat <<SQL
WITH frozen AS (
    SELECT c.oid, c.relowner, c.relacl, format('%I.%I', n.nspname, c.relname) AS name
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema'
        AND c.relname NOT IN (${names#, })
)
SQL
}

# guard_freeze: asked by plan too.
guard_freeze() {
    local row
    if ! revoke_wanted; then
        found 'by the module (kong_shift_freeze)'
        return
    fi
    row=$({ revoke_tables_sql; cat <<'SQL'; } | sql_row x
SELECT (SELECT rolsuper FROM pg_roles WHERE rolname = current_user), (SELECT count(*) FROM frozen),
    (SELECT coalesce(string_agg(name, ', '), '-') FROM frozen WHERE pg_get_userbyid(relowner) <> current_user);
SQL
    )
    [[ ${row%%|*} = f ]] || refuse "role ${SETTING[x.db.user]} is a superuser, whom no missing right stops; \
set freeze = module, or let Kong X use a role of its own"
    [[ ${row##*|} = - ]] || refuse "role ${SETTING[x.db.user]} does not own ${row##*|}, so it cannot give up its rights on them; \
set freeze = module, or x.db.user to the owner"
    row=${row#*|}
    if node_says x && [[ ! $X_STOPPED ]]; then
        [[ $(field .configuration.pg_user) = "${SETTING[x.db.user]}" ]] || refuse \
            "CP X works as role $(field .configuration.pg_user), not as ${SETTING[x.db.user]}, whose rights freeze = revoke takes; mend x.db.user"
    fi
    found "by the rights of role ${SETTING[x.db.user]} on ${row%%|*} tables"
}

# revoke_holds: the role may write to none of the tables.
revoke_holds() {
    local row
    row=$({ revoke_tables_sql; cat <<'SQL'; } | sql_row x
SELECT count(*) FROM frozen WHERE has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE');
SQL
    )
    [[ $row = 0 ]]
}

revoke_freeze() {
    # After "up" of in-place the database is Y's, which must be able to write.
    if in_place_begun; then
        STEP_RESULT='not any more, the database is migrated'
        return
    fi
    guard_freeze
    if revoke_recorded && revoke_holds; then
        STEP_RESULT='already on'
    else
        revoke_record
        revoke_run
    fi
    revoke_probe
}

# A record that is there already is of before, so it counts.
revoke_record() {
    local rights identity
    identity=$(db_identity x "${SETTING[x.db.name]}")
    if revoke_recorded; then
        revoke_read "$identity"
        return
    fi
    rights=$({ revoke_tables_sql; cat <<'SQL'; } | sql_row x
SELECT coalesce(json_agg(json_build_object('table', name, 'rights', rights)), '[]') FROM (
    SELECT name, json_agg(acl.privilege_type ORDER BY acl.privilege_type) AS rights
    FROM frozen, aclexplode(coalesce(relacl, acldefault('r', relowner))) AS acl
    WHERE acl.grantee = (SELECT oid FROM pg_roles WHERE rolname = current_user)
        AND acl.privilege_type IN ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE')
    GROUP BY name ORDER BY name) AS held;
SQL
    )
    jq -n --arg database "$identity" --arg role "${SETTING[x.db.user]}" --argjson rights "$rights" \
        '{$database, $role, $rights}' | save "$(revoke_file)"
    revoke_read "$identity"
}

# revoke_read IDENTITY: the record must be of this database, and readable.
revoke_read() {
    jq -e --arg database "$1" --arg role "${SETTING[x.db.user]}" '.database == $database and .role == $role
        and (.rights | length > 0 and all(.[]; (.table | type == "string")
            and (.rights - ["INSERT", "UPDATE", "DELETE", "TRUNCATE"] == [])))' "$(revoke_file)" >/dev/null 2>&1 \
        || failed "$(revoke_file) is not of role ${SETTING[x.db.user]} and database $(db_label x); put the right x.db.* back"
}

# In one transaction: who writes is waited for, and nobody comes in between.
revoke_run() {
    { revoke_tables_sql; cat <<'SQL'; } >"$SCRATCH/lock.sql"
SELECT format('LOCK TABLE %s IN SHARE MODE', string_agg(name, ', ')) FROM frozen 
WHERE has_table_privilege(oid, 'UPDATE, DELETE, TRUNCATE') HAVING count(*) > 0 \gexec
SQL
    { revoke_tables_sql; cat <<'SQL'; } >"$SCRATCH/revoke.sql"
SELECT format('REVOKE INSERT, UPDATE, DELETE, TRUNCATE ON TABLE %s FROM CURRENT_USER', string_agg(name, ', ')) FROM frozen \gexec
SQL
    { revoke_tables_sql; cat <<'SQL'; } >"$SCRATCH/check.sql"
SELECT format($f$DO $$ BEGIN RAISE EXCEPTION 'it may still write to %s, by PUBLIC or as member of another role'; END $$$f$,
    replace(string_agg(name, ', '), '''', ''))
FROM frozen WHERE has_table_privilege(oid, 'INSERT, UPDATE, DELETE, TRUNCATE') HAVING count(*) > 0 \gexec
SQL
    { printf 'BEGIN;\nSET LOCAL lock_timeout = %s;\n' "$(( SETTING[freeze_timeout] * 1000 ))"
        cat -- "$SCRATCH/lock.sql" "$SCRATCH/revoke.sql" "$SCRATCH/check.sql"
        echo 'COMMIT;'; } | sql x
    revoke_holds || failed "the rights of role ${SETTING[x.db.user]} on database $(db_label x) were revoked, but are there"
    evidence revoked "$(revoke_file)"
}

# A write that, if it got through, is taken back.
revoke_probe() {
    local name=kong-shift-probe-$RUN
    if [[ $STRATEGY = in-place ]] && ! node_up x; then
        evidence probe 'CP X is down'
        return
    fi
    admin_call x POST /consumers "$(jq -nc --arg username "$name" '{$username}')" \
        || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    PROBE=$HTTP_STATUS
    if [[ $HTTP_STATUS = 2?? ]]; then
        admin_call x DELETE "/consumers/$name" || true
        refuse "the freeze does not reach x.admin: a consumer could be made, though role ${SETTING[x.db.user]} has no rights left on \
database $(db_label x); CP X at ${SETTING[x.admin]} uses another database or role: mend x.admin or x.db.*"
    fi
    [[ $HTTP_STATUS = 500 || ( $HTTP_STATUS = 503 && $(field .code) = frozen ) ]] || unknown \
        "x.admin ${SETTING[x.admin]}: a write that must fail with 500 was answered $(http_says x.admin)"
    evidence probe "$PROBE"
}

# revoke_lift: exactly what the record says; nothing when there is none.
revoke_lift() {
    local count
    revoke_recorded || return 0
    revoke_read "$(db_identity x "${SETTING[x.db.name]}")"
    count=$(jq '.rights | length' "$(revoke_file)")
    jq -c .rights "$(revoke_file)" >"$SCRATCH/rights"
    {
        cat <<'SQL'
BEGIN;
SELECT format('GRANT %s ON TABLE %s TO CURRENT_USER', (SELECT string_agg(r, ', ') FROM json_array_elements_text(item->'rights') AS r),
    item->>'table') FROM json_array_elements(:'rights') AS item WHERE to_regclass(item->>'table') IS NOT NULL \gexec
COMMIT;
SQL
    } | sql x rights="$(<"$SCRATCH/rights")"
    rm -f -- "$(revoke_file)"
    sync -- "${SETTING[work_dir]}"
    evidence granted "$count"
    say "      role ${SETTING[x.db.user]} may write to $count tables again"
}

# What stands now, for people.
revoke_says() {
    revoke_wanted || revoke_recorded || return 0
    if revoke_recorded; then
        printf 'freeze revoke: rights of role %s taken, %s\n' "${SETTING[x.db.user]}" "$(revoke_file)"
    else
        printf 'freeze revoke: off\n'
    fi
}
