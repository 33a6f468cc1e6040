# What clients can tell the two versions apart by, while both serve.

guard_clients() {
    clients_sessions
    clients_counters
    clients_routes
    found "nothing that needs kong_shift_key"
}

# From 3.2 on a session is kept in another way: a cookie of X is none for Y, and back.
clients_sessions() {
    local used i without=''
    clients_cross 3.2 || return 0
    used=$(clients_plugins session openid-connect saml)
    [[ $used ]] || return 0
    lb_read_all
    for i in "${!LBS[@]}"; do
        [[ $(lb_field "$i" key) ]] || without+=", ${LBS[i]}"
    done
    [[ -z $without ]] || refuse "X uses $used, and cookies of $X_VERSION mean nothing to $Y_VERSION: split request by request, clients would \
be logged out again and again; set kong_shift_key to what identifies a client on ${without#, }, or insist: --force clients"
    warn "X uses $used: a client that moves between $X_VERSION and $Y_VERSION has to log in again; keep the time of both short"
}

# Each DP counts for itself, so twice as many DPs let twice as much pass.
clients_counters() {
    local rows
    rows=$(clients_local)
    (( rows > 0 )) || return 0
    warn "X has $rows rate limits that each DP counts for itself (policy local): while both pools serve, more passes than before, and \
a client that moves begins at 0"
    # Kong rewrites what older DPs need for policy redis only.
    if [[ $STRATEGY = in-place ]] && clients_cross 3.6; then
        warn "DPs $X_VERSION take no configuration from CP $Y_VERSION as long as there are such limits (\"unknown field\"): once they hang \
on CP Y they go on with the one they have, and after a restart have none"
    fi
}

clients_routes() {
    local x y
    node_conf x router_flavor
    x=$REPLY
    node_conf y router_flavor
    y=${REPLY:-traditional_compatible}
    [[ ! $x || $x = "$y" ]] || warn \
        "router_flavor is $x for CP X and $y for CP Y: requests may meet other routes; make them the same, on the DPs too"
    [[ $y = expressions && $STRATEGY = in-place ]] && clients_cross 3.7 || return 0
    warn "with router_flavor = expressions a DP $X_VERSION gets nothing from CP $Y_VERSION once there is a route without an expression, and \
no sync_status tells"
}

# clients_cross VERSION: X is older, Y is not.
clients_cross() {
    versions_known
    version_compare "$X_VERSION" "$1"
    (( REPLY < 0 )) || return 1
    version_compare "$Y_VERSION" "$1"
    (( REPLY >= 0 ))
}

# clients_plugins NAME...: those that are in use on X.
clients_plugins() {
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    jq -er '[.plugins.enabled_in_cluster[] | select(IN($ARGS.positional[]))] | join(", ")' --args -- "$@" <<<"$HTTP_BODY" 2>/dev/null \
        || unknown "x.admin ${SETTING[x.admin]}: GET / does not tell the plugins"
}

clients_local() {
    sql_row x <<'SQL'
SELECT count(*) FROM plugins
WHERE enabled AND name IN ('rate-limiting', 'rate-limiting-advanced', 'response-ratelimiting', 'graphql-rate-limiting-advanced')
    AND coalesce(config->>'policy', config->>'strategy') = 'local';
SQL
}
