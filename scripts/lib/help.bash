# The help is the "##" comments above the commands, so it cannot disagree with them.

## help [COMMAND]
##     List the commands, or explain one.
cmd_help() {
    local wanted="$*" text

    if [[ -z $wanted || $wanted = help ]]; then
        cat <<'EOF'
usage: kong-shift [OPTION]... COMMAND [ARGUMENT]...

Commands:
EOF
        help_source | awk '
            /^## [a-z]/ { name = substr($0, 4); next }
            /^##  / && name != "" { sub(/^##  +/, ""); printf "  %-18s %s\n", name, $0; name = "" }
        '
        cat <<'EOF'

Options:
  -c, --config FILE   settings (default: $KONG_SHIFT_CONFIG or /etc/kong-shift.conf)
  -y, --yes           do not ask before a change
  -q, --quiet         print errors, and what was asked for, only
      --json          print JSON
      --force GUARD   go on although this guard says no (see "kong-shift plan")
  -h, --help          the same as "kong-shift help COMMAND"

Exit codes: 0 done, 1 failed, 2 wrong command line or settings, 3 refused by a
guard, 4 something could not be asked, 5 another run is active.
EOF
        return
    fi

    text=$(help_source | awk -v wanted="$wanted" '
        /^## [a-z]/ { head = substr($0, 4); name = head; sub(/ *\[.*/, "", name) }
        !/^##/ { name = "" }
        name == wanted { sub(/^## ?/, ""); print }
    ')
    [[ -n $text ]] || usage "unknown command \"$wanted\""
    printf 'usage: kong-shift %s\n' "$text"
}

help_source() {
    local part
    while IFS= read -r part; do
        cat -- "$LIB/$part"
    done < <(grep -o '[a-z]*\.bash' -- "$SELF")
}
