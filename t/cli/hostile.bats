#!/usr/bin/env bats
#
# kong-shift in places it was not made for: odd names that are right, odd environments.

# shellcheck disable=SC2016,SC2030,SC2031,SC2119,SC2154

bats_require_minimum_version 1.5.0

setup_file()    { . "$BATS_TEST_DIRNAME/world.bash"; world_start; }
setup()         { . "$BATS_TEST_DIRNAME/world.bash"; . "$BATS_TEST_DIRNAME/killed.bash"; world_reset; cd "$BATS_TEST_TMPDIR" || exit; }
teardown()      { stop_odd; }
teardown_file() { . "$BATS_TEST_DIRNAME/world.bash"; world_stop; }

ODD='a b'\''c"; $(touch x) `touch x` & *'

stop_odd() { [[ ! -d $BATS_TEST_TMPDIR/$ODD/prefix ]] || "${KONG[y]}" stop -p "$BATS_TEST_TMPDIR/$ODD/prefix" >/dev/null 2>&1 || true; }

@test "odd names that are right: folders, files, commands, role; the whole run, and back" {
    local dir=$BATS_TEST_TMPDIR/$ODD role='r"o'\''l\e $(touch x);' quoted
    mkdir -p "$dir"
    pg_psql -v role="$role" <<<'SELECT count(*) FROM pg_roles WHERE rolname = :'"'role'" | grep -qx 1 || pg_role "$role" "$PASSWORD"
    # the command is split into words, so it is quoted as such
    quoted=${dir//\\/\\\\}
    quoted=\"${quoted//\"/\\\"}
    ln -s "${KONG[x]}" "$dir/kong x"
    ln -s "${KONG[y]}" "$dir/kong y"
    sed "s/^pg_user = .*/pg_user = ${role//\\/\\\\}/" "$RUN/cp_y.conf" >"$dir/y.conf"
    cp "$RUN/cp_x.conf" "$dir/x.conf"
    (umask 077 && sed 's/:kong:/:*:/' "$RUN/passfile" >"$dir/passfile")
    set_conf x.kong "$quoted/kong x\""
    set_conf y.kong "$quoted/kong y\""
    set_conf x.conf "$dir/x.conf"
    set_conf y.conf "$dir/y.conf"
    set_conf y.prefix "$dir/prefix"
    set_conf y.db.user "$role"
    set_conf y.db.admin "$role"
    set_conf passfile "$dir/passfile"
    set_conf work_dir "$dir/work"
    mv "$CONF" "$dir/kong-shift.conf"
    CONF=$dir/kong-shift.conf
    check 0 'is up and holds' cp dual-cluster
    [ "$(sql_y "SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")" = "$role" ]
    check 0 'as it was' cp watch
    check 0 'the earlier database is kept as' cp rollback
    [[ ! -e x && -z $(find "$dir" -name x) ]]
}

@test "a line break within the value of any setting is the end of the line, and refused" {
    local key value
    cp "$CONF" conf
    while IFS= read -r key; do
        case $key in
            *_timeout | jobs | *.port) value=1 ;;
            hold)                      value=1s ;;
            freeze)                    value=module ;;
            export)                    value=on ;;
            lb | *.admin)              value=http://a ;;
            *)                         value=/a ;;
        esac
        grep -v "^${key}[[:space:]]*=" conf >"$CONF"
        printf '%s = %s\n$(touch x); b\n' "$key" "$value" >>"$CONF"
        check 2 "kong-shift: $CONF:$(wc -l <"$CONF"): expected" status
        [[ $(wc -l <<<"$output") = 1 && ! -e x ]]
    done < <(bash -c '. "$1/scripts/lib/settings.bash"; printf "%s\n" "${!SETTING_TYPE[@]}"' - "$ROOT" | sort)
}

@test "environment: another locale, noise of libpq, Kong, jq, grep and bash, no HOME, standard input closed" {
    printf 'echo noise\nset -x\n' >noise
    chmod +x noise
    run env -u HOME LC_ALL=tr_TR.UTF-8 LANG=tr_TR.UTF-8 LANGUAGE=tr BASH_ENV="$PWD/noise" ENV="$PWD/noise" CDPATH=/ IFS=, \
        POSIXLY_CORRECT=1 GREP_OPTIONS=-v GREP_COLORS= JQ_COLORS=1 CURL_HOME=/ PGHOST=/nonexistent PGSERVICE=none PGOPTIONS='-c no=1' \
        PGSSLMODE=prefer PGDATESTYLE=German PGTZ=Asia/Tokyo PGCLIENTENCODING=LATIN1 PSQLRC="$PWD/noise" TZ=Asia/Tokyo TMPDIR="$PWD" \
        KONG_PG_HOST=/nonexistent KONG_PREFIX=/nonexistent KONG_DATABASE=off COLUMNS=x TERM=bad \
        "$ROOT/scripts/kong-shift" --config "$CONF" --yes cp dual-cluster <&- 3>&-
    echo "$output"
    [ "$status" -eq 0 ]
    [ "$(get gate .state)" = open ]
    [[ $output != *"$PASSWORD"* ]]
    # nothing of it is left
    [ -z "$(find . -maxdepth 1 -name 'kong-shift.*' ! -name kong-shift.conf)" ]
}

@test "HUP, INT and TERM end it with their codes, in the journal too; nothing it started is left" {
    local signal code pid i
    printf '#!/bin/bash\n[[ $1 != version || -e %q/go ]] || { echo $$ >%q/slow; exec sleep 300; }\nexec %q "$@"\n' "$PWD" "$PWD" "${KONG[y]}" >kong
    chmod +x kong
    set_conf y.kong "$PWD/kong"
    for signal in HUP:129 INT:130 TERM:143; do
        code=${signal#*:} signal=${signal%:*}
        rm -f slow
        # A background job of a script is deaf to INT.
        python3 -c 'import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])' \
            "$ROOT/scripts/kong-shift" --config "$CONF" --yes cp dual-cluster >out 2>&1 </dev/null 3>&- &
        pid=$!
        until [[ -s slow ]]; do sleep 0.05; done
        kill -"$signal" "$pid"
        status=0
        wait "$pid" || status=$?
        cat out
        [ "$status" -eq "$code" ]
        [ "$(tail -n 1 out)" = 'kong-shift: interrupted' ]
        # Its last moment may come after that of the script.
        for (( i = 0; i < 40; i++ )); do
            kill -0 "$(<slow)" 2>/dev/null || break
            sleep 0.05
        done
        run ! kill -0 "$(<slow)"
        [ "$(jq -r '.reason // empty' "$WORK/journal.jsonl" | tail -n 1)" = 'interrupted by a signal' ]
    done
    touch go
    check 0 'is up and holds' cp resume
}

@test "a clock that was put back, or far ahead, between two runs: resume comes to the same end" {
    killer 9
    run ! killed cp dual-cluster
    jq -c '.time |= sub("^2"; "3")' "$WORK/journal.jsonl" >journal
    cp journal "$WORK/journal.jsonl"
    check 0 '' cp status
    check 0 'is up and holds' cp resume
    check 0 'nothing to resume' cp resume
    [ "$(get gate .state)" = open ]
    jq -c '.time |= sub("^[23]"; "1")' "$WORK/journal.jsonl" >journal
    cp journal "$WORK/journal.jsonl"
    check 0 'nothing to resume' cp resume
    check 0 'kept as' cp rollback
}
