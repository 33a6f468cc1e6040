# Behind a shift an upstream behaves as it does alone: every case runs against
# the plain upstream and against the same one as old and as new pool, and the
# servers asked, their answers and the reuse of connections must be the same.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::INET;
use Test::More;

use KongShift;

my $t = KongShift->new;

# a b c answer, e4 e5 fail with a status, x ends the connection without an
# answer, r refuses it, h is silent
my %is = map { $_ => $t->listen_at($_) } qw(a b c e4 e5 x r r2 h other);

$t->backend(pools => [qw(a b c other)], conf => <<"EOC");
    server { listen $is{e4}; return 404 "e4\\n"; }
    server { listen $is{e5}; return 502 "e5\\n"; }
    server { listen $is{x}; return 444; }
EOC
my $silent = IO::Socket::INET->new(LocalAddr => $is{h}, Listen => 1024,
    ReuseAddr => 1) or die "listen: $!";

# name, servers, directives of the location, requests, options of a request
my @cases = (
    ['round robin', 'a; b; c', '', 7],
    ['weights', 'a weight=3; b; c weight=2', '', 12],
    ['one server', 'a', '', 3],
    ['one of them refuses', 'r; a; b', '', 6],
    ['max_fails=0', 'r max_fails=0; a', '', 6],
    ['max_fails=2', 'r max_fails=2 fail_timeout=60s; a', '', 8],
    ['max_fails=3 of an HTTP error', 'e5 max_fails=3 fail_timeout=60s; a',
        'proxy_next_upstream http_502;', 10],
    ['backup', 'r; r2; a backup', '', 5],
    ['backup not needed', 'a; b backup', '', 4],
    ['backups one after the other', 'r; r2 backup; b backup', '', 5],
    ['down', 'a down; b; c', '', 4],
    ['all but one down', 'a down; b; c down', '', 3],
    ['all refuse', 'r; r2', '', 4],
    ['one that refuses', 'r', '', 3],
    ['one that refuses, and a backup that does', 'r; r2 backup', '', 4],
    ['an HTTP error is passed on', 'e5; a', '', 4],
    ['an HTTP error goes to the next', 'e5; a',
        'proxy_next_upstream http_502;', 6],
    ['404 goes to the next', 'e4; a', 'proxy_next_upstream http_404;', 6],
    ['404 goes to the next, all do', 'e4; e4', 'proxy_next_upstream http_404;',
        3],
    ['tries', 'r max_fails=0; r2 max_fails=0; a',
        'proxy_next_upstream_tries 2;', 6],
    ['one try', 'r max_fails=0; a', 'proxy_next_upstream_tries 1;', 4],
    ['more tries than servers', 'r max_fails=0; e5 max_fails=0',
        'proxy_next_upstream error http_502; proxy_next_upstream_tries 9;', 3],
    ['tries reach the backup', 'r max_fails=0; r2 max_fails=0 backup; '
        . 'a backup', 'proxy_next_upstream_tries 3;', 4],
    ['proxy_next_upstream off', 'r max_fails=0; a',
        'proxy_next_upstream off;', 4],
    ['an end without an answer', 'x max_fails=0; a', '', 4],
    ['POST is not sent twice', 'x max_fails=0; a', '', 4,
        { method => 'POST', body => 'x' }],
    ['POST is, when non_idempotent', 'x max_fails=0; a',
        'proxy_next_upstream error non_idempotent;', 4,
        { method => 'POST', body => 'x' x 20_000 }],
    ['POST to one that refuses', 'r max_fails=0; a', '', 4,
        { method => 'POST', body => 'x' }],
    ['a timeout goes to the next', 'h max_fails=0; a',
        'proxy_read_timeout 100ms;', 4],
    ['a timeout counts as a failure', 'h fail_timeout=60s; a',
        'proxy_read_timeout 100ms;', 4],
    ['proxy_next_upstream_timeout', 'h max_fails=0; h max_fails=0; '
        . 'h max_fails=0', 'proxy_read_timeout 300ms; '
        . 'proxy_next_upstream_timeout 450ms;', 1],
    ['least_conn', 'least_conn; a; b weight=2; c', '', 8],
    ['hash', 'hash $arg_k; a; b; c', '', 12],
    ['hash consistent', 'hash $arg_k consistent; a; b; c; r', '', 12],
    ['hash with one that refuses', 'hash $arg_k; r; r2; c', '', 8],
    ['ip_hash', 'ip_hash; a; b; c', '', 4],
    ['random', 'random; a', '', 3],
    ['random two', 'random two least_conn; a; r', '', 6, { chance => 1 }],
    ['keepalive', 'a; keepalive 4', 'KA', 6],
    ['keepalive, two servers', 'a; b; keepalive 4', 'KA', 8],
    ['keepalive too few', 'a; b; keepalive 1', 'KA', 8],
    ['keepalive_requests', 'a; keepalive 4; keepalive_requests 2', 'KA', 7],
    ['keepalive with hash', 'hash $arg_k; a; b; keepalive 4', 'KA', 8],
    ['keepalive with least_conn', 'least_conn; a; b; keepalive 4', 'KA', 8],
    ['keepalive and one that refuses', 'r; a; b; keepalive 4', 'KA', 8],
    ['keepalive and errors', 'e5 max_fails=0; a; keepalive 4',
        'KA proxy_next_upstream http_502;', 8],
    ['keepalive and ends', 'x max_fails=0; a; keepalive 4', 'KA', 8],
    ['max_conns not reached', 'a max_conns=2; b', '', 4],
);

