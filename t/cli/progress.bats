#!/usr/bin/env bats
#
# The line that shows how far a step is.

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    cat >"$BATS_TEST_TMPDIR/run" <<'END'
set -euo pipefail
. "$1/scripts/lib/log.bash"
OPT_QUIET=${QUIET-} OPT_JSON=${JSON-} STEP=backup STEP_BEGUN=$EPOCHREALTIME
amount() { ASKED=$(( ${ASKED-0} + 1 )); REPLY="$ASKED MB of $(printf 'x%.0s' {1..500})"$'\e[2J'; }
PROGRESS_BY=amount
say "[3/8] backup"
run_long sleep 1.1
say "      done"
run_long false || echo "status $?"
END
}

# on_terminal COMMAND: what it prints on a terminal of its own.
on_terminal() {
    TERM=xterm script -qec "$1" /dev/null </dev/null 3>&- | tr -d '\r'
}

@test "on a terminal the seconds and the amount are in one line, rewritten five times a second" {
    local out
    out=$(on_terminal "bash $BATS_TEST_TMPDIR/run $ROOT")
    printf '%q\n' "$out"
    [[ $out == *'      0:00  1 MB of xxx'* && $out =~ '      0:01  '[0-9]' MB of xxx' ]]
    [ "$(grep -o ' MB of' <<<"$out" | wc -l)" -le 7 ]
    # What comes after it finds an empty line, and no line is too long for the terminal.
    [[ $out == *$'\e[K      done'* && $out == *'status 1' ]]
    [[ $out != *'[2J'* ]]
    [[ ! $out =~ x{80} ]]
}

@test "elsewhere, and with --quiet, there is no such line" {
    local out
    out=$(bash "$BATS_TEST_TMPDIR/run" "$ROOT" 2>&1)
    [ "$out" = $'[3/8] backup\n      done\nstatus 1' ]
    out=$(on_terminal "QUIET=1 bash $BATS_TEST_TMPDIR/run $ROOT")
    [ "$out" = 'status 1' ]
    out=$(on_terminal "bash $BATS_TEST_TMPDIR/run $ROOT | cat")
    [ "$out" = $'[3/8] backup\n      done\nstatus 1' ]
    out=$(on_terminal "TERM=dumb bash $BATS_TEST_TMPDIR/run $ROOT")
    [ "$out" = $'[3/8] backup\n      done\nstatus 1' ]
}

@test "with --json the line is on standard error" {
    local out
    out=$(on_terminal "JSON=1 bash $BATS_TEST_TMPDIR/run $ROOT >$BATS_TEST_TMPDIR/out")
    [[ $out == *'1 MB of'* ]]
    [ "$(<"$BATS_TEST_TMPDIR/out")" = 'status 1' ]
}
