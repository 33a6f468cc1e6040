# With a key the choice is a function of seed, key and weight: raising the
# weight moves clients from old to new only, in every worker, after a reload, a
# restart, a binary upgrade, and on another nginx.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

use constant KEYS => 10_000;

my $t = KongShift->new;
$t->backend;

my $state = $t->state_dir . '/state.json';
my $key = 'kong_shift_key $arg_k;';
my $front = $t->front(workers => 4, state => $state, weight => 10,
    extra => $key);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

# the pool of every key
sub all_keys {
    my (%o) = @_;

    my $r = $t->load(requests => KEYS, conns => 16, pipeline => 50,
        uri => sub { "/?k=client-$_[0]" }, %o);
    diag("@{ $r->{errors} }") if $r->{failed};

    return $r->{order};
}

sub share {
    my ($order) = @_;
    return 100 * (grep { $_ eq 'new' } @$order) / @$order;
}

# how many keys moved, and how many of them to new
sub moved {
    my ($from, $to) = @_;
    my @m = grep { $from->[$_] ne $to->[$_] } 0 .. $#$from;

    return (scalar @m, scalar grep { $to->[$_] eq 'new' } @m);
}

sub same {
    my ($name, $was, $is) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is(join(' ', moved($was, $is)), '0 0', $name);
}


# --- up and back

my %at;
my $last = $at{10} = all_keys();
cmp_ok(abs(share($last) - 10), '<=', 2, 'weight 10: ' . share($last) . '%');

for my $weight (25, 50, 100) {
    $t->weight($weight);
    $at{$weight} = all_keys();

    my ($n, $to_new) = moved($last, $at{$weight});
    cmp_ok(abs(share($at{$weight}) - $weight), '<=', 2,
        "weight $weight: " . share($at{$weight}) . '%');
    is($n - $to_new, 0, "up to $weight: none of $n moved from new to old");
    cmp_ok($n, '>', 0, "up to $weight: some moved");
    $last = $at{$weight};
}

for my $weight (50, 25, 10) {
    $t->weight($weight);
    my $now = all_keys();

    my ($n, $to_new) = moved($last, $now);
    is($to_new, 0, "down to $weight: none of $n moved from old to new");
    same("down to $weight: the keys it had on the way up", $at{$weight}, $now);
    $last = $now;
}

$t->weight(0);
is(share(all_keys()), 0, 'weight 0: no key is new');

$t->weight(0.05);
my $tiny = all_keys();
cmp_ok(share($tiny), '<', 0.3, 'weight 0.05: hardly any key is new');
is((moved($tiny, $at{10}))[0] - (moved($tiny, $at{10}))[1], 0,
    'weight 0.05: those that are, are so at 10 as well');


# --- every worker decides alike

$t->weight(25);

my %pinned;
for (1 .. 500) {
    my $c = $t->connect;
    my $r = $c->request('GET', '/');
    $pinned{ $r->{headers}{'x-worker'} } //= $c;
    last if keys %pinned == 4;
}
is(scalar keys %pinned, 4, 'a connection to each of the four workers');

for my $c (values %pinned) {
    my @got;

    for my $from (map { $_ * 100 } 0 .. 9) {
        $c->send(join '', map { $c->format_request('GET', "/?k=client-$_") }
            $from .. $from + 99);
        push @got, map { ($c->response // { body => 'none' })->{body}
            =~ /^(\w+)/ } 1 .. 100;
    }

    same('a worker decides as the others', [@{ $at{25} }[0 .. 999]], \@got);
    $c->close_now;
}


# --- and goes on so

ok($front->reload, 'reload');
same('after a reload', $at{25}, all_keys());

$front->upgrade;
ok($front->end_old_master, 'the old master leaves');
same('after a binary upgrade', $at{25}, all_keys());

ok($front->stop && $front->start, 'restart');
same('after a restart', $at{25}, all_keys());

ok($front->stop, 'stop');


# --- another nginx: the name of the shift is the seed unless one is given

sub other {
    my ($name, $extra) = @_;
    my $n = $t->front(name => $name, weight => 25, extra => $extra);

    $n->start or BAIL_OUT($n->{start_output});
    my $order = all_keys();
    $n->stop;

    return $order;
}

same('on a second nginx', $at{25}, other('second', $key));
same('with the seed spelled out', $at{25},
    other('spelled', 'kong_shift_key $arg_k seed=kong;'));

my ($n) = moved($at{25}, other('seeded', 'kong_shift_key $arg_k seed=salt;'));
cmp_ok($n, '>', KEYS * 0.3, "another seed is another choice: $n moved");

# a compound key is a key as any other
my $compound = other('compound', 'kong_shift_key client-${arg_n}$arg_k;');
cmp_ok((moved($at{25}, $compound))[0], '>', 0, 'the key is the whole text');


# --- no key: exact, and not disturbed by those that have one

my $mix = $t->front(name => 'mix', weight => 10, extra => $key);
$mix->start or BAIL_OUT($mix->{start_output});

my $order = $t->load(requests => 3000,
    uri => sub { $_[0] % 3 ? "/?k=client-$_[0]" : '/?k=' })->{order};
my @empty = map { $order->[$_ * 3] } 0 .. 999;
my @count = map { my $i = $_; scalar grep { $_ eq 'new' }
    @empty[$i .. $i + 9] } 0 .. 990;
is(scalar(grep { $_ != 1 } @count), 0,
    'an empty key: every 10 in a row hold exactly 1');

$order = $t->load(requests => 100)->{order};
is(scalar(grep { $_ eq 'new' } @$order), 10, 'an absent key is an empty one');

my $r = $t->get('/?k=client-1');
is($r->{headers}{'x-reason'}, 'key', 'the reason of a keyed choice');
is($t->get('/?k=')->{headers}{'x-reason'}, 'weight',
    'the reason of one without a key');

# keys as long and as odd as clients send them
for my $k ('x' x 4000, '%00', '%ff%fe', 'a b' =~ s/ /%20/r, '"\\<>') {
    my %pools = map { $t->pool("/?k=$k") => 1 } 1 .. 5;
    like(join(' ', keys %pools), qr/^(?:old|new)$/,
        'always the same pool for ' . substr $k, 0, 10);
}

$t->finish;
