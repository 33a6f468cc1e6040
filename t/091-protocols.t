# TLS session reuse, WebSocket, gRPC and HTTP/1.0 through a shift are what they
# are through the pool alone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

# nginx itself does not free at its end the sessions that peers hold
$ENV{ASAN_OPTIONS} .= ',detect_leaks=0' if defined $ENV{ASAN_OPTIONS};

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) }
    qw(tls1 tls2 h2 h1 ws front admin other);

my $dir = $t->dir;
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
    . "-nodes -days 2 -subj /CN=pool.test -addext subjectAltName=DNS:pool.test "
    . "-keyout $dir/key.pem -out $dir/cert.pem 2>/dev/null") == 0
    or BAIL_OUT('openssl cannot make a certificate');

my $tls = join '', map { <<"EOC" } qw(tls1 tls2);
    server {
        listen $is{$_} ssl;
        ssl_certificate $dir/cert.pem;
        ssl_certificate_key $dir/key.pem;
        ssl_session_cache shared:tls:1m;
        ssl_protocols TLSv1.2 TLSv1.3;
        return 200 "$_ \$ssl_session_reused \$ssl_server_name\\n";
    }
EOC

$t->backend(pools => [qw(h1 other)], conf => <<"EOC");
    $tls
    server {
        listen $is{h2} http2;
        http2_max_requests 100000;
        add_header X-Conn "\$connection \$server_protocol" always;
        location / { return 200 "h2 \$request_method \$uri\\n"; }
        location /fail { return 502; }
    }
EOC

# the three forms of each pool: alone, as old, as new
my ($ups, $locs) = ('', '');

sub forms {
    my ($name, $servers, $scheme, $directives) = @_;

    for my $form (qw(plain old new)) {
        my $pool = "${name}_$form";
        my $to = $form eq 'plain' ? $pool : "shift_$pool";
        my ($other, $weight) = $form eq 'new' ? ('old', 100) : ('new', 0);

        $ups .= "    upstream $pool { $servers }\n";

        # at weight 0 the other pool may not help, at 100 it would
        my $rescue = $weight ? 'kong_shift_rescue off;' : '';
        $ups .= "    upstream $to { kong_shift $form=$pool $other=dp_other "
            . "weight=$weight; $rescue }\n" if $to ne $pool;
        $locs .= "        location /$name/$form { " . ($scheme eq 'grpc'
            ? "grpc_pass grpc://$to;" : "proxy_pass $scheme://$to;")
            . " $directives }\n";
    }
}

my $verify = "proxy_ssl_trusted_certificate $dir/cert.pem; proxy_ssl_verify on; "
    . 'proxy_ssl_name pool.test; proxy_ssl_server_name on; ';

# newer nginx keeps connections by itself: then there is nothing to resume
my $once = "$verify proxy_http_version 1.0;";
my $keep = 'proxy_http_version 1.1; proxy_set_header Connection "";';

forms('tls12', "server $is{tls1};", 'https',
    "$once proxy_ssl_protocols TLSv1.2;");
forms('tls13', "server $is{tls1};", 'https',
    "$once proxy_ssl_protocols TLSv1.3;");
forms('two', "server $is{tls1}; server $is{tls2};", 'https',
    "$once proxy_ssl_protocols TLSv1.2;");
forms('zone', 'zone NAME 64k; ' . "server $is{tls1}; server $is{tls2};",
    'https', "$once proxy_ssl_protocols TLSv1.2;");
forms('none', "server $is{tls1};", 'https',
    "$once proxy_ssl_session_reuse off;");
forms('kept', "server $is{tls1}; keepalive 4;", 'https', "$verify $keep");
forms('badname', "server $is{tls1};", 'https',
    $verify =~ s/pool\.test/other.test/r);
forms('grpc', "server $is{h2};", 'grpc', '');
forms('grpckeep', "server $is{h2}; keepalive 4;", 'grpc', '');
forms('h1', "server $is{h1};", 'http', '');
forms('h1keep', "server $is{h1}; keepalive 4;", 'http', $keep);
forms('ws', "server $is{ws}; keepalive 4;", 'http', 'proxy_http_version 1.1; '
    . 'proxy_set_header Upgrade $http_upgrade; '
    . 'proxy_set_header Connection "upgrade"; proxy_read_timeout 60s;');

my $n = 0;
$ups =~ s/zone NAME/'zone z' . $n++/ge;

my $front = $t->nginx(name => 'front', workers => 1, conf => <<"EOC");
    upstream dp_other { server $is{other}; }
