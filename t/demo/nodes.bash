# Kong nodes of the demo, driven by what Kong documents: its command line, its
# configuration file, Admin API and Status API. To be sourced.
#
# Needs RUN, the demo's folder, and KONG, from "x" and "y" to the executable.

declare -gA KONG PORT ADDR

# The readiness of a real Kong takes its time on a busy machine.
readonly NODE_TIMEOUT=60

# Picks a port for each name.
pick_ports() {
    local name port

    for name in "$@"; do
        # two names could get the same free port
        while :; do
            port=$(free_port)
            [[ " ${PORT[*]} " == *" $port "* ]] || break
        done
        PORT[$name]=$port
    done
}

# Prints the version a kong executable names.
node_version() {
    "${KONG[$1]}" version | grep -oE '[0-9]+(\.[0-9]+){2,}' | head -n 1
}

# The certificate that all nodes share, and by which they trust each other.
make_cluster_cert() {
    openssl req -new -x509 -nodes -days 30 -subj /CN=kong_clustering \
        -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -keyout "$RUN/cluster.key" -out "$RUN/cluster.crt" 2> /dev/null

    # workers of a node may run as another user
    chmod 644 "$RUN/cluster.key"
}

# Settings that every node has.
write_node_conf() {
    local node=$1

    cat > "$RUN/$node.conf" <<EOF
prefix = $RUN/$node
cluster_cert = $RUN/cluster.crt
cluster_cert_key = $RUN/cluster.key
nginx_worker_processes = 1
mem_cache_size = 32m
anonymous_reports = off
admin_gui_listen = off
status_listen = ${ADDR[$node]:-127.0.0.1}:${PORT[$node.status]}
$(cat)
EOF
}

# Writes the configuration of a control plane: NODE, its database and password.
write_cp_conf() {
    local node=$1 database=$2 password=$3

    pick_ports "$node".{admin,cluster,telemetry,status}

    (umask 077 && : > "$RUN/$node.conf")
    write_node_conf "$node" <<EOF
role = control_plane
proxy_listen = off
admin_listen = 127.0.0.1:${PORT[$node.admin]}
cluster_listen = 127.0.0.1:${PORT[$node.cluster]}
cluster_telemetry_listen = 127.0.0.1:${PORT[$node.telemetry]}
database = postgres
pg_host = $PGHOST
pg_port = $PGPORT
pg_user = kong
pg_password = $password
pg_database = $database
EOF
}

# Writes the configuration of a data plane: NODE, its control plane and, if it
# has one of its own, its address; one that was given ports keeps them.
write_dp_conf() {
    local node=$1 cp=$2
    ADDR[$node]=${3:-127.0.0.1}

    [[ ${PORT[$node.status]:-} ]] || pick_ports "$node".{proxy,status}

    write_node_conf "$node" <<EOF
role = data_plane
database = off
proxy_listen = ${ADDR[$node]}:${PORT[$node.proxy]}
admin_listen = off
cluster_control_plane = 127.0.0.1:${PORT[$cp.cluster]}
cluster_telemetry_endpoint = 127.0.0.1:${PORT[$cp.telemetry]}
EOF
}

# Runs a kong command of X or Y; what it says is shown only if it fails.
kong_run() {
    local which=$1 log
    shift
    log=$RUN/kong-$which-$1.log

    if ! "${KONG[$which]}" "$@" > "$log" 2>&1; then
        cat "$log" >&2
        die "\"${KONG[$which]} $*\" failed"
    fi
}

# Starts a node of X or Y.
node_start() {
    local which=$1 node=$2

    mkdir -p "$RUN/$node"
    kong_run "$which" start -c "$RUN/$node.conf"
}

# Stops a node of X or Y when its last request has been answered.
node_quit() {
    local which=$1 node=$2

    kong_run "$which" quit -p "$RUN/$node"
}

# Prints the status of a request, 000 if there was no answer.
http_status() {
    curl -s -o /dev/null -m 5 -w '%{http_code}' "$@" || true
}

# True if a control plane and its database answer.
cp_is_ready() {
    curl -s -f -m 5 "http://127.0.0.1:${PORT[$1.admin]}/status" \
    | jq -e '.database.reachable' > /dev/null 2>&1
}

# True if a data plane has its configuration, and a request finds its route.
dp_is_ready() {
    local status=http://${ADDR[$1]}:${PORT[$1.status]}
    local proxy=http://${ADDR[$1]}:${PORT[$1.proxy]}

    case $(http_status "$status/status/ready") in
        200) ;;
        # before 3.3 there is no such page
        404) curl -s -m 5 "$status/status" \
             | jq -e '(.configuration_hash // "-") | test("^0+$") | not' \
               > /dev/null 2>&1 || return 1 ;;
        *)   return 1 ;;
    esac

    [[ $(http_status "$proxy/orders/1") == 200 ]]
}

# Waits until a node is ready: wait_node CHECK NODE [SECONDS]
wait_node() {
    local check=$1 node=$2 seconds=${3:-$NODE_TIMEOUT} begun=$SECONDS

    until "$check" "$node"; do
        (( SECONDS - begun < seconds )) || return 1
        sleep 0.2
    done
}

# Waits until a control plane is ready.
wait_cp() {
    wait_node cp_is_ready "$1" \
    || die "$1 is not ready after $NODE_TIMEOUT s, see its log"
}

# Waits until a data plane of X or Y is ready. One that could not store its
# first configuration, as happens on a busy machine ("unable to open DB for
# access"), gets another only when it connects anew.
wait_dp() {
    local which=$1 node=$2

    wait_node dp_is_ready "$node" 20 && return

    printf 'demo: %s has no configuration yet, it is restarted\n' "$node" >&2
    kong_run "$which" restart -c "$RUN/$node.conf"
    wait_node dp_is_ready "$node" \
    || die "$node is not ready after $NODE_TIMEOUT s, see its log"
}

# Calls an Admin API to create something: seed NODE PATH FIELD ...
seed() {
    local url=http://127.0.0.1:${PORT[$1.admin]}$2 field args=()
    shift 2

    for field in "$@"; do
        args+=(--data-urlencode "$field")
    done

    curl -s -S -f -m 10 -o /dev/null -X POST "$url" "${args[@]}" \
    || die "POST $url failed"
}
