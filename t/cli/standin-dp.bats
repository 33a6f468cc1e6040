#!/usr/bin/env bats
# The stand-in for kong: data planes, their control planes, the proxy, as real Kong was seen to behave.

bats_require_minimum_version 1.5.0
# shellcheck source=t/cli/standin.bash
source "$BATS_TEST_DIRNAME/standin.bash"

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
