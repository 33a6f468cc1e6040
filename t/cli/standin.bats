#!/usr/bin/env bats
# The stand-in for kong: command line, migrations, Admin API, as real Kong was seen to behave.

bats_require_minimum_version 1.5.0
# shellcheck source=t/cli/standin.bash
source "$BATS_TEST_DIRNAME/standin.bash"

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
    pg_psql -c "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = 'frozen'"
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
    cp "$W/export.yml" "$W/export.yml.tmp"
    run -1 --separate-stderr kong 3.8.1 config parse "$W/export.yml.tmp" -c "$W/cpx.conf"
    [[ $stderr == *"unknown file type: $W/export.yml.tmp. (Accepted types: json, yaml)"* ]]
    run -1 --separate-stderr kong 3.8.1 config db_export "$W/no.yml" -c "$W/dpx.conf"
    [[ $stderr == "Error: 'kong config db_export' only works with a database."* ]]
    printf '_format_version: "3.0"\nservices:\n- naem: x\n  host: h\n' >"$W/bad.yml"
    run -1 --separate-stderr kong 3.8.1 config parse "$W/bad.yml" -c "$W/cpx.conf"
    [[ $stderr == "Error: Failed parsing:"*"in entry 1 of 'services'"*"in 'naem': unknown field"* ]]
}
