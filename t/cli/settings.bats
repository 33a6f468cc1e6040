#!/usr/bin/env bats
#
# kong-shift: command line, settings file, help, places it runs from.

# shellcheck disable=SC2016

setup() {
    ROOT=$(cd "$BATS_TEST_DIRNAME/../.." && pwd)
    CONF=$BATS_TEST_TMPDIR/kong-shift.conf
    cd "$BATS_TEST_TMPDIR" || exit
}

kong_shift() {
    "$ROOT/scripts/kong-shift" "$@" </dev/null
}

# refused LINE TEXT: settings with this second line are refused so.
refused() {
    printf 'shift = kong\n%s\n' "$1" >"$CONF"
    run kong_shift -c "$CONF" status
    echo "$output"
    [ "$status" -eq 2 ]
    [[ ${lines[0]} == "kong-shift: $CONF:2: $2"* ]]
    [ "${#lines[@]}" -eq 1 ]
}

# value KEY TEXT: what the script makes of "KEY = TEXT".
value() {
    printf '%s = %s\n' "$1" "$2" >"$CONF"
    bash -euc '. "$1/scripts/lib/log.bash"; . "$1/scripts/lib/settings.bash"; . "$1/scripts/lib/db.bash"
        OPT_CONFIG=$2 OPT_QUIET= OPT_JSON=
        settings_load; printf "%s" "${SETTING[$3]}"' - "$ROOT" "$CONF" "$1"
}

words() {
    bash -euc '. "$1/scripts/lib/settings.bash"; split_words "$2"; printf "<%s>" "${WORDS[@]}"' - "$ROOT" "$1"
}

@test "settings: what is wrong is refused with its line" {
    refused 'foo = 1' 'unknown setting "foo"'
    refused '$(touch x) = 1' 'expected "key = value"'
    refused 'shift' 'expected "key = value"'
    refused 'shift = a' 'shift was already set in line 1'
    refused 'x.db.name =' 'x.db.name has no value'
    refused 'x.db.name = # none' 'x.db.name has no value'
    refused $'x.db.name = a\001b' 'x.db.name holds a control character'
    refused "x.db.name = $(printf 'n%.0s' {1..64})" 'x.db.name is longer than 63 bytes'
    refused "shift2 = $(printf 'n%.0s' {1..5000})" 'unknown setting'
    refused "x.db.host = $(printf 'n%.0s' {1..5000})" 'x.db.host is longer than 255 bytes'
    for port in 0 65536 -1 abc 5432x 05432 18446744073709551617; do
        refused "x.db.port = $port" 'x.db.port must be a port from 1 to 65535'
    done
    for seconds in 0 1s -1 1000000; do
        refused "db_timeout = $seconds" 'db_timeout must be a number of seconds from 1 to 999999'
    done
    for url in ftp://a localhost:8040 http:// 'http://a b/' http://user:secret@a/ 'http://a/?q' unix:/a; do
        refused "lb = $url" 'lb must be a URL like http://127.0.0.1:8040/shift'
    done
    refused 'work_dir = here' 'work_dir must begin with /'
    refused 'y.start = "kong start' 'y.start has an unbalanced quote'
    refused 'y.start = ""' 'y.start names no command'
    [ ! -e x ]
}

