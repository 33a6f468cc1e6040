# What the endpoint says of pools and peers, and how they are told apart by
# their paths.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my ($old, $new) = map { $t->listen_at($_) } qw(old new);
my $gone = $t->listen_at('gone');
my $sock = "$t->{dir}/dp.sock";

sub pools {
    my ($more) = @_;
    return <<"EOC";
    upstream dp_old { zone dp_old 64k; server $old; @{[ $more // '' ]}
                      server $gone down; server [::1]:1 backup; }
    upstream dp_new { zone dp_new 64k; server $new; server unix:$sock backup; }
    upstream bare_old { server $old; server $gone; }
EOC
}

my $http = 'upstream bare { kong_shift old=bare_old new=dp_new; '
    . 'kong_shift_gate on; }';
my $front = $t->front(workers => 2, weight => 10, pools => pools(),
    http => $http, admin => 'location /ro/ { kong_shift_api; }');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $rfc3339 = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;
my ($yes, $no) = (JSON::PP::true, JSON::PP::false);

sub pool { my ($p, $s) = @_; return "/shifts/@{[ $s // 'kong' ]}/pools/$p" }

# the states of all peers, by address
sub states {
    my $r = $t->api('GET', pool(@_));
    return { map { $_->{addr} => $_->{state} } @{ $r->{json}{peers} } };
}

sub refused {
    my ($name, $r, $status, $code) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_json($r, $status, { status => $status, code => $code }, $name);
    like($r->{headers}{'content-type'}, qr{^application/problem\+json},
        "$name: a problem");
}


# --- a pool

my $r = $t->api('GET', pool('old'));
is_json($r, 200, { pool => 'old', upstream => 'dp_old', checked => $no,
    ready => undef, total => 2, drained => $no, fallback => $no,
    fail_open => $no, active => 0, oldest_ms => undef, long_lived => 0,
    oldest_long_lived_ms => undef, announced => undef, versions => [],
    generation => 1 }, 'a pool');
is($r->{headers}{etag}, '"1"', 'its ETag');
ok(!exists $r->{json}{drain}, 'no drain, nothing about it');
ok(!exists $r->{json}{min_ready}, 'min_ready is of a new pool that is checked');
ok(!exists $r->{json}{saved}, 'no file, nothing about it');

my %classes = map { $_ . 'xx' => 0 } 1 .. 5;
my %origins = map { $_ => 0 } qw(gateway backend transport unknown);
is_deeply([sort keys %{ $r->{json}{counters} }], [qw(canceled chosen
    connect_errors errors failed fallback not_found rescued responses served
    suspected wrong_version)], 'its counters');
is_deeply([sort keys %{ $r->{json}{counters}{responses} }], [sort keys %classes],
    'by class');
is_deeply([sort keys %{ $r->{json}{counters}{$_} }], [sort keys %origins],
    "$_ by origin") for qw(errors not_found);

is_deeply(states('old'), { $old => 'unchecked', $gone => 'down',
    '[::1]:1' => 'unchecked' }, 'peers that are not checked, or down');
my ($peer) = grep { $_->{addr} eq $old } @{ $r->{json}{peers} };
is_deeply($peer, { addr => $old, state => 'unchecked', backup => $no,
    active => 0, requests => 0, failed => 0, connect_errors => 0,
    responses => \%classes }, 'a peer');
($peer) = grep { $_->{addr} eq '[::1]:1' } @{ $r->{json}{peers} };
is($peer->{backup}, $yes, 'a backup');

is_json($t->api('GET', pool('new')), 200, { pool => 'new', upstream => 'dp_new',
    total => 2 }, 'the other pool');
is_json($t->api('GET', pool('old', 'bare')), 200, { upstream => 'bare_old',
    total => 2 }, 'a pool without a zone');

$r = $t->api('GET', '/shifts/kong');
is_deeply($r->{json}{pools}, { map { $_ => { upstream => "dp_$_",
    ready => undef, total => 2, drained => $no, active => 0 } } qw(old new) },
    'a shift tells the little of both');


# --- peers by their paths

my %path = ($old => [$old, $old =~ s/:/%3A/r, $old =~ s/\./%2e/gr],
    '[::1]:1' => ['[::1]:1', '%5B::1%5D:1', '%5b%3a%3a1%5d%3a1']);
for my $addr (sort keys %path) {
    for my $path (@{ $path{$addr} }) {
        is_json($t->api('GET', pool("old/peers/$path")), 200,
            { addr => $addr, generation => 1 }, "peer by $path");
    }
}
for my $path ("unix:$sock", "unix%3A$sock" =~ s{/}{%2F}gr, "unix:/$sock") {
    is_json($t->api('GET', pool("new/peers/$path")), 200,
        { addr => "unix:$sock", backup => $yes }, "peer by $path");
}

refused("no peer: $_", $t->api('GET', pool("old/peers/$_")), 404,
    'unknown_peer') for $new, '127.0.0.1', "$old/", "${old}0", "$old,$gone",
    ':1', '::1:1', 'x' x 63, 'x' x 64, 'x' x 3000, '%01', '%ff',
    "$old%20", "unix:$sock", '%3Cscript%3E', '%22', 'peers';
refused("no peer to be drained: $_", $t->api('PUT', pool("old/peers/$_"),
    { state => 'drain' }), 404, 'unknown_peer') for $new, 'x' x 63, 'x' x 64;
refused("path: $_", $t->api('GET', $_), 404, 'not_found')
    for '/shifts/kong/pools', '/shifts/kong/pools/', '/shifts/kong/pools/old/',
    map { pool($_) } 'both', 'OLD', 'old%01', 'old/none', 'old/peers',
    'old/peers/', 'old/peers/%2F', 'old/drain/x', 'old/drain/', 'old/safe_to_stop/',
    'old/safe_to_stop/x', 'ol', 'old/weight', 'old/pools/old', '../pools';
refused("path: $_", $t->api('GET', $_), 404, 'not_found')
    for '/metrics/', '/metrics/x', '/metricsx', '/pools/old',
    '/shifts/kong/weight/peers/x';
refused('pools of no shift', $t->api('GET', pool('old', 'none')), 404,
    'unknown_shift');
is_json($t->api('GET', '/shifts/metrics'), 404, { code => 'unknown_shift' },
    'no shift is called metrics');


# --- methods

for my $case (['PUT', pool('old')], ['POST', pool('old')],
    ['DELETE', pool('old')], ['GET', pool('old/drain')],
    ['HEAD', pool('old/drain')], ['PUT', pool('old/drain')],
    ['PATCH', pool('old/drain')], ['PUT', pool('old/safe_to_stop')],
    ['POST', pool('old/safe_to_stop')], ['POST', pool("old/peers/$old")],
    ['DELETE', pool("old/peers/$old")], ['POST', '/metrics'],
    ['DELETE', '/metrics'])
{
    my ($m, $uri) = @$case;
    my $r = $t->api($m, $uri, $m =~ /GET|HEAD/ ? undef : '{}');
    is($r->{status}, 405, "$m $uri");
    ok(defined $r->{headers}{allow} && $r->{headers}{allow} !~ /\b$m\b/,
        "$m $uri: Allow") or diag($r->{headers}{allow});
}
for my $case (['POST', pool('old/drain')], ['DELETE', pool('old/drain')],
    ['PUT', pool("old/peers/$old")])
{
    my ($m, $uri) = @$case;
    my $r = $t->api($m, "/ro$uri", '{"state":"drain"}');
    refused("writes off: $m $uri", $r, 405, 'writes_off');
    is($r->{headers}{allow}, $uri =~ /drain$/ ? '' : 'GET, HEAD',
        "writes off: $m $uri: Allow");
}
for my $uri (pool('old'), pool("old/peers/$old"), pool('old/safe_to_stop'),
    '/metrics')
{
    my ($get, $head) = map { $t->api($_, $uri) } qw(GET HEAD);
    is($head->{status}, $get->{status}, "HEAD $uri");
    is($head->{headers}{'content-length'}, length $get->{body},
        "HEAD $uri: the length GET has");
    is($t->api('GET', "/ro$uri")->{status}, $get->{status},
        "GET $uri needs no writes");
}
is($t->snapshot->{generation}, 1, 'and nothing changed');


# --- peers that come, go and stay drained

$t->put("pools/old/peers/$old", { state => 'drain' });
is_json($t->api('GET', pool("old/peers/$old")), 200,
    { state => 'drained', generation => 2 }, 'a drained peer');
is_json($t->api('GET', pool('old')), 200, { ready => undef, total => 2 },
    'still counts among all');

# its line goes, and another one comes
$front->set($t->front_conf(weight => 10, http => $http, pools => <<"EOC"));
    upstream dp_old { zone dp_old 64k; server $gone; server [::1]:1 backup; }
    upstream dp_new { zone dp_new 64k; server $new; server unix:$sock backup; }
    upstream bare_old { server $old; server $gone; }
EOC
ok($front->reload, 'reload without the drained peer');
is_deeply(states('old'), { $old => 'gone', $gone => 'unchecked',
    '[::1]:1' => 'unchecked' }, 'it is gone and still drained');
is_json($t->api('GET', pool("old/peers/$old")), 200,
    { addr => $old, state => 'gone' }, 'and has a path');

$front->set($t->front_conf(weight => 10, http => $http, pools => pools()));
ok($front->reload, 'reload with it');
is(states('old')->{$old}, 'drained', 'it is drained as before');
$t->put("pools/old/peers/$old", { state => 'ready' });
is(states('old')->{$old}, 'unchecked', 'until that is lifted');

$t->put("pools/old/peers/$old", { state => 'drain' });
$front->set($t->front_conf(weight => 10, http => $http, pools => <<"EOC"));
    upstream dp_old { zone dp_old 64k; server $gone; }
    upstream dp_new { zone dp_new 64k; server $new; server unix:$sock backup; }
    upstream bare_old { server $old; server $gone; }
EOC
ok($front->reload, 'reload without it again');
is_json($t->api('PUT', pool("old/peers/$old"), { state => 'ready' }), 200,
    { addr => $old, state => 'gone' }, 'a drain of one that is gone is lifted');
refused('and then it is unknown', $t->api('GET', pool("old/peers/$old")), 404,
    'unknown_peer');
is_deeply(states('old'), { $gone => 'unchecked' }, 'and not listed');


# --- the shape of names

my $odd = $t->nginx(name => 'odd', conf => $t->front_conf(pools => pools(),
    http => <<"EOC"));
    upstream "a\\"b<\\\\c>" { zone odd 64k; server $old; }
    upstream "o d\\"d" { kong_shift "old=a\\"b<\\\\c>" new=dp_new; }
EOC
$front->stop;
ok($odd->start, 'odd names: starts') or diag($odd->{start_output});
is_json($t->api('GET', pool('old', 'o%20d%22d')), 200,
    { upstream => 'a"b<\c>' }, 'odd names: as they are');
$r = $t->api('GET', pool('old/peers/x', 'o%20d%22d'));
refused('odd names: in a problem', $r, 404, 'unknown_peer');
like($r->{json}{detail}, qr/\Qa"b<\c>\E/, 'odd names: as they are');

$t->finish;
