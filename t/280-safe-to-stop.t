# "Safe to stop" against data planes that know what they have in hand: rounds of
# weight, drain, abort under load with rescues; it is never said before the last
# request of the pool has ended, and none comes afterwards.
#
# KONG_SHIFT_LONG=1: 200 rounds.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::Planes;

my $rounds = $ENV{KONG_SHIFT_ROUNDS} // ($ENV{KONG_SHIFT_LONG} ? 200 : 20);

my $t = KongShift->new;
my $planes = KongShift::Planes->new($t);
$planes->start($planes->names);

# without max_fails every try is made, so that there are rescues all the time
my $front = $t->front(workers => 4,
    pools => join("\n", map { my $p = $_; <<"EOC" } qw(old new)),
    upstream dp_$p { zone dp_$p 128k; keepalive 32;
        @{[ $planes->servers($p, 'listen', 'max_fails=0') ]} }
EOC
    shift => 'kong_shift old=dp_old new=dp_new weight=50;',
    http => <<'EOC',
    access_log off;
    proxy_next_upstream_tries 2;
EOC
);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

$planes->mode($_, 'flaky') for $planes->names;

# requests of 0 to 60 ms, on connections that stay with their worker
my $load = $t->start_load(conns => 24, uri => sub {
    sprintf '/sleep/0.0%02d', $_[0] * 7 % 61 });

# one connection to each worker: what one knows another one may not
my @asks = map { $t->connect_to('admin', $_) } $front->workers;

my ($asked, $early, $later, $stuck, $delays) = (0, 0, 0, 0, 0);
my %refused;

for my $round (1 .. $rounds) {
    my $pool = $round % 3 ? 'old' : 'new';

    $t->weight(50);
    sleep 0.1 + rand 0.2;

    # the weight goes away, and the drain comes, each at any moment
    $t->weight($pool eq 'old' ? 100 : 0);
    sleep rand 0.02 if $round % 2;
    my $r = $t->api('POST', "/shifts/kong/pools/$pool/drain", {});
    $r->{status} == 200 or die "drain: $r->{status} $r->{body}";

    my $began = time();
    my $safe = 0;
    while (time() < $began + 20) {
        my $c = $asks[$asked++ % @asks];
        $r = $c->request('GET', "/shifts/kong/pools/$pool/safe_to_stop");
        if ($r->{status} == 200) {
            $safe = time();
            last;
        }
        $refused{ join ' ', @{ $r->{json}{reasons} } }++;
    }

    if (!$safe) {
        $stuck++;
        diag("round $round: $r->{body}");
        next;
    }
    $delays += $safe - $began;

    # whatever a plane had in hand had ended by then, and nothing comes
    my %s = map { $_ => $planes->control($_) }
        grep { $planes->{plane}{$_}{pool} eq $pool } $planes->names;
    for (keys %s) {
        next if $s{$_}{inflight} == 0 && $s{$_}{ended} <= $safe;
        $early++;
        diag("round $round: at $safe ", explain($s{$_}));
    }

    sleep 0.05;
    for (keys %s) {
        my $now = $planes->control($_);
        next if $now->{requests} == $s{$_}{requests};
        $later++;
        diag("round $round: $_ had $s{$_}{requests}, now $now->{requests}");
    }

    # every second drain is lifted by hand, the others by an abort
    $r = $round % 2 ? $t->api('POST', '/shifts/kong/abort')
        : $t->api('DELETE', "/shifts/kong/pools/$pool/drain");
    $r->{status} == 200 or die "lift: $r->{status} $r->{body}";
}

my $res = $t->stop_load($load);

is($early, 0, "$rounds rounds: never said while a request was in hand");
is($later, 0, 'no request came afterwards');
is($stuck, 0, sprintf 'it was said at last, after %.3f s on average',
    $delays / $rounds);
cmp_ok($refused{active} // 0, '>', $rounds, 'it was refused before, '
    . "$refused{active} times for what was under way");
cmp_ok($res->{requests}, '>', $rounds * 10, "amid $res->{requests} requests");

# at rest nothing is counted
$planes->mode($_, 'ok') for $planes->names;
ok(retry_until(sub {
    for my $p (qw(old new)) {
        my $r = $t->api('GET', "/shifts/kong/pools/$p");
        return 0 if $r->{json}{active} || $r->{json}{long_lived};
    }
    return 1;
}, 10), 'nothing is active at rest');

$t->finish;
