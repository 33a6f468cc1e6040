# The guards: what must hold before anything is changed. Each is a function
# guard_NAME that ends the run with one sentence when it does not; what it saw
# it hands to found. "plan" runs them all, a real run ends at the first refusal.

# In this order: later ones build on what earlier ones found to be so.
readonly GUARDS=(tools versions path major balancers x-database clock x-node freeze migrations y-database y-kong y-conf y-node ports
    data-planes plugins certificate y-data-planes quarantine pools clients payload space)

declare -A GUARD_CHECKS=(
    [tools]='commands the script needs'
    [versions]='y.kong is not older than x.kong'
    [path]='Kong supports the way from X to Y'
    [major]='in-place: CP Y takes the DPs of X'
    [balancers]='shift and gate on every load balancer'
    [x-database]="database of X is Kong's, client tools are new enough for both servers"
    [clock]='the clocks here and of both database servers agree'
    [x-node]='CP X answers, and is the node the settings mean'
    [freeze]='admin writes can be denied as the setting freeze says'
    [migrations]='no earlier upgrade of X is unfinished, nobody holds the lock'
    [y-database]='database of Y is another one, and free to be filled; in-place: the way back can make one'
    [y-kong]='y.kong works on the database it is told to'
    [y-conf]='y.conf and the settings agree'
    [y-node]='CP Y, if it is up already, is the node the settings mean'
    [ports]='nobody listens yet where CP Y is to'
    [data-planes]='every DP of CP X is alive, and CP Y would take it'
    [plugins]='every plugin in use on X exists for CP Y, in a version its DPs may have'
    [certificate]='both control planes have the same cluster certificate, valid for a week or more'
    [y-data-planes]='DPs of Y, as y.dp.conf says: plugins, certificate, Status API'
    [quarantine]='in-place: CP Y listens for DPs where those of X do not come'
    [pools]='the new pool has as many DPs as the old'
    [clients]='clients may be split between X and Y'
    [payload]='the configuration of X is not too large for DPs of CP Y'
    [space]='work_dir has room for three times the database of X'
)
readonly GUARD_CHECKS

# Those an operator may know better than.
readonly GUARDS_FORCEABLE=(path major data-planes certificate quarantine space ports y-data-planes pools clients payload)

GUARD_STATUS=0
declare -a OPT_FORCE=() FORCED=()

# force_check: refuses a --force that would do nothing.
force_check() {
    local name names=("${GUARDS_FORCEABLE[@]}" columns test-restore schemas export)
    (( ${#OPT_FORCE[@]} > 0 )) || return 0
    case $COMMAND in
        plan | 'cp preflight' | 'cp dual-cluster' | 'cp in-place' | 'cp open') ;;
        'cp resume')                names+=(old-pool) ;;
        # Those asked in the middle, where plan cannot ask yet.
        'cp backup')                names=(test-restore export) ;;
        'cp export')                names=(export) ;;
        'cp rollback')              names=(old-pool) ;;
        'cp migrate')               names=(columns) ;;
        'cp verify')                names=(columns schemas) ;;
        weight)                     names=(drift) ;;
        *)  usage "--force has no meaning for \"$COMMAND\"" ;;
    esac
    for name in "${OPT_FORCE[@]}"; do
        is_one_of "$name" "${names[@]}" || usage "no guard \"$name\" may be forced; these may: ${names[*]}"
    done
}

is_one_of() {
    local wanted=$1 word
    shift
    for word in "$@"; do
        [[ $word != "$wanted" ]] || return 0
    done
    return 1
}

# found TEXT: what a guard saw that satisfied it.
found() {
    printf '%s' "$(printable "$*")" >"$SCRATCH/found"
}

# Never called as a condition: a guard must stop at whatever goes wrong in it.
guards_run() {
    local guard
    node_cache on
    for guard in "${GUARDS[@]}"; do
        guard_run "$guard"
        [[ $guard != versions ]] || guards_ahead
    done
    node_cache off
}

# What takes long, and a later guard asks for.
guards_ahead() {
    in_place_begun || kong_ahead '' x migrations list
    kong_ahead "$NOWHERE" y migrations list
}

guard_run() {
    if is_one_of "$1" "${OPT_FORCE[@]}"; then
        guard_try "$1"
        cat -- "$SCRATCH/guard.warnings" >&2
        (( GUARD_STATUS == 0 )) || guard_force "$1"
    else
        "guard_${1//-/_}"
    fi
}

# insist NAME TEXT: a refusal, unless this guard is forced.
insist() {
    is_one_of "$1" "${OPT_FORCE[@]}" || refuse "$2, or insist: --force $1"
    REPLY=$2
    is_one_of "$1" "${FORCED[@]}" || guard_force "$1"
}

guard_force() {
    FORCED+=("$1")
    evidence "forced.$1" "$REPLY"
    warn "--force $1, although: $REPLY"
}

# guard_try NAME: the guard in a process of its own. GUARD_STATUS is its exit
# code, REPLY what it found or its refusal, guard.warnings its warnings.
guard_try() {
    local file=$SCRATCH/guard

    : >"$SCRATCH/found"
    GUARD_STATUS=0
    "guard_${1//-/_}" >"$file.out" 2>"$file.err" &
    CHILD=$!
    wait "$CHILD" || GUARD_STATUS=$?
    CHILD=
    rm -f -- "$SCRATCH/error"

    grep '^kong-shift: warning: ' -- "$file.err" >"$file.warnings" || true
    if (( GUARD_STATUS == 0 )); then
        REPLY=$(<"$SCRATCH/found")
    else
        REPLY=$(grep '^kong-shift: ' -- "$file.err" | grep -v '^kong-shift: warning: ' | tail -n 1) || true
        REPLY=${REPLY#kong-shift: }
        REPLY=${REPLY:-a command failed with $GUARD_STATUS, $(printable "$(log_says "$file.err")")}
    fi
}
