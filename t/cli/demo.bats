#!/usr/bin/env bats
#
# The demo's own tools: what they call a success must be one.

# shellcheck disable=SC2016,SC2030,SC2031,SC2034

setup() {
    cd "$BATS_TEST_DIRNAME/../.." || exit
    RUN=$BATS_TEST_TMPDIR
    LOAD=$RUN/load.json
    BEGUN=0
}

# The verdict of a load whose generation 2 had 10 % and 3 had 100 %.
judge() {
    # shellcheck source=t/demo/report.bash
    . t/demo/report.bash
    GENERATIONS=(1 2 3) WEIGHTS=(0 10 100)
    jq -n "{requests: 3000, failures: 0, errors: {}, seconds: 1, rate: 3000,
            pools: {old: {\"3.8.1\": 1900}, new: {\"3.9.3\": 1100}},
            generations: {\"1\": {old: 1000}, \"2\": {old: 900, new: 100},
                          \"3\": {new: 1000}}} | $1" > "$LOAD"
    verdict "$LOAD" 3.8.1 3.9.3
}

# Answers the n-th connection as the n-th argument says, then ends.
serve() {
    /usr/bin/python3 - "$RUN/port" "$@" <<'EOF' 3>&- &
import socket, sys
s = socket.create_server(('127.0.0.1', 0))
s.settimeout(20)
with open(sys.argv[1], 'w') as f:
    f.write(str(s.getsockname()[1]))
for answers in sys.argv[2:]:
    c = s.accept()[0]
    for answer in answers.split('|'):
        c.recv(65536)
        c.sendall(answer.encode().decode('unicode_escape').encode())
    c.close()
EOF
    until [[ -s $RUN/port ]]; do sleep 0.05; done
    ADDRESS=127.0.0.1:$(< "$RUN/port")
}

readonly OK='HTTP/1.1 200 OK\r\nContent-Length: 2\r\nVia: 1.1 kong/3.8.1\r
X-Kong-Shift-Pool: old\r\nX-Kong-Shift-Generation: 4\r\n\r\nok'

@test "verdict: exact shares pass" {
    run judge .
    [ "$status" -eq 0 ]
    [[ $output == *"PASS: no failed request"* ]]
}

@test "verdict: one request off is allowed between 0 and 100" {
    run judge '.generations["2"] = {old: 899, new: 101}'
    [ "$status" -eq 0 ]
}

@test "verdict: two requests off are not" {
    run judge '.generations["2"] = {old: 898, new: 102}'
    [ "$status" -eq 1 ]
    [[ $output == *"FAIL: a wrong share"* ]]
}

@test "verdict: one request off is not allowed at 0 and 100" {
    run judge '.generations["1"] = {old: 999, new: 1}'
    [ "$status" -eq 1 ]
    run judge '.generations["3"] = {old: 1, new: 999}'
    [ "$status" -eq 1 ]
}

@test "verdict: an unknown generation must have had weight 0" {
    run judge '.generations["7"] = {old: 10}'
    [ "$status" -eq 0 ]
    run judge '.generations["7"] = {old: 9, new: 1}'
    [ "$status" -eq 1 ]
}

@test "verdict: a failed request fails the run" {
    run judge '.failures = 1'
    [ "$status" -eq 1 ]
    [[ $output == *"1 failed requests"* ]]
}

@test "verdict: an answer of no pool, or of a wrong version, fails the run" {
    run judge '.generations["2"].none = 1'
    [ "$status" -eq 1 ]
    run judge '.pools.new["3.8.1"] = 1'
    [ "$status" -eq 1 ]
    [[ $output == *"wrong version"* ]]
}

@test "verdict: a weight without requests fails the run" {
    run judge 'del(.generations["3"])'
    [ "$status" -eq 1 ]
}

# demo_says: what the demo says until it starts nginx.
demo_says() {
    printf '#!/bin/sh\necho Kong 3.9.9\n' >"$RUN/kong"
    printf '#!/bin/sh\nkill -TERM "$PPID"\n' >"$RUN/nginx"
    chmod +x "$RUN/kong" "$RUN/nginx"
    TEST_NGINX_BINARY=$RUN/nginx run "$@" scripts/demo
    echo "$output"
    [ "$status" -eq 143 ]
}

@test "demo: stand-ins are called so, and nothing else is" {
    demo_says env KONG_X="$RUN/kong" KONG_Y="$RUN/kong"
    [[ $output == *'hybrid upgrade of Kong 3.9.9 to 3.9.9'* && $output != *stand-in* ]]
    demo_says env -u KONG_X -u KONG_Y
    [[ $output == *'3.8.1 to 3.9.3, with stand-ins'* ]]
}

@test "load: counts by version, pool and generation" {
    serve "$OK|$OK|$OK"
    run t/lib/load "$ADDRESS" --connections 1 --requests 3
    [ "$status" -eq 0 ]
    jq -e '.requests == 3 and .failures == 0 and .stale == 0
           and .versions == {"3.8.1": 3} and .pools.old["3.8.1"] == 3
           and .generations["4"].old == 3' <<< "$output"
}

@test "load: a closed idle connection is stale, not failed" {
    serve "$OK" "$OK"
    run t/lib/load "$ADDRESS" --connections 1 --requests 2
    [ "$status" -eq 0 ]
    jq -e '.requests == 2 and .failures == 0 and .stale == 1' <<< "$output"
}

@test "load: a fresh connection closed without an answer has failed" {
    serve ""
    run t/lib/load "$ADDRESS" --connections 1 --requests 1
    [ "$status" -eq 1 ]
    jq -e '.requests == 1 and .failures == 1 and .stale == 0' <<< "$output"
}

@test "load: half an answer and a 5xx have failed" {
    serve "${OK%k}" 'HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n'
    run t/lib/load "$ADDRESS" --connections 1 --requests 2
    [ "$status" -eq 1 ]
    jq -e '.requests == 2 and .failures == 2' <<< "$output"
}

@test "contain: ends what its command left, removes the folder" {
    run t/lib/contain "$RUN/dir." bash -c '
        setsid sleep 1000 > /dev/null 2>&1 &
        echo "$2"; echo $! > "$1"; exit 3' - "$RUN/pid"
    [ "$status" -eq 3 ]
    [[ $output == "$RUN/dir."* ]]
    [ ! -e "$output" ]
    run kill -0 "$(< "$RUN/pid")"
    [ "$status" -ne 0 ]
}

@test "contain: the same when it is asked to end" {
    t/lib/contain "$RUN/dir." bash -c '
        sleep 1000 & echo $! > "$1"; wait' - "$RUN/pid" 3>&- &
    until [[ -s $RUN/pid ]]; do sleep 0.05; done
    kill -TERM "$!"
    status=0
    wait "$!" || status=$?
    [ "$status" -eq 143 ]
    run compgen -G "$RUN/dir.*"
    [ "$status" -ne 0 ]
    run kill -0 "$(< "$RUN/pid")"
    [ "$status" -ne 0 ]
}
