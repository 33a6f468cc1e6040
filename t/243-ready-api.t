# What the endpoint makes of readiness and of requests under way: weights that
# are refused, and a pool that is not called safe while anything is left on it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;
use KongShift::DataPlane;

my $t = KongShift->new;
my %dp = map { $_ => KongShift::DataPlane->new($t, $_) } qw(old n1 n2);
my ($old, $n1, $n2) = map { $dp{$_}->addr } qw(old n1 n2);

# a data plane that holds each request until it is told to answer
my $go = "$t->{dir}/go";
$t->server('slow', sub {
    my ($c) = @_;
    my $buf = '';
    while ($buf !~ /\r\n\r\n/) { sysread $c, $buf, 4096, length $buf or return }
    write_file("$t->{dir}/came", '');
    select undef, undef, undef, 0.002 while !-e $go && getppid() != 1;
    unlink $go, "$t->{dir}/came";
    syswrite $c, "HTTP/1.0 200 OK\r\nContent-Length: 5\r\n\r\nslow\n";
});

my $check = 'uri=/ interval=200ms timeout=200ms fails=1 passes=1';
$dp{$_}->set(traffic => 503) for qw(n1 n2);
my $front = $t->front(workers => 2, weight => 10, pools => <<"EOC",
    upstream dp_old { zone dp_old 64k; server $old; }
    upstream dp_new { zone dp_new 64k; server $n1; server $n2;
                      server 127.0.0.1:1 down; }
    upstream dp_slow { zone dp_slow 64k; server @{[ $t->listen_at('slow') ]}; }
    upstream dp_fast { zone dp_fast 64k; server $old; }
EOC
    extra => "kong_shift_gate on; kong_shift_check pool=old $check;"
    . "kong_shift_check pool=new $check min_ready=60%;",
    http => 'upstream stop { kong_shift old=dp_slow new=dp_fast; '
    . 'kong_shift_rescue off; }',
    server => 'location /stop { proxy_pass http://stop; '
    . 'add_header X-Pool $kong_shift_pool always; }');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my ($yes, $no) = (JSON::PP::true, JSON::PP::false);
my $evidence = { strategy => 'in-place', x => '3.8.1', y => '3.9.3',
    journal => 'j' };

sub pool { return $t->api('GET', "/shifts/kong/pools/$_[0]")->{json} }

sub state_of {
    my ($addr) = @_;
    return { map { $_->{addr} => $_->{state} } @{ pool('new')->{peers} } }->{$addr};
}

# a change that too few peers are ready for
sub not_ready {
    my ($name, $r, $ready, @peers) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_json($r, 409, { status => 409, code => 'pool_not_ready',
        current => $t->snapshot->{generation} }, $name);
    is_deeply([map { $_->{addr} } @{ $r->{json}{peers} }], \@peers,
        "$name: the peers that are missing");
    like($r->{json}{detail}, qr/\b$ready of 2\b.*dp_new.*\b60%.*force/,
        "$name: how many are, how many it takes, and what to do");
}

sub events {
    my ($action) = @_;
    return grep { $_->{action} eq $action }
        @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
}


# --- nobody is ready

wait_for('checks', sub { 2 == grep { $_->{last_check} } @{ pool('new')->{peers} } });
my $j = pool('new');
is_deeply([@$j{qw(checked ready total min_ready fallback)}],
    [$yes, 0, 2, 60, $yes], 'new has nobody');
my ($peer) = grep { $_->{addr} eq $n1 } @{ $j->{peers} };
is($peer->{state}, 'not_ready', 'a peer is not ready');
like($peer->{reason}, qr/503/, 'and why');
like($peer->{last_check}, qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/, 'since when');
is_deeply([@{ pool('old') }{qw(checked ready total fallback fail_open)}],
    [$yes, 1, 1, $no, $no], 'old has its peer');
