# The counters of the pools are the access log, over all workers, reloads and
# whatever requests do; a killed worker costs at most one, and what it had in
# hand is not counted as under way for ever.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift;

# 1,000,000 for the full proof
my $REQUESTS = $ENV{KONG_SHIFT_REQUESTS} || 20_000;
$REQUESTS /= 10 if ($ENV{TEST_NGINX_BINARY} // '') =~ /asan/;

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) } qw(old new refused silent cut front
    admin);
my $silent = IO::Socket::INET->new(LocalAddr => $is{silent}, Listen => 1024,
    ReuseAddr => 1) or die "listen: $!";

$t->backend(pools => [], conf => join('', map { <<"EOC" } qw(old new)) . <<"EOC2");
    server { listen $is{$_} backlog=4096;
        location / { return 200 "$_\\n"; }
        location /404 { return 404 "$_\\n"; }
        location /500 { return 500 "$_\\n"; }
        location /503 { return 503 "$_\\n"; }
        location = /auth { return 204; }
        location /accel { add_header X-Accel-Redirect /static; return 200 "$_\\n"; }
    }
EOC
    server { listen $is{cut}; return 444; }
EOC2

my $front = $t->nginx(name => 'front', workers => 4, conf => <<"EOC");
    log_format count '\$kong_shift_pool \$kong_shift_reason \$status '
                     '\$kong_shift_rescued';
    proxy_cache_path cache keys_zone=c:1m;
    upstream dp_old { zone dp_old 64k; server $is{old}; keepalive 16; }
    upstream dp_new { zone dp_new 64k; server $is{new}; server $is{refused};
                      keepalive 16; }
    upstream kong { kong_shift old=dp_old new=dp_new weight=30; }
    upstream dp_dead { zone dp_dead 64k; server $is{refused}; }
    upstream half { kong_shift old=dp_old new=dp_dead weight=50; }
    upstream dp_cut { server $is{cut}; }
    upstream dead { kong_shift old=dp_cut new=dp_dead weight=50; }
    upstream dp_silent { server $is{silent}; }
    upstream mute { kong_shift old=dp_silent new=dp_new weight=0; }

    server {
        listen $is{front} reuseport backlog=4096;
        access_log logs/access.log count;
        keepalive_requests 1000000;
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        add_header X-Worker \$pid always;
        location / { proxy_pass http://kong; }
        location /half/ { access_log logs/half.log count;
                          proxy_pass http://half/; }
        location /dead/ { access_log logs/dead.log count;
                          proxy_pass http://dead/; }
        location /mute/ { access_log logs/mute.log count;
                          proxy_pass http://mute/; }
        location /timed/ { access_log logs/mute.log count;
                           proxy_read_timeout 100ms; proxy_pass http://mute/; }
        location = /authed { auth_request /auth; proxy_pass http://kong/; }
        location = /allowed { auth_request /auth; root html; try_files /file =404; }
        location = /auth { internal; proxy_pass http://kong; }
        location = /mirrored { mirror /mirror; proxy_pass http://kong/; }
        location = /mirror { internal; proxy_pass http://kong/; }
        location = /ssi { ssi on; ssi_types text/plain; root html; }
        location /part { proxy_pass http://kong/; }
        location /again { proxy_intercept_errors on;
                          proxy_pass http://kong/503; error_page 503 \@again; }
        location \@again { proxy_pass http://kong; rewrite ^ /there break; }
        location = /page { proxy_intercept_errors on; error_page 404 /static;
                           proxy_pass http://kong/404; }
        location = /accel { proxy_pass http://kong; }
        location = /static { return 200 "static\\n"; }
        location = /stored { proxy_cache c; proxy_cache_valid 1h;
                             proxy_pass http://kong; }
        location = /limited { limit_except POST { deny all; }
                              proxy_pass http://kong; }
        location = /none { return 204; }
    }
    server { listen $is{admin} reuseport; location / { kong_shift_api write=on; } }
EOC
mkdir "$front->{prefix}/html";
write_file("$front->{prefix}/html/file", "file\n");
write_file("$front->{prefix}/html/ssi", join '',
    map { "<!--# include virtual=\"/part$_\" -->" } 1 .. 4);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub counters {
    my ($shift) = @_;
    my %n;

    for my $p (qw(old new)) {
        my $j = $t->api('GET', "/shifts/$shift/pools/$p")->{json};
        $n{$p} = { %{ $j->{counters} }, active => $j->{active},
            under_way => [map { $_->{active} // 0 } @{ $j->{peers} }] };
    }

    return \%n;
}

# what the log says of each pool
sub logged {
    my ($file) = @_;
    my %n = map { $_ => { chosen => 0, served => 0, failed => 0, rescued => 0,
        canceled => 0 } } qw(old new);
    my %other = (old => 'new', new => 'old');

    for (split /\n/, read_file("$front->{prefix}/logs/$file") // '') {
        my ($pool, $reason, $status, $rescued) = split / /;
        next if $pool !~ /^(?:old|new)$/;
        my $first = $reason eq 'rescue' ? $other{$pool} : $pool;

        $n{$first}{chosen}++;
        $n{$first}{failed}++ if $reason eq 'rescue';
        $n{$first}{rescued}++ if $rescued eq '1';
        $n{$pool}{ $status eq '499' ? 'canceled'
            : $status =~ /^50[24]/ ? 'failed' : 'served' }++;
    }

    return \%n;
}

sub same {
    my ($name, $shift, $file, $off) = @_;
    my ($got, $want);
    $off //= 0;

    # nginx counts and writes the line after the client has its answer
    my $ok = retry_until(sub {
        ($got, $want) = (counters($shift), logged($file));
        for my $p (qw(old new)) {
            for (keys %{ $want->{$p} }) {
                return 0 if abs($got->{$p}{$_} - $want->{$p}{$_}) > $off;
            }
            return 0 if $got->{$p}{active}
                || grep { $_ } @{ $got->{$p}{under_way} };
        }
        return 1;
    }, 10);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok($ok, "$name: counters and log agree, nothing is under way")
        or diag(explain([$got, $want]));
}


# --- one by one

for my $uri (qw(/ /404 /500 /503 /authed /allowed /mirrored /ssi /again /page
    /accel /stored /stored /limited /none /static /nothing))
{
    my $before = counters('kong');
    my $r = $t->get($uri) for 1 .. 10;
    same($uri, 'kong', 'access.log');
}
my $n = counters('kong');
is($n->{old}{not_found}{unknown} + $n->{new}{not_found}{unknown}, 20,
    '404 of the pools');
is($n->{old}{errors}{unknown} + $n->{new}{errors}{unknown}, 20, 'and 5xx');

$t->get('/half/') for 1 .. 20;
same('one pool is dead', 'half', 'half.log');
$t->get('/dead/') for 1 .. 20;
$t->http('front', 'POST', '/dead/', body => 'x') for 1 .. 10;
same('both pools are dead', 'dead', 'dead.log');

# clients that leave early, and timeouts
for my $end (qw(reset close_now)) {
    for (1 .. 10) {
        my $c = $t->connect;
        $c->send($c->format_request('GET', '/mute/'));
        retry_until(sub { counters('mute')->{old}{active} == 1 }, 5);
        $c->$end;
    }
}
$t->get('/timed/') for 1 .. 3;
same('clients that leave', 'mute', 'mute.log');
is(counters('mute')->{old}{canceled}, 20, 'are counted as that');
is(counters('mute')->{old}{failed}, 3, 'and timeouts as failures');

my $c = $t->connect;
$c->send($c->format_request('GET', '/mute/'));
ok(retry_until(sub { counters('mute')->{old}{active} == 1 }, 5),
    'a request under way');
is(counters('mute')->{old}{under_way}[0], 1, 'at its peer');
ok($front->reload, 'reload');
is(counters('mute')->{old}{active}, 1, 'is still under way in an old worker');
$c->reset;
same('and ended there', 'mute', 'mute.log');


# --- many, with reloads

my $load = $t->start_load(conns => 16, pipeline => 4, requests => $REQUESTS,
    uri => '/');
my $other = $t->start_load(conns => 4, requests => $REQUESTS, uri => '/authed');
my $third = $t->start_load(conns => 4, requests => $REQUESTS, uri => '/half/');
my $reloads = 0;
my $end = time() + $REQUESTS / 100;
my $lines = sub { my $s = -s "$front->{prefix}/logs/access.log"; return $s / 18 };
while (($lines->() < $REQUESTS || $reloads < 5) && time() < $end) {
    $reloads++ if $front->reload;
    $t->weight($reloads % 2 ? 70 : 30);
}
my @r = map { $t->stop_load($_) } $third, $other, $load;
my ($failed, $requests) = (0, 0);
for (@r) { $failed += $_->{failed}; $requests += $_->{requests} }
is($failed, 0, "$requests requests, $reloads reloads: none failed");
same('many with reloads', 'kong', 'access.log');
same('many with reloads, one pool dead', 'half', 'half.log');


# --- workers killed

my $kills = 0;
$load = $t->start_load(conns => 8, uri => '/');
$other = $t->start_load(conns => 4, uri => '/half/');
for (1 .. 10) {
    my @w = $front->workers;
    $front->kill_worker($w[$_ % @w]);
    $kills++;
}
# the later one holds the pipe of the first open
$t->stop_load($_) for $other, $load;
same("$kills workers killed", 'kong', 'access.log', $kills);
same("$kills workers killed, one pool dead", 'half', 'half.log', $kills);

$t->finish(qr/exited on signal 9/);
