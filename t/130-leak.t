# What is done many times leaves nothing behind: memory and descriptors of a
# worker, and of the master over reloads.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

# its allocator keeps what was freed
plan skip_all => 'memory of a sanitizer build says nothing'
    if ($ENV{TEST_NGINX_BINARY} // '') =~ /asan/ || exists $ENV{ASAN_OPTIONS};

my $t = KongShift->new;
$t->backend;

my $front = $t->front(weight => 50, extra => 'kong_shift_key $arg_k;', server => <<'EOC');
    location /admin/ { kong_shift_freeze kong; proxy_pass http://kong; }
EOC
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub memory {
    my ($pid) = @_;
    my $smaps = read_file("/proc/$pid/smaps_rollup") // '';

    # the zone is shared and not of interest
    my ($kb) = $smaps =~ /^Private_Dirty: +(\d+)/m;
    ($kb) = (read_file("/proc/$pid/status") // '') =~ /^RssAnon:\s+(\d+)/m
        if !defined $kb;
    return $kb;
}

sub descriptors { my @fd = glob "/proc/$_[0]/fd/*"; return scalar @fd }

# growth over n times, after a start that fills pools and caches
sub flat {
    my ($name, $n, $limit, $code) = @_;
    my ($pid) = $front->workers;

    $code->() for 1 .. $n / 4;
    my ($was, $fds) = (memory($pid), descriptors($pid));
    $code->() for 1 .. $n;
    my $grown = memory($pid) - $was;

    cmp_ok($grown, '<', $limit, "$name: $grown KiB more");
    ok(retry_until(sub { descriptors($pid) - $fds <= 2 }),
        "$name: no descriptor more");
    is(($front->workers)[0], $pid, "$name: the same worker");
}

flat('20,000 requests', 20, 500, sub {
    $t->load(requests => 1000, conns => 4, pipeline => 25,
        uri => sub { $_[0] % 2 ? "/?k=$_[0]" : '/' });
});

my $c = $t->connect('admin');
my $put = sub {
    my ($body, @headers) = @_;
    $c->request('PUT', '/shifts/kong/weight', body => $body,
        headers => \@headers) // do { $c = $t->connect('admin'); undef };
};

my $change = sub { $put->('{"new":' . int(rand 100) . ',"comment":"leak?"}') };

flat('1,000 changes', 1000, 300, $change);
flat('3,000 refused changes', 1000, 300, sub {
    $put->('{"new":101,"x":[1,2,{"y":"z"}]}');
    $put->('{"new":1,"new":2}');
    $put->('{"new":1}', 'If-Match: "1"');
});
flat('1,200 answers', 400, 300, sub {
    $c->request('GET', '/shifts');
    $c->request('GET', '/shifts/kong/events?since=100');
    $c->request('GET', '/shifts/none');
});
$c->close_now;

flat('600 connections that leave', 30, 2000, sub {
    for (1 .. 20) {
        my $c = $t->connect('admin');
        $c->send($c->format_request('PUT', '/shifts/kong/weight',
            body => '{"new":7}'));
        $c->reset;
    }
    $t->weight(8);
});

$t->put('freeze', { state => 'on' });
flat('2,000 frozen writes', 20, 300, sub {
    my $c = $t->connect;
    $c->request('POST', '/admin/x', body => 'x') for 1 .. 100;
    $c->close_now;
});

# a reload makes a new configuration; the old one must go whole
sub reloads { $front->reload || die 'reload' for 1 .. $_[0] }

reloads(8);
my $was = memory($front->master);
my $fds = descriptors($front->master);
reloads(25);
my $grown = memory($front->master) - $was;
cmp_ok($grown, '<', 400, "25 reloads: $grown KiB more in the master");
cmp_ok(descriptors($front->master) - $fds, '<=', 2,
    '25 reloads: no descriptor more in the master');
ok($front->stop, 'stop');

# changes that are saved
$front = $t->front(name => 'saving', state => $t->state_dir . '/state.json');
ok($front->start, 'nginx with a state file') or BAIL_OUT($front->{start_output});
$c = $t->connect('admin');
flat('160 saved changes', 160, 300, $change);
$c->close_now;

$t->finish;