ok(!exists pool('old')->{min_ready}, 'min_ready is about new');
is_deeply([@{ $t->snapshot->{pools}{new} }{qw(ready total)}], [0, 2],
    'the shift says so too');

# the gate, for a weight that waits for it
my $gate = '/shifts/kong/gate';
not_ready('opening the gate', $t->api('PUT', $gate, { state => 'open',
    evidence => $evidence }), 0, $n1, $n2);
is($t->snapshot->{gate}{state}, 'closed', 'it stays closed');
is_json($t->api('PUT', $gate, { state => 'open', evidence => $evidence,
    force => \1 }), 200, { state => 'open', forced => $yes },
    'but by force');
is((events('gate'))[-1]{forced}, $yes, 'which is an event');

# weights
my $weight = '/shifts/kong/weight';
not_ready('raising', $t->api('PUT', $weight, { new => 10.0001 }), 0, $n1, $n2);
is_json($t->api('PUT', $weight, { new => 10 }), 200, { new => 10 },
    'the same again');
is_json($t->api('PUT', $weight, { new => 5 }), 200, { new => 5 }, 'lowering');
$t->weight(0);
my $r = $t->api('PUT', $weight, { new => 1 });
not_ready('leaving 0', $r, 0, $n1, $n2);
like($r->{json}{peers}[0]{reason}, qr/503/, 'with what the check said');
is_json($t->api('PUT', $weight, { new => 1, force => \0 }), 409,
    { code => 'pool_not_ready' }, 'force: false');
is_json($t->api('PUT', $weight, { new => 50, force => \1, comment => 'F-1' }),
    200, { new => 50 }, 'force: true');
my ($e) = (events('weight'))[-1];
is_deeply([@$e{qw(forced comment)}], [$yes, 'F-1'], 'is in the event');
like($front->error_log, qr/\[notice\].*weight set by force, weight 50,.*"F-1"/,
    'and in the log');
is((events('weight'))[-2]{forced}, undef, 'what was not forced is not marked');

is(pool_counts($t->load(requests => 20)), 'old 20, new 0, failed 0',
    'old takes the part of new');
is_deeply([@{ pool('old')->{counters} }{qw(chosen served fallback)}],
    [20, 20, 10], 'and it is counted');
my $m = $t->api('GET', '/metrics')->{body};
for my $line ('kong_shift_pool_fallback{shift="kong",pool="new"} 1',
    'kong_shift_pool_fallback{shift="kong",pool="old"} 0',
    'kong_shift_pool_fail_open{shift="kong",pool="old"} 0',
    'kong_shift_pool_peers_ready{shift="kong",pool="new"} 0',
    'kong_shift_pool_peers_ready{shift="kong",pool="old"} 1',
    "kong_shift_peer_ready{shift=\"kong\",pool=\"new\",peer=\"$n1\"} 0",
    'kong_shift_requests_fallback_total{shift="kong",pool="old"} 10',
    'kong_shift_requests_served_total{shift="kong",pool="old"} 20')
{
    like($m, qr/^\Q$line\E$/m, $line);
}


# --- one of two is

$t->weight(0);
$dp{n1}->set(traffic => 'ok');
wait_for('n1', sub { state_of($n1) eq 'ready' });
is_deeply([@{ pool('new') }{qw(ready total fallback)}], [1, 2, $no],
    'one is ready');
not_ready('one is too few', $t->api('PUT', $weight, { new => 1 }), 1, $n2);

# the other as well, but drained
$dp{n2}->set(traffic => 'ok');
wait_for('n2', sub { state_of($n2) eq 'ready' });
$t->put("pools/new/peers/$n2", { state => 'drain' });
$r = $t->api('PUT', $weight, { new => 1 });
not_ready('a drained one does not count', $r, 1, $n2);
is($r->{json}{peers}[0]{reason}, 'drained', 'which is the reason');
$t->put("pools/new/peers/$n2", { state => 'ready' });
is_json($t->api('PUT', $weight, { new => 50 }), 200, { new => 50 },
    'both are ready');
