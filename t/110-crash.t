# Workers that are killed, stopped or die while they write: nothing hangs,
# nothing is lost that was answered, and the split stays exact.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(time);

use KongShift;

my $t = KongShift->new;
$t->backend;

my $file = $t->state_dir . '/state.json';
my $front = $t->front(workers => 3, weight => 10, state => $file);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

# a change must work again soon after whatever happened
sub writes_again {
    my ($name, $limit) = @_;
    my $began = time();
    my $weight = 1 + int rand 99;
    my %refused;

    my $ok = retry_until(sub {
        my $r = $t->api('PUT', '/shifts/kong/weight', { new => $weight });
        $refused{ $r ? $r->{status} : 'none' }++ if !$r || $r->{status} != 200;
        return $r && $r->{status} == 200;
    }, $limit // 20);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($ok, sprintf '%s: a change is taken after %.1f s', $name,
        time() - $began) or diag(explain(\%refused));
    is($t->snapshot->{weight}{new}, $weight, "$name: and is in force");
}


# --- killed while they serve

my $load = $t->start_load(conns => 8);
for my $i (1 .. 20) {
    my @w = $front->workers;
    $front->kill_worker($w[$i % @w]);
}
my $r = $t->stop_load($load);

# what a killed worker had in hand is lost, and not more
cmp_ok($r->{failed}, '<=', 20 * 8, "20 workers killed: $r->{failed} of "
    . "$r->{requests} requests lost");
cmp_ok($r->{requests} - $r->{failed}, '>', 100, 'the others were answered');
writes_again('killed while they serve');

$t->weight(10);
$r = $t->load(requests => 3000, conns => 12);
is($r->{failed}, 0, 'then no request fails');
cmp_ok(abs($r->{pool}{new} - 300), '<=', 1, 'and the split is exact');


# --- killed while they write: writers in processes of their own

sub writer {
    my ($n) = @_;

    pipe my $out, my $in or die;
    my $pid = fork // die;
    return [$pid, $out] if $pid;

    my ($best, $last) = (0, 0);
    my $end = time() + 60;
    while (time() < $end && getppid() == $t->{pid} && !-e "$t->{dir}/enough") {
        my $w = 1 + int rand 99;
        my $a = $t->api('PUT', '/shifts/kong/weight', { new => $w });
        next if !$a || $a->{status} != 200;
        ($best, $last) = ($a->{json}{generation}, $w)
            if $a->{json}{generation} > $best;
    }
    syswrite $in, "$best $last";
    POSIX::_exit(0);
}

$t->{pid} = $$;
my @writers = map { writer($_) } 1 .. 4;
for my $i (1 .. 25) {
    my @w = $front->workers;
    $front->kill_worker($w[$i % @w]) if @w;
}
write_file("$t->{dir}/enough", '');

# the newest change that anybody was told of
my ($best, $last) = (0, 0);
for (@writers) {
    my ($pid, $out) = @$_;
    waitpid $pid, 0;
    my ($g, $w) = split ' ', do { local $/; readline $out } // '0 0';
    ($best, $last) = ($g, $w) if $g > $best;
}
cmp_ok($best, '>', 1, "changes were taken amid 25 kills, up to generation $best");

my $now = $t->snapshot;
cmp_ok($now->{generation}, '>=', $best, 'no answered change was lost');
is($now->{weight}{new}, $last, 'the last one is in force')
    if $now->{generation} == $best;

writes_again('killed while they write');
$now = $t->snapshot;
ok(from_json(read_file($file)), 'the state file is whole');

$front->kill_all;
ok($front->start, 'start after kill -9 of all');
is_deeply($t->snapshot, $now, 'all as answered');
opendir my $dh, $t->state_dir or die;
cmp_ok(scalar(grep { !/^\./ } readdir $dh), '<=', 2,
    'killed writers left at most one temporary file');


# --- stopped in the middle of a write: the others answer in time, an abort is
# --- never refused, and the one that comes back does no harm

for my $i (1 .. 3) {
    my @w = $front->workers;
    my $victim = $w[0];
    my $c = $t->connect_to('admin', $victim);
    my $other = $t->connect_to('admin', @w[1, 2]);
    my $f = $t->connect_to('front', @w[1, 2]);
    my $began = time();

    $c->send($c->format_request('PUT', '/shifts/kong/weight',
        body => '{"new":11}'));
    kill 'STOP', $victim;

    # the stopped worker may hold what a writer needs, or be done, or not begun
    my $r = $other->request('PUT', '/shifts/kong/weight', body => '{"new":22}');
    my $status = $r ? $r->{status} : 'none';
    like($status, qr/^(?:200|503|507)$/, "a stopped writer: another one is "
        . "answered ($status)");

    $r = $other->request('POST', '/shifts/kong/abort');
    is_json($r, 200, { new => 0, aborted => JSON::PP::true },
        'a stopped writer: an abort is done');
    cmp_ok(time() - $began, '<', 20, 'a stopped writer: soon enough');
    my $abort = $r->{json}{generation};
    is($f->request('GET', '/')->{headers}{'x-pool'}, 'old',
        'a stopped writer: and obeyed');

    kill 'CONT', $victim;
    $r = $c->response;
    my $now = $t->snapshot_at($other);
    my $late = $r && $r->{status} == 200 && $r->{json}{generation} > $abort;
    is($now->{weight}{new}, $late ? 11 : 0,
        'a stopped writer: what counts is the newest generation answered');

    writes_again('a stopped writer');
    $now = $t->snapshot;
    $front->kill_all;
    $front->start;
    is_deeply($t->snapshot, $now, 'a stopped writer: the file is no older');
}


# --- killed one by one while they reload

for my $i (1 .. 5) {
    my @w = $front->workers(1);
    kill 'HUP', $front->master;
    kill 'KILL', $w[$i % @w];
    wait_for('new workers', sub { my @n = $front->workers;
        my %old = map { $_ => 1 } @w;
        return @n == 3 && !grep { $old{$_} } @n });
}
writes_again('killed while they reload');
is($t->load(requests => 200, conns => 10)->{failed}, 0, 'no request fails');

# nginx itself opens the mutex of a worker killed while it held it
$t->finish(qr/exited on signal 9/, qr/was locked by/);