@test "settings: odd values are only values" {
    local odd
    for odd in "a b" "a'b" 'a"b' '$(touch x)' '`touch x`' 'a; touch x' '-rf' '--help' '../..' 'a=b' 'a#b' '*' '~'; do
        [ "$(value x.db.name "$odd")" = "$odd" ]
    done
    [ "$(value x.db.name 'kong # not part of it')" = kong ]
    [ "$(value x.db.name 'kong \# part of it')" = 'kong # part of it' ]
    [ "$(value x.db.name $'kong  \t\r')" = kong ]
    [ "$(value x.admin 'http://127.0.0.1:8001/')" = http://127.0.0.1:8001 ]
    [ "$(value y.db.user me)" = me ]
    [ ! -e x ]
}

@test "settings: a command is split into words, and nothing else happens to it" {
    [ "$(words 'docker exec -e KONG_PG_PASSWORD cp kong')" = '<docker><exec><-e><KONG_PG_PASSWORD><cp><kong>' ]
    [ "$(words "  'a b'  \"c d\" e\\ f ")" = '<a b><c d><e f>' ]
    [ "$(words '$(touch x) `id` $HOME * ~ ; | &')" = '<$(touch><x)><`id`><$HOME><*><~><;><|><&>' ]
    [ "$(words "a'b c'd\"\" ''")" = '<ab cd><>' ]
    [ "$(words '"a\"b\\c\d"')" = '<a"b\c\d>' ]
    [ ! -e x ]
}

@test "settings: a missing file, a missing setting, a dead command" {
    run kong_shift -c /nonexistent status
    [ "$status" -eq 2 ]
    [[ $output == *'cannot read the settings file "/nonexistent"'* ]]
    run kong_shift -c / status
    [ "$status" -eq 2 ]
    : >"$CONF"
    run kong_shift -c "$CONF" status
    [ "$status" -eq 2 ]
    [[ $output == *'the setting lb is missing; "kong-shift status" needs it'* ]]
    printf '%s\n' 'lb = http://127.0.0.1:1' 'x.kong = /nonexistent/kong' 'y.kong = kong' 'x.admin = http://127.0.0.1:1' \
        'y.admin = http://127.0.0.1:1' 'y.db.name = y' 'y.prefix = /y' "work_dir = $PWD/work" >"$CONF"
    run kong_shift -c "$CONF" cp preflight
    [ "$status" -eq 1 ]
    [[ $output == *'the command "/nonexistent/kong" of x.kong'* ]]
}

@test "a change is not made without --yes when nobody can be asked" {
    printf '%s\n' 'lb = http://127.0.0.1:1' 'x.kong = kong' 'y.kong = kong' 'x.admin = http://127.0.0.1:1' \
        'y.admin = http://127.0.0.1:1' 'y.db.name = y' 'y.prefix = /y' "work_dir = $PWD/work" >"$CONF"
    run kong_shift -c "$CONF" cp dual-cluster
    [ "$status" -eq 3 ]
    [[ $output == *'add --yes'* ]]
    [ ! -e work ]
}

@test "command line: what is wrong is said in one line" {
    local words
    for words in nope 'cp nope' 'cp status extra' --nope 'cp -x' -c 'status --config' 'abort now' 'help nope' \
        'main' 'cp status;id' 'die' 'cp _x'
    do
        # shellcheck disable=SC2086
        run kong_shift $words
        echo "$words: $output"
        [ "$status" -eq 2 ]
        [ "${#lines[@]}" -eq 1 ]
    done
}

@test "runs through a symlink, installed or not" {
    mkdir -p 'in st/lib/kong-shift/lib' 'in st/bin'
    cp "$ROOT/scripts/kong-shift" 'in st/lib/kong-shift/'
    cp "$ROOT"/scripts/lib/*.bash 'in st/lib/kong-shift/lib/'
    ln -s ../lib/kong-shift/kong-shift 'in st/bin/kong-shift'
    ln -s 'in st/bin/kong-shift' again
    ./again help | grep -q dual-cluster
    (cd / && PATH="$BATS_TEST_TMPDIR/in st/bin:$PATH" kong-shift help cp freeze | grep -q freeze)
    ln -s "$ROOT/scripts/kong-shift" checkout
    ./checkout help | grep -q dual-cluster
}

@test "documentation: every setting and every command has its place" {
    local key name
    while IFS= read -r key; do
        grep -qF "\`$key\`" "$ROOT/docs/settings.md" || { echo "settings.md lacks $key"; false; }
    done < <(bash -c '. "$1/scripts/lib/settings.bash"; printf "%s\n" "${!SETTING_TYPE[@]}"' - "$ROOT")
    while IFS= read -r name; do
        grep -qF "kong-shift $name" "$ROOT/docs/cli.md" || { echo "cli.md lacks $name"; false; }
    done < <(grep -h -o '^## [a-z][a-z -]*[a-z]' "$ROOT"/scripts/lib/*.bash | cut -c 4-)
    while IFS= read -r name; do
        grep -qF -e "\`$name" "$ROOT/docs/cli.md" || { echo "cli.md lacks $name"; false; }
    done < <(grep -h -o '^ *## --*[^ ]*, --[a-z-]*\|^ *## --[a-z-]*' "$ROOT/scripts/kong-shift" | grep -o -e '--[a-z-]*')
}
