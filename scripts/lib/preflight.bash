# Everything that can be known beforehand is checked before anything is changed.

X_VERSION=
Y_VERSION=
readonly CLOCK_SKEW=5

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
    [[ $STRATEGY != in-place || ${SETTING[x.prefix]-} || ( ${SETTING[x.start]-} && ${SETTING[x.stop]-} ) ]] \
        || die "$EXIT_USAGE" "$OPT_CONFIG: y.db.* is the database of X, so this is an in-place upgrade, which stops CP X: set x.prefix, \
the folder CP X runs in, or x.stop and x.start, the commands that do it; or, for dual-cluster, set y.db.name"
    [[ $STRATEGY = in-place || ! -e ${SETTING[work_dir]}/in-place.json ]] \
        || die "$EXIT_USAGE" "$OPT_CONFIG: an in-place upgrade was begun in work_dir ${SETTING[work_dir]}, but y.db.* is another \
database than x.db.*; put y.db.* back, or choose another work_dir"
}

phase_preflight() {
    guards_run
    versions_known
    evidence x "$X_VERSION"
    evidence y "$Y_VERSION"
    say "      Kong $X_VERSION -> $Y_VERSION"
}

versions_known() {
    [[ $X_VERSION || $Y_VERSION || -s $SCRATCH/version.x || -s $SCRATCH/version.y ]] || run_long versions_children || exit
    [[ $X_VERSION ]] || { kong_version x; X_VERSION=$REPLY; }
    [[ $Y_VERSION ]] || { kong_version y; Y_VERSION=$REPLY; }
}

# Both at once, as a wrapper may take its time.
versions_children() {
    child kong_version x
    child kong_version y
    children_wait
}

guard_tools() {
    local tool
    for tool in curl jq psql pg_dump pg_restore sha256sum sync openssl; do
        command -v "$tool" >/dev/null || failed "the command $tool is not installed"
    done
    found "all there"
}

guard_versions() {
    versions_known
    version_compare "$X_VERSION" "$Y_VERSION"
    (( REPLY <= 0 )) || refuse \
        "x.kong is $X_VERSION and y.kong is $Y_VERSION: that is a downgrade, whose database Kong cannot migrate; swap x and y"
    found "$X_VERSION -> $Y_VERSION"
}

guard_path() {
    local steps
    versions_known
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" || $STRATEGY = in-place ]] || warn \
        "CP $Y_VERSION refuses DPs $X_VERSION (another major version): they must stay on CP X until they are replaced"

    path_hole "$X_VERSION" "$Y_VERSION"
    [[ -z $REPLY ]] || refuse "$X_VERSION -> $Y_VERSION: $REPLY; or insist: --force path"
    path_steps "$X_VERSION" "$Y_VERSION"
    steps=$REPLY
    [[ $steps != *' '*' '* ]] || refuse \
        "$X_VERSION -> $Y_VERSION is no way that Kong supports; upgrade in steps (${steps// / -> }), or insist: --force path"
    found "${steps// / -> }"
}

guard_balancers() {
    local i
    lb_read_all
    for i in "${!LBS[@]}"; do
        [[ $(lb_field "$i" gate) != off ]] || warn \
            "${LBS[i]}: kong_shift_gate is off, so nothing holds traffic back from the new pool"
    done
    lb_differences <<<"${LB_STATE[*]}"
    [[ -z $REPLY ]] || warn "the load balancers differ: $REPLY"
    found "${#LBS[@]} answered"
}

# Each of the two has to carry the peak alone: new at weight 100, old once more after
# an abort. What a DP can carry nobody tells, how many there are the upstreams do.
guard_pools() {
    local i old new few='' all=''
    lb_read_all
    for i in "${!LBS[@]}"; do
        [[ $(jq -r '.pools | "\(.old.total) \(.new.total)"' <<<"${LB_STATE[i]}") =~ ^([0-9]+)\ ([0-9]+)$ ]] || unknown \
            "${LBS[i]} tells no total of its pools, so nobody knows whether they can carry the peak; or insist: --force pools"
        old=${BASH_REMATCH[1]} new=${BASH_REMATCH[2]}
        (( new >= old )) || few+=", $new where old has $old on ${LBS[i]}"
        [[ $all = *"old $old, new $new;"* ]] || all+=" old $old, new $new;"
    done
    [[ -z $few ]] || refuse "the new pool has fewer DPs than the old, ${few#, }, and has to carry the peak alone in the end; list all of them in its \
upstream, those that are not started yet too, or, if they can carry more, insist: --force pools"
    found "${all# } each has to carry the peak alone"
}

