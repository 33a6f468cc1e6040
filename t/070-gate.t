# While the gate is closed nothing at all reaches the new pool.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $front = $t->front(workers => 2, weight => 40,
    state => $t->state_dir . '/state.json',
    http => <<'EOC',
    map $http_x_pool $pool_by_header { default ''; old old; new new; }
EOC
    extra => 'kong_shift_gate on; kong_shift_override $pool_by_header;');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $evidence = { strategy => 'dual-cluster', x => '3.4.3.12', y => '3.10.0.2',
    journal => '/var/lib/kong-shift/journal/20261123' };

sub gate { $t->api('PUT', '/shifts/kong/gate', $_[0]) }

sub counts { pool_counts($t->load(requests => 20, conns => 2, @_)) }

sub unchanged {
    my ($name, $code, $status, $want) = @_;
    my $before = $t->snapshot;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    my $r = $code->();
    is_json($r, $status, $want, $name);
    like($r->{headers}{'content-type'}, qr{^application/problem\+json},
        "$name: a problem body");
    is_deeply($t->snapshot, $before, "$name: nothing changed");

    return $r;
}

use constant ALL_OLD => 'old 20, new 0, failed 0';
use constant ALL_NEW => 'old 0, new 20, failed 0';


# --- closed from the start, whatever weight= says

is_json($t->api('GET', '/shifts/kong/gate'), 200, { state => 'closed' },
    'closed from the start');
is_json($t->api('GET', '/shifts/kong/weight'), 200,
    { new => 40, old => 60, effective => 0 }, 'the effective weight is 0');
is(counts(), ALL_OLD, 'all requests reach the old pool');
is(counts(headers => ['X-Pool: new']), ALL_OLD,
    'an override to new does not pass it');

my $r = $t->get('/', 'X-Pool: new');
is("@{ $r->{headers} }{qw(x-pool x-weight)}", 'old 0',
    'the variables say so');

for my $body ({ new => 10 }, { new => 10, force => \1 }, { new => 0.0001 },
    { old => 0, new => 100 })
{
    unchanged('PUT of ' . to_json($body),
        sub { $t->api('PUT', '/shifts/kong/weight', $body) }, 409,
        { code => 'gate_closed' });
}

is_json($t->api('PUT', '/shifts/kong/weight', { new => 0 }), 200,
    { new => 0, effective => 0 }, 'PUT of 0 is fine');


# --- opening needs evidence

for my $case (
    ['no evidence', { state => 'open' }, 'evidence_required'],
    ['force without a comment', { state => 'open', force => \1 }, qr/./],
    ['force false without evidence',
        { state => 'open', force => \0, comment => 'c' },
        'evidence_required'],
    ['empty evidence', { state => 'open', evidence => {} }, 'missing_field'],
    ['evidence without journal', { state => 'open', evidence => {
        strategy => 'in-place', x => '1', y => '2' } }, 'missing_field'],
    ['evidence of an unknown strategy', { state => 'open', evidence => {
        %$evidence, strategy => 'hope' } }, 'invalid_value'],
    ['evidence with an empty version', { state => 'open', evidence => {
        %$evidence, x => '' } }, 'invalid_value'],
    ['evidence with 256 bytes', { state => 'open', evidence => {
        %$evidence, journal => 'j' x 256 } }, 'invalid_value'],
    ['evidence with a control character', { state => 'open', evidence => {
        %$evidence, journal => "a\nb" } }, 'invalid_value'],
    ['evidence with an unknown field', { state => 'open', evidence => {
        %$evidence, z => '1' } }, 'unknown_field'],
    ['evidence with a number', { state => 'open', evidence => {
        %$evidence, x => 3 } }, 'invalid_type'],
    ['evidence that is a string', { state => 'open', evidence => 'yes' },
        'invalid_type'],
    ['state off', { state => 'off' }, 'invalid_value'],
    ['state OPEN', { state => 'OPEN', evidence => $evidence },
        'invalid_value'],
    ['state true', { state => \1 }, 'invalid_type'],
    ['no state', { evidence => $evidence }, 'missing_field'],
    ['unknown field', { state => 'closed', weight => 1 }, 'unknown_field'])
{
    my ($name, $body, $code) = @$case;

    my $got = unchanged($name, sub { gate($body) }, 400, {});
    if (ref $code) {
        like($got->{json}{code}, $code, "$name: code");
    } else {
        is($got->{json}{code}, $code, "$name: code");
    }
}

