# The data planes, as their control planes see them. A sync_status of "normal"
# only says that a check once passed: it stays when a DP dies, or could not use
# what it was sent. So age, versions and configuration hashes decide.

# A DP pings every 30 s, and is taken for dead after this.
readonly PLANE_FRESH=45
PLANES_COUNT=

## dp list
##     Show every DP of CP X and CP Y, and whether it is as it should be.
##     Verdicts: fresh; stale (no ping for 45 s; what else is shown is of then);
##     refused (its version does not go with the CP's); frozen (has another
##     configuration than the other DPs, or gets no new one); no config; unknown.
cmd_dp_list() {
    local which rows='[]' code=0
    no_more_arguments "$@"
    settings_load
    need x.admin

    for which in x y; do
        [[ ${SETTING[$which.admin]-} ]] || continue
        if ! planes_read "$which"; then
            warn "CP ${which^} ${SETTING[$which.admin]} does not answer, its DPs are unknown: $HTTP_ERROR"
            code=$EXIT_UNKNOWN
            continue
        fi
        rows=$(jq -cs add <<<"$rows $REPLY")
    done
    rows=$(planes_elsewhere <<<"$rows")

    if [[ $OPT_JSON ]]; then
        jq . <<<"$rows"
    else
        planes_print <<<"$rows"
    fi
    (( code == 0 )) || end "$code"
}

planes_print() {
    local format='%-2s  %-36s  %-20s  %-8s  %-24s  %9s  %-8s  %s\n' fields
    # shellcheck disable=SC2059
    printf "$format" CP ID HOST VERSION SYNC_STATUS LAST_SEEN HASH VERDICT
    # A tab would swallow empty fields.
    while IFS=$'\x1f' read -r -a fields; do
        # shellcheck disable=SC2059
        printf "$format" "${fields[@]}"
    done < <(jq -r '.[] | [.cp, .id, .hostname, .version, .sync_status,
        (if .age == null then "?" else "\(.age) s" end), .config_hash[:8], .verdict + if .note then ": " + .note else "" end]
        | map(gsub("[[:cntrl:]]"; " ") | if . == "" then "-" else . end) | join("\u001f")')
}

# planes_read WHICH: the DPs of a control plane with their verdicts, into REPLY, and
# PLANES_COUNT. False when it does not answer.
planes_read() {
    local which=$1 rows=$SCRATCH/planes offset='' pages=0 version page
    kong_admin "$which" || return 1
    version=$KONG_VERSION
    [[ $KONG_ROLE = control_plane ]] || refuse \
        "$which.admin ${SETTING[$which.admin]} has role $KONG_ROLE, not control_plane, so it has no DPs"

    : >"$rows"
    while :; do
        admin_call "$which" GET "/clustering/data-planes?size=1000${offset:+&offset=$offset}" || return 1
        if [[ $HTTP_STATUS != 200 ]] || ! page=$(planes_judge "$which" "$version" "$rows" 2>/dev/null <<<"$HTTP_BODY"); then
            unknown "$which.admin ${SETTING[$which.admin]}: GET /clustering/data-planes was answered $(http_says "$which.admin")"
        fi
        { IFS= read -r offset; IFS= read -r REPLY; read -r PLANES_COUNT; } <<<"$page"
        pages=$(( pages + 1 ))
        [[ $offset && $pages -lt 100 ]] || break
        jq -c '.data[]' <<<"$HTTP_BODY" >>"$rows"
    done
}

