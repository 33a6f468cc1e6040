# Data planes that fail in every way, under constant load, with one of the four
# left: no client sees it.  What is not ready gets no request, in the time that
# was promised, and is used again in the time that was promised.
#
# KONG_SHIFT_LONG=1 breaks every set of planes that leaves one, in every way.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use List::Util qw(max min);
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::Planes;

# of the check, in seconds; and how late a busy machine may be on top
my ($interval, $timeout, $fails, $passes) = (0.8, 0.6, 2, 2);
my $late = $ENV{KONG_SHIFT_LATE} // 1.5;

my $leaves = $interval * $fails + $timeout;
my $returns = $interval * $passes;

my $t = KongShift->new;
my $planes = KongShift::Planes->new($t);
my @all = $planes->names;

# both ways to ask a data plane, and TLS beside plain
sub tls_cert {
    my $dir = $t->dir;

    system("openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=plane "
        . "-addext subjectAltName=DNS:plane -keyout $dir/key.pem "
        . "-out $dir/cert.pem >$dir/openssl.log 2>&1") == 0
        or die 'no certificate';
    @$planes{qw(cert key)} = ("$dir/cert.pem", "$dir/key.pem");
    chmod 0644, $planes->{key};
}

tls_cert();
$planes->start(@all);

my $check = "interval=${\($interval * 1000)}ms timeout=${\($timeout * 1000)}ms "
    . "fails=$fails passes=$passes min_ready=50%";

my $front = $t->front(
    workers => 4,
    pools => join("\n", map { my $p = $_; <<"EOC" } qw(old new)),
    upstream dp_$p { zone dp_$p 128k; @{[ $planes->servers($p) ]} keepalive 32; }
    upstream tls_$p { zone tls_$p 128k; keepalive 32;
        @{[ $planes->servers($p, 'listen-tls') ]} }
EOC
    shift => "kong_shift old=dp_old new=dp_new weight=50; "
        . "kong_shift_check port=$planes->{port}{status} uri=/status/ready "
        . "$check;",
    http => <<"EOC",
    log_format chaos '\$msec \$request_time \$status \$kong_shift_pool '
                     '\$kong_shift_reason \$kong_shift_rescued \$upstream_addr';
    access_log logs/access.log chaos;
    proxy_connect_timeout 500ms;
    proxy_read_timeout 800ms;
    upstream tls { kong_shift old=tls_old new=tls_new weight=50;
        kong_shift_check port=$planes->{port}{'status-tls'} uri=/status/ready
            ssl=on ssl_name=plane
            ssl_trusted_certificate=$planes->{cert} $check; }
EOC
    server => <<"EOC",
        location /tls/ {
            proxy_pass https://tls;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_ssl_name plane;
            proxy_ssl_verify on;
            proxy_ssl_trusted_certificate $planes->{cert};
            add_header X-Pool \$kong_shift_pool always;
        }
EOC
);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub all_ready {
    my ($shift) = @_;
    my $ready = 0;

    for my $pool (qw(old new)) {
        my $r = $t->api('GET', "/shifts/$shift/pools/$pool");
        $ready += $r->{json}{ready} if $r && $r->{status} == 200;
    }

    return $ready == @all;
}

sub wait_ready {
    my ($shift) = @_;

    return retry_until(sub { all_ready($shift) },
        4 * ($leaves + $returns) + 5 * $late);
}

ok(wait_ready($_), "all planes of \"$_\" are ready") for qw(kong tls);


# --- faults

my %break = map { my $mode = $_;
    ($mode => sub { $planes->mode($_[0], $mode) }) }
    qw(blackhole slow reset tls draining);
$break{kill} = sub { $planes->signal($_[0], 'KILL') };
$break{stop} = sub { $planes->signal($_[0], 'STOP') };

my %mend = map { $_ => sub { $planes->mode($_[0], 'ok') } }
    qw(blackhole slow reset tls draining);
$mend{kill} = sub { $planes->start($_[0]) };
$mend{stop} = sub { $planes->signal($_[0], 'CONT') };

