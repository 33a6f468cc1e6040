# A data plane that was ready and has lost its configuration answers 404 to
# everything: no client sees one, from the first moment on.  What is a true 404
# is passed on, and costs next to nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use List::Util qw(sum);
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::Planes;

my $t = KongShift->new;
my $planes = KongShift::Planes->new($t);
my @all = $planes->names;
my %name_of = map { $planes->at($_) => $_ } @all;
my $no_route = '{"message":"no Route matched with those values"}';

$planes->start(@all);

# A checked pool belongs to one shift alone, so that each has its own.
my %shift = (
    short  => 'weight=50; kong_shift_check INTERVAL=500ms;',
    long   => 'weight=50; kong_shift_check INTERVAL=5s;',
    full   => 'weight=100; kong_shift_check INTERVAL=5s;',
    none   => 'weight=0; kong_shift_check INTERVAL=5s;',
    stay   => 'weight=100; kong_shift_check INTERVAL=5s; kong_shift_rescue off;',
    pinned => 'weight=0; kong_shift_check INTERVAL=5s;
               kong_shift_override $http_x_pool;',
    half   => 'weight=100; kong_shift_check pool=new INTERVAL=5s;',
    single => 'weight=100; kong_shift_check INTERVAL=5s;',
    eager  => 'weight=100; kong_shift_check INTERVAL=5s;',
    free   => 'weight=100;',
);

sub pools {
    my ($name) = @_;
    my $one = $name eq 'single' ? 1 : 2;
    my $more = $name eq 'eager' ? 'max_fails=0' : '';

    return join '', map { my $p = $_; my $n = 0; <<"EOC" } qw(old new);
    upstream ${name}_$p { zone ${name}_$p 128k; keepalive 16;
        @{[ join ' ', grep { $n++ < $one } $planes->servers($p, undef, $more) =~ /server [^;]+;/g ]} }
EOC
}

sub shift_conf {
    my ($name) = @_;
    my $conf = $shift{$name};

    $conf =~ s/INTERVAL=(\S+)(?=;)/port=$planes->{port}{status} interval=$1 timeout=400ms passes=1/
        if $conf =~ /INTERVAL/;
    return pools($name) . "    upstream $name { kong_shift old=${name}_old "
        . "new=${name}_new $conf }\n";
}

my $h2 = $t->port('h2');
my %h2 = map { $_ => "$planes->{plane}{$_}{addr}:$h2" } qw(old1 new1);
$t->backend(pools => [], conf => <<"EOC");
    server { listen $h2{old1} http2; return 200 "old\n"; }
    server { listen $h2{new1} http2; return 404 "new\n"; }
EOC