guard_x_database() {
    local server_x size

    server_facts x
    server_x=${FACTS[0]} size=${FACTS[3]}
    [[ ${FACTS[2]} = t ]] || refuse \
        "database $(db_label x) has no table schema_meta, so it is not Kong's; look at x.db.*"
    server_facts y-admin
    preflight_client pg_dump $(( server_x / 10000 )) $(( FACTS[0] / 10000 ))
    preflight_client pg_restore $(( server_x / 10000 )) $(( FACTS[0] / 10000 ))
    found "$(db_label x), $(mebibytes "$size")"
}

guard_migrations() {
    local row pending locks

    if in_place_begun; then
        found "begun by this upgrade; the step migrate looks at them"
        return
    fi
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

    kong_schema x
    [[ $REPLY = current ]] || refuse \
        "\"kong migrations list\" of x.kong says $REPLY for database $(db_label x): $(log_says "$KONG_LOG")"
    found "nothing pending, no lock"
}

guard_x_node() {
    versions_known
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    kong_admin_is x "$X_VERSION"
    if [[ $X_STOPPED ]]; then
        found "stopped by this upgrade"
        return
    fi
    [[ $STRATEGY != in-place || ! ${SETTING[x.prefix]-} || ${SETTING[x.prefix]%/} = "${KONG_NODE_PREFIX%/}" ]] || refuse \
        "x.prefix is ${SETTING[x.prefix]}, but the running CP X has the prefix $KONG_NODE_PREFIX; make them the same, or set x.stop and x.start instead"
    [[ -z ${SETTING[y.prefix]-} || ${SETTING[y.prefix]%/} != "${KONG_NODE_PREFIX%/}" ]] || refuse \
        "y.prefix ${SETTING[y.prefix]} is the prefix of the running CP X; give CP Y its own"
    found "Kong $KONG_VERSION, $KONG_ROLE, prefix ${KONG_NODE_PREFIX:-unknown}"
}

# preflight_client TOOL X Y: a dump is only sure to work with tools at least as new as
# the servers.
preflight_client() {
    local tool=$1 client which=X server
    [[ $("$tool" --version) =~ ([0-9]+) ]] || failed "$tool --version prints no version"
    client=${BASH_REMATCH[1]}
    shift
    for server in "$@"; do
        (( client >= server )) || refuse \
            "$tool is of PostgreSQL $client, the server of $which of $server; install client tools of $server or newer"
        which=Y
    done
}

# conf_value FILE KEY: what a kong.conf says, into REPLY; empty when nothing.
conf_value() {
    local line text=''
    while IFS= read -r line || [[ -n $line ]]; do
        [[ $line =~ ^[[:space:]]*([a-z_]+)[[:space:]]*=(.*)$ && ${BASH_REMATCH[1]} = "$2" ]] || continue
        text=${BASH_REMATCH[2]}
        strip_comment "${text#"${text%%[![:space:]]*}"}"
        text=$REPLY
    done <"$1"
    REPLY=$text
}

# node_conf WHICH KEY: what the node says that runs, else what it would be started
# with, into REPLY. A list is one text with commas.
node_conf() {
    REPLY=
    ! node_says "$1" || kong_field "$1" "$2"
    [[ $REPLY ]] || conf_of "$1" "$2"
}

# conf_of WHICH KEY: the environment, in which CP Y is started, comes before the conf.
conf_of() {
    local conf=${SETTING[$1.conf]-} name=KONG_${2^^}
    REPLY=
    [[ $1 = x ]] || REPLY=${!name-}
    [[ $REPLY || ! -r $conf ]] || conf_value "$conf" "$2"
}

