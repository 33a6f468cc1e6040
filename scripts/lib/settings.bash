# The settings file: "key = value" lines as in kong.conf. Read as text, never run.

declare -A SETTING_TYPE=(
    [shift]=text            [lb]=urls
    [x.kong]=command        [y.kong]=command
    [x.conf]=path           [y.conf]=path           [y.dp.conf]=paths
    [x.admin]=url           [y.admin]=url
    [x.db.host]=text        [y.db.host]=text
    [x.db.port]=port        [y.db.port]=port
    [x.db.name]=name        [y.db.name]=name
    [x.db.user]=name        [y.db.user]=name
                            [y.db.admin]=name
                            [y.db.maintenance]=name
    [x.admin.ca]=path       [y.admin.ca]=path           [lb.ca]=path
    [x.admin.cert]=path     [y.admin.cert]=path         [lb.cert]=path
    [x.admin.key]=path      [y.admin.key]=path          [lb.key]=path
    [x.admin.header_file]=path  [y.admin.header_file]=path  [lb.header_file]=path
    [x.prefix]=path         [y.prefix]=path
    [x.start]=command       [y.start]=command
    [x.stop]=command        [y.stop]=command
    [passfile]=path         [work_dir]=path
    [db_timeout]=seconds    [lock_timeout]=seconds
    [start_timeout]=seconds [freeze_timeout]=seconds
    [hold]=duration         [jobs]=jobs
    [freeze]=freeze         [canary_timeout]=seconds
    [export]=onoff          [attach_timeout]=seconds
)
readonly SETTING_TYPE

declare -A SETTING=(
    [shift]=kong
    [x.db.host]=127.0.0.1   [x.db.port]=5432
    [x.db.name]=kong        [x.db.user]=kong
    [y.db.maintenance]=postgres
    [work_dir]=/var/lib/kong-shift-cp
    [db_timeout]=3600       [lock_timeout]=3600
    [start_timeout]=60      [freeze_timeout]=60
    [hold]=1h               [jobs]=1
    [freeze]=module         [canary_timeout]=60
    [export]=off            [attach_timeout]=300
)
# What the settings mean: dual-cluster or, when Y has the database of X, in-place.
STRATEGY=
declare -A SETTING_LINE=()
declare -a LBS=()
declare -a DP_CONFS=()
declare -a WORDS=()

settings_load() {
    local file=$OPT_CONFIG line number=0 key value

    scratch
    [[ -r $file && ! -d $file ]] \
        || die "$EXIT_USAGE" "cannot read the settings file \"$file\"; name one with --config FILE"

    while IFS= read -r line || [[ -n $line ]]; do
        number=$(( number + 1 ))
        line=${line%$'\r'}
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        [[ $line =~ ^[[:space:]]*([^=[:space:]]+)[[:space:]]*=[[:space:]]*(.*)$ ]] \
            || setting_error "$number" "expected \"key = value\""
        key=${BASH_REMATCH[1]}
        strip_comment "${BASH_REMATCH[2]}"
        setting_put "$number" "$key" "$REPLY"
    done <"$file"

    SETTING[y.db.host]=${SETTING[y.db.host]:-${SETTING[x.db.host]}}
    SETTING[y.db.port]=${SETTING[y.db.port]:-${SETTING[x.db.port]}}
    SETTING[y.db.name]=${SETTING[y.db.name]:-${SETTING[x.db.name]}}
    SETTING[y.db.user]=${SETTING[y.db.user]:-${SETTING[x.db.user]}}
    SETTING[y.db.admin]=${SETTING[y.db.admin]:-${SETTING[y.db.user]}}

    STRATEGY=in-place
    for key in host port name; do
        [[ ${SETTING[x.db.$key]} = "${SETTING[y.db.$key]}" ]] || STRATEGY=dual-cluster
    done

    uri_encode "${SETTING[shift]}"
    SHIFT_URI=$REPLY
    settings_credentials lb "${LBS[*]}"
    settings_credentials x.admin "${SETTING[x.admin]-}"
    settings_credentials y.admin "${SETTING[y.admin]-}"
    db_environment
}

