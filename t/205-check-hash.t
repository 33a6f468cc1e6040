# Checks of configuration_hash: data planes without a configuration, or with
# another one than the rest of their pool.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::DataPlane;

my $t = KongShift->new;
my ($a, $b, $zero) = ('a' x 32, 'b' x 32, '0' x 32);
my @new = qw(new1 new2 new3);
my %dp = map { $_ => KongShift::DataPlane->new($t, $_, status => "hash=$a") }
    'old', @new;

my $servers = join ' ', map { 'server ' . $dp{$_}->addr . ';' } @new;
my %conf = (workers => 2, weight => 100, pools => <<"EOC");
    upstream dp_old { zone dp_old 64k; server @{[ $dp{old}->addr ]}; }
    upstream dp_new { zone dp_new 256k; $servers }
EOC

my $front = $t->front(%conf,
    extra => 'kong_shift_check pool=new config_hash=on interval=600ms;');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

# which get requests, within a while
sub used {
    my ($want, $name) = @_;
    my $got;

    retry_until(sub {
        my $r = $t->load(requests => 60, conns => 4);
        $got = join ' ', sort keys %{ $r->{pool} };
        $got .= " failed $r->{failed}" if $r->{failed};
        return $got eq $want;
    }, 25);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($got, $want, $name) or diag($front->error_log =~ s/.*keepalive conn.*\n//gr);
}

sub set { my ($mode, @dp) = @_; $dp{$_}->set(status => $mode) for @dp }

# among others, such as that a busy machine did not answer in time
sub told {
    my ($dp, $why) = @_;
    my $addr = $dp{$dp}->addr;
    my @r = $front->error_log =~ /new \Q$addr\E is not ready: (.*)/g;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok((grep { ref $why ? $_ =~ $why : $_ eq $why } @r), 'and why')
        or diag(join "\n", @r);
}

used('new1 new2 new3', 'one hash of all: all are ready');
like($dp{new1}->last_request, qr{\AGET /status HTTP/1\.0\n}, 'what is asked for');

set("hash=$zero", 'new2');
used('new1 new3', 'a zero hash: not ready');
told('new2', 'configuration_hash is zero');

set("hash=$b", 'new2');
sleep 1;
used('new1 new3', 'another hash than most: not ready');

set("hash=$a", 'new2');
used('new1 new2 new3', 'the same again: ready');

set("hash=$b", 'new1');
used('new2 new3', 'the first has another one');
told('new1', 'configuration_hash is another than that of most peers');

set("hash=$b", 'new2');
used('new1 new2', 'most have the other one');

set("hash=$b", 'new3');
used('new1 new2 new3', 'all have it');

for (['{"database":{}}', 'no configuration_hash in the answer of /status'],
    ['{"configuration_hash":null}',
        'no configuration_hash in the answer of /status'],
    ['{"configuration_hash":"abc"}',
        'configuration_hash is not 32 hexadecimal digits'],
    ['{"configuration_hash":"' . 'x' x 32 . '"}',
        'configuration_hash is not 32 hexadecimal digits'],
    ['nothing', 'answer of /status is not JSON'],
    ['', 'answer of /status is not JSON'],
    ['[' x 60_000, 'answer of /status is not JSON'])
{
    my ($body, $why) = @$_;
    my $length = length $body;

    set("HTTP/1.1 200 OK\r\nContent-Length: $length\r\n\r\n$body", 'new3');
    used('new1 new2', substr("body $body", 0, 60));
    told('new3', $why);
    set("hash=$b", 'new3');
    used('new1 new2 new3', 'ready again');
}

set("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{}", 'new3');
used('new1 new2', 'a body that is cut');
told('new3', qr/connection closed before the answer was complete/);
set("hash=$b", 'new3');
used('new1 new2 new3', 'ready again');

set('long-body', 'new3');
used('new1 new2', 'an endless body');
told('new3', 'answer is too long');

# a long one that is all right, with and without its length
my $long = '{"configuration_hash":"' . uc($b) . '","x":"' . 'x' x 60_000 . '"}';
set("HTTP/1.1 200 OK\r\n\r\n$long", 'new3');
used('new1 new2 new3', '60,000 bytes');
set("hash=$zero", 'new3');
used('new1 new2', 'zero');
set("HTTP/1.1 200 OK\r\nContent-Length: @{[ length $long ]}\r\n\r\n$long", 'new3');
used('new1 new2 new3', '60,000 bytes and so says the header');

# a configuration that changes all the time is no reason to drop anybody
set("hash=$a", @new);
used('new1 new2 new3', 'all are ready');
my $n = () = $front->error_log =~ /another than that of most/g;
for (1 .. 60) {
    set(sprintf('hash=%032x', $_ + 100), @new);
    sleep 0.1;
}
my $more = () = $front->error_log =~ /another than that of most/g;
is($more, $n, 'the hash of all changes often: none is another than most')
    or diag($front->error_log);

# with a uri both have to pass
set("hash=$a", @new);
$front->set($t->front_conf(%conf, extra => 'kong_shift_check pool=new '
    . 'config_hash=on uri=/status/ready interval=600ms;'), '');
ok($front->reload, 'config_hash=on and uri=');
used('new1 new2 new3', 'both pass');
wait_for('both are asked for', sub {
    my @asked = map { /GET (\S+)/ } split /\n/,
        KongShift::read_file($dp{new2}{log}) =~ s/^traffic.*\n//gmr;
    return join(' ', sort @asked[-2, -1]) eq '/status /status/ready';
});
set('not', 'new2');
used('new1 new3', 'the uri does not');
told('new2', qr/^503: no configuration available/);
set("hash=$zero", 'new2');
sleep 1;
used('new1 new3', 'the hash does not');
set("hash=$a", 'new2');
used('new1 new2 new3', 'both pass again');

# as Kong 2.8 answers
set(qq(HTTP/1.1 200 OK\r\nContent-Type: application/json; charset=utf-8\r\n)
    . qq(Server: kong/2.8.5\r\n\r\n{"database":{"reachable":true},)
    . qq("memory":{"workers_lua_vms":[{"http_allocated_gc":"0.03 MiB",)
    . qq("pid":1}],"lua_shared_dicts":{}},"configuration_hash":"$a",)
    . qq("server":{"connections_active":1}}), 'new1');
$front->set($t->front_conf(%conf,
    extra => 'kong_shift_check pool=new config_hash=on interval=600ms;'), '');
ok($front->reload, 'config_hash=on');
sleep 1;
used('new1 new2 new3', 'an answer of Kong 2.8');

$t->finish;
