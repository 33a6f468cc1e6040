#!/usr/bin/env bats
#
# kong-shift cp attached: DPs of X that were let on CP Y, in-place.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    if [[ ${KONG_X-} && ${KONG_Y-} ]]; then world_start; else world_start 3.5.0 3.6.1; fi
}
setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    in_place_reset
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || skip 'see major.bats'
    set_conf attach_timeout 1
}
teardown()      { touch "$BATS_TEST_TMPDIR/enough"; no_old_pool; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

readonly ONE=11111111-1111-1111-1111-111111111111 TWO=22222222-2222-2222-2222-222222222222

row() {
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES ('$1', '$2', '127.0.0.1', now(), '0123456789abcdef0123456789abcdef', now() + interval '1 day', '$X_VERSION', 'normal')"
}

# hears ID HASH [SYNC_STATUS]: CP Y does, from that DP.
hears() {
    sql_x "UPDATE clustering_data_planes SET last_seen = now(), config_hash = '$2', sync_status = '${3:-normal}' WHERE id = '$1'"
}

@test "in-place: every DP that CP X had must have come, with one configuration that is not empty" {
    local hash=abcdefabcdefabcdefabcdefabcdefab zeros=00000000000000000000000000000000
    check 3 'there is no dump' cp attached
    row "$ONE" web-1
    row "$TWO" web-2
    check 0 '' cp in-place
    # The rows are those of CP X.
    check 3 "DP web-1 ($ONE, $X_VERSION) has not come; DP web-2" cp attached
    [[ $output == *'(setting attach_timeout); to detach: close cluster_listen of CP Y to them again'*'cp rollback'* ]]
    hears "$ONE" "$hash"
    check 3 "DP web-2 ($TWO, $X_VERSION) has not come, after 1 s" cp attached
    hears "$TWO" "$zeros"
    check 3 "DP web-2 ($TWO, $X_VERSION) is no config" cp attached
    hears "$TWO" "$hash" plugin_set_incompatible
    check 3 'is frozen, on old config, gets no other' cp attached
    hears "$TWO" 0123456789abcdef0123456789abcdef
    check 3 'have different configs' cp attached
    hears "$ONE" "$hash"
    hears "$TWO" "$hash"
    check 0 '2 DPs of X have what CP Y sends' cp attached
    jq -es --arg hash "$hash" 'last | .step == "attached" and .result == "done" and .config_hash == $hash' "$WORK/journal.jsonl"
    sql_x "DELETE FROM clustering_data_planes WHERE id = '$ONE'"
    check 3 "DP web-1 ($ONE) is not on it" cp attached

    # The way back tells that the old pool has something else by now.
    kong_shift weight 5 >/dev/null
    check 0 "X also changed configuration: web-2 ($TWO) of the old pool hang on CP Y" cp rollback
    says "DPs of version $X_VERSION hang on CP Y: web-2 ($TWO); they come back to CP X by themselves if it has its old address"
}

# old_pool: a DP; answers "no Route matched" as Kong does, to /gone.
old_pool() {
    mkdir -p "$BATS_TEST_TMPDIR/dp/logs"
    cat >"$BATS_TEST_TMPDIR/dp/nginx.conf" <<EOF
pid nginx.pid;
error_log logs/error.log;
worker_processes 1;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi; uwsgi_temp_path uwsgi; scgi_temp_path scgi;
    server {
        listen 127.0.0.1:${PORT[dp]};
        add_header Server kong/$X_VERSION always;
        add_header X-Kong-Response-Latency 1 always;
        location /      { add_header X-Kong-Upstream-Latency 1; return 200 "here"; }
        location /gone  { return 404 '{"message":"no Route matched with those values"}'; }
        location /theirs { add_header X-Kong-Upstream-Latency 1 always; add_header X-Kong-Proxy-Latency 1 always; return 404 "theirs"; }
    }
}
EOF
    "$NGINX" -p "$BATS_TEST_TMPDIR/dp" -c nginx.conf -e logs/error.log 3>&- 2>/dev/null
}
no_old_pool() { [[ ! -d $BATS_TEST_TMPDIR/dp ]] || "$NGINX" -p "$BATS_TEST_TMPDIR/dp" -c nginx.conf -e logs/error.log -s stop 2>/dev/null; }

# asked N PATH: as clients do.
asked() {
    local url="http://127.0.0.1:${PORT[shift]}/api$2?[1-$1]"
    curl -s -o /dev/null "$url"
}

# clients N: until no_clients; of 150 requests N are answered 404 by Kong, 50 by others.
clients() {
    exec 3>&-
    while [ ! -e "$BATS_TEST_TMPDIR/enough" ]; do asked "$1" /gone; asked 50 /theirs; asked $(( 100 - $1 )) /; done
}
no_clients() { touch "$BATS_TEST_TMPDIR/enough"; wait; rm "$BATS_TEST_TMPDIR/enough"; }

@test "in-place: Kong's own 404s did not become more in the old pool since" {
    local hash=abcdefabcdefabcdefabcdefabcdefab
    old_pool
    row "$ONE" web-1
    asked 98 /
    asked 2 /gone
    check 0 '' cp in-place
    [ "$(jq -c 'map([.all, .not_found])' "$WORK/old-pool.json")" = '[[100,2]]' ]
    hears "$ONE" "$hash"

    check 0 'answered only 0 requests meanwhile, too few to tell' cp attached

    # Those of what is behind Kong are nobody's fault here.
    clients 2 &
    check 0 '1 DPs of X have what CP Y sends' cp attached
    [[ $output != *'too few'* ]]
    jq -es 'last | .not_found | test("^[0-9.]+ % of [0-9]+, before 2 %$")' "$WORK/journal.jsonl"
    no_clients

    clients 12 &
    check 3 'Kong answers more requests to the old pool with 404 by itself' cp attached
    [[ $output == *'before 2 %'*'to detach: close cluster_listen'* ]]
    no_clients
}
