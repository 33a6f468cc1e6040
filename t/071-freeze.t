# While the freeze is on, an Admin API behind kong_shift_freeze can be read and
# asked to validate, and nothing else.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $old = $t->listen_at('old');
my $front = $t->front(workers => 2, state => $t->state_dir . '/state.json',
    server => <<"EOC",
        client_max_body_size 20m;
        proxy_http_version 1.1;

        location /admin/ {
            kong_shift_freeze kong;
            proxy_pass http://$old/;

            location /admin/nested/ { proxy_pass http://$old/; }
            location ~ ^/admin/regex/ { proxy_pass http://$old; }
        }
        location /raw/ { kong_shift_freeze kong; proxy_pass http://$old; }
        location /any/ {
            kong_shift_freeze kong;
            satisfy any;
            allow all;
            proxy_pass http://$old;
        }
        location /rewritten/ { rewrite ^/rewritten/(.*) /admin/\$1 last; }
        location /back/ { error_page 503 =200 /sorry; kong_shift_freeze kong;
                          proxy_pass http://$old; }
        location = /sorry { return 200 "sorry\\n"; }
        location /other/ { kong_shift_freeze other; proxy_pass http://$old; }
        location /free/ { proxy_pass http://$old; }
EOC
    http => <<"EOC2");
    upstream other { kong_shift old=dp_old new=dp_new weight=0; }
    server {
        listen @{[ $t->listen_at('whole') ]};
        kong_shift_freeze kong;
        location / { proxy_pass http://$old; }
        location /other/ { kong_shift_freeze other; proxy_pass http://$old; }
        location /api/ { kong_shift_api write=on; }
    }
EOC2
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

sub call {
    my ($method, $uri, @headers) = @_;
    my $body = $method =~ /^(?:GET|HEAD|OPTIONS)$/ ? undef : 'name=x';

    return $t->http('front', $method, $uri, body => $body,
        headers => \@headers);
}

sub passes {
    my ($method, $uri, @headers) = @_;
    my $r = call($method, $uri, @headers);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is($r && $r->{status}, 200, "passes: $method $uri @headers");
}

sub denied {
    my ($method, $uri, @headers) = @_;
    my $r = call($method, $uri, @headers);

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    is_json($r, 503, { status => 503, code => 'frozen' },
        "denied: $method $uri @headers");
    return $r;
}


# --- off

passes($_, '/admin/services') for qw(GET HEAD OPTIONS POST PUT PATCH DELETE);
is_json($t->api('GET', '/shifts/kong/freeze'), 200, { state => 'off' },
    'off from the start');


# --- on

is_json($t->api('PUT', '/shifts/kong/freeze',
    { state => 'on', comment => 'pg_dump runs' }), 200,
    { state => 'on', comment => 'pg_dump runs' }, 'on');

passes($_, '/admin/services') for qw(GET HEAD OPTIONS);
passes('GET', '/admin/schemas/services');
passes('POST', $_) for qw(/admin/schemas/services/validate
    /admin/schemas/plugins/validate /admin/schemas/plugins/validate?x=1
    /admin/ws/schemas/routes/validate /raw/schemas/routes/validate);

my $r = denied('POST', '/admin/services');
like($r->{headers}{'content-type'}, qr{^application/problem\+json},
    'a problem body');
like($r->{headers}{'retry-after'}, qr/^[1-9]\d*$/, 'Retry-After');
like($r->{json}{detail}, qr/kong/, 'a detail that names the shift');
is(length $r->{body}, $r->{headers}{'content-length'}, 'and its length');

denied($_, '/admin/services/a') for qw(PUT PATCH DELETE POST MKCOL PROPFIND
    LOCK FOO);
denied('POST', '/admin/nested/services');
denied('POST', '/admin/regex/services');
denied('POST', '/rewritten/services');
denied('POST', '/any/services');
denied('POST', '/raw/services');

# only that one kind of POST, and only where the path really says so
denied($_, '/admin/schemas/services/validate') for qw(PUT PATCH DELETE);
denied('POST', $_) for (
    '/admin/schemas/services',
    '/admin/schemas',
    '/admin/schemas/validate',
    '/admin/schemas//validate',
    '/admin/schemas/a/validated',
    '/admin/schemas/a/b/c/validate/x',
    '/admin/Schemas/a/Validate',
    '/admin/validate',
    '/admin/services?/schemas/a/validate',
    '/admin/services?x=/schemas/a/validate',
    '/admin/services/schemas%2fa%2fvalidate',
    '/admin/services/schemas%2Fa%2Fvalidate',
    '/admin/schemas%2fa%2fvalidate',
    '/admin/schemas/a%2fvalidate',
    '/admin/schemas%2fa/validate',
    '/admin/schemas/..%2fservices/validate',
    '/admin/schemas/%2e%2e%2fvalidate',
    '/raw/services/../schemas/a/validate',
    '/raw/schemas/a/validate/../../../services',
    '/raw/services/%2e%2e/schemas/a/validate',
    '/raw/services/schemas%2fa%2fvalidate');

denied('POST', '/admin/services', 'X-HTTP-Method-Override: GET');
denied('POST', '/admin/services', 'X-Original-URL: /schemas/a/validate');

# the body is not taken for the next request
my $c = $t->connect;
$c->send($c->format_request('POST', '/admin/services',
    body => "GET /admin/evil HTTP/1.1\r\nHost: a\r\n\r\n")
    . $c->format_request('GET', '/admin/good'));
is($c->response->{status}, 503, 'a request with a body is denied');
$r = $c->response;
ok(!$r || $r->{body} =~ m{GET /good}, 'the next one is the one sent');
$c->close_now;

$r = $t->http('front', 'POST', '/admin/services', body => 'x' x 5_000_000);
is_json($r, 503, { code => 'frozen' }, 'a big body');

$r = $t->http('front', 'POST', '/admin/services', body => 'x',
    headers => ['Expect: 100-continue']);
is_json($r, 503, { code => 'frozen' }, 'Expect: 100-continue');

$r = $t->http('front', 'POST', '/admin/services',
    body => "3\r\nabc\r\n0\r\n\r\n", headers => ['Transfer-Encoding: chunked']);
is_json($r, 503, { code => 'frozen' }, 'a chunked body');

passes('POST', '/free/services');
passes('POST', '/other/services');
passes('POST', '/');

# a whole server; the endpoint within it is never frozen itself
is_json($t->http('whole', 'POST', '/services', body => 'x'), 503,
    { code => 'frozen' }, 'a frozen server');
is($t->http('whole', 'POST', '/other/services', body => 'x')->{status}, 200,
    'a location of it with another shift');
is_json($t->http('whole', 'POST', '/api/shifts/kong/abort'), 200,
    { aborted => JSON::PP::true }, 'abort within a frozen server');
is_json($t->http('whole', 'PUT', '/api/shifts/kong/freeze',
    body => '{"state":"on"}'), 200, { state => 'on' },
    'the freeze can be set within a frozen server');

# it holds in every worker, and for what was asked on an open connection
my %seen;
for (1 .. 200) {
    my $r = call('DELETE', '/admin/services/x') or next;
    $seen{ $r->{headers}{'x-worker'} // 'none' }{ $r->{status} }++;
}
is_deeply([sort map { keys %$_ } values %seen], ['503', '503'],
    'in every worker')
    or diag(explain(\%seen));

ok($front->reload, 'reload');
denied('POST', '/admin/services');
$front->kill_all;
ok($front->start, 'start after kill -9 of all');
denied('POST', '/admin/services');

$t->put('freeze', { state => 'off' });
passes('POST', '/admin/services');
is($t->api('GET', '/shifts/kong/freeze')->{json}{comment}, undef,
    'the comment of "on" is gone');

# --- writes under way: the dump must wait for those that came before

sub active { $t->api('GET', '/shifts/kong/freeze')->{json}{active} }

sub active_becomes {
    my ($n, $name) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    ok(KongShift::retry_until(sub { active() == $n }), $name)
        or diag('active: ' . active());
}

# a write whose body has not come yet
sub begin_write {
    my ($c, $method, $uri) = @_;

    $c->send("$method $uri HTTP/1.1\r\nHost: a\r\nContent-Length: 6\r\n\r\nna");
}

is(active(), 0, 'no write is under way');
is($t->api('GET', '/shifts/kong')->{json}{freeze}{active}, 0,
    'the whole shift says so too');

my @writers = map { $t->connect_to('front', $_) } $front->workers;
begin_write($_, 'POST', '/admin/services') for @writers;
active_becomes(2, 'one write under way in each worker');

my $reader = $t->connect;
begin_write($reader, 'GET', '/admin/services');
my $validate = $t->connect;
begin_write($validate, 'POST', '/admin/schemas/services/validate');
my $other = $t->connect;
begin_write($other, 'POST', '/other/services');
my $plain = $t->connect;
begin_write($plain, 'POST', '/free/services');
is(KongShift::retry_until(sub {
    $t->api('GET', '/shifts/other/freeze')->{json}{active} }, 5), 1,
    'a write of another shift is counted there');
is(active(), 2, 'nothing else is counted');

$t->put('freeze', { state => 'on' });
is(active(), 2, 'the freeze lets them end');
denied('POST', '/admin/services');
is(active(), 2, 'one that is denied is not counted');

$_->send('me=x') for $writers[0], $other;
is($writers[0]->response->{status}, 200, 'one ends well');
active_becomes(1, 'and is counted no more');

ok($front->reload, 'reload') or diag($front->error_log);
is(active(), 1, 'new workers see the one of an old worker');
$writers[1]->send('me=x');
is($writers[1]->response->{status}, 200, 'which ends well');
active_becomes(0, 'none is left');

$t->put('freeze', { state => 'off' });
for my $end (sub { $_[0]->reset }, sub { $_[0]->close_now }) {
    my $c = $t->connect;
    begin_write($c, 'DELETE', '/admin/services/a');
    active_becomes(1, 'one write under way');
    $end->($c);
    active_becomes(0, 'its client is gone');
}

my ($victim) = $front->workers;
my $lost = $t->connect_to('front', $victim);
begin_write($lost, 'PATCH', '/admin/services/a');
active_becomes(1, 'one write under way');
$front->kill_worker($victim);
active_becomes(0, 'its worker was killed');
$_->close_now for $reader, $validate, $plain, $lost;


# the shifts are frozen one by one
$t->put('freeze', { state => 'on' }, 'other');
denied('POST', '/other/services');
passes('POST', '/admin/services');

for my $case ([{}, 'missing_field'], [{ state => 'ON' }, 'invalid_value'],
    [{ state => \1 }, 'invalid_type'], [{ state => 'on', x => 1 },
    'unknown_field'], [{ state => 'on', comment => 'x' x 129 },
    'invalid_value'])
{
    my ($body, $code) = @$case;

    is_json($t->api('PUT', '/shifts/kong/freeze', $body), 400,
        { code => $code }, 'refused: ' . to_json($body));
}
is_json($t->api('GET', '/shifts/kong/freeze'), 200, { state => 'off' },
    'and nothing changed');

$t->finish(qr/exited on signal 9/);
