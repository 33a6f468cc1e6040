#!/usr/bin/env bats
#
# kong-shift cp export: the configuration as YAML, beside the dump.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; world_reset; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

# A kong of X that fails as a large database makes it, half the file written.
failing() {
    cat >"$BATS_TEST_TMPDIR/kong" <<END
#!/usr/bin/env bash
if [[ \$1 = config && \$2 = $1 ]]; then
    [[ \$2 != parse ]] || { printf "Error: Failed parsing:\n  in 'consumers': unknown field\n" >&2; exit 1; }
    echo 'consumers: [' >"\$3"
    echo 'Error: [postgres] receive_message: failed to get type: timeout' >&2
    exit 1
fi
exec "${KONG[x]}" "\$@"
END
    chmod +x "$BATS_TEST_TMPDIR/kong"
    set_conf x.kong "$BATS_TEST_TMPDIR/kong"
}

@test "cp export: beside the dump, for the owner alone, kept; of a dump that still is what X holds" {
    local file
    check 3 'there is no dump' cp export
    check 0 '' cp backup
    check 0 'config db_export' --dry-run cp export
    check 0 '[1/1] export' cp export
    file=$(echo "$WORK"/x-*.yml)
    grep -q 'username: team-1' "$file"
    [ "$(stat -c %a "$file")" = 600 ]
    jq -es --arg file "$file" 'last | .step == "export" and (.export | startswith($file))' "$WORK/journal.jsonl"
    [ -z "$(find "$WORK" -name '*.tmp')" ]
    touch -d '1 hour ago' "$file"
    check 0 '' cp export
    [ -z "$(find "$WORK" -name '*.yml' -mmin -30)" ]
    sql_x 'UPDATE services SET retries = retries + 1'
    check 3 'was written to since dump' cp export
    run grep -rF -e "$PASSWORD" "$WORK"
    [ "$status" -eq 1 ]
}

@test "export = on: the step backup does it; one that fails is no backup, unless forced" {
    set_conf export maybe
    check 2 'export must be on or off' cp backup
    set_conf export on
    check 0 'config db_export' --dry-run cp dual-cluster
    failing db_export
    check 1 'failed to get type: timeout; Kong is known to fail so on large databases' cp backup
    [ -z "$(find "$WORK" -name '*.yml*')" ]
    check 0 'although: "kong config db_export" of X ended with 1' --force export cp backup
    jq -es 'last | .step == "backup" and (."forced.export" | test("timeout"))' "$WORK/journal.jsonl"
    failing parse
    check 1 "does not take what it exported: Error: Failed parsing: in 'consumers': unknown field" cp backup
    set_conf x.kong "${KONG[x]}"
    check 0 '' cp dual-cluster
    [ -s "$(echo "$WORK"/x-*.yml)" ]

    # Where the command runs elsewhere and writes there.
    rm "$WORK"/x-*.yml
    printf '#!/bin/bash\n[[ $1 = config ]] || exec "%s" "$@"\n' "${KONG[x]}" >"$BATS_TEST_TMPDIR/kong"
    set_conf x.kong "$BATS_TEST_TMPDIR/kong"
    check 1 'work_dir must be seen there' cp export
}
