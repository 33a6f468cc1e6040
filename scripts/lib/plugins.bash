# Plugins: what X uses must exist on Y. A CP Y without one does not start, or
# sends its DPs nothing.

PLUGINS_USED=
PLUGINS_MISSING=
PLUGINS_OWN=

guard_plugins() {
    local x=$SCRATCH/x.root conf=${SETTING[y.conf]-} list=
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$x"
    if [[ -r $conf ]]; then
        conf_value "$conf" plugins
        list=${KONG_PLUGINS:-${REPLY:-bundled}}
    fi
    plugins_look "$x" "$list"
    if node_up y; then
        printf '%s' "$HTTP_BODY" >"$SCRATCH/y.root"
        plugins_compare "$x" "$SCRATCH/y.root"
    else
        plugins_in_conf "$x" "$list"
    fi
    found "in use on X: ${PLUGINS_USED:-none}"
}

# plugins_compare X Y: two answers to GET /.
plugins_compare() {
    local missing clash
    # Bundled plugins have the version of Kong, and Kong knows about those.
    { IFS= read -r missing; IFS= read -r clash; } < <(jq -rn --slurpfile x "$1" --slurpfile y "$2" '
        def number: if type == "string" then [scan("[0-9]+") | tonumber][:2] else [] end;
        $y[0].plugins.available_on_server as $has | $y[0].configuration.loaded_plugins as $loaded
        | $x[0].plugins.enabled_in_cluster as $used
        | [[$used[] | select($has[.] == null or ($loaded != null and $loaded[.] == null))] | sort,
            [$used[] | select(. as $name | [$x[0].configuration.plugins[]?] | index($name))
                | . as $name | $x[0].plugins.available_on_server[.].version? as $old | $has[$name].version? as $new
                | ($old | number) as $o | ($new | number) as $n
                | select(($o | length) == 2 and ($n | length) == 2 and ($o[0] != $n[0] or $n[1] < $o[1]))
                | "\($name) \($old) -> \($new)"]]
        | .[] | join(", ") | gsub("[[:cntrl:]]"; " ")') || unknown "what plugins CP X uses, and CP Y has, could not be compared"
    [[ -z $missing ]] || refuse "CP X uses plugins that CP Y does not have, or has not enabled: $missing; \
install them on CP Y first, then on its DPs, and name them in \"plugins\" of its conf"
    plugins_clash_says "$clash"
}

# plugins_clash_says LIST: X -> Y, of plugins that DPs of X would have to have in another version.
plugins_clash_says() {
    [[ $1 ]] || return 0
    # Across a major version they get nothing in any case.
    [[ $STRATEGY != in-place ]] || in_place_crosses || refuse "CP Y would send no configuration to DPs of X, whose plugins are of another \
version: $1; in-place there is no CP X for them; give CP Y the version X has, or upgrade dual-cluster (set y.db.name)"
    warn "CP Y would send no configuration to DPs that have the plugin of X: $1; they must stay on CP X"
}

# plugins_in_conf X LIST: as long as CP Y is not up, its conf tells.
plugins_in_conf() {
    if [[ ! $2 ]]; then
        warn "which plugins CP Y has is known only when it runs (there is no y.conf to be read here); \"kong-shift cp verify\" looks again"
        return
    fi
    [[ -z $PLUGINS_MISSING ]] || refuse \
        "CP X uses plugins that ${SETTING[y.conf]} does not enable (plugins = $2): $PLUGINS_MISSING; install them for Y and add them"
    plugins_versions_in_conf "$1"
}

# plugins_look X LIST: of X, an answer to GET /: the plugins in use into PLUGINS_USED, those
# not in LIST, as "plugins" of kong.conf has it, into PLUGINS_MISSING, and into
# PLUGINS_OWN those that are not bundled with Kong, whose version is Kong's.
plugins_look() {
    { IFS= read -r PLUGINS_USED; IFS= read -r PLUGINS_MISSING; IFS= read -r PLUGINS_OWN; } < <(jq -r --arg list "$2" '
        select(.plugins | has("available_on_server"))
        | ($list | split(",") | map(gsub("^\\s+|\\s+$"; ""))) as $enabled
        | [.configuration.plugins[]?] as $own
        | [.plugins.enabled_in_cluster[]] | sort | join(", "),
            (map(select((. as $name | $enabled | index($name)) == null
                and (($enabled | index("bundled")) == null or (. as $name | $own | index($name)) != null))) | join(", ")),
            (map(select(. as $name | $own | index($name)) | select(test("^[A-Za-z0-9_-]+$"))) | join(" "))' "$1" 2>/dev/null) \
        || unknown "x.admin ${SETTING[x.admin]}: GET / does not tell the plugins"
}

# plugins_versions_in_conf X: of what CP Y has installed, as far as it can be read here.
plugins_versions_in_conf() {
    local name old clash=
    for name in $PLUGINS_OWN; do
        old=$(jq -r --arg name "$name" '.plugins.available_on_server[$name].version? // empty' "$1")
        plugin_version_in "${SETTING[y.conf]}" "$name"
        [[ $old && $REPLY ]] || continue
        ! plugins_clash "$REPLY" "$old" || clash+=", $name $old -> $REPLY"
    done
    plugins_clash_says "${clash#, }"
}

# plugins_clash CP DP: a CP with this version of a plugin sends nothing to a DP with that one.
plugins_clash() {
    local cp dp
    IFS=. read -r -a cp <<<"$1"
    IFS=. read -r -a dp <<<"$2"
    [[ ${cp[0]} != "${dp[0]}" ]] || (( 10#${cp[1]:-0} < 10#${dp[1]:-0} ))
}

# plugin_version_in CONF NAME: of the handler that lua_package_path of CONF leads to,
# into REPLY; empty when there is none to be seen here. Read as text, never run.
plugin_version_in() {
    local conf=$1 name=$2 path file
    conf_value "$conf" lua_package_path
    path="$REPLY;/usr/local/share/lua/5.1/?.lua;/usr/local/openresty/site/lualib/?.lua"
    REPLY=
    while IFS= read -r -d ';' file; do
        file=${file//'?'/kong/plugins/$name/handler}
        [[ $file = /* && -f $file && -r $file ]] || continue
        # shellcheck disable=SC2016
        REPLY=$(sed -n 's/.*VERSION[[:space:]]*=[[:space:]]*["'\'']\([0-9][0-9]*\.[0-9][0-9.]*\)["'\''].*/\1/p' "$file" | head -n 1)
        return
    done <<<"$path;"
}

# plugin_version_y NAME: what CP Y has, running or to be started, into REPLY.
plugin_version_y() {
    if node_up y; then
        REPLY=$(jq -r --arg name "$1" '.plugins.available_on_server[$name].version? // empty' <<<"$HTTP_BODY")
    elif [[ -r ${SETTING[y.conf]-} ]]; then
        plugin_version_in "${SETTING[y.conf]}" "$1"
    else
        REPLY=
    fi
}

# The same once more, when CP Y runs.
plugins_verify() {
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$SCRATCH/x.root"
    kong_admin y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$SCRATCH/y.root"
    plugins_compare "$SCRATCH/x.root" "$SCRATCH/y.root"
}
