# HTTP: the admin endpoints of the load balancers, and Kong's Admin API.

HTTP_STATUS=
HTTP_BODY=
HTTP_ERROR=
declare -a HTTP_MANY=()

# http WHOSE METHOD URL [BODY [HEADER]]: with the certificates and header lines
# of WHOSE, which is lb, x.admin or y.admin. False when there was no HTTP answer.
http() {
    http_words "$1" "$2" "$3"
    shift 3
    if (( $# > 0 )); then
        WORDS+=(-H 'Content-Type: application/json' --data-binary "$1")
    fi
    if (( $# > 1 )); then
        WORDS+=(-H "$2")
    fi

    HTTP_ERROR='' HTTP_BODY=''
    : >"$SCRATCH/body"
    if ! HTTP_STATUS=$(curl -q "${WORDS[@]}" -o "$SCRATCH/body" -w '%{http_code}' 2>"$SCRATCH/curl.err"); then
        # The first line is the reason, the others are advice.
        HTTP_ERROR=$(head -n 1 "$SCRATCH/curl.err")
        HTTP_ERROR=${HTTP_ERROR:-curl said nothing}
        return 1
    fi
    if [[ ! $HTTP_STATUS =~ ^[1-5][0-9][0-9]$ ]]; then
        HTTP_ERROR="curl gave no status"
        return 1
    fi
    # A NUL cannot be kept in a variable, and no honest answer has one: bash drops it.
    { HTTP_BODY=$(<"$SCRATCH/body"); } 2>/dev/null
}

# http_many WHOSE METHOD DIR BODY ANSWER URL...: asks them all, over two connections; with
# BODY the files DIR/0.BODY, DIR/1.BODY ... are sent. The answers are in DIR/0.ANSWER ...,
# their statuses in HTTP_MANY.
http_many() {
    local dir=$3 count=$(( $# - 5 ))
    rm -f -- "$dir"/{codes,error}.*
    run_long http_many_children "$@"
    cat -- "$dir"/codes.* >"$dir/codes" 2>/dev/null || true
    mapfile -t HTTP_MANY <"$dir/codes"
    HTTP_ERROR=$(cat -- "$dir"/error.* | head -n 1)
    HTTP_ERROR=${HTTP_ERROR:-${#HTTP_MANY[@]} of $count answers}
    (( ${#HTTP_MANY[@]} == count ))
}

http_many_children() {
    local settings=("${@:1:5}") half=$(( ($# - 4) / 2 ))
    shift 5
    child http_several 0 "${settings[@]}" "${@:1:half}"
    (( half == $# )) || child http_several "$half" "${settings[@]}" "${@:half + 1}"
    children_wait
}

# http_several FIRST WHOSE METHOD DIR BODY ANSWER URL...: one of the two.
http_several() {
    local first=$1 whose=$2 method=$3 dir=$4 body=$5 answer=$6 i=$1 option=() url
    shift 6
    for url in "$@"; do
        http_words "$whose" "$method" "$url"
        (( i == first )) || option+=(--next)
        [[ -z $body ]] || option+=(-H 'Content-Type: application/json' --data-binary "@$dir/$i.$body")
        option+=("${WORDS[@]}" -o "$dir/$i.$answer" -w '%{http_code}\n')
        i=$(( i + 1 ))
    done
    # 0 comes before all others, so the statuses are in order. What failed has none.
    curl -q "${option[@]}" >"$dir/codes.$first" 2>"$dir/error.$first" || rm -f -- "$dir/codes.$first"
    [[ -e $dir/codes.$first ]] || printf 'curl said nothing\n' >>"$dir/error.$first"
}

# http_words WHOSE METHOD URL: what curl needs to ask that, into WORDS.
http_words() {
    local url=$3 limit=15
    # GET / of Kong reads every plugin there is: seconds for each 50,000 of them.
    [[ $1 = lb ]] || limit=60
    http_credentials "$1"
    if [[ $url =~ ^(https?)://unix:([^:]+):(.*)$ ]]; then
        WORDS+=(--unix-socket "${BASH_REMATCH[2]}")
        url=${BASH_REMATCH[1]}://localhost${BASH_REMATCH[3]}
    fi
    WORDS+=(-sS -g --connect-timeout 5 --max-time "$limit" -X "$2" --url "$url")
}

# http_credentials WHOSE: as options of curl, into WORDS. Names of files only:
# what is in them must not be seen among the arguments of a process.
http_credentials() {
    local name cert
    WORDS=()
    [[ -z ${SETTING[$1.ca]-} ]] || WORDS+=(--cacert "${SETTING[$1.ca]}")
    if [[ ${SETTING[$1.cert]-} ]]; then
        # Behind a colon curl would look for a passphrase.
        cert=${SETTING[$1.cert]//\\/\\\\}
        WORDS+=(--cert "${cert//:/\\:}")
    fi
    [[ -z ${SETTING[$1.key]-} ]] || WORDS+=(--key "${SETTING[$1.key]}")
    [[ -z ${SETTING[$1.header_file]-} ]] || WORDS+=(-H "@${SETTING[$1.header_file]}")
}

# admin_call WHICH METHOD PATH [BODY]: the Admin API of x or y.
admin_call() {
    local which=$1 method=$2 path=$3
    shift 3
    http "$which.admin" "$method" "${SETTING[$which.admin]}$path" "$@"
}

# json_object [NAME VALUE]...: an object of strings, into REPLY. What needs no
# escaping needs no jq, which takes as long to start as all else together.
json_object() {
    local object='' plain='*[!]-~ -!#-[]*' text
    while (( $# > 0 )); do
        text="\"$2\""
        # shellcheck disable=SC2053
        [[ $2 != $plain ]] || text=$(jq -n --arg text "$2" '$text') || return
        object+=",\"$1\":$text"
        shift 2
    done
    REPLY="{${object:1}}"
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

# http_says WHOSE: why an endpoint said no, in its own words when it has some,
# and where to look.
http_says() {
    local detail='' hint=
    # Most of what a proxy says on its own is no JSON.
    [[ $HTTP_BODY != '{'* ]] || detail=$(field '(.detail // .title // .message | strings) + (if .code | type == "string" then " (" + .code + ")" else "" end)
        + (if .code == "pool_not_ready" then ": \([.peers[]? | "\(.addr) \(.reason // "no reason")"] | join(", "))" else "" end)')
    if [[ -z $detail && $HTTP_BODY =~ \<title\>([^<]{1,200})\</title\> ]]; then
        detail=${BASH_REMATCH[1]#"$HTTP_STATUS "}
    fi
    case $HTTP_STATUS in
        400) [[ ! $detail =~ (SSL|TLS)' '.*certificate ]] || hint="look at $1.cert and $1.key" ;;
        401) hint="look at $1.header_file, whose lines are to say who asks" ;;
        # Of Kong, not of the shift, whose own words tell.
        403) [[ $1 = lb ]] || hint="the user of $1.header_file needs more rights" ;;
        404) [[ $1 = lb ]] || hint="is it the Admin API? In nginx \"location /admin/\" and \"proxy_pass http://ADDRESS/\" both need the last slash" ;;
    esac
    printf '%s' "HTTP $HTTP_STATUS${detail:+, $detail}${hint:+; $hint}"
}

# lb_call LB METHOD PATH [BODY [HEADER]]: PATH below the shift.
lb_call() {
    local lb=$1 method=$2 path=$3
    shift 3
    http lb "$method" "$lb/shifts/$SHIFT_URI$path" "$@"
}

# lb_must LB DOING METHOD PATH [BODY [HEADER]]: any answer but 200 is the end.
lb_must() {
    local lb=$1 doing=$2
    shift 2
    lb_call "$lb" "$@" || unknown "$lb: $doing: no answer: $HTTP_ERROR"
    [[ $HTTP_STATUS = 200 ]] || lb_die "$lb: $doing: $(http_says lb)"
}

# lb_die TEXT: with the code that the last answer stands for.
lb_die() {
    local code=$EXIT_FAILED
    [[ $HTTP_STATUS != @(401|403|405|409|412) ]] || code=$EXIT_REFUSED
    die "$code" "$1"
}

# What they said: the whole shift and, by "INDEX.NAME", what is asked for most.
declare -a LB_STATE=()
declare -A LB_FIELD=()

# Asks every load balancer for the whole shift, before anything is changed on one.
lb_read_all() {
    local i
    LB_STATE=() LB_FIELD=()
    for i in "${!LBS[@]}"; do
        lb_read "$i" "reading the shift ${SETTING[shift]}"
    done
}

# lb_read I DOING
lb_read() {
    local i=$1 lines name
    lb_must "${LBS[i]}" "$2" GET ''
    mapfile -t lines < <(jq -r --arg lb "${LBS[i]}" 'select(([.weight.new, .weight.effective, .generation] | map(type)) == ["number", "number", "number"]
        and (.gate.state | IN("open", "closed", "off")) and (.freeze.state | IN("on", "off")))
        | ({$lb} + . | tojson), .gate.state, .freeze.state, (.freeze.active | numbers // "unknown"), .generation, .weight.effective,
            (if .key // "" == "" then "" else "set" end)' 2>/dev/null <<<"$HTTP_BODY")
    (( ${#lines[@]} == 7 )) || unknown "${LBS[i]}: this is no answer of a kong_shift_api, look at the setting lb: $(head -c 80 <<<"$HTTP_BODY")"
    LB_STATE[i]=${lines[0]}
    lines=("${lines[@]:1}")
    for name in gate freeze active generation effective key; do
        LB_FIELD[$i.$name]=${lines[0]}
        lines=("${lines[@]:1}")
    done
}

# lb_field I NAME: from what lb_read_all saw: gate, freeze, active (admin writes that
# the freeze waits for), generation, effective (the weight in force), key.
lb_field() {
    printf '%s' "${LB_FIELD[$1.$2]}"
}

# lb_all NAME VALUE...: such a field is one of these on every load balancer.
lb_all() {
    local name=$1 i
    shift
    for i in "${!LB_STATE[@]}"; do
        is_one_of "${LB_FIELD[$i.$name]}" "$@" || return 1
    done
    (( ${#LB_STATE[@]} > 0 ))
}

# lb_hold FILTER: it is true of what every load balancer said.
lb_hold() {
    holds "${LB_STATE[*]}" "$1"
}

# lb_differences: in what the balancers whose shifts come on standard input
# disagree, with names and values, into REPLY; empty is good.
lb_differences() {
    REPLY=
    (( ${#LBS[@]} > 1 )) || return 0
    REPLY=$(jq -rs '
        def text: if type == "string" then . else tojson end;
        map(select(.weight)) as $all
        | [["weight", "new"], ["aborted"], ["gate", "state"], ["gate", "evidence"], ["freeze", "state"], ["key"], ["seed"]]
        | map(. as $path | ($all | map({lb, value: getpath($path)}))
            | select((map(.value) | unique | length) > 1)
            | "\($path - ["new", "state"] | join(" ")) is "
                + (group_by(.value) | map("\(.[0].value | text) on \(map(.lb) | join(", "))") | join(" and ")))
        | join("; ")')
}

# lb_put_all PATH BODY FILTER WANTED: the same change everywhere, once each of
# them would take it; then read back: WANTED is what FILTER must give on each.
lb_put_all() {
    local path=$1 body=$2 filter=$3 wanted=$4 i bad=

    lb_dry_run "$path"
    if [[ $OPT_DRY_RUN ]]; then
        for i in "${!LBS[@]}"; do
            printf '%s\n' "$(printable "$(quoted curl -X PUT -d "$body" "${LBS[i]}/shifts/$SHIFT_URI/$path")")"
        done
        return
    fi
    for i in "${!LBS[@]}"; do
        # A change of somebody else in between must not be undone unseen.
        if ! lb_call "${LBS[i]}" PUT "/$path" "$body" "If-Match: \"$(lb_field "$i" generation)\""; then
            unknown "${LBS[i]}: setting the $path: no answer: $HTTP_ERROR$(lb_done_before "$i")"
        fi
        [[ $HTTP_STATUS = 200 ]] || lb_die "${LBS[i]}: setting the $path: $(http_says lb)$(lb_done_before "$i")"
    done
    for i in "${!LBS[@]}"; do
        lb_read "$i" "reading the $path back"
        holds "$HTTP_BODY" ".$path | ($filter) == \$wanted" --argjson wanted "$wanted" \
            || bad+=", $(jq -c ".$path | $filter" <<<"$HTTP_BODY") on ${LBS[i]}"
    done
    [[ -z $bad ]] || unknown \
        "the $path was accepted as $wanted, but reads back as ${bad#, }; somebody else changes it too, run it again"
}

# lb_dry_run PATH: proves that every balancer takes writes, and that none was
# changed since it was read, by a write that no generation can match.
lb_dry_run() {
    local i found
    for i in "${!LBS[@]}"; do
        json_object state "$(lb_field "$i" freeze)"
        lb_call "${LBS[i]}" PUT /freeze "$REPLY" 'If-Match: "0"' \
            || unknown "${LBS[i]}: nothing was changed anywhere, as it does not answer: $HTTP_ERROR"
        [[ $HTTP_STATUS = 412 ]] || lb_die "${LBS[i]}: nothing was changed anywhere, as it takes no changes: $(http_says lb)"
        found=$(field .current)
        [[ $found = "$(lb_field "$i" generation)" ]] || refuse \
            "${LBS[i]}: nothing was changed anywhere, as somebody else just changed the shift (generation $(lb_field "$i" generation), now ${found:-unknown}); run it again"
        [[ $1 != gate || $(lb_field "$i" gate) != off ]] || refuse \
            "${LBS[i]}: nothing was changed anywhere, as its kong_shift_gate is off, and that of others on; make them alike"
    done
}

# With several balancers an operator must know which of them already changed.
lb_done_before() {
    (( $1 > 0 )) || return 0
    printf '; already set on %s, so they differ now: run it again, or send everything to the old pool: kong-shift abort' "${LBS[*]:0:$1}"
}

# comment: who is asking, for the events list of the endpoint.
comment() {
    local text
    text=$(printable "kong-shift $COMMAND${FORCED[*]:+ --force ${FORCED[*]}}, $(id -un)@$(uname -n)")
    printf '%s' "${text:0:128}"
}
