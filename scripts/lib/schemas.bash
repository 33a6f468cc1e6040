# What CP Y is going to send its DPs must pass the schemas of its version: a
# plugin that does not keeps them from taking any configuration at all.

guard_schemas() {
    local body name bad='' count=0
    schemas_rows
    while IFS= read -r body; do
        # A configuration may hold secrets, which must not be seen among arguments.
        printf '%s' "$body" >"$SCRATCH/plugin"
        name=$(jq -r '"\(.name) (\(.id))"' "$SCRATCH/plugin")
        admin_call y POST /schemas/plugins/validate "@$SCRATCH/plugin" \
            || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
        case $HTTP_STATUS in
            200) ;;
            400) bad+="; $name: $(field .message)" ;;
            *)   unknown "CP Y was asked whether plugin $name is right, and answered $(http_says y.admin); or insist: --force schemas" ;;
        esac
        count=$(( count + 1 ))
        progress "plugins checked: $count"
    done <"$SCRATCH/plugins.checked"
    [[ -z $bad ]] || refuse \
        "CP Y refuses the configuration of plugins it is to send: ${bad#; }; mend them on X and run it again, or insist: --force schemas"
    found "$count configurations of plugins"
}

# schemas_rows: those CP Y has, as migrations left them. X has the same in its
# own words, which Y need not understand. Alike ones are asked about once.
schemas_rows() {
    local offset='' pages=0
    : >"$SCRATCH/plugins.all"
    while :; do
        admin_call y GET "/plugins?size=1000${offset:+&offset=$offset}" \
            || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
        if [[ $HTTP_STATUS != 200 ]] || ! holds "$HTTP_BODY" '.data | type | IN("array", "object")'; then
            unknown "y.admin ${SETTING[y.admin]}: GET /plugins was answered $(http_says y.admin)"
        fi
        jq -c '.data[]' <<<"$HTTP_BODY" >>"$SCRATCH/plugins.all"
        uri_encode "$(field .offset)"
        offset=$REPLY pages=$(( pages + 1 ))
        [[ $offset ]] || break
        (( pages < 1000 )) || unknown "y.admin ${SETTING[y.admin]}: GET /plugins has no end"
    done
    jq -cs 'unique_by([.name, .config, .protocols, (.service, .route, .consumer, .consumer_group | . == null)])[]' \
        "$SCRATCH/plugins.all" >"$SCRATCH/plugins.checked" || unknown "y.admin ${SETTING[y.admin]}: GET /plugins is no list of plugins"
}
