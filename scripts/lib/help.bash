# The help, the manual page and the completion are the "##" comments above commands,
# options and exit codes, so they cannot disagree with them.

## help [COMMAND]
##     List the commands, or explain one.
cmd_help() {
    local wanted="$*"

    case $wanted in
        '' | help)  help_all ;;
        cp | dp)    help_group "$wanted" ;;
        *)          help_command "$wanted" ;;
    esac
}

help_all() {
    printf 'usage: kong-shift [OPTION]... COMMAND [ARGUMENT]...\n\nCommands:\n'
    help_list command
    printf '\nOptions:\n'
    help_list option
    printf '\nExit codes:\n'
    help_list exit
}

# help_group WORD: the commands that begin with it.
help_group() {
    printf 'usage: kong-shift [OPTION]... %s COMMAND\n\nCommands:\n' "$1"
    help_list command "$1 "
    printf '\nMore: kong-shift help %s COMMAND\n' "$1"
}

help_command() {
    local text
    text=$(help_source | awk -v wanted="$1" '
        /^@/ { name = $0; sub(/^@command /, "", name); head = name; sub(/ *(\[| [A-Z]).*/, "", name); on = name == wanted }
        on   { print /^@/ ? "usage: kong-shift " head : "    " $0 }
    ')
    [[ -n $text ]] || unknown_command "$1"
    printf '%s\n' "$text"
}

# help_list KIND [PREFIX]: a line for each, with the first line of its text.
help_list() {
    help_source | awk -v start="@$1 ${2-}" -v kind="@$1 " '
        head != "" { heads[++n] = head; texts[n] = $0; head = "" }
        index($0, start) == 1 { sub(/ \[--.*/, ""); head = substr($0, length(kind) + 1); if (length(head) > width) width = length(head) }
        END { for (i = 1; i <= n; i++) printf "  %-" width "s  %s\n", heads[i], texts[i] }
    '
}

# help_source: "@command NAME", "@option NAME" or "@exit CODE", and the lines of its text.
help_source() {
    local part
    while IFS= read -r part; do
        cat -- "$LIB/$part"
    done < <(grep -o '[a-z-]*\.bash' -- "$SELF") | cat -- - "$SELF" | awk '
        /^ *## [^ ]/  { sub(/^ *## /, ""); on = 1
                        print (/^-/ ? "@option " : /^[0-9]/ ? "@exit " : "@command ") $0; next }
        on && /^ *##/ { sub(/^ *## ?/, ""); sub(/^    /, ""); print; next }
        { on = 0 }
    '
}

# What was meant may be one word away: "rollback" is "cp rollback".
unknown_command() {
    local name meant
    meant=$(help_source | sed -n 's/^@command //p' | sed -E 's/ *(\[| [A-Z]).*//' | while IFS= read -r name; do
        [[ ${name##* } != "${1##* }" ]] || printf '%s' "$name"
    done)
    [[ -z $meant ]] || die "$EXIT_USAGE" "unknown command \"$1\"; did you mean \"kong-shift $meant\"?"
    [[ $1 != [cd]p\ * ]] || die "$EXIT_USAGE" "unknown command \"$1\"; see \"kong-shift help ${1%% *}\""
    usage "unknown command \"$1\""
}
