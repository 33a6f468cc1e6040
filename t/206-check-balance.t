# Every balancing method honours what the checks find, and a slow start gives a
# peer its share little by little.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::DataPlane;

my $t = KongShift->new;
my %dp = map { $_ => KongShift::DataPlane->new($t, $_) }
    qw(old new1 new2 new3 spare);

my $three = join ' ', map { 'server ' . $dp{$_}->addr . ';' } qw(new1 new2 new3);
my ($n1, $n2, $sp) = map { 'server ' . $dp{$_}->addr } qw(new1 new2 spare);

# name => pool
my %pool = (
    rr => $three,
    least => "least_conn; $three",
    hash => "hash \$arg_k; $three",
    ring => "hash \$arg_k consistent; $three",
    ip => "ip_hash; $three",
    random => "random; $three",
    two => "random two; $three",
    leasttwo => "random two least_conn; $three",
    plain => $three,
    backup => "$n1; $n2; $sp backup;",
    leastbackup => "least_conn; $n1; $n2; $sp backup;",
    single => "$n1;",
    weights => join(' ', map { 'server ' . $dp{"new$_"}->addr . " weight=$_;" }
        1 .. 3),
);

my ($ups, $locs) = ('', '');
for (sort keys %pool) {
    my $p = $pool{$_};
    $p .= ' keepalive 16;' if $_ ne 'plain';
    $ups .= <<"EOC";
    upstream new_$_ { zone new_$_ 256k; $p }
    upstream s_$_ {
        kong_shift old=dp_old new=new_$_ weight=100;
        kong_shift_check pool=new interval=1s;
    }
EOC
    $locs .= "        location /$_ { proxy_pass http://s_$_; "
        . "proxy_http_version 1.1; proxy_set_header Connection ''; }\n";
}

my $front = $t->front(workers => 2, http => $ups, server => $locs);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub used {
    my ($name) = @_;
    my $r = $t->load(uri => sub { "/$name?k=$_[0]" }, requests => 120,
        conns => 4);

    return join ' ', sort(keys %{ $r->{pool} }),
        $r->{failed} ? "failed $r->{failed}" : ();
}

sub is_used {
    my ($name, $want, $what) = @_;
    my $got;

    retry_until(sub { ($got = used($name)) eq $want }, 10);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($got, $want, "$name: $what");
}

my @all = sort grep { !/backup|single/ } keys %pool;

# ip_hash has one client here
is_used($_, 'new1 new2 new3', 'all') for grep { $_ ne 'ip' } @all;
like(used('ip'), qr/^new\d$/, 'ip: one');
is_used('single', 'new1', 'the only one');
is_used($_, 'new1 new2', 'no backup') for qw(backup leastbackup);

# the one that ip_hash likes best goes
my ($best) = used('ip') =~ /(\d)/;
my $rest = join ' ', map { "new$_" } grep { $_ != $best } 1 .. 3;
$dp{"new$best"}->set(status => 'not');
is_used($_, $rest, 'one is not ready') for grep { $_ ne 'ip' } @all;
retry_until(sub { used('ip') ne "new$best" }, 10);
isnt(used('ip'), "new$best", 'ip: another one');
my $n = $dp{"new$best"}->requests;
used($_) for @all;
is(scalar($dp{"new$best"}->requests), $n, 'it gets nothing more');

$dp{new1}->set(status => 'not');
$dp{new2}->set(status => 'not');
$dp{new3}->set(status => 'ok');
is_used($_, 'new3', 'two are not ready') for @all;
is_used('single', 'old', 'it is not ready');
is_used($_, 'spare', 'the backup') for qw(backup leastbackup);
$dp{new3}->set(status => 'not');
$dp{spare}->set(status => 'not');
is_used($_, 'old', 'none is ready') for sort keys %pool;
$dp{$_}->set(status => 'ok') for keys %dp;
is_used($_, 'new1 new2 new3', 'all again') for grep { $_ ne 'ip' } @all;
is_used($_, 'new1 new2', 'no backup') for qw(backup leastbackup);

# exactly as nginx does it
my $r = $t->load(uri => '/weights', requests => 600, conns => 1);
is_deeply($r->{pool}, { new1 => 100, new2 => 200, new3 => 300 }, 'weights');


# --- slow start

my $slow = 6;
for my $method ('', 'least_conn; ') {
    my $name = $method ? 'least_conn' : 'round robin';

    $dp{new2}->set(status => 'not');
    my $conf = sub { $t->front_conf(weight => 100, pools => <<"EOC", @_) };
    upstream dp_old { zone dp_old 64k; server @{[ $dp{old}->addr ]}; }
    upstream dp_new { zone dp_new 256k; $method $n1; $n2 weight=2; keepalive 8; }
EOC
    my $check = "kong_shift_check pool=new interval=200ms slow_start=${slow}s;";
    $front->set($conf->(extra => 'kong_shift_check pool=new interval=200ms;'), '');
    ok($front->reload, "$name: a reload");
    retry_until(sub { $t->pool eq 'new1' });

    # it is ready long before the next one is
    $front->set($conf->(extra => $check =~ s/\d+s;/0;/r), '');
    ok($front->reload, "$name: another reload");
    $front->set($conf->(extra => $check), '');
    ok($front->reload, "$name: slow_start=");
    sleep 0.1 + $slow;
    is($t->load(requests => 50)->{pool}{new1}, 50, "$name: one is ready");

    my %n = map { $_ => scalar $dp{$_}->requests } qw(new1 new2);
    my $load = $t->start_load(conns => 1);
    $dp{new2}->set(status => 'ok');
    retry_until(sub { $dp{new2}->requests > $n{new2} });
    my $began = ($dp{new2}->requests)[$n{new2}];

    # a reload on the way does not begin anew, nor give it all at once
    sleep $slow / 2;
    ok($front->reload, "$name: a reload on the way");
    sleep $slow / 2 + 2;
    my $res = $t->stop_load($load);
    is($res->{failed}, 0, "$name: no request fails");

    my %time;
    $time{$_} = [map { $_ - $began } $dp{$_}->requests] for qw(new1 new2);

    # percent of its own in that part of the slow start
    my $share = sub {
        my ($from, $to) = map { $_ * $slow } @_;
        my ($one, $two) = map { my $l = $_;
            scalar grep { $_ >= $from && $_ < $to } @$l } @time{qw(new1 new2)};
        return 100 * $two / ($one + $two || 1);
    };

    # weight 2 * x against 1
    for ([0, 1/6], [1/6, 2/6], [2/6, 3/6], [4/6, 5/6], [5/6, 1], [1.05, 1.3]) {
        my ($from, $to) = @$_;
        my $x = ($from + $to) / 2;
        $x = 1 if $x > 1;
        my $want = 100 * 2 * $x / (1 + 2 * $x);
        my $got = $share->($from, $to);

        cmp_ok(abs($got - $want), '<=', 12, sprintf '%s: %.0f %% of the time: '
            . '%.1f %% of the requests (%.1f)', $name, 100 * $x, $got, $want);
    }
}

$t->finish;
