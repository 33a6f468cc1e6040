# Counters of the pools against the access log, line by line: under load, with
# rescues, errors and clients that leave, over reloads; then with workers that
# are killed, each of which may lose the one request that it was logging.
#
# KONG_SHIFT_LONG=1: 1,000,000 requests, 50 reloads, 50 kills.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;

my $long = $ENV{KONG_SHIFT_LONG};
my $requests = $ENV{KONG_SHIFT_REQUESTS} // ($long ? 1_000_000 : 20_000);
my $reloads = $long ? 50 : 5;
my $kills = $long ? 50 : 5;

my $t = KongShift->new;
$t->backend(conf => <<"EOC");
    map \$request_uri \$broken { default 0; ~/broken 1; }
    server {
        listen @{[ $t->listen_at('second') ]} backlog=4096;
        location / {
            add_header Via "1.1 kong/3.9.3" always;
            add_header X-Kong-Upstream-Latency 1 always;
            if (\$broken) { return 503; }
            return 200 "new \$request_method \$uri\\n";
        }
        location /missing {
            add_header Server kong/3.9.3 always;
            add_header X-Kong-Response-Latency 0 always;
            return 404 "new missing\\n";
        }
    }
EOC

my $front = $t->front(workers => 3, pools => <<"EOC",
    upstream dp_old { zone dp_old 64k; server @{[ $t->listen_at('old') ]}
        max_fails=0; keepalive 64; }
    upstream dp_new { zone dp_new 64k; server @{[ $t->listen_at('second') ]}
        max_fails=0; keepalive 64; }
EOC
    shift => 'kong_shift old=dp_old new=dp_new weight=30;',
    http => <<'EOC',
    log_format count '$status $kong_shift_pool $kong_shift_reason '
                     '$kong_shift_rescued $kong_shift_origin "$request"';
    access_log off;
EOC
    server => <<'EOC',
        access_log logs/access.log count;
        proxy_next_upstream error timeout http_503;
EOC
);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub pool {
    my ($pool) = @_;
    my $r = $t->api('GET', "/shifts/kong/pools/$pool");
    return $r && $r->{status} == 200 ? $r->{json} : { counters => {} };
}

# Once nothing is under way: every counter, and the same of the log.
sub compare {
    my ($name, $off) = @_;

    ok(retry_until(sub {
        return !grep { pool($_)->{active} // 1 } qw(old new);
    }, 10), "$name: nothing is active at rest")
        or diag(explain([ map { pool($_) } qw(old new) ]));

    # a line is written after the client has got its answer
    my @lines = $front->access_log(0);
    my $n;
    do { $n = @lines; sleep 0.3; @lines = $front->access_log(0) }
        while @lines > $n;

    my %want = map { my $p = $_; map { ("$p $_" => 0) } qw(chosen rescued
        1xx 2xx 3xx 4xx 5xx) } qw(old new);

    for (@lines) {
        my ($status, $last, $reason, $rescued, $origin) = split ' ';
        my $first = $reason eq 'rescue'
            ? ($last eq 'old' ? 'new' : 'old') : $last;

        $want{"$first chosen"}++;
        $want{"$first rescued"}++ if $rescued;
        $want{"$last " . substr($status, 0, 1) . 'xx'}++ if $status != 499;
    }

    my %got;
    for my $p (qw(old new)) {
        my $c = pool($p)->{counters};
        $got{"$p $_"} = $c->{$_} for qw(chosen rescued);
        $got{"$p $_"} = $c->{responses}{$_} for map { "${_}xx" } 1 .. 5;
    }

    if (!$off) {
        is_deeply(\%got, \%want, "$name: counters are lines, "
            . scalar(@lines) . ' of them');
        return;
    }

    my $most = 0;
    for (sort keys %want) {
        my $d = abs($got{$_} - $want{$_});
        $most = $d if $d > $most;
    }
    my $sum = abs($got{'old chosen'} + $got{'new chosen'} - @lines);
    cmp_ok($most, '<=', $off, "$name: counters are off by $most at most, of "
        . scalar(@lines) . ' lines') or diag(explain(\%got, \%want));
    cmp_ok($sum, '<=', $off, "$name: by $sum in all");
}

# a request in 20 is broken on new, one in 50 is not there, some leave early
my @uris = map { $_ % 20 == 0 ? '/broken' : $_ % 50 == 1 ? '/missing' : "/$_" }
    0 .. 99;

sub leave_early {
    for (1 .. 5) {
        my $c = $t->connect('front') or next;
        $c->send("GET /leaves HTTP/1.1\r\nHost: t\r\n\r\n");
        $c->reset;
    }
}

sub run_load {
    my ($n, $times, $code) = @_;

    my $l = $t->start_load(requests => $n, conns => 32,
        uri => sub { $uris[$_[0] % 100] });
    my $begun = () = $front->access_log(0);
    for my $i (1 .. $times) {
        # spread over the whole run
        retry_until(sub { lines() - $begun >= $n * $i / ($times + 1) }, 600);
        $code->($i);
        leave_early();
    }
    my $res = do { local $/; readline $l->{result} };
    close $l->{stop};
    waitpid $l->{pid}, 0;

    return from_json($res);
}

# counted by its size, as it may be long
sub lines {
    my $path = "$front->{prefix}/logs/access.log";
    my $n = 0;

    open my $fh, '<', $path or return 0;
    seek $fh, $t->{log_at} // 0, 0;
    while (read $fh, my $buf, 1 << 20) {
        $n += $buf =~ tr/\n//;
    }
    $t->{log_lines} += $n;
    $t->{log_at} = tell $fh;

    return $t->{log_lines};
}

my $began = time();
my $r = run_load($requests, $reloads, sub { $front->reload });
is($r->{requests}, $requests, "$requests requests with $reloads reloads, "
    . sprintf('%.0f s', time() - $began));
my %status = %{ $r->{status} };
is(($status{502} // 0) + ($status{503} // 0) + ($status{504} // 0), 0,
    'broken ones were rescued');
cmp_ok($r->{status}{200}, '>', $requests * 0.9, 'most were answered');
compare('reloads');

$r = run_load($requests / 5, $kills, sub {
    my @w = $front->workers;
    $front->kill_worker($w[$_[0] % @w]);
});
compare("$kills kills", $kills);

$t->weight(0);
is($t->load(requests => 100)->{failed}, 0, 'it works on');

$t->finish(qr/exited on signal 9/, qr/was locked by/);
