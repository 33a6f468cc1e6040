# What was done, in work_dir/journal.jsonl: one JSON object per line, only ever
# appended to, on the disk before the next thing happens.

RUN=
STEP_BEGUN=
STEP_RESULT=
declare -a STEP_EVIDENCE=()

# work_dir_open FUNCTION [ARG]...: runs FUNCTION as the only run in work_dir.
work_dir_open() {
    local dir=${SETTING[work_dir]} owner=

    work_dir_ours
    mkdir -p -- "$dir/log" 2>"$SCRATCH/mkdir.err" \
        || failed "work_dir \"$dir\" cannot be made: $(log_says "$SCRATCH/mkdir.err")"
    [[ -w $dir ]] || failed "work_dir \"$dir\" cannot be written to"

    exec 9>>"$dir/lock"
    if ! flock -n 9; then
        read -r owner <"$dir/lock" || true
        die "$EXIT_BUSY" "another run (process ${owner:-unknown}) works in $dir; wait for it to end"
    fi
    printf '%s\n' "$$" >"$dir/lock"

    journal_mend "$dir/journal.jsonl"
    KONG_HOME=$dir
    RUN=$(now %Y%m%dT%H%M%SZ)-$$
    # bash keeps the lock in a close-on-exec copy, so that a daemon which one
    # of the steps starts cannot take the lock with it.
    "$@" 9>&-
    journal_show
}

# Who may write to work_dir decides what is restored, and reads every key of Kong.
work_dir_ours() {
    local dir=${SETTING[work_dir]} path owner mode
    for path in "$dir" "$dir/."; do
        [[ -e $path || -L $path ]] || continue
        owner=$(stat -c %u -- "$path") mode=$(stat -L -c %a -- "$path") || failed "work_dir \"$dir\" cannot be looked at"
        [[ $owner = "$EUID" ]] || credential_error work_dir \
            "\"$dir\" belongs to $(stat -c %U -- "$path"), not to $(id -un), who runs this; choose another, or chown it"
        (( (8#$mode & 8#22) == 0 )) || credential_error work_dir "\"$dir\" has mode $mode, so others may write to it; chmod 700"
    done
}

# journal_mend FILE: a crash may have cut the last line short; the next must not
# become the rest of it. A file that is new is only there once its folder is.
journal_mend() {
    [[ -z $(tail -c 1 -- "$1" 2>/dev/null) ]] || printf '\n' >>"$1" || true
    [[ -e $1 ]] || { : >>"$1" && sync -- "${1%/*}"; } || failed "the journal $1 cannot be made"
}

# journal_show: for --json, how the steps of this run ended.
journal_show() {
    [[ $OPT_JSON && $RUN && $KONG_HOME = "${SETTING[work_dir]}" ]] || return 0
    jq -cR 'fromjson?' "$KONG_HOME/journal.jsonl" | jq -s --arg run "$RUN" 'map(select(.run == $run and .event == "end"))'
}

# journal EVENT [NAME VALUE]...: all of it strings.
journal() {
    local file=${SETTING[work_dir]}/journal.jsonl line
    json_object time "$(now %Y-%m-%dT%H:%M:%S).${EPOCHREALTIME: -6:3}Z" run "$RUN" command "$COMMAND" step "$STEP" event "$@" || REPLY=
    line=$REPLY
    if [[ $line != '{"time":'*'}' ]] || ! printf '%s\n' "$line" >>"$file" || ! sync -- "$file"; then
        # Not by die when die is what brought us here.
        STEP=
        failed "the journal $file cannot be written; nothing is done without it"
    fi
}

# step NUMBER/COUNT NAME FUNCTION
step() {
    local position=$1 function=$3

    STEP=$2 STEP_RESULT='done' STEP_EVIDENCE=() STEP_BEGUN=$EPOCHREALTIME
    say "[$position] $STEP"
    journal start
    "$function"
    journal end result "$STEP_RESULT" seconds "$(seconds_since "$STEP_BEGUN")" "${STEP_EVIDENCE[@]}"
    say "      $STEP_RESULT ($(seconds_since "$STEP_BEGUN") s)"
    STEP=
}

# evidence NAME VALUE: goes into the journal with the end of the step.
evidence() {
    STEP_EVIDENCE+=("$1" "$2")
}

journal_failure() {
    local reason="unexpected end"
    [[ -n $STEP && -n $RUN ]] || return 0
    [[ ! -s $SCRATCH/error ]] || reason=$(<"$SCRATCH/error")
    journal end result failed exit "$1" reason "$reason" "${STEP_EVIDENCE[@]}"
}

# save FILE: standard input becomes FILE, whole or not at all.
save() {
    local file=$1
    if ! { cat >"$file.tmp" && sync -- "$file.tmp" && mv -f -- "$file.tmp" "$file" && sync -- "${file%/*}"; }; then
        failed "cannot write $file"
    fi
}
