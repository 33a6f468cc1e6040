# What CP Y is going to send its DPs must pass the schemas of its version: a
# plugin that does not keeps them from taking any configuration at all.

# How many CP Y is asked about by one curl.
readonly SCHEMAS_AT_ONCE=200

guard_schemas() {
    local bad='' count=0 rows
    rm -rf -- "$SCRATCH/schemas"
    mkdir -- "$SCRATCH/schemas"
    schemas_rows >"$SCRATCH/schemas.all" || exit
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

# schemas_rows: where CP Y shows them, one of those that are alike.
schemas_rows() {
    sql y <<'SQL'
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

# schemas_read PATH...: the plugins there, into SCRATCH/schemas/0, 1 ..., as CP Y shows
# them. The database may hold fields that only X knows, and lack those of Y, which
# CP Y leaves out and fills in; a null that it shows its DPs refuse where it may not be.
schemas_read() {
    local dir=$SCRATCH/schemas i
    rm -f -- "$dir"/*
    for (( i = 0; i < $#; i++ )); do
        printf '%s' "${*:i + 1:1}" >"$dir/$i.path"
    done
    http_many y.admin GET "${SETTING[y.admin]}" "$dir" $# || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    for (( i = 0; i < $#; i++ )); do
        if [[ ${HTTP_MANY[i]} != 200 ]]; then
            HTTP_STATUS=${HTTP_MANY[i]} HTTP_BODY=$(tr -d '\0' <"$dir/$i.answer")
            unknown "CP Y was asked for $(<"$dir/$i.path"), and answered $(http_says y.admin); or insist: --force schemas"
        fi
        # A configuration may hold secrets, which must not be seen among arguments.
        mv -- "$dir/$i.answer" "$dir/$i"
        rm -- "$dir/$i.path"
    done
}

# schemas_ask COUNT: those that are refused, as text into REPLY.
schemas_ask() {
    local i name status text=
    http_many y.admin POST "${SETTING[y.admin]}/schemas/plugins/validate" "$SCRATCH/schemas" "$1" \
        || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    for (( i = 0; i < $1; i++ )); do
        status=${HTTP_MANY[i]}
        [[ $status != 200 ]] || continue
        name=$(jq -r '"\(.name) (\(.id))"' "$SCRATCH/schemas/$i")
        HTTP_STATUS=$status HTTP_BODY=$(tr -d '\0' <"$SCRATCH/schemas/$i.answer")
        [[ $status = 400 ]] || unknown "CP Y was asked whether plugin $name is right, and answered $(http_says y.admin); or insist: --force schemas"
        text+="; $name: $(field .message)"
    done
    REPLY=$text
}
