#!/usr/bin/env bats
#
# kong-shift cp dual-cluster where the migrations leave work for "finish":
# 3.5 -> 3.6, of the stand-in.

# shellcheck disable=SC2030,SC2031,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start 3.5.0 3.6.1; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

@test "finish that ends with 0 and did nothing is found; the next run completes" {
    # A row that another node left in the table of locks.
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF
#!/usr/bin/env bash
if [[ "\$1 \$2" = 'migrations finish' && ! -e $BATS_TEST_TMPDIR/locked ]]; then
    touch $BATS_TEST_TMPDIR/locked
    PGPASSWORD=\$KONG_PG_PASSWORD PGHOST=\$KONG_PG_HOST PGPORT=\$KONG_PG_PORT PGUSER=\$KONG_PG_USER \\
        PGDATABASE=\$KONG_PG_DATABASE psql -Xqc \\
        "INSERT INTO locks (key, owner, ttl) VALUES ('migrations', 'another', now() + interval '1 hour')"
fi
exec ${KONG[y]} "\$@"
EOF
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"

    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 1 ]
    [[ $output == *'"kong migrations finish" on database'*'ended with 0, but the state afterwards is pending'* ]]
    [[ $output == *'another node is performing database changes'* ]]
    [ "$(get gate .state)" = closed ]

    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(get gate .state)" = open ]
    [ "$(sql_y "SELECT count(*) FROM schema_meta WHERE cardinality(pending) > 0")" = 0 ]
}

@test "up that ends with 0 and did nothing is found" {
    cat >"$BATS_TEST_TMPDIR/kong" <<EOF
#!/usr/bin/env bash
[[ "\$1 \$2" != 'migrations up' ]] || exit 0
exec ${KONG[y]} "\$@"
EOF
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf y.kong "$BATS_TEST_TMPDIR/kong"

    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 1 ]
    [[ $output == *'"kong migrations up" on database'*'ended with 0, but the state afterwards is new'* ]]
    [ "$(get gate .state)" = closed ]
}
