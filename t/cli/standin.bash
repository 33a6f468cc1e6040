# What the tests of the stand-in share: a database, a control plane cpx with a seeded configuration, its data plane dpx.
#
# Quotes in a password are meant to stay.
# shellcheck shell=bash disable=SC2089,SC2090

# shellcheck source=t/lib/postgres.bash
source "$BATS_TEST_DIRNAME/../lib/postgres.bash"

setup_file() {
    pg_start "$BATS_FILE_TMPDIR"
    W=$BATS_FILE_TMPDIR
    STANDIN=$(cd "$BATS_TEST_DIRNAME/../kong" && pwd)
    DB_PASSWORD="pass # word'"
    export PGHOST PGPORT PG_SUPERUSER PG_PASSFILE PG_DIR PG_BIN W STANDIN DB_PASSWORD
    pg_role kong "$DB_PASSWORD"
    printf '%s:%s:*:kong:%s\n' "$PGHOST" "$PGPORT" "${DB_PASSWORD//:/\\:}" >"$W/passfile"
    chmod 600 "$W/passfile"
    export KONG_STANDIN_RETRY=0.2-0.4 KONG_STANDIN_PING=1 KONG_ADMIN_GUI_LISTEN=off
    kong 3.9.3 hybrid gen_cert "$W/cluster.crt" "$W/cluster.key"
    backend
    database x
    kong 3.8.1 migrations bootstrap -c "$(conf_cp cpx x)" >"$W/bootstrap.out"
    kong 3.8.1 start -c "$W/cpx.conf"
    seed cpx
    kong 3.8.1 start -c "$(conf_dp dpx cpx)"
    wait_for 10 dp_ready dpx
}

