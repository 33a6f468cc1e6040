# The cluster certificate: a CP Y that has another one, or one that runs out, is
# a CP Y that no DP can talk to.

readonly CERTIFICATE_SECONDS=$(( 7 * 86400 ))

guard_certificate() {
    local x y x_mode y_mode ca
    node_conf x cluster_cert; x=$REPLY
    node_conf y cluster_cert; y=$REPLY
    node_conf x cluster_mtls; x_mode=${REPLY:-shared}
    node_conf y cluster_mtls; y_mode=${REPLY:-shared}
    certificate_read x "$x"
    certificate_read y "$y"

    [[ ${x_mode%_check_cn} = "${y_mode%_check_cn}" ]] || refuse \
        "cluster_mtls is $x_mode for CP X and $y_mode for CP Y; make them the same"
    if [[ $x_mode = shared ]]; then
        [[ $(certificate_line x 'sha256 Fingerprint=') = "$(certificate_line y 'sha256 Fingerprint=')" ]] || refuse \
            "CP Y has another cluster certificate ($y) than CP X ($x), so each refuses the other's DPs; give CP Y the one of X, or insist: --force certificate"
    else
        node_conf x cluster_ca_cert; ca=$REPLY
        [[ -r $ca ]] || unknown "cluster_ca_cert of CP X (${ca:-not set}) cannot be read here; look yourself, then --force certificate"
        openssl verify -purpose any -partial_chain -CAfile "$ca" "$SCRATCH/y.pem" >"$SCRATCH/verify" 2>&1 || refuse \
            "the cluster certificate of CP Y ($y) is not of the CA of CP X ($ca): $(log_says "$SCRATCH/verify"); or insist: --force certificate"
    fi
    certificate_strong
    certificate_lasts x "$x"
    certificate_lasts y "$y"
    found "$x_mode, $(certificate_line y notAfter=)"
}

# certificate_read WHICH VALUE: a copy to work on; the value is a path or the thing itself.
certificate_read() {
    local which=$1 value=$2 file=$SCRATCH/$1.pem
    if [[ $value = *'-----BEGIN'* ]]; then
        printf '%s\n' "$value" >"$file"
    elif [[ $value = /* && -r $value ]]; then
        cat -- "$value" >"$file"
    else
        unknown "cluster_cert of CP ${which^} (${value:-not set}) cannot be read here; compare the certificates yourself, then --force certificate"
    fi
    certificate_look "$which"
    [[ $(certificate_line "$which" notAfter=) ]] || refuse "cluster_cert of CP ${which^} is no certificate: $(log_says "$SCRATCH/$which.x509")"
}

# certificate_look WHICH: what openssl tells of WHICH.pem, for certificate_line.
certificate_look() {
    openssl x509 -in "$SCRATCH/$1.pem" -noout -fingerprint -sha256 -enddate -text -checkend "$CERTIFICATE_SECONDS" >"$SCRATCH/$1.x509" 2>&1 || true
}

# certificate_line WHICH BEGIN: the line that begins so; what the certificate itself
# holds is further in.
certificate_line() {
    grep -i -m 1 -- "^$2" "$SCRATCH/$1.x509" || true
}

certificate_lasts() {
    [[ $(certificate_line "$1" 'Certificate will not expire') ]] || refuse \
        "the cluster certificate of CP ${1^} ($2) ends within a week ($(certificate_line "$1" notAfter=)); renew it first, or insist: --force certificate"
}

# From 3.6 (Enterprise 3.4.3.5) on Kong takes no shorter key than OpenSSL's security level 2.
certificate_strong() {
    local since=3.6 bits
    versions_known
    [[ $Y_VERSION != 3.4.*.* ]] || since=3.4.3.5
    version_compare "$Y_VERSION" "$since"
    (( REPLY >= 0 )) || return 0
    bits=$(sed -n 's/.*Public-Key: (\([0-9]*\) bit).*/\1/p' "$SCRATCH/y.x509" | head -n 1)
    [[ $bits ]] || unknown "how long the key of the cluster certificate of CP Y is cannot be told; look yourself, then --force certificate"
    # Elliptic curves have short ones; those of RSA begin at 512.
    (( bits >= 2048 || bits >= 224 && bits < 512 || bits == 521 )) || refuse \
        "the cluster certificate of CP Y has a key of $bits bits, which Kong $Y_VERSION does not take; make one of 2048 (RSA) or 256 \
(elliptic curve) for both control planes and their DPs, or insist: --force certificate"
}
