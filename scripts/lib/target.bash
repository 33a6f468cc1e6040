# The database of Y: a new one, filled from the dump. The comment on the
# database says that it is ours and how far it has come:
#   restoring   may hold anything       restored   holds the dump, volatile tables emptied
#   migrating   may hold anything       migrated   migrated by Y's kong
#   started     CP Y was started on it
# What may hold anything is thrown away by the next run. What CP Y has been
# started on is renamed and kept.

TARGET=
TARGET_STATE=
TARGET_BACKUP=
TARGET_MAY_CREATE=0

# target_inspect: what is there under the name of Y's database, into TARGET:
# absent, empty, ours (then TARGET_STATE and TARGET_BACKUP too) or foreign.
target_inspect() {
    local row owned mark pattern='^kong-shift ([a-z]+) ([^ ]+) [^ ]+$'

    row=$(sql_row y-admin name="${SETTING[y.db.name]}" owner="${SETTING[y.db.user]}" <<'SQL'
SELECT (SELECT (rolcreatedb OR rolsuper)::int FROM pg_roles WHERE rolname = current_user),
    (SELECT count(*) FROM pg_database WHERE datname = :'name'),
    (SELECT pg_get_userbyid(datdba) = :'owner' FROM pg_database WHERE datname = :'name'),
    (SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :'name');
SQL
    )
    TARGET_MAY_CREATE=${row%%|*} row=${row#*|}
    TARGET=foreign TARGET_STATE='' TARGET_BACKUP=''
    if [[ ${row%%|*} = 0 ]]; then
        TARGET=absent
        return
    fi

    row=${row#*|} owned=${row%%|*} mark=${row#*|}
    if [[ $mark =~ $pattern ]]; then
        TARGET=ours TARGET_STATE=${BASH_REMATCH[1]} TARGET_BACKUP=${BASH_REMATCH[2]}
        # A restore that failed left it as empty as it was.
        [[ $TARGET_STATE = restoring ]] || return 0
    # An empty one of somebody else may be about to be used.
    elif [[ $owned != t || ${SETTING[y.db.name]} = "${SETTING[y.db.maintenance]}" ]]; then
        return
    fi
    row=$(sql_row y <<'SQL'
SELECT count(*) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname NOT LIKE 'pg\_%' AND n.nspname <> 'information_schema';
SQL
    )
    [[ $row != 0 ]] || TARGET=empty
}

target_refuse() {
    refuse "database $(db_label y) exists and is neither of kong-shift's making nor empty and owned by ${SETTING[y.db.user]}; choose another y.db.name, or drop it yourself"
}

# target_role: the role of Y is there, may log in, and y.db.admin may act as it.
target_role() {
    local row user=${SETTING[y.db.user]}
    row=$(sql_row y-admin user="$user" <<'SQL'
SELECT count(*), coalesce(bool_and(rolcanlogin), false), coalesce(bool_and(pg_has_role(current_user, oid, 'MEMBER')), false)
FROM pg_roles WHERE rolname = :'user';
SQL
    )
    case $row in
        '1|t|t') ;;
        '0|'*)   refuse "role $user of y.db.user does not exist on the server of Y; create it, or mend y.db.user" ;;
        '1|f|'*) refuse "role $user of y.db.user may not log in to the server of Y: ALTER ROLE ... LOGIN, or mend y.db.user" ;;
        '1|t|f') refuse "role ${SETTING[y.db.admin]} of y.db.admin may not act as $user of y.db.user, as pg_restore must: GRANT the one to the other" ;;
        *)       unknown "the server of Y does not tell about role $user: $row" ;;
    esac
}

# target_mark STATE: the comment that makes a later run know the database.
target_mark() {
    local mark="kong-shift $1 $BACKUP $RUN" row
    row=$(sql_row y-admin name="${SETTING[y.db.name]}" mark="$mark" <<'SQL'
SELECT format('COMMENT ON DATABASE %I IS %L', :'name', :'mark') \gexec
SELECT shobj_description(oid, 'pg_database') FROM pg_database WHERE datname = :'name';
SQL
    )
    [[ $row = "$mark" ]] || failed "database $(db_label y) cannot be marked as made by kong-shift"
    TARGET=ours TARGET_STATE=$1 TARGET_BACKUP=$BACKUP
}

