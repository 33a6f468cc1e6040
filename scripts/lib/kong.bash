# The two kong commands.

# Where the tools keep prefixes and logs: work_dir, but for what must not write there.
KONG_HOME=
KONG_LOG=
LOGS=0
# What was begun and not yet asked for: its process and log.
declare -A KONG_AHEAD=()

# kong WHICH WORD...: "kong WORD..." of x or y, its output in KONG_LOG. Gives
# its exit code, which for migrations means little: ask kong_schema afterwards.
kong() {
    local ahead="$KONG_NOWHERE $*" status=0
    if [[ ${KONG_AHEAD[$ahead]-} ]]; then
        CHILD=${KONG_AHEAD[$ahead]%% *} KONG_LOG=${KONG_AHEAD[$ahead]#* }
        unset "KONG_AHEAD[$ahead]"
        wait "$CHILD" || status=$?
        CHILD=
        return "$status"
    fi
    kong_words "$@"
    kong_run "$1" "$KONG_HOME/prefix-$1" "${WORDS[@]}"
}

# kong_ahead NOWHERE WHICH WORD...: the same is begun, for a kong that asks for it later.
kong_ahead() {
    local KONG_NOWHERE=$1
    shift
    kong_words "$@"
    type -P -- "${WORDS[0]}" >/dev/null || return 0
    kong_child "$1" "$KONG_HOME/prefix-$1" "${WORDS[@]}" &
    KONG_AHEAD["$KONG_NOWHERE $*"]="$! $KONG_LOG"
}

# kong_words WHICH WORD...: the command into WORDS.
kong_words() {
    local which=$1
    shift
    split_words "${SETTING[$which.kong]}"
    WORDS+=("$@")
    if [[ $1 = version ]]; then
        KONG_LOG=$SCRATCH/kong.$which.log
        return
    fi
    log_name "$which-$1-$2"
    [[ -z ${SETTING[$which.conf]-} ]] || WORDS+=(-c "${SETTING[$which.conf]}")
}

# kong_run WHICH PREFIX COMMAND...: its output in KONG_LOG.
kong_run() {
    type -P -- "$3" >/dev/null || failed "the command \"$3\" of $1.kong, $1.start or $1.stop is not there, or not executable"
    run_long kong_child "$@"
}

# log_name NAME: KONG_LOG, in the order in which things were run.
log_name() {
    LOGS=$(( LOGS + 1 ))
    printf -v KONG_LOG '%s/log/%s-%02d-%s.log' "$KONG_HOME" "$RUN" "$LOGS" "$1"
}

# kong_child WHICH PREFIX COMMAND...: becomes COMMAND. The database comes from
# the settings, whatever the caller's environment or the conf file says.
# An empty PREFIX leaves that to the conf file.
kong_child() {
    local which=$1 prefix=$2 password
    shift 2
    exec >"$KONG_LOG" 2>&1
    unset KONG_PREFIX "${!KONG_PG_@}"
    password=$(passfile_password "$which")
    [[ -z $password ]] || export KONG_PG_PASSWORD="$password"
    # In a running node's prefix the command would take that node's saved
    # environment for its configuration, so the tools get one of their own.
    [[ -z $prefix ]] || export KONG_PREFIX="$prefix"
    export KONG_DATABASE=postgres \
        KONG_PG_HOST="${SETTING[$which.db.host]}" KONG_PG_PORT="${SETTING[$which.db.port]}" \
        KONG_PG_USER="${SETTING[$which.db.user]}" KONG_PG_DATABASE="${KONG_NOWHERE:-${SETTING[$which.db.name]}}"
    if [[ $CALLER_LC_ALL ]]; then export LC_ALL="$CALLER_LC_ALL"; else unset LC_ALL; fi
    umask "$CALLER_UMASK"
    exec "$@"
}

# kong_version WHICH: into REPLY. "3.8.1", or "Kong Enterprise 3.4.3.5".
kong_version() {
    local which=$1 status=0 known=$SCRATCH/version.$1
    if [[ -s $known ]]; then
        REPLY=$(<"$known")
        return
    fi
    kong "$which" version || status=$?
    if (( status != 0 )); then
        failed "$which.kong (${SETTING[$which.kong]}): \"version\" ended with $status: $(log_says "$KONG_LOG")"
    fi
    [[ $(head -c 4096 "$KONG_LOG" | tr -d '\0') =~ ([0-9]{1,4}\.){2,3}[0-9]{1,4} ]] \
        || failed "$which.kong (${SETTING[$which.kong]}): \"version\" prints no version: $(log_says "$KONG_LOG")"
    REPLY=${BASH_REMATCH[0]}
    printf '%s' "$REPLY" >"$known"
}

# kong_schema WHICH: what that kong thinks of its database, into REPLY:
# current, bootstrap, pending, new, half (some pending, some new: "up" failed
# half-way, for which Kong has no exit code of its own) or error.
kong_schema() {
    local which=$1 status=0
    kong "$which" migrations list || status=$?
    case $status in
        0) REPLY=current ;;
        3) REPLY=bootstrap ;;
        4) REPLY=pending ;;
        5) REPLY=new ;;
        *) REPLY=error ;;
    esac
    [[ $REPLY != pending || $(<"$KONG_LOG") != *'New migrations available'* ]] || REPLY=half
    # A command that did nothing ends with 0 as well.
    [[ $REPLY != current ]] || [[ $(<"$KONG_LOG") = *'Executed migrations'* ]] || REPLY=error
}

