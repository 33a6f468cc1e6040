# Whatever is sent to the admin endpoint: it is told apart, answered as a
# problem, and changes nothing.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $port = $t->port('admin');
my $named = $t->listen_at('named');
my $front = $t->front(workers => 2, weight => 10,
    state => $t->state_dir . '/state.json',
    admin => <<'EOC', http => <<"EOC2");
        server_name admin.example.com *.wild.example.com;
        location /file/ {
            client_body_in_file_only clean;
            kong_shift_api write=on;
        }
        location /ro/ { kong_shift_api; }
EOC
    upstream plain { server 127.0.0.1:1; }
EOC2
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my @workers = sort { $a <=> $b } $front->workers;
my $before = $t->snapshot;
is($before->{weight}{new}, 10, 'the weight before');

# after every case the state is as before; a slip does not make others fail
sub refused {
    my ($name, $r, $status, $code, $more) = @_;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return subtest $name => sub {
        ok($r, 'an answer') or return;
        is_json($r, $status, { status => $status,
            defined $code && !ref $code ? (code => $code) : (), %{ $more // {} }
            }, 'status and code');
        like($r->{json}{code}, $code, 'code') if ref $code;
        like($r->{headers}{'content-type'}, qr{^application/problem\+json},
            'a problem body');
        ok(length($r->{json}{title} // ''), 'a title');
        ok(length($r->{json}{detail} // ''), 'a detail');
        is($r->{headers}{'x-content-type-options'}, 'nosniff',
            'nothing a browser could run');
        my $after = $t->snapshot;
        is_deeply($after, $before, 'nothing changed');
        $before = $after;
    };
}

my $weight = '/shifts/kong/weight';

sub put { $t->api('PUT', $weight, @_) }


# --- numbers

for my $n (qw(101 -1 -0.0001 100.0001 0.00001 33.33333 4294967321
    18446744073709551641 1e30 -1e30), '1' x 300)
{
    refused("new $n", put("{\"new\":$n}"), 400, qr/^(?:out_of_range|invalid_json)$/);
}

refused("out of what a double holds: $_", put("{\"new\":$_}"), 400,
    qr/^(?:out_of_range|invalid_json)$/) for '1e309', '-1e309', '1e' . '9' x 50;

for my $n ('NaN', 'nan', 'Infinity', '-inf', '025', '+25', '.5', '5.', '0x19',
    '1_0', "\x{d9}\x{a2}\x{d9}\x{a5}", '25%', "'25'", '25 25')
{
    refused("new $n", put("{\"new\":$n}"), 400, 'invalid_json');
}

for my $v ('"25"', 'true', 'false', 'null', '[25]', '{"new":25}', '""') {
    refused("new $v", put("{\"new\":$v}"), 400, 'invalid_type');
}

refused('old of a wrong type', put('{"old":"90","new":10}'), 400,
    'invalid_type');
refused('old out of range', put('{"old":190,"new":10}'), 400,
    'out_of_range');
refused('sum of 99', put('{"old":90,"new":9}'), 400, 'sum_not_100');
refused('sum of 100.0001', put('{"old":90,"new":10.0001}'), 400,
    'sum_not_100');
refused('old alone', put('{"old":90}'), 400, 'missing_field');
refused('nothing', put('{}'), 400, 'missing_field');

my $r = put('{"new":25,"neu":1}');
refused('an unknown field', $r, 400, 'unknown_field');
like(to_json($r->{json}{fields} // []), qr/neu/, 'which is named');
refused('an unknown field of a later version',
    put('{"new":25,"confirm":"10m"}'), 400, 'unknown_field');
refused('an empty name', put('{"new":25,"":1}'), 400, 'unknown_field');
refused('a name in other case', put('{"New":25}'), 400,
    qr/^(?:unknown|missing)_field$/);
refused('a name with markup', put('{"new":25,"<script>alert(1)</script>":1}'),
    400, 'unknown_field');
refused('a name of 60 KB', put('{"new":25,"' . 'x' x 60_000 . '":1}'), 400,
    'unknown_field');
refused('force of a wrong type', put('{"new":25,"force":"yes"}'), 400,
    'invalid_type');
refused('comment of a wrong type', put('{"new":25,"comment":7}'), 400,
    'invalid_type');
refused('comment of 129 bytes', put({ new => 25, comment => 'c' x 129 }), 400,
    'invalid_value');
refused('comment with a control character', put('{"new":25,"comment":"a\u0007"}'),
    400, 'invalid_value');
refused('comment with a line feed', put('{"new":25,"comment":"a\nb"}'), 400,
    'invalid_value');
refused('comment with NUL', put('{"new":25,"comment":"a\u0000b"}'), 400,
    qr/^invalid_(?:value|json)$/);


# --- grammar

refused("not JSON: " . substr($_, 0, 20), put($_), 400, 'invalid_json')
    for 'new=25', '{"new":25', '{"new":25}}', '{"new":25} x', '{"new":25,}',
    '{new:25}', "{'new':25}", '{"new" 25}', "\xef\xbb\xbf{\"new\":25}",
    "{\"new\":25}\0", "{\"new\":25\0}", "\0", "{\"new\":25,\"comment\":\"\xff\"}",
    "{\"new\":25,\"comment\":\"\xc0\x80\"}",
    "{\"new\":25,\"comment\":\"\xed\xa0\x80\"}",
    '{"new":25,"comment":"\ud800"}', '{"new":25,"comment":"\udc00x"}',
    "{\"new\":25,\"comment\":\"a\nb\"}", '{"new":25}{"new":26}',
    '/* c */{"new":25}', "\xff\xfe{\0}\0", ' ', "\r\n";

refused("not an object: $_", put($_), 400, 'invalid_type')
    for '[]', '25', '"new"', 'null', 'true', '[{"new":25}]';

refused('a duplicate key', put('{"new":10,"new":25}'), 400, 'duplicate_key');
refused('a duplicate key, spelled otherwise', put('{"new":10,"ne\u0077":25}'),
    400, 'duplicate_key');
refused('a duplicate key further in',
    $t->api('PUT', '/shifts/kong/gate',
        '{"state":"open","evidence":{"x":"1","x":"2"}}'), 400,
    'duplicate_key');

for my $depth (9, 100, 2000, 20_000) {
    refused("$depth arrays", put('[' x $depth . ']' x $depth), 400,
        $depth > 2048 ? 'too_deep' : qr/^(?:too_deep|invalid_type)$/);
    refused("$depth objects", put('{"new":' x $depth . '1' . '}' x $depth),
        $depth > 2048 ? (length('{"new":') * $depth > 65536 ? 413 : 400) : 400,
        $depth > 2048 ? qr/^(?:too_deep|body_too_large)$/
            : qr/^(?:too_deep|invalid_type)$/);
}
refused('30,000 open brackets', put('[' x 30_000), 400,
    qr/^(?:too_deep|invalid_json)$/);
refused('100,000 open brackets', put('[' x 100_000), 413, 'body_too_large');
refused('100,000 open brackets in chunks', chunked('[' x 100_000, 4000), 413,
    'body_too_large');

refused('a comment of 60 KB', put({ new => 25, comment => 'c' x 60_000 }), 400,
    'invalid_value');


# --- bodies

refused('no body', $t->api('PUT', $weight), 400, 'body_required');
refused('an empty body', put(''), 400, 'body_required');
refused('an empty chunked body', chunked('', 1), 400, 'body_required');

sub chunked {
    my ($text, $size, $uri) = @_;

    my $body = join '', map { sprintf "%x\r\n%s\r\n", length $_, $_ }
        unpack "(a$size)*", $text;
    return $t->api('PUT', $uri // $weight, "${body}0\r\n\r\n",
        'Transfer-Encoding: chunked', 'Content-Type: application/json');
}

refused('10 MB', put('{"new":25,"comment":"' . 'c' x 10_000_000 . '"}'), 413,
    'body_too_large');
refused('10 MB in chunks', chunked('{"new":25' . ' ' x 10_000_000 . '}',
    100_000), 413, 'body_too_large');
refused('65,537 bytes', put('{"new":25' . ' ' x (65_537 - 10) . '}'), 413,
    'body_too_large');
refused('65,537 bytes in chunks', chunked('{"new":25' . ' ' x (65_537 - 10)
    . '}', 1000), 413, 'body_too_large');
refused('an announced 10 GB', put('{"new":25}', 'Content-Length: 10000000000'),
    413, 'body_too_large');
refused('not JSON, from a file', $t->api('PUT', '/file/shifts/kong/weight',
    ' ' x 20_000 . 'x'), 400, 'invalid_json');
refused('out of range, from a file', $t->api('PUT', '/file/shifts/kong/weight',
    ' ' x 20_000 . '{"new":101}'), 400, 'out_of_range');

for my $type ('text/plain', 'text/html', 'application/xml', 'application/jsonx',
    'multipart/form-data; boundary=x', 'application/problem+json', ';',
    'application/json-patch+json')
{
    refused("Content-Type: $type", put('{"new":25}', "Content-Type: $type"),
        415, 'unsupported_media_type');
}

# what nginx itself refuses, or what no request is
sub raw {
    my ($bytes) = @_;
    my $c = $t->connect('admin');

    $c->send($bytes);
    my $r = $c->response;
    $c->close_now;

    return $r;
}

my $start = "PUT $weight HTTP/1.1\r\nHost: 127.0.0.1\r\n";
for my $case (
    ['both lengths', "${start}Content-Length: 10\r\n"
        . "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n{\"new\":25}"],
    ['two lengths', "${start}Content-Length: 10\r\nContent-Length: 11\r\n\r\n"
        . '{"new":25} '],
    ['a negative length', "${start}Content-Length: -1\r\n\r\n{\"new\":25}"],
    ['no number', "${start}Content-Length: ten\r\n\r\n{\"new\":25}"],
    ['a length beyond 64 bits',
        "${start}Content-Length: 99999999999999999999\r\n\r\n{\"new\":25}"],
    ['an unknown coding', "${start}Transfer-Encoding: gzip\r\n\r\n"],
    ['a bad chunk', "${start}Transfer-Encoding: chunked\r\n\r\nzz\r\n"],
    ['a chunk beyond 64 bits', "${start}Transfer-Encoding: chunked\r\n\r\n"
        . "fffffffffffffffff\r\n"],
    ['a foreign host in the request line', "PUT http://evil.example$weight "
        . "HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n\r\n"
        . '{"new":25}'],
    ['two Hosts', "${start}Host: evil.example\r\nContent-Length: 10\r\n\r\n"
        . '{"new":25}'],
    ['no Host', "PUT $weight HTTP/1.1\r\nContent-Length: 10\r\n\r\n"
        . '{"new":25}'])
{
    my ($name, $bytes) = @$case;

    my $r = raw($bytes);
    like($r ? $r->{status} : 'closed', qr/^(?:4\d\d|501|closed)$/,
        "$name: refused");
    is_deeply($t->snapshot, $before, "$name: nothing changed");
}

# an early end of a body is no body
for my $end (qw(close_now reset)) {
    my $c = $t->connect('admin');
    $c->send("${start}Content-Length: 11\r\n\r\n{\"new\":25}");
    $c->$end;
}
for (1 .. 50) {
    my $c = $t->connect('admin');
    $c->send("${start}Content-Length: 10\r\n\r\n{\"new\":2");
    $c->reset;
}
is_deeply($t->snapshot, $before, 'cut bodies: nothing changed');


# --- after a refused body the connection is at the next request or closed

my @bodies = (['{"new":101}'], ['x' x 70_000], ['['], ['{}'],
    ['x', 'Content-Type: text/plain'],
    ['{"new":25}', undef, '/shifts/none/weight'],
    ['{"new":25}', undef, '/shifts'],
    ['{"new":25}', undef, '/ro/shifts/kong/weight'],
    ['{"new":25}', undef, '/x'],
    ['{"new":25}', 'If-Match: "999"'],
    ['{"new":25}', 'Origin: http://evil.example'],
    ['{"new":25}', 'Sec-Fetch-Site: cross-site'],
    ['{"new":25}', 'Host: evil.example']);

# what would be a request if it were taken for one
my $evil = "PUT $weight HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 10\r\n"
    . "\r\n{\"new\":66}";

for my $case (@bodies) {
    my ($body, $header, $uri) = @$case;
    my $name = substr($body, 0, 12) . ' ' . ($header // $uri // '');

    my $c = $t->connect('admin');
    # the tail belongs to the body, so it is never a request
    $c->send($c->format_request('PUT', $uri // $weight, body => $body . $evil,
        headers => [$header // ()])
        . $c->format_request('GET', '/shifts/kong'));

    my $r = $c->response;
    cmp_ok($r ? $r->{status} : 0, '>=', 400, "$name: refused");

    my $next = $c->response;
    ok(!$next || $next->{status} == 200 && $next->{json}{name} eq 'kong',
        "$name: the pipelined request is answered, or the connection closed");
    $c->close_now;
    is_deeply($t->snapshot, $before, "$name: nothing changed");
}


# --- methods and paths

for my $m (qw(POST DELETE PATCH FOO MKCOL)) {
    my $r = $t->api($m, $weight, '{"new":25}');
    refused("$m of a weight", $r, 405, 'method_not_allowed');
    like($r->{headers}{allow} // '', qr/\bGET\b.*\bPUT\b/, "$m: Allow");
}

for my $case (['PUT', '/shifts'], ['POST', '/shifts'], ['DELETE', '/shifts/kong'],
    ['PUT', '/shifts/kong'], ['PUT', '/shifts/kong/abort'],
    ['GET', '/shifts/kong/abort'], ['PUT', '/shifts/kong/events'],
    ['POST', '/shifts/kong/gate'], ['POST', '/shifts/kong/freeze'])
{
    my ($m, $uri) = @$case;
    my $r = $t->api($m, $uri, $m eq 'GET' ? undef : '{"new":25}');
    refused("$m $uri", $r, 405, 'method_not_allowed');
    ok($r->{headers}{allow}, "$m $uri: Allow");
}

# reading never writes
for my $m (qw(GET HEAD)) {
    for my $uri ($weight, '/shifts/kong/gate', '/shifts/kong/freeze') {
        my $r = $t->api($m, $uri, '{"new":25,"state":"on"}',
            'X-HTTP-Method-Override: PUT', 'X-HTTP-Method: PUT');
        is($r->{status}, 200, "$m $uri with a body");
        is_deeply($t->snapshot, $before, "$m $uri: nothing changed");
    }
}
$r = $t->api('HEAD', '/shifts/kong/abort');
is($r->{status}, 405, 'HEAD of abort');
$r = $t->api('GET', "$weight?new=25&method=PUT");
like($r->{status}, qr/^(?:200|400)$/, 'a weight in the query');
is_deeply($t->snapshot, $before, 'nothing changed');

refused("unknown shift: $_", $t->api('GET', "/shifts/$_"), 404,
    'unknown_shift') for qw(none kong2 kon dp_old plain),
    'x' x 2000, '%3Cscript%3E', '%22%5C', 'k%F6ng', '%01';
refused('PUT of an unknown shift', $t->api('PUT', '/shifts/none/weight',
    '{"new":25}'), 404, 'unknown_shift');
refused("path: $_", $t->api('GET', $_), 404, 'not_found') for '/', '/shift',
    '/shiftsx', '/shifts/kong/weightx', '/shifts/kong/weight/x',
    '/shifts/kong/none', '/shifts/kong/%3Cb%3E', '/shifts/kong/Weight';

refused("events?$_", $t->api('GET', "/shifts/kong/events?$_"), 400,
    'invalid_query') for qw(since= since=x since=-1 since=1.5 since=0x1
    since=99999999999999999999999);

for my $body ('{"new":25}', '', '{"new"') {
    my $r = $t->api('PUT', '/ro/shifts/kong/weight', $body);
    refused("writes off: $body", $r, 405, 'writes_off');
    like($r->{headers}{allow} // '', qr/^GET\b/, 'Allow without PUT');
    unlike($r->{headers}{allow} // '', qr/PUT/, 'Allow without PUT');
}
refused("writes off: $_->[0] $_->[1]", $t->api(@$_), 405, 'writes_off')
    for ['POST', '/ro/shifts/kong/abort'], ['PUT', '/ro/shifts/kong/gate'],
    ['PUT', '/ro/shifts/kong/freeze'];


# --- pools, their drains and peers

my $pool = '/shifts/kong/pools/old';
my $peer = "$pool/peers/" . $t->listen_at('old');

for my $body ('[' x 20_000, '{"comment":' x 1000 . '1' . '}' x 1000,
    '{"rate":1e309}', '{"rate":NaN}', '{"rate":020}', '{"rate":0x14}',
    '{"rate":1e4}', '{"rate":' . '9' x 400 . '}', '{"deadline":"1\u0000m"}',
    '{"deadline":"\ud800"}', "{\"deadline\":\"\xd9\xa1m\"}",
    '{"deadline":{"m":10}}', '{"comment":"a\nb"}', '{"<script>":1}', "\0",
    '{"rate":20,"r\u0061te":20}', '{"state":"drain"}', 'rate=20', "{}{}",
    '{"comment":"' . 'c' x 129 . '"}')
{
    for ([POST => "$pool/drain"], [DELETE => "$pool/drain"], [PUT => $peer]) {
        my ($m, $uri) = @$_;
        next if $m eq 'PUT' && $body eq '{"state":"drain"}';
        refused("$m $uri: " . substr($body, 0, 20), $t->api($m, $uri, $body),
            400, qr/^(?:invalid_|out_of_range|too_deep|duplicate_key
            |unknown_field|missing_field)/x);
    }
}
for ([POST => "$pool/drain"], [DELETE => "$pool/drain"], [PUT => $peer]) {
    my ($m, $uri) = @$_;
    refused("$m $uri: 10 MB", $t->api($m, $uri, '{' . ' ' x 10_000_000 . '}'),
        413, 'body_too_large');
    refused("$m $uri: 70 KB in chunks", $t->api($m, $uri, join('', map {
        "1000\r\n" . ' ' x 4096 . "\r\n" } 1 .. 18) . "0\r\n\r\n",
        'Transfer-Encoding: chunked'), 413, 'body_too_large');
    refused("$m $uri: text/html", $t->api($m, $uri, '{"state":"drain"}',
        'Content-Type: text/html'), 415, 'unsupported_media_type');
    refused("$m $uri: foreign", $t->api($m, $uri, '{"state":"drain"}',
        'Origin: http://evil.example'), 403, 'cross_site');
    refused("$m $uri: not here", $t->api($m, "/ro$uri", '{"state":"drain"}'),
        405, 'writes_off');
    refused("$m $uri: an old tag", $t->api($m, $uri, $m eq 'PUT'
        ? '{"state":"drain"}' : '', 'If-Match: "999"'), 412,
        'generation_mismatch');

    # what comes behind a body that is refused is no request of its own
    my $c = $t->connect('admin');
    $c->send($c->format_request($m, $uri, body => "[]$evil")
        . $c->format_request('GET', '/shifts/kong'));
    my $r = $c->response;
    cmp_ok($r ? $r->{status} : 0, '>=', 400, "$m $uri: refused");
    my $next = $c->response;
    ok(!$next || $next->{status} == 200 && $next->{json}{name} eq 'kong',
        "$m $uri: the next request is answered, or the connection closed");
    $c->close_now;
    is_deeply($t->snapshot, $before, "$m $uri: nothing changed");
}
refused('a drain that the weight forbids', $t->api('POST', "$pool/drain"), 409,
    'pool_in_use');
refused('the last peer', $t->api('PUT', $peer, '{"state":"drain"}'), 409,
    'pool_in_use');
for my $m (qw(GET HEAD)) {
    for my $uri ($pool, $peer, "$pool/safe_to_stop", '/metrics') {
        my $r = $t->api($m, $uri, '{"state":"drain","rate":1}',
            'X-HTTP-Method-Override: POST');
        like($r->{status}, qr/^(?:200|409)$/, "$m $uri with a body");
        is_deeply($t->snapshot, $before, "$m $uri: nothing changed");
    }
}
refused("peer $_", $t->api('GET', "$pool/peers/$_"), 404, 'unknown_peer')
    for 'a%2Fb%2F..%2Fc', 'x' x 5000,
    '%E2%82%AC', '%C0%80', '%f0%9f', '%5C', '%3F', '%23', "%27%20OR%201";


# --- other sites

my @hosts = ('evil.example', 'evil.example:8040', "localhost.evil.example",
    '127.0.0.1.evil.example', 'admin.example.com.evil.example', 'kong',
    '127.0.0.1x', 'xlocalhost', '[evil', 'evil.example.');
for my $host (@hosts) {
    my $r = put('{"new":25}', "Host: $host");
    next if $r && $r->{status} == 400 && !$r->{json}
        && is_deeply($t->snapshot, $before, "Host $host: nginx refuses it");
    refused("Host $host", $r, 403, 'foreign_host');
}

for my $origin ('http://evil.example', 'null', 'https://localhost.evil.example',
    'http://127.0.0.1:1', 'file://', 'http://admin.example.com.evil.example',
    '', 'http://', 'garbage')
{
    refused("Origin $origin", put('{"new":25}', "Origin: $origin"), 403,
        'cross_site');
}
refused('a foreign Origin with a fitting name', put('{"new":25}',
    'Host: admin.example.com', 'Origin: http://other.example.com'), 403,
    'cross_site');
refused('Sec-Fetch-Site: cross-site', put('{"new":25}',
    'Sec-Fetch-Site: cross-site'), 403, 'cross_site');
refused('Sec-Fetch-Site: Cross-Site', put('{"new":25}',
    'Sec-Fetch-Site: Cross-Site'), 403, 'cross_site');
refused('two Origins', put('{"new":25}', "Origin: http://$t->{addr}:$port",
    'Origin: http://evil.example'), 403, 'cross_site');
refused('a cross-site abort', $t->api('POST', '/shifts/kong/abort', undef,
    'Origin: http://evil.example'), 403, 'cross_site');
refused('a cross-site form', $t->api('POST', '/shifts/kong/abort', 'a=b',
    'Origin: http://evil.example',
    'Content-Type: application/x-www-form-urlencoded'), 403, 'cross_site');
refused('an abort from a foreign Host', $t->api('POST', '/shifts/kong/abort',
    undef, 'Host: evil.example'), 403, 'foreign_host');

$r = $t->api('OPTIONS', $weight, undef, 'Origin: http://evil.example',
    'Access-Control-Request-Method: PUT');
ok(!grep({ /^access-control/ } keys %{ $r->{headers} }),
    'a preflight grants nothing');
is_deeply($t->snapshot, $before, 'and changes nothing');


# --- preconditions

my $g = $before->{generation};
for my $tag ('"' . ($g + 1) . '"', '"' . ($g - 1) . '"', '"x"', '""', $g,
    "W/\"$g\"", '"999", "998"', '"' . '9' x 40 . '"', "\"0$g\"", "\"$g",
    'x' x 4000)
{
    refused('If-Match: ' . substr($tag, 0, 20),
        put('{"new":25}', "If-Match: $tag"), 412, 'generation_mismatch',
        { current => $g });
}

# 64 at once with the same tag: one wins
my @c = map { my $c = $t->connect('admin');
    my $req = $c->format_request('PUT', $weight, body => "{\"new\":$_}",
        headers => ["If-Match: \"$g\""]);
    $c->send(substr $req, 0, -1);
    [$c, substr($req, -1), $_] } 1 .. 64;
$_->[0]->send($_->[1]) for @c;

my (%status, $winner);
for (@c) {
    my $r = $_->[0]->response;
    $status{ $r ? $r->{status} : 'none' }++;
    $winner = $_->[2] if $r && $r->{status} == 200;
    $_->[0]->close_now;
}
is_deeply(\%status, { 200 => 1, 412 => 63 },
    '64 parallel PUTs with one tag: one 200, 63 times 412');
my $after = $t->snapshot;
is("$after->{weight}{new} $after->{generation}", "$winner " . ($g + 1),
    'and the one is in force');
$before = $after;

# without a tag: all win, one after the other
@c = map { my $c = $t->connect('admin');
    $c->send($c->format_request('PUT', $weight, body => "{\"new\":$_}"));
    [$c, $_] } 1 .. 64;
%status = ();
my %weight_of;
for (@c) {
    my $r = $_->[0]->response;
    $status{ $r ? $r->{status} : 'none' }++;
    $weight_of{ $r->{json}{generation} } = $_->[1] if $r;
    $_->[0]->close_now;
}
$after = $t->snapshot;
is_deeply(\%status, { 200 => 64 }, '64 parallel PUTs: all are taken');
is(scalar keys %weight_of, 64, 'each as a generation of its own');
is($after->{weight}{new}, $weight_of{ $after->{generation} },
    'the last one is in force');

is_deeply([sort { $a <=> $b } $front->workers], \@workers,
    'the same workers all the time');

$t->finish;
