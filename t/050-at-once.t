# A change is in force when it is answered: the first request after the answer
# obeys it in every worker, nothing is dropped and nothing reloads.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

use constant { FLIPS => 200, RELOADS => 20, FRESH => 50 };

my $t = KongShift->new;
$t->backend;

my $front = $t->front(workers => 4, state => $t->state_dir . '/state.json');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $load = $t->start_load(conns => 8);

# one PUT, then fresh connections: how many obey the old weight, how many fail
my (%worker, @slips, @failed);

sub flip {
    my ($i) = @_;
    my ($weight, $want) = $i % 2 ? (0, 'old') : (100, 'new');

    $t->weight($weight);
    my $r = $t->load(conns => FRESH, requests => FRESH);

    my $right = $r->{pool}{$want} // 0;
    push @slips, "flip $i" if $right != FRESH - $r->{failed};
    push @failed, @{ $r->{errors} } if $r->{failed};
    $worker{$_}++ for keys %{ $r->{worker} };
}

my $reloads = 0;

for my $i (0 .. FLIPS - 1) {
    flip($i);

    if ($i % (FLIPS / RELOADS) == 4) {
        $reloads += $front->reload;
    }
}

is_deeply(\@slips, [], FLIPS . ' flips: no fresh request obeyed the old weight');
is_deeply(\@failed, [], FLIPS . ' flips: no fresh request failed');
is($reloads, RELOADS, RELOADS . ' reloads between them');
cmp_ok(scalar keys %worker, '>=', 4 * RELOADS, 'every worker was asked');

# flips while the old and the new workers serve side by side
@slips = @failed = ();

for my $i (0 .. 9) {
    kill 'HUP', $front->master;
    flip($_) for 2 * $i, 2 * $i + 1;
}

is_deeply(\@slips, [], 'flips amid reloads: nothing obeyed the old weight');
is_deeply(\@failed, [], 'flips amid reloads: no fresh request failed');
ok($front->reload, 'the reloads settle');

my $r = $t->stop_load($load);
is($r->{failed}, 0, "load over the run: $r->{requests} requests, none failed,"
    . " $r->{stale} sent again on a fresh connection")
    or diag("@{ $r->{errors} }");
cmp_ok($r->{requests}, '>', 1000, 'there was load');

# a request under way stays where it is
my $slow = $t->connect;
$slow->send("GET /slow HTTP/1.1\r\nHost: a\r\n");
$t->weight(100);
$slow->send("\r\n");
like($slow->response->{body}, qr/^new /,
    'the pool is chosen when the request is complete');

# all kinds of change are at once
$t->weight(0);
for my $c (['PUT', 'weight', { new => 100 }, 'new'],
    ['PUT', 'weight', { new => 0 }, 'old'],
    ['PUT', 'weight', { old => 0, new => 100 }, 'new'],
    ['POST', 'abort', undef, 'old'])
{
    my ($method, $what, $body, $want) = @$c;

    my $a = $t->api($method, "/shifts/kong/$what", $body);
    is($a->{status}, 200, "$method $what");
    is(pool_counts($t->load(conns => FRESH, requests => FRESH)),
        pool_counts({ pool => { $want => FRESH }, failed => 0 }),
        "$method $what is obeyed at once");
}

$t->finish;
