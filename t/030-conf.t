# nginx -t refuses what cannot work, in one line that says what, where and what
# would be right; and what it takes does work.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $front = $t->front;
my $dir = $t->state_dir;

# one line of [emerg], by a process that ended by itself
sub refused {
    my ($name, $re, $http, $main) = @_;
    my ($ok, $out) = $front->test_conf($http, $main // '');

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return subtest $name => sub {
        ok(!$ok, 'refused');
        is($front->{last_rc} & 127, 0, 'no crash');
        my @lines = grep { /\[emerg\]/ } split /\n/, $out;
        is(scalar @lines, 1, 'one line') or diag($out);
        like($lines[0] // '', $re, 'which says why');

        # nginx itself finds unknown variables at the end, without a place
        like($lines[0] // '', qr/test\.conf:\d+|unknown ".*" variable/,
            'and where');
    };
}

sub accepted {
    my ($name, $http, $main) = @_;
    my ($ok, $out) = $front->test_conf($http, $main // '');

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($ok, "accepted: $name") or diag($out);
    unlike($out, qr/\[(?:warn|error|crit|alert)\]/, "accepted: $name: no word");
}

sub shift_of {
    my ($line, %o) = @_;
    return $t->front_conf(shift => $line, %o);
}


# --- kong_shift

my $range = qr/0.*100/;

refused("weight=$_", qr/weight.*\Q$_\E.*$range/,
    shift_of("kong_shift old=dp_old new=dp_new weight=$_;"))
    for qw(101 100.0001 -1 -0.1 abc 0.00001 10.00000 1e1 0x10 +5 10% 10. .5
    1.2.3 4294967297 18446744073709551617 nan inf), '1,5', '9' x 400;

refused('weight empty', qr/weight.*$range/,
    shift_of('kong_shift old=dp_old new=dp_new weight=;'));
refused('weight quoted with a space', qr/weight.*$range/,
    shift_of('kong_shift old=dp_old new=dp_new "weight= 10";'));

for my $var ('$arg_w', '${arg_w}', '1$arg_w', '$remote_addr') {
    refused("a variable weight $var", qr/weight.*\Q$var\E/,
        shift_of("kong_shift old=dp_old new=dp_new weight=$var;"));
}
refused('a variable pool', qr/\$arg_p/,
    shift_of('kong_shift old=$arg_p new=dp_new weight=1;'));

accepted("weight=$_", shift_of("kong_shift old=dp_old new=dp_new weight=$_;"))
    for qw(0 100 0.0001 99.9999 12.5 100.0 100.0000 0.0 007);

refused("old=$_", qr/"?\Q$_\E"?/, shift_of("kong_shift old=$_ new=dp_new "
    . 'weight=1;')) for qw(none dp_ol 127.0.0.1:80 dp_old:80
    http://dp_old);
refused('new unknown', qr/none/,
    shift_of('kong_shift old=dp_old new=none weight=1;'));
refused('same pools', qr/dp_old/,
    shift_of('kong_shift old=dp_old new=dp_old weight=1;'));
refused('same pools in other case', qr/dp_old/i,
    shift_of('kong_shift old=dp_old new=DP_OLD weight=1;'));
refused('itself as a pool', qr/kong/,
    shift_of('kong_shift old=dp_old new=kong weight=1;'));
refused('a shift as old', qr/inner/, shift_of('kong_shift old=inner new=dp_new '
    . 'weight=1;', http => <<'EOC'));
    upstream inner { kong_shift old=dp_old new=dp_new weight=1; }
EOC
refused('a later shift as new', qr/inner/, shift_of('kong_shift old=dp_old '
    . 'new=inner weight=1;') . <<'EOC');
    upstream inner { kong_shift old=dp_old new=dp_new weight=1; }
EOC
refused('no old', qr/old/, shift_of('kong_shift new=dp_new weight=1;'));
refused('no new', qr/new/, shift_of('kong_shift old=dp_old weight=1;'));
refused('old empty', qr/old/, shift_of('kong_shift old= new=dp_new weight=1;'));
refused('nothing', qr/kong_shift/, shift_of('kong_shift;'));
refused('an unknown parameter', qr/side=2/,
    shift_of('kong_shift old=dp_old new=dp_new weight=1 side=2;'));
refused('a word', qr/sticky/,
    shift_of('kong_shift old=dp_old new=dp_new weight=1 sticky;'));
refused("$_ twice", qr/\Q$_\E|duplicate/i,
    shift_of("kong_shift old=dp_old new=dp_new weight=1 $_;"))
    for qw(old=dp_new new=dp_old weight=1);
refused('twice', qr/kong_shift.*duplicate/, shift_of(
    'kong_shift old=dp_old new=dp_new weight=1; '
    . 'kong_shift old=dp_old new=dp_new weight=1;'));
refused('a server before', qr/server/, shift_of('server 127.0.0.1:1; '
    . 'kong_shift old=dp_old new=dp_new weight=1;'));
refused('a server after', qr/server/, shift_of(
    'kong_shift old=dp_old new=dp_new weight=1; server 127.0.0.1:1;'));
refused('in http', qr/kong_shift.*not allowed here/,
    $t->front_conf(http => 'kong_shift old=dp_old new=dp_new weight=1;'));
refused('in location', qr/kong_shift.*not allowed here/,
    $t->front_conf(server => 'location /x { '
    . 'kong_shift old=dp_old new=dp_new weight=1; }'));

accepted('pools named later', do {
    my $c = $t->front_conf;
    my ($pools) = $c =~ /((?:^    upstream dp_.*\n)+)/m;
    (my $rest = $c) =~ s/\Q$pools\E//;
    "$rest$pools";
});
accepted('parameters in another order',
    shift_of('kong_shift weight=1 new=dp_new old=dp_old;'));
accepted('two shifts over the same pools', shift_of('kong_shift old=dp_old '
    . 'new=dp_new weight=1;', http => 'upstream again { kong_shift old=dp_new '
    . 'new=dp_old weight=1; }'));


# --- its companions

for my $d ('kong_shift_key $arg_k', 'kong_shift_override $arg_k',
    'kong_shift_gate on')
{
    my ($name) = $d =~ /^(\w+)/;

    refused("$name without kong_shift", qr/$name|kong_shift/,
        $t->front_conf(http => "upstream x { server 127.0.0.1:1; $d; }"));
    refused("$name twice", qr/$name.*duplicate/,
        $t->front_conf(extra => "$d; $d;"));
    accepted("$name before kong_shift",
        shift_of("$d; kong_shift old=dp_old new=dp_new weight=0;"));
    refused("$name in location", qr/$name.*not allowed here/,
        $t->front_conf(server => "location /x { $d; }"));
}

refused('kong_shift_gate maybe', qr/maybe/,
    $t->front_conf(extra => 'kong_shift_gate maybe;'));
refused('kong_shift_gate without a value', qr/kong_shift_gate/,
    $t->front_conf(extra => 'kong_shift_gate;'));
refused('kong_shift_key without a value', qr/kong_shift_key/,
    $t->front_conf(extra => 'kong_shift_key;'));
refused('kong_shift_key of an unknown variable', qr/no_such_variable/,
    $t->front_conf(extra => 'kong_shift_key $no_such_variable;'));
refused('kong_shift_key with an unknown parameter', qr/salt=1/,
    $t->front_conf(extra => 'kong_shift_key $arg_k salt=1;'));
refused('kong_shift_key with two seeds', qr/kong_shift_key/,
    $t->front_conf(extra => 'kong_shift_key $arg_k seed=a seed=b;'));
refused('kong_shift_key with an empty seed', qr/seed/,
    $t->front_conf(extra => 'kong_shift_key $arg_k seed=;'));
refused('kong_shift_override of an unknown variable', qr/no_such_variable/,
    $t->front_conf(extra => 'kong_shift_override $no_such_variable;'));
accepted('kong_shift_key with a seed',
    $t->front_conf(extra => 'kong_shift_key $arg_k$remote_addr seed=a;'));

refused("kong_shift_api $_", qr/kong_shift_api|\Q$_\E/,
    $t->front_conf(api => "kong_shift_api $_;"))
    for 'write=maybe', 'write=', 'write', 'read=on', 'on', 'write=on write=on';
refused('kong_shift_api twice', qr/kong_shift_api.*duplicate/,
    $t->front_conf(api => 'kong_shift_api; kong_shift_api write=on;'));
refused('kong_shift_api in upstream', qr/kong_shift_api.*not allowed here/,
    $t->front_conf(extra => 'kong_shift_api;'));

refused('kong_shift_freeze of an unknown shift', qr/none/,
    $t->front_conf(server => 'location /x { kong_shift_freeze none; '
    . 'proxy_pass http://kong; }'));
refused('kong_shift_freeze of a plain upstream', qr/dp_old/,
    $t->front_conf(server => 'location /x { kong_shift_freeze dp_old; '
    . 'proxy_pass http://kong; }'));
refused('kong_shift_freeze without a name', qr/kong_shift_freeze/,
    $t->front_conf(server => 'location /x { kong_shift_freeze; }'));
refused('kong_shift_freeze twice', qr/kong_shift_freeze.*duplicate/,
    $t->front_conf(server => 'location /x { kong_shift_freeze kong; '
    . 'kong_shift_freeze kong; }'));


# --- kong_shift_zone

my $conf = $t->front_conf;
my $state = "$dir/state.json";

refused("kong_shift_zone $_", qr/kong_shift_zone|zone/, $conf,
    "kong_shift_zone $_;") for qw(0 1 abc -1 10x 1.5m 4096 4k), 'auto auto',
    'shm:1m', '';
refused('a zone beyond memory', qr/zone/, $conf,
    'kong_shift_zone 99999999999999999999;');
refused('a zone twice', qr/kong_shift_zone.*duplicate/, $conf,
    'kong_shift_zone auto; kong_shift_zone auto;');
refused('a zone in http', qr/kong_shift_zone.*not allowed here/,
    "kong_shift_zone auto;\n$conf");
refused('an unknown parameter', qr/file=/, $conf,
    'kong_shift_zone auto file=/x;');
refused('two state files', qr/kong_shift_zone/, $conf,
    "kong_shift_zone auto state=$state state=$state;");
refused('state empty', qr/state/, $conf, 'kong_shift_zone auto state=;');
refused('state in a missing folder', qr{/no/such/folder}, $conf,
    'kong_shift_zone auto state=/no/such/folder/state.json;');
refused('state below a file', qr{state}, $conf,
    "kong_shift_zone auto state=$front->{prefix}/nginx.conf/state.json;");
refused('state is a folder', qr{state}, $conf,
    "kong_shift_zone auto state=$dir/;");
refused('state with a path beyond any limit', qr{state}, $conf,
    "kong_shift_zone auto state=$dir/" . 'x' x 5000 . ';');

# the workers' user cannot write there
mkdir "$t->{dir}/closed" or die;
chmod 0555, "$t->{dir}/closed";
refused('state in a folder that the workers cannot write', qr{closed}, $conf,
    "kong_shift_zone auto state=$t->{dir}/closed/state.json;");
chmod 0755, "$t->{dir}/closed";

accepted('a zone of 1m', $conf, 'kong_shift_zone 1m;');
accepted('a zone with a state file', $conf,
    "kong_shift_zone auto state=$state;");
accepted('a zone and no shift', <<"EOC", "kong_shift_zone auto state=$state;");
    server { listen @{[ $t->listen_at('front') ]}; return 200; }
EOC
accepted('nothing of it', <<"EOC");
    server { listen @{[ $t->listen_at('front') ]}; return 200; }
EOC
accepted('an endpoint and no shift', <<"EOC");
    server { listen @{[ $t->listen_at('front') ]};
             location / { kong_shift_api; } }
EOC
ok(!-e $state, 'nginx -t creates no state file');

# many shifts: auto holds them all, a size that does not is refused
my $many = $t->front_conf(http => join '',
    map { "upstream s$_ { kong_shift old=dp_old new=dp_new weight=1; }\n" }
    1 .. 500);
accepted('500 shifts in auto', $many, 'kong_shift_zone auto;');
accepted('500 shifts and no zone', $many);
refused('500 shifts in 256k', qr/zone.*(?:\d|room|small)/, $many,
    'kong_shift_zone 256k;');

# names that are no good for a URI or a file
refused('a name of 200 bytes', qr/name/, $t->front_conf(http => 'upstream '
    . 'n' x 200 . ' { kong_shift old=dp_old new=dp_new weight=1; }'));


# --- any mix with the directives that children and parents may have

my @methods = ('', 'least_conn;', 'random;', 'random two least_conn;',
    'ip_hash;', 'hash $arg_k;', 'hash $arg_k consistent;');
my @extras = ('', 'zone ZONE 64k;', 'keepalive 4;', 'zone ZONE 64k; keepalive 4;',
    'keepalive 4; keepalive_requests 10; keepalive_timeout 5s;');

my ($ups, $locs, @works, @crashed, @silent) = ('', '');
my $n = 0;

sub try {
    my ($shift, $pool) = @_;
    my $i = ++$n;
    s/ZONE/"z" . ++$n/ge for $shift, $pool;

    my $up = "    upstream o$i { $pool server @{[ $t->listen_at('old') ]}; }\n"
        . "    upstream n$i { $pool server @{[ $t->listen_at('new') ]}; }\n"
        . "    upstream s$i { " . ($shift =~ s/SHIFT/kong_shift old=o$i new=n$i weight=50;/r)
        . " }\n";
    # keepalive must follow the method
    my ($ok, $out) = $front->test_conf($t->front_conf(http => $up));

    push @crashed, $up if $front->{last_rc} & 127;
    push @silent, "$up\n$out" if !$ok && $out !~ /\[emerg\].*\d/;

    if ($ok) {
        push @works, $i;
        $ups .= $up;
        $locs .= "        location = /s$i { proxy_pass http://s$i; "
            . "proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n";
    }

    return $ok;
}

my $taken = 0;
for my $method (@methods) {
    for my $extra (@extras) {
        $taken += !!try('SHIFT', "$method $extra");
    }
}
is($taken, @methods * @extras, 'every mix in a pool is accepted');

for my $around ((map { $_ ? ("$_ SHIFT", "SHIFT $_") : () } @methods, @extras),
    'zone ZONE 64k; SHIFT keepalive 4;', 'zone ZONE 64k; least_conn; SHIFT',
    'SHIFT least_conn; keepalive 4;', 'hash $arg_k; SHIFT random;')
{
    try($around, 'zone ZONE 64k;');
}

is_deeply(\@crashed, [], "$n mixes: nginx -t does not crash");
is_deeply(\@silent, [], "$n mixes: what is refused has a line that says so");

# what nginx -t has taken starts, and splits as it says
my $all = $t->nginx(name => 'all',
    conf => $t->front_conf(http => $ups, server => $locs));
ok($all->start, 'all that was accepted starts')
    or BAIL_OUT($all->{start_output});

my @wrong;
for my $i (@works) {
    my $r = $t->load(uri => "/s$i?k=7", requests => 20);
    push @wrong, $i if pool_counts($r) ne 'old 10, new 10, failed 0';
}
is_deeply(\@wrong, [], scalar(@works) . ' accepted mixes: all split in halves');
ok($all->reload, 'all of them reload');
is(pool_counts($t->load(uri => "/s$works[0]", requests => 20)),
    'old 10, new 10, failed 0', 'and go on');

# not used at all: starts, reloads, stops
my $unused = $t->nginx(name => 'unused', workers => 2, conf => <<"EOC");
    server { listen @{[ $t->listen_at('unused') ]}; return 200 "here\\n"; }
EOC
ok($unused->start, 'loaded and not used: starts');
ok($unused->reload, 'loaded and not used: reloads');
is($t->http('unused', 'GET', '/')->{body}, "here\n", 'loaded and not used: serves');
$unused->upgrade;
ok($unused->end_old_master, 'loaded and not used: binary upgrade');

$t->finish(qr/test\.conf/, qr/\[emerg\].*unknown ".*" variable/);
