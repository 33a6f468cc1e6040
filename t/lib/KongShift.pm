package KongShift;

# Helper of the *.t files that start nginx themselves: several workers, reload,
# binary upgrade, kill -9, a second nginx.
#
#   TEST_NGINX_BINARY        nginx to test           (default: nginx)
#   TEST_NGINX_LOAD_MODULES  modules to load         (default: the built one)
#
# Everything of one test lives in a private folder below TMPDIR and listens on
# an address of 127/8 that belongs to this process, so that other runs on the
# same machine neither meet it nor take its ports.

use strict;
use warnings;

use Cwd qw(abs_path);
use Exporter qw(import);
use File::Basename qw(dirname);
use File::Path qw(remove_tree);
use File::Temp ();
use IO::Socket::INET;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

use KongShift::HTTP qw(from_json to_json);
use KongShift::Nginx;

our @EXPORT = qw(from_json to_json is_json pool_counts read_file retry_until
    wait_for write_file);

our $ROOT = abs_path(dirname(__FILE__) . '/../..');

# a dead peer is an answer to the test, not the end of it
$SIG{PIPE} = 'IGNORE';
$SIG{$_} = sub { exit 1 } for qw(HUP INT TERM);

my ($owner, @dirs) = ($$);

END {
    if ($$ == $owner) {
        KongShift::Nginx::end_all_children();
        remove_tree($_, { safe => 0 }) for @dirs;
    }
}


sub new {
    my ($class, %o) = @_;

    KongShift::Nginx::adopt_orphans();

    my $dir = File::Temp::tempdir('kong-shift-XXXXXXXX',
        TMPDIR => 1, CLEANUP => 0);
    push @dirs, $dir;

    # when root starts nginx, its workers are somebody else
    chmod 0755, $dir or die "chmod $dir: $!";

    my $self = bless { dir => $dir, ports => {}, addr => KongShift::Nginx::own_address(),
        nginx => [], %o }, $class;

    return $self;
}

sub dir  { $_[0]{dir} }
sub addr { $_[0]{addr} }

# a port by name; below the range from which the kernel takes ports of clients
sub port {
    my ($self, $name) = @_;

    return $self->{ports}{$name} if $self->{ports}{$name};

    my %used = map { $_ => 1 } values %{ $self->{ports} };

    for (1 .. 1000) {
        my $port = 10000 + int rand 20000;
        next if $used{$port};

        # without SO_REUSEADDR, so that a socket in any state is seen
        my $s = IO::Socket::INET->new(LocalAddr => $self->{addr},
            LocalPort => $port, Listen => 1) or next;
        close $s;

        return $self->{ports}{$name} = $port;
    }

    die "no free port on $self->{addr}";
}

sub listen_at { my ($self, $name) = @_; return "$self->{addr}:" . $self->port($name) }

