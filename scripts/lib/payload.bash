# What CP Y will send its DPs, the whole configuration in one message, must pass
# the limit of whoever receives it.

PAYLOAD=
PAYLOAD_RAW=
readonly PAYLOAD_SAMPLE=$(( 4 << 20 ))

guard_payload() {
    local limit size
    versions_known
    payload_limit
    limit=$REPLY
    server_facts x
    size=${FACTS[3]}
    payload_files
    # Compressed it is always less than in the database.
    if (( size <= limit )); then
        found "database of X $(mebibytes "$size"), cluster_max_payload $(mebibytes "$limit")"
        return
    fi
    payload_sample "$size"
    (( PAYLOAD <= limit )) || refuse "the configuration of X compresses to about $(mebibytes "$PAYLOAD"), and DPs of CP Y take \
$(mebibytes "$limit") (cluster_max_payload): set that higher on CP Y and on every DP that is to hang on it, in y.conf and y.dp.conf \
too, or insist: --force payload"
    (( PAYLOAD <= limit * 8 / 10 )) || warn "the configuration of X compresses to about $(mebibytes "$PAYLOAD"), near the limit of \
$(mebibytes "$limit") (cluster_max_payload)"
    payload_lmdb
    found "about $(mebibytes "$PAYLOAD") compressed, $(mebibytes "$PAYLOAD_RAW") as JSON; cluster_max_payload $(mebibytes "$limit")"
}

# payload_limit: the least of those who may receive it, into REPLY.
payload_limit() {
    local limit conf
    node_conf y cluster_max_payload
    limit=${REPLY:-$(payload_default "$Y_VERSION")}
    for conf in "${DP_CONFS[@]}"; do
        [[ -r $conf ]] || continue
        conf_value "$conf" cluster_max_payload
        REPLY=${REPLY:-$(payload_default "$Y_VERSION")}
        (( REPLY >= limit )) || limit=$REPLY
    done
    # In-place the DPs of X are to come to CP Y, and keep the limit they have.
    if [[ $STRATEGY = in-place ]]; then
        node_conf x cluster_max_payload
        REPLY=${REPLY:-$(payload_default "$X_VERSION")}
        (( REPLY >= limit )) || limit=$REPLY
    fi
    [[ $limit =~ ^[0-9]+$ ]] || unknown "cluster_max_payload is \"$limit\", which is no number; mend it, or insist: --force payload"
    REPLY=$limit
}

payload_default() {
    version_compare "$1" 3.4
    if (( REPLY < 0 )); then echo $(( 4 << 20 )); else echo $(( 16 << 20 )); fi
}

# payload_sample SIZE: of a database of that size, compressed into PAYLOAD, and
# before that into PAYLOAD_RAW. A part of the rows tells for all of them.
payload_sample() {
    local percent=$(( PAYLOAD_SAMPLE * 100 / $1 ))
    percent=$(( percent < 1 ? 1 : percent > 100 ? 100 : percent ))
    digest_ways
    run_long payload_child "$percent" || exit
    PAYLOAD=$(( $(<"$SCRATCH/payload") * 100 / percent ))
    PAYLOAD_RAW=$(( $(<"$SCRATCH/payload.raw") * 100 / percent ))
}

# Nothing of it is kept, as it holds every key.
payload_child() {
    local counter
    exec 7> >(wc -c >"$SCRATCH/payload.raw")
    counter=$!
    { digest_begin_sql ''; digest_session_sql; digest_tables_sql; cat <<'SQL'; echo 'COMMIT;'; } \
        | sql x percent="$1" volatile="${DB_VOLATILE[*]} schema_meta parameters tags" \
        | tee /dev/fd/7 | gzip | wc -c >"$SCRATCH/payload" || return
SELECT format('SELECT json_strip_nulls(row_to_json(kong_shift_row)) FROM %s AS kong_shift_row TABLESAMPLE BERNOULLI (%s)', name, :'percent')
FROM tables WHERE substring(label FROM '[^.]*$') <> ALL (string_to_array(:'volatile', ' '))
\gexec
SQL
    exec 7>&-
    wait "$counter"
}

# Entities are kept once for each way they are looked up.
payload_lmdb() {
    local conf limit text
    version_compare "$Y_VERSION" 3.0
    (( REPLY >= 0 )) || return 0
    version_compare "$Y_VERSION" 3.4
    (( REPLY < 0 )) && text=128m || text=2048m
    for conf in "${DP_CONFS[@]}"; do
        [[ -r $conf ]] || continue
        conf_value "$conf" lmdb_map_size
        text=${REPLY:-$text}
    done
    [[ $text =~ ^([0-9]+)([kmg]?)$ ]] || unknown "lmdb_map_size of the DPs of Y is \"$text\", which is no size; or insist: --force payload"
    case ${BASH_REMATCH[2]} in
        k) limit=$(( BASH_REMATCH[1] << 10 )) ;;
        m) limit=$(( BASH_REMATCH[1] << 20 )) ;;
        g) limit=$(( BASH_REMATCH[1] << 30 )) ;;
        *) limit=${BASH_REMATCH[1]} ;;
    esac
    (( PAYLOAD_RAW * 4 <= limit )) || warn "the configuration of X is about $(mebibytes "$PAYLOAD_RAW") as JSON and takes a DP several \
times that; lmdb_map_size of the DPs of Y is $text, look whether that is enough"
}

# Kong itself only warns of it; CP Y is started by us, with our limit.
payload_files() {
    local limit
    [[ ! ${SETTING[y.start]-} ]] || return 0
    limit=$(ulimit -n)
    [[ $limit = unlimited ]] || (( limit >= 4096 )) || warn "CP Y would be started with at most $limit open files (ulimit -n); Kong wants 4096"
}
