# What is printed, how the script ends, and what it leaves running: nothing.

# The exit codes, declared here and nowhere else.
## 0
##     Done.
## 1
##     Something failed, or was found not to be as it should.
readonly EXIT_FAILED=1
## 2
##     The command line or the settings are wrong; nothing was done.
readonly EXIT_USAGE=2
## 3
##     Refused by a guard, or by the endpoint; the sentence says what to do.
readonly EXIT_REFUSED=3
## 4
##     Something could not be asked, so nothing is known about it.
##     This never counts as passed.
readonly EXIT_UNKNOWN=4
## 5
##     Another run works in the same work_dir.
readonly EXIT_BUSY=5
## 129, 130, 143
##     Ended by HUP, INT, TERM.

COMMAND=
SCRATCH=
CHILD=
declare -a CHILDREN=()
FAULT=
STEP=
PROGRESS_BY=
PROGRESS_AT=0
PROGRESS_ON=

say() {
    [[ -z $OPT_QUIET ]] || return 0
    progress_clear
    if [[ $OPT_JSON ]]; then
        printf '%s\n' "$*" >&2
    else
        printf '%s\n' "$*"
    fi
}

# progress TEXT: what a step is at, after its seconds, in a line that the next one
# overwrites; on a terminal only, and five times a second at most.
progress() {
    local now=${EPOCHREALTIME/[.,]/} seconds line

    progress_wanted && (( now - PROGRESS_AT >= 200000 )) || return 0
    PROGRESS_AT=$now PROGRESS_ON=1
    seconds=$(( (now - ${STEP_BEGUN/[.,]/}) / 1000000 ))
    printf -v line '%d:%02d  %s' $(( seconds / 60 )) $(( seconds % 60 )) "$(printable "$1")"
    # A line that wraps could not be overwritten.
    printf '\r      %s\033[K' "${line:0:$(( ${COLUMNS:-80} - 7 ))}" >&2
}

progress_wanted() {
    [[ $STEP && -z $OPT_QUIET && ${TERM:-dumb} != dumb && -t 2 && ( $OPT_JSON || -t 1 ) ]]
}

progress_clear() {
    if [[ $PROGRESS_ON && -t 2 ]]; then
        printf '\r\033[K' >&2
    fi
    PROGRESS_ON=
}

warn() {
    progress_clear
    printf 'kong-shift: warning: %s\n' "$(printable "$*")" >&2
}

# end CODE: not 0, but everything there is to say has been said.
end() {
    : >"$SCRATCH/error"
    exit "$1"
}

# now FORMAT: the time, UTC.
now() {
    TZ=UTC0 printf "%($1)T" -1
}

# Text of other programs ends up in messages; it must not drive the terminal.
printable() {
    local text=$1
    printf '%s' "${text//[[:cntrl:]]/ }"
}

# die CODE MESSAGE: one sentence, then the end.
die() {
    local code=$1 text
    shift
    text=$(printable "$*")
    progress_clear
    printf 'kong-shift: %s\n' "$text" >&2
    # Kept in a file, because die may run in a command substitution.
    [[ -z $SCRATCH ]] || printf '%s' "$text" >"$SCRATCH/error"
    exit "$code"
}

failed()  { die "$EXIT_FAILED" "$@"; }
refuse()  { die "$EXIT_REFUSED" "$@"; }
unknown() { die "$EXIT_UNKNOWN" "$@"; }
usage()   { die "$EXIT_USAGE" "$*; see \"kong-shift help\""; }

