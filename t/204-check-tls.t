# Checks over TLS: the chain, the name and the client's certificate.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;

my $t = KongShift->new;
my $d = $t->dir;

sub run { system("cd $d && ($_[0]) >/dev/null 2>&1") == 0 or die "failed: $_[0]" }

eval {
    my $new = 'openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 '
        . '-nodes';

    run("$new -x509 -subj /CN=$_ -days 2 -keyout $_.key -out $_.pem")
        for qw(ca other);

    for (['good', 'ca', 'status.test'], ['name', 'ca', 'else.test'],
        ['chain', 'other', 'status.test'], ['client', 'ca', 'client'],
        ['stranger', 'other', 'client'])
    {
        my ($name, $ca, $san) = @$_;
        KongShift::write_file("$d/ext", "subjectAltName=DNS:$san\n");
        run("$new -subj /CN=$san -keyout $name.key -out $name.csr && "
            . "openssl x509 -req -in $name.csr -CA $ca.pem -CAkey $ca.key "
            . "-CAcreateserial -days 2 -extfile ext -out $name.pem");
    }
    run("$new -x509 -subj /CN=expired -addext subjectAltName=DNS:status.test "
        . "-days 1 -keyout expired.key -out expired.pem");
} or 1;
plan(skip_all => "no openssl: $@") if $@;

# a server for each certificate, all of them ready
my $tls = sub {
    my ($name, $cert, $more) = @_;
    return <<"EOC";
    server {
        listen @{[ $t->listen_at($name) ]} ssl;
        ssl_certificate $d/$cert.pem;
        ssl_certificate_key $d/$cert.key;
        @{[ $more // '' ]}
        location /status { access_log logs/$name.log sni; return 200 '$name'; }
        location / { return 200 "$name\\n"; }
    }
EOC
};

my $verify = "ssl_protocols TLSv1.2 TLSv1.3; ssl_client_certificate $d/ca.pem; ssl_verify_client on;";
my $b = $t->backend(conf =>
    "log_format sni '\$ssl_server_name \$host \$ssl_protocol';"
    . $tls->('good', 'good', 'ssl_protocols TLSv1.2 TLSv1.3;') . $tls->('name', 'name') . $tls->('chain', 'chain')
    . $tls->('client', 'good', $verify)
    . $tls->('tls12', 'good', 'ssl_protocols TLSv1.2;')
    . $tls->('client12', 'good', $verify =~ s/ TLSv1.3//r)
    . $tls->('tls11', 'good', 'ssl_protocols TLSv1.1; ssl_ciphers ALL:@SECLEVEL=0;'));

# one that accepts and is silent, and one that does not speak TLS
my $silent = IO::Socket::INET->new(LocalAddr => $t->addr, Listen => 64,
    LocalPort => $t->port('silent'), ReuseAddr => 1) or die;

my $ca = "ssl=on ssl_trusted_certificate=$d/ca.pem ssl_name=status.test";
my $client = "ssl_certificate=$d/client.pem ssl_certificate_key=$d/client.key";
my $stranger = "ssl_certificate=$d/stranger.pem "
    . "ssl_certificate_key=$d/stranger.key";

# shift => server, parameters, and why it is not ready
my %case = (
    good => ['good', $ca],
    tls12 => ['tls12', $ca],
    client => ['client', "$ca $client"],
    client12 => ['client12', "$ca $client"],
    both => ['good', "$ca uri=/status/ready"],
    name => ['name', $ca, qr/TLS certificate is of another name/],
    chain => ['chain', $ca, qr/TLS certificate is not valid: unable to /],
    wrong => ['good', $ca =~ s/ssl_name=\S+/ssl_name=no.test/r,
        qr/TLS certificate is of another name/],
    none => ['client', $ca, qr/: 400$|recv\(\) failed/m],
    none12 => ['client12', $ca, qr/: 400$|recv\(\) failed/m],
    stranger => ['client', "$ca $stranger", qr/: 400$|recv\(\) failed/m],
    tls11 => ['tls11', $ca, qr/TLS handshake failed/],
    plain => ['old', $ca, qr/TLS handshake failed/],
    silent => ['silent', $ca, qr/timed out in the TLS handshake/],
    http => ['good', '', qr/: 400$/m],
);

my $ups = join '', map { my $c = $case{$_}; <<"EOC" } sort keys %case;
    upstream new_$_ { zone new_$_ 64k; server @{[ $t->listen_at($c->[0]) ]}; }
    upstream s_$_ {
        kong_shift old=dp_old new=new_$_ weight=50;
        kong_shift_check pool=new interval=500ms $c->[1];
    }
EOC

my $front = $t->front(workers => 2, http => $ups);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

for (sort keys %case) {
    my (undef, undef, $why) = @{ $case{$_} };

    if (!$why) {
        ok($front->log_has(qr/"s_$_": new \S+ is ready$/m), "$_: ready");
        next;
    }

    ok($front->log_has(qr/"s_$_": new \S+ is not ready/), "$_: not ready");
    my ($line) = $front->error_log =~ /("s_$_": new \S+ is not ready.*)/;
    like($line, $why, "$_: and why");
}

sleep 1.5;
unlike($front->error_log, qr/"s_$_": new \S+ is ready/, "$_: and stays so")
    for grep { $case{$_}[2] } sort keys %case;

my ($line) = $b->access_log(1, 'good.log');
like($line, qr/^status\.test status\.test TLSv1\.3$/, 'SNI, Host and protocol');

# a QUIT in the middle of a handshake
$front->set($t->front_conf(http => $ups =~ s/500ms/60s timeout=60s/gr), '');
ok($front->stop, 'it stops');
ok($front->start, 'and starts');
retry_until(sub { accept(my $c, $silent) });
sleep 0.3;
my $began = time();
ok($front->stop('QUIT'), 'QUIT in a handshake');
cmp_ok(time() - $began, '<', 5, 'is obeyed at once');
unlike($front->error_log, qr/open socket/, 'no socket is left open');

$t->finish;
