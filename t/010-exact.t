# Without a key the split is exact: any N choices in a row hold N * weight +-1
# new ones, over all workers together.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use List::Util qw(sum0);
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my %total = (old => 0, new => 0);

sub load {
    my $r = $t->load(@_);
    $total{$_} += $r->{pool}{$_} // 0 for keys %total;

    return $r;
}

# the largest distance of any window from its share, in requests
sub worst_window {
    my ($order, $weight, @sizes) = @_;
    my ($worst, @sum) = (0, 0);

    push @sum, $sum[-1] + ($_ eq 'new') for @$order;

    for my $n (@sizes) {
        for my $i (0 .. @$order - $n) {
            my $off = abs($sum[$i + $n] - $sum[$i] - $n * $weight / 100);
            $worst = $off if $off > $worst;
        }
    }

    return $worst;
}


# --- one worker, one connection: the order itself

my $one = $t->front(name => 'one', weight => 10);
ok($one->start, 'one worker starts') or BAIL_OUT($one->{start_output});

my $r = load(requests => 1000);
is($r->{failed}, 0, 'no failure');
is(worst_window($r->{order}, 10, 10), 0, 'every 10 in a row hold exactly 1');

for ([30, 10, 0], [12.5, 8, 0], [50, 2, 0], [99, 100, 0], [33.3333, 3, 1]) {
    my ($weight, $n, $off) = @$_;

    $t->weight($weight);
    $r = load(requests => 500);
    cmp_ok(worst_window($r->{order}, $weight, $n), '<=', $off + 1e-3,
        "weight $weight: every $n in a row");
    cmp_ok(worst_window($r->{order}, $weight, 1 .. 100), '<=', 1 + 1e-6,
        "weight $weight: any window of 1 to 100");
}

for ([0, 'old 200, new 0, failed 0'], [100, 'old 0, new 200, failed 0']) {
    my ($weight, $want) = @$_;

    $t->weight($weight);
    is(pool_counts(load(requests => 200)), $want, "weight $weight");
}

# the smallest weight that has an effect in 100,000 requests
$t->weight(0.01);
$r = load(requests => 100_000, conns => 4, pipeline => 250);
is($r->{failed}, 0, 'weight 0.01: no failure');
cmp_ok(abs($r->{pool}{new} // 0) - 10, '<=', 1,
    'weight 0.01: 100,000 requests hold at most 11');
cmp_ok($r->{pool}{new} // 0, '>=', 9,
    'weight 0.01: 100,000 requests hold at least 9');

# what one weight left over is not lost, and not invented, by the next one
my @steps = map { [(10, 0.5, 33.3333, 0, 90, 12.5, 100, 50)[$_ % 8],
    17 + 13 * $_] } 0 .. 39;
my ($want, $got) = (0, 0);

for (@steps) {
    my ($weight, $n) = @$_;

    $t->weight($weight);
    $r = load(requests => $n);
    $want += $n * $weight / 100;
    $got += $r->{pool}{new} // 0;
}

cmp_ok(abs($got - $want), '<=', scalar @steps,
    '40 changes: the sum is within 1 per change');

ok($one->stop, 'one worker stops');


# --- four workers, 64 keepalive connections

my $four = $t->front(name => 'four', workers => 4, weight => 10);
ok($four->start, 'four workers start') or BAIL_OUT($four->{start_output});

$r = load(requests => 10_000, conns => 64);
is($r->{failed}, 0, '10,000 requests: no failure');
is(scalar keys %{ $r->{worker} }, 4, 'every worker took part');
cmp_ok(abs($r->{pool}{new} - 1000), '<=', 1,
    "10,000 requests at weight 10: 1,000 new ones ($r->{pool}{new})");

($want, $got) = (0, 0);
for my $weight (1, 25, 50, 0.1, 75, 99.9, 10) {
    $t->weight($weight);
    $r = load(requests => 1000, conns => 64);
    cmp_ok(abs(($r->{pool}{new} // 0) - 10 * $weight), '<=', 1,
        "weight $weight: 1,000 requests over all workers");
    $want += 10 * $weight;
    $got += $r->{pool}{new} // 0;
}
cmp_ok(abs($got - $want), '<=', 7, 'the sum over the changes is within 7');

# what the client counted is what the pools saw
my %port = map { $t->port($_) => $_ } qw(old new);
my %seen = (old => 0, new => 0);
$seen{ $port{$_} }++ for map { /^(\d+) / } $t->{backend}->access_log(
    sum0 values %total);
is_deeply(\%seen, \%total, 'the pools saw what the client counted');

$t->finish;
