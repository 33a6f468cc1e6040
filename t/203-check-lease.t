# The worker that checks: killed, stopped, reloaded, told to quit.

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

my $interval = 0.5;
my %conf = (weight => 50, extra => 'kong_shift_check interval=500ms fails=3;');
my $front = $t->front(workers => 3, %conf);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub peer_events {
    return scalar grep { $_->{action} eq 'peer' }
        @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
}

sub all_ready {
    my ($name) = @_;
    my $r = $t->load(requests => 100, conns => 4);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(pool_counts($r), 'old 50, new 50, failed 0', $name);
}

# the worker that told of the last change
sub checker {
    my $mode = $dp{new}{mode}{status} eq 'ok' ? 'not' : 'ok';
    my $n = peer_events();

    $dp{new}->set(status => $mode);
    wait_for('a change', sub { peer_events() > $n });
    my @pids = $front->error_log =~ /(\d+)#\d+: kong_shift "kong": new/g;

    $dp{new}->set(status => 'ok');
    wait_for('ready', sub { $t->pool eq 'new' });
    return $pids[-1];
}

# the longest that nobody checked, since then
sub gap {
    my ($since) = @_;
    my ($max, $last) = (0, $since);

    for my $time (grep { $_ > $since } $dp{old}->checks) {
        $max = $time - $last if $time - $last > $max;
        $last = $time;
    }

    return $max;
}

wait_for('new', sub { $t->pool eq 'new' });
all_ready('both are ready');


# --- killed

my @checkers = checker();
my $began = time();
kill 'KILL', $checkers[0];
wait_for('checks', sub { $dp{old}->checks && ($dp{old}->checks)[-1] > $began + 1 });
cmp_ok(gap($began), '<=', 3 + $interval, sprintf 'killed: taken over, the longest gap is '
    . '%.2f s', gap($began));
all_ready('killed: what was known is kept');


# --- stopped

$front->wait_workers;
push @checkers, checker();
isnt($checkers[1], $checkers[0], 'another one checks');

my $n = peer_events();
$began = time();
kill 'STOP', $checkers[1];
wait_for('checks', sub { ($dp{old}->checks)[-1] > $began + 2 });
cmp_ok(gap($began), '<=', 3 + $interval, sprintf 'stopped: taken over, the longest gap is '
    . '%.2f s', gap($began));

# what it had under way when it was stopped is long over
$dp{$_}->set(status => 'blackhole') for qw(old new);
kill 'CONT', $checkers[1];
sleep 0.1;
$dp{$_}->set(status => 'ok') for qw(old new);
sleep 1;
is(peer_events(), $n, 'one that comes back does no harm');

# and not both check
$began = time();
sleep 3;
my $checks = grep { $_ > $began } $dp{old}->checks;
cmp_ok($checks, '<=', 3 / $interval + 2, "one worker checks: $checks checks");
cmp_ok($checks, '>=', 3 / $interval / 2, 'and does so');
all_ready('all are ready');


# --- reload

$n = peer_events();
my $load = $t->start_load(conns => 4);
$began = time();
for (1 .. 12) {
    ok($front->reload, 'reload') or diag($front->error_log);
}
my $r = $t->stop_load($load);
$checks = grep { $_ > $began } $dp{new}->checks;
my $took = time() - $began;

is(peer_events(), $n, 'a storm of reloads: nothing changes');
is($r->{failed}, 0, 'no request fails');
cmp_ok(abs($r->{pool}{new} - $r->{pool}{old}), '<=', $r->{requests} / 50 + 12,
    'both pools are used all the time') or diag(explain($r));
cmp_ok($checks, '<=', $took / $interval + 3,
    sprintf '%d checks in %.1f s', $checks, $took);
cmp_ok(gap($began), '<=', 3 + $interval, sprintf 'the longest gap is %.2f s', gap($began));

$dp{new}->set(status => 'not');
wait_for('not ready', sub { peer_events() > $n });
$n = peer_events();
for my $zone ('2m', '3m', 'auto') {
    $front->set($t->front_conf(%conf), $t->front_main(zone => $zone));
    ok($front->reload, "another zone: $zone");
    is($t->load(requests => 40)->{pool}{old}, 40,
        'a peer that was not ready is not so afterwards');
}
is(peer_events(), $n, 'another zone: nothing changes');
$dp{new}->set(status => 'ok');
wait_for('new', sub { $t->pool eq 'new' });

# a configuration without checks, and with them again
$front->set($t->front_conf(weight => 50), '');
ok($front->reload, 'no checks');
$dp{new}->set(status => 'not');
sleep 1;
$began = time();
sleep 1;
is(scalar(grep { $_ > $began } $dp{new}->checks), 0, 'are made');
all_ready('and all is as without');
$front->set($t->front_conf(%conf), '');
ok($front->reload, 'checks again');
is($t->load(requests => 40)->{pool}{old}, 40, 'new is not ready at first');
$dp{new}->set(status => 'ok');
wait_for('new', sub { $t->pool eq 'new' });
all_ready('then it is');


# --- quit, with checks under way that would take a minute

$dp{$_}->set(status => 'blackhole') for qw(old new);
my %slow = (%conf, extra => 'kong_shift_check interval=1m timeout=1m;');
$front->set($t->front_conf(%slow), '');
ok($front->reload, 'slow checks');
my $pending = sub { my $m = $dp{new}->checks;
    wait_for('a check', sub { $dp{new}->checks > $m }) };
ok($front->stop, 'nginx stops');
ok($front->start, 'and starts');
wait_for('a check', sub { $dp{new}->checks && ($dp{new}->checks)[-1] > $began });
$began = time();
ok($front->reload, 'reload with a check under way');
wait_for('the old workers to be gone', sub { $front->workers(1) == 3 });
cmp_ok(time() - $began, '<', 5, 'workers on their way out do not wait');
$began = time();
ok($front->stop('QUIT'), 'QUIT');
cmp_ok(time() - $began, '<', 5, 'is obeyed at once');
unlike($front->error_log, qr/open socket/, 'no socket is left open');


# --- one process

$dp{$_}->set(status => 'ok') for qw(old new);
$front->{workers} = 0;
$front->set($t->front_conf(%conf), 'master_process off;');
ok($front->start, 'one process') or diag($front->{start_output});
wait_for('new', sub { $t->pool eq 'new' });
all_ready('one process: it checks');
$dp{new}->set(status => 'not');
$n = peer_events();
wait_for('not ready', sub { $t->load(requests => 10)->{pool}{old} == 10 });
is(scalar(grep { ($_ // '') eq 'new' } @{ $t->load(requests => 20)->{order} }), 0,
    'one process: it finds out');
$began = time();
ok($front->stop('QUIT'), 'one process: it stops');
cmp_ok(time() - $began, '<', 5, 'at once');

$t->finish(qr/exited on signal 9/, qr/was locked by/);
