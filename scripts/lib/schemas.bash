# What CP Y is going to send its DPs must pass the schemas of its version: a
# plugin that does not keeps them from taking any configuration at all.

# How many CP Y is asked about by one curl.
readonly SCHEMAS_AT_ONCE=200

guard_schemas() {
    local bad='' count=0 rows
    rm -rf -- "$SCRATCH/schemas"
    mkdir -- "$SCRATCH/schemas"
    schemas_rows >"$SCRATCH/schemas/all" || exit
    while mapfile -t -n "$SCHEMAS_AT_ONCE" rows && (( ${#rows[@]} > 0 )); do
        schemas_ask "${rows[@]}"
        bad+=$REPLY
        count=$(( count + ${#rows[@]} ))
        progress "plugins checked: $count"
    done <"$SCRATCH/schemas/all"
    rm -rf -- "$SCRATCH/schemas"
    [[ -z $bad ]] || refuse \
        "CP Y refuses the configuration of plugins it is to send: ${bad#; }; mend them on X and run it again, or insist: --force schemas"
    found "$count configurations of plugins"
}

# schemas_rows: those CP Y has, as migrations left them, a line of JSON each; in
# the form its Admin API has, but for times. X has the same in its own words,
# which Y need not understand. Alike ones are asked about once.
schemas_rows() {
    sql y <<'SQL'
SELECT count(*) > 0 AS groups FROM pg_attribute WHERE attrelid = 'plugins'::regclass AND attname = 'consumer_group_id' AND NOT attisdropped \gset
\if :groups
    \set more ', consumer_group_id IS NULL'
\else
    \set more ''
\endif
SELECT (SELECT json_object_agg(
        CASE WHEN key LIKE '%\_id' THEN left(key, -3) ELSE key END,
        CASE WHEN key LIKE '%\_id' AND value <> 'null' THEN jsonb_build_object('id', value) ELSE value END)
    FROM jsonb_each(to_jsonb(plugins)) WHERE key NOT IN ('ws_id', 'cache_key', 'created_at', 'updated_at'))
FROM plugins WHERE id IN (SELECT (array_agg(id))[1] FROM plugins
    GROUP BY name, config, protocols, service_id IS NULL, route_id IS NULL, consumer_id IS NULL :more)
ORDER BY name, id;
SQL
}

# schemas_ask ROW...: those that are refused, as text into REPLY.
schemas_ask() {
    local i=0 row name status text=
    # A configuration may hold secrets, which must not be seen among arguments.
    for row in "$@"; do
        printf '%s' "$row" >"$SCRATCH/schemas/$i"
        i=$(( i + 1 ))
    done
    http_many y.admin POST "${SETTING[y.admin]}/schemas/plugins/validate" "$SCRATCH/schemas" "$i" \
        || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    for (( i = 0; i < $#; i++ )); do
        status=${HTTP_MANY[i]}
        [[ $status != 200 ]] || continue
        name=$(jq -r '"\(.name) (\(.id))"' "$SCRATCH/schemas/$i")
        HTTP_STATUS=$status HTTP_BODY=$(tr -d '\0' <"$SCRATCH/schemas/$i.answer")
        [[ $status = 400 ]] || unknown "CP Y was asked whether plugin $name is right, and answered $(http_says y.admin); or insist: --force schemas"
        text+="; $name: $(field .message)"
    done
    REPLY=$text
}
