# A shift serves whatever proxies to it: subrequests, internal redirects,
# mirrors, a variable in proxy_pass, a cache that revalidates.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) } qw(old new refused);
my $r;

my $pools = join '', map { my $p = $_; <<"EOC" } qw(old new);
    server {
        listen $is{$p} backlog=4096;
        add_header X-Conn \$connection_requests always;
        location / { return 200 "$p \$request_method \$uri\\n"; }
        location = /auth { return 204; }
        location /fail { return 503 "$p fails\\n"; }
        location /accel { add_header X-Accel-Redirect /internal/there;
                          return 200 "$p\\n"; }
        location /cached {
            add_header X-Accel-Expires "\@1";
            try_files /file =404;
        }
        location /none { return 404 "$p\\n"; }
    }
EOC
my $b = $t->nginx(name => 'backend', plain => 1, conf => <<"EOC");
    log_format b '\$server_port \$connection \$request_method \$uri \$status '
                 '"\$http_x_from"';
    access_log logs/access.log b;
    root html;
$pools
EOC
mkdir "$b->{prefix}/html";
write_file("$b->{prefix}/html/file", "a file\n");
$b->start or BAIL_OUT($b->{start_output});

my $front = $t->front(http => <<'EOC', server => <<"EOC2");
    proxy_cache_path cache keys_zone=c:1m;
    log_format pools '$request_uri $uri $kong_shift_pool $kong_shift_reason';
    access_log logs/access.log pools;
