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