my @forms = map { ("${_}plain", "${_}old", "${_}new") } '', 'zone_';

# "a weight=3" is a server, "keepalive 4" is not
sub servers {
    my ($text) = @_;

    return join '', map { /^(\w+)\b(.*)/ && $is{$1}
        ? "server $is{$1}$2; " : "$_; " } split /; /, $text;
}

my ($http, $locations) = ('', '');
my %other = (old => 'new', new => 'old');

for my $i (0 .. $#cases) {
    my (undef, $servers, $directives) = @{ $cases[$i] };
    $directives =~ s/^KA/proxy_http_version 1.1; proxy_set_header Connection "";/;

    for my $form (@forms) {
        my ($pool) = $form =~ /(\w+?)$/;
        my $name = "up${i}_$form";
        my $to = $name;

        $http .= "    upstream $name { "
            . ($form =~ /^zone/ ? "zone $name 64k; " : '')
            . servers($servers) . "}\n";

        if ($form =~ /(old|new)$/) {
            my $weight = $1 eq 'new' ? 100 : 0;

            # at weight 0 the other pool may not help, at 100 it would
            my $rescue = $weight ? 'kong_shift_rescue off;' : '';
            $to = "shift_$name";
            $http .= "    upstream $to { kong_shift $1=$name "
                . "$other{$1}=dp_other weight=$weight; $rescue }\n";
        }

        $locations .= "        location = /$i/$form { proxy_pass http://$to; "
            . "$directives }\n";
    }
}

# the two pools of one shift, each with a server that refuses
my $mixed = <<"EOC";
    upstream mixed_old { server $is{r} max_fails=0; server $is{a}; keepalive 2; }
    upstream mixed_new { server $is{b}; server $is{r2} max_fails=0; }
    upstream mixed { kong_shift old=mixed_old new=mixed_new weight=50; }
    upstream held_plain { zone held_plain 64k; server $is{h} max_conns=1;
                          server $is{a} backup; }
    upstream held_pool  { zone held_pool 64k; server $is{h} max_conns=1;
                          server $is{a} backup; }
    upstream held_shift { kong_shift old=held_pool new=dp_other weight=0; }
    upstream stale_pool { server @{[ $t->listen_at('stale') ]}; keepalive 2; }
    upstream stale { kong_shift old=stale_pool new=dp_other weight=0; }
EOC

my $front = $t->nginx(name => 'front', conf => <<"EOC");
    upstream dp_other { server $is{other}; }
