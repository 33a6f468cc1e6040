# What is printed, how the script ends, and what it leaves running: nothing.

# The exit codes, declared here and nowhere else (docs/cli.md explains them).
readonly EXIT_FAILED=1      # something broke, or was found not to be as it should
readonly EXIT_USAGE=2       # the command line or the settings are wrong
readonly EXIT_REFUSED=3     # a guard said no
readonly EXIT_UNKNOWN=4     # something could not be asked, so nothing is known
readonly EXIT_BUSY=5        # another run works in the same folder

COMMAND=
SCRATCH=
CHILD=
FAULT=
STEP=

say() {
    [[ -z $OPT_QUIET ]] || return 0
    if [[ $OPT_JSON ]]; then
        printf '%s\n' "$*" >&2
    else
        printf '%s\n' "$*"
    fi
}

warn() {
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
    printf 'interrupted by a signal' >"$SCRATCH/error"
    printf 'kong-shift: interrupted\n' >&2
    exit "$1"
}

on_exit() {
    local code=$1

    trap '' HUP INT TERM
    trap - EXIT
    set +e
    [[ -z $CHILD ]] || kill_tree "$CHILD"
    if (( code != 0 )) && [[ ! -e $SCRATCH/error ]]; then
        ( die "$code" "$COMMAND stopped, a command failed with $code at $FAULT" )
    fi
    (( code == 0 )) || ( journal_failure "$code" )
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
run_long() {
    local status=0

    "$@" &
    CHILD=$!
    wait "$CHILD" || status=$?
    CHILD=
    return "$status"
}

# The one line of a log that says most: the first that tells of trouble, else the last.
log_says() {
    local file=$1 line=
    line=$(grep -m 1 -i -E 'error|fatal|aborted|bootstrap|(new|pending) migrations' -- "$file") || line=$(grep . -- "$file" | tail -n 1) || true
    printf '%s' "${line:-it printed nothing}"
}

# seconds_since EPOCHREALTIME: with one decimal.
seconds_since() {
    local now=$EPOCHREALTIME tenths
    tenths=$(( (${now/[.,]/} - ${1/[.,]/}) / 100000 ))
    printf '%d.%d' $(( tenths / 10 )) $(( tenths % 10 ))
}