is(counts(), ALL_OLD, 'still all old');

is_json(gate({ state => 'open', evidence => $evidence }), 200,
    { state => 'open', evidence => $evidence }, 'evidence opens it');
is_json($t->api('GET', '/shifts/kong/gate'), 200,
    { state => 'open', evidence => $evidence }, 'and can be read again');
is(counts(), ALL_OLD, 'open at weight 0: still all old');
is(counts(headers => ['X-Pool: new']), ALL_NEW,
    'but an override now reaches new');

is_json($t->api('PUT', '/shifts/kong/weight', { new => 100 }), 200,
    { new => 100, effective => 100, aborted => JSON::PP::false },
    'now a weight is taken');
is(counts(), ALL_NEW, 'and obeyed');

ok($front->reload, 'reload');
is_json($t->api('GET', '/shifts/kong/gate'), 200,
    { state => 'open', evidence => $evidence }, 'still open after a reload');
is(counts(), ALL_NEW, 'and the weight in force');


# --- closing is an abort

is_json(gate({ state => 'closed' }), 200, { state => 'closed' }, 'close');
is(counts(), ALL_OLD, 'closed: all old at once');
is(counts(headers => ['X-Pool: new']), ALL_OLD, 'overrides included');
is_json($t->api('GET', '/shifts/kong/weight'), 200,
    { effective => 0, aborted => JSON::PP::true }, 'it counts as an abort');

is_json(gate({ state => 'open', force => \1, comment => 'I know' }), 200,
    { state => 'open', forced => JSON::PP::true, comment => 'I know' },
    'force with a comment opens it');
is(counts(headers => ['X-Pool: new']), ALL_OLD,
    'the abort still stands, overrides included');
is(counts(), ALL_OLD, 'no traffic returns by itself');

$t->weight(100);
is(counts(), ALL_NEW, 'the next weight ends the abort');


# --- abort with the gate open

$t->weight(0);
is(counts(headers => ['X-Pool: new']), ALL_NEW, 'weight 0: overrides pass');
is_json($t->api('POST', '/shifts/kong/abort'), 200,
    { effective => 0, aborted => JSON::PP::true }, 'abort');
is(counts(headers => ['X-Pool: new']), ALL_OLD, 'abort: overrides do not');
is_json($t->api('GET', '/shifts/kong/gate'), 200, { state => 'open' },
    'abort leaves the gate open');
is_json($t->api('POST', '/shifts/kong/abort', { comment => 'again' }), 200,
    { effective => 0, aborted => JSON::PP::true }, 'abort again');
$t->weight(0);
is(counts(headers => ['X-Pool: new']), ALL_NEW,
    'the next accepted weight, 0 included, ends the abort');


# --- across a restart

$t->weight(60);
gate({ state => 'closed', comment => 'night' });
ok($front->stop && $front->start, 'restart');
is_json($t->api('GET', '/shifts/kong/gate'), 200, { state => 'closed' },
    'a closed gate stays closed');
is(counts(), ALL_OLD, 'and holds');
ok($front->stop, 'stop');


# --- kong_shift_gate off

my $off = $t->front(name => 'off', extra => 'kong_shift_gate off;');
$off->start or BAIL_OUT($off->{start_output});

is_json($t->api('GET', '/shifts/kong/gate'), 200, { state => 'off' },
    'gate off: GET says so');
unchanged("gate off: PUT $_->{state}", sub { gate($_) }, 409,
    { code => 'gate_off' })
    for { state => 'open', evidence => $evidence }, { state => 'closed' };
is_json($t->api('PUT', '/shifts/kong/weight', { new => 100 }), 200,
    { effective => 100 }, 'gate off: a weight is taken');
is(counts(), ALL_NEW, 'and obeyed');

$t->finish;
