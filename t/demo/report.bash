# What the demo shows: progress while the load runs, a table at its end. To be
# sourced. Needs RUN, and LOAD, the file of the load's live counts.

[[ -t 1 ]] && TERMINAL=yes || TERMINAL=

declare -a GENERATIONS=() WEIGHTS=()

# Prints a line of the story, with the time since the start.
say() {
    printf '[%5.1f s] %s\n' "$(elapsed)" "$*"
}

elapsed() {
    awk -v begun="$BEGUN" '{ print $1 - begun }' /proc/uptime
}

# Prints a command, then runs it and prints what it says.
show() {
    printf '\n$ %s\n' "$*"
    "$@"
}

# One line of progress: what is wanted and seen in a generation, and the sums.
progress() {
    jq -r --arg generation "$1" --arg weight "$2" '
        def percent($n): $n * 10000 | round / 100;
        (.generations[$generation] // {}) as $g
        | (($g.old // 0) + ($g.new // 0)) as $n
        | "           wanted \($weight) % new, seen "
          + (if $n == 0 then "-" else "\(percent(($g.new // 0) / $n)) %" end)
          + " | requests \(.requests), failed \(.failures) | Via "
          + ([.versions | to_entries[] | "\(.key): \(.value)"] | join(", "))
        ' "$LOAD"
}

# Lets a weight be in force for a while: hold GENERATION WEIGHT SECONDS
hold() {
    local until=$(( SECONDS + $3 ))

    GENERATIONS+=("$1")
    WEIGHTS+=("$2")

    while (( SECONDS < until )); do
        load_is_up
        [[ -z $TERMINAL ]] || printf '\r%s\e[K' "$(progress "$1" "$2")"
        sleep 0.25
    done

    [[ -z $TERMINAL ]] || printf '\r\e[K'
    progress "$1" "$2"
}

# Prints the table and the verdict of the counts in a file: verdict FILE X Y
# Every generation but those that were held had weight 0. At 0 and at 100 not
# one request may go astray; in between, less than one is no whole request.
verdict() {
    jq -r --arg x "$2" --arg y "$3" \
       --arg generations "${GENERATIONS[*]}" --arg weights "${WEIGHTS[*]}" '
        def pad($width): tostring | " " * ([$width - length, 0] | max) + .;
        def round2: . * 100 | round / 100;
        def versions: [. // {} | to_entries[] | "\(.key) (\(.value) times)"]
                      | if . == [] then "-" else join(", ") end;

        ([[$generations | splits(" ")], [$weights | splits(" ")]]
           | transpose | map({(.[0]): (.[1] | tonumber)}) | add) as $weight
        | [ .generations | to_entries[]
            | (.value.new // 0) as $new | (.value.old // 0) as $old
            | ($weight[.key] // 0) as $w
            | (($new + $old) * $w / 100) as $wanted
            | { generation: .key, $w, requests: ($new + $old), $wanted, $new,
                other: ((.value | add) - $new - $old),
                ok: (if $w == 0 or $w == 100 then $new == $wanted
                     else ($new - $wanted | fabs) <= 1 end) } ] as $rows
        | ([.pools.old // {}, .pools.new // {}] | map(keys)) as $versions
        | [ if .failures > 0 then "\(.failures) failed requests: \(.errors)"
                else empty end,
            if any($rows[]; .ok | not) then "a wrong share" else empty end,
            if any($rows[]; .other > 0) then "answers of no pool"
                else empty end,
            if ($versions[0] - [$x]) + ($versions[1] - [$y]) != []
                then "answers of a wrong version: \(.pools)" else empty end,
            if ($weight | keys) - [$rows[].generation] != []
                then "a weight without a request" else empty end ] as $faults
        | "",
          "generation  weight  requests  wanted new  seen new     off",
          ($rows | sort_by(.generation | tonumber? // -1)[]
           | (.generation | pad(10)) + (.w | pad(8)) + (.requests | pad(10))
             + (.wanted | round2 | pad(12)) + (.new | pad(10))
             + (.new - .wanted | round2 | pad(8))
             + (if .ok then "" else "  WRONG" end)),
          "",
          "requests \(.requests), failed \(.failures), \(.seconds) s, "
              + "\(.rate) a second",
          "answered by Kong: old pool " + (.pools.old | versions)
              + ", new pool " + (.pools.new | versions),
          "",
          (if $faults == [] then "PASS: no failed request, every share exact"
           else "FAIL: " + ($faults | join("; ")) end)
        ' "$1" | tee "$RUN/verdict"

    grep -q '^PASS' "$RUN/verdict"
}
