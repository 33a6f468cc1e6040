#!/usr/bin/env bats
#
# kong-shift over https: CA, client certificate, header lines from a file.

# shellcheck disable=SC2016,SC2030,SC2031,SC2154

readonly TOKEN='s3cret-token-of-rbac'

setup_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_balancer
    make_certificates
    tls_front
}

setup() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    cd "$RUN/tls" || exit
    URL=https://127.0.0.1:$(<"$RUN/tls.port")
    umask 077
    printf 'Kong-Admin-Token: %s\nX-Why: upgrade\n' "$TOKEN" >"$BATS_TEST_TMPDIR/header: \$(id)"
    cat >"$CONF" <<END
lb = $URL/shift
lb.ca = $RUN/tls/ca.crt
lb.cert = $RUN/tls/me.crt
lb.key = $RUN/tls/me.key
x.admin = $URL/admin
x.admin.ca = $RUN/tls/ca.crt
x.admin.cert = $RUN/tls/odd: name.pem
x.admin.header_file = $BATS_TEST_TMPDIR/header: \$(id)
END
}

teardown_file() {
    . "$BATS_TEST_DIRNAME/world.bash"
    world_enter
    "$NGINX" -p "$RUN/tls" -c nginx.conf -e logs/error.log -s stop || true
    world_stop
}

# sign NAME SUBJECT: NAME.crt and NAME.key, by the CA.
sign() {
    openssl req -new -nodes -subj "/CN=$2" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -keyout "$1.key" -out "$1.csr"
    openssl x509 -req -days 30 -in "$1.csr" -CA ca.crt -CAkey ca.key -CAcreateserial -out "$1.crt" \
        -extfile <(printf 'subjectAltName=IP:127.0.0.1')
    chmod 600 "$1.key"
}

self_signed() {
    openssl req -new -x509 -nodes -days 30 -subj "/CN=$1" -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 \
        -keyout "$1.key" -out "$1.crt"
    chmod 600 "$1.key"
}

make_certificates() {
    mkdir -p "$RUN/tls/logs"
    chmod 755 "$RUN/tls"
    (
        cd "$RUN/tls" || exit
        self_signed ca
        self_signed other
        sign server localhost
        sign me operator
        cat me.key me.crt >'odd: name.pem'
        chmod 600 'odd: name.pem'
    ) 2>/dev/null
}

