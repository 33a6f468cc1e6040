# The admin endpoint: every call, its answer and its effect.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $front = $t->front(workers => 2, weight => 10, extra => 'kong_shift_key '
    . '$arg_k;',
    http => <<'EOC', admin => <<'EOC2');
    upstream second { kong_shift old=dp_new new=dp_old weight=0.5;
                      kong_shift_gate on; }
EOC
        server_name admin.example.com *.wild.example.com
                    ~^re[0-9]+\.example\.com$;
        location /shift/ { kong_shift_api write=on; }
        location /exact/prefix { kong_shift_api write=on; }
        location /file/ {
            client_body_in_file_only clean;
            kong_shift_api write=on;
        }
        location /small/ {
            client_body_buffer_size 1k;
            kong_shift_api write=on;
        }
        location /max/ { client_max_body_size 16; kong_shift_api write=on; }
        location /ro/ { kong_shift_api; }
        location /off/ { kong_shift_api write=off; }
EOC2
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $weight = '/shifts/kong/weight';
my $rfc3339 = qr/^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ$/;

sub put { $t->api('PUT', $weight, @_) }


# --- reading

my $r = $t->api('GET', '/shifts');
is($r->{status}, 200, 'GET /shifts');
is_deeply([map { $_->{name} } @{ $r->{json}{shifts} }], ['second', 'kong'],
    'all shifts, as configured');

$r = $t->api('GET', '/shifts/kong');
is($r->{status}, 200, 'GET /shifts/kong');
like($r->{headers}{'content-type'}, qr{^application/json}, 'is JSON');
is($r->{headers}{'x-content-type-options'}, 'nosniff', 'and nothing else');
like($r->{headers}{'cache-control'} // '', qr/no-store/, 'and not for caches');
ok(!grep({ /^access-control/ } keys %{ $r->{headers} }), 'no CORS header');

my %s = %{ $r->{json} };
like(delete $s{changed}, $rfc3339, 'changed is a time');
my $g = delete $s{generation};
like($g, qr/^[1-9]\d*$/, 'generation is a positive integer');
is($r->{headers}{etag}, "\"$g\"", 'which is the ETag');
is((delete $s{gate})->{state}, 'off', 'no gate');
is((delete $s{freeze})->{state}, 'off', 'no freeze');
is_deeply(\%s, { name => 'kong',
    weight => { old => 90, new => 10, effective => 10 },
    aborted => JSON::PP::false,
    pools => { map { $_ => { upstream => "dp_$_", ready => undef, total => 1,
        drained => JSON::PP::false, active => 0 } } qw(old new) },
    key => '$arg_k', seed => 'kong' }, 'the rest');

$r = $t->api('GET', '/shifts/second');
is_json($r, 200, { key => undef, name => 'second',
    weight => { old => 99.5, new => 0.5, effective => 0 } },
    'the second shift');
is($r->{json}{pools}{old}{upstream}, 'dp_new', 'its pools');
is($r->{json}{gate}{state}, 'closed', 'its gate');

$r = $t->api('GET', $weight);
is_deeply($r->{json}, { old => 90, new => 10, effective => 10,
    aborted => JSON::PP::false, generation => $g }, "GET $weight");
is($r->{headers}{etag}, "\"$g\"", 'ETag');
like($r->{body}, qr/"new": ?10[,}]/, 'an integer is written as one');

for my $uri ('/shifts', '/shifts/kong', $weight, '/shifts/kong/gate',
    '/shifts/kong/freeze', '/shifts/kong/events')
{
    my $get = $t->api('GET', $uri);
    my $c = $t->connect('admin');
    $c->send($c->format_request('HEAD', $uri)
        . $c->format_request('GET', $uri, headers => ['Connection: close']));
    my $head = $c->response('HEAD');
    is($head->{status}, 200, "HEAD $uri");
    is($head->{headers}{'content-length'}, length $get->{body},
        "HEAD $uri: the length GET has");
    is($c->response->{body}, $get->{body}, "HEAD $uri: and no body");
}