# Encoding and collation are X's; else the order of text, and with it the
# answers of paged lists, could change under the clients' feet.
target_create() {
    local row encoding collate ctype
    if [[ $STRATEGY = in-place && ! $TEST_RESTORE ]]; then
        row=$(x_saved .encoding)
        [[ $row = *'|'*'|'* ]] || failed "${SETTING[work_dir]}/x-node.json does not tell the encoding of database ${SETTING[x.db.name]}"
    else
        row=$(database_encoding)
    fi
    IFS='|' read -r encoding collate ctype <<<"$row"
    sql y-admin name="${SETTING[y.db.name]}" owner="${SETTING[y.db.user]}" \
        encoding="$encoding" collate="$collate" ctype="$ctype" <<'SQL'
SELECT format('CREATE DATABASE %I OWNER %I TEMPLATE template0 ENCODING %L LC_COLLATE %L LC_CTYPE %L',
    :'name', :'owner', :'encoding', :'collate', :'ctype') \gexec
SQL
}

database_encoding() {
    sql_row x <<'SQL'
SELECT pg_encoding_to_char(encoding), datcollate, datctype FROM pg_database WHERE datname = current_database();
SQL
}

# target_clear: away with our own earlier database, unless somebody lives on it.
target_clear() {
    lb_read_all
    lb_all effective 0 || refuse \
        "database ${SETTING[y.db.name]} must be made anew from dump $BACKUP, but requests already go to the new pool; \
take them away first: kong-shift abort"
    lb_all gate closed off || lb_put_all gate '{"state":"closed"}' .state '"closed"'

    if kong_admin y && [[ $KONG_DATABASE_NAME = "${SETTING[y.db.name]}" ]]; then
        say "      stopping CP Y, its database is made anew"
        node_stop y
    fi
    target_unused "must be made anew"
    (( TARGET_MAY_CREATE )) || refuse \
        "database ${SETTING[y.db.name]} must be made anew, but role ${SETTING[y.db.admin]} may not create databases; \
drop it and create it empty, owned by ${SETTING[y.db.user]}, or set y.db.admin"

    if [[ $TARGET_STATE = started ]]; then
        target_rename "${SETTING[y.db.name]:0:40}-$(now %Y%m%dT%H%M%SZ)"
    else
        target_drop
    fi
}

target_drop() {
    sql y-admin name="${SETTING[y.db.name]}" <<'SQL'
SELECT format('DROP DATABASE %I', :'name') \gexec
SQL
}

# In-place the database ends as what it was, X's own.
target_unmark() {
    sql y-admin name="${SETTING[y.db.name]}" <<'SQL'
SELECT format('COMMENT ON DATABASE %I IS NULL', :'name') \gexec
SQL
}

# target_unused WHY: nobody has a session on it.
target_unused() {
    local others begun=$SECONDS
    while :; do
        others=$(sql_row y-admin name="${SETTING[y.db.name]}" <<'SQL'
SELECT coalesce(string_agg(DISTINCT format('%s (%s)', usename, application_name), ', '), '-')
FROM pg_stat_activity WHERE datname = :'name';
SQL
        )
        [[ $others != - ]] || return 0
        # A node that was just stopped may take a moment to be gone.
        (( SECONDS - begun < 5 )) || break
        sleep 0.2
    done
    refuse "database ${SETTING[y.db.name]} $1, but is in use by $others; end those sessions first"
}

target_rename() {
    sql y-admin name="${SETTING[y.db.name]}" other="$1" <<'SQL'
SELECT format('ALTER DATABASE %I RENAME TO %I', :'name', :'other') \gexec
SQL
    evidence renamed "$1"
    say "      the earlier database is kept as $1"
}