# Of a wrapper that does not pass on what it is told, "migrations up" would migrate
# another database, and that may be X. So it is told one that is not there.
KONG_NOWHERE=
readonly NOWHERE=kong-shift-nowhere

guard_y_kong() {
    local status=0
    KONG_NOWHERE=$NOWHERE
    kong y migrations list || status=$?
    if [[ $(<"$KONG_LOG") = *"$NOWHERE"* && $status != [0345] ]]; then
        KONG_NOWHERE=
        found "told a database that is not there, it says so"
        return
    fi
    [[ $status != [0345] ]] || refuse "y.kong does not work on the database it is told to: \"migrations list\" of one that is not there ended \
with $status; make ${SETTING[y.kong]} pass KONG_DATABASE and KONG_PG_* on to kong"
    unknown "y.kong: \"migrations list\" ended with $status, which cannot tell whether it works on the database it is told to: $(log_says "$KONG_LOG")"
}

# version_compare A B: REPLY is -1, 0 or 1.
version_compare() {
    local a b i
    IFS=. read -r -a a <<<"$1"
    IFS=. read -r -a b <<<"$2"
    REPLY=0
    for i in 0 1 2 3; do
        if (( ${a[i]:-0} != ${b[i]:-0} )); then
            REPLY=$(( ${a[i]:-0} < ${b[i]:-0} ? -1 : 1 ))
            return
        fi
    done
}

# Set while the guards run: nothing is started or stopped, so a node is asked once.
NODE_CACHE=

# node_cache on [WHICH]...: what was known before is forgotten, but for what these last
# said of themselves in this run: a large Kong takes seconds to say it.
# node_cache off
node_cache() {
    local file which
    NODE_CACHE=${1#off}
    [[ $NODE_CACHE ]] || return 0
    for file in "$SCRATCH"/node.*; do
        which=${file##*/node.}
        is_one_of "${which%.root}" "${@:2}" || rm -f -- "$file"
    done
}

# kong_admin WHICH: asks the Admin API who it is, into KONG_VERSION, KONG_ROLE
# and KONG_DATABASE_NAME. False when nobody answers.
kong_admin() {
    local which=$1 url=${SETTING[$1.admin]} kept=$SCRATCH/node.$1
    if [[ $NODE_CACHE && -e $kept.error ]]; then
        HTTP_ERROR=$(<"$kept.error")
        return 1
    elif [[ $NODE_CACHE && -e $kept.root ]]; then
        HTTP_STATUS=200 HTTP_BODY=$(<"$kept.root")
    elif ! kong_ask "$which"; then
        rm -f -- "$kept.root"
        printf '%s' "$HTTP_ERROR" >"$kept.error"
        return 1
    fi
    kong_node "$which"
    [[ $KONG_VERSION && $KONG_ROLE ]] \
        || unknown "$which.admin $url: this is not Kong's Admin API: $(head -c 80 <<<"$HTTP_BODY")"
    printf '%s' "$HTTP_BODY" >"$kept.root"
}

kong_ask() {
    admin_call "$1" GET / || return 1
    # What a proxy in front says when there is nobody behind it.
    if [[ $HTTP_STATUS = 50[234] ]]; then
        HTTP_ERROR=$(http_says "$1.admin")
        return 1
    fi
    [[ $HTTP_STATUS = 200 ]] || unknown "$1.admin ${SETTING[$1.admin]}: GET / was answered $(http_says "$1.admin")"
}

# kong_node WHICH: what an answer to GET / tells of the node; its configuration
# into root.WHICH.fields, a line each, lists with commas.
kong_node() {
    local root=$SCRATCH/root.$1 fields=$SCRATCH/root.$1.fields
    if [[ ! -e $root || $(<"$root") != "$HTTP_BODY" ]]; then
        field '.version // "", (.configuration | .role // "", .pg_database // "", .prefix // ""),
            (.configuration | to_entries[] | select(.value | type != "object") | "\(.key)=" + (.value
                | if type == "array" then map(tostring) | join(", ") elif . == null then "" else tostring end | gsub("\n"; "\u001f")))' >"$fields"
        printf '%s' "$HTTP_BODY" >"$root"
    fi
    { read -r KONG_VERSION; read -r KONG_ROLE; IFS= read -r KONG_DATABASE_NAME; IFS= read -r KONG_NODE_PREFIX; } <"$fields" || true
}

# kong_field WHICH KEY: of the configuration that kong_node saw, into REPLY.
kong_field() {
    local line
    REPLY=
    while IFS= read -r line; do
        [[ $line = "$2="* ]] || continue
        REPLY=${line#*=}
        REPLY=${REPLY//$'\x1f'/$'\n'}
        return
    done <"$SCRATCH/root.$1.fields"
}

# kong_admin_is WHICH VERSION: the node that just answered is the one meant.
kong_admin_is() {
    local which=$1 version=$2 url=${SETTING[$1.admin]}
    [[ $KONG_VERSION = "$version"* ]] || refuse \
        "$which.admin $url is Kong $KONG_VERSION, but $which.kong is $version; one of the two settings is wrong"
    [[ $KONG_ROLE = control_plane ]] || refuse \
        "$which.admin $url has role $KONG_ROLE, not control_plane; this upgrade is for hybrid mode"
    [[ $KONG_DATABASE_NAME = "${SETTING[$which.db.name]}" ]] || refuse \
        "$which.admin $url works on database $KONG_DATABASE_NAME, but $which.db.name is ${SETTING[$which.db.name]}"
}
