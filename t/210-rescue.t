# What a pool fails goes to the other one: within proxy_next_upstream and its
# limits, only where the other pool may have it, and never back.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(time);

use KongShift;

# nginx itself does not free at its end the sessions that peers hold
$ENV{ASAN_OPTIONS} .= ',detect_leaks=0' if defined $ENV{ASAN_OPTIONS};

my $t = KongShift->new;

# a b c answer, e3 e4 fail with a status, x ends the connection without an
# answer, r refuses it, h is silent, t is TLS
my %is = map { $_ => $t->listen_at($_) }
    qw(a b c e3 e4 x r r2 h t stale front admin);
my %name_of = reverse %is;

my $dir = $t->dir;
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
    . "-nodes -days 2 -subj /CN=pool.test "
    . "-keyout $dir/key.pem -out $dir/cert.pem 2>/dev/null") == 0
    or BAIL_OUT('openssl cannot make a certificate');

$t->backend(pools => [], conf => join('', map { <<"EOC" } qw(a b c)) . <<"EOC2");
    server { listen $is{$_} backlog=4096; client_max_body_size 0;
        location / { return 200 "$_ \$request_method \$http_content_length\\n"; }
        location /part { return 200 "[$_]"; }
        location = /auth { return 204; } }
EOC
    server { listen $is{e3}; return 503 "e3\\n"; }
    server { listen $is{e4}; return 404 "e4\\n"; }
    server { listen $is{x}; client_max_body_size 0;
             location / { client_body_buffer_size 1m; proxy_pass http://$is{r};
                          error_page 502 =444 /end; }
             location /end { internal; return 444; } }
    server { listen $is{t} ssl; ssl_certificate $dir/cert.pem;
             ssl_certificate_key $dir/key.pem; ssl_session_cache shared:t:1m;
             ssl_protocols TLSv1.2; return 200 "t \$ssl_session_reused\\n"; }
EOC2

my $silent = IO::Socket::INET->new(LocalAddr => $is{h}, Listen => 1024,
    ReuseAddr => 1) or die "listen: $!";