$ups
    upstream ws_old2 { server $is{ws}; }
    upstream ws_new2 { server $is{other}; }
    upstream kong { kong_shift old=ws_old2 new=ws_new2 weight=0; }
    server {
        listen $is{front} backlog=4096;
        add_header X-Trace "\$upstream_addr|\$upstream_status" always;
        add_header X-Conn "\$upstream_http_x_conn" always;
$locs
        location /ws/live { proxy_pass http://kong; proxy_http_version 1.1;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_set_header Connection "upgrade"; }
    }
    server { listen $is{admin}; location / { kong_shift_api write=on; } }
EOC
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub bodies {
    my ($uri, $n, %o) = @_;

    return join '', map { my $r = $t->http('front', 'GET', $uri, %o);
        $r ? "$r->{status} $r->{body}" : "no answer\n" } 1 .. $n;
}


# --- TLS: "r" marks a session that the server has seen before

for my $name (qw(tls12 tls13 two zone none kept)) {
    my $plain = bodies("/$name/plain", 8);
    my $resumed = () = $plain =~ / r /g;

    cmp_ok($resumed, $name =~ /none|kept/ ? '==' : '>=',
        $name =~ /none|kept/ ? 0 : 6, "$name: $resumed sessions reused alone");
    is(bodies("/$name/$_", 8), $plain, "$name: the same as $_ pool")
        for qw(old new);
    like($plain, qr/ pool\.test$/m, "$name: the name is that of the location")
        if $name eq 'tls12';
}

for my $form (qw(plain old new)) {
    my $r = $t->get("/badname/$form");
    is("$r->{status} $r->{headers}{'x-trace'}", "502 $is{tls1}|502",
        "$form: a wrong name in the certificate is refused");
}


# --- gRPC

for my $form (qw(plain old new)) {
    is(bodies("/grpc/$form/x", 3), "200 h2 GET /grpc/$form/x\n" x 3,
        "gRPC $form");

    my @conn = map { my $r = $t->get("/grpckeep/$form");
        $r->{headers}{'x-conn'} } 1 .. 5;
    my %conn = map { $_ => 1 } @conn;
    is(scalar keys %conn, 1, "gRPC keepalive $form: one connection for 5");
    like($conn[0], qr/HTTP\/2/, "gRPC $form: by HTTP/2");

    my $r = $t->http('front', 'POST', "/grpckeep/$form", body => 'x' x 100_000);
    is($r && $r->{status}, 200, "gRPC $form: a body");
}


# --- HTTP/1.0, on both ends

for my $form (qw(plain old new)) {
    is(bodies("/h1/$form", 3, version => '1.0'), "200 h1 GET /h1/$form\n" x 3,
        "HTTP/1.0 client and pool, $form");
    is(bodies("/h1keep/$form", 3, version => '1.0'),
        "200 h1 GET /h1keep/$form\n" x 3, "HTTP/1.0 client, $form");

    my $c = $t->connect;
    my $r = $c->request('GET', "/h1/$form", version => '1.0',
        headers => ['Connection: keep-alive']);
    $r = $c->request('GET', "/h1/$form", version => '1.0');
    is($r && $r->{body}, "h1 GET /h1/$form\n", "HTTP/1.0 keep-alive, $form");
    ok($c->closed, "HTTP/1.0, $form: then closed");
}


# --- WebSocket: an upgraded connection carries bytes both ways

$t->server(ws => sub {
    my ($c) = @_;

    # one process for each connection, they live side by side
    return if fork;

    my $head = '';
    while ($head !~ /\r\n\r\n/) {
        sysread $c, $head, 1, length $head or POSIX::_exit(0);
    }
    syswrite $c, "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n"
        . "Connection: upgrade\r\n\r\nhello\n";
    while (sysread $c, my $buf, 4096) {
        syswrite $c, uc $buf;
    }
    POSIX::_exit(0);
});

sub upgrade {
    my ($uri) = @_;
    my $c = $t->connect;
    my $r = $c->request('GET', $uri, headers => ['Upgrade: websocket',
        'Connection: Upgrade', 'Sec-WebSocket-Version: 13']);

    return ($c, $r);
}

sub echo {
    my ($c, $text) = @_;

    $c->{buf} = '';
    $c->send("$text\n");
    $c->until(qr/\n/);
    return $c->{buf};
}

for my $form (qw(plain old new)) {
    my ($c, $r) = upgrade("/ws/$form");
    is($r && $r->{status}, 101, "WebSocket $form: 101");
    $c->until(qr/\n/);
    is($c->{buf}, "hello\n", "WebSocket $form: what the pool says first");
    is(echo($c, "ping $_"), "PING $_\n", "WebSocket $form: both ways")
        for 1 .. 3;
    $c->close_now;
}

my ($live, $r) = upgrade('/ws/live');
is($r && $r->{status}, 101, 'a WebSocket through a shift');
$live->until(qr/\n/);
$t->weight(100);
is(bodies('/ws/live', 1), "200 other GET /ws/live\n",
    'after a change requests go to the new pool');
is(echo($live, 'still here'), "STILL HERE\n",
    'the connection under way stays where it is');
$t->api('POST', '/shifts/kong/abort');
is(echo($live, 'and now'), "AND NOW\n", 'after an abort too');
ok($front->reload, 'reload');
is(echo($live, 'and then'), "AND THEN\n", 'after a reload too');
$live->close_now;

is(scalar(grep { /^@{[ $t->port('other') ]} / }
    $t->{backend}->access_log(0)), 1, 'the other pool got the one request');

$t->finish;