no_more_arguments() {
    (( $# == 0 )) || usage "$COMMAND takes no argument \"$1\""
}

confirm() {
    local answer=

    [[ -z $OPT_YES ]] || return 0
    [[ -t 0 ]] || refuse "$COMMAND: $1; to do it without being asked, add --yes"
    printf '%s. Go on? [y/N] ' "$1" >&2
    read -r answer || true
    [[ $answer = [yY] || $answer = [yY][eE][sS] ]] || refuse "$COMMAND: stopped, nothing was changed"
}

# The folder for what need not outlive the run.
scratch() {
    [[ -z $SCRATCH ]] || return 0
    SCRATCH=$(mktemp -d "${TMPDIR:-/tmp}/kong-shift.XXXXXXXX") || SCRATCH=
    [[ -d $SCRATCH ]] || die "$EXIT_FAILED" "no folder for temporary files can be made in ${TMPDIR:-/tmp}"
    set -E
    trap 'FAULT="${BASH_SOURCE[0]##*/}:$LINENO"' ERR
    trap 'on_exit $?' EXIT
    trap 'on_signal 129' HUP
    trap 'on_signal 130' INT
    trap 'on_signal 143' TERM
}

on_signal() {
    trap '' HUP INT TERM
    progress_clear
    printf 'interrupted by a signal' >"$SCRATCH/error"
    printf 'kong-shift: interrupted\n' >&2
    exit "$1"
}

on_exit() {
    local code=$1 child

    trap '' HUP INT TERM
    trap - EXIT
    set +e
    for child in $CHILD "${CHILDREN[@]}" "${KONG_AHEAD[@]%% *}"; do
        kill_tree "$child"
    done
    if (( code != 0 )) && [[ ! -e $SCRATCH/error ]]; then
        ( die "$code" "$COMMAND stopped, a command failed with $code at $FAULT" )
    fi
    (( code == 0 )) || ( journal_failure "$code"; journal_show )
    rm -rf -- "$SCRATCH"
    exit "$code"
}

# A background child is a stranger to Ctrl-C, and the commands we start are
# wrappers of wrappers: end the tree, the leaves last so that none is lost.
kill_tree() {
    local pid=$1 child children=
    read -r children <"/proc/$pid/task/$pid/children" || true
    kill -TERM "$pid" 2>/dev/null
    for child in $children; do
        kill_tree "$child"
    done
} 2>/dev/null

# bash runs no trap before a foreground command ends, but a wait it leaves at once.
# Meanwhile the function PROGRESS_BY, if there is one, gives the text of progress in REPLY.
run_long() {
    local status=0 pause=0.02

    orphan "$@" &
    CHILD=$!
    while progress_wanted && kill -0 "$CHILD" 2>/dev/null; do
        REPLY=
        [[ -z $PROGRESS_BY ]] || "$PROGRESS_BY"
        progress "$REPLY"
        sleep "$pause" || true
        pause=0.2
    done
    wait "$CHILD" || status=$?
    CHILD=
    return "$status"
}

# orphan COMMAND...: in a process of its own, which has no children yet.
orphan() {
    CHILDREN=()
    "$@"
}

# child COMMAND...: beside the caller, which waits with children_wait.
child() {
    local errors=$SCRATCH/child.$BASHPID.${#CHILDREN[@]}
    orphan "$@" 2>"$errors" &
    CHILDREN+=("$!")
}

# Once one has failed nobody waits for the others, and only that one speaks.
children_wait() {
    local i code status=0 errors=$SCRATCH/child.$BASHPID says=$SCRATCH/children.says.$BASHPID
    for i in "${!CHILDREN[@]}"; do
        (( status == 0 )) || kill_tree "${CHILDREN[i]}" || true
        code=0
        wait "${CHILDREN[i]}" || code=$?
        (( code != 0 && status == 0 )) || continue
        status=$code
        cat -- "$errors.$i" >&2
        sed -n 's/^kong-shift: //p' "$errors.$i" | tail -n 1 >"$says"
    done
    CHILDREN=()
    (( status == 0 )) || mv -- "$says" "$SCRATCH/error"
    return "$status"
}

# The one line of a log that says most: the first that tells of trouble, else the last;
# one that ends with a colon with what follows.
log_says() {
    local file=$1 line lines
    mapfile -t lines < <(grep -m 1 -A 3 -i -E 'error|fatal' -- "$file" \
        || grep -m 1 -i -E 'aborted|bootstrap|(new|pending) migrations' -- "$file" \
        || grep . -- "$file" | tail -n 1)
    for line in "${lines[@]:1}"; do
        [[ ${lines[0]} = *: ]] || break
        lines[0]+=" ${line#"${line%%[![:space:]]*}"}"
    done
    printf '%s' "${lines[0]:-it printed nothing}"
}

# seconds_since EPOCHREALTIME: with one decimal.
seconds_since() {
    local now=$EPOCHREALTIME tenths
    tenths=$(( (${now/[.,]/} - ${1/[.,]/}) / 100000 ))
    printf '%d.%d' $(( tenths / 10 )) $(( tenths % 10 ))
}