$r = $t->load(requests => 20)->{pool};
is_deeply([$r->{old}, ($r->{n1} // 0) + ($r->{n2} // 0)], [10, 10],
    'and get their part');

# events of what was seen make no generation
my @seen = events('peer');
cmp_ok(scalar(@seen), '>=', 2, 'peers became ready') or diag(explain(\@seen));
is_deeply([map { $_->{before}{weight} - $_->{after}{weight} } @seen],
    [map { 0 } @seen], 'which changed nothing');
ok(scalar(events('fallback')), 'fallback is an event');


# --- both pools without a ready peer

$t->weight(0);
$dp{old}->set(traffic => 503);
wait_for('fail_open', sub { pool('old')->{fail_open} });
is_deeply([@{ pool('old') }{qw(ready fallback fail_open)}], [0, $no, $yes],
    'old is used as if it was not checked');
ok(scalar(events('fail_open')), 'which is an event');
like($t->api('GET', '/metrics')->{body},
    qr/^kong_shift_pool_fail_open\{shift="kong",pool="old"\} 1$/m,
    'and a metric');
$dp{old}->set(traffic => 'ok');
wait_for('old', sub { !pool('old')->{fail_open} });


# --- safe to stop, with requests under way

sub stop_of { return $t->api('GET', '/shifts/stop/pools/old/safe_to_stop'
    . ($_[0] // '')) }

my $f = $t->connect('front');
$f->send($f->format_request('GET', '/stop'));
wait_for('the request', sub { -e "$t->{dir}/came" });
is_json(stop_of(), 409, { reasons => [qw(weight active)], active => 1,
    long_lived => 0 }, 'a request under way');
$t->weight(100, 'stop');
ok(retry_until(sub { (stop_of()->{json}{oldest_ms} // 0) > 20 }, 5),
    'has an age');
is_json(stop_of('?hold=1h'), 409, { reasons => [qw(active hold_time)] },
    'and the weight is gone');
like($t->api('GET', '/metrics')->{body},
    qr/^kong_shift_pool_active\{shift="stop",pool="old"\} 1$/m, 'a metric');
($peer) = @{ $t->api('GET', '/shifts/stop/pools/old')->{json}{peers} };
is($peer->{active}, 1, 'and of its peer');
write_file($go, '');
is($f->response->{body}, "slow\n", 'it is answered');
ok(retry_until(sub { stop_of()->{status} == 200 }, 5), 'and old is safe');
is_json(stop_of(), 200, { active => 0, oldest_ms => undef }, 'with nothing left');

# whoever asks while a request races with the weight is never told "safe" if
# that request is at old
my $a = $t->connect('admin');
my ($false, %went) = (0);
for my $i (1 .. 200) {
    $t->weight(0, 'stop');

    my @send = ([$f, $f->format_request('GET', '/stop')],
        [$a, $a->format_request('PUT', '/shifts/stop/weight',
            body => '{"new":100}')
        . $a->format_request('GET', '/shifts/stop/pools/old/safe_to_stop')]);
    @send = reverse @send if $i % 2;
    $send[0][0]->send($send[0][1]);
    select undef, undef, undef, rand 0.0005 if $i % 4 > 1;
    $send[1][0]->send($send[1][1]);
    $a->response;
    my $safe = $a->response->{status} == 200;

    write_file($go, '');
    my $r = $f->response;
    unlink $go;
    my $went = $r ? $r->{headers}{'x-pool'} : 'none';
    $went{"$went " . ($safe ? 'safe' : 'not')}++;
    $false++ if $safe && $went ne 'new';
}
is($false, 0, '200 requests that race with the weight: never safe too early')
    or diag(explain(\%went));
ok(!$went{'none safe'} && !$went{'none not'}, 'all were answered');
note(explain(\%went));
ok(retry_until(sub { stop_of()->{status} == 200 }, 5), 'safe at the end');

$t->finish;
