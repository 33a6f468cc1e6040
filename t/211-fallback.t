# A pool without a ready server hands its share over until it has one again, as
# far as the other one may take it.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) } qw(old new front admin);

# ready as long as its file is there
my $flags = $t->state_dir('flags');
chmod 0777, $flags;
$t->backend(pools => [], conf => join '', map { <<"EOC" } qw(old new));
    server { listen $is{$_} backlog=4096;
        location / { return 200 "$_\\n"; }
        location = /ready { if (-f $flags/$_) { return 200; } return 503; } }
EOC

sub ready {
    my ($pool, $yes) = @_;
    $yes ? write_file("$flags/$pool", '') : unlink "$flags/$pool";
}
ready('old', 1);

my $front = $t->nginx(name => 'front', workers => 2, conf => <<"EOC");
    log_format f '\$kong_shift_pool \$kong_shift_reason \$kong_shift_rescued';
    upstream dp_old { zone dp_old 64k; server $is{old}; }
    upstream dp_new { zone dp_new 64k; server $is{new}; }
    map \$arg_to \$to { default ''; old old; new new; }
    upstream kong { kong_shift old=dp_old new=dp_new weight=50;
        kong_shift_override \$to;
        kong_shift_check uri=/ready interval=100ms timeout=50ms fails=2 passes=2; }
    server {
        listen $is{front} backlog=4096 reuseport;
        access_log logs/access.log f;
        location / {
            proxy_pass http://kong;
            add_header X-Pool "\$kong_shift_pool \$kong_shift_reason \$kong_shift_rescued" always;
        }
    }
    server { listen $is{admin} reuseport; location / { kong_shift_api write=on; } }
EOC
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub pool { return $t->api('GET', "/shifts/kong/pools/$_[0]")->{json} }

# statuses and choices of 20 requests
sub seen {
    my %n;
    for (1 .. 20) {
        my $r = $t->get('/');
        $n{ $r ? "$r->{status} $r->{headers}{'x-pool'}" : 'none' }++;
    }
    return \%n;
}

sub becomes {
    my ($pool, $ready) = @_;

    ready($pool, $ready);
    ok(retry_until(sub { pool($pool)->{ready} == $ready }, 20),
        "$pool is " . ($ready ? 'ready' : 'not ready'));
}

is_deeply(seen(), { '200 old weight 0' => 10, '200 old fallback 0' => 10 },
    'new is not ready: its half goes to old');
is(pool('new')->{fallback}, JSON::PP::true, 'which the endpoint says');
my $c = pool('old')->{counters};
is("$c->{chosen} $c->{fallback} $c->{served}", '20 10 20', 'and is counted');
is(pool('new')->{counters}{chosen}, 0, 'nothing of it at new');

becomes('new', 1);
is_deeply(seen(), { '200 old weight 0' => 10, '200 new weight 0' => 10 },
    'both are ready');

becomes('old', 0);
is_deeply(seen(), { '200 new weight 0' => 10, '200 new fallback 0' => 10 },
    'old is not ready: its half goes to new');
is($t->get('/?to=old')->{headers}{'x-pool'}, 'old override 0',
    'an override goes where it says');
is($t->get('/?to=old')->{status}, 502, 'and fails there');

$t->api('POST', '/shifts/kong/abort');
ok(retry_until(sub { my $s = seen(); keys %$s == 1
        && $s->{'200 old weight 0'} }, 20),
    'after an abort nothing goes to new: old is used as if unchecked');
is(pool('old')->{fail_open}, JSON::PP::true, 'which the endpoint says');

becomes('old', 1);
is_deeply(seen(), { '200 old weight 0' => 20 }, 'old is ready again');
$t->weight(50);
is_deeply(seen(), { '200 old weight 0' => 10, '200 new weight 0' => 10 },
    'all as before');

# both at once: clients are served by old, which is asked unchecked
becomes('new', 0);
becomes('old', 0);
my $s = seen();
is(scalar(grep { !/^200 old / } keys %$s), 0,
    'both are not ready: old is asked all the same')
    or diag(explain($s));

my %events;
$events{ $_->{action} }++
    for @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
ok($events{fallback}, 'events of fallback');
ok($events{fail_open}, 'and of fail_open');

$t->finish;
