# Binary upgrade: two masters share the sockets, and the state by its file.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(time);

use KongShift;

my $t = KongShift->new;
$t->backend;

my $front = $t->front(workers => 2, weight => 5,
    state => $t->state_dir . '/state.json',
    extra => 'kong_shift_gate on; kong_shift_key $arg_k;');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

$t->put('gate', { state => 'open', force => \1, comment => 'test' });
$t->put('freeze', { state => 'on' });
$t->weight(30);

my $load = $t->start_load(conns => 4);
my $told = $t->snapshot;

$front->upgrade;
my @new = $front->workers;
my @old = KongShift::Nginx::workers_of($front->{old_master});

for ([old => @old], [new => @new]) {
    my ($name, @pids) = @$_;
    my $c = $t->connect_to('admin', @pids);
    is_deeply($t->snapshot_at($c), $told, "the $name binary has the state");
}

# the weight a binary obeys, seen from a connection to one of its workers
sub follows {
    my ($name, $to, $weight, $what) = @_;
    my $c = $t->connect_to('admin', @$to);
    my $began = time();

    retry_until(sub {
        $c->request('GET', '/shifts/kong/weight')->{json}{new} == $weight;
    }, 10);
    my $took = time() - $began;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    cmp_ok($took, '<', 1.5, sprintf '%s: followed after %.2f s', $name, $took);

    # every worker of it, by requests
    for my $pid (@$to) {
        my $f = $t->connect_to('front', $pid);
        my $r = $f->request('GET', '/?k=');
        is($r->{headers}{'x-weight'}, $weight, "$name: obeyed by a worker");
    }
}

my $gen = $told->{generation};
for my $case (['set at the old one', \@old, \@new, 40],
    ['set at the new one', \@new, \@old, 50],
    ['set at the old one again', \@old, \@new, 60])
{
    my ($name, $by, $to, $weight) = @$case;

    my $c = $t->connect_to('admin', @$by);
    my $r = $c->request('PUT', '/shifts/kong/weight',
        body => "{\"new\":$weight}");
    is_json($r, 200, { new => $weight, saved => JSON::PP::true }, $name);
    cmp_ok($r->{json}{generation}, '>', $gen, "$name: the generation rises");
    $gen = $r->{json}{generation};
    follows($name, $to, $weight);
}

# an old tag does not win because the other binary gave it
my $c_old = $t->connect_to('admin', @old);
my $c_new = $t->connect_to('admin', @new);
my $tag = $c_old->request('GET', '/shifts/kong')->{headers}{etag};
my %answers;
for my $i (1 .. 5) {
    my @r = map { $_->send($_->format_request('PUT', '/shifts/kong/weight',
        body => '{"new":' . (10 + $i) . '}', headers => ["If-Match: $tag"]));
        $_ } $c_old, $c_new;
    my @status = sort map { my $r = $_->response; $r ? $r->{status} : 'none' } @r;
    $answers{"@status"}++;
    wait_for('both to agree', sub {
        my @tags = map { $_->request('GET', '/shifts/kong')->{headers}{etag} }
            $c_old, $c_new;
        $tag = $tags[0];
        return $tags[0] eq $tags[1];
    });
}
is_deeply(\%answers, { '200 412' => 5 },
    'one tag, both binaries: one of two writers wins');

# an abort told to one binary is in force in both, whatever the other was told
# just before
for my $i (1 .. 6) {
    my ($puts, $by, $other) = ($i % 3, $i % 2 ? ($c_old, $c_new)
        : ($c_new, $c_old));

    $other->request('PUT', '/shifts/kong/weight', body => "{\"new\":$_}")
        for 20 .. 20 + $puts;
    is_json($by->request('POST', '/shifts/kong/abort'), 200,
        { aborted => JSON::PP::true, effective => 0 }, "abort $i: answered");
    my $seen = sub {
        return join ' ', map { my $j = $_->request('GET', '/shifts/kong')
            ->{json}; "$j->{aborted} $j->{weight}{new}" } $by, $other;
    };
    ok(retry_until(sub { $seen->() eq '1 0 1 0' }, 3),
        "abort $i: in force in both") or diag($seen->());

    # and stays so: as long as it takes either to look at the file again
    my $end = time() + 1.2;
    my $undone = '';
    while (time() < $end && !$undone) {
        $undone = $seen->() if $seen->() ne '1 0 1 0';
        select undef, undef, undef, 0.1;
    }
    is($undone, '', "abort $i: and stays");
}

