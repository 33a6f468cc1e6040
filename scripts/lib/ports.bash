# The ports CP Y is to listen on. With "reuseport", which Kong's own settings have,
# two nodes on one port both start, and the kernel deals connections to either.

readonly PORT_KEYS=(admin_listen cluster_listen status_listen admin_gui_listen cluster_telemetry_listen)

guard_ports() {
    local listeners mine='' one taken='' silent=''
    if ports_begun; then
        found "CP Y was started by this upgrade"
        return
    fi
    ports_of_y
    listeners=$REPLY
    if [[ ! $listeners ]]; then
        warn "the ports of CP Y are not known (there is no y.conf to be read here), so nobody knows whether they are free"
        found "not known"
        return
    fi
    # In-place CP X is stopped before.
    [[ $STRATEGY != in-place ]] || mine=" $(ports_of_x) "
    for one in $listeners; do
        [[ $mine != *" ${one##*:} "* ]] || continue
        port_asked "$one"
        case $REPLY in
            taken)  taken+=", $one" ;;
            silent) silent+=", $one" ;;
        esac
    done
    [[ -z $taken ]] || refuse "somebody listens already where CP Y is to: ${taken#, }; give CP Y ports of its own (admin_listen, \
cluster_listen, status_listen, admin_gui_listen), or insist: --force ports"
    [[ -z $silent ]] || unknown "whether ${silent#, } are free for CP Y could not be asked; look yourself, then --force ports"
    found "free: ${listeners//$'\n'/ }"
}

# ports_begun: what listens there may be CP Y itself.
ports_begun() {
    ! node_up y || return 0
    if [[ $STRATEGY = in-place ]]; then
        in_place_begun
        return
    fi
    target_inspect
    [[ $TARGET = ours && $TARGET_STATE = started ]]
}

# ports_of_y: its listeners, host:port, one a line, into REPLY; what Kong has
# where nothing is set included.
ports_of_y() {
    local conf=${SETTING[y.conf]-} key list=''
    REPLY=
    [[ $conf && -r $conf ]] || return 0
    versions_known
    for key in "${PORT_KEYS[@]}"; do
        conf_of y "$key"
        [[ $REPLY ]] || port_default "$key"
        list+=", $REPLY"
    done
    REPLY=$(tr ',' '\n' <<<"$list" | awk '$1 ~ /:[0-9]+$/ { print $1 }' | sort -u)
}

port_default() {
    case $1 in
        admin_listen)     REPLY='127.0.0.1:8001, 127.0.0.1:8444' ;;
        cluster_listen)   REPLY=0.0.0.0:8005 ;;
        status_listen)    version_compare "$Y_VERSION" 3.6; (( REPLY < 0 )) && REPLY='off' || REPLY=127.0.0.1:8007 ;;
        admin_gui_listen) version_compare "$Y_VERSION" 3.4; (( REPLY < 0 )) && REPLY='off' || REPLY='0.0.0.0:8002, 0.0.0.0:8445' ;;
        *)                REPLY='off' ;;
    esac
}

# ports_of_x: the ports of the CP X that runs, or ran before it was stopped.
ports_of_x() {
    node_says x || unknown "x.admin ${SETTING[x.admin]} does not answer: $HTTP_ERROR"
    local key one
    for key in "${PORT_KEYS[@]}"; do
        kong_field x "$key"
        for one in $REPLY; do
            [[ ! $one =~ :([0-9]+),?$ ]] || printf '%s ' "${BASH_REMATCH[1]}"
        done
    done
}

# port_asked HOST:PORT: free, taken or silent, into REPLY.
port_asked() {
    local host=${1%:*} status=0
    host=${host#[} host=${host%]}
    [[ $host != @(0.0.0.0|::|'*') ]] || host=127.0.0.1
    # shellcheck disable=SC2016
    timeout 2 bash -c 'exec 3<>"/dev/tcp/$1/$2"' - "$host" "${1##*:}" 2>/dev/null || status=$?
    case $status in
        0)   REPLY=taken ;;
        124) REPLY=silent ;;
        *)   REPLY=free ;;
    esac
}
