# The end of the road: CP X is stopped for good, admin writes are allowed again,
# and one of them is seen to reach every DP of CP Y. Each step may find its work done.

readonly CANARY_TAG=kong-shift-canary

## decommission
##     The end: stop CP X for good, allow admin writes, see one reach every DP of Y.
##     Refused until every load balancer has sent everything to the new pool for the
##     time "hold", the dump is whole, no DP is alive on CP X, and, in-place, "cp
##     finish" was run. The database of X and the dump stay where they are.
cmd_decommission() {
    no_more_arguments "$@"
    settings_load
    need_upgrade
    confirm "this stops CP X for good and allows admin writes, which then reach Y alone"
    work_dir_open decommission
}

decommission() {
    step 1/4 check    phase_decommission_check
    step 2/4 retire   phase_retire_x
    step 3/4 unfreeze phase_unfreeze
    step 4/4 canary   phase_canary
    say "CP Y ($Y_VERSION) is all there is now. Keep the dump $DUMP (sha256 $BACKUP_SHA256)."
    [[ $STRATEGY = in-place ]] || say "Database $(db_label x) is left where it is; drop it yourself when nobody wants it any more."
}

phase_decommission_check() {
    versions_known
    decommission_dump
    if [[ $STRATEGY = in-place ]]; then
        [[ $(migrate_pending) = none ]] || refuse \
            "database $(db_label y) has migrations that are not finished; run \"kong-shift cp finish\" first"
    fi
    lb_read_all
    lb_all gate open off || refuse "the gate is closed, so CP Y was not proved; run \"kong-shift cp $STRATEGY\" first"
    weight_held decommission
    drain_nobody old
    decommission_y
    decommission_x
}

decommission_dump() {
    backup_need
    [[ $(backup_sha256 "$DUMP") = "$BACKUP_SHA256" ]] || failed \
        "the dump $DUMP is not what was written (other checksum), so there would be no archive of X; find it before X is gone"
    evidence dump "$BACKUP"
    evidence sha256 "$BACKUP_SHA256"
}

# Every DP of CP Y must be in order, or nobody could tell whom the canary reached.
decommission_y() {
    local bad
    node_up y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    kong_admin_is y "$Y_VERSION"
    finish_planes
    planes_read y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    bad=$(planes_text 'select(.verdict | IN("stale", "fresh") | not)')
    [[ -z $bad ]] || refuse "CP Y: $bad; bring them in order first, see \"kong-shift dp list\""
    holds "$REPLY" 'any(.[]; .verdict == "fresh")' || refuse \
        "CP Y has no DP that is alive, so nothing can serve what the load balancers send; see \"kong-shift dp list\""
}

decommission_x() {
    local alive
    if ! node_up x; then
        return
    fi
    [[ $STRATEGY != in-place ]] || refuse \
        "CP X ($KONG_VERSION) answers at x.admin ${SETTING[x.admin]}; stop it, two versions on one database harm it"
    kong_admin_is x "$X_VERSION"
    node_words x stop
    planes_read x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    alive=$(planes_text 'select(.verdict != "stale")')
    [[ -z $alive ]] || refuse "CP X still has DPs: $alive; stop them first, one that was just stopped counts for $PLANE_FRESH s"
}

phase_retire_x() {
    if ! node_up x; then
        STEP_RESULT='already down'
        return
    fi
    kong_admin_is x "$X_VERSION"
    node_stop x
}

# A consumer that means nothing, made and removed again. Each change is seen to
# arrive before the next, or the one would pass for the other.
phase_canary() {
    local name=$CANARY_TAG-$RUN before
    canary_gone
    canary_planes
    before=$REPLY
    admin_call y POST /consumers "$(jq -nc --arg name "$name" --arg tag "$CANARY_TAG" '{username: $name, tags: [$tag]}')" \
        || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    [[ $HTTP_STATUS = 201 ]] || failed "CP Y does not take admin writes: POST ${SETTING[y.admin]}/consumers was answered $(http_says y.admin)"
    canary_wait "$before"
    canary_gone
    evidence canary "$name"
    evidence dps "$(jq length <<<"$before")"
}

# canary_planes: the DPs that are alive and what they have, into REPLY.
canary_planes() {
    planes_read y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    REPLY=$(jq -c '[.[] | select(.verdict != "stale") | {id, config_hash}]' <<<"$REPLY")
}

canary_gone() {
    local before
    canary_planes
    before=$REPLY
    canary_remove
    (( REPLY == 0 )) || canary_wait "$before"
}

# canary_wait BEFORE: every DP that was alive then has got one other configuration.
canary_wait() {
    local before=$1 begun=$SECONDS left
    while :; do
        planes_read y || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
        left=$(jq -r --argjson before "$before" '. as $rows | [$before[] | . as $old | ([$rows[] | select(.id == $old.id)][0]) as $new
            | select($new.config_hash == null or $new.config_hash == $old.config_hash or $new.verdict != "fresh") | .id]
            | join(", "), "end"' <<<"$REPLY")
        [[ $left = *$'\n'end ]] || unknown "the list of DPs of CP Y could not be read"
        [[ ${left%$'\n'end} ]] || return 0
        if (( SECONDS - begun >= SETTING[canary_timeout] )); then
            canary_remove
            failed "an admin write to CP Y did not reach these of its DPs within ${SETTING[canary_timeout]} s (setting canary_timeout): \
${left%$'\n'end}; look at \"kong-shift dp list\", then run it again"
        fi
        progress "waiting for the canary to reach every DP"
        sleep 0.5
    done
}

# Also those of runs that were cut short; how many there were, into REPLY.
canary_remove() {
    local id count=0
    admin_call y GET "/consumers?tags=$CANARY_TAG" || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
    [[ $HTTP_STATUS = 200 ]] || unknown "GET ${SETTING[y.admin]}/consumers was answered $(http_says y.admin)"
    for id in $(field '.data[] | select(.username | startswith("kong-shift-canary-")) | .id'); do
        admin_call y DELETE "/consumers/$id" || unknown "y.admin ${SETTING[y.admin]} does not answer: $HTTP_ERROR"
        [[ $HTTP_STATUS = 204 ]] || failed "the consumer $id of a canary write could not be removed: $(http_says y.admin); remove it yourself"
        count=$(( count + 1 ))
    done
    REPLY=$count
}