# planes_judge WHICH VERSION ROWS: a page of the list of a CP of that version in, behind the
# ROWS of those before; out comes with what the next one begins, the verdicts, and of how many.
planes_judge() {
    jq -cer --slurpfile before "$3" --arg cp "$1" --arg version "$2" --argjson now "$(now %s)" --argjson fresh "$PLANE_FRESH" '
        def minor: [scan("[0-9]+") | tonumber][:2];
        def goes_with($cp): minor as $dp | ($cp | minor) as $cp
            | ($dp | length) == 2 and $dp[0] == $cp[0] and $dp[1] <= $cp[1];
        def text: if . == null then "" else tostring end;

        # An empty list may be {}, as Lua knows no difference.
        select(.data | type | IN("array", "object"))
        | (.offset // "" | tostring | @uri), ([$before[], .data[]]
        | map({cp: $cp, id: .id | text, hostname: .hostname | text, ip: .ip | text, version: .version | text,
            sync_status: .sync_status | text, config_hash: .config_hash | text, last_seen: .last_seen,
            age: (if .last_seen | type == "number" then $now - .last_seen else null end)})
        | map(. + if .age == null then {verdict: "unknown", note: "no last_seen"}
            elif .age < -$fresh then {verdict: "unknown", note: "last seen in the future, the clocks differ"}
            elif .age > $fresh then {verdict: "stale"}
            elif .sync_status == "kong_version_incompatible" or (.version | goes_with($version) | not)
                then {verdict: "refused", note: "CP is \($version); it goes on with what it has"}
            elif .config_hash | test("^0*$") then {verdict: "no config"}
            elif .sync_status | IN("plugin_set_incompatible", "plugin_version_incompatible", "filter_set_incompatible")
                then {verdict: "frozen", note: "on old config, gets no other"}
            elif .sync_status != "normal" then {verdict: "unknown", note: "its plugins were not checked"}
            else {verdict: "fresh"} end)
        # No CP tells the hash it wants, so what most have is taken for it.
        | ([.[] | select(.verdict == "fresh") | .config_hash] | group_by(.) | map({hash: .[0], count: length})
            | sort_by(-.count)) as $hashes
        | (if ($hashes | length) > 1 and $hashes[0].count == $hashes[1].count then null else $hashes[0].hash end) as $hash
        | map(if .verdict != "fresh" or .config_hash == $hash then .
            elif $hash == null then . + {verdict: "unknown", note: "the DPs have different configs, and none has the majority"}
            else . + {verdict: "frozen", note: "on another config than most"} end) | ., length)'
}

# A DP that moved stays in the list of the CP it left.
planes_elsewhere() {
    jq -c '. as $all | map(. as $row
        | ([$all[] | select(.id == $row.id and .cp != $row.cp and .age != null and (.verdict | IN("stale") | not))][0].cp) as $other
        | if .verdict == "stale" and $other then . + {note: "now on CP \($other | ascii_upcase)"} else . end)'
}

guard_data_planes() {
    local bad weak
    versions_known
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    if [[ $X_STOPPED ]]; then
        found "CP X is stopped; it had $(x_saved '.planes | length') DPs"
        return
    fi
    planes_read x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"

    { IFS= read -r bad; IFS= read -r weak; } < <(planes_text 'select((.verdict | IN("stale", "refused", "unknown")) or .beyond)' \
        'select(.verdict | IN("no config", "frozen"))') || unknown "the list of DPs of CP X could not be read"
    [[ -z $weak ]] || warn "CP X: $weak; look at \"kong-shift dp list\""
    [[ -z $bad ]] || refuse \
        "CP X: $bad; bring them in order, or if these DPs are of no account, insist: --force data-planes"
    found "$PLANES_COUNT DPs of CP X"
}

# planes_text FILTER...: for each a line, the rows of REPLY that it selects, as text.
# ".beyond" is set when CP Y would refuse the DP for its minor version.
planes_text() {
    local texts
    printf -v texts ', text(%s)' "$@"
    jq -r --arg y "$Y_VERSION" 'def minor: [scan("[0-9]+") | tonumber][:2];
        def text(select): [.[] | select | "DP \(.hostname) (\(.id), \(.version)) is "
            + if .beyond then "newer than CP Y, which would refuse it"
              else .verdict + (if .verdict == "stale" then ", last seen \(.age) s ago" elif .note then ", " + .note else "" end) end]
            | (.[:5] + if length > 5 then ["and \(length - 5) more"] else [] end) | join("; ") | gsub("[[:cntrl:]]"; " ");
        map(.beyond = ((.version | minor) as $dp | ($y | minor) as $y | $dp[0] == $y[0] and $dp[1] > $y[1]))
        | '"${texts:2}" <<<"$REPLY"
}
