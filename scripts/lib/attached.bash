# DPs of X on CP Y: let on it when its quarantine is over (in-place), or moved there.

# So many answers of the old pool are looked at, or those of so many seconds.
readonly ATTACHED_ANSWERS=500 ATTACHED_SECONDS=10

PLANES=

## cp attached
##     See that the DPs of X which were let on CP Y took the configuration it sends.
##     Waits until each is fresh: seen since, "normal", and with the one configuration
##     all have; in-place those are all that hung on CP X. After attach_timeout it
##     says which are not, and how they get back. So it does when Kong's own 404s
##     became more in the old pool than before the gate was opened.
cmd_cp_attached() {
    no_more_arguments "$@"
    settings_load
    need lb x.admin x.kong y.admin y.kong
    work_dir_open step 1/1 attached phase_attached
}

phase_attached() {
    local begun=$SECONDS bad back
    versions_known
    backup_need
    if [[ $STRATEGY = in-place ]]; then
        back="close cluster_listen of CP Y to them again; what they have they keep, and \"kong-shift cp rollback\" gives them that of X back"
        in_place_begun || refuse "\"kong migrations up\" was never run by \"cp in-place\" in ${SETTING[work_dir]}; CP Y is not there yet"
        ! in_place_crosses || refuse "CP Y ($Y_VERSION) refuses DPs $X_VERSION, another major version; keep its port closed to them"
    else
        back="point cluster_control_plane of these back to CP X and reload them: they get its configuration at once"
    fi
    while :; do
        planes_read y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
        attached_bad "$REPLY"
        bad=$REPLY
        [[ $bad ]] || break
        (( SECONDS - begun < SETTING[attach_timeout] )) || refuse "CP Y: $bad, after ${SETTING[attach_timeout]} s (setting attach_timeout); \
to detach: $back"
        progress "waiting for DPs of X: ${bad%%;*}"
        sleep 1
    done
    evidence dps "$(jq -r 'map(select(.verdict == "fresh") | .id) | join(" ")' <<<"$PLANES")"
    evidence config_hash "$(jq -r 'map(select(.verdict == "fresh") | .config_hash) | unique | join(" ")' <<<"$PLANES")"
    attached_not_found "$back"
    say "      $(jq -r --arg y "$Y_VERSION" 'map(select(.version | startswith($y) | not) | select(.verdict == "fresh")) | length' <<<"$PLANES") DPs of X have what CP Y sends"
}

# old_pool_answers: what the old pool has answered so far, and how often Kong itself
# with 404, an array of one object for each load balancer, into REPLY.
old_pool_answers() {
    local lb answers=
    for lb in "${LBS[@]}"; do
        lb_must "$lb" "reading the pool old" GET /pools/old
        # Without Kong's headers nobody can tell its 404s from those behind it.
        answers+=$(jq -ce --arg lb "$lb" '.counters | {$lb, all: (.responses | add), not_found: (.not_found.gateway + .not_found.unknown)}' \
            2>/dev/null <<<"$HTTP_BODY") || unknown "$lb: GET /pools/old tells no counters"
    done
    REPLY=$(jq -sc . <<<"$answers")
}

# old_pool_keep: how it was while its DPs had the configuration of X alone.
old_pool_keep() {
    old_pool_answers
    save "${SETTING[work_dir]}/old-pool.json" <<<"$REPLY"
}

# attached_not_found BACK: the share of 404s from now on is about that of old_pool_keep.
attached_not_found() {
    local kept=${SETTING[work_dir]}/old-pool.json begun=$SECONDS from after all not_found compared
    [[ -s $kept ]] || { warn "the old pool's 404s before the gate was opened are not known, so nobody can tell whether they became more"; return; }
    old_pool_answers
    from=$REPLY
    while :; do
        old_pool_answers
        after=$(jq -r --argjson from "$from" '(map(.all) | add) - ($from | map(.all) | add), (map(.not_found) | add) - ($from | map(.not_found) | add)' <<<"$REPLY")
        { read -r all; read -r not_found; } <<<"$after"
        (( all < ATTACHED_ANSWERS && SECONDS - begun < ATTACHED_SECONDS )) || break
        progress "looking at what the old pool answers, $all so far"
        sleep 0.2
    done
    if (( all < 20 || not_found < 0 )); then
        warn "the old pool answered only $all requests meanwhile, too few to tell whether its 404s became more"
        return
    fi
    # Twice as many, or one in a hundred, may be chance, or a scanner.
    compared=$(jq -r --argjson all "$all" --argjson not_found "$not_found" '(map(.not_found) | add) as $n | ([map(.all) | add, 1] | max) as $of
        | ($n / $of) as $was | ($not_found / $all) as $is
        | ($is > 2 * $was + 0.01), "\($is * 1000 | round / 10) % of \($all), before \($was * 1000 | round / 10) %"' "$kept") \
        || failed "$kept cannot be read"
    evidence not_found "${compared#*$'\n'}"
    [[ $compared != true* ]] || refuse "since DPs of X hang on CP Y, Kong answers more requests to the old pool with 404 by itself: \
${compared#*$'\n'}; its configuration may lack routes; to detach: $1"
}

# attached_bad PLANES: of CP Y, what is wrong with those of X among them, into
# REPLY; empty is good. In-place their rows are of before the stop, too: who was
# not seen since is not there.
attached_bad() {
    local wanted='[]' heard='{}'
    PLANES=$1
    if [[ $STRATEGY = in-place ]]; then
        wanted=$(x_saved '.planes | map(select(.verdict != "stale") | {id, hostname})')
        heard=$(x_saved .heartbeats)
    fi
    REPLY=$(jq -rn --argjson planes "$PLANES" --argjson wanted "${wanted:-[]}" --argjson heard "${heard:-"{}"}" --arg y "$Y_VERSION" '
        def late($row): ($row.last_seen // 0) <= (($heard[$row.id] // 0) | ceil);
        ([$planes[] | select((.version | startswith($y) | not) and .verdict != "stale")] + [$planes[] | select(.id | IN($wanted[].id))]
            | unique_by(.id)) as $rows
        | if ($rows + $wanted) == [] then ["no DP of X is on it"] else
            [$wanted[] | select(.id | IN($rows[].id) | not) | "DP \(.hostname) (\(.id)) is not on it"]
            + [$rows[] | if late(.) then "DP \(.hostname) (\(.id), \(.version)) has not come" elif .verdict == "fresh" then empty
                else "DP \(.hostname) (\(.id), \(.version)) is \(.verdict)" + (if .note then ", " + .note else "" end) end] end
        | (.[:5] + if length > 5 then ["and \(length - 5) more"] else [] end | join("; ")), "end"')
    [[ $REPLY = *$'\n'end ]] || unknown "the list of DPs of CP Y could not be compared with that of CP X"
    REPLY=${REPLY%$'\n'end}
}