teardown_file() {
    local pid
    for pid in "$W"/*/pids/nginx.pid "$W/backend.pid"; do
        if [ -f "$pid" ]; then kill -9 "$(cat "$pid")" || :; fi
    done
    pg_stop
}

kong() { "$STANDIN/$1/kong" "${@:2}"; }

# port NAME KIND: the same port for the same name, all file long
port() {
    [ -s "$W/$1.$2.port" ] || free_port >"$W/$1.$2.port"
    cat "$W/$1.$2.port"
}

admin() { printf 'http://127.0.0.1:%s' "$(port "$1" admin)"; }
proxy() { printf 'http://127.0.0.1:%s' "$(port "$1" proxy)"; }
status() { printf 'http://127.0.0.1:%s' "$(port "$1" status)"; }

sql() { PGPASSFILE=$W/passfile "$PG_BIN/psql" -X -q -A -t -h "$PGHOST" -p "$PGPORT" -U kong -v ON_ERROR_STOP=1 -d "$1" -c "$2"; }

sql_is() { [ "$(sql "$1" "$2")" = "$3" ]; }

database() { pg_psql -c "CREATE DATABASE $1 OWNER kong" ${2:+-c} ${2:+"$2"}; }

clone() {
    database "$2"
    PGPASSFILE=$W/passfile pg_dump -h "$PGHOST" -p "$PGPORT" -U kong -Fc -d "$1" |
        PGPASSFILE=$W/passfile pg_restore -h "$PGHOST" -p "$PGPORT" -U kong --no-owner --exit-on-error -d "$2"
}

# conf_cp NAME DATABASE: writes and names the settings of a control plane
conf_cp() {
    cat >"$W/$1.conf" <<CONF
# a comment
prefix = $W/$1
role = control_plane
pg_host = $PGHOST
pg_port = $PGPORT
pg_user = kong
pg_password = ${DB_PASSWORD//#/\\#}   # the mark is part of it
pg_database = $2
admin_listen = 127.0.0.1:$(port "$1" admin)
cluster_listen = 127.0.0.1:$(port "$1" cluster)
status_listen = 127.0.0.1:$(port "$1" status)
cluster_cert = $W/cluster.crt
cluster_cert_key = $W/cluster.key
db_update_frequency = 1
no_such_setting = 1
CONF
    printf '%s\n' "$W/$1.conf"
}

conf_dp() {
    cat >"$W/$1.conf" <<CONF
prefix = $W/$1
role = data_plane
database = off
proxy_listen = 127.0.0.1:$(port "$1" proxy)
status_listen = 127.0.0.1:$(port "$1" status)
cluster_control_plane = 127.0.0.1:$(port "$2" cluster)
cluster_cert = $W/cluster.crt
cluster_cert_key = $W/cluster.key
CONF
    printf '%s\n' "$W/$1.conf"
}

wait_for() {
    local end=$((SECONDS + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$SECONDS" -ge "$end" ]; then
            echo "never came true: $*" >&2
            return 1
        fi
        sleep 0.05
    done
}

code() { curl -s -o /dev/null -w '%{http_code}' "$@"; }
is_code() { [ "$(code "${@:2}")" = "$1" ]; }
dp_ready() { is_code 200 "$(status "$1")/status/ready"; }
dp_hash() { curl -s "$(status "$1")/status" | jq -r .configuration_hash; }

# row CP DP FILTER: a field of the DP's row in the CP's list
row() {
    curl -s "$(admin "$1")/clustering/data-planes" |
        jq -r --arg id "$(cat "$W/$2/kong.id")" ".data[] | select(.id == \$id) | $3"
}

row_is() { [ "$(row "$1" "$2" "$3")" = "$4" ]; }

# A backend that tells what it got; /sleep/N answers after N seconds.
backend() {
    cat >"$W/backend.py" <<'PY'
import json, os, sys, time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        size = int(self.headers.get("Content-Length") or 0)
        got = len(self.rfile.read(size))
        parts = self.path.split("/")
        if "sleep" in parts:
            time.sleep(float(parts[-1]))
        body = json.dumps({"path": self.path, "got": got, "headers": dict(self.headers)}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = answer

    def log_message(self, *_):
        pass

server = ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler)
server.daemon_threads = True
server.serve_forever()
PY
    local port
    port=$(port backend http)
    /usr/bin/python3 "$W/backend.py" "$port" 3>&- >/dev/null 2>&1 &
    echo $! >"$W/backend.pid"
    wait_for 5 is_code 200 "http://127.0.0.1:$port/"
}

seed() {
    local a
    a=$(admin "$1")
    is_code 201 "$a/services" -d name=svc -d "url=http://127.0.0.1:$(port backend http)/base"
    is_code 201 "$a/services" -d name=dead -d "url=http://127.0.0.1:$(port dead http)/"
    is_code 201 "$a/services/svc/routes" -d name=plain -d 'paths[]=/plain'
    is_code 201 "$a/services/svc/routes" -d name=keyed -d 'paths[]=/keyed'
    is_code 201 "$a/services/svc/routes" -d name=kept -d 'paths[]=/kept' -d strip_path=false
    is_code 201 "$a/services/dead/routes" -d name=dead -d 'paths[]=/dead'
    is_code 201 "$a/services/svc/routes" -d name=off -d 'paths[]=/off'
    is_code 201 "$a/services/svc/routes" -d name=limited -d 'paths[]=/limited'
    is_code 201 "$a/services/svc/routes" -d name=hosted -d 'hosts[]=only.example' -d 'methods[]=GET'
    is_code 201 "$a/consumers" -H 'Content-Type: application/json' -d '{"username":"alice","custom_id":"c-1","tags":["vip"]}'
    is_code 201 "$a/consumers/alice/key-auth" -d key=k-alice
    is_code 201 "$a/routes/keyed/plugins" -d name=key-auth
    is_code 201 "$a/routes/limited/plugins" -d name=rate-limiting -d config.hour=2
    is_code 201 "$a/routes/off/plugins" -d name=request-termination -d config.status_code=503 -d config.message=closed
}

fresher() { [ "$(row "$1" "$2" .last_seen)" -gt "$3" ]; }

refused() {
    local result=0
    curl -s -o /dev/null "$1" || result=$?
    [ "$result" = 7 ]
}
