#!/usr/bin/env bats
#
# A configuration with something of everything: all of it comes to Y, and CP Y takes it.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_start
    everything
    world_keep
}
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown()      { [[ ! -d $RUN/dp_y ]] || { "${KONG[y]}" stop -p "$RUN/dp_y" >/dev/null 2>&1 || true; rm -rf "$RUN/dp_y"; }; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# post PATH JSON: to the Admin API of CP X.
post() {
    curl -s -S -f -m 60 -o /dev/null -H 'Content-Type: application/json' -d "$2" "http://127.0.0.1:${PORT[cp_x.admin]}$1" \
        || { echo "POST $1 $2 failed"; return 1; }
}

everything() {
    local id config regex='/v[0-9]+/x'
    [[ $X_VERSION = 2.* ]] || regex="~$regex"
    id=$(cat /proc/sys/kernel/random/uuid)
    post /routes '{"name":"regex","paths":["'"$regex"'"],"hosts":["a.example"],"methods":["GET"],"headers":{"x-a":["1"]}}'
    post /services/orders/routes '{"name":"tcp","protocols":["tcp"],"destinations":[{"port":9001}]}'
    post /upstreams '{"name":"pool","hash_on":"consumer","healthchecks":{"active":{"healthy":{"interval":5}}}}'
    post /upstreams/pool/targets '{"target":"127.0.0.1:9","weight":50}'
    jq -n --arg id "$id" --rawfile cert "$RUN/cluster.crt" --rawfile key "$RUN/cluster.key" '{$id, $cert, $key}' >"$RUN/json"
    post /certificates "@$RUN/json"
    post /snis "{\"name\":\"a.example\",\"certificate\":{\"id\":\"$id\"}}"
    post /consumers/team-1/key-auth '{"key":"k-1","tags":["seed"]}'
    post /consumers/team-1/basic-auth '{"username":"u-1","password":"p-1"}'
    post /consumers/team-1/jwt '{"key":"j-1","secret":"s-1"}'
    post /consumers/team-1/hmac-auth '{"username":"h-1","secret":"s-1"}'
    post /consumers/team-1/acls '{"group":"gold"}'
    while read -r id config; do
        post /plugins "{\"name\":\"$id\",\"config\":$config}"
    done <<'END'
rate-limiting {"minute":5,"policy":"local"}
response-ratelimiting {"limits":{"sms":{"minute":5}},"policy":"local"}
cors {"origins":["https://a.example"],"credentials":true}
request-transformer {"add":{"headers":["x-a:1"]}}
response-transformer {"remove":{"headers":["x-b"]}}
ip-restriction {"deny":["10.0.0.0/8"]}
request-size-limiting {"allowed_payload_size":8}
request-termination {"status_code":503,"message":"no"}
correlation-id {"header_name":"x-id"}
file-log {"path":"/dev/null"}
http-log {"http_endpoint":"http://127.0.0.1:9/"}
tcp-log {"host":"127.0.0.1","port":9}
udp-log {"host":"127.0.0.1","port":9}
syslog {}
statsd {}
datadog {}
zipkin {"http_endpoint":"http://127.0.0.1:9/"}
prometheus {}
bot-detection {"deny":["bad"]}
pre-function {"access":["return"]}
post-function {"access":["return"]}
proxy-cache {"strategy":"memory"}
acme {"account_email":"a@example.com","tos_accepted":true,"storage":"redis","storage_config":{"redis":{"host":"127.0.0.1","port":6379}}}
acl {"allow":["gold"]}
key-auth {"key_names":["apikey"]}
basic-auth {}
hmac-auth {}
jwt {}
oauth2 {"enable_client_credentials":true}
ldap-auth {"ldap_host":"127.0.0.1","ldap_port":389,"base_dn":"dc=a","attribute":"cn"}
grpc-web {}
grpc-gateway {"proto":"/nonexistent"}
aws-lambda {"function_name":"f","aws_region":"eu-west-1"}
azure-functions {"functionname":"f","appname":"a"}
END
}

# What counts in the end: a DP of Y is ready with what CP Y sends.
plane_takes_it() {
    write_dp_conf dp_y cp_y
    node_start y dp_y 3>&-
    wait_node plane_ready dp_y 120
}

plane_ready() { [[ $(http_status "http://127.0.0.1:${PORT[$1.status]}/status/ready") = 200 ]]; }

@test "dual-cluster: everything is there, and what CP Y says of the plugins" {
    local before
    before=$(digest_x)
    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(digest_x)" = "$before" ]
    for table in plugins routes services consumers upstreams targets certificates snis keyauth_credentials acls jwt_secrets; do
        [ "$(sql_y "SELECT count(*) FROM $table")" = "$(sql_x "SELECT count(*) FROM $table")" ]
    done
    plane_takes_it
    # Not written to by itself, once CP Y is up.
    run kong_shift cp watch
    echo "$output"
    [ "$status" -eq 0 ]
    run kong_shift cp rollback
    [ "$status" -eq 0 ]
}

@test "in-place: there and back" {
    local before
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || skip 'see major.bats'
    in_place_reset
    before=$(digest_x)
    run kong_shift cp in-place
    echo "$output"
    [ "$status" -eq 0 ]
    plane_takes_it
    run kong_shift cp watch
    echo "$output"
    [ "$status" -eq 0 ]
    run kong_shift cp rollback
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(digest_x)" = "$before" ]
}
