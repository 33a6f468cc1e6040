# A restart of nginx while the new pool has all of the weight, and old is gone.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;
use KongShift::DataPlane;

my $t = KongShift->new;
my %dp = map { $_ => KongShift::DataPlane->new($t, $_) } qw(old new);

my $state = $t->state_dir . '/restart.json';
my %conf = (weight => 0, state => $state,
    extra => 'kong_shift_check interval=3s timeout=1s fails=3 passes=3;');
my $front = $t->front(workers => 2, %conf);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub ready {
    return $t->api('GET', '/shifts/kong/pools/new')->{json}{ready};
}

# a weight that was never set at run time does not vouch for new
is(ready(), 0, 'new has to pass first');
wait_for('new', sub { ready() == 1 });
$t->weight(100);
$dp{old}->stop;

ok($front->stop && $front->start, 'a restart');
my $r = $t->load(requests => 200, conns => 4);
is(pool_counts($r), 'old 0, new 200, failed 0', 'new goes on at once');

# but its first check decides
$dp{new}->set(status => 'not');
ok($front->stop && $front->start, 'a restart while new is not ready');
wait_for('not ready', sub { ready() == 0 });
ok($front->error_log =~ /kong_shift "kong": new \S+ is not ready/, 'the log says so');

$dp{new}->set(status => 'ok');
wait_for('new', sub { ready() == 1 });

$t->finish;
