#!/usr/bin/env bats
#
# kong-shift help.

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    cd "$BATS_TEST_TMPDIR" || exit
}

kong_shift() {
    "$ROOT/scripts/kong-shift" "$@" </dev/null
}

# What the source has functions for.
commands() {
    grep -h -o '^cmd_[a-z_]*' "$ROOT"/scripts/lib/*.bash | sed 's/^cmd_//; s/^\([cd]p\)_/\1 /; s/_/-/g'
}

# What the source has branches for.
options() {
    sed -n '/^main()/,/^}/p' "$ROOT/scripts/kong-shift" | grep -o -e '--[a-z][a-z-]*' | sort -u
}

@test "help lists every command and explains each" {
    local name all
    all=$(kong_shift)
    [ "$(kong_shift help)" = "$all" ]
    [ "$(commands | wc -l)" -gt 15 ]
    while IFS= read -r name; do
        echo "$name"
        grep -qE -e "^  $name( \[.*\])? +[A-Z]" <<<"$all"
        [ "$name" != help ] || continue
        # shellcheck disable=SC2086
        kong_shift help $name >one
        [[ $(<one) == "usage: kong-shift $name"*$'\n    '[A-Z]* ]]
        # shellcheck disable=SC2086
        kong_shift $name --help | cmp - one
    done < <(commands)
}

@test "each line of the lists is a whole sentence; the usage line has what belongs to the command" {
    local all
    all=$(kong_shift help; kong_shift cp; kong_shift dp)
    run grep -E '^  [^ ].*[^.]$' <<<"$all"
    [ "$output" = '' ]
    grep -qE '^  drain POOL +Close' <<<"$all"
    [[ $(kong_shift help drain) == 'usage: kong-shift drain POOL [--rate N] [--deadline TIME] [--wait [--hold TIME]]'$'\n'* ]]
    [[ $(kong_shift help safe) == 'usage: kong-shift safe POOL [--hold TIME]'$'\n'* ]]
}

@test "help lists every option and every exit code" {
    local option code all
    all=$(kong_shift help)
    [ "$(options | wc -l)" -ge 6 ]
    while IFS= read -r option; do
        echo "$option"
        grep -qE -e "^  (-[a-z], )?$option( [A-Z]+)? +[A-Z]" <<<"$all"
    done < <(options)
    while IFS= read -r code; do
        grep -qE -e "^  $code +[A-Z]" <<<"$all"
    done < <(grep -h -o '^readonly EXIT_[A-Z]*=[0-9]*' "$ROOT/scripts/lib/log.bash" | cut -d= -f2)
}

@test "cp and dp alone list their commands, and only those" {
    local group
    for group in cp dp; do
        kong_shift "$group" >list
        kong_shift help "$group" | cmp - list
        kong_shift "$group" -h | cmp - list
        [ "$(grep -c "^  $group " list)" -eq "$(commands | grep -c "^$group ")" ]
        run grep -E '^  [a-z]' list
        [ "${#lines[@]}" -eq "$(commands | grep -c "^$group ")" ]
    done
}

@test "an unknown command: what was meant, or where the commands are listed" {
    run kong_shift rollback
    [ "$status" -eq 2 ]
    [ "$output" = 'kong-shift: unknown command "rollback"; did you mean "kong-shift cp rollback"?' ]
    run kong_shift cp abort
    [ "$output" = 'kong-shift: unknown command "cp abort"; did you mean "kong-shift abort"?' ]
    run kong_shift help dual-cluster
    [ "$output" = 'kong-shift: unknown command "dual-cluster"; did you mean "kong-shift cp dual-cluster"?' ]
    run kong_shift cp nope
    [ "$status" -eq 2 ]
    [ "$output" = 'kong-shift: unknown command "cp nope"; see "kong-shift help cp"' ]
    run kong_shift nope
    [ "$output" = 'kong-shift: unknown command "nope"; see "kong-shift help"' ]
}

# Text of the manual page, a line a paragraph, without styles.
manual() {
    groff -man -ww -Tascii -rLL=5000n kong-shift.8 2>warnings | sed 's/.\x08//g; s/\x1b\[[0-9;]*m//g; s/^ *//'
}

