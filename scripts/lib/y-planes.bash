# The DPs of Y before there are any: what y.dp.conf, a copy of their kong.conf, says.

guard_y_data_planes() {
    local conf
    if (( ${#DP_CONFS[@]} == 0 )); then
        warn "nothing is known of the DPs of Y; set y.dp.conf to a copy of their kong.conf that can be read here"
        found "no y.dp.conf"
        return
    fi
    versions_known
    for conf in "${DP_CONFS[@]}"; do
        [[ -r $conf && -f $conf ]] || unknown "y.dp.conf $conf cannot be read, so nothing is known of these DPs; mend it, or insist: --force y-data-planes"
        y_planes_role "$conf"
        y_planes_certificate "$conf"
        y_planes_status "$conf"
        y_planes_plugins "$conf"
    done
    found "${DP_CONFS[*]}"
}

# y_planes_refuse CONF TEXT
y_planes_refuse() {
    refuse "y.dp.conf $1: $2, or insist: --force y-data-planes"
}

y_planes_role() {
    conf_value "$1" role
    [[ $REPLY = data_plane ]] || y_planes_refuse "$1" "it says role = ${REPLY:-traditional}; a DP of Y needs data_plane"
    conf_value "$1" database
    [[ $REPLY = off ]] || y_planes_refuse "$1" "it says database = ${REPLY:-postgres}; a DP of Y needs off"
    conf_value "$1" cluster_control_plane
    [[ $REPLY ]] || y_planes_refuse "$1" "it says no cluster_control_plane, so a DP would ask its own host; name CP Y"
}

# In shared mode CP Y takes no DP with another certificate, and the DP sees a closed connection only.
y_planes_certificate() {
    local theirs y
    node_conf y cluster_mtls
    [[ ${REPLY:-shared} = shared ]] || return 0
    conf_value "$1" cluster_cert
    theirs=$REPLY
    node_conf y cluster_cert; y=$REPLY
    if [[ ! -r $theirs || ! -r $y ]]; then
        warn "y.dp.conf $1: its cluster_cert (${theirs:-not set}) cannot be compared here with that of CP Y (${y:-not set})"
        return
    fi
    cat -- "$theirs" >"$SCRATCH/dp.pem"
    cat -- "$y" >"$SCRATCH/y.pem"
    certificate_look dp
    certificate_look y
    [[ $(certificate_line dp 'sha256 Fingerprint=') = "$(certificate_line y 'sha256 Fingerprint=')" ]] || y_planes_refuse "$1" \
        "its cluster certificate ($theirs) is not that of CP Y ($y), which would refuse the DP; give it the same"
}

# Without the Status API nobody can tell a DP that is ready from one that is empty,
# which answers 404 to everything.
y_planes_status() {
    conf_value "$1" status_listen
    [[ $REPLY ]] || port_default status_listen
    [[ $REPLY != off ]] || y_planes_refuse "$1" \
        "status_listen is off, so nobody can ask such a DP whether it is ready; set it to an address the load balancers reach"
    [[ $REPLY != 127.* ]] || warn "y.dp.conf $1: status_listen is $REPLY, which the load balancers reach on their own host only"
    conf_value "$1" headers
    [[ $REPLY != off ]] || warn "y.dp.conf $1: headers = off, so no answer tells which version gave it"
}

# A DP without a plugin that is in use, or with another version of it, gets no
# configuration at all.
y_planes_plugins() {
    local name cp dp
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    printf '%s' "$HTTP_BODY" >"$SCRATCH/x.root"
    conf_value "$1" plugins
    plugins_look "$SCRATCH/x.root" "${REPLY:-bundled}"
    [[ -z $PLUGINS_MISSING ]] || y_planes_refuse "$1" \
        "it does not enable (plugins = ${REPLY:-bundled}) what X uses: $PLUGINS_MISSING; install that on CP Y first, then on its DPs, and add it"
    for name in $PLUGINS_OWN; do
        plugin_version_y "$name"; cp=$REPLY
        plugin_version_in "$1" "$name"; dp=$REPLY
        if [[ ! $cp || ! $dp ]]; then
            warn "the version of plugin $name cannot be seen here (CP Y: ${cp:-unknown}, y.dp.conf $1: ${dp:-unknown}); they must go together"
            continue
        fi
        ! plugins_clash "$cp" "$dp" || y_planes_refuse "$1" \
            "plugin $name is $dp on the DP and $cp on CP Y, which would send it nothing; install the same version"
    done
}