# Each case is a shift of its own.  Of its requests the last one is looked at:
# status, servers asked and what they said, pool, reason, rescued.
my @cases = (
    ['one that refuses', 'a', 'r', 100, '', 3,
        '200 r, a 502, 200 old rescue 1'],
    ['two that refuse', 'a', 'r max_fails=0; r2 max_fails=0', 100, '', 1,
        '200 r, r2, a 502, 502, 200 old rescue 1'],
    ['one of two that refuses', 'a', 'r max_fails=0; b', 100, '', 1,
        '200 r, b 502, 200 new weight 0'],
    ['a backup of the pool comes first', 'a', 'r max_fails=0; b backup', 100,
        '', 1, '200 r, b 502, 200 new weight 0'],
    ['old that refuses', 'r', 'b', 1, '', 1,
        '200 r, b 502, 200 new rescue 1'],
    ['old that refuses, new of two', 'r', 'r2 max_fails=0; b', 1, '', 1,
        '200 r, r2, b 502, 502, 200 new rescue 1'],
    ['nothing to mend', 'a', 'b', 100, '', 1, '200 b 200 new weight 0'],

    ['one try', 'a', 'r max_fails=0; r2 max_fails=0', 100,
        'proxy_next_upstream_tries 1;', 1, '502 r 502 new weight 0'],
    ['one try of one server', 'a', 'r', 100, 'proxy_next_upstream_tries 1;', 1,
        '502 r 502 new weight 0'],
    ['two tries', 'a', 'r max_fails=0; r2 max_fails=0', 100,
        'proxy_next_upstream_tries 2;', 1, '200 r, a 502, 200 old rescue 1'],
    ['two tries, the second fails too', 'r2 max_fails=0; a',
        'r max_fails=0; b', 100, 'proxy_next_upstream_tries 2;', 1,
        '502 r, r2 502, 502 old rescue 0'],
    ['three tries', 'r2 max_fails=0; a', 'r max_fails=0', 100,
        'proxy_next_upstream_tries 3;', 1,
        '200 r, r2, a 502, 502, 200 old rescue 1'],
    ['three tries of two and two', 'r2 max_fails=0; a',
        'r max_fails=0; e3 max_fails=0', 100, 'proxy_next_upstream_tries 3; '
        . 'proxy_next_upstream error http_503;', 1,
        '502 r, e3, r2 502, 503, 502 old rescue 0'],
    ['nine tries', 'r2 max_fails=0; a', 'r max_fails=0', 100,
        'proxy_next_upstream_tries 9;', 1,
        '200 r, r2, a 502, 502, 200 old rescue 1'],

    ['no live server', 'a', 'r fail_timeout=60s; r2 fail_timeout=60s', 100, '',
        2, '200 a 200 old rescue 1'],
    ['no live server and one try', 'a',
        'r fail_timeout=60s; r2 fail_timeout=60s', 100,
        'proxy_next_upstream_tries 1;', 3, '200 a 200 old rescue 1'],
    ['no live server, proxy_next_upstream off', 'a',
        'r fail_timeout=60s; r2 fail_timeout=60s', 100,
        'proxy_next_upstream off;', 3, '200 a 200 old rescue 1'],
    ['one server that is down', 'a', 'b down', 100, '', 2,
        '200 a 200 old rescue 1'],
    ['all servers are down', 'a', 'b down; c down', 100, '', 2,
        '200 a 200 old rescue 1'],
    ['all servers are down and one try', 'a', 'b down; c down', 100,
        'proxy_next_upstream_tries 1;', 2, '200 a 200 old rescue 1'],
    ['a full server', 'a', 'b max_conns=1', 100, '', 1,
        '200 b 200 new weight 0'],

    ['proxy_next_upstream off', 'a', 'r', 100, 'proxy_next_upstream off;', 1,
        '502 r 502 new weight 0'],
    ['an end without an answer', 'a', 'x', 100, '', 1,
        '200 x, a 502, 200 old rescue 1'],
    ['another failure than asked for', 'a', 'x', 100,
        'proxy_next_upstream timeout;', 1, '502 x 502 new weight 0'],
    ['503 is passed on', 'a', 'e3', 100, '', 1, '503 e3 503 new weight 0'],
    ['503 when asked for', 'a', 'e3', 100, 'proxy_next_upstream http_503;', 1,
        '200 e3, a 503, 200 old rescue 1'],
    ['503 of both', 'e3', 'e3', 100, 'proxy_next_upstream http_503;', 1,
        '503 e3, e3 503, 503 old rescue 1'],
    ['404 when asked for', 'a', 'e4', 100, 'proxy_next_upstream http_404;', 1,
        '200 e4, a 404, 200 old rescue 1'],
    ['a timeout', 'a', 'h', 100, 'proxy_read_timeout 100ms;', 1,
        '200 h, a 504, 200 old rescue 1'],
    ['proxy_next_upstream_timeout', 'a', 'h', 100, 'proxy_read_timeout 300ms; '
        . 'proxy_next_upstream_timeout 100ms;', 1, '504 h 504 new weight 0'],

    ['POST that was sent', 'a', 'x', 100, '', 1, '502 x 502 new weight 0',
        { method => 'POST', body => 'x' }],
    ['POST that was not sent', 'a', 'r', 100, '', 1,
        '200 r, a 502, 200 old rescue 1', { method => 'POST', body => 'x' }],
    ['POST with non_idempotent', 'a', 'x', 100,
        'proxy_next_upstream error non_idempotent;', 1,
        '200 x, a 502, 200 old rescue 1',
        { method => 'POST', body => 'x' x 20_000 }],
    ['POST that got 503', 'a', 'e3', 100, 'proxy_next_upstream http_503;', 1,
        '503 e3 503 new weight 0', { method => 'POST', body => 'x' }],
    ['PUT of a body in a file', 'a', 'x', 100, 'client_body_buffer_size 1k;',
        1, '200 x, a 502, 200 old rescue 1',
        { method => 'PUT', body => 'x' x 300_000 }],
    ['a body in a file that was not sent', 'a', 'r', 100,
        'client_body_buffer_size 1k;', 1, '200 r, a 502, 200 old rescue 1',
        { method => 'POST', body => 'x' x 300_000 }],
    ['a body that is not buffered, not sent', 'a', 'r', 100,
        'proxy_request_buffering off; proxy_http_version 1.1;', 1,
        '200 r, a 502, 200 old rescue 1',
        { method => 'PUT', body => 'x' x 300_000 }],
    ['a body that is not buffered, sent', 'a', 'x', 100,
        'proxy_request_buffering off; proxy_http_version 1.1;', 1,
        '502 x 502 new weight 0', { method => 'PUT', body => 'x' x 300_000 }],

    ['by key', 'a', 'r', 100, '', 1, '200 r, a 502, 200 old rescue 1', undef,
        'kong_shift_key $arg_k;'],
    ['an override stays', 'a', 'r', 50, '', 1, '502 r 502 new override 0',
        undef, 'kong_shift_override new;'],
    ['an override stays without a live server', 'a', 'b down', 50, '', 1,
        '502 NONE 502 new override 0', undef, 'kong_shift_override new;'],
    ['kong_shift_rescue off', 'a', 'r', 100, '', 1, '502 r 502 new weight 0',
        undef, 'kong_shift_rescue off;'],
    ['kong_shift_rescue off, no live server', 'a', 'b down', 100, '', 1,
        '502 NONE 502 new weight 0', undef, 'kong_shift_rescue off;'],
    ['weight 0', 'r', 'b', 0, '', 1, '502 r 502 old weight 0'],
    ['weight 0 without a live server', 'a down', 'b', 0, '', 1,
        '502 NONE 502 old weight 0'],
    ['a closed gate', 'r', 'b', 50, '', 1, '502 r 502 old weight 0', undef,
        'kong_shift_gate on;'],
    ['a closed gate without a live server', 'a down', 'b', 50, '', 1,
        '502 NONE 502 old weight 0', undef, 'kong_shift_gate on;'],

    ['both refuse', 'r', 'r2', 100, '', 2,
        '502 r2, r 502, 502 old rescue 0'],
    ['all of both refuse', 'r max_fails=0; r2 max_fails=0',
        'e3 max_fails=0; x max_fails=0', 50,
        'proxy_next_upstream error http_503;', 1,
        '502 r, r2, e3, x 502, 502, 503, 502 new rescue 0'],
    ['none of both is live', 'a down', 'b down', 100, '', 2,
        '502 NONE 502 old rescue 0'],
    ['a failure, and none of the other is live', 'a down', 'r', 100, '', 2,
        '502 r, NONE 502, 502 old rescue 0'],

    ['to hash', 'hash $arg_k; a; b', 'r', 100, '', 1,
        '200 r, b 502, 200 old rescue 1'],
    ['to least_conn', 'least_conn; a; b', 'r', 100, '', 1,
        '200 r, a 502, 200 old rescue 1'],
    ['to ip_hash', 'ip_hash; a; a', 'r', 100, '', 1,
        '200 r, a 502, 200 old rescue 1'],
    ['from hash', 'a', 'hash $arg_k; r max_fails=0; r max_fails=0', 100, '', 1,
        '200 r, r, a 502, 502, 200 old rescue 1'],
    ['from random', 'a', 'random two; r max_fails=0; r max_fails=0', 100, '',
        1, '200 r, r, a 502, 502, 200 old rescue 1'],
    ['to keepalive', 'a; keepalive 4', 'r; keepalive 4', 100,
        'KA', 2, '200 r, a 502, 200 old rescue 1'],
);

