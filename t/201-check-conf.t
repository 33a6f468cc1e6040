# What nginx -t says of kong_shift_check.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
my $n = $t->nginx(name => 'front');

# a key and a certificate of its own
my $pem = "$t->{dir}/t.pem";
my $key = "$t->{dir}/t.key";
system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1"
    . " -nodes -subj /CN=t -days 1 -keyout $key -out $pem 2>/dev/null") == 0
    or plan(skip_all => 'no openssl');

my $old = 'zone dp_old 256k; server 127.0.0.1:1001;';
my $new = 'zone dp_new 256k; server 127.0.0.1:1002;';

sub test_conf {
    my ($checks, %o) = @_;

    return $n->test_conf($t->front_conf(extra => $checks, pools => <<"EOC",
    upstream dp_old { @{[ $o{old} // $old ]} }
    upstream dp_new { @{[ $o{new} // $new ]} }
    @{[ $o{http} // '' ]}
EOC
        shift => $o{shift} // 'kong_shift old=dp_old new=dp_new;'));
}

sub good {
    my ($checks, $name, %o) = @_;
    my ($ok, $out) = test_conf($checks, %o);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($ok, "taken: $name") or diag($out);
}

sub bad {
    my ($checks, $re, $name, %o) = @_;
    my ($ok, $out) = test_conf($checks, %o);
    my $good = !$ok && $out =~ $re && $out =~ /kong_shift_check/
        && $out =~ /nginx\.conf:\d+|test\.conf:\d+/
        && $n->{last_rc} >> 8 == 1;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($good, "refused: $name") or diag($ok ? 'was taken' : $out);
}

sub params_good { good("kong_shift_check $_;", $_) for @_ }

sub param_bad {
    my ($what, $allowed, @values) = @_;
    bad("kong_shift_check $what=$_;",
        qr/invalid $what "\Q$_\E" in "kong_shift_check", it must be $allowed/,
        "$what=$_") for @values;
}


# --- each parameter

params_good('', 'pool=old', 'pool=new', 'port=1', 'port=65535', 'uri=/',
    'uri=/status/ready?a=b', 'config_hash=on', 'config_hash=off',
    'interval=100ms', 'interval=24h', 'interval=2m30s timeout=2m',
    'interval=1s timeout=1s', 'interval=200ms', 'fails=1', 'fails=1000',
    'passes=1', 'passes=1000', 'min_ready=1%', 'min_ready=100%',
    'pool=new min_ready=80%', 'slow_start=0', 'slow_start=24h',
    'config_hash=on uri=/status/ready port=8100', 'ssl=off');

param_bad('pool', '"old" or "new"', qw(both OLD olds), '""');
param_bad('port', 'a number from 1 to 65535', qw(0 65536 -1 8x 99999999999999999999));
param_bad('uri', 'a path of up to 255 characters, without spaces, that begins '
    . 'with "/"', qw(status http://a/));
bad('kong_shift_check uri=;', qr/invalid uri ""/, 'an empty uri');
bad('kong_shift_check "uri=/a b";', qr/invalid uri "\/a b"/, 'a space');
bad('kong_shift_check uri=/' . 'a' x 255 . ';', qr/invalid uri/, 'a long uri');
bad("kong_shift_check \"uri=/a\\r\\nX: y\";", qr/invalid uri/, 'a line end');
param_bad('config_hash', '"on" or "off"', qw(yes 1 ON));
param_bad('interval', 'a time from 100ms to 24h', qw(0 99ms 25h 2x -1s));
bad('kong_shift_check interval=;', qr/invalid interval ""/, 'no interval');
param_bad('timeout', 'a time from 10ms to 24h', qw(0 9ms 25h x));
param_bad('fails', 'a number from 1 to 1000', qw(0 1001 -1 x));
param_bad('passes', 'a number from 1 to 1000', qw(0 1001 2.5));
param_bad('min_ready', 'a percentage from 1% to 100%',
    qw(0% 101% 50 % x% 50%% 0.5%));
param_bad('slow_start', 'a time from 0 to 24h', qw(25h x -1));
param_bad('ssl', '"on" or "off"', qw(yes 2));

bad('kong_shift_check colour=red;',
    qr/invalid parameter "colour=red" in "kong_shift_check", known are/,
    'another parameter');
bad('kong_shift_check on;', qr/invalid parameter "on"/, 'no parameter at all');
bad('kong_shift_check port=1 port=2;', qr/duplicate parameter "port=2"/,
    'a parameter twice');


# --- which do not go together

bad('kong_shift_check interval=1s timeout=2s;',
    qr/invalid timeout "2s" in .* from 10ms to the interval, which is 1000ms/,
    'a timeout above the interval');
bad('kong_shift_check timeout=3s;', qr/which is 2000ms/,
    'a timeout above the default interval');
bad('kong_shift_check pool=old min_ready=50%;', qr/"min_ready=" with "pool=old"/,
    'min_ready= of the old pool');
bad('kong_shift_check; kong_shift_check;', qr/duplicate "kong_shift_check" of /,
    'both pools twice');
bad('kong_shift_check pool=new; kong_shift_check;', qr/of pool "new"/,
    'one pool twice');
bad('kong_shift_check; kong_shift_check pool=old;', qr/of pool "old"/,
    'the other pool twice');
good('kong_shift_check pool=new; kong_shift_check pool=old interval=1m;',
    'one of each');


# --- TLS

my $tls = "ssl=on ssl_trusted_certificate=$pem ssl_name=t";
params_good($tls, "$tls ssl_certificate=$pem ssl_certificate_key=$key");
bad('kong_shift_check ssl=on;', qr/must have "ssl_trusted_certificate="/,
    'ssl=on alone');
bad("kong_shift_check ssl=on ssl_trusted_certificate=$pem;",
    qr/must have "ssl_name="/, 'no name');
bad("kong_shift_check ssl=on ssl_name=t;",
    qr/must have "ssl_trusted_certificate="/, 'no trusted certificate');
bad("kong_shift_check $tls ssl_certificate=$pem;",
    qr/both of "ssl_certificate=" and "ssl_certificate_key="/, 'no key');
bad("kong_shift_check $tls ssl_certificate_key=$key;",
    qr/both of "ssl_certificate=" and "ssl_certificate_key="/, 'no certificate');
for ("ssl_trusted_certificate=$pem", 'ssl_name=t', "ssl_certificate=$pem",
    "ssl_certificate_key=$key", "ssl=off ssl_name=t")
{
    bad("kong_shift_check $_;", qr/parameter "ssl_\*=" without "ssl=on"/,
        s/=.*//r . ' without ssl=on');
}
my ($ok, $out) = test_conf('kong_shift_check ssl=on ssl_name=t '
    . 'ssl_trusted_certificate=/none.pem;');
ok(!$ok && $out =~ /none\.pem/, 'refused: a file that is not there') or diag $out;


# --- pools

bad('kong_shift_check;', qr/needs "zone" in its pool "dp_new" in /,
    'a pool without zone', new => 'server 127.0.0.1:1002;');
good('kong_shift_check pool=old;', 'no zone in a pool that is not checked',
    new => 'server 127.0.0.1:1002;');

my $many = sub { join ' ', map { "server 127.0.0.1:$_;" } 2001 .. 2000 + $_[0] };
good('kong_shift_check;', '32 servers', new => 'zone n 1m; ' . $many->(32));
bad('kong_shift_check;', qr/pool "dp_new" has 33 servers, .* from 1 to 32/,
    '33 servers', new => 'zone n 1m; ' . $many->(33));
bad('kong_shift_check;', qr/has 33 servers/, '33 servers, one of them backup',
    new => 'zone n 1m; server 127.0.0.1:1 backup; ' . $many->(32));
good('kong_shift_check pool=old;', '33 servers that are not checked',
    new => 'zone n 1m; ' . $many->(33));
good('kong_shift_check;', 'all servers down',
    old => 'zone o 1m; server 127.0.0.1:1 down;');

my $path = '/tmp/' . 'x' x 58;
bad('kong_shift_check;', qr/server "unix:\S+" of pool "dp_new" is too long .* 63/,
    'a long name', new => "zone n 1m; server unix:$path;");
good('kong_shift_check;', 'a socket',
    new => 'zone n 1m; server unix:/tmp/x;');
bad('kong_shift_check port=1;', qr/"port=1", but server "unix:\S+" .* no port/,
    'a port for a socket', new => 'zone n 1m; server unix:/tmp/x;');

for my $m ('hash $uri', 'hash $uri consistent', 'ip_hash', 'random',
    'random two')
{
    bad('kong_shift_check slow_start=1s;',
        qr/"slow_start=" needs .* robin or "least_conn" in its pool "dp_new"/,
        "slow_start= and $m", new => "$m; $new");
    good('kong_shift_check;', $m, new => "$m; $new");
    good('kong_shift_check pool=old slow_start=1s;',
        "slow_start= and $m in the other pool", new => "$m; $new");
}
good('kong_shift_check slow_start=1s;', 'slow_start= and least_conn',
    new => "least_conn; $new");
good('kong_shift_check slow_start=1s;', 'slow_start= and keepalive',
    new => "$new keepalive 4;");

my $second = 'upstream b { kong_shift old=dp_old new=dp_c; } '
    . 'upstream dp_c { zone c 64k; server 127.0.0.1:3; }';
bad('kong_shift_check;',
    qr/pool "dp_old" with .* of upstream "kong" must not be .* of upstream "b"/,
    'a pool of two shifts', http => $second);
good('kong_shift_check pool=new;', 'the other pool is of two shifts',
    http => $second);

bad('kong_shift_check;', qr/"kong_shift_check" needs "kong_shift" in the same/,
    'no shift', shift => 'server 127.0.0.1:1;');

$t->finish(qr/\[emerg\]/);