# What an Admin API with RBAC behind TLS says.
tls_front() {
    pick_ports tls
    printf '%s' "${PORT[tls]}" >"$RUN/tls.port"
    cat >"$RUN/tls/nginx.conf" <<END
$( (( EUID != 0 )) || echo 'user nobody nogroup;')
worker_processes 1;
pid nginx.pid;
error_log logs/error.log;
events { worker_connections 64; }
http {
    access_log off;
    client_body_temp_path temp_body;
    proxy_temp_path temp_proxy;
    fastcgi_temp_path temp_fastcgi;
    uwsgi_temp_path temp_uwsgi;
    scgi_temp_path temp_scgi;
    default_type application/json;
    map \$http_kong_admin_token\$http_x_why \$user {
        default nobody;
        "${TOKEN}upgrade" admin;
        "weakupgrade" weak;
    }
    server {
        listen 127.0.0.1:${PORT[tls]} ssl;
        ssl_certificate server.crt;
        ssl_certificate_key server.key;
        ssl_client_certificate ca.crt;
        ssl_verify_client on;
        location /shift/ { proxy_pass http://127.0.0.1:${PORT[shift]}/shift/; }
        location = /admin/clustering/data-planes { return 200 '{"data":[],"next":null}'; }
        location /admin/ {
            if (\$user = nobody) { return 401 '{"message":"Invalid credentials. Token or User credentials required"}'; }
            if (\$user = weak) { return 403 '{"message":"weak, you do not have permissions to read this resource"}'; }
            return 200 '{"version":"3.8.1","configuration":{"role":"control_plane","pg_database":"kong","prefix":"/x"}}';
        }
    }
}
END
    "$NGINX" -p "$RUN/tls" -c nginx.conf -e logs/error.log 3>&- 2>"$RUN/tls/start.log"
}

# check CODE TEXT ARG...: runs kong-shift, wants that code and that text, and no secret.
check() {
    local code=$1 text=$2
    shift 2
    run kong_shift "$@"
    echo "$output"
    [ "$status" -eq "$code" ]
    [[ $output == *"$text"* ]]
    [[ $output != *"$TOKEN"* ]]
}

@test "certificate, key, header lines: asked and changed, the secret never an argument" {
    mkdir "$BATS_TEST_TMPDIR/bin"
    printf '#!/bin/bash\nprintf "%%s\\n" "$@" >>%q\nexec %q "$@"\n' "$BATS_TEST_TMPDIR/arguments" "$(command -v curl)" \
        >"$BATS_TEST_TMPDIR/bin/curl"
    chmod +x "$BATS_TEST_TMPDIR/bin/curl"
    PATH=$BATS_TEST_TMPDIR/bin:$PATH
    check 0 "$URL/shift: 0 % to new" status
    check 0 'aborted' abort
    check 0 'VERDICT' dp list
    grep -qF -- "$RUN/tls/me.key" "$BATS_TEST_TMPDIR/arguments"
    run grep -F -e "$TOKEN" -e 'Kong-Admin-Token' "$BATS_TEST_TMPDIR/arguments"
    [ "$status" -eq 1 ]
}

@test "a server of another CA, or of none that is known: unknown, with the reason" {
    set_conf lb.ca "$RUN/tls/other.crt"
    check 4 'certificate' status
    [[ $output == *'SSL certificate problem'* ]]
    set_conf x.admin.ca "$RUN/tls/other.crt"
    check 4 'SSL certificate problem' dp list
    sed -i '/^lb.ca/d' "$CONF"
    check 4 'SSL certificate problem' weight 0
}

@test "a client certificate that is missing, or not theirs: said, and where to look" {
    sed -i '/^lb.cert/d; /^lb.key/d' "$CONF"
    check 4 'No required SSL certificate was sent; look at lb.cert and lb.key' status
    set_conf lb.cert "$RUN/tls/other.crt"
    set_conf lb.key "$RUN/tls/other.key"
    check 4 'The SSL certificate error; look at lb.cert and lb.key' status
    set_conf x.admin.cert "$RUN/tls/other.crt"
    set_conf x.admin.key "$RUN/tls/other.key"
    check 4 'look at x.admin.cert and x.admin.key' dp list
    set_conf lb.key "$RUN/tls/me.key"
    check 4 'unknown' status
}

@test "RBAC: no token, a wrong one, one with too few rights" {
    sed -i '/^x.admin.header_file/d' "$CONF"
    check 4 'HTTP 401, Invalid credentials. Token or User credentials required; look at x.admin.header_file' dp list
    (umask 077 && printf 'Kong-Admin-Token: wrong-%s\nX-Why: upgrade\n' "$TOKEN" >"$BATS_TEST_TMPDIR/wrong")
    set_conf x.admin.header_file "$BATS_TEST_TMPDIR/wrong"
    check 4 'HTTP 401' dp list
    (umask 077 && printf 'Kong-Admin-Token: weak\nX-Why: upgrade\n' >"$BATS_TEST_TMPDIR/weak")
    set_conf x.admin.header_file "$BATS_TEST_TMPDIR/weak"
    check 4 'HTTP 403, weak, you do not have permissions to read this resource; the user of x.admin.header_file needs more rights' dp list
}

@test "what cannot work is refused with its line, and its content is not shown" {
    local file=$BATS_TEST_TMPDIR/secret
    check_line() {
        check 2 "kong-shift: $CONF:" status
        [[ $output == *"$1"* ]]
        [ "${#lines[@]}" -eq 1 ]
    }
    set_conf x.admin.header_file /nonexistent
    check_line 'x.admin.header_file "/nonexistent" cannot be read'
    for text in '' "$TOKEN" "Kong-Admin-Token: $TOKEN"$'\n\n' $'A: b\n\001' 'Two words: x' ': x' 'A:'; do
        printf '%s' "$text" >"$file"
        set_conf x.admin.header_file "$file"
        check_line 'must hold lines like'
    done
    printf 'A: %s' "$TOKEN" >"$file"
    check 0 '% to new' status
    chmod 640 "$file"
    check_line 'may be read by others; chmod 600'
    chmod 600 "$file"
    openssl pkey -in me.key -aes128 -passout pass:x -out "$BATS_TEST_TMPDIR/encrypted.key"
    set_conf lb.key "$BATS_TEST_TMPDIR/encrypted.key"
    check_line 'lb.key has a passphrase'
    sed -i '/^lb.cert/d' "$CONF"
    set_conf lb.key "$RUN/tls/me.key"
    check_line 'lb.key has no meaning without lb.cert'
    set_conf x.admin http://127.0.0.1:1
    sed -i '/^lb.key/d' "$CONF"
    check_line 'has no meaning without an https:// URL in x.admin'
}