setting_error() {
    die "$EXIT_USAGE" "$OPT_CONFIG:$1: $2"
}

# A comment begins with a # after white space; \# is a plain #. As in kong.conf.
strip_comment() {
    REPLY=" $1"
    REPLY=${REPLY%%[[:space:]]'#'*}
    REPLY=${REPLY//'\#'/'#'}
    REPLY=${REPLY# }
    REPLY=${REPLY%"${REPLY##*[![:space:]]}"}
}

setting_put() {
    local number=$1 key=$2 value=$3

    [[ -n ${SETTING_TYPE[$key]-} ]] || setting_error "$number" "unknown setting \"$key\""
    [[ -n $value ]] || setting_error "$number" "$key has no value"
    [[ ! $value =~ [[:cntrl:]] ]] || setting_error "$number" "$key holds a control character"
    if [[ -n ${SETTING_LINE[$key]-} && ${SETTING_TYPE[$key]} != @(urls|paths) ]]; then
        setting_error "$number" "$key was already set in line ${SETTING_LINE[$key]}"
    fi
    setting_check "$number" "$key" "$value" "${SETTING_TYPE[$key]}"

    SETTING_LINE[$key]=$number
    case ${SETTING_TYPE[$key]} in
        urls)
            ! is_one_of "${value%/}" "${LBS[@]}" || setting_error "$number" "$key $value was already given"
            LBS+=("${value%/}")
            ;;
        paths) DP_CONFS+=("$value") ;;
        url)  SETTING[$key]=${value%/} ;;
        *)    SETTING[$key]=$value ;;
    esac
}

