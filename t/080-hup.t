# Reloads that add, remove, rename and reorder shifts, resize the zone, or fail.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $dir = $t->state_dir;
my $file = "$dir/state.json";

# shifts as name => what follows, in that order; each has a location of its name
sub conf {
    my ($shifts, %o) = @_;
    my ($ups, $locs) = ('', '');

    while (my ($name, $rest) = splice @$shifts, 0, 2) {
        $rest = "kong_shift old=dp_old new=dp_new $rest" if $rest !~ /server|old=/;
        $ups .= "    upstream $name { $rest }\n";
        $locs .= "        location = /$name { proxy_pass http://$name; "
            . "proxy_http_version 1.1; proxy_set_header Connection \"\"; }\n";
    }

    my $n = $t->{front};
    $n->set($t->front_conf(http => $ups . ($o{http} // ''), server => $locs),
        $t->front_main(zone => $o{zone} // 'auto', state => $o{state} // $file));
}

my $front = $t->front(workers => 2);

sub weights {
    return join ' ', map { my $r = $t->api('GET', "/shifts/$_/weight");
        "$_=" . ($r->{status} == 200 ? $r->{json}{new} : $r->{status}) } @_;
}

# the split that requests see
sub splits {
    my ($name, $new) = @_;
    my $r = $t->load(uri => "/$name", requests => 100, pipeline => 10);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    cmp_ok(abs(($r->{pool}{new} // 0) - $new), '<=', $r->{failed} ? -1 : 1,
        "/$name: $new of 100 are new") or diag(explain($r->{pool}));
}

conf([a => 'weight=1;', b => 'weight=2;', c => 'weight=3;']);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

$t->weight(10, 'a');
$t->weight(20, 'b');
$t->weight(30, 'c');

conf([c => 'weight=3;', a => 'weight=1;', b => 'weight=2;']);
ok($front->reload, 'another order');
is(weights(qw(a b c)), 'a=10 b=20 c=30', 'another order: weights by name');
splits(c => 30);
splits(a => 10);

conf([c => 'weight=3;', b => 'weight=2;']);
ok($front->reload, 'one removed');
is(weights(qw(a b c)), 'a=404 b=20 c=30', 'one removed: it is gone');
splits(b => 20);

conf([map({ ("n$_" => "weight=$_;") } 1 .. 40), b => 'weight=2;',
    c => 'weight=3;']);
ok($front->reload, '40 more');
is(weights(qw(n1 n40 b c)), 'n1=1 n40=40 b=20 c=30', '40 more: as they should be');
splits(n40 => 40);
$t->weight(77, 'n20');
ok($front->reload, 'once more');
is(weights(qw(n20 b c)), 'n20=77 b=20 c=30', 'once more: nothing changed');

conf([renamed => 'weight=2;', c => 'weight=3;']);
ok($front->reload, 'one renamed');
is(weights(qw(renamed b c)), 'renamed=2 b=404 c=30', 'one renamed: starts anew');

conf([c => "server @{[ $t->listen_at('old') ]};", renamed => 'weight=2;']);
ok($front->reload, 'a shift becomes a plain upstream');
splits(c => 0);
is(weights(qw(renamed c)), 'renamed=2 c=404', 'and is no shift any more');

conf([c => 'old=dp_new new=dp_old weight=3;' =~ s/^/kong_shift /r,
    renamed => 'weight=2;']);
ok($front->reload, 'and a shift again, with the pools changed over');
like(weights('c'), qr/^c=(?:3|30)$/, 'with a sane weight');
$t->weight(0, 'c');
splits(c => 100);

conf([c => 'weight=3; kong_shift_gate on;']);
ok($front->reload, 'a gate that was not there');
$t->put('gate', { state => 'open', force => \1, comment => 'test' }, 'c');
$t->weight(50, 'c');
splits(c => 50);
conf([c => 'weight=3;']);
ok($front->reload, 'the gate removed');
splits(c => 50);
$t->weight(60, 'c');
conf([c => 'weight=3; kong_shift_gate on;']);
ok($front->reload, 'the gate back');
is($t->api('GET', '/shifts/c/gate')->{json}{state}, 'open',
    'it is as it was left');
splits(c => 60);


# --- a reload that fails changes nothing at all

my $taken = IO::Socket::INET->new(LocalAddr => $t->addr, Listen => 1,
    LocalPort => $t->port('taken')) or die;
my $conflict = "    server { listen @{[ $t->listen_at('taken') ]}; }\n";

for my $case (['weight= edited', 'weight=99;', 'auto'],
    ['the zone resized', 'weight=3;', '2m'],
    ['both', 'weight=98;', '3m'])
{
    my ($name, $rest, $zone) = @$case;
    my $before = $t->snapshot('c');

    # binding a taken port fails late, after the zones were prepared
    conf([c => "$rest kong_shift_gate on;"], zone => $zone, http => $conflict);
    ok(!$front->reload, "$name, but the reload fails");
    is_deeply($t->snapshot('c'), $before, "$name: nothing changed");
    is_json($t->api('PUT', '/shifts/c/weight', { new => 61 }), 200,
        { new => 61, saved => JSON::PP::true }, "$name: changes are taken");
    splits(c => 61);
    $t->weight(60, 'c');
}

conf([c => 'weight=3; kong_shift_gate on;']);
ok($front->reload, 'a reload that succeeds after those');
is(weights('c'), 'c=60', 'the weight is still the one set');
is_json($t->api('PUT', '/shifts/c/weight', { new => 62 }), 200, { new => 62 },
    'and changes are taken');
close $taken;


# --- a writer that a reload overtakes: applied, or refused

for my $case (['reload', 'auto'], ['zone resized', '2m'],
    ['zone resized back', 'auto'])
{
    my ($name, $zone) = @$case;

    $t->weight(10, 'c');
    my $c = $t->connect('admin');
    my $req = $c->format_request('PUT', '/shifts/c/weight',
        body => '{"new":44}');
    $c->send(substr $req, 0, -3);

    # its worker has it when it has answered another one on the same socket
    conf([c => 'weight=3; kong_shift_gate on;'], zone => $zone);
    ok($front->reload, $name);
    $c->send(substr $req, -3);
    my $r = $c->response;

    if (!$r) {
        is(weights('c'), 'c=10', "$name: connection closed, not applied");
    } elsif ($r->{status} == 200) {
        is(weights('c'), 'c=44', "$name: answered 200, and applied");
    } else {
        is_json($r, 503, { code => 'replaced' }, "$name: refused");
        is(weights('c'), 'c=10', "$name: not applied");
    }

    is_json($t->api('PUT', '/shifts/c/weight', { new => 45 }), 200,
        { new => 45, saved => JSON::PP::true }, "$name: new writers work");
}


# --- another state file, none, and one again

my $other = "$dir/other.json";
conf([c => 'weight=3; kong_shift_gate on;'], state => $other);
ok($front->reload, 'another state file');
is(weights('c'), 'c=45', 'the weight stays');
ok(retry_until(sub { -s $other }), 'the file is written without a change');
$front->kill_all;
ok($front->start, 'start after kill -9 of all');
is(weights('c'), 'c=45', 'from the other file');

# what another file says does not count while this one runs
conf([c => 'weight=3; kong_shift_gate on;'], state => $file);
$t->weight(46, 'c');
ok($front->reload, 'back to the first file');
is(weights('c'), 'c=46', 'what runs is the truth');
ok(retry_until(sub { (read_file($file) // '') =~ /\b46\b/ }),
    'the file is brought up to date');

# nor does a newer one by its number, however the reload comes about
my $stale = read_file($file);
for my $i (1 .. 6) {
    my $path = "$dir/stale$i.json";
    write_file($path, $stale);
    chown +(stat $dir)[4, 5], $path if $> == 0;

    $t->weight($i, 'c');
    conf([c => 'weight=3; kong_shift_gate on;'], state => $path);
    $front->reload or fail('reload');
    ok(retry_until(sub { (read_file($path) // '') =~ /"weight":\s*$i\b/ }, 5),
        "stale file $i: is replaced");
    is(weights('c'), "c=$i", "stale file $i: what runs is the truth");
}
$t->weight(46, 'c');
conf([c => 'weight=3; kong_shift_gate on;'], state => $file);
ok($front->reload, 'back once more');
ok(retry_until(sub { (read_file($file) // '') =~ /"weight":\s*46\b/ }, 5),
    'the file is brought up to date once more');

# a zone of a fixed size: what was removed takes no room of what is added
conf([map({ ("m$_" => 'weight=1;') } 1 .. 3), c => 'weight=3; kong_shift_gate on;'],
    zone => '512k');
ok($front->reload, 'a zone of a fixed size');
for my $i (1 .. 4) {
    my @shifts = (map({ ("m$i-$_" => "weight=$i;") } 1 .. 3),
        c => 'weight=3; kong_shift_gate on;');
    conf([@shifts], zone => '512k');
    my ($ok) = $front->test_conf($front->{conf}, $front->{main});
    ok($ok && $front->reload, "others in it: $i");
    is(weights("m$i-1", 'c'), "m$i-1=$i c=46", "others in it: weights of $i");
    next if $i % 2;
    ok($front->stop && $front->start, "others in it: restart $i");
    is(weights("m$i-1", 'c'), "m$i-1=$i c=46", 'and weights again');
}


# --- many of them under load

my $load = $t->start_load(uri => '/c', conns => 6);
$t->weight(50, 'c');

my $ok = 0;
for my $i (1 .. 30) {
    my @shifts = (c => 'weight=3; kong_shift_gate on;');
    push @shifts, "x$i" => 'weight=7;', same => 'weight=8;' if $i % 3;
    @shifts = @shifts[2 .. 5, 0, 1] if $i % 3 == 2;

    conf(\@shifts, zone => $i % 10 == 5 ? '1m' : 'auto');
    $ok += $front->reload;
}
is($ok, 30, '30 reloads with other shifts around');

my $r = $t->stop_load($load);
is($r->{failed}, 0, "load over them: $r->{requests} requests, none failed")
    or diag("@{ $r->{errors} }");
cmp_ok(abs(($r->{pool}{new} // 0) - $r->{requests} / 2), '<=', 2 + 30 * 2,
    'split in halves all the time')
    or diag(explain($r->{pool}));
is(weights('c'), 'c=50', 'the weight as set');

$t->finish(qr/taken|bind\(\) to|still could not bind/);