for my $prefix ('/shift', '/exact/prefix') {
    is_json($t->api('GET', "$prefix/shifts/kong"), 200, { name => 'kong' },
        "below $prefix");
}
is_json($t->api('GET', '/shifts/k%6fng'), 200, { name => 'kong' },
    'an escaped name');
is_json($t->http('admin', 'GET', '/shifts/kong', version => '1.0'), 200,
    { name => 'kong' }, 'HTTP/1.0');


# --- the weight

$r = put({ new => 12.5 });
is_json($r, 200, { old => 87.5, new => 12.5, effective => 12.5,
    aborted => JSON::PP::false, generation => $g + 1 }, 'PUT {"new":12.5}');
ok(!exists $r->{json}{saved}, 'nothing is said of a file that is not asked for');
is($r->{headers}{etag}, '"' . ($g + 1) . '"', 'the new ETag');
is($t->get('/')->{headers}{'x-generation'}, $g + 1,
    'requests see the new generation');

for my $case ([{ new => 33.3333 }, 66.6667, 33.3333], [{ new => 0 }, 100, 0],
    [{ old => 90, new => 10 }, 90, 10], [{ old => 99.9999, new => 0.0001 },
    99.9999, 0.0001], [{ new => 100 }, 0, 100],
    [{ old => 66.6667, new => 33.3333 }, 66.6667, 33.3333],
    [{ new => 99.9999 }, 0.0001, 99.9999],
    [{ new => 1, force => \1 }, 99, 1], [{ new => 1, force => \0 }, 99, 1],
    [{ new => 2, comment => 'c' x 128 }, 98, 2],
    [{ new => 2, comment => '' }, 98, 2])
{
    my ($body, $old, $new) = @$case;

    is_json(put($body), 200, { old => $old, new => $new, effective => $new },
        'PUT ' . substr to_json($body), 0, 40);
    is_json($t->api('GET', $weight), 200, { old => $old, new => $new },
        'is there to be read');
}

for my $text ('{"new":1e1}', '{"new":10.0}', '{"new":10.0000}', '{"new":100e-1}',
    '{ "new" : 10 }', "\r\n\t{\"new\":10}\n ", '{"n\u0065w":10}')
{
    put({ new => 5 });
    is_json(put($text), 200, { new => 10 }, "PUT $text");
}

# nothing lies between what is said and what is done
for my $w (0.1, 0.3, 1.1, 2.2, 4.35, 16.45, 57.29, 99.99, 0.0007, 64.1235) {
    is_json(put("{\"new\":$w}"), 200, { new => $w, effective => $w },
        "weight $w is taken as it is");
}

