package KongShift::Nginx;

# One nginx: its prefix folder, processes and log.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX qw(WNOHANG);
use Test::More;
use Time::HiRes qw(sleep time);

my %known;      # pids of masters started here
my $subreaper;


# an address nobody else of this machine uses: a process id is unique
sub own_address {
    my $addr = sprintf '127.%d.%d.%d', 64 + ($$ >> 16 & 127), $$ >> 8 & 255,
        $$ & 255;
    $addr =~ s/\.0$/.255/;

    my $s = IO::Socket::INET->new(LocalAddr => $addr, Listen => 1);
    return $s ? $addr : '127.0.0.1';
}

sub worker_user {
    return (getpwuid $>)[0] if $> != 0;
    return getpwnam('nobody') ? 'nobody' : 'daemon';
}

sub new {
    my ($class, %o) = @_;
    my $self = bless { workers => 1, name => 'nginx', %o }, $class;

    my $dir = $self->{prefix} = "$o{test}{dir}/$self->{name}";
    mkdir $dir or die "mkdir $dir: $!";
    mkdir "$dir/logs" or die "mkdir $dir/logs: $!";

    $self->set($o{conf} // '', $o{main});

    return $self;
}

sub binary {
    my ($self) = @_;

    # the pools need no module and no sanitizer
    if ($self->{plain}) {
        for (qw(/usr/sbin/nginx /usr/local/sbin/nginx)) {
            return $_ if -x;
        }
    }

    # the whole path: a binary upgrade executes it again without a search
    my $name = $ENV{TEST_NGINX_BINARY} || 'nginx';
    return $name if $name =~ m{/};

    for (split(/:/, $ENV{PATH}), '/usr/sbin', '/usr/local/sbin') {
        return "$_/$name" if -x "$_/$name";
    }

    die "no $name in PATH";
}

sub load_modules {
    my ($self) = @_;

    return '' if $self->{plain};

    my $list = $ENV{TEST_NGINX_LOAD_MODULES}
        // "$KongShift::ROOT/build/ngx_kong_shift_module.so";

    return join '', map { "load_module $_;\n" } split ' ', $list;
}

# a new configuration: it counts at the next start or reload
sub set {
    my ($self, $http, $main) = @_;

    $self->{conf} = $http;
    $self->{main} = $main if defined $main;
    write_conf("$self->{prefix}/nginx.conf", $self->whole_conf);
}

sub write_conf {
    my ($path, $text) = @_;

    open my $fh, '>', $path or die "$path: $!";
    print $fh $text;
    close $fh or die "$path: $!";
}

sub whole_conf {
    my ($self, $http, $main) = @_;
    $http //= $self->{conf};
    $main //= $self->{main} // '';

    my $user = '';
    if ($> == 0) {
        my ($name, $gid) = (getpwnam worker_user())[0, 3];
        $user = "user $name " . getgrgid($gid) . ';';
    }

    my $temp = join "\n    ", map { "${_}_temp_path temp_$_;" } qw(proxy
        fastcgi uwsgi scgi), 'client_body';

    # a binary upgrade hands on only what is named
    my $env = join '', map { "env $_;\n" } grep { defined $ENV{$_} }
        qw(ASAN_OPTIONS LSAN_OPTIONS UBSAN_OPTIONS);

    return $self->load_modules . <<"EOC";
$user
$env
daemon on;
pid nginx.pid;
error_log logs/error.log @{[ $self->{log_level} // 'info' ]};
worker_processes $self->{workers};
worker_rlimit_nofile 4096;
worker_shutdown_timeout @{[ $self->{shutdown_timeout} // '60s' ]};
$main
events { worker_connections 2048; }
http {
    $temp
    @{[ $http =~ /^\s*access_log/m ? '' : 'access_log off;' ]}
    default_type text/plain;
$http
}
EOC
}

sub run {
    my ($self, @args) = @_;
    my $out = "$self->{prefix}/logs/stderr";

    my $pid = fork // die "fork: $!";
    if (!$pid) {
        open STDIN, '<', '/dev/null';
        open STDOUT, '>', $out;
        open STDERR, '>&', \*STDOUT;
        exec $self->binary, '-p', "$self->{prefix}/", '-c', 'nginx.conf',
            '-e', 'logs/error.log', @args or POSIX::_exit(127);
    }

    waitpid $pid, 0;
    my $rc = $?;

    return ($rc, slurp($out) // '');
}

sub slurp {
    my ($path) = @_;

    open my $fh, '<', $path or return undef;
    local $/;
    return scalar readline $fh;
}

# nginx -t on another configuration: (ok, what it printed)
sub test_conf {
    my ($self, $http, $main) = @_;

    write_conf("$self->{prefix}/test.conf", $self->whole_conf($http, $main));

    # nginx -t leaves the configuration to the end of the process
    local $ENV{ASAN_OPTIONS} = ($ENV{ASAN_OPTIONS} // '') . ',detect_leaks=0';
    my ($rc, $out) = $self->run('-t', '-c', 'test.conf');

    $self->{last_rc} = $rc;
    return ($rc == 0, $out);
}

sub start {
    my ($self) = @_;

    unlink "$self->{prefix}/nginx.pid";
    my ($rc, $out) = $self->run;
    $self->{start_output} = $out;
    return 0 if $rc != 0;

    KongShift::wait_for('the pid file', sub { $self->read_pid });
    $self->{master} = $self->read_pid;
    $known{ $self->{master} } = 1;
    $self->wait_workers;

    return 1;
}

sub read_pid {
    my ($self, $suffix) = @_;
    my $text = slurp("$self->{prefix}/nginx.pid" . ($suffix // '')) // '';

    return $text =~ /\A(\d+)\n/ ? $1 : 0;
}

sub master { $_[0]{master} }

sub stderr { slurp("$_[0]{prefix}/logs/stderr") }


# --- processes

sub adopt_orphans {
    return if $subreaper++;

    # PR_SET_CHILD_SUBREAPER: daemons and workers of a killed master stay
    # below this process, so that none can be left behind
    my $nr = { x86_64 => 157, aarch64 => 167 }->{ (POSIX::uname())[4] };
    syscall $nr, 36, 1, 0, 0, 0 if $nr;
}

# pid => [ppid, title], zombies left out
sub processes {
    my %p;

    opendir my $dh, '/proc' or die "/proc: $!";
    for my $pid (grep { /^\d+$/ } readdir $dh) {
        my $stat = slurp("/proc/$pid/stat") // next;
        my ($state, $ppid) = $stat =~ /\) (\S) (\d+) /s or next;
        next if $state eq 'Z';
        my $title = slurp("/proc/$pid/cmdline") // '';
        $title =~ tr/\0/ /;
        $p{$pid} = [$ppid, $title];
    }

    return \%p;
}

sub reap { 1 while waitpid(-1, WNOHANG) > 0 }

sub children {
    my ($pid) = @_;
    my $p = processes();

    return grep { $p->{$_}[0] == $pid } keys %$p;
}

# working workers of a master; those on their way out only when asked for
sub workers_of {
    my ($master, $leaving) = @_;
    my $p = processes();

    return grep {
        my ($ppid, $title) = @{ $p->{$_} };
        $ppid == $master && ($title =~ /^nginx: worker process *$/
            || $leaving && $title =~ /^nginx: worker/);
    } sort { $a <=> $b } keys %$p;
}

sub workers { my ($self, $leaving) = @_; return workers_of($self->{master}, $leaving) }

sub wait_workers {
    my ($self) = @_;

    KongShift::wait_for("$self->{workers} workers", sub {
        my @w = $self->workers;
        return @w == $self->{workers};
    });
}

# The first thread of a killed process may be a zombie while another thread
# still holds the listening sockets, and a connection made then is reset.
sub alive {
    my ($pid) = @_;

    reap();
    my $stat = slurp("/proc/$pid/stat") // return 0;
    return $stat !~ /\) Z / || (() = glob "/proc/$pid/task/*") > 1;
}

sub wait_gone {
    my ($self, @pids) = @_;

    return KongShift::retry_until(sub { !grep { alive($_) } @pids });
}

# true when the new configuration is in force: every old worker has let go of
# its sockets and a full set of new ones works
sub reload {
    my ($self) = @_;
    my %old = map { $_ => 1 } $self->workers(1);
    my $log = length $self->error_log;

    kill 'HUP', $self->{master} or die "HUP: $!";

    return KongShift::retry_until(sub {
        my @now = $self->workers;
        return 1 if @now == $self->{workers} && !grep { $old{$_} } @now;

        # a socket that cannot be bound is tried for a while
        return substr($self->error_log, $log)
            =~ /\[emerg\](?!.* bind\(\) to )/ ? -1 : 0;
    }) == 1;
}

# a second master with the same configuration; the old one keeps working
sub upgrade {
    my ($self) = @_;
    my $old = $self->{master};

    kill 'USR2', $old or die "USR2: $!";
    KongShift::wait_for('the new master', sub {
        my $new = $self->read_pid;
        return $new && $new != $old && $self->read_pid('.oldbin') == $old;
    });

    $self->{old_master} = $old;
    $self->{master} = $self->read_pid;
    $known{ $self->{master} } = 1;
    $self->wait_workers;
}

sub end_old_master {
    my ($self) = @_;
    my $pid = delete $self->{old_master} or return 1;
    my @all = ($pid, workers_of($pid, 1));

    kill 'QUIT', $pid;
    return $self->wait_gone(@all);
}

sub stop {
    my ($self, $signal) = @_;
    my $pid = delete $self->{master} or return 1;
    my @all = ($pid, workers_of($pid, 1));

    kill $signal // 'QUIT', $pid;
    my $gone = $self->wait_gone(@all);

    kill 'KILL', @all if !$gone;
    delete $known{$pid};
    return $gone;
}

# as a machine that loses power: no process gets to run anything more
sub kill_all {
    my ($self) = @_;
    my $pid = delete $self->{master} or return;
    my @workers = workers_of($pid, 1);

    # stopped first, or the master would put new workers in their place
    kill 'STOP', $pid;
    kill 'KILL', @workers, $pid;
    $self->wait_gone($pid, @workers);
    delete $known{$pid};
}

sub kill_worker {
    my ($self, $pid) = @_;

    kill 'KILL', $pid;
    $self->wait_gone($pid);
    $self->wait_workers;
}

# The access log, once it holds that many lines: nginx writes a line after the
# client has got its answer.
sub access_log {
    my ($self, $n, $name) = @_;
    my $path = "$self->{prefix}/logs/" . ($name // 'access.log');
    my @lines;

    KongShift::retry_until(sub {
        @lines = split /\n/, slurp($path) // '';
        return @lines >= $n;
    }, 5);

    return @lines;
}

# kills and reaps: what a killed process leaves behind comes to this one
sub end_all_children {
    local $?;       # in END it is how the test ended
    my $end = time() + 5;

    while (time() < $end) {
        kill 'KILL', descendants($$);
        reap();
        return if waitpid(-1, WNOHANG) < 0;
        sleep 0.01;
    }
}

sub descendants {
    my ($root) = @_;
    my $p = processes();
    my @found = grep { $p->{$_}[0] == $root } keys %$p;

    for (my $i = 0; $i < @found; $i++) {
        push @found, grep { $p->{$_}[0] == $found[$i] } keys %$p;
    }

    return @found;
}


# --- log

sub error_log { slurp("$_[0]{prefix}/logs/error.log") // '' }

# lines that appeared since the last call
sub new_log {
    my ($self) = @_;
    my $text = $self->error_log;
    my $new = substr $text, $self->{log_seen} // 0;

    $self->{log_seen} = length $text;
    return $new;
}

sub log_has {
    my ($self, $re, $timeout) = @_;
    return KongShift::retry_until(sub { $self->error_log =~ $re }, $timeout);
}

sub check_end {
    my ($self, @allow) = @_;
    my $name = $self->{name};

    $self->end_old_master;
    if ($self->{master}) {
        ok($self->stop, "$name stops when told");
    }

    my $log = $self->error_log . ($self->stderr // '');

    my @bad = grep { my $l = $_; !grep { $l =~ $_ } @allow }
        grep { /\[(?:alert|crit|emerg)\]/ } split /\n/, $log;
    is(scalar @bad, 0, "$name: no unexpected alert, crit or emerg line")
        or diag(join "\n", @bad[0 .. ($#bad > 9 ? 9 : $#bad)]);

    my @san = grep { /Sanitizer|runtime error:|==\d+==/ } split /\n/, $log;
    is(scalar @san, 0, "$name: no sanitizer line")
        or diag(join "\n", @san[0 .. ($#san > 19 ? 19 : $#san)]);
}

1;
