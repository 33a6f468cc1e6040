# The variables: pool, reason, weight and generation of the choice.

use lib 't/lib';
use KongShift::Socket;
use Test::Nginx::Socket 'no_plan';

add_block_preprocessor(sub {
    my ($block) = @_;

    $block->set_value(config => <<'EOC') if !defined $block->config;
        location /t {
            proxy_pass http://kong;
            add_header X-Vars "$kong_shift_pool,$kong_shift_reason,$kong_shift_weight,$kong_shift_generation";
        }
        location /shift/ { kong_shift_api write=on; }
EOC
    $block->set_value(shift => 'kong_shift old=dp_old new=dp_new weight='
        . $block->weight . '; ' . ($block->more // ''))
        if defined $block->weight;
});


run_tests();

__DATA__

=== TEST 1: a whole percentage
--- weight chomp
0
--- request
GET /t
--- response_headers
X-Vars: old,weight,0,1



=== TEST 2: 100
--- weight chomp
100
--- request
GET /t
--- response_headers
X-Vars: new,weight,100,1



=== TEST 3: decimals, without zeros at the end
--- weight chomp
12.5000
--- request
GET /t
--- response_headers
X-Vars: old,weight,12.5,1



=== TEST 4: all four decimals
--- weight chomp
0.0001
--- request
GET /t
--- response_headers
X-Vars: old,weight,0.0001,1



=== TEST 5: by key
--- weight chomp
100
--- more
kong_shift_key $arg_k;
--- request
GET /t?k=x
--- response_headers
X-Vars: new,key,100,1



=== TEST 6: the weight in force, not the one that waits for the gate
--- weight chomp
40
--- more
kong_shift_gate on;
--- request
GET /t
--- response_headers
X-Vars: old,weight,0,1



=== TEST 7: after a change
--- weight chomp
0
--- request eval
["PUT /shift/shifts/kong/weight\n{\"new\":100}", "GET /t"]
--- response_headers eval
["", "X-Vars: new,weight,100,2"]



=== TEST 8: empty without a choice
--- config
location /t {
    add_header X-Vars "[$kong_shift_pool$kong_shift_reason$kong_shift_weight$kong_shift_generation]";
    return 200 "here\n";
}
--- request
GET /t
--- response_headers
X-Vars: []
--- response_body
here



=== TEST 9: empty through a plain upstream
--- config
location /t {
    proxy_pass http://dp_old;
    add_header X-Vars "[$kong_shift_pool$kong_shift_reason$kong_shift_weight$kong_shift_generation]";
}
--- request
GET /t
--- response_headers
X-Vars: []



=== TEST 10: asked for too early, they are right later
--- config
location /t {
    set $early "[$kong_shift_pool]";
    proxy_set_header X-Early $kong_shift_pool;
    proxy_pass http://kong;
    add_header X-Vars "$early $kong_shift_pool";
}
--- request
GET /t
--- response_headers
X-Vars: [] old



=== TEST 11: in the access log
--- http_config
    log_format shift '$kong_shift_pool/$kong_shift_reason/$kong_shift_weight';
--- config
location /t {
    access_log $TEST_NGINX_SERVROOT/logs/shift.log shift;
    proxy_pass http://kong;
}
location /log {
    alias $TEST_NGINX_SERVROOT/logs/shift.log;
}
--- request eval
["GET /t", "GET /log"]
--- response_body eval
["old\n", "old/weight/0\n"]

