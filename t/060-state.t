# The state file: what was answered with 2xx is there after anything that may
# happen to processes, and nothing is answered with 2xx that is not.

use strict;
use warnings;

use Digest::SHA;
use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(time);

use KongShift;

my $t = KongShift->new;
$t->backend;

my $dir = $t->state_dir;
my $file = "$dir/state.json";

my $front = front('front', 5, 'auto');

sub front {
    my ($name, $weight, $zone) = @_;

    return $t->front(name => $name, workers => 2, weight => $weight,
        zone => $zone, state => $file,
        extra => 'kong_shift_gate on; kong_shift_key $arg_k;');
}

sub conf {
    my ($weight, $zone) = @_;

    $front->set($t->front_conf(weight => $weight,
        extra => 'kong_shift_gate on; kong_shift_key $arg_k;'),
        $t->front_main(zone => $zone, state => $file));
}

sub keys_of {
    return $t->load(requests => 500, pipeline => 50,
        uri => sub { "/?k=c$_[0]" })->{order};
}

# what a client was told: without "changed" parts that only a new change moves
my ($told, $keys);

sub remember { ($told, $keys) = ($t->snapshot, keys_of()) }

sub kept {
    my ($name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_deeply($t->snapshot, $told, "$name: as answered")
        or diag(explain($t->snapshot, $told));
    is_deeply(keys_of(), $keys, "$name: keyed choices as before");
}

sub saved {
    my $r = $t->api('GET', '/shifts/kong');
    return $r && $r->{json} && $r->{json}{saved};
}


# --- kept

ok($front->start, 'starts without a file') or BAIL_OUT($front->{start_output});

my $evidence = { strategy => 'in-place', x => '3.4.3.12', y => '3.10.0.2',
    journal => 'j1' };
$t->put('gate', { state => 'open', evidence => $evidence,
    comment => "caf\x{e9} \"quoted\" \\ / <b>" });
$t->put('freeze', { state => 'on', comment => 'cp phase' });
my $r = $t->weight({ new => 37.5, comment => 'step 1' });
is($r->{saved}, JSON::PP::true, 'a PUT says that it was saved');
ok(-f $file, 'the file is there');
is((stat $file)[2] & 0137, 0, 'with at most mode 0640');

opendir my $dh, $dir or die;
is_deeply([grep { !/^\.\.?$/ } readdir $dh], ['state.json'],
    'and nothing beside it');
is(ref from_json(read_file($file)), 'HASH', 'it is JSON');

remember();

ok($front->reload, 'reload');
kept('reload');

conf(5, '1m');
ok($front->reload, 'reload with another zone size');
kept('zone resized');

conf(5, '256k');
ok($front->reload, 'reload with a smaller zone');
kept('zone resized again');

$front->kill_worker($_) for $front->workers;
kept('every worker killed');

ok($front->stop && $front->start, 'restart');
kept('restart');

$front->upgrade;
kept('both masters at work');
ok($front->end_old_master, 'the old master leaves');
kept('binary upgrade');

$front->kill_all;
ok($front->start, 'start after kill -9 of all');
kept('kill -9 of all');

for my $i (1 .. 8) {
    my $what = qw(weight gate freeze abort)[$i % 4];
    my $w = 12.5 * $i;

    # the connection dies with the server right after the answer
    my $c = $t->connect('admin');
    my $body = to_json({
        weight => { new => $w }, abort => {},
        gate => { state => 'open', evidence => { %$evidence, x => "$i" } },
        freeze => { state => $i % 8 > 4 ? 'on' : 'off' } }->{$what});
    my $a = $c->request($what eq 'abort' ? 'POST' : 'PUT',
        "/shifts/kong/$what", body => $body,
        headers => ['Content-Type: application/json']);
    $front->kill_all;
    is($a->{status}, 200, "$what answered, then kill -9 of all");

    ok($front->start, 'start') or BAIL_OUT($front->{start_output});
    is($t->snapshot->{generation}, $a->{json}{generation},
        "$what: generation as answered");

    my $now = $t->api('GET', '/shifts/kong/'
        . ($what eq 'abort' ? 'weight' : $what))->{json};
    delete @$_{qw(saved)} for $now, $a->{json};
    is_deeply($now, $a->{json}, "$what: as answered");
}


# --- an abort does not wait for a writer whose file takes its time

{
    my $pid = fork // die "fork: $!";
    my $gone = "$t->{dir}/let-go";
    if (!$pid) {
        # what holds up every writer of the folder
        open my $fh, '<', $dir or POSIX::_exit(1);
        flock $fh, 2 or POSIX::_exit(1);
        write_file("$t->{dir}/held", '');
        select undef, undef, undef, 0.01 while !-e $gone && getppid() != 1;
        POSIX::_exit(0);
    }
    wait_for('the lock', sub { -e "$t->{dir}/held" });

    my ($put, $abort) = map { $t->connect('admin') } 1 .. 2;
    $put->send($put->format_request('PUT', '/shifts/kong/weight',
        body => '{"new":0}'));
    ok(!$put->fill(0.3), 'a writer waits for the folder');
    $abort->send($abort->format_request('POST', '/shifts/kong/abort'));
    ok(retry_until(sub { $t->snapshot->{aborted} }, 3),
        'an abort is in force meanwhile');

    write_file($gone, '');
    waitpid $pid, 0;
    my $r = $put->response;
    like($r ? $r->{status} : 'none', qr/^(?:409|412|503)$/,
        'the writer is refused');
    is_json($abort->response, 200, { aborted => JSON::PP::true },
        'the abort is answered');
    ok(retry_until(\&saved), 'and saved');
    remember();
    is($told->{aborted}, JSON::PP::true, 'it stays in force');
    $front->kill_all;
    $front->start;
    kept('an abort that overtook a writer');
}


# --- weight= that was edited since wins

$t->weight(37.5);
remember();

conf(20, 'auto');
$front->new_log;
ok($front->reload, 'reload with weight= edited');
is_json($t->api('GET', '/shifts/kong/weight'), 200, { new => 20 },
    'the edited weight is in force');
like($front->new_log, qr/\[(?:notice|warn)\].*kong.*weight/,
    'and the log says so');

$t->weight(60);
ok($front->stop, 'stop');
conf(30, 'auto');
$front->new_log;
ok($front->start, 'start with weight= edited');
is_json($t->api('GET', '/shifts/kong/weight'), 200, { new => 30 },
    'the edited weight is in force');
like($front->new_log, qr/\[(?:notice|warn)\].*kong.*weight/,
    'and the log says so');

$t->weight(70);
$front->new_log;
ok($front->stop && $front->start, 'restart with weight= as it was');
is_json($t->api('GET', '/shifts/kong/weight'), 200, { new => 70 },
    'the weight set at run time is in force');
like($front->new_log, qr/\[(?:notice|warn)\].*kong.*weight/,
    'and the log says so');

$t->api('POST', '/shifts/kong/abort');
conf(40, 'auto');
$front->new_log;
ok($front->reload, 'reload with weight= edited after an abort');
is_json($t->api('GET', '/shifts/kong/weight'), 200,
    { new => 0, aborted => JSON::PP::true }, 'the abort is in force');
like($front->new_log, qr/\[warn\].*kong.*abort/, 'and the log says so');

$t->weight(70);
ok($front->reload, 'reload with weight= as it was');
is_json($t->api('GET', '/shifts/kong/weight'), 200,
    { new => 70, aborted => JSON::PP::false },
    'a weight set at run time ends the abort');


# --- damaged files: the value saved or weight=, one line, never a failed start

conf(30, 'auto');
my $good = read_file($file);
my $corrupt = "$file.corrupt";

# the weight after a start with that file
sub start_with {
    my ($prepare) = @_;

    $front->kill_all if $front->{master};
    unlink $file, $corrupt;
    $prepare->();
    $front->new_log;

    $front->start or return "no start: $front->{start_output}";
    my $r = $t->api('GET', '/shifts/kong/weight') or return 'no answer';

    return $r->{json}{new};
}

sub damaged {
    my ($text) = @_;

    my $w = start_with(sub { write_file($file, $text) });
    return '' if $w =~ /\A70\z/;
    return "weight $w" if $w !~ /\A30\z/;

    my @lines = grep { /\[error\]/ } split /\n/, $front->new_log;
    return @lines . ' error lines' if @lines != 1;
    return "a line without the path: @lines" if index($lines[0], $file) < 0;
    return 'no .corrupt' if (read_file($corrupt) // "\0") ne $text;

    return '';
}

# KONG_SHIFT_LONG: every length and every bit
my $long = $ENV{KONG_SHIFT_LONG};
my $len = length $good;
my @lengths = $long ? 0 .. $len - 1
    : grep { $_ < 8 || $_ > $len - 9 || $_ % 37 == 0 } 0 .. $len - 1;
my %bad = map { my $why = damaged(substr $good, 0, $_); $why ? ($_ => $why) : () }
    @lengths;
is_deeply(\%bad, {}, @lengths . " truncations of $len bytes");

my @bits = $long ? 0 .. 8 * $len - 1
    : map { int(($_ + 0.5) * 8 * $len / 40) } 0 .. 39;
%bad = map { my $text = $good; vec($text, $_, 1) ^= 1; my $why = damaged($text);
    $why ? ($_ => $why) : () } @bits;
is_deeply(\%bad, {}, @bits . ' flipped bits');

%bad = map { my $why = damaged($_); $why ? ($_ => $why) : () }
    '{}', '[]', 'null', "\0" x 4096, '[' x 100_000, "$good$good", "$good}",
    "\xef\xbb\xbf$good", $good =~ s/70/71/r, '{"version":999999}';
is_deeply(\%bad, {}, 'other texts that are not ours');

is_json($t->api('PUT', '/shifts/kong/weight', { new => 10 }), 409, {},
    'after a damaged file the gate is closed again');
$t->put('gate', { state => 'open', evidence => $evidence });
$t->weight(70);
ok($front->stop && $front->start, 'restart');
is_json($t->api('GET', '/shifts/kong/weight'), 200, { new => 70 },
    'a file moved aside does not stop the next one');

# what is drained is part of the file, and taken as strictly; with the right sum
sub with_drains {
    my ($drains, $weight) = @_;

    my $json = JSON::PP->new->canonical->allow_nonref;
    my $whole = from_json($good);
    delete $whole->{sha256};
    my $kong = $whole->{shifts}{kong};
    @$kong{qw(weight conf_weight)} = ($weight // 70, 30);
    $kong->{drains} = $drains;
    $whole->{sha256} = Digest::SHA::sha256_hex($json->encode($whole));

    return $json->encode($whole);
}

my $drain = { changed => 1, rate => 20, deadline => 0 };
my @peers = ({ pool => 'old', addr => '10.0.0.1:80' },
    { pool => 'new', addr => 'unix:/run/dp' });
my @many = map { { pool => 'old', addr => "10.0.0.$_:80" } } 1 .. 17;

for my $case (['peers', { peers => \@peers }], ['none', {}],
    ['16 peers', { peers => [@many[0 .. 15]] }])
{
    my ($name, $drains) = @$case;
    is(start_with(sub { write_file($file, with_drains($drains)) }), 70,
        "a file with drains: $name");
}
is(start_with(sub { write_file($file, with_drains({ old => $drain,
    peers => \@peers }, 100)) }), 100, 'a file with drains: old');
is_json($t->api('GET', '/shifts/kong/pools/old'), 200,
    { drained => JSON::PP::true }, 'a file with drains: in force');
is(start_with(sub { write_file($file, with_drains({ new => $drain }, 0)) }), 0,
    'a file with drains: new');

for my $case (['a list', [$drain]], ['no object', 1], ['null', undef],
    ['another pool', { both => $drain }], ['true', { old => JSON::PP::true }],
    ['a pool that has a weight', { old => $drain }],
    ['the other one', { new => $drain }],
    ['a rate beyond all', { new => { %$drain, rate => 10001 } }, 0],
    ['a rate below 0', { new => { %$drain, rate => -1 } }, 0],
    ['a real rate', { new => { %$drain, rate => 1.5 } }, 0],
    ['a rate as text', { new => { %$drain, rate => '20' } }, 0],
    ['a deadline below 0', { new => { %$drain, deadline => -1 } }, 0],
    ['a field too many', { new => { %$drain, by => 1 } }, 0],
    ['a field too few', { new => { rate => 1, deadline => 1 } }, 0],
    ['peers as an object', { peers => {} }], ['17 peers', { peers => \@many }],
    ['a peer twice', { peers => [@peers, $peers[0]] }],
    ['a peer of no pool', { peers => [{ pool => 'both', addr => 'x' }] }],
    ['a peer without an address', { peers => [{ pool => 'old' }] }],
    ['an empty address', { peers => [{ pool => 'old', addr => '' }] }],
    ['a long address', { peers => [{ pool => 'old', addr => 'x' x 64 }] }],
    ['a number as address', { peers => [{ pool => 'old', addr => 1 }] }],
    ['a line in an address', { peers => [{ pool => 'old', addr => "x\n" }] }],
    ['a peer too exact', { peers => [{ %{ $peers[0] }, x => 1 }] }])
{
    my ($name, $drains, $weight) = @$case;
    my $text = with_drains($drains, $weight);
    is(start_with(sub { write_file($file, $text) }), 30,
        "a bad drain, $name: starts with weight=");
    is(read_file($corrupt), $text, "a bad drain, $name: is set aside");
}

# nginx -t looks and touches nothing
write_file($file, 'damaged');
unlink $corrupt;
my ($ok) = $front->test_conf($t->front_conf(weight => 30));
ok(read_file($file) eq 'damaged' && !-e $corrupt,
    'nginx -t leaves a damaged file where it is');


# --- things that are no file

my $target = "$t->{dir}/target";

for my $odd (
    ['a directory', sub { mkdir $file }, sub { rmdir $file }],
    ['a FIFO', sub { POSIX::mkfifo($file, 0644) }],
    ['a symlink to another file', sub { write_file($target, "root:x:0:0\n");
        symlink $target, $file }],
    ['a symlink to nothing', sub { symlink "$dir/nothing", $file }],
    ['a symlink to itself', sub { symlink $file, $file }],
    ['1 GB of nothing', sub { write_file($file, ''); truncate $file, 1 << 30 }],
    ['an unreadable file', sub { write_file($file, $good); chmod 0, $file }])
{
    my ($name, $prepare, $end) = @$odd;

    my $began = time();
    my $w = start_with($prepare);
    like($w, qr/\A(?:30|70)\z/, "$name: starts with a sane weight");
    cmp_ok(time() - $began, '<', 10, "$name: and soon");
    is($t->pool('/'), 'old', "$name: and serves") if $w eq '30';

    if (!defined $front->{master}) {
        $end->() if $end;
        next;
    }

    # it may or may not be possible to save: never a false 2xx
    my $a = $t->api('PUT', '/shifts/kong/freeze', { state => 'on' });
    like($a->{status}, qr/\A(?:200|507)\z/, "$name: a change is saved or refused");
    $front->kill_all;
    $front->start;
    is($t->api('GET', '/shifts/kong/freeze')->{json}{state},
        $a->{status} == 200 ? 'on' : 'off', "$name: and that was the truth");

    $front->kill_all;
    $end->() if $end;
    unlink $file, $corrupt;
    rmdir $corrupt;
}

is(read_file($target), "root:x:0:0\n", 'what a symlink points at is untouched');
ok(!-e "$dir/nothing" || -s _, 'no empty file behind a symlink');


# --- files that are always whole

unlink $file;
ok($front->start, 'start without a file');
$t->put('gate', { state => 'open', evidence => $evidence });

my ($torn, $reads) = (0, 0);
for my $i (1 .. 40) {
    my $c = $t->connect('admin');
    my $body = to_json({ new => $i });
    $c->send($c->format_request('PUT', '/shifts/kong/weight', body => $body));
    kill 'USR1', $front->master if $i % 8 == 0;

    my $end = time() + 30;
    until ($c->{buf} =~ /\r\n\r\n/ || $c->{eof} || time() > $end) {
        my $text = read_file($file);
        $reads++;
        $torn++ if defined $text && !from_json($text);
        $c->fill(0);
    }
    $c->close_now;
}
is($torn, 0, "40 changes, log rotation amid them: $reads reads, none torn");

$t->finish(qr/kong_shift state file/, qr/exited on signal 9/);