for my $type (undef, 'application/json', 'application/json; charset=utf-8',
    'Application/JSON', 'application/json;charset=UTF-8',
    'application/x-www-form-urlencoded')
{
    put({ new => 5 });
    is_json(put('{"new":10}', defined $type ? "Content-Type: $type" : ()), 200,
        { new => 10 }, 'Content-Type: ' . ($type // 'none'));
}


# --- bodies in any cut

sub chunks {
    my ($text, $size) = @_;
    return join('', map { sprintf "%x;ext=1\r\n%s\r\n", length $_, $_ }
        unpack "(a$size)*", $text) . "0\r\n\r\n";
}

my $long = '{"new":25' . ' ' x 4000 . ',"comment":"caf\u00e9"}';
for my $size (1, 2, 7, 1000) {
    for my $where ('', '/file', '/small') {
        put({ new => 5 });
        is_json($t->api('PUT', "$where$weight", chunks($long, $size),
            'Transfer-Encoding: chunked'), 200, { new => 25 },
            "$size bytes a chunk $where");
    }
}

my $full = '{"new":26' . ' ' x (65_536 - 10) . '}';
for my $where ('', '/file', '/small') {
    is_json($t->api('PUT', "$where$weight", $full), 200, { new => 26 },
        "64 KiB $where");
    put({ new => 5 });
    is_json($t->api('PUT', "$where$weight", chunks($full, 500),
        'Transfer-Encoding: chunked'), 200, { new => 26 },
        "64 KiB in chunks $where");
    put({ new => 5 });
}

# byte by byte, chunk by chunk, each in a segment of its own
my $c = $t->connect('admin');
for my $byte (split //, $c->format_request('PUT', $weight,
    body => chunks('{"new":27}', 1), headers => ['Transfer-Encoding: chunked']))
{
    $c->send($byte);
}
is_json($c->response, 200, { new => 27 }, 'byte by byte');

is_json($c->request('PUT', $weight, body => '{"new":28}',
    headers => ['Expect: 100-continue']), 200, { new => 28 },
    'Expect: 100-continue, on the same connection');

$c->send(join '', map { $c->format_request('PUT', $weight,
    body => "{\"new\":$_}") } 1 .. 50);
is(join(' ', map { my $r = $c->response; $r ? $r->{json}{new} : 'none' }
    1 .. 50), join(' ', 1 .. 50), '50 pipelined PUTs, in order');
$c->close_now;

$r = $t->api('PUT', "/max$weight", '{"new":25}      ');
is_json($r, 200, { new => 25 }, 'client_max_body_size is not exceeded');
is($t->api('PUT', "/max$weight", '{"new":26}       ')->{status}, 413,
    'client_max_body_size is obeyed');


# --- preconditions

$g = $t->snapshot->{generation};
is_json(put({ new => 30 }, "If-Match: \"$g\""), 200, { generation => ++$g },
    'If-Match: the current generation');
is_json(put({ new => 31 }, 'If-Match: *'), 200, { generation => ++$g },
    'If-Match: *');
is_json(put({ new => 32 }, "If-Match: \"1\", \"$g\""), 200,
    { generation => ++$g }, 'If-Match: a list');
is_json($t->api('POST', '/shifts/kong/abort', undef, 'If-Match: "1"'), 200,
    { generation => ++$g, effective => 0, new => 0, old => 100,
    aborted => JSON::PP::true }, 'abort ignores it');


# --- writers on other hosts and sites that may

for my $host ('127.0.0.1', '127.0.0.1:1', 'localhost', 'localhost:8040',
    'LOCALHOST', '[::1]', '[::1]:8040', '10.1.2.3:80', '[2001:db8::1]',
    'admin.example.com', 'admin.example.com:99', 'ADMIN.example.com',
    'a.wild.example.com', 're1.example.com')
{
    is_json(put({ new => 33 }, "Host: $host"), 200, { new => 33 },
        "Host: $host");
}

my $self = "$t->{addr}:" . $t->port('admin');
is_json(put({ new => 34 }, "Origin: http://$self"), 200, { new => 34 },
    'its own Origin');
is_json(put({ new => 34 }, 'Host: localhost', 'Origin: http://localhost'), 200,
    { new => 34 }, 'its own Origin by name');
is_json(put({ new => 34 }, "Sec-Fetch-Site: $_"), 200, { new => 34 },
    "Sec-Fetch-Site: $_") for qw(same-origin none);

# reading is not writing
is($t->api('GET', '/shifts', undef, 'Host: evil.example')->{status}, 200,
    'reading from a foreign Host');
is($t->api('GET', '/shifts', undef, 'Origin: http://evil.example')->{status},
    200, 'reading from another site');


# --- writes off

for my $where ('/ro', '/off') {
    is_json($t->api('GET', "$where$weight"), 200, { new => 34 },
        "$where: reading");
    is_json($t->api('PUT', "$where$weight", { new => 35 }), 405,
        { code => 'writes_off' }, "$where: no writing");
}


# --- abort, with and without a body

$t->weight(50);
for my $body (undef, '', '{}', { comment => 'too many 5xx' }) {
    $t->weight(50);
    is_json($t->api('POST', '/shifts/kong/abort', $body), 200,
        { effective => 0, aborted => JSON::PP::true }, 'abort');
    is($t->pool('/?k='), 'old', 'abort: obeyed');
}
is_json($t->api('POST', '/shifts/kong/abort', $_), 400, {},
    'abort: a bad body is refused') for '{"x":1}', '[', '{"comment":1}';


# --- events

$t->weight(0);
my $last = $t->api('GET', '/shifts/kong/events')->{json}{last};

put({ new => 40, comment => "sn\x{f6} <b>\"\\" });
$t->put('freeze', { state => 'on', comment => 'dump' });
$t->api('POST', '/shifts/kong/abort', { comment => 'stop' });
put({ new => 101 });
put({ new => 41 }, 'If-Match: "1"');
$t->put('freeze', { state => 'off' });
$t->weight(20);

$r = $t->api('GET', "/shifts/kong/events?since=$last");
is($r->{status}, 200, 'GET events');
my @e = @{ $r->{json}{events} };
is(scalar @e, 5, 'one for each change, none for what was refused');
is($r->{json}{last}, $last + 5, 'last is the newest id');
is(join(' ', map { $_->{id} } @e), join(' ', $last + 1 .. $last + 5),
    'ids rise by one');
is(join(' ', map { $_->{action} } @e), 'weight freeze abort freeze weight',
    'what happened');
like($_->{time}, $rfc3339, 'when') for @e;
is($e[0]{by}, '127.0.0.1', 'from where');
is($e[0]{comment}, "sn\x{f6} <b>\"\\", 'why');
is($e[1]{comment}, 'dump', 'why');
is($e[2]{comment}, 'stop', 'why');
is_deeply($e[2]{before}, { weight => 40, gate => 'off', freeze => 'on',
    aborted => JSON::PP::false }, 'before');
is_deeply($e[2]{after}, { weight => 0, gate => 'off', freeze => 'on',
    aborted => JSON::PP::true }, 'after');
is_deeply($e[3]{before}, $e[2]{after}, 'nothing in between');
is($e[4]{generation}, $t->snapshot->{generation}, 'the generation it made');

is_deeply($t->api('GET', '/shifts/kong/events?since=' . ($last + 5))->{json},
    { events => [], last => $last + 5 }, 'nothing since the last');
is_deeply($t->api('GET', '/shifts/kong/events?since=' . ($last + 500))->{json},
    { events => [], last => $last + 5 }, 'nothing since the future');

$c = $t->connect('admin');
for my $i (1 .. 270) {
    $c->request('PUT', $weight, body => "{\"new\":" . $i % 100 . '}');
}
$c->close_now;
@e = @{ $t->api('GET', '/shifts/kong/events')->{json}{events} };
is(scalar @e, 256, 'the newest 256 are kept');
is($e[-1]{id}, $last + 275, 'up to the last');
is($e[0]{id}, $last + 275 - 255, 'in order');
@e = @{ $t->api('GET', '/shifts/kong/events?since=1')->{json}{events} };
is(scalar @e, 256, 'since the forgotten');
is(scalar @{ $t->api('GET', '/shifts/second/events')->{json}{events} }, 0,
    'another shift has its own')
    or diag(explain($t->api('GET', '/shifts/second/events')->{json}));

ok($front->reload, 'reload');
is($t->api('GET', '/shifts/kong/events')->{json}{last}, $last + 275,
    'events stay over a reload');

# names that a JSON text must escape
my $odd = $t->nginx(name => 'odd', conf => $t->front_conf(http => <<'EOC'));
    upstream "a\"b<\\c>" { kong_shift old=dp_old new=dp_new weight=1;
                           kong_shift_key "$arg_k\"<" seed="\"<"; }
EOC
$front->stop;
if ($odd->start) {
    $r = $t->api('GET', '/shifts');
    ok($r->{json}, 'odd names: valid JSON');
    my ($shift) = grep { $_->{name} ne 'kong' } @{ $r->{json}{shifts} };
    is($shift->{name}, 'a"b<\c>', 'odd names: as they are');
    is_json($t->api('PUT', '/shifts/a%22b%3C%5Cc%3E/weight', { new => 3 }), 200,
        { new => 3 }, 'odd names: can be called');
} else {
    like($odd->{start_output}, qr/\[emerg\].*name/, 'odd names are refused');
}

$t->finish(qr/\[emerg\].*name/);
