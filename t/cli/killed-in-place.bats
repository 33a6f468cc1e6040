#!/usr/bin/env bats
#
# kong-shift cp in-place, its finish and its rollback, killed at every line of the journal.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    if [[ ${KONG_X-} && ${KONG_Y-} ]]; then world_start; else world_start 3.5.0 3.6.1; fi
}
setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    . "$BATS_TEST_DIRNAME/killed.bash"
    in_place_reset
    [[ ${X_VERSION%%.*} = "${Y_VERSION%%.*}" ]] || skip 'see major.bats'
    BEFORE=$(digest_x)
}
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

pending() { sql_x 'SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0'; }

# "finish" is for later; 3.8 -> 3.9 has nothing to finish.
unfinished() { [[ $X_VERSION = 3.8.* || $(pending) != 0 ]]; }

y_answers() { curl -s -f -o /dev/null "http://127.0.0.1:${PORT[cp_y.admin]}/"; }

# Line 9 is the start of the step migrate.
until_migrate() { (( $1 > 9 )) || [ "$(digest_x)" = "$BEFORE" ]; }

all_is_up() {
    [ "$(get gate '.state, .evidence.strategy' | paste -sd ' ')" = 'open in-place' ]
    [ "$(get freeze .state)" = on ]
    y_answers
    run ! x_answers
    unfinished
}

all_is_back() {
    x_answers
    run ! y_answers
    [ "$(digest_x)" = "$BEFORE" ]
    [ "$(get gate .state) $(get freeze .state)" = 'closed off' ]
}

# All is on Y, and was so for long.
finishable() {
    check 0 '' cp in-place
    set_conf hold 1s
    kong_shift weight 100 >/dev/null
    sleep 2
}

@test "in-place killed at every line of the journal, one after the other: resume comes to the same end, X untouched until migrate" {
    untouched() { until_migrate "$1"; }
    killed_in_turn 16 cp in-place
    all_is_up
    no_password
}

@test "rollback killed at every line of the journal, one after the other: resume comes to the same end" {
    check 0 '' cp in-place
    killed_in_turn 14 cp rollback
    all_is_back
    no_password
}

@test "finish killed at every line of the journal: resume goes on without the name of the shift; where it said no it must be typed again" {
    check 0 '' cp in-place
    check 3 'not everything goes to the new pool' cp finish kong
    check 3 'nothing was begun, so run it again yourself' cp resume
    finishable
    killed_in_turn 6 cp finish kong
    [ "$(pending)" = 0 ]
    check 0 'as it was' cp watch
}

@test "finish killed between \"kong migrations finish\" and the journal" {
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF
#!/usr/bin/env bash
[[ "\$1 \$2" = 'migrations finish' ]] || exec ${KONG[y]} "\$@"
${KONG[y]} "\$@"
kill -9 "\$(<$WORK/lock)"
EOF
    chmod +x "$BATS_TEST_TMPDIR/kong"
    finishable
    [[ $(pending) != 0 ]] || skip 'nothing to finish between these versions'
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"
    run ! kong_shift cp finish kong
    check 0 'cp finish was interrupted in step finish' cp resume
    set_conf y.kong "${KONG[y]}"
    [ "$(pending)" = 0 ]
    check 0 'as it was' cp watch
}

@test "in-place killed at each line alone" {
    local line
    only_long
    untouched() { until_migrate "$1"; }
    for line in {1..16}; do
        in_place_reset
        rm -rf "$WORK"
        killed_alone 16 "$line" cp in-place
        all_is_up
    done
    no_password
}

@test "rollback killed at each line alone" {
    local line
    only_long
    for line in {1..14}; do
        in_place_reset
        rm -rf "$WORK"
        check 0 '' cp in-place
        killed_alone 14 "$line" cp rollback
        all_is_back
    done
    no_password
}

@test "finish killed at each line alone" {
    local line
    only_long
    for line in {1..6}; do
        in_place_reset
        rm -rf "$WORK"
        finishable
        killed_alone 6 "$line" cp finish kong
        [ "$(pending)" = 0 ]
        check 0 'as it was' cp watch
    done
}
