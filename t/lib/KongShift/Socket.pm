package KongShift::Socket;

# To be used before Test::Nginx::Socket, by files in its format: loopback only,
# a free port, the module loaded, a private server root.  Each block gets
#
#     upstreams dp_old and dp_new, whose servers answer with their pool's name
#     --- shift    what the upstream "kong" holds (the default is weight=0)
#
# and the variables $TEST_NGINX_OLD and $TEST_NGINX_NEW, the pools' addresses.

use strict;
use warnings;

use Cwd qw(abs_path);
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp ();
use IO::Socket::INET;

use KongShift::Nginx;

my ($root, $owner, $dir, $addr);

# runs after that of Test::Nginx, which is met later and needs its files
END {
    if ($$ == $owner) {
        KongShift::Nginx::end_all_children();
        remove_tree($dir, { safe => 0 });
    }
}

BEGIN {
    $root = abs_path(dirname(__FILE__) . '/../../..');
    my $unpacked = "$root/build/test-nginx/usr/share/perl5";
    unshift @INC, $unpacked if -d $unpacked;

    KongShift::Nginx::adopt_orphans();

    $owner = $$;
    $dir = File::Temp::tempdir('kong-shift-XXXXXXXX', TMPDIR => 1);
    chmod 0755, $dir;

    $addr = KongShift::Nginx::own_address();

    my @port;
    while (@port < 4) {
        my $port = 10000 + int rand 20000;
        my $s = IO::Socket::INET->new(LocalAddr => $addr,
            LocalPort => $port, Listen => 1) or next;
        push @port, $port;
    }

    $ENV{TEST_NGINX_SERVROOT} = "$dir/servroot";
    $ENV{TEST_NGINX_SERVER_PORT} = "$addr:$port[0]";
    $ENV{TEST_NGINX_CLIENT_PORT} = $port[0];
    $ENV{TEST_NGINX_OLD} = "$addr:$port[1]";
    $ENV{TEST_NGINX_NEW} = "$addr:$port[2]";
    $ENV{TEST_NGINX_STREAM_PORT} = $port[3];
    $ENV{TEST_NGINX_LOAD_MODULES}
        //= "$root/build/ngx_kong_shift_module.so";

    # a word in the environment that would put the server root elsewhere
    delete $ENV{TEST_NGINX_RANDOMIZE};
}

use Test::Nginx::Util ();

Test::Nginx::Util::server_addr($addr);

Test::Nginx::Util::add_block_preprocessor(sub {
    my ($block) = @_;
    my $shift = $block->shift // 'kong_shift old=dp_old new=dp_new weight=0;';

    $block->set_value(http_config => ($block->http_config // '') . <<"EOC");
    upstream dp_old { server \$TEST_NGINX_OLD; }
    upstream dp_new { server \$TEST_NGINX_NEW; }
    upstream kong { $shift }
    server { listen \$TEST_NGINX_OLD; return 200 "old\\n"; }
    server { listen \$TEST_NGINX_NEW; return 200 "new\\n"; }
EOC

    if (!defined $block->config) {
        $block->set_value(config => <<'EOC');
        location /t { proxy_pass http://kong; }
        location /shift/ { kong_shift_api write=on; }
EOC
    }

    if (!defined $block->no_error_log && !defined $block->error_log) {
        $block->set_value(no_error_log => "[alert]\n[crit]\n[emerg]\n"
            . "Sanitizer\nruntime error:\n");
    }
});

1;
