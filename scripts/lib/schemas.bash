# What CP Y is going to send its DPs must pass the schemas of its version: a
# plugin that does not keeps them from taking any configuration at all.

# How many CP Y is asked about by one curl.
readonly SCHEMAS_AT_ONCE=200

guard_schemas() {
    local bad='' count=0 rows
    rm -rf -- "$SCRATCH/schemas"
    mkdir -- "$SCRATCH/schemas"
    while mapfile -t -n "$SCHEMAS_AT_ONCE" rows && (( ${#rows[@]} > 0 )); do
        schemas_read "${rows[@]}"
        schemas_ask "${#rows[@]}"
        bad+=$REPLY
        count=$(( count + ${#rows[@]} ))
        progress "plugins checked: $count"
    done <"$SCRATCH/schemas.all"
    rm -rf -- "$SCRATCH/schemas"
    [[ -z $bad ]] || refuse \
        "CP Y refuses the configuration of plugins it is to send: ${bad#; }; mend them on X and run it again, or insist: --force schemas"
    found "$count configurations of plugins"
}

# schemas_rows: where CP Y shows them, one of those that are alike, into schemas.all.
schemas_rows() {
    sql y >"$SCRATCH/schemas.all" <<'SQL'
SELECT count(*) > 0 AS groups FROM pg_attribute WHERE attrelid = 'plugins'::regclass AND attname = 'consumer_group_id' AND NOT attisdropped \gset
\if :groups
    \set more ', consumer_group_id IS NULL'
\else
    \set more ''
\endif
SELECT CASE WHEN w.name <> 'default' THEN '/' || w.name ELSE '' END || '/plugins/' || p.id
FROM plugins p LEFT JOIN workspaces w ON w.id = p.ws_id
WHERE p.id IN (SELECT (array_agg(id))[1] FROM plugins
    GROUP BY ws_id, name, config, protocols, service_id IS NULL, route_id IS NULL, consumer_id IS NULL :more)
ORDER BY p.name, p.id;
SQL
}

# schemas_read PATH...: the plugins there, into SCRATCH/schemas/0.plugin ..., as CP Y shows
# them. The database may hold fields that only X knows, and lack those of Y, which
# CP Y leaves out and fills in; a null that it shows its DPs refuse where it may not be.
schemas_read() {
    local dir=$SCRATCH/schemas i
    http_many y.admin GET "$dir" '' plugin "${@/#/"${SETTING[y.admin]}"}" || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    for (( i = 0; i < $#; i++ )); do
        [[ ${HTTP_MANY[i]} != 200 ]] || continue
        HTTP_STATUS=${HTTP_MANY[i]} HTTP_BODY=$(tr -d '\0' <"$dir/$i.plugin")
        unknown "CP Y was asked for ${*:i + 1:1}, and answered $(http_says y.admin); or insist: --force schemas"
    done
}

# schemas_ask COUNT: those that are refused, as text into REPLY.
schemas_ask() {
    local dir=$SCRATCH/schemas i name text='' urls=()
    for (( i = 0; i < $1; i++ )); do
        urls+=("${SETTING[y.admin]}/schemas/plugins/validate")
    done
    # A configuration may hold secrets, which must not be seen among arguments.
    http_many y.admin POST "$dir" plugin answer "${urls[@]}" || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    for (( i = 0; i < $1; i++ )); do
        [[ ${HTTP_MANY[i]} != 200 ]] || continue
        name=$(jq -r '"\(.name) (\(.id))"' "$dir/$i.plugin")
        HTTP_STATUS=${HTTP_MANY[i]} HTTP_BODY=$(tr -d '\0' <"$dir/$i.answer")
        [[ $HTTP_STATUS = 400 ]] || unknown "CP Y was asked whether plugin $name is right, and answered $(http_says y.admin); or insist: --force schemas"
        text+="; $name: $(field .message)"
    done
    REPLY=$text
}
