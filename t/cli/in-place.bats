#!/usr/bin/env bats
#
# kong-shift cp in-place, on a real PostgreSQL and nginx with the module.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    if [[ ${KONG_X-} && ${KONG_Y-} ]]; then world_start; else world_start 3.5.0 3.6.1; fi
    in_place_world
}
setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    in_place_reset
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || skip 'see major.bats'
}
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# check CODE TEXT ARG...: runs kong-shift, wants that code and that text.
check() {
    local code=$1 text=$2
    shift 2
    run kong_shift "$@"
    echo "$output"
    [ "$status" -eq "$code" ]
    says "$text"
}

says() { [[ $output == *"$1"* ]] || { echo "not said: $1"; return 1; }; }

dp_row() {
    sql_x "INSERT INTO clustering_data_planes (id, hostname, ip, last_seen, config_hash, ttl, version, sync_status)
        VALUES ('11111111-1111-1111-1111-111111111111', 'web-1', '127.0.0.1', now(),
        '0123456789abcdef0123456789abcdef', now() + interval '1 day', '$1', 'normal')"
}

pending() { sql_x 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0'; }

# "finish" is for later; 3.8 -> 3.9 has nothing to finish.
unfinished() { [[ $X_VERSION = 3.8.* || $(pending) != 0 ]]; }

# killer N: a sync that kills the script at the Nth line of the journal.
killer() {
    mkdir -p "$BATS_TEST_TMPDIR/bin"
    echo 0 >"$BATS_TEST_TMPDIR/lines"
    cat >"$BATS_TEST_TMPDIR/bin/sync" <<EOF2
#!/bin/bash
[[ \$* != *journal.jsonl ]] || {
    lines=\$(( \$(<$BATS_TEST_TMPDIR/lines) + 1 ))
    echo "\$lines" >$BATS_TEST_TMPDIR/lines
    (( lines != $1 )) || kill -9 "\$PPID"
}
exec /usr/bin/sync "\$@"
EOF2
    chmod +x "$BATS_TEST_TMPDIR/bin/sync"
}

# What it leaves behind must hold no password either.
killed() { TMPDIR=$BATS_TEST_TMPDIR PATH=$BATS_TEST_TMPDIR/bin:$PATH kong_shift "$@" >>"$BATS_TEST_TMPDIR/said" 2>&1; }

no_password() { run grep -rlF -e '(touch x)' "$BATS_TEST_TMPDIR"; echo "$output"; [ "$status" -eq 1 ]; }

# killed_at COMMAND COUNT LINE: killed there, then resumed.
killed_at() {
    echo "killed at line $3 of $2"
    killer "$3"
    # two words
    # shellcheck disable=SC2086
    run ! killed $1
    [ "$(<"$BATS_TEST_TMPDIR/lines")" = "$3" ]
    [[ $1 != 'cp in-place' || $3 -gt 9 || $(digest_x) = "$BEFORE" ]]
    check 0 '' cp status
    if (( $3 < $2 )); then
        check 0 "${1% kong} was interrupted" cp resume
    else
        check 0 "nothing to resume: ${1% kong} came to its end" cp resume
    fi
}

# Each line takes ten seconds; those around what cannot be undone are the ones that matter.
lines_of() { if [[ ${KONG_SHIFT_LONG-} ]]; then seq "$1"; else echo "${@:2}"; fi; }

x_answers() { curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_x.admin]}/"; }
y_answers() { curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"; }

@test "the whole run, and again; then back: CP X as it was, the database of Y kept under another name" {
    local before
    before=$(digest_x)
    check 0 "CP Y ($Y_VERSION) is up on the database of CP X ($X_VERSION)" cp in-place
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
    says 'was never begun'
    [ "$(digest_x)" = "$before" ]
}

@test "killed at a line of the journal: resume comes to the same end, X untouched until migrate" {
    local line
    BEFORE=$(digest_x)
    for line in $(lines_of 16 6 9 10 12); do
        in_place_reset
        rm -rf "$WORK"
        killed_at 'cp in-place' 16 "$line"
        [ "$(get gate '.state, .evidence.strategy' | paste -sd ' ')" = 'open in-place' ]
        y_answers
        run ! x_answers
        unfinished
    done
    no_password
}

@test "a rollback killed at a line of the journal: resume comes to the same end" {
    local line before
    before=$(digest_x)
    for line in $(lines_of 14 7 8 10); do
        in_place_reset
        rm -rf "$WORK"
        check 0 '' cp in-place
        killed_at 'cp rollback' 14 "$line"
        x_answers
        run ! y_answers
        [ "$(digest_x)" = "$before" ]
        [ "$(get gate .state) $(get freeze .state)" = 'closed off' ]
    done
    no_password
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

@test "finish killed: resume goes on without the name of the shift; where it said no it must be typed again" {
    local line
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF2
#!/usr/bin/env bash
[[ "\$1 \$2" = 'migrations finish' ]] || exec ${KONG[y]} "\$@"
${KONG[y]} "\$@"
kill -9 "\$(<$WORK/lock)"
EOF2
    chmod +x "$BATS_TEST_TMPDIR/kong"
    # 0 is between "kong migrations finish" and the journal
    for line in 0 $(lines_of 6); do
        in_place_reset
        rm -rf "$WORK"
        check 0 '' cp in-place
        set_conf hold 1s
        check 3 'not everything goes to the new pool' cp finish kong
        check 3 'nothing was begun, so run it again yourself' cp resume
        kong_shift weight 100 >/dev/null
        sleep 2
        if (( line > 0 )); then
            killed_at 'cp finish kong' 6 "$line"
        else
            set_conf y.kong "$BATS_TEST_TMPDIR/kong"
            [[ $(pending) != 0 ]] || continue
            run ! kong_shift cp finish kong
            check 0 'cp finish was interrupted in step finish' cp resume
            set_conf y.kong "${KONG[y]}"
        fi
        [ "$(pending)" = 0 ]
        check 0 'as it was' cp watch
    done
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
