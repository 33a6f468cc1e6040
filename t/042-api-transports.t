# The admin endpoint over HTTP/2, TLS, a UNIX socket and HTTP/1.0, from several
# servers and kinds of location.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use IO::Socket::UNIX;
use Test::More;

use KongShift;

my $t = KongShift->new;
my %is = map { $_ => $t->listen_at($_) } qw(h2 h2c tls viatls regex);
my $dir = $t->dir;

system("openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 "
    . "-nodes -days 2 -subj /CN=localhost -keyout $dir/key.pem "
    . "-out $dir/cert.pem 2>/dev/null") == 0
    or BAIL_OUT('openssl cannot make a certificate');

# nginx speaks HTTP/2 to a server by grpc_pass only: it is the client here
$t->backend(conf => <<"EOC");
    client_max_body_size 0;
    server {
        listen $is{h2};
        location / { grpc_pass grpc://$is{h2c}; grpc_set_header Host localhost; }
        location /buffered { client_body_buffer_size 200k;
            rewrite ^/buffered(.*) \$1 break; grpc_pass grpc://$is{h2c};
            grpc_set_header Host localhost; }
    }
    server {
        listen $is{viatls};
        location / { proxy_pass https://$is{tls}; proxy_http_version 1.1;
            proxy_request_buffering off; proxy_set_header Host localhost; }
    }
EOC

my $sock = "$dir/admin.sock";
my $front = $t->front(workers => 2, weight => 10,
    state => $t->state_dir . '/state.json', http => <<"EOC");
    server { listen $is{h2c} http2; location / { kong_shift_api write=on; } }
    server { listen $is{tls} ssl; ssl_certificate $dir/cert.pem;
             ssl_certificate_key $dir/key.pem;
             location / { kong_shift_api write=on; } }
    server { listen unix:$sock; location / { kong_shift_api write=on; } }
    server { listen $is{regex};
        location ~ ^/shifts { kong_shift_api write=on; }
        location /outer/ { location /outer/inner/ { kong_shift_api; } }
        location = /exact { kong_shift_api write=on; }
        location /plain/ { return 200 "plain\\n"; }
        location /allowed/ { kong_shift_api write=on;
            limit_except GET { allow 127.0.0.0/8; deny all; } }
        location /denied/ { kong_shift_api write=on;
            limit_except GET { deny all; } }
        location /gzip/ { kong_shift_api write=on; gzip on; gzip_min_length 1;
            gzip_types application/json application/problem+json; }
        location = /mirrored { mirror /shifts/kong/weight;
            mirror_request_body off; proxy_pass http://dp_old; }
        location = /mirrored_body { mirror /shifts/kong/weight;
            proxy_pass http://dp_old; } }
EOC
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});

my $weight = '/shifts/kong/weight';

for my $via (qw(h2 viatls)) {
    is_json($t->http($via, 'GET', '/shifts/kong'), 200, { name => 'kong' },
        "$via: GET");
    is($t->http($via, 'HEAD', '/shifts/kong')->{status}, 200, "$via: HEAD");
    is_json($t->http($via, 'PUT', $weight, body => '{"new":20}'), 200,
        { new => 20 }, "$via: PUT");
    is_json($t->http($via, 'PUT', $weight, body => '{"new":101}'), 400,
        { code => 'out_of_range' }, "$via: a bad one");
    is_json($t->http($via, 'PUT', $weight), 400, { code => 'body_required' },
        "$via: no body");
    is_json($t->http($via, 'POST', '/shifts/kong/abort'), 200,
        { aborted => JSON::PP::true }, "$via: abort without a body");

    for my $n (1000, 16_384, 20_000, 65_536) {
        is_json($t->http($via, 'PUT', $weight,
            body => '{"new":' . $n % 97 . ' ' x ($n - 10) . '}'), 200,
            { new => $n % 97 }, "$via: $n bytes");
    }

    for my $n (65_600, 1_000_000) {
        my $before = $t->snapshot;
        my $r = $t->http($via, 'PUT', $weight,
            body => '{"new":66' . ' ' x ($n - 10) . '}');

        # the client in between may see its connection end while it sends
        like($r->{status}, qr/^(?:413|502)$/, "$via: $n bytes are refused");
        is_deeply($t->snapshot, $before, "$via: $n bytes: nothing changed");
    }
}
is_json($t->http('h2', 'PUT', "/buffered$weight",
    body => '{"new":21' . ' ' x 60_000 . '}'), 200, { new => 21 },
    'h2: a long body in one go');


# --- a UNIX socket

sub unix_call {
    my ($method, $uri, $body, @headers) = @_;

    my $s = IO::Socket::UNIX->new(Peer => $sock) or return undef;
    my $c = bless { sock => $s, buf => '', eof => 0, host => 'localhost' },
        'KongShift::HTTP';
    return $c->request($method, $uri, body => $body, headers => \@headers);
}

is_json(unix_call('GET', $weight), 200, { new => 21 }, 'UNIX socket: GET');
is_json(unix_call('PUT', $weight, '{"new":22}'), 200, { new => 22 },
    'UNIX socket: PUT');
my $events = $t->api('GET', '/shifts/kong/events')->{json}{events};
like($events->[-1]{by}, qr/^unix:/, 'UNIX socket: from where');
is_json(unix_call('PUT', $weight, '{"new":23}', 'Host: evil.example'), 403,
    { code => 'foreign_host' }, 'UNIX socket: a foreign host');


# --- HTTP/1.0

is_json($t->http('admin', 'PUT', $weight, body => '{"new":24}',
    version => '1.0'), 200, { new => 24 }, 'HTTP/1.0: PUT');
is_json($t->http('admin', 'PUT', $weight, body => '{"new":',
    version => '1.0'), 400, { code => 'invalid_json' }, 'HTTP/1.0: a bad one');


# --- locations

is_json($t->http('regex', 'PUT', $weight, body => '{"new":25}'), 200,
    { new => 25 }, 'a regex location');
is_json($t->http('regex', 'GET', "/outer/inner$weight"), 200, { new => 25 },
    'a nested location');
is($t->http('regex', 'GET', "/outer$weight")->{status}, 404,
    'it is not inherited upwards');
is($t->http('regex', 'GET', '/plain/shifts')->{body}, "plain\n",
    'nor to its neighbours');
is_json($t->http('regex', 'GET', '/exact'), 404, { code => 'not_found' },
    'an exact location has nothing below it');

is_json($t->http('regex', 'PUT', "/allowed$weight", body => '{"new":26}'), 200,
    { new => 26 }, 'limit_except that allows');
is($t->http('regex', 'PUT', "/denied$weight", body => '{"new":27}')->{status},
    403, 'limit_except that denies');
is_json($t->http('regex', 'GET', "/denied$weight"), 200, { new => 26 },
    'limit_except lets readers pass');

# a write is what a client asks for, never a copy of something else
for my $uri ('/mirrored', '/mirrored_body') {
    my $r = $t->http('regex', 'PUT', $uri, body => '{"new":28}');
    is($r && $r->{body}, "old PUT $uri\n", "$uri: is served");
    is($t->snapshot->{weight}{new}, 26, "$uri: the copy changes nothing");
}

my $r = $t->http('regex', 'GET', "/gzip$weight",
    headers => ['Accept-Encoding: gzip']);
is_json($t->http('regex', 'PUT', "/gzip$weight", body => '{"new":29}',
    headers => ["If-Match: $r->{headers}{etag}", 'Accept-Encoding: identity']),
    200, { new => 29 }, 'the tag of a compressed answer is good for If-Match');

# nobody is asked for a body that will be refused
for my $case (['too long', 413, 'Content-Length: 99999'],
    ['from elsewhere', 403, 'Content-Length: 10', 'Host: evil.example'],
    ['of a wrong type', 415, 'Content-Length: 10', 'Content-Type: text/plain'])
{
    my ($name, $status, @headers) = @$case;
    my $c = $t->connect('admin');
    $c->send($c->format_request('PUT', $weight,
        headers => ['Expect: 100-continue', @headers]));
    $c->until(qr/\r\n\r\n/);
    like($c->{buf}, qr/\AHTTP\/1\.1 $status /, "a body $name: no 100 first");
    $c->close_now;
}
is_json($t->http('admin', 'PUT', $weight, body => '{"new":30}',
    headers => ["Content-Type: application/json\t; charset=utf-8"]), 200,
    { new => 30 }, 'a tab after the type');


# --- many that do not finish: others are served as if they were not there

my @open = map { my $c = $t->connect('admin');
    $c->send("PUT $weight HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100"
        . "\r\n\r\n{\"new\":"); $c } 1 .. 300;
is_json($t->api('PUT', $weight, { new => 30 }), 200, { new => 30 },
    '300 unfinished bodies: a change is taken');
is($t->load(requests => 500, conns => 8)->{failed}, 0,
    '300 unfinished bodies: requests are served');
$_->reset for @open;
is_json($t->api('PUT', $weight, { new => 31 }), 200, { new => 31 },
    'after 300 resets: a change is taken');

# clients that do not wait for the answer
for my $i (1 .. 100) {
    my $c = $t->connect('admin');
    $c->send($c->format_request('PUT', $weight, body => "{\"new\":$i}"));
    $i % 2 ? $c->reset : $c->close_now;
}
is_json($t->api('PUT', $weight, { new => 32 }), 200, { new => 32 },
    'after 100 that did not wait: a change is taken');

$t->finish(qr/\[crit\].*SSL_/);
