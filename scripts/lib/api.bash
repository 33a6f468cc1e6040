# HTTP: the admin endpoints of the load balancers, and Kong's Admin API.

HTTP_STATUS=
HTTP_BODY=
HTTP_ERROR=

# http METHOD URL [BODY]: false when there was no HTTP answer at all.
http() {
    local method=$1 url=$2 options=()

    if [[ $url =~ ^(https?)://unix:([^:]+):(.*)$ ]]; then
        options+=(--unix-socket "${BASH_REMATCH[2]}")
        url=${BASH_REMATCH[1]}://localhost${BASH_REMATCH[3]}
    fi
    if (( $# > 2 )); then
        options+=(-H 'Content-Type: application/json' --data-binary "$3")
    fi

    HTTP_ERROR='' HTTP_BODY=''
    : >"$SCRATCH/body"
    if ! HTTP_STATUS=$(curl -q -sS -g --connect-timeout 5 --max-time 15 -X "$method" "${options[@]}" \
        -o "$SCRATCH/body" -w '%{http_code}' -- "$url" 2>"$SCRATCH/curl.err")
    then
        HTTP_ERROR=$(log_says "$SCRATCH/curl.err")
        return 1
    fi
    if [[ ! $HTTP_STATUS =~ ^[1-5][0-9][0-9]$ ]]; then
        HTTP_ERROR="curl gave no status"
        return 1
    fi
    # A NUL cannot be kept in a variable, and no honest answer has one.
    HTTP_BODY=$(tr -d '\0' <"$SCRATCH/body")
}

# field FILTER: from the last answer; empty when absent or not JSON.
field() {
    jq -r "($1) // empty" 2>/dev/null <<<"$HTTP_BODY" || true
}

# holds JSON FILTER [OPTION]...: the filter gives true; a jq that gives nothing is no proof.
holds() {
    local json=$1 filter=$2
    shift 2
    [[ $(jq -s "$@" "length > 0 and all(.[]; $filter)" 2>/dev/null <<<"$json") = true ]]
}

# Why an endpoint said no, in its own words when it has some.
http_says() {
    local detail
    detail=$(field '(.detail // .title) + (if .code then " (" + .code + ")" else "" end)')
    printf '%s' "HTTP $HTTP_STATUS${detail:+, $detail}"
}

# lb_call LB METHOD PATH [BODY]: PATH below the shift.
lb_call() {
    local lb=$1 method=$2 path=$3
    shift 3
    http "$method" "$lb/shifts/$SHIFT_URI$path" "$@"
}

# lb_must LB DOING METHOD PATH [BODY]: any answer but 200 is the end.
lb_must() {
    local lb=$1 doing=$2 code=$EXIT_FAILED
    shift 2
    lb_call "$lb" "$@" || unknown "$lb: $doing: no answer: $HTTP_ERROR"
    case $HTTP_STATUS in
        200) return ;;
        403 | 405 | 409 | 412) code=$EXIT_REFUSED ;;
    esac
    die "$code" "$lb: $doing: $(http_says)"
}

declare -a LB_STATE=()

# Asks every load balancer for the whole shift, before anything is changed on one.
lb_read_all() {
    local i
    LB_STATE=()
    for i in "${!LBS[@]}"; do
        lb_must "${LBS[i]}" "reading the shift ${SETTING[shift]}" GET ''
        holds "$HTTP_BODY" '([.weight.new, .weight.effective] | map(type)) == ["number", "number"]
            and .gate.state != null and .freeze.state != null' || unknown "${LBS[i]}: this is no answer of a kong_shift_api, look at the setting lb: $(head -c 80 <<<"$HTTP_BODY")"
        LB_STATE[i]=$HTTP_BODY
    done
}

# lb_field I FILTER: from what lb_read_all saw.
lb_field() {
    jq -r "$2" <<<"${LB_STATE[$1]}"
}

# lb_put_all PATH BODY FILTER WANTED: the same change everywhere, then read
# back: WANTED is what FILTER must give on each. One that differs is named.
lb_put_all() {
    local path=$1 body=$2 filter=$3 wanted=$4 i

    for i in "${!LBS[@]}"; do
        lb_must "${LBS[i]}" "setting the $path$(lb_done_before "$i")" PUT "/$path" "$body"
    done
    for i in "${!LBS[@]}"; do
        lb_must "${LBS[i]}" "reading the $path back" GET "/$path"
        holds "$HTTP_BODY" "($filter) == \$wanted" --argjson wanted "$wanted" || unknown "${LBS[i]}: the $path was accepted, but reads back as $(head -c 200 <<<"$HTTP_BODY"); somebody else changes it too"
    done
}

# With several balancers an operator must know which of them already changed.
lb_done_before() {
    (( $1 > 0 )) || return 0
    printf ' (already set on: %s)' "${LBS[*]:0:$1}"
}

# comment: who is asking, for the events list of the endpoint.
comment() {
    local text
    text=$(printable "kong-shift $COMMAND${FORCED[*]:+ --force ${FORCED[*]}}, $(id -un)@$(uname -n)")
    printf '%s' "${text:0:128}"
}