# requests as nginx logged them since a line: [began, ended, status, addresses]
my $seen = 0;
sub logged {
    my @lines = $front->access_log(0);

    return map {
        my ($msec, $took, $status, undef, undef, undef, $addr) = split ' ', $_, 7;
        [ $msec - $took, $msec, $status, $addr // '' ];
    } @lines[$seen .. $#lines];
}

my (@left, @returned);

# one fault of some planes, from before it begins until it is over
sub fault {
    my ($name, $shift, @victims) = @_;
    my $what = "$name of @victims";
    my $port = $shift eq 'tls' ? 'listen-tls' : 'listen';
    my %addr = map { $_ => $planes->at($_, $port) } @victims;

    $seen = () = $front->access_log(0);
    my $load = KongShift::Planes::start_load($t, '--rate', 150,
        '--connections', 24, '--path', $shift eq 'tls' ? '/tls/x' : '/x');
    sleep 0.5;

    $break{$name}->($_) for @victims;
    my $broken = time();

    # nobody goes there once it must have been noticed
    sleep $leaves + 0.8;
    my $mending = time();
    my %took;
    if ($name ne 'kill' && $name ne 'stop') {
        $took{$_} = $planes->control($_, 'GET', '/times')->{times}
            for @victims;
    }

    # what must not happen: a node comes up without its configuration
    if ($name eq 'kill' && $shift eq 'kong') {
        $planes->start(@victims);
        $planes->mode($_, 'empty') for @victims;
        sleep $interval * 2;
        my $n = 0;
        $n += @{ $planes->control($_, 'GET', '/times')->{times} } for @victims;
        is($n, 0, "$what: an empty one gets no request");
        $mend{kill} = sub { $planes->mode($_[0], 'ok') };
    }

    $mend{$name}->($_) for @victims;
    my $mended = time();
    my %first;
    my $back = retry_until(sub {
        for (grep { !$first{$_} } @victims) {
            my $s = $planes->control($_, 'GET', '/times') or next;
            my @t = grep { $_ > $mended } @{ $s->{times} };
            $first{$_} = $t[0] - $mended if @t;
        }
        return keys %first == @victims;
    }, $returns + 10 * $late);
    $mend{kill} = sub { $planes->start($_[0]) };

    my $r = KongShift::Planes::stop_load($load);

    is($r->{failures}, 0, "$what: no client saw it, of $r->{requests} requests")
        or diag(explain($r->{errors}));
    cmp_ok($r->{requests}, '>', 100, "$what: the load went on");

    # times at which requests went to a victim, as it or nginx tells
    my @late_ones = (0);
    for my $v (@victims) {
        my @at = $took{$v} ? @{ $took{$v} }
            : map { $_->[0] } grep { $_->[0] < $mending
                && $_->[3] =~ /(?:^|[ ,])\Q$addr{$v}\E(?:,|$)/ } logged();
        push @late_ones, map { $_ - $broken } grep { $_ > $broken } @at;
    }
    my $last = max(@late_ones);
    push @left, $last;
    cmp_ok($last, '<=', $leaves + $late, sprintf
        "%s: the last request went there after %.2f s", $what, $last);

    ok($back, "$what: used again");
    my $slowest = max(0, values %first);
    push @returned, $slowest;
    cmp_ok($slowest, '<=', $returns + $late, sprintf
        "%s: the first request came after %.2f s", $what, $slowest);

    wait_ready($shift);
}

# all but one; the whole new pool, the whole old pool
my @sets = map { my $spared = $_; [ grep { $_ ne $spared } @all ] } @all;
my @faults = qw(kill stop blackhole slow reset draining);

if ($ENV{KONG_SHIFT_LONG}) {
    push @sets, [ 'new1', 'new2' ], [ 'old1', 'old2' ], map { [ $_ ] } @all;
    for my $name (@faults) {
        fault($name, 'kong', @$_) for @sets;
    }
    fault($_, 'tls', @{ $sets[0] }) for @faults;
    fault('tls', 'tls', @$_) for @sets;

} else {
    fault($faults[$_], 'kong', @{ $sets[$_ % @sets] }) for 0 .. $#faults;
    fault('tls', 'tls', @{ $sets[1] });
}

diag(sprintf 'gone after %.2f s at most (%.2f s promised), back after %.2f s '
    . '(%.2f s)', max(@left), $leaves, max(@returned), $returns);


# --- the end of everything, and back

my $load = KongShift::Planes::start_load($t, '--rate', 100, '--connections', 8,
    '--path', '/x');
$planes->mode($_, 'draining') for @all;
sleep $leaves + $late;

# nobody is ready: old is used as if it were unchecked
my $r = $t->api('GET', '/shifts/kong/pools/old');
ok($r->{json}{fail_open}, 'no plane is ready: old is used all the same');
is($t->pool('/x'), 'old', 'and answers');
$r = KongShift::Planes::stop_load($load);
is($r->{failures}, 0, 'no plane is ready: no client sees it')
    or diag(explain($r->{errors}));

# One is left, and is silent for less than the checks would mind: nginx itself
# would now do without it for 10 seconds.
$planes->mode('new1', 'ok');
ok(retry_until(sub {
    my $r = $t->api('GET', '/shifts/kong/pools/new');
    return $r && ($r->{json}{ready} // 0) == 1;
}, $returns + 10 * $late), 'one plane is ready again');
is($t->pool('/x'), 'new', 'and serves all');
$planes->signal('new1', 'STOP');
like($t->get('/x')->{status}, qr/^50[24]$/, 'it is silent');
$planes->signal('new1', 'CONT');
my $works = time();
ok(retry_until(sub { $t->pool('/x') eq 'new' }, 20), 'it works again');
$works = time() - $works;
cmp_ok($works, '<=', $interval + 1.3 + $late, sprintf
    'and is used after %.2f s', $works);

$planes->signal($_, 'KILL') for @all;
sleep $leaves + $late;
my $began = time();
$r = $t->get('/x');
like($r->{status}, qr/^50[234]$/, 'no plane at all: an error');
cmp_ok(time() - $began, '<', 5, 'at once');
$planes->start(@all);
ok(wait_ready('kong'), 'all are back');
is($t->load(requests => 200, conns => 4, uri => '/x')->{failed}, 0,
    'and serve');

$t->finish;
