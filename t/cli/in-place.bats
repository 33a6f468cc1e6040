#!/usr/bin/env bats
#
# kong-shift cp in-place, on a real PostgreSQL and nginx with the module.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    if [[ ${KONG_X-} && ${KONG_Y-} ]]; then world_start; else world_start 3.5.0 3.6.1; fi
}
setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    in_place_reset
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || skip 'see major.bats'
}
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

dp_row() {
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES ('11111111-1111-1111-1111-111111111111', 'web-1', '127.0.0.1', now(),
        '0123456789abcdef0123456789abcdef', now() + interval '1 day', '$1', 'normal')"
}

pending() { sql_x 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0'; }

# "finish" is for later; 3.8 -> 3.9 has nothing to finish.
unfinished() { [[ $X_VERSION = 3.8.* || $(pending) != 0 ]]; }

y_answers() { curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"; }

@test "the whole run, and again; then back: CP X as it was, the database of Y kept under another name" {
    local before
    before=$(digest_x)
    watch_arguments
    : >"$RUN/nginx/admin.log"
    check 0 "CP Y ($Y_VERSION) is up on the database of CP X ($X_VERSION)" cp in-place
    # a large one takes seconds to answer that
    [ "$(grep -c '"GET /admin-x/ .*" 200 ' "$RUN/nginx/admin.log")" = 1 ]
    [ "$(grep -c '"GET /admin-y/ .*" 200 ' "$RUN/nginx/admin.log")" = 1 ]
    [ "$(grep -c 'warning: !!! keep the cluster port of CP Y closed' <<<"$output")" = 2 ]
    [ "$(grep -c 'removes the way back to X' <<<"$output")" = 2 ]
    [ "$(get gate '.state, .evidence.strategy' | paste -sd ' ')" = 'open in-place' ]
    [ "$(get freeze .state)" = on ]
    y_answers
    run ! x_answers
    [ "$(jq -rs 'map(select(.event == "end") | .step) | join(" ")' "$WORK/journal.jsonl")" = \
        'preflight freeze stop backup migrate start verify open' ]
    unfinished

    check 0 'already open' cp in-place
    [ "$(grep -c -E 'kept|already' <<<"$output")" -ge 6 ]
    check 0 'pending for finish: ' cp status
    says 'strategy in-place'

    run grep -rF -e "$PASSWORD" "$WORK"
    [ "$status" -eq 1 ]

    check 0 'is kept as kong_x-' cp rollback
    x_answers
    run ! y_answers
    [ "$(digest_x)" = "$before" ]
    [ "$(get gate .state) $(get freeze .state)" = 'closed off' ]
    [ "$(pg_psql -c "SELECT count(*) FROM pg_database WHERE datname LIKE 'kong_x-%'")" = 1 ]
    check 0 'already down' cp rollback
    nothing_seen
    says 'was never begun'
    [ "$(digest_x)" = "$before" ]
}

@test "finish: only when all is on Y for long, the name of the shift typed; then rollback restores the dump" {
    local before
    before=$(digest_x)
    check 3 'was never run by "cp in-place"' cp finish kong
    check 0 '' cp in-place

    run "$ROOT/scripts/kong-shift" -c "$CONF" --yes cp finish </dev/null
    [ "$status" -eq 3 ]
    says 'give the name of the shift: kong-shift cp finish SHIFT'
    check 3 '"other" is not the name of the shift' cp finish other
    check 3 'not everything goes to the new pool' cp finish kong
    kong_shift weight 100 >/dev/null
    check 3 'but must have stayed at 100 for 1h (setting hold)' cp finish kong
    set_conf hold 1s
    sleep 2
    dp_row "$X_VERSION"
    check 3 "DPs of another version than $Y_VERSION are alive on CP Y: web-1" cp finish kong
    sql_x 'DELETE FROM clustering_data_planes'
    unfinished

    check 0 "the database is Y's ($Y_VERSION) alone now" cp finish kong
    [ "$(pending)" = 0 ]
    check 0 'nothing was pending' cp finish kong

    check 0 'is kept as kong_x-' cp rollback
    x_answers
    [ "$(digest_x)" = "$before" ]
}

@test "quarantine: a CP Y on the cluster port of CP X is refused, and may be forced" {
    sed -i "s/^cluster_listen = .*/cluster_listen = 127.0.0.1:${PORT[cp_x.cluster]}/" "$RUN/cp_y.conf"
    check 3 'where the DPs of X connect' cp preflight
    check 0 '--force quarantine, although' cp preflight --force quarantine
}

@test "the settings mean in-place: dual-cluster is refused, and the other way round" {
    check 2 'is for dual-cluster: set y.db.name' cp dual-cluster
    set_conf y.db.name kong_other
    check 2 'is for in-place: leave out y.db.host' cp in-place
}

@test "freeze = revoke: the rights are back before up; rollback ends with them, too" {
    local before
    set_conf freeze revoke
    set_conf x.admin "http://127.0.0.1:${PORT[cp_x.admin]}"
    before=$(digest_x)
    check 0 '' cp freeze
    [ "$(sql_x "SELECT has_table_privilege('kong', 'consumers', 'INSERT, UPDATE, DELETE, TRUNCATE')")" = f ]
    check 0 'may write to' cp in-place
    [ "$(sql_x "SELECT has_table_privilege('kong', 'consumers', 'INSERT')")" = t ]
    y_answers
    check 0 'not any more' cp in-place
    check 0 'is kept as kong_x-' cp rollback
    [ "$(sql_x "SELECT has_table_privilege('kong', 'consumers', 'INSERT')")" = t ]
    [ "$(digest_x)" = "$before" ]
}