setting_check() {
    local number=$1 key=$2 value=$3 type=$4
    local url='^https?://(unix:/[^:?#]+:|[^/?#@[:space:]]+)(/[^?#[:space:]]*)?$'

    case $type in
        text)
            (( ${#value} <= 255 )) || setting_error "$number" "$key is longer than 255 bytes"
            ;;
        name)
            (( ${#value} <= 63 )) \
                || setting_error "$number" "$key is longer than 63 bytes, the limit of PostgreSQL"
            ;;
        url | urls)
            [[ $value =~ $url ]] || setting_error "$number" \
                "$key must be a URL like http://127.0.0.1:8040/shift, without user, password or query; got \"$value\""
            ;;
        path | paths)
            [[ $value = /* ]] || setting_error "$number" "$key must begin with /, got \"$value\""
            ;;
        port)
            [[ $value =~ ^[1-9][0-9]{0,4}$ && $value -le 65535 ]] \
                || setting_error "$number" "$key must be a port from 1 to 65535, got \"$value\""
            ;;
        seconds)
            [[ $value =~ ^[1-9][0-9]{0,5}$ ]] \
                || setting_error "$number" "$key must be a number of seconds from 1 to 999999, got \"$value\""
            ;;
        freeze)
            [[ $value = @(module|revoke) ]] || setting_error "$number" "$key must be module or revoke, got \"$value\""
            ;;
        onoff)
            [[ $value = @(on|off) ]] || setting_error "$number" "$key must be on or off, got \"$value\""
            ;;
        jobs)
            [[ $value =~ ^[1-9][0-9]?$ ]] || setting_error "$number" "$key must be a number from 1 to 99, got \"$value\""
            ;;
        duration)
            { duration_seconds "$value" && (( REPLY >= 1 && REPLY <= 31536000 )); } || setting_error "$number" \
                "$key must be a time from 1s to 365d like 30m or 1h30m, got \"$value\""
            ;;
        command)
            split_words "$value" || setting_error "$number" "$key has an unbalanced quote"
            [[ -n ${WORDS[0]-} ]] || setting_error "$number" "$key names no command"
            ;;
    esac
}

# settings_credentials WHOSE URLS: what identifies us there, and them to us.
settings_credentials() {
    local whose=$1 key file
    for key in ca cert key header_file; do
        file=${SETTING[$whose.$key]-}
        [[ $file ]] || continue
        [[ -f $file && -r $file ]] || credential_error "$whose.$key" "\"$file\" cannot be read"
        [[ $key = header_file || $2 = *https://* ]] \
            || credential_error "$whose.$key" "has no meaning without an https:// URL in $whose"
    done
    [[ -z ${SETTING[$whose.key]-} || ${SETTING[$whose.cert]-} ]] \
        || credential_error "$whose.key" "has no meaning without $whose.cert"
    for key in key header_file; do
        file=${SETTING[$whose.$key]-}
        [[ -z $file || $(stat -L -c %a -- "$file") = *00 ]] \
            || credential_error "$whose.$key" "\"$file\" may be read by others; chmod 600"
    done
    ! grep -qs ENCRYPTED -- "${SETTING[$whose.key]:-${SETTING[$whose.cert]-}}" \
        || credential_error "$whose.key" "has a passphrase, and nobody to ask for it; keep it without one, mode 600"
    file=${SETTING[$whose.header_file]-}
    # The content is secret, so no message shows it.
    if [[ $file ]] && ! awk '!/^[A-Za-z0-9-]+:[ \t]*[^[:cntrl:] ][^[:cntrl:]]*\r?$/ { bad = 1 } END { exit bad || NR == 0 }' "$file"; then
        credential_error "$whose.header_file" "\"$file\" must hold lines like \"Kong-Admin-Token: ...\", and nothing else"
    fi
}

credential_error() {
    setting_error "${SETTING_LINE[$1]-0}" "$1 $2"
}

# duration_seconds TEXT: a time as nginx writes it, in seconds, into REPLY.
duration_seconds() {
    [[ $1 =~ ^(([0-9]{1,4})d)?(([0-9]{1,5})h)?(([0-9]{1,6})m)?(([0-9]{1,8})s?)?$ && $1 = *[0-9]* ]] || return 1
    REPLY=$(( 10#${BASH_REMATCH[2]:-0} * 86400 + 10#${BASH_REMATCH[4]:-0} * 3600
        + 10#${BASH_REMATCH[6]:-0} * 60 + 10#${BASH_REMATCH[8]:-0} ))
}

# uri_encode TEXT: into REPLY, fit for one segment of a path.
uri_encode() {
    local text=$1 char i
    REPLY=
    for (( i = 0; i < ${#text}; i++ )); do
        char=${text:i:1}
        [[ $char = [A-Za-z0-9._~-] ]] || printf -v char '%%%02X' "'$char"
        REPLY+=$char
    done
}

# split_words TEXT: fills WORDS as a shell would, quotes and backslashes
# included, but expands nothing.
split_words() {
    local text=$1 word='' quote='' char open='' i

    WORDS=()
    for (( i = 0; i < ${#text}; i++ )); do
        char=${text:i:1}
        if [[ $quote = "'" ]]; then
            if [[ $char = "'" ]]; then quote=; else word+=$char; fi
        elif [[ $char = \\ ]]; then
            i=$(( i + 1 ))
            (( i < ${#text} )) || return 1
            # Between double quotes a backslash only guards these two.
            [[ -z $quote || ${text:i:1} = [\"\\] ]] || word+=\\
            word+=${text:i:1} open=1
        elif [[ $quote = '"' ]]; then
            if [[ $char = '"' ]]; then quote=; else word+=$char; fi
        elif [[ $char = [\"\'] ]]; then
            quote=$char open=1
        elif [[ $char = [[:space:]] ]]; then
            [[ -z $open ]] || WORDS+=("$word")
            word='' open=''
        else
            word+=$char open=1
        fi
    done
    [[ -z $quote ]] || return 1
    [[ -z $open ]] || WORDS+=("$word")
}

# need KEY...: a command that cannot work without these settings says so at once.
need() {
    local key
    for key in "$@"; do
        if [[ $key = lb ]]; then
            (( ${#LBS[@]} > 0 )) && continue
        elif [[ -n ${SETTING[$key]-} ]]; then
            continue
        fi
        die "$EXIT_USAGE" "$OPT_CONFIG: the setting $key is missing; \"kong-shift $COMMAND\" needs it"
    done
}
