# Draining pools and peers: what is refused, what it closes, what lifts it, and
# when a pool may be stopped.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend(pools => [qw(old new old2)]);

my $file = $t->state_dir . '/state.json';
my ($old, $new, $old2) = map { $t->listen_at($_) } qw(old new old2);

my %conf = (workers => 2, weight => 10, state => $file, pools => <<"EOC",
    upstream dp_old { zone dp_old 64k; server $old; server $old2; }
    upstream dp_new { zone dp_new 64k; server $new; }
    upstream bare_old { server $old; server $old2; }
EOC
    http => 'upstream bare { kong_shift old=bare_old new=dp_new; }',
    server => 'location /bare { proxy_pass http://bare/; }',
    extra => 'kong_shift_gate on; kong_shift_override $arg_to;');
my $front = $t->front(%conf);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my ($yes, $no) = (JSON::PP::true, JSON::PP::false);

sub pool { my ($p, $s) = @_; return "/shifts/@{[ $s // 'kong' ]}/pools/$p" }
sub drain { my ($p, @body) = @_; return $t->api('POST', pool("$p/drain"), @body) }
sub lift { my ($p, @body) = @_; return $t->api('DELETE', pool("$p/drain"), @body) }
sub peer { my ($p, $addr, $state) = @_;
    return $t->api('PUT', pool("$p/peers/$addr"), { state => $state }) }

sub refused {
    my ($name, $r, $status, $code) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_json($r, $status, { status => $status, code => $code }, $name);
}

sub events {
    return @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
}