my $proxy = 'proxy_http_version 1.1; proxy_set_header Connection "";';
my $location = sub {
    my ($name, $to, $more) = @_;
    return "        location /$name/ { proxy_pass http://$to; $proxy "
        . ($more // '') . "\n            add_header X-Pool \$kong_shift_pool "
        . "always; }\n";
};

my $front = $t->front(
    workers => 2,
    pools => pools('kong'),
    shift => 'kong_shift old=kong_old new=kong_new weight=0;',
    http => join('', map { shift_conf($_) } sort keys %shift) . <<"EOC",
    upstream g_old { zone g_old 64k; server $h2{old1}; keepalive 2; }
    upstream g_new { zone g_new 64k; server $h2{new1}; keepalive 2; }
    upstream g { kong_shift old=g_old new=g_new weight=100;
        kong_shift_check port=$planes->{port}{status} interval=5s passes=1; }
    server { listen @{[ $t->listen_at('front2') ]} http2;
        location / { proxy_pass http://full; $proxy } }
    proxy_connect_timeout 1s;
    proxy_cache_path cache keys_zone=c:1m;
    log_format s '\$status|\$upstream_addr|\$upstream_status|\$kong_shift_pool|'
                 '\$kong_shift_rescued|\$kong_shift_origin|\$request_uri';
    access_log logs/access.log s;
EOC
    server => join('', map { $location->($_, $_) } sort keys %shift)
        . $location->('off', 'full', 'proxy_next_upstream off;')
        . $location->('one', 'full', 'proxy_next_upstream_tries 1;')
        . $location->('two', 'stay', 'proxy_next_upstream_tries 2;')
        . $location->('three', 'full', 'proxy_next_upstream_tries 3;')
        . $location->('own', 'full',
            'proxy_intercept_errors on; error_page 404 = @own;')
        . $location->('cache', 'full', 'proxy_cache c; proxy_cache_key '
            . '$request_uri; proxy_cache_valid 404 1s; '
            . 'proxy_cache_valid any 1m; proxy_cache_use_stale http_404 error; '
            . 'add_header X-Cache $upstream_cache_status always;')
        . $location->('unbuffered', 'full', 'proxy_request_buffering off;')
        . $location->('again', 'full', 'proxy_next_upstream error non_idempotent;')
        . "        location /g/ { grpc_pass grpc://g; }\n"
        . "        location \@own { return 200 'own'; }\n",
);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub pool { return $t->api('GET', "/shifts/$_[0]/pools/$_[1]")->{json} }

sub ready {
    my ($name) = @_;
    my $want = $name =~ /^(?:single|g)$/ ? 1 : 2;

    return $name eq 'free' || retry_until(sub {
        !grep { $_->{checked} && $_->{ready} != $want }
            map { pool($name, $_) } qw(old new);
    }, 15);
}

sub mode { my ($mode, @names) = @_; $planes->mode($_, $mode) for @names }
sub taken { return sum(map { $planes->control($_)->{requests} } @all) }

# until no peer is known to be honest, renewed or not
sub forget { sleep 1.1 }

# what nginx has logged of the last request but "skip"
sub logged {
    my ($uri) = @_;
    my $line;

    retry_until(sub {
        ($line) = grep { /\|\Q$uri\E$/ } reverse $front->access_log(0);
        return $line;
    }, 5);

    my ($status, $addr, $said, $pool, $rescued) = split /\|/, $line // '';
    $addr =~ s/[\w.]+:\d+/$name_of{$&} \/\/ $&/ge;
    $addr =~ s/(\w+)\d/$1/g if ($_[1] // '') eq 'pools';
    return "$status $addr $said $pool $rescued";
}

my $n = 0;
sub ask {
    my ($method, $where, $what, %o) = @_;
    my $uri = "/$where/" . ++$n . "/$what";
    my $r = $t->http('front', $method, $uri, %o) or return 'no answer';

    return wantarray ? ($r, logged($uri, 'pools')) : logged($uri, 'pools');
}

ok(ready($_), "all planes of \"$_\" are ready") for 'g', sort keys %shift;


# --- nobody sees the 404s of one that has lost its configuration

sub lost {
    my ($what, $name, $break, @victims) = @_;
    my $load = KongShift::Planes::start_load($t, '--rate', 300,
        '--connections', 8, '--path', "/$name/x");

    sleep 0.3 + rand 0.6;
    $break->(@victims);
    my $broken = time();

    my @pools = grep { my $p = $_; grep { /^$p/ } @victims } qw(old new);
    my $want = @victims / @pools;
    my $seen = retry_until(sub {
        @pools == grep { pool($name, $_)->{ready} <= 2 - $want } @pools;
    }, 6);
    my $took = time() - $broken;
    sleep 0.3;

    my $r = KongShift::Planes::stop_load($load);
    is($r->{failures}, 0, "$what: no client sees it, of $r->{requests}")
        or diag(explain($r->{errors}));
    is($r->{statuses}{404} // 0, 0, "$what: no 404");
    ok($seen, "$what: noticed");
    cmp_ok($took, '<', 2, sprintf '%s: after %.2f s', $what, $took);

    mode('ok', @all);
    ok(ready($name), "$what: ready again");
}

for my $name (qw(short long)) {
    my $before = pool($name, 'new')->{counters}{suspected};
    lost("$name, one of new", $name, sub { mode('empty', @_) }, 'new1');
    cmp_ok(pool($name, 'new')->{counters}{suspected}, '>', $before,
        "$name: what was tried elsewhere is counted");
    lost("$name, all of new", $name, sub { mode('empty', @_) }, qw(new1 new2));
}

lost('weight 100, all of new', 'full', sub { mode('empty', @_) }, qw(new1 new2));
lost('weight 100, all of new, no headers', 'full', sub { mode('bare', @_) },
    qw(new1 new2));
lost('weight 0, one of old', 'none', sub { mode('empty', @_) }, 'old2');
lost('all of old, new takes over', 'long', sub { mode('empty', @_) },
    qw(old1 old2));
lost('old is not checked', 'half', sub { mode('empty', @_) }, qw(new1 new2));

lost('killed and started empty', 'eager', sub {
    $planes->signal($_, 'KILL') for @_;
    $planes->start_as('empty', @_);
}, qw(new1 new2));

my $c = pool('eager', 'new')->{counters};
my $rescued = () = grep { m{^200\|.*\|old\|1\|[^|]*\|/eager/x$} }
    $front->access_log(0);
is($c->{rescued}, $rescued, 'rescued, as in the log');
is($c->{failed}, $rescued, 'and all failed of new');
is($c->{not_found}{gateway} + $c->{not_found}{unknown}, 0, 'no 404 was sent');
is(pool('eager', 'old')->{counters}{failed}, 0, 'old failed none');

# connections stay as they are, so that this is not what tells of it
mode('empty', 'new1', 'new2');
my $conn = $t->connect;
is($conn->request('GET', '/long/y')->{status}, 200, 'on one connection')
    for 1 .. 8;
$conn->close_now;
mode('ok', 'new1', 'new2');
ok(ready($_), "\"$_\" is ready") for sort keys %shift;


# --- true 404s

sub cost_of {
    my ($what, $name, $most) = @_;
    my $before = taken();
    my ($old, $new) = map { pool($name, $_)->{counters} } qw(old new);

    my $r = KongShift::Planes::start_load($t, '--rate', 300, '--connections', 8,
        '--path', "/$name/$what");
    sleep 3;
    $r = KongShift::Planes::stop_load($r);

    my $more = taken() - $before - $r->{requests};
    is($r->{statuses}{404}, $r->{requests}, "$what: 404 for all");
    cmp_ok($more, '<=', $most,
        "$what: $more requests more than the $r->{requests} asked for");

    my ($old2, $new2) = map { pool($name, $_)->{counters} } qw(old new);
    is($old2->{failed} + $new2->{failed}, $old->{failed} + $new->{failed},
        "$what: nobody has failed");
    is($old2->{rescued} + $new2->{rescued}, $old->{rescued} + $new->{rescued},
        "$what: nobody was rescued");
    is($old2->{served} + $new2->{served},
        $old->{served} + $new->{served} + $r->{requests}, "$what: all are served");
    is(pool($name, $_)->{ready}, 2, "$what: $_ is ready") for qw(old new);
}

cost_of('no-route', 'short', 4 * 2 * 7);
cost_of('no-route', 'long', 4 * 2 * 7);
cost_of('bare', 'long', 4 * 2 * 7);
cost_of('gone', 'long', 0);

forget();
my ($r, $log) = ask('GET', 'full', 'no-route');
is($r->{body}, $no_route, 'the body of a true 404');
is($log, '404 new, new, old, old 404, 404, 404, 404 old 0', 'all were asked');
is((ask('GET', 'full', 'gone'))[1], '404 new 404 new 0', 'a backend is not doubted');
is((ask('GET', 'full', 'no-route'))[1] =~ /^404 new/ ? 1 : 0, 1, 'once more');

# with the honest ones only one is asked
retry_until(sub { (ask('GET', 'full', 'no-route'))[1] eq '404 new 404 new 0' }, 5);
is((ask('GET', 'full', 'no-route'))[1], '404 new 404 new 0', 'they are honest');
forget();

# HEAD, and other methods
is((ask('HEAD', 'full', 'no-route'))[1],
    '404 new, new, old, old 404, 404, 404, 404 old 0', 'HEAD');
forget();
is((ask('GET', 'single', 'no-route'))[1], '404 new, old 404, 404 old 0',
    'pools of one server');


# --- one that comes and goes

forget();
mode('empty', 'new1');
is((ask('GET', 'single', 'x'))[1], '200 new, old 404, 200 old 1', 'it goes');
sleep 0.25;
mode('ok', 'new1');
is((ask('GET', 'single', 'no-route'))[1], '404 new, old 404, 404 old 0',
    'it comes back');
sleep 0.25;
mode('empty', 'new1');
is((ask('GET', 'single', 'x'))[1], '200 new, old 404, 200 old 1',
    'it goes again, at once');
mode('ok', 'new1');
ok(ready('single'), 'and is back');


# --- POST

mode('empty', 'new1', 'new2');
my $big = 'x' x 300_000;
is((ask('POST', 'unbuffered', 'post', body => $big))[1], '404 new 404 new 0',
    'a POST that was not kept cannot be sent again');
($r, $log) = ask('POST', 'full', 'post', body => 'x=1');
is($r->{status}, 200, 'a POST that was not proxied is sent again');
like($r->{body}, qr/^old \S+x=1$/, 'with its body');
is($log, '200 new, new, old 404, 404, 200 old 1', 'elsewhere');
($r, $log) = ask('POST', 'full', 'post', body => $big);
is(length($r->{body}), length("old \n") + length($big)
    + length("/full/$n/post"), 'a long body too');
mode('ok', 'new1', 'new2');
ok(ready('full'), 'ready again');
forget();
is((ask('POST', 'full', 'denied', body => 'x=1'))[1], '404 new 404 new 0',
    'another 404 of a POST is not');
forget();
is((ask('POST', 'full', 'bare', body => 'x=1'))[1], '404 new 404 new 0',
    'nor one without headers');
forget();
is((ask('POST', 'again', 'denied', body => 'x=1'))[1],
    '404 new, new, old, old 404, 404, 404, 404 old 0',
    'unless non_idempotent says so');


# --- with errors of others before and after

$planes->signal('new1', 'KILL');
mode('empty', 'new2');
$log = '';
for (1 .. 4) {
    $log = ask('GET', 'eager', 'x');
    last if $log =~ /502, 404/;
}
is($log, '200 new, new, old 502, 404, 200 old 1', 'a 404 after an error');
$planes->start('new1');
mode('ok', 'new2');
ok(ready('eager'), 'both are back');
mode('empty', 'new1');
mode('reset', 'new2');
my @log = map { scalar ask('POST', 'eager', 'x', body => 'x=1') } 1 .. 4;
ok((grep { $_ eq '502 new, new 404, 502 new 0' } @log),
    'a POST that got lost after a 404 is not sent again') or diag(explain(\@log));
mode('ok', 'new1', 'new2');
ok(ready($_), "\"$_\" is ready") for sort keys %shift;


# --- limits

forget();
is((ask('GET', 'off', 'no-route'))[1], '404 new 404 new 0',
    'proxy_next_upstream off');
forget();
is((ask('GET', 'one', 'no-route'))[1], '404 new 404 new 0', 'one try');
forget();
is((ask('GET', 'two', 'no-route'))[1], '404 new, new 404, 404 new 0',
    'two tries');
forget();
is((ask('GET', 'three', 'no-route'))[1], '404 new, new, old 404, 404, 404 old 0',
    'three tries');
is((ask('GET', 'free', 'no-route'))[1], '404 new 404 new 0',
    'a pool that is not checked');
is((ask('GET', 'half', 'gone'))[1], '404 new 404 new 0', 'half: a backend');
forget();
is((ask('GET', 'half', 'no-route'))[1], '404 new, new, old 404, 404, 404 old 0',
    'an unchecked old pool is asked once');
forget();
is((ask('GET', 'stay', 'no-route'))[1], '404 new, new 404, 404 new 0',
    'no rescue');
forget();
is((ask('GET', 'pinned', 'no-route', headers => ['X-Pool: new']))[1],
    '404 new, new 404, 404 new 0', 'an override stays in its pool');
forget();
is((ask('GET', 'pinned', 'no-route', headers => ['X-Pool: old']))[1],
    '404 old, old 404, 404 old 0', 'in old too');
forget();
is((ask('GET', 'none', 'no-route'))[1], '404 old, old 404, 404 old 0',
    'weight 0: not to new');


# --- nobody else is left: a true 404 is no error

$planes->signal('new2', 'KILL');
wait_for('not ready', sub { pool('stay', 'new')->{ready} == 1 }, 15);
wait_for('not ready', sub { pool('full', 'new')->{ready} == 1 }, 15);
forget();
($r, $log) = ask('GET', 'stay', 'no-route');
is($log, '404 new, new 404, 404 new 0', 'the only one is asked again');
is($r->{body}, $no_route, 'its body');

# old is dead, and nobody checks it
$planes->signal($_, 'KILL') for qw(old1 old2);
wait_for('not ready', sub { pool('half', 'new')->{ready} == 1 }, 15);
forget();
($r, $log) = ask('GET', 'half', 'no-route');
is($log, '404 new, old, old, new 404, 502, 502, 404 new 0',
    'old is dead: back to new');
is($r->{body}, $no_route, 'its body');
wait_for('not ready', sub { pool('full', 'old')->{ready} == 0 }, 15);
forget();
($r, $log) = ask('GET', 'full', 'no-route');
is($log, '404 new, new 404, 404 new 0', 'old is known to be dead');
$planes->start(qw(new2 old1 old2));
ok(ready($_), "\"$_\" is ready") for sort keys %shift;


# --- cache, error_page

mode('empty', 'new1', 'new2');
($r) = ask('GET', 'cache', 'a');
is($r->{status}, 200, 'with a cache');
is($t->http('front', 'GET', "/cache/$n/a")->{headers}{'x-cache'}, 'HIT',
    'the right answer is kept');
is(`curl -s --http2-prior-knowledge @{[ $t->listen_at('front2') ]}/full/z`,
    "old /full/z\n", 'HTTP/2') if `curl -V` =~ /HTTP2/;
mode('ok', 'new1', 'new2');
ok(ready('full'), 'ready again');
forget();
is($t->http('front', 'GET', '/g/1')->{body}, "old\n", 'gRPC');
ok(retry_until(sub { $t->http('front', 'GET', '/g/1')->{body} eq "new\n" }, 5),
    'gRPC: and honest after it');
is($t->http('front', 'POST', '/g/1', body => 'x')->{body}, "new\n",
    'gRPC: a call is not repeated');
($r) = ask('GET', 'cache', 'no-route');
is("$r->{status} $r->{headers}{'x-cache'}", '404 MISS', 'a true 404');
$r = $t->http('front', 'GET', "/cache/$n/no-route");
is("$r->{status} $r->{headers}{'x-cache'}", '404 HIT', 'is kept');
sleep 2.1;
$r = $t->http('front', 'GET', "/cache/$n/no-route");
is("$r->{status} $r->{headers}{'x-cache'}", '404 STALE', 'and stale');
is($r->{body}, $no_route, 'its body');
forget();
($r) = ask('GET', 'own', 'no-route');
is("$r->{status} $r->{body}", '200 own', 'error_page');

$t->finish;
