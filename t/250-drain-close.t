# A drained pool gives its long-lived connections up at the rate asked for, the
# oldest first, over all workers and also those that leave.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Select;
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) } qw(old new front admin);

# Each connection is a process of its own: it accepts an upgrade, or streams
# events, and echoes until its end.
sub pool {
    my ($name) = @_;

    $t->server($name => sub {
        my ($c) = @_;
        return if fork;
        my $head = '';

        while ($head !~ /\r\n\r\n/) {
            sysread $c, $head, 4096, length $head or POSIX::_exit(0);
        }
        if ($head =~ /^GET \/events/) {
            syswrite $c, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream"
                . "\r\n\r\n";
            while (1) { syswrite $c, "data: $name\n\n" or last; sleep 0.5 }
        } elsif ($head =~ /^GET \/slow/) {
            sysread $c, my $buf, 1;
        } elsif ($head =~ /upgrade: websocket/i) {
            syswrite $c, "HTTP/1.1 101 Switching Protocols\r\n"
                . "Upgrade: websocket\r\nConnection: upgrade\r\n\r\n$name";
            while (sysread $c, my $buf, 4096) { syswrite $c, $buf }
        } else {
            syswrite $c, "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n"
                . "Connection: close\r\n\r\n$name\n";
        }
        POSIX::_exit(0);
    });
}
pool($_) for qw(old new);

my $conf = <<"EOC";
    log_format drain '\$uri \$status \$kong_shift_pool \$msec \$arg_n';
    upstream dp_old { zone dp_old 64k; server $is{old} max_fails=0; }
    upstream dp_new { zone dp_new 64k; server $is{new} max_fails=0; }
    upstream kong { kong_shift old=dp_old new=dp_new weight=0; }
    proxy_read_timeout 120s;
    reset_timedout_connection on;
    server {
        listen $is{front} backlog=4096 reuseport;
        access_log logs/access.log drain;
        location / {
            proxy_pass http://kong;
            proxy_http_version 1.1;
            proxy_set_header Upgrade \$http_upgrade;
            proxy_set_header Connection "upgrade";
            proxy_buffering off;
            add_header X-Worker \$pid always;
        }
    }
    server { listen $is{admin} reuseport; location / { kong_shift_api write=on; } }
EOC

my $front = $t->nginx(name => 'front', workers => 4, conf => $conf);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my @ws = ('Upgrade: websocket', 'Connection: Upgrade');

# an open connection; it notes its worker and its number
my $opened = 0;
sub open_one {
    my ($uri, @headers) = @_;
    my $c = $t->connect or die 'no connection';

    $c->{n} = ++$opened;
    $c->send($c->format_request('GET', "$uri?n=$opened", headers => \@headers));
    $c->until(qr/\r\n\r\n/) or die 'no answer';
    ($c->{worker}) = $c->{buf} =~ /^x-worker: (\d+)/mi;
    return $c;
}

sub stop { return $t->api('GET', '/shifts/kong/pools/old/safe_to_stop') }
sub old { return $t->api('GET', '/shifts/kong/pools/old')->{json} }