@test "the manual page has every command, option, exit code, guard and setting, and no fault" {
    local name kind
    "$ROOT/scripts/man-page" >kong-shift.8
    manual >text
    cat warnings
    [ ! -s warnings ]
    # "TAG text" in one line if the tag is short, else in two.
    while IFS= read -r name; do
        echo "$name"
        grep -qE -e "^(-[a-z], )?$name( [A-Z]+| \[[A-Z]+\])?( +[A-Z]|$)" text
    done < <(commands; options; grep -h -o '^readonly EXIT_[A-Z]*=[0-9]*' "$ROOT/scripts/lib/log.bash" | cut -d= -f2)
    while IFS= read -r name; do
        echo "$name"
        grep -qE -e "(^|, )$name(,| |$)" text
    done < <(bash -c '. "$1/scripts/lib/settings.bash"; . "$1/scripts/lib/guards.bash"
        printf "%s\n" "${!SETTING_TYPE[@]}" "${GUARDS[@]}"' - "$ROOT")
    # Its text is the text of the help.
    kong_shift help cp rollback | sed 1d | while IFS= read -r name; do
        tr -s '\n ' '  ' <text | grep -qF -e "$(tr -s ' ' <<<"${name# *}")"
    done
}

# completes WORD...: what is offered for the last one, sorted, in one line.
completes() {
    bash -uc '. ./completion; shift 0
        COMP_WORDS=(kong-shift "$@") COMP_CWORD=$# COMPREPLY=()
        _kong_shift kong-shift "${!#}" "${COMP_WORDS[$#-1]}"
        (( ${#COMPREPLY[@]} == 0 )) || printf "%s\n" "${COMPREPLY[@]}" | sort | paste -s -d " "' - "$@"
}

@test "completion: commands, their second words, options, guards, files" {
    local list
    "$ROOT/scripts/completion" >completion
    touch settings.conf 'set tings.conf'
    [ "$(bash -c '. ./completion; complete -p kong-shift')" = 'complete -F _kong_shift kong-shift' ]

    list=$(commands | cut -d ' ' -f 1 | sort -u | paste -s -d ' ')
    [ "$(completes '')" = "$list" ]
    [ "$(completes --yes -c settings.conf '')" = "$list" ]
    [ "$(completes help '')" = "$list" ]
    list=$(commands | sed -n 's/^cp //p' | sort | paste -s -d ' ')
    [ "$(completes cp '')" = "$list" ]
    [ "$(completes --force space cp '')" = "$list" ]
    [ "$(completes help cp '')" = "$list" ]
    [ "$(completes cp du)" = dual-cluster ]
    [ "$(completes dp '')" = list ]
    [ "$(completes cp status '')" = '' ]
    [ "$(completes weight '')" = '' ]
    [ "$(completes drain '')" = 'new old' ]
    [ "$(completes --rate 5 --wait safe n)" = new ]
    [ "$(completes help drai)" = drain ]

    [ "$(completes cp dual-cluster --y)" = --yes ]
    for list in $(options); do
        [[ " $(completes cp status -) " == *" $list "* ]]
    done
    list=$(bash -c '. "$1/scripts/lib/guards.bash"; printf "%s\n" "${GUARDS_FORCEABLE[@]}"' - "$ROOT" | sort | paste -s -d ' ')
    [ "$(completes cp dual-cluster --force '')" = "$list" ]
    [ "$(completes --force = '')" = "$list" ]
    [ "$(completes --force =)" = "$list" ]
    [ "$(completes --force = spa)" = space ]

    [ "$(completes -c set)" = 'set tings.conf settings.conf' ]
    [ "$(completes --config = sett)" = settings.conf ]
    [ "$(completes cp status --config sett)" = settings.conf ]
}

@test "make install-script puts command, manual page and completion in place" {
    env -u MAKEFLAGS -u MAKELEVEL -u MFLAGS make -s -C "$ROOT" install-script DESTDIR="$PWD/root" PREFIX=/usr >/dev/null
    cmp root/usr/share/man/man8/kong-shift.8 <("$ROOT/scripts/man-page")
    cmp root/usr/share/bash-completion/completions/kong-shift <("$ROOT/scripts/completion")
    root/usr/bin/kong-shift help | cmp - <(kong_shift help)
    [ -z "$(find root -newermt 1970-01-01 -perm /022 ! -type l)" ]
}