# "a weight=3" is a server, "keepalive 4" is not
sub servers {
    my ($text) = @_;

    return join '', map { /^(\w+)\b(.*)/ && $is{$1}
        ? "server $is{$1}$2; " : "$_; " } split /; /, $text;
}

my $ka = 'proxy_http_version 1.1; proxy_set_header Connection "";';
my ($http, $locations) = ('', '');

for my $i (0 .. $#cases) {
    my (undef, $old, $new, $weight, $directives, undef, undef, undef, $more)
        = @{ $cases[$i] };
    $directives =~ s/^KA/$ka/;

    for my $zone ('', 'z') {
        my $n = "$zone$i";
        $http .= "    upstream old$n { "
            . ($zone ? "zone old$n 64k; " : '') . servers($old) . "}\n"
            . "    upstream new$n { "
            . ($zone ? "zone new$n 64k; " : '') . servers($new) . "}\n"
            . "    upstream shift$n { kong_shift old=old$n new=new$n "
            . "weight=$weight; @{[ $more // '' ]} }\n";
        $locations .= "        location = /$n { proxy_pass http://shift$n; "
            . "$directives }\n";
    }
}

$http .= <<"EOC";
    upstream tls_old { server $is{t}; }
    upstream tls_new { server $is{a}; }
    upstream tls { kong_shift old=tls_old new=tls_new weight=100; }
    upstream st_old { server $is{a}; keepalive 4; }
    upstream st_new { server $is{stale}; keepalive 4; }
    upstream st { kong_shift old=st_old new=st_new weight=100; }
    upstream two_old { server $is{a}; }
    upstream two_new { server $is{r}; }
    upstream two { kong_shift old=two_old new=two_new weight=100; }
    upstream gated_old { server $is{r}; }
    upstream gated_new { server $is{b}; }
    upstream gated { kong_shift old=gated_old new=gated_new;
                     kong_shift_gate on; }
    upstream hold_old { server $is{a}; }
    upstream hold_new { server $is{h}; }
    upstream hold { kong_shift old=hold_old new=hold_new weight=100; }
