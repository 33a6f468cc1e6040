#!/usr/bin/env bats
#
# docs/kong-in-containers.md: its wrappers, word for word, with stand-ins for docker,
# ssh and kubectl that pass arguments and environment as those do.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_reset
    mkdir -p "$BATS_TEST_TMPDIR/bin" "$BATS_TEST_TMPDIR/inside"
    # The only kong inside.
    ln -s "${KONG[y]}" "$BATS_TEST_TMPDIR/inside/kong"
    INSIDE="env -i PATH=$BATS_TEST_TMPDIR/inside:/usr/bin:/bin HOME=/"
    set_conf y.kong "$BATS_TEST_TMPDIR/bin/kong-y"
    set_conf y.start "${KONG[y]} start -p $RUN/cp_y -c $RUN/cp_y.conf"
}
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# wrapper N: the Nth script of the page.
wrapper() {
    awk -v wanted="$1" '/^```(sh|bash)$/ { n++; on = n == wanted; next } /^```/ { on = 0 } on' \
        "$ROOT/docs/kong-in-containers.md" >"$BATS_TEST_TMPDIR/bin/kong-y"
    grep -q "exec $2" "$BATS_TEST_TMPDIR/bin/kong-y"
    chmod +x "$BATS_TEST_TMPDIR/bin/kong-y"
}

# tool NAME: standard input is what it does.
tool() {
    { echo '#!/bin/bash'; echo "echo \"\$*\" >>$BATS_TEST_TMPDIR/arguments"; cat; } >"$BATS_TEST_TMPDIR/bin/$1"
    chmod +x "$BATS_TEST_TMPDIR/bin/$1"
}

docker() {
    tool docker <<END
[[ \$1 = exec ]] || exit 125
shift
variables=()
while [[ \$1 = -e ]]; do
    # Without a value it is that of the caller, if there is one.
    if [[ \$2 = *=* ]]; then variables+=("\$2"); elif [[ -v \$2 ]]; then variables+=("\$2=\${!2}"); fi
    shift 2
done
[[ \$1 = kong-y-tools ]] || exit 1
shift
cd /
exec $INSIDE "\${variables[@]}" "\$@"
END
}

# run_all: the plan, then the whole, through the wrapper.
run_all() {
    local PATH=$BATS_TEST_TMPDIR/bin:$PATH
    run kong_shift plan
    echo "$output"
    [ "$status" -eq 0 ]
    run kong_shift cp dual-cluster
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(get gate .state)" = open ]
    run grep -F -e "$PASSWORD" "$BATS_TEST_TMPDIR/arguments"
    [ "$status" -eq 1 ]
    grep -q 'migrations up' "$BATS_TEST_TMPDIR/arguments"
    [ "$(digest_x)" = "$BEFORE" ]
}

@test "docker exec" {
    BEFORE=$(digest_x)
    docker
    wrapper 1 docker
    run_all
}

@test "ssh: its words are put together, and split by a shell again; the password is in the conf there" {
    BEFORE=$(digest_x)
    tool ssh <<END
[[ "\$1 \$2 \$3" = '-o BatchMode=yes kong-y.example.com' ]] || exit 255
shift 3
cd /
exec $INSIDE sh -c "\$*"
END
    wrapper 2 ssh
    run_all
}

@test "kubectl exec: the password is the pod's" {
    BEFORE=$(digest_x)
    tool kubectl <<END
[[ "\$1 \$2 \$3" = 'exec kong-y-tools --' ]] || exit 1
shift 3
cd /
exec $INSIDE KONG_PG_DATABASE=kong_x KONG_PG_PASSWORD=$(printf '%q' "$PASSWORD") "\$@"
END
    wrapper 3 kubectl
    run_all
}

@test "a wrapper that does not pass the database on is refused, before it migrates another" {
    BEFORE=$(digest_x)
    tool kong-y <<END
cd /
exec $INSIDE KONG_PG_HOST=$PGHOST KONG_PG_PORT=$PGPORT KONG_PG_DATABASE=kong_x KONG_PG_PASSWORD=$(printf '%q' "$PASSWORD") kong "\$@"
END
    for command in plan 'cp dual-cluster'; do
        # shellcheck disable=SC2086
        run kong_shift $command
        echo "$output"
        [ "$status" -eq 3 ]
        [[ $output == *'y.kong does not work on the database it is told to'* ]]
    done
    [ "$(digest_x)" = "$BEFORE" ]
    run ! grep -q 'migrations up' "$BATS_TEST_TMPDIR/arguments"
    # Nor does one that fails on everything.
    printf '#!/bin/bash\n[[ $1 != migrations ]] || { echo oops; exit 9; }\nexec "%s" "$@"\n' "${KONG[y]}" >"$BATS_TEST_TMPDIR/bin/kong-y"
    run kong_shift plan
    echo "$output"
    [ "$status" -eq 4 ]
    [[ $output == *'cannot tell'* ]]
}
