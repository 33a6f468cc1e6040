package KongShift::Planes;

# Data planes that can be broken (t/lib/plane), two of each pool unless told
# otherwise.  All listen on the same ports of addresses of their own, as the
# nodes of a pool do.

use strict;
use warnings;

use IO::Socket::INET;
use POSIX ();
use Time::HiRes qw(sleep time);

use KongShift;
use KongShift::HTTP;


sub new {
    my ($class, $test, %o) = @_;
    my $self = bless { test => $test, plane => {}, %o }, $class;

    # addresses in 127/8 that no other test may have, see own_address()
    my ($b, $rest) = $test->addr =~ /^127\.(\d+)\.(.*)/;
    my @addr = $b < 64 ? ('127.0.0.1') x 4
        : map { sprintf '127.%d.%s', $b + $_, $rest } -64, 0, 64, 128;

    for my $pool (@{ $o{pools} // [qw(old new)] }) {
        for my $n (1 .. 2) {
            $self->{plane}{"$pool$n"} = { name => "$pool$n", pool => $pool,
                addr => shift @addr };
        }
    }

    $self->{port}{$_} = $test->port("plane-$_")
        for qw(listen listen-tls status status-tls control);

    return $self;
}

sub names { return sort keys %{ $_[0]{plane} } }

# ADDRESS:PORT of a plane, as nginx writes it
sub at {
    my ($self, $name, $port) = @_;
    return "$self->{plane}{$name}{addr}:" . $self->{port}{$port // 'listen'};
}

# "server" lines of a pool
sub servers {
    my ($self, $pool, $port, $params) = @_;

    return join ' ', map { 'server ' . $self->at($_, $port)
        . ($params ? " $params" : '') . ';' }
        grep { $self->{plane}{$_}{pool} eq $pool } $self->names;
}

sub start { my ($self, @names) = @_; return $self->start_as('ok', @names) }

# in that mode from the first request on
sub start_as {
    my ($self, $mode, @names) = @_;

    for my $name (@names) {
        my $p = $self->{plane}{$name};
        my $version = $p->{pool} eq 'old' ? '3.8.1' : '3.9.3';
        my @args = (map({ ("--$_", $self->at($name, $_)) } qw(listen status
            control)), '--name', $name, '--pool', $p->{pool}, '--version',
            $version, '--mode', $mode);

        push @args, '--cert', $self->{cert}, '--key', $self->{key},
            map { ("--$_", $self->at($name, $_)) } qw(listen-tls status-tls)
            if $self->{cert};

        $p->{pid} = fork // die "fork: $!";
        if (!$p->{pid}) {
            $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM PIPE);
            open STDOUT, '>', '/dev/null';
            open STDERR, '>>', "$self->{test}{dir}/planes.err";
            exec "$KongShift::ROOT/t/lib/plane", @args or POSIX::_exit(127);
        }
    }

    for my $name (@names) {
        KongShift::wait_for("plane $name", sub { $self->control($name) });
    }
}

# GET /state unless told otherwise; nothing when the plane does not answer
sub control {
    my ($self, $name, $method, $uri) = @_;
    my $p = $self->{plane}{$name};

    my $c = KongShift::HTTP->new(addr => $p->{addr},
        port => $self->{port}{control}) or return undef;
    my $r = $c->request($method // 'GET', $uri // '/state');
    $c->close_now;

    return $r && $r->{status} == 200 ? $r->{json} : undef;
}

sub mode {
    my ($self, $name, $mode) = @_;
    $self->control($name, 'PUT', "/mode/$mode") or die "$name: no $mode";
}

sub signal {
    my ($self, $name, $signal) = @_;

    kill $signal, $self->{plane}{$name}{pid};
    if ($signal eq 'KILL') {
        waitpid delete $self->{plane}{$name}{pid}, 0;
    }
}

# what the planes of a pool have in hand, and have ever taken
sub sum {
    my ($self, $pool, $what) = @_;
    my $sum = 0;

    for (grep { $self->{plane}{$_}{pool} eq $pool } $self->names) {
        my $s = $self->control($_) or die "$_ does not answer";
        $sum += $s->{$what};
    }

    return $sum;
}


# Constant load from a process of its own (t/lib/load); its options as there.

sub start_load {
    my ($test, @args) = @_;
    my $to = $test->addr . ':' . $test->port('front');

    pipe my $out, my $in or die "pipe: $!";
    my $pid = fork // die "fork: $!";
    if (!$pid) {
        $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM PIPE);
        open STDOUT, '>&', $in;
        exec "$KongShift::ROOT/t/lib/load", '--pool-header', 'x-pool',
            '--generation-header', 'x-generation', @args, $to
            or POSIX::_exit(127);
    }
    close $in;

    return { pid => $pid, out => $out };
}

sub stop_load {
    my ($load) = @_;

    kill 'TERM', $load->{pid};
    my $out = do { local $/; readline $load->{out} };
    waitpid $load->{pid}, 0;

    return KongShift::from_json($out)
        // { failures => 'all', errors => { 'load died' => 1 } };
}

1;