$http
$mixed
    proxy_connect_timeout 10s;
    server {
        listen @{[ $t->listen_at('front') ]} backlog=4096;
        add_header X-Trace "\$upstream_addr|\$upstream_status" always;
        add_header X-Conn "\$upstream_http_x_conn" always;
        location = /mixed { proxy_pass http://mixed; proxy_http_version 1.1;
            proxy_set_header Connection "";
            add_header X-Pool \$kong_shift_pool always;
            add_header X-Trace "\$upstream_addr|\$upstream_status" always; }
        location = /held_plain { proxy_pass http://held_plain; }
        location = /held_shift { proxy_pass http://held_shift; }
        location = /stale { proxy_pass http://stale; proxy_http_version 1.1;
            proxy_set_header Connection ""; }
$locations
    }
EOC

# a connection's count of requests tells whether it is a reused one
$t->{backend}->set($t->{backend}{conf} =~ s/^/    add_header X-Conn \$connection_requests always;\n/r);
ok($t->{backend}->reload, 'the pools are ready');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my %name_of = reverse %is;

sub trace {
    my ($i, $form) = @_;
    my (undef, undef, undef, $n, $o) = @{ $cases[$i] };
    my @trace;

    for my $k (1 .. $n) {
        my $r = $t->http('front', $o->{method} // 'GET', "/$i/$form?k=$k",
            body => $o->{body});
        my $line = $r ? "$r->{status} $r->{headers}{'x-trace'} "
            . ($r->{headers}{'x-conn'} // '') : 'no answer';

        $line =~ s/(127\.[\d.]+:\d+)/$name_of{$1}/g;
        $line =~ s/up\d+_\w+/NONE/g;
        push @trace, $line;
    }

    # whom chance chose does not matter, what the client got does
    @trace = map { /^(\S+)/ } @trace if $o->{chance};

    return join "\n", @trace;
}

for my $i (0 .. $#cases) {
    my $plain = trace($i, 'plain');
    my $zoned = trace($i, 'zone_plain');

    is(trace($i, $_), $plain, "$cases[$i][0]: as $_ pool") for qw(old new);
    is(trace($i, $_), $zoned, "$cases[$i][0]: as $_ pool")
        for qw(zone_old zone_new);
}

my $port = $t->port('other');
my @lines = $t->{backend}->access_log(0);
is(scalar(grep { /^$port / } @lines), 0, 'the other pool was never asked');


# --- tries and failures stay with their pool

my (%trace, %n);
for (1 .. 40) {
    my $r = $t->get('/mixed');
    my $pool = $r->{headers}{'x-pool'};
    my $line = $r->{headers}{'x-trace'};
    $line =~ s/(127\.[\d.]+:\d+)/$name_of{$1}/g;
    $trace{$pool}{$line}++;
    $n{"$pool $r->{status}"}++;
}
is_deeply(\%n, { 'old 200' => 20, 'new 200' => 20 },
    'two pools with a bad server each: no failure, split in halves');
is_deeply([sort keys %{ $trace{old} }], ['a|200', 'r, a|502, 200'],
    'the old pool tried its own servers');
is_deeply([sort keys %{ $trace{new} }], ['b|200', 'r2, b|502, 200'],
    'the new pool tried its own servers');


# --- max_conns: connections are counted, and given back

for my $form (qw(held_plain held_shift)) {
    my $held = $t->connect;
    $held->send($held->format_request('GET', "/$form"));

    my $s;
    wait_for('the held request', sub { $silent->blocking(0); $s = $silent->accept });
    like($t->get("/$form")->{body}, qr/^a /,
        "$form: a second request goes to the backup");
    $held->reset;

    # nginx closes its connection when the client has gone
    sysread $s, my $buf, 4096 for 1 .. 2;
    my $again = $t->connect;
    $again->send($again->format_request('GET', "/$form"));
    ok(wait_for('the server', sub { $s = $silent->accept }),
        "$form: the place is free again");
    $again->reset;
}


# --- a kept connection that its server has closed is tried again

my ($stop_r, $stop_w);
pipe $stop_r, $stop_w;

# answers once on each connection, and closes it when the next request comes
$t->server(stale => sub {
    my ($c) = @_;
    my $n = 0;

    while (1) {
        my $head = '';
        while ($head !~ /\r\n\r\n/) {
            sysread $c, $head, 4096, length $head or return;
        }
        return if ++$n > 1;
        syswrite $c, "HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok\n";
    }
});

my %status;
for (1 .. 6) {
    my $r = $t->get('/stale');
    $status{"$r->{status} $r->{body}"}++;
}
is_deeply(\%status, { "200 ok\n" => 6 },
    'a stale kept connection is not the client\'s problem');

$t->finish;
