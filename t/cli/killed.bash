# kill -9 at a line of the journal, which is before or after a step. To be sourced
# after world.bash by a .bats file that has the function check.


# killer N: a sync that kills the script at the Nth line of the journal.
killer() {
    mkdir -p "$BATS_TEST_TMPDIR/bin"
    echo 0 >"$BATS_TEST_TMPDIR/lines"
    cat >"$BATS_TEST_TMPDIR/bin/sync" <<EOF
#!/bin/bash
[[ \$* != *journal.jsonl ]] || {
    lines=\$(( \$(<$BATS_TEST_TMPDIR/lines) + 1 ))
    echo "\$lines" >$BATS_TEST_TMPDIR/lines
    (( lines != $1 )) || kill -9 "\$PPID"
}
exec /usr/bin/sync "\$@"
EOF
    chmod +x "$BATS_TEST_TMPDIR/bin/sync"
}

# What it leaves behind must hold no password either.
killed() { TMPDIR=$BATS_TEST_TMPDIR PATH=$BATS_TEST_TMPDIR/bin:$PATH kong_shift "$@" >>"$BATS_TEST_TMPDIR/said" 2>&1; }

no_password() { run grep -rlF -e '(touch x)' "$BATS_TEST_TMPDIR"; echo "$output"; [ "$status" -eq 1 ]; }

# killed_at LINE COMMAND...
killed_at() {
    echo "$2 $3 killed at line $1"
    killer "$1"
    run ! killed "${@:2}"
    [ "$(<"$BATS_TEST_TMPDIR/lines")" = "$1" ]
    ! declare -F untouched >/dev/null || untouched "$1"
    check 0 '' cp status
}

# killed_in_turn COUNT COMMAND...: killed at the first of the COUNT lines it writes,
# each resume at one more. The last resume comes to its end; and once at the last line.
killed_in_turn() {
    local count=$1 line words=("${@:2}")
    for (( line = 1; line < count; line++ )); do
        killed_at "$line" "${words[@]}"
        words=(cp resume)
    done
    check 0 "$2 $3 was interrupted" cp resume
    killed_at "$count" "${@:2}"
    check 0 "nothing to resume: $2 $3 came to its end" cp resume
}

# killed_alone COUNT LINE COMMAND...: killed there only, then resumed.
killed_alone() {
    killed_at "${@:2}"
    if (( $2 < $1 )); then
        check 0 "$3 $4 was interrupted" cp resume
    else
        check 0 "nothing to resume: $3 $4 came to its end" cp resume
    fi
}

# Each line by itself takes many minutes.
only_long() { [[ ${KONG_SHIFT_LONG-} ]] || skip 'only with KONG_SHIFT_LONG=1'; }