sub is_long_lived {
    my ($n, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok(retry_until(sub { old()->{long_lived} == $n }, 10), $name)
        or diag('long_lived: ' . old()->{long_lived});
}

# when nginx has logged each of them: this process may be late to see its end
sub logged {
    my (@c) = @_;
    my %at;

    wait_for('the log', sub {
        my $log = KongShift::read_file("$front->{prefix}/logs/access.log");
        %at = map { (split)[4, 3] } split /\n/, $log;
        return !grep { !$at{ $_->{n} } } @c;
    });

    return map { $at{ $_->{n} } } @c;
}

# when each of the connections has ended, in seconds from now
sub ends {
    my ($seconds, @c) = @_;
    my $began = time();
    my %at;
    my $select = IO::Select->new(map { $_->{sock} } @c);
    my %index = map { fileno($c[$_]{sock}) => $_ } 0 .. $#c;

    while (keys %at < @c && time() - $began < $seconds) {
        for my $s ($select->can_read(0.2)) {
            my $n = sysread $s, my $buf, 65536;
            next if $n;
            $at{ $index{ fileno $s } } = time() - $began;
            $c[ $index{ fileno $s } ]{reset} = !defined $n;
            $select->remove($s);
        }
    }

    return map { $at{$_} } 0 .. $#c;
}

sub alive {
    my ($c) = @_;
    $c->send('ping');
    return $c->until(qr/ping\z/);
}


# --- found

my @events = map { open_one('/events') } 1 .. 2;
my @c = map { my $c = open_one('/ws', @ws); sleep 0.01; $c } 1 .. 60;
my %worker;
$worker{ $_->{worker} }++ for @c;
is(scalar(keys %worker), 4, 'connections of all workers');

is_long_lived(62, 'all of them are long-lived');
is(old()->{active}, 62, 'and active');
ok(old()->{oldest_long_lived_ms} > 100, 'with an age');

$t->weight(100);
my $r = stop();
is_json($r, 409, { code => 'not_safe_to_stop' }, 'old is still in use');
is_deeply([sort @{ $r->{json}{reasons} }], [qw(active long_lived)],
    'and why');

my @new = map { open_one('/ws', @ws) } 1 .. 3;
my @plain = map { $t->http('front', 'GET', '/', headers => ['Connection: close']) }
    1 .. 3;
is(scalar(grep { $_->{body} eq "new\n" } @plain), 3, 'others go to new');

is_json($t->api('POST', '/shifts/kong/pools/old/drain'), 200, {},
    'drained without a rate');
my @e = ends(1.5, @c[0 .. 9]);
is(scalar(grep { defined } @e), 0, 'closes nothing');


# --- closed at a rate

sub paced {
    my ($rate, $name, @c) = @_;

    is_json($t->api('POST', '/shifts/kong/pools/old/drain',
        { rate => $rate }), 200, {}, "$name: drained at $rate a second");
    my @at = ends(@c / $rate * 3 + 10, @c);

    my @missing = grep { !defined $at[$_] } 0 .. $#at;
    is(scalar(@missing), 0, "$name: all are closed") or return;
    is(scalar(grep { $_->{reset} } @c), 0, "$name: in the usual way");
    @at = logged(@c);

    my @order = sort { $at[$a] <=> $at[$b] } 0 .. $#at;
    my ($first, $last) = @at[@order[0, -1]];
    my $got = (@c - 1) / ($last - $first);
    cmp_ok(abs($got - $rate) / $rate, '<=', 0.1,
        sprintf '%s: %.2f a second', $name, $got);

    # how far from its turn one was: those of one moment may come in any order
    my $off = 0;
    for (0 .. $#order) {
        my $d = abs($order[$_] - $_);
        $off = $d if $d > $off;
    }
    cmp_ok($off, '<=', 5, "$name: the oldest first (off by $off)");
}

paced(20, 'over 4 workers', @events, @c);
ok(retry_until(sub { stop()->{status} == 200 }, 5), 'old may be stopped')
    or diag(explain(stop()->{json}));
is(scalar(grep { alive($_) } @new), 3, 'new has kept its own');

my @log = $front->access_log(62);
is(scalar(grep { m{^/ws 101 old} } @log), 60, 'all were logged');
my $counters = old()->{counters};
is("$counters->{chosen} $counters->{served} $counters->{failed} "
    . $counters->{canceled}, '62 62 0 0', 'and counted as served');


# --- those of old workers after a reload too

$t->api('DELETE', '/shifts/kong/pools/old/drain');
$t->weight(0);
@c = ();
push @c, map { my $c = open_one('/ws', @ws); sleep 0.01; $c } 1 .. 25;
ok($front->reload, 'reload') or diag($front->error_log);
push @c, map { my $c = open_one('/ws', @ws); sleep 0.01; $c } 1 .. 25;
%worker = ();
$worker{ $_->{worker} }++ for @c;
cmp_ok(scalar(keys %worker), '>=', 6, 'connections of old and new workers');
is_long_lived(50, 'all are known');
$t->weight(100);
paced(25, 'also in old workers', @c);
is(old()->{active}, 0, 'none is left');
ok(retry_until(sub { my @w = $front->workers(1); @w <= 8 }, 10),
    'the old workers go, but those of new');


# --- the deadline

$t->api('DELETE', '/shifts/kong/pools/old/drain');
$t->weight(0);
@c = map { open_one('/ws', @ws) } 1 .. 40;
my $slow = $t->connect;
$slow->send($slow->format_request('GET', '/slow'));
is_long_lived(40, 'a new generation');
$t->weight(100);
my $began = time();
is_json($t->api('POST', '/shifts/kong/pools/old/drain',
    { rate => 2, deadline => '3s' }), 200, {}, 'a rate and a deadline');
my @at = sort { ($a // 99) <=> ($b // 99) } ends(15, @c);
my @early = grep { defined && $_ < 2 } @at;
cmp_ok(scalar(@early), '<=', 6, 'before it they go one by one: ' . @early);
cmp_ok(scalar(@early), '>=', 2, 'at the rate');
ok(defined $at[-1], 'at the deadline all of them');
cmp_ok($at[-1], '<', 7, sprintf 'after %.1f s', $at[-1] // 99);
cmp_ok($at[-1], '>', 1.9, 'not before');
is(old()->{active}, 1, 'a request that is none of them stays');
$slow->close_now;
ok(retry_until(sub { old()->{active} == 0 }, 5), 'until it ends');


# --- lifted

$t->api('DELETE', '/shifts/kong/pools/old/drain');
$t->weight(0);
@c = map { open_one('/ws', @ws) } 1 .. 20;
is_long_lived(20, 'once more');
$t->weight(100);
$t->api('POST', '/shifts/kong/pools/old/drain', { rate => 4 });
ok(retry_until(sub { old()->{long_lived} < 19 }, 10), 'some are closed');
$t->api('DELETE', '/shifts/kong/pools/old/drain');
sleep 0.2;
my $left = old()->{active};
sleep 1.5;
is(old()->{active}, $left, 'a drain that is lifted closes no more');
$_->close_now for @c;
is_long_lived(0, 'clients that leave are not counted any more');
$_->close_now for @new;

$t->finish;
