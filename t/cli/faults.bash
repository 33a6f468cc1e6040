# Faults around kong-shift. To be sourced after world.bash by a .bats file, whose
# setup ends with "faults COMMAND...".

# faults COMMAND...: what is to meet them.
faults() {
    COMMAND=("$@")
    BEFORE=$(digest_x)
    BIN=$BATS_TEST_TMPDIR/bin
    mkdir "$BIN"
    cp "$CONF" "$BATS_TEST_TMPDIR/conf"
}

# fault CODE TEXT [COMMAND...]: it ends so, with this as its only sentence; the
# gate is closed, X as before unless MIGRATED is set.
fault() {
    local code=$1 text=$2
    (( $# > 2 )) || set -- "$@" "${COMMAND[@]}"
    PATH=$BIN:$PATH run --separate-stderr kong_shift "${@:3}"
    # Those two of in-place come with every run, and so does that of a missing y.dp.conf.
    stderr=$(grep -v -e '^kong-shift: warning: !!! ' -e '^kong-shift: warning: nothing is known of the DPs of Y;' <<<"$stderr")
    echo "$output"
    echo "$stderr"
    [ "$status" -eq "$code" ]
    [ "$(wc -l <<<"$stderr")" = 1 ]
    [[ $stderr == "kong-shift: "*"$text"* ]] || { echo "not said: $text"; return 1; }
    [[ $stderr != *"$PASSWORD"* && $stderr != *'cr\et'* ]]
    [[ ${MIGRATED-} || $(digest_x) = "$BEFORE" ]]
    [ "$(get gate .state)" = closed ]
}

# mended: the fault is gone.
mended() {
    rm -f "$BIN"/*
    cp "$BATS_TEST_TMPDIR/conf" "$CONF"
}

# way_on [resume]: the fault is gone, and the command, or "cp resume", brings it to its end.
way_on() {
    mended
    if [[ ${1-} ]]; then run kong_shift cp resume; else run kong_shift "${COMMAND[@]}"; fi
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(get gate .state)" = open ]
    [ "$(sql_y 'SELECT count(*) FROM consumers')" = 3 ]
    [[ ${MIGRATED-} || $(digest_x) = "$BEFORE" ]]
}

# tool NAME: a script in front of NAME; REAL is the true one.
tool() {
    { printf '#!/bin/bash\nREAL=%q\n[[ $1 != --version ]] || exec "$REAL" "$@"\n' "$PG_BIN/$1"; cat; } >"$BIN/$1"
    chmod +x "$BIN/$1"
}

# kong_y: a script in front of y.kong.
kong_y() {
    { printf '#!/bin/bash\nREAL=%q\n' "${KONG[y]}"; cat; echo 'exec "$REAL" "$@"'; } >"$BIN/kong"
    chmod +x "$BIN/kong"
    set_conf y.kong "$BIN/kong"
}

# cutter DATABASE TABLE MODE [PATTERN]: "$BIN/cutter" holds the table; whose query,
# like PATTERN, waits for it loses its connection.
cutter() {
    cat >"$BIN/cutter" <<EOF2
#!/bin/bash
rm -f $BIN/held
PGHOST=$PGHOST PGPORT=$PGPORT PGUSER=$PG_SUPERUSER PGPASSFILE=$PG_PASSFILE PGDATABASE=$(printf %q "$1") PGAPPNAME=cut \\
    $PG_BIN/psql -X -q -A -t >/dev/null 2>&1 <<'SQL' &
BEGIN;
LOCK TABLE $2 IN $3 MODE;
\\! touch $BIN/held
DO \$\$ BEGIN
    FOR i IN 1..100 LOOP
        PERFORM pg_sleep(0.1);
        PERFORM pg_stat_clear_snapshot();
        PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
            AND query LIKE '${4:-%}';
        EXIT WHEN FOUND;
    END LOOP;
END \$\$;
COMMIT;
SQL
SECONDS=0
while [[ ! -e $BIN/held && \$SECONDS -lt 30 ]]; do sleep 0.05; done
EOF2
    chmod +x "$BIN/cutter"
}
