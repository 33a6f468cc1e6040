# kong_shift_override decides before key and weight; gate and abort before it.

use lib 't/lib';
use KongShift::Socket;
use Test::Nginx::Socket 'no_plan';

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(http_config => <<'EOC');
    map $http_x_pool $by_header {
        default   '';
        old       old;
        new       new;
        raw       $http_x_raw;
    }
EOC
    $block->set_value(config => <<'EOC') if !defined $block->config;
        location /t {
            proxy_pass http://kong;
            add_header X-Choice "$kong_shift_pool $kong_shift_reason";
        }
        location /shift/ { kong_shift_api write=on; }
EOC
    $block->set_value(shift => 'kong_shift old=dp_old new=dp_new weight='
        . ($block->weight // 0) . '; kong_shift_override $by_header; '
        . ($block->more // ''));
});

repeat_each(2);

run_tests();

__DATA__

=== TEST 1: to new at weight 0
--- request
GET /t
--- more_headers
X-Pool: new
--- response_body
new
--- response_headers
X-Choice: new override



=== TEST 2: to old at weight 100
--- weight chomp
100
--- request
GET /t
--- more_headers
X-Pool: old
--- response_body
old
--- response_headers
X-Choice: old override



=== TEST 3: empty decides nothing
--- request
GET /t
--- more_headers
X-Pool: other
--- response_body
old
--- response_headers
X-Choice: old weight



=== TEST 4: only the two words count
--- request eval
["GET /t", "GET /t", "GET /t", "GET /t", "GET /t", "GET /t"]
--- more_headers eval
["X-Pool: raw\nX-Raw: New", "X-Pool: raw\nX-Raw: news", "X-Pool: raw\nX-Raw: ne",
"X-Pool: raw\nX-Raw: new new", "X-Pool: raw\nX-Raw: dp_new",
"X-Pool: raw\nX-Raw: 1"]
--- response_body eval
["old\n", "old\n", "old\n", "old\n", "old\n", "old\n"]



=== TEST 5: before the key
--- weight chomp
0
--- more
kong_shift_key $arg_k;
--- request
GET /t?k=x
--- more_headers
X-Pool: new
--- response_body
new
--- response_headers
X-Choice: new override



=== TEST 6: without one, the key decides
--- weight chomp
100
--- more
kong_shift_key $arg_k;
--- request
GET /t?k=x
--- response_body
new
--- response_headers
X-Choice: new key



=== TEST 7: overridden requests are no part of the exact split
--- weight chomp
50
--- request eval
["GET /t", "GET /t", "GET /t", "GET /t", "GET /t", "GET /t"]
--- more_headers eval
["X-Pool: new", "X-Pool:", "X-Pool: new", "X-Pool:", "X-Pool: old", "X-Pool:"]
--- response_body eval
["new\n", qr/^(old|new)\n$/, "new\n", qr/^(old|new)\n$/, "old\n",
qr/^(old|new)\n$/]



=== TEST 8: not to new through a closed gate
--- more
kong_shift_gate on;
--- request
GET /t
--- more_headers
X-Pool: new
--- response_body
old
--- response_headers
X-Choice: old weight



=== TEST 9: to old through a closed gate
--- more
kong_shift_gate on;
--- request
GET /t
--- more_headers
X-Pool: old
--- response_body
old
--- response_headers
X-Choice: old override



=== TEST 10: not to new after an abort, until the next weight
--- request eval
["GET /t", "POST /shift/shifts/kong/abort", "GET /t",
"PUT /shift/shifts/kong/weight\n{\"new\":0}", "GET /t"]
--- more_headers
X-Pool: new
--- response_body eval
["new\n", qr/"aborted": ?true/, "old\n", qr/"aborted": ?false/, "new\n"]
