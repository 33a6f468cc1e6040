# Plugins: what X uses must exist on Y. A CP Y without one does not start, or
# sends its DPs nothing.

guard_plugins() {
    local used x=$SCRATCH/x.root
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$x"
    holds "$HTTP_BODY" '.plugins | has("enabled_in_cluster") and has("available_on_server")' || unknown \
        "x.admin ${SETTING[x.admin]}: GET / does not tell the plugins"
    used=$(jq -r '[.plugins.enabled_in_cluster[]] | sort | join(", ")' "$x")

    if node_up y; then
        printf '%s' "$HTTP_BODY" >"$SCRATCH/y.root"
        plugins_compare "$x" "$SCRATCH/y.root"
    else
        plugins_in_conf "$x"
    fi
    found "in use on X: ${used:-none}"
}

# plugins_compare X Y: two answers to GET /.
plugins_compare() {
    local missing clash
    missing=$(jq -rn --slurpfile x "$1" --slurpfile y "$2" '
        $y[0].plugins.available_on_server as $has | $y[0].configuration.loaded_plugins as $loaded
        | [$x[0].plugins.enabled_in_cluster[]
            | select($has[.] == null or ($loaded != null and $loaded[.] == null))] | sort | join(", ")')
    [[ -z $missing ]] || refuse "CP X uses plugins that CP Y does not have, or has not enabled: $missing; \
install them on CP Y first, then on its DPs, and name them in \"plugins\" of its conf"

    # Bundled plugins have the version of Kong, and Kong knows about those.
    clash=$(jq -rn --slurpfile x "$1" --slurpfile y "$2" '
        def number: if type == "string" then [scan("[0-9]+") | tonumber][:2] else [] end;
        [$x[0].plugins.enabled_in_cluster[] | select(. as $name | [$x[0].configuration.plugins[]?] | index($name))
            | . as $name | $x[0].plugins.available_on_server[.].version? as $old
            | $y[0].plugins.available_on_server[$name].version? as $new
            | ($old | number) as $o | ($new | number) as $n
            | select(($o | length) == 2 and ($n | length) == 2 and ($o[0] != $n[0] or $n[1] < $o[1]))
            | "\($name) \($old) -> \($new)"] | join(", ")')
    [[ -z $clash ]] || warn "CP Y would send no configuration to DPs that have the plugin of X: $clash; they must stay on CP X"
}

# plugins_in_conf X: as long as CP Y is not up, its conf tells.
plugins_in_conf() {
    local conf=${SETTING[y.conf]-} list missing
    if [[ -z $conf || ! -r $conf ]]; then
        warn "which plugins CP Y has is known only when it runs (there is no y.conf to be read here); \"kong-shift cp verify\" looks again"
        return
    fi
    conf_value "$conf" plugins
    list=${KONG_PLUGINS:-${REPLY:-bundled}}
    missing=$(jq -r --arg list "$list" '
        ($list | split(",") | map(gsub("^\\s+|\\s+$"; ""))) as $enabled
        | [.configuration.plugins[]?] as $own
        | [.plugins.enabled_in_cluster[] | select((. as $name | $enabled | index($name)) == null
            and (($enabled | index("bundled")) == null or (. as $name | $own | index($name)) != null))] | sort | join(", ")' "$1")
    [[ -z $missing ]] || refuse \
        "CP X uses plugins that $conf does not enable (plugins = $list): $missing; install them for Y and add them"
}

# The same once more, when CP Y runs.
plugins_verify() {
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$SCRATCH/x.root"
    kong_admin y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$SCRATCH/y.root"
    plugins_compare "$SCRATCH/x.root" "$SCRATCH/y.root"
}
