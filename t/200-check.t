# Active checks: which data planes are ready, and that only those get requests.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::DataPlane;

my $t = KongShift->new;
my %dp = map { $_ => KongShift::DataPlane->new($t, $_) } qw(old new);

my ($interval, $timeout) = (0.5, 0.4);

sub check {
    my ($pool, $more) = @_;
    return "kong_shift_check pool=$pool port=@{[ $dp{$pool}->port ]} "
        . "interval=500ms timeout=400ms fails=2 passes=2 @{[ $more // '' ]};\n";
}

sub events {
    my ($action) = @_;
    return map { $_->{comment} } grep { $_->{action} eq $action }
        @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
}


# --- an empty data plane: 404 to all, but it says that it is not ready

$dp{new}->set(status => 'not', traffic => 'none');

my $front = $t->front(workers => 2, weight => 50,
    extra => check('old') . check('new'));
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 200, new 0, failed 0', 'old takes it all at first');
ok($front->log_has(qr/new \S+ is not ready: 503: no configuration available/),
    'an empty data plane is told of');
$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 200, new 0, failed 0', 'and gets nothing');
is(scalar($dp{new}->requests), 0, 'not one request');

like($dp{new}->last_request,
    qr{\AGET /status/ready HTTP/1\.0\nHost: \S+:\d+\nUser-Agent: kong-shift\n},
    'what a check sends');

# --- ready

$dp{new}->set(status => 'ok', traffic => 'ok');
my $began = time();
wait_for('new', sub { $t->pool eq 'new' });
my $took = time() - $began;
cmp_ok($took, '<=', 2 * $interval + 0.3, sprintf 'ready after %.2f s', $took);

$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 100, new 100, failed 0', 'it has its share');

# --- and not any more

$dp{new}->set(status => 'blackhole');
$began = time();
wait_for('not ready', sub { grep { /timed out/ } events('peer') });
$took = time() - $began;
cmp_ok($took, '<=', 2 * $interval + $timeout + 0.3,
    sprintf 'not ready after %.2f s', $took);
my $n = $dp{new}->requests;
$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 200, new 0, failed 0', 'old has its share');
is(scalar($dp{new}->requests), $n, 'it gets nothing');


# --- a check that is wrong: old is used all the same

$dp{new}->set(status => 'ok');
wait_for('new', sub { $t->pool eq 'new' });
my $closed = $t->port('closed');
my $wrong = "kong_shift_check port=$closed interval=300ms;";
$front->set($t->front_conf(weight => 0, extra => $wrong), '');
ok($front->reload, 'a wrong port');

# both were ready before, so that each of them is dropped first
wait_for('fail_open', sub { events('fail_open') });
is((events('fail_open'))[-1], 'old has no ready peer and new may not take over, '
    . 'old is used as if it was not checked', 'it is told of');
$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 200, new 0, failed 0', 'all go to old');
$front->set($t->front_conf(weight => 30, extra => $wrong), '');
ok($front->reload, 'a weight');
$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 200, new 0, failed 0', 'with a weight too');
ok($front->stop, 'it stops');
ok($front->start, 'and starts with it');
my $from = time();
while (time() < $from + 2) {
    $r = $t->load(requests => 50, conns => 4);
    last if pool_counts($r) ne 'old 50, new 0, failed 0';
}
is(pool_counts($r), 'old 50, new 0, failed 0', 'all go to old all the time');

# old is dead indeed, and new may take over
$front->set($t->front_conf(weight => 10, extra => check('old') . check('new')),
    '');
ok($front->reload, 'the right ports');
wait_for('new', sub { $t->load(requests => 20)->{pool}{new} });
$dp{old}->set(status => 'not');
wait_for('fallback', sub { !$t->load(requests => 20)->{pool}{old} });
$n = $dp{old}->requests;
$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 0, new 200, failed 0', 'new takes all of old');
is($r->{failed}, 0, 'and no request fails');
is(scalar($dp{old}->requests), $n, 'old gets nothing');
like($t->get('/')->{headers}{'x-reason'}, qr/^(?:fallback|weight)$/, 'the reason');

# but not without a weight
$t->weight(0);
$r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 200, new 0, failed 0', 'weight 0: old is used at once');

$t->finish;
