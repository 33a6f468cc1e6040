#!/usr/bin/env bats
# The stand-in for kong behaves as real Kong was seen to. On a private PostgreSQL and free ports.
#
# $stderr is set by run --separate-stderr; quotes in a password are meant to stay.
# shellcheck disable=SC1091,SC2154,SC2089,SC2090

bats_require_minimum_version 1.5.0

setup_file() {
    # shellcheck source=t/lib/postgres.bash
    source "$BATS_TEST_DIRNAME/../lib/postgres.bash"
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
    source "$BATS_TEST_DIRNAME/../lib/postgres.bash"
    local pid
    for pid in "$W"/*/pids/nginx.pid "$W/backend.pid"; do
        if [ -f "$pid" ]; then kill -9 "$(cat "$pid")" || :; fi
    done
    pg_stop
}

setup() {
    source "$BATS_TEST_DIRNAME/../lib/postgres.bash"
}

# --- helpers

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

# --- the command line

@test "version, unknown commands and options" {
    run -0 kong 3.8.1 version
    [ "$output" = 3.8.1 ]
    run -0 kong 3.9.3 version -a
    [ "${lines[0]}" = "Kong: 3.9.3" ]
    run -1 --separate-stderr kong 3.8.1 drain
    [[ $stderr == *"No such command: drain"*"The available commands are:"* ]]
    run -1 --separate-stderr kong 3.9.3 quit -c x.conf
    [[ $stderr == "kong: unrecognized parameter: c"* ]]
    run -1 --separate-stderr kong 2.8.5 migrations status
    [[ $stderr == *"The available commands are:"* ]]
    run -0 kong 3.9.3 check "$W/cpx.conf"
    [ "$output" = "configuration at $W/cpx.conf is valid" ]
}

@test "settings: the environment wins, bad ones are refused" {
    KONG_ROLE=nonsense run -1 --separate-stderr kong 3.9.3 check "$W/cpx.conf"
    [[ $stderr == "Error: role has an invalid value"* ]]
    KONG_ADMIN_LISTEN=off run -1 --separate-stderr kong 3.9.3 check "$W/cpx.conf"
    [[ $stderr == 'Error: admin_listen must be specified when role = "control_plane"'* ]]
    KONG_DATABASE=postgres run -1 --separate-stderr kong 3.9.3 check "$W/dpx.conf"
    [[ $stderr == *'only in-memory storage can be used when role = "data_plane"'* ]]
    run -1 --separate-stderr kong 3.9.3 start -c "$W/nowhere.conf"
    [[ $stderr == "Error: no file at: "* ]]
    [ "$(stat -c %a "$W/cpx/.kong_env")" = 600 ]
}

@test "health, stop, quit, reload of what does not run" {
    run -1 --separate-stderr kong 3.8.1 health -p "$W/none"
    [[ $stderr == "Error: no such prefix: $W/none"* ]]
    mkdir "$W/idle"
    run -1 --separate-stderr kong 3.8.1 health -p "$W/idle"
    [[ $output == nginx.......not\ running* && $stderr == "Error: Kong is not running at $W/idle"* ]]
    for what in stop quit reload; do
        run -1 --separate-stderr kong 3.8.1 "$what" -p "$W/idle"
        [[ $stderr == "Error: nginx not running in prefix: $W/idle"* ]]
    done
    run -0 kong 3.8.1 health -p "$W/cpx"
    [[ $output == *"Kong is healthy at $W/cpx" ]]
    run -1 --separate-stderr kong 3.8.1 start -c "$W/cpx.conf"
    [[ $stderr == "Error: Kong is already running in $W/cpx"* ]]
}

@test "a port in use stops the start" {
    conf_dp taken cpx
    KONG_PROXY_LISTEN=127.0.0.1:$(port dpx proxy) run -1 --separate-stderr kong 3.8.1 start -c "$W/taken.conf"
    [[ $stderr == *"[emerg] bind() to 127.0.0.1:$(port dpx proxy) failed (98: Address already in use)"* ]]
}

# --- migrations

@test "migrations: an empty database" {
    database empty
    conf_cp cpe empty
    run -3 kong 3.9.3 migrations list -c "$W/cpe.conf"
    [[ $output == "Database needs bootstrapping"*"prefix directory $W/cpe not found, trying to create it" ]]
    run -0 --separate-stderr kong 3.9.3 migrations status -c "$W/cpe.conf"
    [ "$(jq -c '[.needs_bootstrap, .executed_migrations, (.new_migrations | length)]' <<<"$output")" = "[true,null,18]" ]
    run -1 kong 3.9.3 migrations up -c "$W/cpe.conf"
    run -1 kong 3.9.3 migrations finish -c "$W/cpe.conf"
    run -1 --separate-stderr kong 3.9.3 start -c "$W/cpe.conf"
    [[ $stderr == "Error: ./kong/cmd/utils/migrations.lua:16: Database needs bootstrapping"* ]]
    run -0 kong 3.9.3 migrations bootstrap -c "$W/cpe.conf" --db-timeout 30 --lock-timeout 30 -v
    [[ $output == "Bootstrapping database..."*"67 migrations processed"*"67 executed"*"Database is up-to-date" ]]
    run -0 kong 3.9.3 migrations list -c "$W/cpe.conf"
    run -0 kong 3.9.3 migrations bootstrap -c "$W/cpe.conf"
    [ "$output" = "Database already bootstrapped" ]
    run -0 kong 3.9.3 migrations up -c "$W/cpe.conf"
    [ "$output" = "Database is already up-to-date" ]
    run -0 kong 3.9.3 migrations finish -c "$W/cpe.conf"
    [ "$output" = "No pending migrations to finish" ]
}

@test "migrations: 3.8.1 to 3.9.3 leaves nothing pending" {
    clone x m39
    conf_cp cpm m39
    run -5 kong 3.9.3 migrations list -c "$W/cpm.conf"
    [[ $output == *$'New migrations available:\ncore: 024_380_to_390\n\nRun \'kong migrations up\' to proceed'* ]]
    run -0 kong 3.9.3 migrations finish -c "$W/cpm.conf"
    [[ $output == *"New migrations available; run 'kong migrations up' to proceed" ]]
    run -1 --separate-stderr kong 3.9.3 start -c "$W/cpm.conf"
    [[ $stderr == "Error: ./kong/cmd/utils/migrations.lua:20: New migrations available; run 'kong migrations up' to proceed"* ]]
    run -0 kong 3.9.3 migrations up -c "$W/cpm.conf"
    [ "$output" = "$(printf '%s\n' "migrating core on database 'm39'..." 'core migrated up to: 024_380_to_390 (executed)' \
        '1 migration processed' '1 executed')" ]
    run -0 kong 3.9.3 migrations list -c "$W/cpm.conf"
    [ "$(sql m39 "SELECT to_regclass('clustering_sync_delta') IS NOT NULL")" = t ]
    # An older Kong sees nothing wrong, starts and writes.
    run -0 kong 3.8.1 migrations list -c "$W/cpm.conf"
    run -0 kong 3.8.1 start -c "$W/cpm.conf"
    is_code 201 "$(admin cpm)/consumers" -d username=late
    kong 3.8.1 stop -p "$W/cpm"
}

@test "migrations: 3.5.0 to 3.6.1 leaves one pending and rewrites rate-limiting" {
    database m35
    conf_cp cp35 m35
    kong 3.5.0 migrations bootstrap -c "$W/cp35.conf" >"$W/out"
    kong 3.5.0 start -c "$W/cp35.conf"
    is_code 201 "$(admin cp35)/plugins" -d name=rate-limiting -d config.minute=5 -d config.policy=redis -d config.redis_host=r1
    kong 3.5.0 stop -p "$W/cp35"
    run -5 kong 3.6.1 migrations list -c "$W/cp35.conf"
    run -0 kong 3.6.1 migrations up -c "$W/cp35.conf"
    [[ $output == *"opentelemetry migrated up to: 001_331_to_332 (pending)"*"5 migrations processed"*"4 executed"*"1 pending"* ]]
    [[ $output == *"Database has pending migrations; run 'kong migrations finish' when ready" ]]
    [ "$(sql m35 "SELECT config->'redis'->>'host', config ? 'redis_host' FROM plugins")" = "r1|f" ]
    run -4 kong 3.6.1 migrations list -c "$W/cp35.conf"
    [[ $output == *$'Pending migrations:\nopentelemetry: 001_331_to_332'* ]]
    run -1 --separate-stderr kong 3.6.1 migrations up -c "$W/cp35.conf"
    [[ $stderr == "Error: Database has pending migrations; run 'kong migrations finish'"* ]]
    run -0 kong 3.6.1 start -c "$W/cp35.conf"
    [[ $output == $'Database has pending migrations:\nopentelemetry: 001_331_to_332\nKong started' ]]
    kong 3.6.1 stop -p "$W/cp35"
    run -0 kong 3.6.1 migrations finish -c "$W/cp35.conf"
    [[ $output == *"opentelemetry migrated up to: 001_331_to_332 (executed)"*"No pending migrations to finish" ]]
    # An old control plane on it reads the plugin without its host.
    kong 3.5.0 start -c "$W/cp35.conf"
    [ "$(curl -s "$(admin cp35)/plugins" | jq -c '.data[0].config | [.redis_host, .policy]')" = '[null,"redis"]' ]
    kong 3.5.0 stop -p "$W/cp35"
}

@test "migrations: 2.8.5 to 3.4.2" {
    database m28
    conf_cp cp28 m28
    run -0 kong 2.8.5 migrations bootstrap -c "$W/cp28.conf"
    [[ $output == *"43 executed"* ]]
    kong 2.8.5 start -c "$W/cp28.conf"
    is_code 201 "$(admin cp28)/routes" -d name=re -d 'paths[]=/re\d$' -d 'paths[]=/a.b'
    [ "$(curl -s "$(admin cp28)/" | jq -c '[.version, .edition, .plugins.available_on_server.acl]')" = '["2.8.5",null,true]' ]
    is_code 404 "$(status cp28)/status/ready"
    kong 2.8.5 stop -p "$W/cp28"
    run -0 kong 3.4.2 migrations up -c "$W/cp28.conf"
    [[ $output == *"15 migrations processed"*"11 executed"*"4 pending"* ]]
    [ "$(sql m28 'SELECT count(*) FROM schema_meta')" = 16 ]
    [ "$(sql m28 'SELECT paths FROM routes')" = '{"~/re\\d$",/a.b}' ]
    run -4 kong 3.4.2 migrations list -c "$W/cp28.conf"
    run -0 kong 3.4.2 migrations finish -c "$W/cp28.conf"
    run -0 kong 3.4.2 migrations list -c "$W/cp28.conf"
}

@test "migrations: somebody holds the lock" {
    clone x locked
    conf_cp cpl locked
    sql locked "INSERT INTO locks VALUES ('migrations', 'somebody', now() + interval '1 hour')"
    run -0 kong 3.9.3 migrations finish -c "$W/cpl.conf"
    [[ $output == "aborted: another node is performing database changes"* ]]
    run -1 --separate-stderr kong 3.9.3 migrations up -c "$W/cpl.conf" --lock-timeout 1
    [[ $stderr == "Error: [PostgreSQL error] timeout"* ]]
    run -5 kong 3.9.3 migrations list -c "$W/cpl.conf"
    sql locked "UPDATE locks SET ttl = now() - interval '1 second'"
    run -0 kong 3.9.3 migrations up -c "$W/cpl.conf"
    [ "$(sql locked 'SELECT count(*) FROM locks')" = 0 ]
}

@test "migrations: up fails half-way" {
    clone m35 half
    conf_cp cph half
    pg_psql -d half -c 'REVOKE CREATE ON SCHEMA public FROM PUBLIC; ALTER SCHEMA public OWNER TO kong_super'
    run -1 --separate-stderr kong 3.9.3 migrations up -c "$W/cph.conf"
    [[ $stderr == *"failed to run migration '023_360_to_370' up: ERROR: permission denied for schema public"* ]]
    run -5 kong 3.9.3 migrations list -c "$W/cph.conf"
    pg_psql -d half -c 'GRANT CREATE ON SCHEMA public TO kong'
    run -0 kong 3.9.3 migrations up -c "$W/cph.conf"
}

@test "migrations: up gives up on a slow statement, the server goes on with it" {
    clone m35 slow
    conf_cp cps slow
    sql slow "CREATE FUNCTION wait() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(1.2); RETURN NEW; END';
        CREATE TRIGGER wait BEFORE UPDATE ON plugins FOR EACH ROW EXECUTE PROCEDURE wait();
        UPDATE schema_meta SET executed = array_remove(executed, '006_350_to_360') WHERE subsystem = 'rate-limiting';
        ALTER TABLE plugins DISABLE TRIGGER wait; UPDATE plugins SET config = config - 'redis' || '{\"redis_host\": \"r2\"}';
        ALTER TABLE plugins ENABLE TRIGGER wait"
    run -1 --separate-stderr kong 3.6.1 migrations up -c "$W/cps.conf" --db-timeout 1
    [[ $stderr == *"failed to run migration '006_350_to_360' up: receive_message: failed to get type: timeout"* ]]
    wait_for 5 sql_is slow "SELECT config->'redis'->>'host', config ? 'redis_host' FROM plugins" 'r2|f'
    run -5 kong 3.6.1 migrations list -c "$W/cps.conf"
}

@test "database: refused, wrong password, missing, read-only" {
    KONG_PG_PORT=1 run -1 --separate-stderr kong 3.9.3 migrations list -c "$W/cpx.conf"
    [[ $stderr == "Error: [PostgreSQL error] failed to retrieve PostgreSQL server_version_num: connection refused"* ]]
    KONG_PG_PASSWORD=wrong run -1 --separate-stderr kong 3.9.3 migrations status -c "$W/cpx.conf"
    [[ $stderr == *'FATAL: password authentication failed for user "kong"'* ]]
    KONG_PG_DATABASE=nosuchdb run -1 --separate-stderr kong 3.9.3 start -c "$(conf_cp cpn nosuchdb)"
    [[ $stderr == *'FATAL: database "nosuchdb" does not exist'* ]]
    clone x frozen
    conf_cp cpf frozen
    kong 3.8.1 start -c "$W/cpf.conf"
    sql frozen 'ALTER DATABASE frozen SET default_transaction_read_only = on'
    [ "$(curl -s "$(admin cpf)/consumers" -d username=no)" = '{"message":"An unexpected error occurred"}' ]
    is_code 500 -X DELETE "$(admin cpf)/consumers/alice"
    is_code 204 -X DELETE "$(admin cpf)/consumers/nobody"
    is_code 200 "$(admin cpf)/services/svc"
    run -1 --separate-stderr kong 3.9.3 migrations up -c "$W/cpf.conf"
    [[ $stderr == *"failed to insert cluster lock: ERROR: cannot execute DELETE in a read-only transaction"* ]]
    pg_psql -c 'ALTER DATABASE frozen ALLOW_CONNECTIONS false'
    [ "$(curl -s "$(admin cpf)/status" | jq .database.reachable)" = false ]
    [ "$(curl -s "$(admin cpf)/")" = '{"message":"An unexpected error happened"}' ]
    is_code 500 "$(admin cpf)/clustering/data-planes"
    is_code 503 "$(status cpf)/status/ready"
    kong 3.8.1 stop -p "$W/cpf"
}

# --- Admin API

@test "admin: the node about itself" {
    curl -s -D "$W/head" "$(admin cpx)/" >"$W/root"
    grep -q '^Server: kong/3.8.1' "$W/head"
    grep -q '^X-Kong-Admin-Latency: [0-9]' "$W/head"
    [ "$(jq -c '[.version, .edition, .configuration.role, .configuration.pg_database, .configuration.pg_password,
        .plugins.available_on_server.acl, (.plugins.available_on_server | length)]' "$W/root")" = \
        '["3.8.1","community","control_plane","x","******",{"version":"3.8.1","priority":950},44]' ]
    jq -e '.plugins.enabled_in_cluster == ["key-auth","rate-limiting","request-termination"]' "$W/root"
    run -1 grep -F "$DB_PASSWORD" "$W/root"
    [ "$(curl -s "$(admin cpx)/status" | jq -c '[.database.reachable, (.server | has("total_requests"))]')" = '[true,true]' ]
}

@test "admin: create, read, replace, change, delete" {
    a=$(admin cpx)
    run -0 curl -s "$a/services" -H 'Content-Type: application/json' -d '{"name":"s1","host":"h","tags":["t1","t2"]}'
    [ "$(jq -c '[.port, .retries, .protocol, .path, .tags]' <<<"$output")" = '[80,5,"http",null,["t1","t2"]]' ]
    id=$(jq -r .id <<<"$output")
    [ "$(sql x "SELECT tags FROM tags WHERE entity_id = '$id'")" = '{t1,t2}' ]
    [ "$(curl -s -X PATCH "$a/services/s1" -d port=81 | jq .port)" = 81 ]
    [ "$(curl -s "$a/services/$id" | jq -r .name)" = s1 ]
    [ "$(curl -s -X PUT "$a/services/$id" -d name=s1 -d host=h2 | jq -c '[.port, .host, .tags]')" = '[80,"h2",null]' ]
    is_code 409 "$a/services" -d name=s1 -d host=h
    [ "$(curl -s "$a/services" -d name=s2 | jq -c '[.code, .name, .fields.host]')" = \
        '[2,"schema violation","required field missing"]' ]
    is_code 400 "$a/services" -d name=s2 -d host=h -d nonsense=1
    is_code 400 "$a/routes" -d name=r9
    is_code 400 "$a/routes" -H 'Content-Type: application/json' -d '{'
    is_code 400 "$a/plugins" -d name=nonsense
    is_code 201 "$a/services/s1/routes" -d 'paths[]=/s1' -d name=s1r
    [ "$(curl -s "$a/routes/s1r/service" | jq -r .id)" = "$id" ]
    is_code 400 -X DELETE "$a/services/s1"
    is_code 204 -X DELETE "$a/routes/s1r"
    is_code 204 -X DELETE "$a/services/s1"
    is_code 404 "$a/services/s1"
    is_code 404 "$a/nonsense"
    is_code 405 -X POST "$a/services/svc"
    is_code 200 -X PUT "$a/consumers/fixed" -d custom_id=fx
    [ "$(curl -s "$a/consumers/fixed" | jq -r .username)" = fixed ]
    is_code 200 "$a/schemas/services/validate" -d host=h
    is_code 400 "$a/schemas/plugins/validate" -d name=rate-limiting
    is_code 200 "$a/schemas/plugins/validate" -d name=rate-limiting -d config.minute=1
    is_code 204 -X OPTIONS "$a/services"
    is_code 204 -X DELETE "$a/consumers/fixed"
}

@test "admin: pages" {
    a=$(admin cpx)
    for n in 1 2 3 4 5; do curl -sf "$a/upstreams" -d "name=u$n" -o "$W/u"; done
    run -0 curl -s "$a/upstreams?size=2"
    [ "$(jq -c '[(.data | length), (.next | startswith("/upstreams?offset=")), (.next | endswith("&size=2"))]' \
        <<<"$output")" = '[2,true,true]' ]
    seen=$(jq -r '.data[].name' <<<"$output")
    while next=$(jq -er .next <<<"$output"); do
        run -0 curl -s "$a$next"
        seen+=$'\n'$(jq -r '.data[].name' <<<"$output")
    done
    [ "$(sort <<<"$seen")" = $'u1\nu2\nu3\nu4\nu5' ]
    jq -e 'has("offset") | not' <<<"$output"
    is_code 400 "$a/upstreams?size=0"
    is_code 400 "$a/upstreams?size=1001"
    is_code 400 "$a/upstreams?offset=nonsense"
    [ "$(curl -s "$a/clustering/data-planes?size=1" | jq -c '[(.data | length), .next]')" = '[1,null]' ]
}

@test "admin: the list of data planes" {
    jq -e '.data[0] | keys == ["cert_details","config_hash","hostname","id","ip","labels","last_seen","rpc_capabilities",
        "sync_status","ttl","updated_at","version"]' <<<"$(curl -s "$(admin cpx)/clustering/data-planes")"
    run -0 curl -si "$(admin cpx)/clustering/status"
    [[ $output == *"Deprecation: true"*'"config_hash"'* ]]
    is_code 404 -X DELETE "$(admin cpx)/clustering/data-planes/$(cat "$W/dpx/kong.id")"
}

@test "config: db_export and parse" {
    run -0 kong 3.8.1 config db_export "$W/export.yml" -c "$W/cpx.conf"
    [ -z "$output" ]
    run -1 --separate-stderr kong 3.8.1 config db_export "$W/export.yml" -c "$W/cpx.conf"
    [[ $stderr == "Error: $W/export.yml already exists. Will not overwrite it."* ]]
    run -0 kong 3.8.1 config parse "$W/export.yml" -c "$W/cpx.conf"
    [ "$output" = "parse successful" ]
    run -1 --separate-stderr kong 3.8.1 config db_export "$W/no.yml" -c "$W/dpx.conf"
    [[ $stderr == "Error: 'kong config db_export' only works with a database."* ]]
    printf '_format_version: "3.0"\nservices:\n- naem: x\n  host: h\n' >"$W/bad.yml"
    run -1 --separate-stderr kong 3.8.1 config parse "$W/bad.yml" -c "$W/cpx.conf"
    [[ $stderr == "Error: Failed parsing:"*"in entry 1 of 'services'"*"in 'naem': unknown field"* ]]
}

# --- data planes

@test "proxy: what an answer carries, by who made it" {
    p=$(proxy dpx)
    run -0 curl -si "$p/plain/x?a=b" -H 'X-Forwarded-For: 9.9.9.9'
    [[ $output == "HTTP/1.1 200 OK"*"Server: BaseHTTP/"* && $output == *"Via: 1.1 kong/3.8.1"* ]]
    [[ $output == *"X-Kong-Upstream-Latency: "*"X-Kong-Proxy-Latency: "*"X-Kong-Request-Id: "* ]]
    [[ $output != *X-Kong-Response-Latency* && $output == *'"path": "/base/x?a=b"'* && $output == *'9.9.9.9, 127.0.0.1'* ]]
    run -0 curl -si "$p/nothing"
    [[ $output == "HTTP/1.1 404 Not Found"*"Content-Length: 103"*"Server: kong/3.8.1"*'"no Route matched with those values"'* ]]
    [[ $output == *"X-Kong-Response-Latency: "* && $output != *Via:* ]]
    run -0 curl -si "$p/dead"
    [[ $output == "HTTP/1.1 502 Bad Gateway"*"X-Kong-Upstream-Latency"*"Via: 1.1 kong/3.8.1"*"Server: kong/3.8.1"* ]]
    run -0 curl -si "$p/off"
    [[ $output == "HTTP/1.1 503"*"Server: kong/3.8.1"*'{"message":"closed"}' && $output != *Via:* ]]
    run -0 curl -si "$p/keyed"
    [[ $output == "HTTP/1.1 401"*"WWW-Authenticate: Key"*"No API key found in request"* ]]
    is_code 401 "$p/keyed" -H 'apikey: wrong'
    [ "$(curl -s "$p/keyed/y" -H 'apikey: k-alice' | jq -r '.headers["X-Consumer-Username"]')" = alice ]
    is_code 200 "$p/keyed?apikey=k-alice"
    [ "$(code "$p/limited")$(code "$p/limited")$(code "$p/limited")" = 200200429 ]
    run -0 curl -si "$p/limited"
    [[ $output == *"X-RateLimit-Limit-Hour: 2"*"Retry-After: "* ]]
    [ "$(curl -s "$p/kept/z" | jq -r .path)" = /base/kept/z ]
    is_code 200 "$p/any" -H 'Host: only.example'
    is_code 404 "$p/any" -H 'Host: only.example' -X POST
}

@test "proxy: bodies of any size, both framings, kept connections" {
    p=$(proxy dpx)
    head -c 3000000 /dev/zero >"$W/body"
    [ "$(curl -s -T "$W/body" "$p/plain" | jq .got)" = 3000000 ]
    [ "$(curl -s --data-binary @"$W/body" "$p/plain" | jq .got)" = 3000000 ]
    [ "$(curl -s --http1.0 "$p/plain" | jq .got)" = 0 ]
    curl -s -o /dev/null -o /dev/null -o /dev/null -w '%{num_connects} ' "$p/plain" "$p/plain" "$p/nothing" >"$W/connects"
    [ "$(cat "$W/connects")" = "1 0 0 " ]
}

@test "a change reaches the data plane within two seconds, one hash everywhere" {
    before=$(dp_hash dpx)
    is_code 201 "$(admin cpx)/services/svc/routes" -d name=fresh -d 'paths[]=/fresh'
    wait_for 2 is_code 200 "$(proxy dpx)/fresh"
    after=$(dp_hash dpx)
    [ "$before" != "$after" ]
    wait_for 2 row_is cpx dpx .config_hash "$after"
    row_is cpx dpx .sync_status normal
    is_code 204 -X DELETE "$(admin cpx)/routes/fresh"
    wait_for 2 is_code 404 "$(proxy dpx)/fresh"
}

@test "an empty data plane: 404 for all, not ready, zeros" {
    conf_dp dpe nobody
    run -0 --separate-stderr kong 3.9.3 start -c "$W/dpe.conf"
    [[ $output == $'Kong started\nprefix directory '* ]]
    is_code 404 "$(proxy dpe)/plain"
    run -0 curl -s "$(status dpe)/status/ready"
    [ "$output" = '{"message":"no configuration available (empty configuration present)"}' ]
    is_code 503 "$(status dpe)/status/ready"
    [ "$(dp_hash dpe)" = 00000000000000000000000000000000 ]
    kong 3.9.3 stop -p "$W/dpe"
}

@test "dual cluster: 3.9.3 computes the same hash, lists the strangers of the dump, takes an older data plane" {
    clone x y
    conf_cp cpy y
    kong 3.9.3 migrations up -c "$W/cpy.conf"
    kong 3.9.3 start -c "$W/cpy.conf"
    row_is cpy dpx .sync_status normal
    seen=$(row cpy dpx .last_seen)
    sleep 1.2
    row_is cpy dpx .last_seen "$seen"
    conf_dp dpy cpy
    kong 3.9.3 start -c "$W/dpy.conf"
    wait_for 5 dp_ready dpy
    [ "$(dp_hash dpy)" = "$(dp_hash dpx)" ]
    run -0 curl -si "$(proxy dpy)/plain"
    [[ $output == *"Via: 1.1 kong/3.9.3"* ]]
    conf_dp dp38y cpy
    kong 3.8.1 start -c "$W/dp38y.conf"
    wait_for 5 dp_ready dp38y
    wait_for 2 row_is cpy dp38y .config_hash "$(dp_hash dpx)"
    kong 3.8.1 stop -p "$W/dp38y"
}

@test "version rule: a newer data plane is refused; with a cache it goes on serving" {
    conf_dp dpn cpx
    kong 3.9.3 start -c "$W/dpn.conf"
    wait_for 5 row_is cpx dpn .sync_status kong_version_incompatible
    row_is cpx dpn .config_hash 00000000000000000000000000000000
    is_code 503 "$(status dpn)/status/ready"
    grep -q 'data plane version 3.9.3 is incompatible with older control plane version 3.8.1' "$W/cpx/logs/error.log"
    kong 3.9.3 stop -p "$W/dpn"
    conf_dp dpy cpx
    kong 3.9.3 reload -c "$W/dpy.conf"
    wait_for 5 row_is cpx dpy .sync_status kong_version_incompatible
    is_code 200 "$(status dpy)/status/ready"
    is_code 200 "$(proxy dpy)/plain"
    conf_dp dp28 cpx
    kong 2.8.5 start -c "$W/dp28.conf"
    wait_for 5 grep -q 'data plane version 2.8.5 is incompatible with control plane version 3.8.1 (3.x.y are accepted)' \
        "$W/cpx/logs/error.log"
    kong 2.8.5 stop -p "$W/dp28"
}

@test "reload with another control plane moves a data plane without a failed request" {
    (while [ ! -e "$W/enough" ]; do code "$(proxy dpy)/plain" && echo; done >"$W/codes" 3>&-) &
    conf_dp dpy cpy
    run -0 kong 3.9.3 reload -c "$W/dpy.conf"
    [ "$output" = "Kong reloaded" ]
    since=$(date +%s)
    wait_for 5 fresher cpy dpy "$since"
    touch "$W/enough"
    wait
    [ "$(sort -u "$W/codes")" = 200 ]
}

fresher() { [ "$(row "$1" "$2" .last_seen)" -gt "$3" ]; }

@test "drain: 3.9 only, serving goes on, reload lifts it" {
    run -0 kong 3.9.3 drain -p "$W/dpy"
    [ "$output" = "Kong's status successfully changed to 'draining'" ]
    [ "$(curl -s "$(status dpy)/status/ready")" = '{"message":"draining"}' ]
    is_code 200 "$(proxy dpy)/plain"
    kong 3.9.3 reload -p "$W/dpy"
    wait_for 3 dp_ready dpy
    is_code 405 -X POST "$(status dpx)/status/ready" -H 'Content-Type: application/json' -d '{"status":"draining"}'
}

@test "cache: restart without control plane; another minor throws it away; the id stays" {
    conf_dp dpc cpx
    kong 3.8.1 start -c "$W/dpc.conf"
    wait_for 5 dp_ready dpc
    id=$(cat "$W/dpc/kong.id")
    conf_dp dpc nobody
    kong 3.8.1 restart -c "$W/dpc.conf"
    dp_ready dpc
    is_code 200 "$(proxy dpc)/plain"
    kong 3.8.1 stop -p "$W/dpc"
    run -0 --separate-stderr kong 3.9.3 start -c "$W/dpc.conf"
    [[ $stderr == *'LMDB validation tag "3.8" did not match configured tag "3.9"'*"wiping the database"* ]]
    is_code 503 "$(status dpc)/status/ready"
    [ "$(cat "$W/dpc/kong.id")" = "$id" ]
    kong 3.9.3 stop -p "$W/dpc"
}

@test "quit: waits for what is in flight, refuses new connections" {
    conf_dp dpq cpx
    kong 3.8.1 start -c "$W/dpq.conf"
    wait_for 5 dp_ready dpq
    code "$(proxy dpq)/plain/sleep/3" >"$W/slow" 3>&- &
    sleep 0.5
    kong 3.8.1 quit -p "$W/dpq" >"$W/quit" 3>&- &
    wait_for 5 refused "$(proxy dpq)/plain"
    kill -0 "$(cat "$W/dpq/pids/nginx.pid")"
    wait
    [ "$(cat "$W/slow")" = 200 ]
    [ "$(cat "$W/quit")" = "Kong stopped (gracefully)" ]
}

refused() {
    local result=0
    curl -s -o /dev/null "$1" || result=$?
    [ "$result" = 7 ]
}

@test "quit: too long is cut off, with exit code 0" {
    kong 3.8.1 start -c "$W/dpq.conf"
    wait_for 5 dp_ready dpq
    (curl -s -o /dev/null "$(proxy dpq)/plain/sleep/5" || echo $?) >"$W/cut" 3>&- &
    sleep 0.3
    run -0 kong 3.8.1 quit -p "$W/dpq" -t 1
    [ "$output" = "Timeout, Kong stopped forcefully" ]
    wait
    [ "$(cat "$W/cut")" = 52 ]
}

@test "another cluster certificate is turned away" {
    kong 3.8.1 hybrid gen_cert "$W/other.crt" "$W/other.key"
    run -1 kong 3.8.1 hybrid gen_cert "$W/other.crt" "$W/other.key"
    conf_dp dpb cpx
    KONG_CLUSTER_CERT=$W/other.crt KONG_CLUSTER_CERT_KEY=$W/other.key kong 3.8.1 start -c "$W/dpb.conf"
    wait_for 5 grep -q 'broken: failed to receive response header: closed (retrying after' "$W/dpb/logs/error.log"
    grep -q 'data plane presented incorrect client certificate during handshake' "$W/cpx/logs/error.log"
    row_is cpx dpb .id ""
    kong 3.8.1 stop -p "$W/dpb"
}

@test "plugins: missing on a data plane freezes it, wrong ones stop the start" {
    mkdir -p "$W/lua/kong/plugins/my-hdr"
    printf 'return { PRIORITY = 5, VERSION = "1.2.0" }\n' >"$W/lua/kong/plugins/my-hdr/handler.lua"
    conf_cp cpp p
    printf 'plugins = bundled,my-hdr\nlua_package_path = %s/lua/?.lua;;\n' "$W" >>"$W/cpp.conf"
    clone x p
    kong 3.8.1 start -c "$W/cpp.conf"
    conf_dp dpp cpp
    kong 3.8.1 start -c "$W/dpp.conf"
    wait_for 5 dp_ready dpp
    old=$(dp_hash dpp)
    is_code 201 "$(admin cpp)/plugins" -d name=my-hdr -d config.value=v1
    wait_for 5 row_is cpp dpp .sync_status plugin_set_incompatible
    grep -q 'unable to send updated configuration to data plane: configured my-hdr plugin 1.2.0 is missing from data plane' \
        "$W/cpp/logs/error.log"
    row_is cpp dpp .config_hash "$old"
    is_code 200 "$(status dpp)/status/ready"
    kong 3.8.1 stop -p "$W/dpp"
    kong 3.8.1 stop -p "$W/cpp"
    conf_cp cpp p
    run -1 --separate-stderr kong 3.8.1 start -c "$W/cpp.conf"
    [[ $stderr == *"error building initial plugins: my-hdr plugin is in use but not enabled"* ]]
    KONG_PLUGINS=bundled,nowhere run -1 --separate-stderr kong 3.8.1 start -c "$W/cpp.conf"
    [[ $stderr == *"nowhere plugin is enabled but not installed"* ]]
}

@test "an old data plane refuses rate-limiting of a newer control plane, and the list says normal" {
    conf_dp dp35 cpx
    kong 3.5.0 start -c "$W/dp35.conf"
    wait_for 5 grep -q "in 'redis': unknown field" "$W/dp35/logs/error.log"
    row_is cpx dp35 .sync_status normal
    row_is cpx dp35 .config_hash 00000000000000000000000000000000
    is_code 503 "$(status dp35)/status/ready"
    is_code 404 "$(proxy dp35)/plain"
    kong 3.5.0 stop -p "$W/dp35"
}

@test "a control plane on the same database learns of writes through another" {
    conf_cp cpx2 x
    kong 3.8.1 start -c "$W/cpx2.conf"
    is_code 201 "$(admin cpx2)/services/svc/routes" -d name=via2 -d 'paths[]=/via2'
    wait_for 4 is_code 200 "$(proxy dpx)/via2"
    run -0 kong 3.8.1 quit -p "$W/cpx2"
    [ "$output" = "Kong stopped (gracefully)" ]
}

@test "a data plane without its control plane serves on and comes back by itself" {
    kong 3.8.1 stop -p "$W/cpx"
    is_code 200 "$(proxy dpx)/plain"
    dp_ready dpx
    kong 3.8.1 start -c "$W/cpx.conf"
    since=$(date +%s)
    wait_for 5 fresher cpx dpx "$((since - 1))"
}

@test "a traditional node has no list of data planes" {
    conf_cp trad y
    KONG_ROLE=traditional KONG_PROXY_LISTEN=off kong 3.9.3 start -c "$W/trad.conf"
    run -0 curl -s "$(admin trad)/clustering/data-planes"
    [[ $output == '{"message":"this endpoint is only available when Kong is configured to run as Control Plane'* ]]
    kong 3.9.3 stop -p "$W/trad"
}