EOC

my $front = $t->nginx(name => 'front', workers => 1,
    main => "kong_shift_zone 40m;\n", conf => <<"EOC");
$http
    proxy_connect_timeout 10s;
    log_format outcome '\$uri \$status \$kong_shift_pool \$kong_shift_reason '
                       '\$kong_shift_rescued';
    server {
        listen $is{front} backlog=4096;
        client_max_body_size 0;
        access_log logs/access.log outcome;
        add_header X-Addr \$upstream_addr always;
        add_header X-Status \$upstream_status always;
        add_header X-Pool "\$kong_shift_pool \$kong_shift_reason \$kong_shift_rescued" always;
        location = /tls { proxy_pass https://tls; proxy_ssl_protocols TLSv1.2; }
        location = /stale { proxy_pass http://st; $ka }
        location = /hold { proxy_pass http://hold; proxy_read_timeout 500ms; }
        location = /gated { proxy_pass http://gated; }
        location = /authed { auth_request /auth; proxy_pass http://two; }
        location = /auth { internal; proxy_pass http://two; }
        location = /ssi { ssi on; ssi_types text/plain; root html; }
        location /part { proxy_pass http://two; }
$locations
    }
    server { listen $is{admin}; location / { kong_shift_api write=on; } }
EOC
mkdir "$front->{prefix}/html";
write_file("$front->{prefix}/html/ssi", join '',
    map { "<!--# include virtual=\"/part$_\" -->" } 1 .. 4);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub trace {
    my ($r) = @_;
    return 'no answer' if !$r;

    my $h = $r->{headers};
    my $line = join ' ', $r->{status}, map { $h->{"x-$_"} // '' }
        qw(addr status pool);

    $line =~ s/(127\.[\d.]+:\d+)/$name_of{$1}/g;
    $line =~ s/\b(?:old|new)z?\d+\b/NONE/g;
    return $line;
}

for my $i (0 .. $#cases) {
    my ($name, undef, undef, undef, undef, $n, $want, $o) = @{ $cases[$i] };

    for my $zone ('', 'z') {
        my $began = time();
        my $r;

        $r = $t->http('front', $o->{method} // 'GET', "/$zone$i?k=7",
            body => $o->{body}) for 1 .. $n;
        is(trace($r), $want, "$name" . ($zone ? ', in a zone' : ''));

        is($r->{body}, 'a ' . $o->{method} . ' ' . length($o->{body}) . "\n",
            "$name: the body has arrived")
            if $want =~ /^200/ && defined $o->{body};
        cmp_ok(time() - $began, '<', 5, "$name: at once") if $want =~ /^502/;
    }
}


# --- both ways of a connection that is kept

# answers once on each connection, and closes it when the next request comes
my $stale = $t->server(stale => sub {
    my ($c) = @_;
    my $n = 0;

    while (1) {
        my $head = '';
        while ($head !~ /\r\n\r\n/) {
            sysread $c, $head, 4096, length $head or return;
        }
        return if ++$n > 1;
        syswrite $c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    }
});

my %seen;
$seen{ trace($t->get('/stale')) }++ for 1 .. 6;
is_deeply([sort keys %seen], ['200 stale 200 new weight 0',
    '200 stale, stale 502, 200 new weight 0'],
    'a stale connection is tried again in its own pool');

# one is kept, and then its server is gone
trace($t->get('/stale')) =~ /stale, stale/ and last for 1 .. 2;
kill 'KILL', $stale;
waitpid $stale, 0;
like(trace($t->get('/stale')), qr/^200 stale(?:, stale)?, a [\d, ]+ old rescue 1$/,
    'a kept connection whose server is gone');
is(trace($t->get('/stale')), '200 stale, a 502, 200 old rescue 1',
    'and the next one');
like($t->get('/stale')->{body}, qr/^a /, 'the other pool answers');


# --- TLS: what does not speak it is rescued from, and sessions stay with the
# --- server they are of

is(trace($t->get('/tls')), '200 a, t 502, 200 old rescue 1',
    'TLS to one that does not speak it');
like($t->get('/tls')->{body}, qr/^t r$/m,
    'the session of the other pool is used again');


# --- subrequests

is(trace($t->get('/authed')), '200 a 200 old rescue 1',
    'auth_request is rescued, and its request goes the same way');
is($t->get('/ssi')->{body}, '[a][a][a][a]', 'all parts of a page are rescued');


# --- what changes in between counts

my $evidence = { strategy => 'dual-cluster', x => '3.8.1', y => '3.9.3',
    journal => '/tmp/j' };
$t->put('gate', { state => 'open', evidence => $evidence }, 'gated');
is(trace($t->get('/gated')), '502 r 502 old weight 0',
    'an open gate, weight 0');
$t->weight(1, 'gated');
is(trace($t->get('/gated')), '200 r, b 502, 200 new rescue 1',
    'an open gate, weight 1');
$t->api('POST', '/shifts/gated/abort');
is(trace($t->get('/gated')), '502 r 502 old weight 0', 'aborted');

# the abort comes while a request waits for a server of new
sub held {
    my ($change) = @_;
    my $c = $t->connect;

    $c->send($c->format_request('GET', '/hold'));
    my $s;
    wait_for('the request', sub { $silent->blocking(0);
        $s = $silent->accept });
    $change->();
    return trace($c->response);
}

is(held(sub { }), '200 h, a 504, 200 old rescue 1', 'a request that waited');
is_json($t->api('POST', '/shifts/hold/pools/old/drain'), 200, {},
    'old is drained');
is(trace($t->get('/hold')), '504 h 504 new weight 0',
    'nothing goes to a drained pool');
$t->api('DELETE', '/shifts/hold/pools/old/drain');
like(held(sub { $t->api('POST', '/shifts/hold/pools/old/drain') }),
    qr/^502 h, \S+ 504, 502 new weight 0$/, 'drained while it waited');
$t->api('DELETE', '/shifts/hold/pools/old/drain');
is(held(sub { $t->api('POST', '/shifts/hold/abort') }),
    '200 h, a 504, 200 old rescue 1', 'aborted while it waited: old takes it');


# --- the log and the counters

my $before = $t->api('GET', '/shifts/two/pools/new')->{json}{counters};
my $old = $t->api('GET', '/shifts/two/pools/old')->{json}{counters};
$t->get('/part') for 1 .. 10;
my @log = $front->access_log(0);
is((split ' ', $log[-1], 2)[1], '200 old rescue 1', 'the log says so');

my $r;
retry_until(sub {
    $r = $t->api('GET', '/shifts/two/pools/new');
    return $r->{json}{counters}{chosen} == $before->{chosen} + 10;
}, 5);
my $after = $r->{json}{counters};
is_deeply({ map { $_ => $after->{$_} - $before->{$_} }
    qw(chosen served failed rescued canceled connect_errors) },
    { chosen => 10, served => 0, failed => 10, rescued => 10, canceled => 0,
        connect_errors => 10 }, 'the pool that failed');
$after = $t->api('GET', '/shifts/two/pools/old')->{json}{counters};
is_deeply({ map { $_ => $after->{$_} - $old->{$_} }
    qw(chosen served failed rescued) },
    { chosen => 0, served => 10, failed => 0, rescued => 0 },
    'the pool that answered');
for my $s (qw(two st tls hold gated)) {
    for my $p (qw(old new)) {
        ok(retry_until(sub {
            $t->api('GET', "/shifts/$s/pools/$p")->{json}{active} == 0 }, 5),
            "nothing is left under way: $p of $s");
    }
}

$t->finish(qr/SSL_do_handshake\(\) failed/);