EOC
        proxy_http_version 1.1;
        proxy_set_header Connection "";
        log_subrequest on;

        location = /authed { auth_request /auth; proxy_pass http://kong; }
        location = /auth { internal; proxy_pass http://kong; }

        location = /mirrored { mirror /mirror; proxy_pass http://kong; }
        location = /mirror { internal; proxy_set_header X-From mirror;
                             proxy_pass http://kong; }

        location = /ssi { ssi on; ssi_types text/plain; root html; }
        location /part/ { proxy_pass http://kong; }

        location = /variable { set \$to kong; proxy_pass http://\$to; }
        location = /variable_uri { set \$to kong;
                                   proxy_pass http://\$to/given; }

        location = /fail { proxy_intercept_errors on; proxy_pass http://kong;
                           error_page 503 = \@again; }
        location \@again { rewrite ^ /again break; proxy_pass http://kong;
            add_header X-Pool \$kong_shift_pool always; }
        location = /fail_page { proxy_intercept_errors on;
                                proxy_pass http://kong/fail;
                                error_page 503 =200 /page; }
        location = /page { return 200 "page \$kong_shift_pool\\n"; }

        location = /accel { proxy_pass http://kong; }
        location /internal/ { internal; proxy_pass http://kong; }
        location = /refused { proxy_pass http://bad; error_page 502 = \@again; }

        location = /cached { proxy_cache c; proxy_cache_revalidate on;
            add_header X-Cache \$upstream_cache_status always;
            proxy_pass http://kong; }
        location = /stored { proxy_cache c; proxy_cache_valid 1h;
            add_header X-Cache \$upstream_cache_status always;
            add_header X-Pool \$kong_shift_pool always;
            proxy_pass http://kong; }
        location = /background { proxy_cache c; proxy_cache_valid 1h;
            proxy_cache_lock on;
            proxy_pass http://kong; }
        location = /ignored { proxy_ignore_client_abort on;
            proxy_pass http://kong; }
        location = /early { if (\$arg_x) { return 200 "early\\n"; }
            add_header X-Pool "[\$kong_shift_pool]" always;
            return 200 "[\$kong_shift_pool]\\n"; }
        location = /if { if (\$arg_x) { proxy_pass http://kong; } }
        location = /limit { limit_except GET { deny all; }
            proxy_pass http://kong; }
EOC2
$front->set($front->{conf} =~ s/^(    upstream kong )/    upstream bad_pool { server $is{refused}; }
    upstream bad { kong_shift old=bad_pool new=dp_new weight=0; }
$1/mr);
mkdir "$front->{prefix}/html";
write_file("$front->{prefix}/html/ssi", join '',
    map { "<!--# include virtual=\"/part/$_\" -->" } 1 .. 4);
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub body { my $r = $t->get(@_); return $r ? "$r->{status} $r->{body}" : 'none' }

for my $case ([0, 'old'], [100, 'new']) {
    my ($weight, $pool) = @$case;
    $t->weight($weight);

    is(body('/authed'), "200 $pool GET /authed\n", "$pool: auth_request");
    is(body('/mirrored'), "200 $pool GET /mirrored\n", "$pool: mirror");
    is(body('/ssi'), '200 ' . join('', map { "$pool GET /part/$_\n" } 1 .. 4),
        "$pool: SSI");
    is(body('/variable'), "200 $pool GET /variable\n",
        "$pool: the shift in a variable");
    is(body('/variable_uri'), "200 $pool GET /given\n",
        "$pool: the shift in a variable, with a path");
    is(body('/fail'), "200 $pool GET /again\n", "$pool: error_page to a name");
    like(body('/fail_page'), qr/^200 page (?:$pool)?\n/,
        "$pool: error_page to a path");
    is(body('/accel'), "200 $pool GET /internal/there\n",
        "$pool: X-Accel-Redirect");
    is(body('/if?x=1'), "200 $pool GET /if\n", "$pool: proxy_pass within if");
    is(body('/limit'), "200 $pool GET /limit\n", "$pool: limit_except");

    $r = $t->get('/cached');
    is("$r->{status} $r->{body}", "200 a file\n", "$pool: cache, first");
    $r = $t->get('/cached');
    is("$r->{headers}{'x-cache'} $r->{body}", "REVALIDATED a file\n",
        "$pool: cache, revalidated");

    is(body('/none'), "404 $pool\n", "$pool: an error of the pool is passed on");

    $r = $t->http('front', 'HEAD', '/variable');
    is($r->{status}, 200, "$pool: HEAD");
    $r = $t->http('front', 'POST', '/variable', body => 'x' x 200_000);
    is($r->{body}, "$pool POST /variable\n", "$pool: POST");
}

$t->weight(0);
is(body('/refused'), "200 old GET /again\n",
    'from a shift that fails to another one');
is(body('/early'), "200 []\n", 'the variables are empty before a choice');

# what a cache has is served from it, whatever the weight
is($t->get('/stored')->{headers}{'x-cache'}, 'MISS', 'stored: a miss');
$t->weight(100);
$r = $t->get('/stored');
is("$r->{headers}{'x-cache'} $r->{body}", "HIT old GET /stored\n",
    'stored: a hit');
is($r->{headers}{'x-pool'} // '', '', 'stored: no pool was chosen for a hit');

# a request and all its parts are one choice
$t->weight(50);
my %whole;
for (1 .. 20) {
    my ($status, @parts) = map { /^(\w+)/ } split /\n| /, body('/ssi');
    $whole{ join ' ', sort grep { /old|new/ } @parts }++;
}
is_deeply(\%whole, { 'old old old old' => 10, 'new new new new' => 10 },
    'the parts of a page come from one pool, which is chosen once');
my $mirrors = () = join("\n", $b->access_log(0)) =~ /"mirror"/g;
my %mirrored;
for (1 .. 20) {
    my $pool = (split ' ', body('/mirrored'))[1];
    my @lines = grep { /"mirror"/ } $b->access_log(0);
    retry_until(sub { @lines = grep { /"mirror"/ } $b->access_log(0);
        return @lines > $mirrors });
    my ($port) = $lines[-1] =~ /^(\d+)/;
    $mirrored{ $port == $t->port($pool) }++;
    $mirrors = @lines;
}
is_deeply(\%mirrored, { 1 => 20 }, 'a mirror goes where its request went');

# clients that leave early
$t->weight(50);
for my $i (1 .. 40) {
    my $c = $t->connect;
    $c->send($c->format_request('GET', $i % 2 ? '/ignored' : '/ssi'));
    $i % 4 < 2 ? $c->reset : $c->close_now;
}
like(body('/ssi'), qr/^200 (?:(?:old|new) GET \/part\/\d\n){4}\z/,
    'after clients that left early');

# mirrors are requests of their own, and the pools saw them
my @seen = $b->access_log(0);
cmp_ok(scalar(grep { /"mirror"/ } @seen), '>=', 2, 'the mirrors were sent');
cmp_ok(scalar(grep { /^\d+ \d+ GET \/auth 204/ } @seen), '>=', 2,
    'the auth requests were sent');

# the choice is one per request: main and subrequest are logged with theirs
$t->weight(0);
$t->get('/authed');
my @log = $front->access_log(1);
is(scalar(grep { !/ (?:old|new) (?:override|key|weight)$/ }
    grep { m{^/authed /authed } } @log), 0, 'the log names pool and reason');

$t->finish;
