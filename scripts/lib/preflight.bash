# Everything that can be known beforehand is checked before anything is changed.

X_VERSION=
Y_VERSION=

## cp preflight
##     Check versions, databases, nodes and load balancers; change nothing.
cmd_cp_preflight() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    work_dir_open step 1/1 preflight phase_preflight
}

need_upgrade() {
    need lb x.kong y.kong x.admin y.admin y.db.name
    [[ ${SETTING[y.prefix]-} || ${SETTING[y.start]-} ]] \
        || die "$EXIT_USAGE" "$OPT_CONFIG: set y.prefix, the folder CP Y runs in, or y.start, the command that starts it"
}

phase_preflight() {
    preflight_tools
    preflight_versions
    preflight_balancers
    preflight_x
    preflight_y_database
    preflight_y_conf
    preflight_y_node
}

preflight_tools() {
    local tool
    for tool in curl jq psql pg_dump pg_restore sha256sum sync; do
        command -v "$tool" >/dev/null || failed "the command $tool is not installed"
    done
}

preflight_versions() {
    kong_version x; X_VERSION=$REPLY
    kong_version y; Y_VERSION=$REPLY
    evidence x "$X_VERSION"
    evidence y "$Y_VERSION"
    say "      Kong $X_VERSION -> $Y_VERSION"

    version_compare "$X_VERSION" "$Y_VERSION"
    (( REPLY <= 0 )) || refuse \
        "x.kong is $X_VERSION and y.kong is $Y_VERSION: that is a downgrade, whose database Kong cannot migrate; swap x and y"
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || warn \
        "CP $Y_VERSION refuses DPs $X_VERSION (another major version): they must stay on CP X until they are replaced"
}

preflight_balancers() {
    local i
    lb_read_all
    for i in "${!LBS[@]}"; do
        [[ $(lb_field "$i" .gate.state) != off ]] || warn \
            "${LBS[i]}: kong_shift_gate is off, so nothing holds traffic back from the new pool"
    done
}

preflight_x() {
    local row server schema_meta pending locks

    row=$(sql_row x <<'SQL'
SELECT current_setting('server_version_num')::int / 10000, to_regclass('schema_meta') IS NOT NULL;
SQL
    )
    IFS='|' read -r server schema_meta <<<"$row"
    [[ $schema_meta = t ]] || refuse \
        "database $(db_label x) has no table schema_meta, so it is not Kong's; look at x.db.*"
    preflight_client "$server"

    row=$(sql_row x <<'SQL'
SELECT coalesce((SELECT string_agg(subsystem, ' ') FROM schema_meta WHERE cardinality(pending) > 0), ''),
    coalesce((SELECT string_agg(owner || ' until ' || to_char(ttl, 'YYYY-MM-DD HH24:MI:SS TZ'), ', ')
        FROM locks WHERE key = 'migrations' AND ttl > now()), '');
SQL
    )
    [[ $row = *'|'* ]] || unknown "database $(db_label x): psql printed \"$row\""
    IFS='|' read -r pending locks <<<"$row"
    [[ -z $pending ]] || refuse \
        "database $(db_label x) has pending migrations ($pending); end the earlier upgrade first: kong migrations finish"
    [[ -z $locks ]] || refuse \
        "database $(db_label x) is locked for migrations by $locks; wait for that node, or delete the row of table locks if it is dead"

    kong_admin x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    kong_admin_is x "$X_VERSION"
    [[ -z ${SETTING[y.prefix]-} || ${SETTING[y.prefix]%/} != "${KONG_NODE_PREFIX%/}" ]] || refuse \
        "y.prefix ${SETTING[y.prefix]} is the prefix of the running CP X; give CP Y its own"

    kong_schema x
    [[ $REPLY = current ]] || refuse \
        "\"kong migrations list\" of x.kong says $REPLY for database $(db_label x): $(log_says "$KONG_LOG")"
}

# A dump is only sure to work with tools at least as new as the server.
preflight_client() {
    local server=$1 tool client
    for tool in pg_dump pg_restore; do
        [[ $("$tool" --version) =~ ([0-9]+) ]] || failed "$tool --version prints no version"
        client=${BASH_REMATCH[1]}
        (( client >= server )) || refuse \
            "$tool is of PostgreSQL $client, the server of X of $server; install client tools of $server or newer"
    done
}

# What y.conf says and what the settings say must be the same database, or the
# next restart of CP Y by hand would open another one.
preflight_y_conf() {
    local conf=${SETTING[y.conf]-} line database='' role=''
    [[ -n $conf && -r $conf ]] || return 0
    while IFS= read -r line || [[ -n $line ]]; do
        [[ $line =~ ^[[:space:]]*(pg_database|role)[[:space:]]*=(.*)$ ]] || continue
        strip_comment "${BASH_REMATCH[2]#"${BASH_REMATCH[2]%%[![:space:]]*}"}"
        case ${BASH_REMATCH[1]} in
            pg_database) database=$REPLY ;;
            role)        role=$REPLY ;;
        esac
    done <"$conf"
    [[ -z $database || $database = "${SETTING[y.db.name]}" ]] || refuse \
        "$conf says pg_database = $database, but y.db.name is ${SETTING[y.db.name]}; make them the same"
    [[ -z $role || $role = control_plane ]] || refuse "$conf says role = $role; CP Y needs control_plane"
}

preflight_y_database() {
    local x y

    x=$(db_identity x "${SETTING[x.db.name]}")
    y=$(db_identity y-admin "${SETTING[y.db.name]}")
    [[ $x != "$y" ]] || refuse \
        "y.db is the database of X itself (${SETTING[y.db.name]}): a restore would destroy it; choose another y.db.name"

    target_inspect
    case $TARGET in
        foreign) target_refuse ;;
        absent)  (( TARGET_MAY_CREATE )) || refuse \
            "database ${SETTING[y.db.name]} does not exist and role ${SETTING[y.db.admin]} may not create it; create it, owned by ${SETTING[y.db.user]}, or set y.db.admin" ;;
    esac
    evidence target "$TARGET"
}

# Two names of one server are one server: it knows itself by a number.
db_identity() {
    sql_row "$1" name="$2" <<<"SELECT system_identifier || ' ' || :'name' FROM pg_control_system();"
}

preflight_y_node() {
    kong_admin y || return 0
    kong_admin_is y "$Y_VERSION"
}