# roll back: the new one goes, the old one has what the new one was told
$c_new = $t->connect_to('admin', @new);
$c_new->request('PUT', '/shifts/kong/weight', body => '{"new":70}');
$c_new->request('PUT', '/shifts/kong/freeze', body => '{"state":"off"}');
my ($new_master, $old_master) = ($front->{master}, $front->{old_master});
kill 'QUIT', $new_master;
ok($front->wait_gone($new_master, @new), 'roll back: the new binary leaves');
$front->{master} = $old_master;
delete $front->{old_master};
wait_for('the pid file', sub { $front->read_pid == $old_master });
ok(retry_until(sub { $t->snapshot->{weight}{new} == 70 }, 3),
    'roll back: the old one has the weight');
is($t->snapshot->{freeze}{state}, 'off', 'roll back: and the freeze');

# and forward again, this time for good
$front->upgrade;
$told = $t->snapshot;
ok($front->end_old_master, 'upgrade: the old binary leaves');
is_deeply($t->snapshot, $told, 'upgrade: nothing changed');
is($told->{weight}{new}, 70, 'upgrade: the weight is the last one set');
$t->weight(80);
ok($front->reload, 'upgrade: a reload of the new binary');
is($t->snapshot->{weight}{new}, 80, 'upgrade: and its weight');

# an upgrade that brings a shift the old binary does not know: neither loses
# what the other was told
$front->set($t->front_conf(weight => 5, http => 'upstream extra { kong_shift '
    . 'old=dp_old new=dp_new; }', extra => 'kong_shift_gate on; '
    . 'kong_shift_key $arg_k;'));
$front->upgrade;
@new = $front->workers;
@old = KongShift::Nginx::workers_of($front->{old_master});
$t->connect_to('admin', @new)->request('PUT', '/shifts/extra/weight',
    body => '{"new":33}');
$t->connect_to('admin', @old)->request('PUT', '/shifts/kong/weight',
    body => '{"new":44}');
$t->connect_to('admin', @new)->request('PUT', '/shifts/extra/weight',
    body => '{"new":34}');
$t->connect_to('admin', @old)->request('PUT', '/shifts/kong/weight',
    body => '{"new":45}');
my $r = $t->stop_load($load);
is($r->{failed}, 0, "load over all that: $r->{requests} requests, none failed,"
    . " $r->{stale} sent again") or diag("@{ $r->{errors} }");

kill 'STOP', $front->{old_master}, $front->{master};
kill 'KILL', $front->{old_master}, $front->{master}, @old, @new;
$front->wait_gone(delete $front->{old_master}, delete $front->{master}, @old,
    @new);
ok($front->start, 'start after kill -9 of both');
is($t->snapshot->{weight}{new}, 45, 'both binaries: what the old was told');
is($t->snapshot('extra')->{weight}{new}, 34,
    'both binaries: what the new was told');

ok($front->stop, 'stop');

# no state file: the new binary starts with weight=
my $bare = $t->front(name => 'bare', weight => 5);
ok($bare->start, 'without a state file: starts');
$t->weight(30);
$bare->upgrade;
ok($bare->end_old_master, 'without a state file: the old binary leaves');
is($t->snapshot->{weight}{new}, 5, 'without a state file: weight= counts');
$t->weight(31);
is($t->snapshot->{weight}{new}, 31, 'without a state file: changes are taken');

$t->finish;
