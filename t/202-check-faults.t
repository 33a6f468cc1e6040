# Checks of data planes that are broken in every way: each is found out in time
# and gets no request, and no socket is left behind.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::DataPlane;

my $t = KongShift->new;

# name => what it does, reason
my %fault = (
    blackhole => ['blackhole', qr/timed out/],
    slow => ['slow', qr/timed out/],
    garbage => ['garbage', qr/answer is not HTTP/],
    reset => ['reset', qr/recv\(\) failed \(104: Conn|connection closed before/],
    cut => ['cut', qr/connection closed before the answer was complete/],
    header => ['long-header', qr/answer is too long/],
    invalid => ["HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n",
        qr/answer has an invalid header/],
    twice => ["HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        qr/answer has an invalid header/],
    moved => ["HTTP/1.1 301 Moved\r\nLocation: /\r\n\r\n", qr/: 301$/m],
    nofound => ['404', qr/: 404: as told$/m],
    failing => ['500', qr/: 500: as told$/m],
    chunked => ["HTTP/1.1 503 No\r\nTransfer-Encoding: chunked\r\n\r\n"
        . "5\r\nhello\r\n0\r\n\r\n", qr/: 503$/m],
    binary => ["HTTP/1.1 503 No\r\n\r\n{\"message\":\"\\u0001\\u00e9"
        . 'x' x 200 . '"}', qr/: 503: \?\?\?x+$/m],
    html => ["HTTP/1.1 503 No\r\n\r\n<html>", qr/: 503$/m],
    gone => ['ok', qr/connect\(\) failed \(111: Connection refused\)/],
);

my %dp = map { $_ => KongShift::DataPlane->new($t, $_, status => $fault{$_}[0]) }
    keys %fault;
$dp{gone}->stop;

# these are well
$dp{$_} = KongShift::DataPlane->new($t, $_) for qw(old good nocontent odd);
$dp{nocontent}->set(status => "HTTP/1.1 204 No Content\r\n\r\n");
$dp{odd}->set(status => "HTTP/1.0 200\r\nX_y: z\r\n\r\n");

my $servers = join ' ', map { 'server ' . $dp{$_}->addr . ';' } sort grep {
    $_ ne 'old' } keys %dp;

my $front = $t->front(workers => 1, weight => 100, pools => <<"EOC",
    upstream dp_old { zone dp_old 64k; server @{[ $dp{old}->addr ]}; }
    upstream dp_new { zone dp_new 512k; $servers keepalive 32; }
EOC
    extra => 'kong_shift_check pool=new interval=1s timeout=900ms;');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

wait_for('the good ones', sub {
    3 == (() = $front->error_log =~ / is ready$/mg) });

for (sort keys %fault) {
    my $addr = $dp{$_}->addr;
    ok($front->log_has(qr/new \Q$addr\E is not ready: /), "$_: not ready");
    my ($line) = $front->error_log =~ /(new \Q$addr\E is not ready: .*\n)/;
    like($line, $fault{$_}[1], "$_: and why");
}

# they all are checked some more times, and none gets anything
my ($worker) = $front->workers;
my $sockets = sub {
    my @s = grep { /^socket:/ } map { readlink($_) // '' }
        glob "/proc/$worker/fd/*";
    return scalar @s;
};

my $n = $dp{blackhole}->checks;
my $r = $t->load(requests => 3000, conns => 8);
is($r->{failed}, 0, 'no request fails');
is($r->{pool}{old} // 0, 0, 'none needs the old pool');
wait_for('more checks', sub { $dp{blackhole}->checks >= $n + 4 });
$r = $t->load(requests => 300, conns => 8);
is($r->{failed}, 0, 'no request fails later');
is(scalar($dp{$_}->requests), 0, "$_: no request") for sort keys %fault;
cmp_ok(scalar($dp{$_}->requests), '>', 900, "$_: its share")
    for qw(good nocontent odd);
cmp_ok($sockets->(), '<', 80, 'no sockets are left open');

# once well, each gets its share; and all can fail at once
$dp{$_}->set(status => 'ok') for keys %fault;
$dp{gone}->start;
wait_for('all to be ready', sub { keys(%fault) + 3
    == (() = $front->error_log =~ / is ready$/mg) });
$r = $t->load(requests => 540, conns => 8);
is($r->{failed}, 0, 'all are ready: no request fails');
is($r->{pool}{$_}, 30, "$_: its share") for sort keys %fault;

$_->set(status => 'blackhole') for values %dp;
wait_for('none to be ready', sub {
    2 == (() = $front->error_log =~ /pools without a ready peer: new$/mg) });
$r = $t->load(requests => 100, conns => 4);
is(pool_counts($r), 'old 100, new 0, failed 0', 'none is ready: all go to old');

$t->finish;