# which pools answer, of so many
sub answers {
    my ($n, $uri) = @_;
    my %seen;

    $seen{ $t->pool($uri // '/') }++ for 1 .. $n;
    return \%seen;
}


# --- pools: refused while the weight needs them

refused("$_ behind a closed gate", drain($_), 409, 'pool_in_use')
    for qw(old new);
$t->put('gate', { state => 'open', force => \1, comment => 'test' });
refused("$_ at 10", drain($_), 409, 'pool_in_use') for qw(old new);
my $r = drain('old');
is($r->{json}{current}, $t->snapshot->{generation}, 'with the generation');
like($r->{json}{detail}, qr/old.*kong/, 'and says why');
refused('new at 0.0001', do { $t->weight(0.0001); drain('new') }, 409,
    'pool_in_use');
refused('old at 99.9999', do { $t->weight(99.9999); drain('old') }, 409,
    'pool_in_use');

$t->weight(100);
my $g = $t->snapshot->{generation};
refused('with an old tag', $t->api('POST', pool('old/drain'), undef,
    'If-Match: "1"'), 412, 'generation_mismatch');

$r = drain('old', { rate => 20, deadline => '10m', comment => 'CHG-1' });
is_json($r, 200, { pool => 'old', drained => $yes, generation => $g + 1,
    saved => $yes }, 'old at 100');
is($r->{headers}{etag}, '"' . ($g + 1) . '"', 'the new ETag');
is($r->{json}{drain}{rate}, 20, 'its rate');
like($r->{json}{drain}{since}, qr/^\d{4}-.*Z$/, 'since when');
is_deeply($t->api('GET', pool('old'))->{json}{drain}, $r->{json}{drain},
    'is there to be read');
is($t->snapshot->{pools}{old}{drained}, $yes, 'also in the shift');
is($t->snapshot->{pools}{new}{drained}, $no, 'of the one pool');

my ($e) = (events())[-1];
is_deeply([@$e{qw(action comment generation)}], ['drain', 'CHG-1', $g + 1],
    'an event');
is_deeply([$e->{before}{drained}, $e->{after}{drained}], [undef, ['old']],
    'with what changed');
like($front->error_log, qr/\[notice\].*"kong": pool drained: old, .*CHG-1/,
    'and a line in the log');

is_deeply(answers(10), { new => 10 }, 'everything goes to new');
is_deeply(answers(10, '/?to=old'), { new => 10 }, 'an override does not help');

# what needs it is refused
refused('a weight that needs it', $t->api('PUT', '/shifts/kong/weight',
    { new => 99.9999 }), 409, 'pool_drained');
refused('by force as well', $t->api('PUT', '/shifts/kong/weight',
    { new => 50, force => \1 }), 409, 'pool_drained');
is_json($t->api('PUT', '/shifts/kong/weight', { new => 100 }), 200,
    { new => 100 }, 'a weight that does not is taken');

# once more, on other terms
my $since = $r->{json}{drain}{since};
$r = drain('old');
is_deeply($r->{json}{drain}, { since => $since, rate => undef,
    deadline => undef }, 'without terms: nothing is closed, since before');
$r = drain('old', '');
is_json($r, 200, { drained => $yes }, 'with an empty body');
$r = drain('old', '{}', 'Content-Type: application/json');
is_json($r, 200, { drained => $yes }, 'with an empty object');
$r = drain('old', { deadline => '1d 2h' });
is($r->{json}{drain}{rate}, undef, 'a deadline alone');
ok($r->{json}{drain}{deadline}, 'is one');

# lifted
$r = lift('old', { comment => 'no' });
is_json($r, 200, { drained => $no }, 'DELETE');
ok(!exists $r->{json}{drain}, 'nothing of it is left');
is_json(lift('old'), 200, { drained => $no }, 'DELETE of what is not drained');
is_json($t->api('PUT', '/shifts/kong/weight', { new => 50 }), 200,
    { new => 50 }, 'and weights are free again');


# --- abort, gate and an edited weight

for my $how ('abort', 'gate') {
    $t->weight(100);
    drain('old', { rate => 1 });
    peer('old', $old, 'drain');
    peer('new', $new, 'drain');
    is($t->api('GET', pool('old'))->{json}{drained}, $yes, "$how: drained");
    $how eq 'abort' ? $t->api('POST', '/shifts/kong/abort')
        : $t->put('gate', { state => 'closed' });
    my @j = map { $t->api('GET', pool($_))->{json} } qw(old new);
    is_deeply([map { $_->{drained}, map { $_->{state} } @{ $_->{peers} } } @j],
        [$no, 'unchecked', 'unchecked', $no, 'unchecked'],
        "$how: lifts all of it");
    is_deeply(answers(10), { map { $_ => 5 } qw(old old2) },
        "$how: and all of old serves");
    $t->put('gate', { state => 'open', force => \1, comment => 'test' });
}

is_json(drain('new'), 200, { drained => $yes }, 'new at 0, after an abort');
refused('a weight', $t->api('PUT', '/shifts/kong/weight', { new => 1 }), 409,
    'pool_drained');
lift('new');

$t->weight(100);
drain('old');
$front->set($t->front_conf(%conf, weight => 20), $t->front_main(%conf));
$front->new_log;
ok($front->reload, 'reload with weight= edited');
is_json($t->api('GET', '/shifts/kong/weight'), 200, { new => 100 },
    'does not end a drain');
like($front->new_log, qr/\[warn\].*kong.*drained/, 'and the log says so');
lift('old');


# --- bodies

$t->weight(100);
$g = $t->snapshot->{generation};
for my $case (['{"rate":0}', 'out_of_range'], ['{"rate":10001}', 'out_of_range'],
    ['{"rate":-1}', 'out_of_range'], ['{"rate":1.5}', 'out_of_range'],
    ['{"rate":"20"}', 'invalid_type'], ['{"rate":null}', 'invalid_type'],
    ['{"rate":true}', 'invalid_type'], ['{"rate":[20]}', 'invalid_type'],
    ['{"rate":18446744073709551617}', 'out_of_range'],
    ['{"deadline":600}', 'invalid_type'], ['{"deadline":""}', 'invalid_value'],
    ['{"deadline":"10x"}', 'invalid_value'], ['{"deadline":"-1"}', 'invalid_value'],
    ['{"deadline":"1.5h"}', 'invalid_value'], ['{"deadline":"10ms"}',
    'invalid_value'], ['{"deadline":"1s1m"}', 'invalid_value'],
    ['{"deadline":"0"}', 'out_of_range'], ['{"deadline":"366d"}', 'out_of_range'],
    ['{"deadline":"99999999999999999999"}', 'invalid_value'],
    ['{"deadline":"' . '1' x 60000 . '"}', 'invalid_value'],
    ['{"rates":20}', 'unknown_field'], ['{"force":true}', 'unknown_field'],
    ['{"comment":7}', 'invalid_type'], ['[]', 'invalid_type'],
    ['null', 'invalid_type'], ['{', 'invalid_json'],
    ['{"rate":1,"rate":2}', 'duplicate_key'], ["{}\0", 'invalid_json'],
    ['[' x 30000, qr/^(?:too_deep|invalid_json)$/])
{
    my ($body, $code) = @$case;
    my $r = drain('old', $body, 'Content-Type: application/json');
    my $name = 'drain ' . substr $body, 0, 40;
    ref $code ? like($r->{json}{code}, $code, $name)
        : refused($name, $r, 400, $code);
}
for my $case (['{"rate":1}', 'unknown_field'], ['{"comment":7}',
    'invalid_type'], ['[]', 'invalid_type'], ['x', 'invalid_json'])
{
    my ($body, $code) = @$case;
    refused("lift $body", lift('old', $body, 'Content-Type: application/json'),
        400, $code);
}
for my $case (['{}', 'missing_field'], ['{"state":"down"}', 'invalid_value'],
    ['{"state":1}', 'invalid_type'], ['{"state":"Drain"}', 'invalid_value'],
    ['{"state":"drain","rate":1}', 'unknown_field'], ['', 'body_required'],
    ['{"state":"drain","state":"ready"}', 'duplicate_key'])
{
    my ($body, $code) = @$case;
    refused("peer $body", $t->api('PUT', pool("old/peers/$old"), $body), 400,
        $code);
}
refused('a body of 70 KB', drain('old', ' ' x 70_000), 413, 'body_too_large');
refused('a foreign page', drain('old', undef, 'Origin: http://evil.example'),
    403, 'cross_site');
refused('a foreign page that lifts', lift('old', undef,
    'Origin: http://evil.example'), 403, 'cross_site');
refused('a foreign host', drain('old', undef, 'Host: evil.example'), 403,
    'foreign_host');
refused('plain text', drain('old', '{}', 'Content-Type: text/plain'), 415,
    'unsupported_media_type');
is($t->snapshot->{generation}, $g, 'nothing changed');


# --- peers

$t->weight(0);
is_deeply(answers(20), { old => 10, old2 => 10 }, 'two peers in turn');
$r = peer('old', $old, 'drain');
is_json($r, 200, { addr => $old, state => 'drained', saved => $yes,
    generation => $t->snapshot->{generation} }, 'one is drained');
is_deeply(answers(20), { old2 => 20 }, 'and gets nothing');
($e) = (events())[-1];
is_deeply([@$e{qw(action comment)}], ['drain_peer', "old $old drained"],
    'the event says which');
refused('the last one while it is needed', peer('old', $old2, 'drain'), 409,
    'pool_in_use');
is_json(peer('new', $new, 'drain'), 200, { state => 'drained' },
    'the last one of a pool without weight');

# two shifts share that pool, and so its peers; long enough for both to look
$t->weight(100, 'bare');
select undef, undef, undef, 0.7;
like($t->pool('/bare'), qr/^old/, 'it is drained for another shift, too');
peer('new', $new, 'ready');
wait_for('new', sub { $t->pool('/bare') eq 'new' });
$t->weight(0, 'bare');

$t->put("pools/old/peers/$old", { state => 'ready', comment => "\x{20ac}" x 42 });
($e) = (events())[-1];
like($e->{comment}, qr/^old \Q$old\E not drained: (?:\xe2\x82\xac|\x{20ac})+$/,
    'a comment that is cut stays UTF-8');
cmp_ok(length Encode::encode_utf8($e->{comment}), '<=', 128, 'and is cut')
    if eval { require Encode };
is_deeply(answers(20), { old => 10, old2 => 10 }, 'both are back');
is_json(peer('old', $old, 'ready'), 200, { state => 'unchecked' },
    'one that is not drained');
refused('a peer without a zone', $t->api('PUT', pool("old/peers/$old", 'bare'),
    { state => 'drain' }), 409, 'no_zone');


# --- safe to stop

sub stop_of {
    my ($p, $query) = @_;
    my $r = $t->api('GET', pool("$p/safe_to_stop") . ($query // ''));

    return "$r->{status} " . join ' ', $r->{json}{safe} ? 'safe' : (),
        @{ $r->{json}{reasons} // [] };
}

$t->weight(0);
is(stop_of('new'), '200 safe', 'new at 0');
is(stop_of('old'), '409 weight', 'old at 0');
is(stop_of('old', '?hold=1h'), '409 weight hold_time', 'with a time to hold');
is(stop_of('new', '?hold=1h'), '409 hold_time', 'which new has to keep too');
is(stop_of('new', '?hold=0'), '200 safe', 'no time to hold');
ok(retry_until(sub { stop_of('new', '?hold=1') eq '200 safe' }, 5),
    'a second passes');
$r = $t->api('GET', pool('new/safe_to_stop?hold=1'));
is_json($r, 200, { safe => $yes, drained => $no, active => 0, long_lived => 0,
    oldest_ms => undef, oldest_long_lived_ms => undef, hold_seconds => 1,
    generation => $t->snapshot->{generation} }, 'what it is told by');
is($r->{headers}{etag}, "\"$r->{json}{generation}\"", 'its ETag');
is_json($t->api('GET', pool('old/safe_to_stop')), 409,
    { status => 409, code => 'not_safe_to_stop', safe => $no, active => 0 },
    'or why not');

$t->weight(50);
is(stop_of($_), '409 weight', "$_ at 50") for qw(old new);
$t->weight(100);
is(stop_of('old'), '200 safe', 'old at 100');
drain('old');
is(stop_of('old'), '200 safe', 'and drained');

# what does not concern it does not start the time anew
ok(retry_until(sub { stop_of('old', '?hold=1') eq '200 safe' }, 5),
    'held for a second');
$t->put('freeze', { state => 'on' });
is(stop_of('old', '?hold=1'), '200 safe', 'a freeze changes nothing');
drain('old', { rate => 5 });
is(stop_of('old', '?hold=1'), '200 safe', 'another rate neither');

for my $q ('hold=', 'hold=x', 'hold=-1', 'hold=1.5', 'hold=10ms',
    'hold=99999999999999999999', 'hold=%31')
{
    refused("safe_to_stop?$q", $t->api('GET', pool("old/safe_to_stop?$q")),
        400, 'invalid_query');
}
refused("safe_to_stop?$_", $t->api('GET', pool("old/safe_to_stop?$_")), 400, 'invalid_query')
    for 'held=1h', 'hold=1s&held=1h';
lift('old');


# --- drains stay

sub kept {
    my ($name, $want) = @_;
    my @j = map { $t->api('GET', pool($_))->{json} } qw(old new);
    my $got = [$t->snapshot->{generation}, map { [$_->{drained}, $_->{drain},
        map { $_->{state} } @{ $_->{peers} }] } @j];

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_deeply($got, $want, $name) if $want;
    return $got;
}

$t->weight(100);
drain('old', { rate => 20, deadline => '1h' });
peer('old', $old, 'drain');
my $told = kept();
is($told->[1][1]{rate}, 20, 'a drain to keep');
is($told->[1][2], 'drained', 'and a drained peer');

ok($front->reload, 'reload');
kept('reload', $told);
$front->set($t->front_conf(%conf, weight => 20),
    $t->front_main(%conf, zone => '1m'));
ok($front->reload, 'reload with another zone size');
kept('zone resized', $told);

# what is still under way in a worker of the zone before is nobody's to count,
# so nothing is safe until that worker is gone
my $held = $t->connect_to('front', $front->workers);
$held->send("GET / HTTP/1.1\r\n");
$front->set($t->front_conf(%conf, weight => 20),
    $t->front_main(%conf, zone => '2m'));
ok($front->reload, 'and another one, with a request in an old worker');
kept('zone resized again', $told);
is(stop_of($_), $_ eq 'old' ? '409 active' : '409 weight active',
    "$_ is not safe") for qw(old new);
$held->close_now;
ok(retry_until(sub { stop_of('old') eq '200 safe' }), 'until that is gone');

$front->kill_worker($_) for $front->workers;
kept('every worker killed', $told);
ok($front->stop && $front->start, 'restart');
kept('restart', $told);
is_deeply(answers(10), { new => 10 }, 'and in force');
$front->kill_all;
ok($front->start, 'start after kill -9 of all');
kept('kill -9 of all', $told);

# both binaries know, and neither can speak for the other
$front->upgrade;
my @new = $front->workers;
my @old = KongShift::Nginx::workers_of($front->{old_master});
kept('both masters at work', $told);
for ([new => @new], [old => @old]) {
    my ($name, @pids) = @$_;
    my $c = $t->connect_to('admin', @pids);
    is_json($c->request('GET', pool('old/safe_to_stop')), 409,
        { reasons => ['upgrade'] }, "the $name binary does not say safe");
}
my $c = $t->connect_to('admin', @new);
is_json($c->request('DELETE', pool('old/drain')), 200, { drained => $no },
    'lifted at the new binary');
$c = $t->connect_to('admin', @old);
ok(retry_until(sub { !$c->request('GET', pool('old'))->{json}{drained} }, 3),
    'and at the old one');
is_json($c->request('POST', pool('old/drain'), body => '{"rate":7}'), 200,
    { drained => $yes }, 'drained at the old binary');
$c = $t->connect_to('admin', @new);
ok(retry_until(sub { $c->request('GET', pool('old'))->{json}{drained} }, 3),
    'and at the new one');

# a peer that is drained at one gets nothing from the other
$c->request('DELETE', pool('old/drain'));
$c->request('PUT', "/shifts/kong/weight", body => '{"new":0}');
is_json($c->request('PUT', pool("old/peers/$old2"), body =>
    '{"state":"ready"}'), 200, { state => 'unchecked' }, 'a peer at the new one');
is_json($c->request('PUT', pool("old/peers/$old"), body =>
    '{"state":"ready"}'), 200, { state => 'unchecked' }, 'is back');
is_json($c->request('PUT', pool("old/peers/$old2"), body =>
    '{"state":"drain"}'), 200, { state => 'drained' }, 'or drained');
my $f = $t->connect_to('front', @old);
ok(retry_until(sub { !grep { $f->request('GET', '/')->{body} !~ /^old / }
    1 .. 10 }, 3), 'and so it is at the old one');
$c->request('PUT', pool("old/peers/$old2"), body => '{"state":"ready"}');
$c->request('PUT', '/shifts/kong/weight', body => '{"new":100}');
$c->request('POST', pool('old/drain'), body => '{"rate":7}');
$c->close_now;
$f->close_now;
ok($front->end_old_master, 'the old binary leaves');
is(stop_of('old'), '200 safe', 'and the new one says safe');

# a pid file that was left behind, or is none
my $oldbin = "$front->{prefix}/nginx.pid.oldbin";
write_file($oldbin, "4194304\n");
is(stop_of('old'), '200 safe', 'the pid of nobody');
write_file($oldbin, '');
is(stop_of('old'), '409 upgrade', 'no pid');
unlink $oldbin;
is(stop_of('old'), '200 safe', 'no file');


# --- the file: without a drain it is as it always was

my $text = from_json(read_file($file))->{shifts}{kong};
is($text->{drains}{old}{rate}, 7, 'a drain is in the file');
lift('old');
$text = from_json(read_file($file))->{shifts}{kong};
is_deeply([sort keys %$text], [qw(aborted changed conf_weight events freeze
    gate generation weight)], 'without one nothing of it is');

$t->finish(qr/exited on signal 9/);