# a folder that the workers may write to
sub state_dir {
    my ($self, $name) = @_;
    my $dir = "$self->{dir}/" . ($name // 'state');

    mkdir $dir, 0755 or die "mkdir $dir: $!" if !-d $dir;
    if ($> == 0) {
        my ($uid, $gid) = (getpwnam KongShift::Nginx::worker_user())[2, 3];
        chown $uid, $gid, $dir or die "chown $dir: $!";
    }

    return $dir;
}

sub nginx {
    my ($self, %o) = @_;

    my $n = KongShift::Nginx->new(test => $self, %o);
    push @{ $self->{nginx} }, $n;

    return $n;
}

# The two pools: one plain nginx, a server for each name.  The body starts with
# the pool's name; the log holds the connection each request came by.
sub backend {
    my ($self, %o) = @_;
    my @pools = @{ $o{pools} // [qw(old new)] };

    my $servers = join '', map { my $p = $_; <<"EOC" } @pools;
    server {
        listen @{[ $self->listen_at($p) ]} backlog=4096;
        location / { return 200 "$p \$request_method \$uri\\n"; }
    }
EOC

    my $b = $self->nginx(name => $o{name} // 'backend', plain => 1,
        workers => 1, conf => <<"EOC");
    log_format b '\$server_port \$connection \$connection_requests \$status '
                 '"\$request" \$request_id';
    access_log logs/access.log b;
    keepalive_requests 1000000;
    $servers
    @{[ $o{conf} // '' ]}
EOC
    $b->start or die "backend does not start: " . $b->error_log;

    return $self->{backend} = $b;
}

# the usual configuration: upstreams dp_old and dp_new, the shift "kong", one
# proxying server "front" and the admin server "admin"; every part may be
# replaced by an option of its name
sub front_conf {
    my ($self, %o) = @_;
    my %p = map { $_ => $self->listen_at($_) } qw(old new front admin);

    my $weight = $o{weight} // 0;
    my $shift = $o{shift} // "kong_shift old=dp_old new=dp_new weight=$weight;";
    my $pools = $o{pools} // <<"EOC";
    upstream dp_old { zone dp_old 64k; server $p{old}; keepalive 64; }
    upstream dp_new { zone dp_new 64k; server $p{new}; keepalive 64; }
EOC
    my $proxy = $o{proxy} // <<'EOC';
            proxy_pass          http://kong;
            proxy_http_version  1.1;
            proxy_set_header    Connection "";
            add_header X-Pool       $kong_shift_pool always;
            add_header X-Reason     $kong_shift_reason always;
            add_header X-Weight     $kong_shift_weight always;
            add_header X-Generation $kong_shift_generation always;
EOC
    my $api = $o{api} // 'kong_shift_api write=on;';

    return <<"EOC";
    @{[ $o{http} // '' ]}
    keepalive_requests 1000000;
    $pools
    upstream kong { $shift @{[ $o{extra} // '' ]} }

    server {
        listen $p{front} reuseport backlog=4096;
        add_header X-Worker \$pid always;
        location / {
            add_header X-Worker \$pid always;
            $proxy
        }
        @{[ $o{server} // '' ]}
    }
    server {
        listen $p{admin} reuseport backlog=4096;
        add_header X-Worker \$pid always;
        location / { $api }
        @{[ $o{admin} // '' ]}
    }
EOC
}

# the nginx under test, with front_conf() and maybe state=
sub front {
    my ($self, %o) = @_;

    my $f = $self->nginx(name => $o{name} // 'front',
        workers => $o{workers} // 1, main => $self->front_main(%o),
        conf => $self->front_conf(%o));

    return $self->{front} = $f;
}

sub front_main {
    my ($self, %o) = @_;

    my $zone = $o{zone} // ($o{state} ? 'auto' : return $o{main} // '');
    my $state = $o{state} ? " state=$o{state}" : '';

    return "kong_shift_zone $zone$state;\n" . ($o{main} // '');
}


# --- clients

sub connect {
    my ($self, $port) = @_;

    return KongShift::HTTP->new(addr => $self->{addr},
        port => $self->port($port // 'front'));
}

# one request on a connection of its own
sub http {
    my ($self, $port, $method, $uri, %o) = @_;

    my $c = $self->connect($port) or return undef;
    my $r = $c->request($method, $uri, %o);
    $c->close_now;

    return $r;
}

sub get {
    my ($self, $uri, @headers) = @_;
    return $self->http('front', 'GET', $uri, headers => \@headers);
}

# the pool that answered one request
sub pool {
    my ($self, $uri, @headers) = @_;
    my $r = $self->get($uri // '/', @headers) or return 'no answer';

    return $r->{body} =~ /^(\w+)/ && $r->{status} == 200 ? $1 : $r->{status};
}

# a call of the admin endpoint; a reference as body is sent as JSON
sub api {
    my ($self, $method, $uri, $body, @headers) = @_;

    if (ref $body) {
        $body = to_json($body);
        push @headers, 'Content-Type: application/json'
            if !grep { /^content-type:/i } @headers;
    }

    return $self->http('admin', $method, $uri, body => $body,
        headers => \@headers);
}

# a connection to one of these workers
sub connect_to {
    my ($self, $port, @pids) = @_;
    my %want = map { $_ => 1 } @pids;

    for (1 .. 2000) {
        my $c = $self->connect($port) or next;
        my $r = $c->request('GET', $port eq 'admin' ? '/shifts' : '/');
        return $c if $r && $want{ $r->{headers}{'x-worker'} // 0 };
        $c->close_now;
    }

    die "no connection to any of @pids";
}

# dies when refused: for the steps a test builds on
sub put {
    my ($self, $what, $body, $shift) = @_;
    $body = { new => $body } if !ref $body;

    my $r = $self->api('PUT', "/shifts/@{[ $shift // 'kong' ]}/$what", $body);
    die "PUT $what: " . ($r ? "$r->{status} $r->{body}" : 'no answer')
        if !$r || $r->{status} != 200;

    return $r->{json};
}

sub weight { my ($self, $w, $shift) = @_; return $self->put('weight', $w, $shift) }

# what a reader sees of a shift, without the parts that move by themselves
sub snapshot {
    my ($self, $shift) = @_;
    return snapshot_of($self->api('GET', '/shifts/' . ($shift // 'kong')));
}

sub snapshot_at { return snapshot_of($_[1]->request('GET', '/shifts/kong')) }

sub snapshot_of {
    my ($r) = @_;

    return { error => $r ? $r->{status} : 'no answer' }
        if !$r || $r->{status} != 200 || ref $r->{json} ne 'HASH';

    my %s = %{ $r->{json} };
    delete $s{saved};
    delete $_->{active} for values %{ $s{pools} };

    return \%s;
}

sub load {
    my ($self, %o) = @_;
    return KongShift::HTTP::load(addr => $self->{addr},
        port => $self->port($o{to} // 'front'), %o);
}

# load in the background until stop_load(), which answers what load() answers
sub start_load {
    my ($self, %o) = @_;

    pipe my $stop_r, my $stop_w or die "pipe: $!";
    pipe my $res_r, my $res_w or die "pipe: $!";

    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
        close $stop_w;
        close $res_r;

        my $res = eval {
            $self->load(requests => 1e9, %o, stop => sub {
                my $bits = '';
                vec($bits, fileno($stop_r), 1) = 1;
                return select $bits, undef, undef, 0;
            });
        } // { failed => 1, errors => ["$@"] };

        delete $res->{order};
        syswrite $res_w, to_json($res);
        POSIX::_exit(0);
    }

    return { pid => $pid, stop => $stop_w, result => $res_r };
}

sub stop_load {
    my ($self, $l) = @_;

    close $l->{stop};
    local $/;
    my $res = readline $l->{result};
    waitpid $l->{pid}, 0;

    return from_json($res) // { failed => 1, errors => ['load died'] };
}

# A server of its own for what nginx cannot play: the code gets each accepted
# socket.  Answers the process id; KongShift ends it.
sub server {
    my ($self, $name, $code) = @_;

    my $s = IO::Socket::INET->new(LocalAddr => $self->{addr},
        LocalPort => $self->port($name), ReuseAddr => 1, Listen => 64)
        or die "listen $name: $!";

    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
        while (1) {
            my $c = $s->accept or next;
            eval { $code->($c) };
            close $c;
        }
    }

    close $s;
    return $pid;
}


# --- waiting, files, assertions

sub retry_until {
    my ($code, $timeout) = @_;
    my $end = time() + ($timeout // $KongShift::HTTP::TIMEOUT);

    while (1) {
        my $v = $code->();
        return $v if $v || time() > $end;
        sleep 0.01;
    }
}

sub wait_for {
    my ($what, $code, $timeout) = @_;
    return retry_until($code, $timeout) || die "still waiting for $what";
}

sub read_file {
    my ($path) = @_;

    open my $fh, '<:raw', $path or return undef;
    local $/;
    return scalar readline $fh;
}

sub write_file {
    my ($path, $text) = @_;

    open my $fh, '>:raw', $path or die "$path: $!";
    print $fh $text;
    close $fh or die "$path: $!";
}

sub pool_counts {
    my ($res) = @_;
    my %n = (old => 0, new => 0, %{ $res->{pool} });

    return "old $n{old}, new $n{new}, failed $res->{failed}";
}

# status and the members named, of a JSON answer
sub is_json {
    my ($r, $status, $want, $name) = @_;
    my $got = { status => $r ? $r->{status} : undef };
    my $j = $r && ref $r->{json} eq 'HASH' ? $r->{json} : {};

    $got->{$_} = $j->{$_} for keys %$want;

    local $Test::Builder::Level = $Test::Builder::Level + 1;
    return is_deeply($got, { status => $status, %$want }, $name)
        || (diag(explain($r ? "$r->{status} $r->{body}" : 'no answer')), 0);
}

# the last lines of every file: all stop when told, nothing remains, the logs
# are clean but for the lines the test provoked (regexes)
sub finish {
    my ($self, @allow) = @_;

    for my $n (reverse @{ $self->{nginx} }) {
        $n->check_end(@allow);
    }

    done_testing();
}

1;
