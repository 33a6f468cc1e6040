# The module loads, splits and answers.

use lib 't/lib';
use KongShift::Socket;
use Test::Nginx::Socket 'no_plan';


run_tests();

__DATA__

=== TEST 1: weight 0 is all old
--- request
GET /t
--- response_body
old



=== TEST 2: weight 100 is all new
--- shift
kong_shift old=dp_old new=dp_new weight=100;
--- request
GET /t
--- response_body
new



=== TEST 3: weight 50 takes turns
--- shift
kong_shift old=dp_old new=dp_new weight=50;
--- request eval
["GET /t", "GET /t", "GET /t", "GET /t"]
--- response_body eval
["old\n", "new\n", "old\n", "new\n"]



=== TEST 4: a weight set at run time
--- request eval
["GET /t",
"PUT /shift/shifts/kong/weight\n{\"new\":100}",
"GET /t",
"POST /shift/shifts/kong/abort",
"GET /t"]
--- response_body_like eval
["^old\$", "\"new\": ?100\\b", "^new\$", "\"aborted\": ?true", "^old\$"]
--- error_code eval
[200, 200, 200, 200, 200]



=== TEST 5: loaded and not used
--- config
location /t { proxy_pass http://dp_old; }
--- request
GET /t
--- response_body
old
