# PostgreSQL. Connections are described by environment, never by arguments:
# a name cannot then be taken for an option or a connection string.

PSQL=psql
declare -a FACTS=()

db_environment() {
    local passfile=${SETTING[passfile]-} mode

    unset PGSERVICE PGHOSTADDR PGOPTIONS PGDATESTYLE PGTZ PGCLIENTENCODING
    export PGCONNECT_TIMEOUT=10 PGAPPNAME=kong-shift
    psql_find

    [[ -n $passfile ]] || return 0
    [[ -f $passfile && -r $passfile ]] || die "$EXIT_USAGE" \
        "$OPT_CONFIG:${SETTING_LINE[passfile]}: passfile \"$passfile\" cannot be read"
    mode=$(stat -L -c %a -- "$passfile")
    [[ $mode = *00 ]] || die "$EXIT_USAGE" \
        "passfile \"$passfile\" has mode $mode; PostgreSQL ignores it until others cannot read it: chmod 600"
    export PGPASSFILE=$passfile
}

# psql_find: PSQL is the one on the PATH; where that is Debian's wrapper, which takes
# longer than most queries, the one that the wrapper would run: the newest.
psql_find() {
    local found dir version newest=0
    found=$(type -P psql) || return 0
    [[ $(readlink -f -- "$found") = */pg_wrapper ]] || return 0
    for dir in /usr/lib/postgresql/*/bin; do
        version=${dir#/usr/lib/postgresql/} version=${version%%[!0-9]*}
        if [[ $version && -x $dir/psql && $version -gt $newest ]]; then
            newest=$version PSQL=$dir/psql
        fi
    done
}

# with_db WHICH COMMAND...: WHICH is x, y, or y-admin (the server of y, as the
# role that may create databases).
with_db() {
    local at=${1%-admin} user=${SETTING[${1%-admin}.db.user]} name=${SETTING[${1%-admin}.db.name]}
    if [[ $1 = y-admin ]]; then
        user=${SETTING[y.db.admin]} name=${SETTING[y.db.maintenance]}
    fi
    shift
    PGHOST=${SETTING[$at.db.host]} PGPORT=${SETTING[$at.db.port]} PGUSER=$user PGDATABASE=$name "$@"
}

# Where a database is, for people.
db_label() {
    printf '%s on %s:%s as %s' "${SETTING[$1.db.name]}" "${SETTING[$1.db.host]}" "${SETTING[$1.db.port]}" \
        "${SETTING[$1.db.user]}"
}

# sql WHICH [NAME=VALUE]... <SQL: rows on standard output. Values are visible
# to the SQL as :'NAME' and :"NAME", quoted by psql.
sql() {
    local which=$1 options=() pair status=0 errors=$SCRATCH/psql.$BASHPID
    shift
    for pair in "$@"; do
        options+=(-v "$pair")
    done
    with_db "$which" "$PSQL" -XAtqw -v ON_ERROR_STOP=1 "${options[@]}" 2>"$errors" || status=$?
    (( status == 0 )) || sql_failed "$which" "$status" "$errors"
}

# sql_row: the one row of a query that is never empty.
sql_row() {
    local row
    # Within a command substitution "set -e" is off.
    row=$(sql "$@") || exit
    [[ -n $row ]] || unknown "database $(db_label "${1%-admin}"): psql printed nothing where a row was due"
    printf '%s' "$row"
}

# server_facts WHICH: its version number, how many seconds its clock is ahead, whether
# the database has a table schema_meta, its size in bytes, the number by which the
# server knows itself and every other of its tables by size, into FACTS. Asked once
# while the guards run.
server_facts() {
    local which=$1 kept=$SCRATCH/node.facts.$1 row=
    [[ ! $NODE_CACHE || ! -s $kept ]] || row=$(<"$kept")
    if [[ ! $row ]]; then
        row=$(sql_row "$which" now="$(now %s)" <<'SQL'
SELECT current_setting('server_version_num'), floor(extract(epoch FROM clock_timestamp()))::bigint - :now,
    to_regclass('schema_meta') IS NOT NULL, pg_database_size(current_database()), system_identifier,
    (SELECT coalesce(string_agg(relname, ',') FILTER (WHERE place / 2 % 2 = 0), '')
        FROM (SELECT relname, row_number() OVER (ORDER BY pg_relation_size(oid) DESC, relname) AS place FROM pg_class
            WHERE relkind = 'r' AND relnamespace = to_regnamespace('public') AND relname !~ '[^a-z0-9_]') AS tables)
FROM pg_control_system();
SQL
        )
        [[ $row =~ ^[0-9]+\|-?[0-9]+\|[tf]\|[0-9]+\|-?[0-9]+\|[a-z0-9_,]*$ ]] || unknown "database $(db_label "${which%-admin}"): psql printed \"$row\""
        printf '%s\n' "$row" >"$kept"
    fi
    IFS='|' read -r -a FACTS <<<"$row"
}

sql_failed() {
    local which=$1 status=$2 errors=$3 code=$EXIT_FAILED where text
    where="database $(db_label "${which%-admin}")"
    [[ $which != y-admin ]] \
        || where="server ${SETTING[y.db.host]}:${SETTING[y.db.port]} as ${SETTING[y.db.admin]}"
    # psql ends with 2 when it lost, or never had, a connection.
    (( status != 2 )) || code=$EXIT_UNKNOWN
    text=$(log_says "$errors")
    case $text in
        *'password authentication'* | *'no password supplied'*)
            text+="; look at its line in the passfile" ;;
        *'Connection refused'* | *'could not translate'* | *'timeout expired'*)
            text+="; look at ${which%-admin}.db.host and ${which%-admin}.db.port, and whether PostgreSQL runs" ;;
        *'lock timeout'*)
            text+="; a write takes longer than freeze_timeout: wait for it, or end its session, then run it again" ;;
    esac
    die "$code" "$where: ${text#psql: error: }"
}

# passfile_password WHICH: what libpq would send, for Kong, which does not read
# passfiles. Empty when there is none: Kong's own configuration decides then.
passfile_password() {
    local file=${PGPASSFILE:-${HOME-}/.pgpass} line i
    local want=("${SETTING[$1.db.host]}" "${SETTING[$1.db.port]}" "${SETTING[$1.db.name]}" "${SETTING[$1.db.user]}")

    if [[ -n ${PGPASSWORD-} ]]; then
        printf '%s' "$PGPASSWORD"
        return
    fi
    [[ -r $file ]] || return 0
    while IFS= read -r line || [[ -n $line ]]; do
        [[ $line != '#'* ]] || continue
        passfile_split "$line"
        for i in 0 1 2 3; do
            [[ ${FIELDS[i]} = '*' || $(unescape "${FIELDS[i]}") = "${want[i]}" ]] || continue 2
        done
        unescape "${FIELDS[4]}"
        return
    done <"$file"
}

# passfile_split LINE: FIELDS holds its five fields, backslashes still in.
passfile_split() {
    local line=$1 i char
    FIELDS=('' '' '' '' '')
    local n=0
    for (( i = 0; i < ${#line}; i++ )); do
        char=${line:i:1}
        if [[ $char = : && n -lt 4 ]]; then
            n=$(( n + 1 ))
            continue
        fi
        FIELDS[n]+=$char
        if [[ $char = \\ ]]; then
            i=$(( i + 1 ))
            FIELDS[n]+=${line:i:1}
        fi
    done
}

unescape() {
    local text=$1 out='' i
    for (( i = 0; i < ${#text}; i++ )); do
        [[ ${text:i:1} != \\ ]] || i=$(( i + 1 ))
        out+=${text:i:1}
    done
    printf '%s' "$out"
}
