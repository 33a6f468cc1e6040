# Whose an answer is and which Kong it comes through, told by its headers as
# real Kong sends them.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) } qw(old new front admin r dead);

my $latency = 'add_header X-Kong-Upstream-Latency 2 always; '
    . 'add_header X-Kong-Proxy-Latency 0 always;';

# uri, what Kong 3 makes of it, status, origin
my @kinds = (
    ['proxied', 'add_header Via "1.1 kong/$kong" always; ' . $latency, 200,
        'backend'],
    ['proxied-404', 'add_header Via "1.1 kong/$kong" always; ' . $latency, 404,
        'backend'],
    ['proxied-500', 'add_header Via "1.1 kong/$kong" always; ' . $latency, 500,
        'backend'],
    ['behind-another', 'add_header Via "1.1 varnish, 1.1 kong/$kong" always; '
        . $latency, 200, 'backend'],
    ['dead-backend', 'add_header Via "1.1 kong/$kong" always; '
        . 'more_server; ' . $latency, 502, 'backend'],
    ['no-route', 'more_server; add_header X-Kong-Response-Latency 0 always;',
        404, 'gateway'],
    ['plugin-503', 'more_server; add_header X-Kong-Response-Latency 1 always;',
        503, 'gateway'],
    ['plugin-401', 'more_server; add_header X-Kong-Response-Latency 1 always;',
        401, 'gateway'],
    ['via-alone', 'add_header Via "1.1 kong/$kong" always;', 500, 'backend'],
    ['headers-off', '', 404, 'unknown'],
    ['headers-off-500', '', 500, 'unknown'],
    ['old-via', 'add_header Via "kong/$kong" always; ' . $latency, 200,
        'backend'],
    ['cut', 'return 444;', 502, 'transport'],
);

# stand-ins for the data planes; ?v= is answered with that Via
for my $pool (qw(old new)) {
    my $version = $pool eq 'old' ? '3.8.1' : '3.9.3';
    my %answer = map {
        my ($uri, $headers, $status) = @$_;
        my @h = ('Content-Length: 4', 'Connection: close');
        push @h, $headers =~ /more_server/ ? "Server: kong/$version"
            : 'Server: nginx/1.22.1';
        while ($headers =~ /add_header (\S+) "?([^";]*?)"? always/g) {
            my ($n, $v) = ($1, $2);
            $v =~ s/\$kong/$version/;
            push @h, "$n: $v";
        }
        "/$uri" => $headers =~ /444/ ? undef : join("\r\n",
            "HTTP/1.1 $status X", @h, '', "$pool\n") } @kinds;

    $t->server($pool => sub {
        my ($c) = @_;
        my $head = '';

        while ($head !~ /\r\n\r\n/) {
            sysread $c, $head, 4096, length $head or return;
        }
        my ($uri, $v) = $head =~ m{^\S+ (/[\w-]*)(?:\?v=(\S+))? };
        my $answer = defined $v
            ? "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nVia: $v\r\n\r\n"
            : $answer{$uri};
        return if !defined $answer;
        $answer =~ s/%20/ /g;
        syswrite $c, $answer;
    });
}

