# The quarantine of CP Y, in-place: the DPs of X would connect to it by
# themselves, and all of them at once get a configuration that nobody has seen.

QUARANTINE=

guard_quarantine() {
    if [[ $STRATEGY != in-place ]]; then
        found "dual-cluster: CP X stays, and keeps its DPs"
        return
    fi
    if quarantine_over; then
        found "over, the gate was opened"
        return
    fi
    quarantine_guard
}

# Once the gate was opened the operator may let the DPs of X in.
quarantine_over() {
    # Nobody but this run opens it in between.
    [[ $QUARANTINE != on ]] || return 1
    lb_read_all
    if lb_all gate open && lb_hold '.gate.evidence.strategy == "in-place"'; then
        return
    fi
    QUARANTINE=on
    return 1
}

quarantine_guard() {
    local x y clash
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    x=$(listeners_of_node x)
    if node_up y; then
        y=$(listeners_of_node y)
    else
        y=$(listeners_of_conf)
    fi
    quarantine_clash "$x" "$y"
    clash=$REPLY
    [[ -z $clash ]] || quarantine_refuse "cluster_listen of CP Y ($clash) is where the DPs of X connect (CP X listens on \
${x//$'\n'/, }), so CP Y would send its configuration to all of them at once; give CP Y another port or address until it is \
validated, or, if no DP of X can reach it there, insist: --force quarantine"
    found "DPs of X know ${x//$'\n'/, }, CP Y listens on ${y//$'\n'/, }"
}

quarantine_refuse() {
    if is_one_of quarantine "${FORCED[@]}"; then
        warn "$1"
    else
        refuse "$1"
    fi
}

# listeners_of_node WHICH: cluster_listen of the node that just answered, one a line.
listeners_of_node() {
    kong_field "$1" cluster_listen
    [[ $REPLY ]] || unknown "GET / tells no cluster_listen; compare it yourself, then --force quarantine"
    printf '%s' "${REPLY//, /$'\n'}"
}

# What CP Y will listen on, as Kong finds it: environment, conf, default.
listeners_of_conf() {
    local conf=${SETTING[y.conf]-}
    REPLY=${KONG_CLUSTER_LISTEN-}
    if [[ -z $REPLY ]]; then
        [[ $conf && -r $conf ]] || unknown \
            "where CP Y will listen for DPs is not known, there is no y.conf to be read here; look at its cluster_listen yourself, then --force quarantine"
        conf_value "$conf" cluster_listen
    fi
    tr ',' '\n' <<<"${REPLY:-0.0.0.0:8005}" | sed 's/^[[:space:]]*//; s/[[:space:]]*$//'
}

# quarantine_clash X Y: the listener of Y that some listener of X is as well, into REPLY.
quarantine_clash() {
    local mine theirs one other
    while IFS= read -r mine; do
        while IFS= read -r theirs; do
            one=${mine%%[[:space:]]*} other=${theirs%%[[:space:]]*}
            [[ ${one##*:} = "${other##*:}" ]] || continue
            one=${one%:*} other=${other%:*}
            if [[ $one = "$other" || $one = @(0.0.0.0|'[::]'|'*') || $other = @(0.0.0.0|'[::]'|'*') ]]; then
                REPLY=$mine
                return
            fi
        done <<<"$1"
    done <<<"$2"
    REPLY=
}

# What CP Y says itself, now that it runs: its environment may be another than ours.
quarantine_of_running() {
    local x y
    quarantine_since
    ! quarantine_over || return 0
    node_up y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    y=$(listeners_of_node y)
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    x=$(listeners_of_node x)
    evidence cluster_listen "${y//$'\n'/, }"
    quarantine_clash "$x" "$y"
    [[ $REPLY ]] || return 0
    is_one_of quarantine "${FORCED[@]}" || node_stop y
    quarantine_refuse "CP Y listens for DPs on $REPLY, where the DPs of X connect, and was stopped again; give it another \
cluster_listen until it is validated; if DPs of X were served, \"kong-shift cp rollback\" gives them the configuration of X back"
}

# quarantine_proof: no DP of X was heard by CP Y. Those that lost CP X try to
# come back within seconds, so it takes that long to be sure.
quarantine_proof() {
    local attached left since
    ! quarantine_over || return 0
    x_known count
    left=$REPLY
    quarantine_since
    since=$REPLY
    while [[ ${left:-0} != 0 ]] && (( $(now %s) - since < PLANE_RETRY )); do
        progress "waiting whether DPs of X come to CP Y"
        sleep 0.5
    done
    planes_read y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    attached=$(jq -r --arg y "$Y_VERSION" --slurpfile x "${SETTING[work_dir]}/x-node.json" '
        [.[] | select(.version | startswith($y) | not)
            | select(.last_seen != null and .last_seen > ($x[0].heartbeats[.id] // 0 | ceil))
            | "\(.hostname) (\(.id), \(.version))"] | join(", "), "end"' <<<"$REPLY")
    [[ $attached = *$'\n'end ]] || unknown "the list of DPs of CP Y could not be compared with that of CP X"
    attached=${attached%$'\n'end}
    evidence attached "${attached:-none}"
    [[ -z $attached ]] || quarantine_refuse "CP Y is not in quarantine, DPs of X are on it: $attached; they have its \
configuration already; \"kong-shift cp rollback\" gives them that of X back"
}

# quarantine_since: when CP Y was started, or was first seen to be up, into REPLY.
quarantine_since() {
    local file=${SETTING[work_dir]}/in-place.json
    in_place_read
    if [[ ! $IN_PLACE_STARTED ]]; then
        jq --argjson since "$(now %s)" '.started = $since' "$file" >"$SCRATCH/in-place"
        save "$file" <"$SCRATCH/in-place"
        in_place_read
    fi
    REPLY=$IN_PLACE_STARTED
}

# Across a major version CP Y refuses the DPs of X, and there is no CP X for them.
guard_major() {
    versions_known
    [[ $STRATEGY != in-place || ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || refuse \
        "CP $Y_VERSION refuses DPs $X_VERSION (another major version), and in-place there is no CP X for them: they would go on with the configuration they have; upgrade dual-cluster (set y.db.name), or insist: --force major"
    found "$STRATEGY, $X_VERSION -> $Y_VERSION"
}