# What y.conf says and what the settings say must be the same database, or the
# next restart of CP Y by hand would open another one.
guard_y_conf() {
    local conf=${SETTING[y.conf]-}
    if [[ -z $conf || ! -r $conf ]]; then
        found "no y.conf to be read here"
        return
    fi
    conf_value "$conf" pg_database
    [[ -z $REPLY || $REPLY = "${SETTING[y.db.name]}" ]] || refuse \
        "$conf says pg_database = $REPLY, but y.db.name is ${SETTING[y.db.name]}; make them the same"
    conf_value "$conf" role
    [[ -z $REPLY || $REPLY = control_plane ]] || refuse "$conf says role = $REPLY; CP Y needs control_plane"
    conf_value "$conf" headers
    [[ $REPLY != off ]] || warn \
        "$conf says headers = off; if the DPs of Y say so too, no answer tells which version gave it"
    conf_value "$conf" status_listen
    [[ $REPLY != off ]] || warn "$conf says status_listen = off, so nobody can ask CP Y whether it is ready"
    found "$conf"
}

guard_y_database() {
    local x y

    if [[ $STRATEGY = in-place ]]; then
        in_place_way_back
        return
    fi
    server_facts x
    x="${FACTS[4]} ${SETTING[x.db.name]}"
    server_facts y-admin
    y="${FACTS[4]} ${SETTING[y.db.name]}"
    [[ $x != "$y" ]] || refuse \
        "y.db is the database of X itself (${SETTING[y.db.name]}): a restore would destroy it; choose another y.db.name"

    target_inspect
    case $TARGET in
        foreign) target_refuse ;;
        absent)  (( TARGET_MAY_CREATE )) || refuse \
            "database ${SETTING[y.db.name]} does not exist and role ${SETTING[y.db.admin]} may not create it; create it, owned by ${SETTING[y.db.user]}, or set y.db.admin" ;;
    esac
    target_role
    evidence target "$TARGET"
    found "$(db_label y): $TARGET${TARGET_STATE:+, $TARGET_STATE}"
}

# In-place there is nothing to be made now, but the way back makes a database.
in_place_way_back() {
    target_inspect
    [[ $TARGET_MAY_CREATE = 1 ]] || refuse \
        "after \"kong migrations up\" the way back is a new database, and role ${SETTING[y.db.admin]} may not create one; set y.db.admin to a role that may create and rename databases"
    found "$(db_label y), that of X itself (in-place)"
}

# Two names of one server are one server: it knows itself by a number.
db_identity() {
    sql_row "$1" name="$2" <<<"SELECT system_identifier || ' ' || :'name' FROM pg_control_system();"
}

guard_y_node() {
    if ! node_up y; then
        found "not up yet"
        return
    fi
    versions_known
    kong_admin_is y "$Y_VERSION"
    found "Kong $KONG_VERSION, $KONG_ROLE"
}

# How old the last word of a DP is, and how long a weight was held, is told by clocks.
guard_clock() {
    local which off
    for which in x y-admin; do
        server_facts "$which"
        off=${FACTS[1]}
        (( off >= -CLOCK_SKEW && off <= CLOCK_SKEW )) || refuse "the clock of the server of database $(db_label "${which%-admin}") \
is $off s from the one here, so nobody can tell how old what DPs say is; set the clocks right (NTP)"
    done
    found "at most $CLOCK_SKEW s apart"
}

guard_space() {
    local dir=${SETTING[work_dir]} size free
    server_facts x
    size=${FACTS[3]}
    while [[ ! -e $dir ]]; do
        dir=${dir%/*}
        dir=${dir:-/}
    done
    free=$(df -B 1 --output=avail -- "$dir" | tail -n 1)
    free=${free//[[:space:]]/}
    [[ $free =~ ^[0-9]+$ ]] || unknown "df says nothing about the free space of $dir"
    (( free >= 3 * size )) || refuse \
        "$dir has $(mebibytes "$free") free, the database of X takes $(mebibytes "$size"); make room for three times that, or insist: --force space"
    found "$(mebibytes "$free") free in $dir, database of X $(mebibytes "$size"); the server of Y must hold a copy as well"
}

mebibytes() {
    printf '%d MiB' $(( $1 >> 20 ))
}