my $front = $t->nginx(name => 'front', workers => 2, conf => <<"EOC");
    log_format origin '\$uri \$status \$kong_shift_origin';
    upstream dp_old { zone dp_old 64k; server $is{old}; }
    upstream dp_new { zone dp_new 64k; server $is{new}; }
    upstream kong { kong_shift old=dp_old new=dp_new weight=0;
                    kong_shift_gate on; kong_shift_rescue off; }
    upstream none { kong_shift old=dp_none new=dp_new weight=0; }
    upstream dp_none { server $is{r}; }
    server {
        listen $is{front} backlog=4096 reuseport;
        access_log logs/access.log origin;
        add_header X-Origin "[\$kong_shift_origin]" always;
        location / { proxy_pass http://kong; }
        location = /none { proxy_pass http://none; }
        location = /here { return 200 here; }
    }
    server { listen $is{admin}; location / { kong_shift_api write=on; } }
EOC
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $evidence = { strategy => 'dual-cluster', x => '3.8.1', y => '3.9.3',
    journal => '/tmp/j' };

sub pool { return $t->api('GET', "/shifts/kong/pools/$_[0]")->{json} }

sub events {
    return grep { $_->{action} eq 'wrong_version' }
        @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
}


# --- before anything was announced

my %want;
for my $k (@kinds) {
    my ($uri, undef, $status, $origin) = @$k;
    my $r = $t->get("/$uri");

    is("$r->{status} $r->{headers}{'x-origin'}", "$status [$origin]",
        "the answer: $uri");
    $want{"/$uri $status $origin"}++;
}
is($t->get('/none')->{headers}{'x-origin'}, '[transport]', 'no server at all');
is($t->get('/here')->{headers}{'x-origin'}, '[]', 'no choice, no origin');

my %logged;
$logged{$_}++ for grep { !m{^/(?:none|here)} } $front->access_log(@kinds + 2);
is_deeply(\%logged, \%want, 'the log says the same');

my $p = pool('old');
is_deeply($p->{counters}{not_found}, { gateway => 1, backend => 1,
    transport => 0, unknown => 1 }, '404 by origin');
is_deeply($p->{counters}{errors}, { gateway => 1, backend => 3,
    transport => 1, unknown => 1 }, '5xx by origin');
is_deeply($p->{versions}, [{ version => '3.8.1', responses => 10 }],
    'the version was seen') or diag(explain($p->{versions}));
is($p->{peers}[0]{version}, '3.8.1', 'and of which peer');
is($p->{counters}{wrong_version}, 0, 'nothing was announced, nothing is wrong');
is(scalar(events()), 0, 'no event');


# --- announced

$t->put('gate', { state => 'open', evidence => $evidence });
$t->get('/proxied') for 1 .. 20;
is(pool('old')->{counters}{wrong_version}, 0, 'old is what was announced');

$t->weight(100);
$t->get('/proxied') for 1 .. 20;
$p = pool('new');
is($p->{counters}{wrong_version}, 0, 'new as well');
is_deeply($p->{versions}, [{ version => '3.9.3', responses => 20 }],
    'versions of new');
is($p->{peers}[0]{version}, '3.9.3', 'and of its peer');
is(scalar(events()), 0, 'still no event');

$t->get('/v?v=1.1%20kong/3.9.2') for 1 .. 20;
is(pool('new')->{counters}{wrong_version}, 20, 'each wrong answer is counted');
my @e = events();
is(scalar(@e), 1, 'and told once');
like($e[0]{comment}, qr/^\Q$is{new}\E of new answers as 3\.9\.2, but 3\.9\.3 was /,
    'with peer and versions');
ok($front->log_has(qr/\[error\].*answers as 3\.9\.2/), 'in the log too');
is(pool('new')->{peers}[0]{version}, '3.9.2', 'the version of the peer');

$t->get($_ % 2 ? '/proxied' : '/v?v=1.1%20kong/3.9.2') for 1 .. 20;
is(scalar(events()), 1, 'one that changes to and fro is told once');
is(pool('new')->{counters}{wrong_version}, 30, 'and counted');

$t->get('/v?v=1.1%20kong/3.10.0.1-enterprise-edition');
is(scalar(events()), 2, 'another version is another event');
$t->get("/v?v=1.1%20kong/4.$_") for 0 .. 9;
is(scalar(@{ pool('new')->{versions} }), 4, 'at most four versions are kept');
$t->get('/v?v=kong/');
$t->get('/v?v=kong/x.y');
$t->get('/v?v=1.1%20kong/' . '1.2.' x 500);
$t->get('/proxied') for 1 .. 5;
my ($v) = grep { $_->{version} eq '3.9.3' } @{ pool('new')->{versions} };
ok($v, 'the right one is seen again');

# 3.9 announced is 3.9.x, and an edition does not matter
$t->put('gate', { state => 'open', evidence => { %$evidence, y => '3.9' } });
my $before = pool('new')->{counters}{wrong_version};
$t->get('/proxied');
$t->get('/v?v=1.1%20kong/3.9.2');
is(pool('new')->{counters}{wrong_version}, $before, '3.9 is all of 3.9');
$t->get('/v?v=1.1%20kong/3.90.1');
is(pool('new')->{counters}{wrong_version}, $before + 1, 'but not 3.90');

$t->put('gate', { state => 'open', evidence => { %$evidence,
    y => '3.9.3.0-enterprise-edition' } });
$t->get('/v?v=1.1%20kong/3.9.3.0-enterprise-edition');
is(pool('new')->{counters}{wrong_version}, $before + 1,
    'an edition is not part of the version');

$t->finish(qr/answers as/);
