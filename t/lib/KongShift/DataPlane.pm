package KongShift::DataPlane;

# A stand-in for a data plane: a port for requests, and one for its Status API,
# which does whatever a test needs, well or badly, and is at the first port too,
# since a pool has one port= for all.  How both answer is told by set():
#
#   traffic   ok | none (404) | status code
#   status    ok | not (503) | status code | a whole answer | hash=DIGITS
#             blackhole | slow | garbage | reset | cut | long-header | long-body
#
# Every connection has a process of its own, so that one may hang.

use strict;
use warnings;

use IO::Select;
use IO::Socket::INET;
use POSIX ();
use Socket qw(SOL_SOCKET SO_LINGER);
use Time::HiRes qw(sleep time);

use KongShift::HTTP qw(from_json to_json);
use KongShift::Nginx;

sub new {
    my ($class, $t, $name, %mode) = @_;
    my $self = bless { t => $t, name => $name, mode => {},
        file => "$t->{dir}/$name.mode", log => "$t->{dir}/$name.log" }, $class;

    KongShift::write_file($self->{log}, '');
    $self->set(traffic => 'ok', status => 'ok', %mode);
    $self->start;

    return $self;
}

sub addr { return $_[0]{t}->listen_at($_[0]{name}) }
sub port { return $_[0]{t}->port("$_[0]{name}-status") }

sub set {
    my ($self, %mode) = @_;

    %{ $self->{mode} } = (%{ $self->{mode} }, %mode);
    KongShift::write_file("$self->{file}.new", to_json($self->{mode}));
    rename "$self->{file}.new", $self->{file} or die "rename: $!";
}

sub start {
    my ($self) = @_;
    my $t = $self->{t};

    my %what;
    my $select = IO::Select->new;
    for (['traffic', $self->{name}], ['status', "$self->{name}-status"]) {
        my ($what, $port) = @$_;
        my $s = IO::Socket::INET->new(LocalAddr => $t->{addr},
            LocalPort => $t->port($port), ReuseAddr => 1, Listen => 512)
            or die "listen: $!";
        $what{$s} = $what;
        $select->add($s);
    }

    my $pid = fork // die "fork: $!";
    if ($pid) {
        # in both, so that it is so before anybody goes on
        POSIX::setpgid($pid, $pid);
        return $self->{pid} = $pid;
    }

    $SIG{$_} = 'DEFAULT' for qw(HUP INT TERM);
    $SIG{CHLD} = 'IGNORE';
    POSIX::setpgid(0, 0);

    while (1) {
        for my $s ($select->can_read) {
            my $c = $s->accept or next;
            my $child = fork // next;
            if (!$child) {
                close $_ for $select->handles;
                eval { $self->serve($c, $what{$s}) };
                POSIX::_exit(0);
            }
            close $c;
        }
    }
}

# as a machine that is gone, but for its address
sub stop {
    my ($self) = @_;
    my $pid = delete $self->{pid} or return;

    kill 'KILL', -$pid;
    KongShift::retry_until(sub { !KongShift::Nginx::alive($pid) });
}

sub pause  { kill 'STOP', -$_[0]{pid} }
sub resume { kill 'CONT', -$_[0]{pid} }

# times of what came: client requests, and checks
sub times {
    my ($self, $what) = @_;
    my $log = KongShift::read_file($self->{log}) // '';

    return map { (split)[1] } grep { /^$what / } split /\n/, $log;
}

sub requests { my @t = $_[0]->times('traffic'); return @t }
sub checks   { my @t = $_[0]->times('status'); return @t }

# what a check has sent last
sub last_request {
    my ($self) = @_;
    my @l = grep { /^status / } split /\n/, KongShift::read_file($self->{log});

    return @l ? $l[-1] =~ s/^\S+ \S+ //r =~ s/\\r\\n/\n/gr : '';
}

sub note {
    my ($self, $what, $text) = @_;

    open my $fh, '>>', $self->{log} or return;
    syswrite $fh, sprintf "%s %.6f %s\n", $what, time(),
        $text =~ s/\r\n/\\r\\n/gr;
    close $fh;
}

sub serve {
    my ($self, $c, $what) = @_;
    my $buf = '';

    while (1) {
        while ($buf !~ /\r\n\r\n/) {
            sysread $c, $buf, 65536, length $buf or return;
        }
        $buf =~ s/\A(.*?)\r\n\r\n//s;
        my $head = $1;

        $what = 'status' if $head =~ m{^GET /status};
        $self->note($what, $head);

        my $mode = from_json(KongShift::read_file($self->{file}))->{$what};

        if ($what eq 'traffic') {
            $self->traffic($c, $mode, $head);
        } else {
            $self->status($c, $mode, $head);
            return;
        }
    }
}

sub answer {
    my ($c, $status, $body, $type) = @_;
    $type //= 'application/json';

    syswrite $c, "HTTP/1.1 $status Some\r\nContent-Type: $type\r\n"
        . "Content-Length: " . length($body) . "\r\n\r\n$body";
}

sub traffic {
    my ($self, $c, $mode, $head) = @_;

    return answer($c, 404, '{"message":"no Route matched with those values"}')
        if $mode eq 'none';
    return answer($c, 200, "$self->{name}\n", 'text/plain') if $mode eq 'ok';
    return answer($c, $mode, "$self->{name}\n", 'text/plain');
}

sub status {
    my ($self, $c, $mode, $head) = @_;

    if ($mode =~ /^hash=(.*)/) {
        my $hash = $1;
        return answer($c, 200, to_json({ configuration_hash => $hash,
            database => { reachable => JSON::PP::true } }))
            if $head =~ m{^GET /status HTTP};
        $mode = 'ok';
    }

    return answer($c, 200, '{"message":"ready"}') if $mode eq 'ok';
    return answer($c, 503, '{"message":"no configuration available '
        . '(empty configuration present)"}') if $mode eq 'not';
    return answer($c, $mode, '{"message":"as told"}') if $mode =~ /^\d+$/;
    return sleep 3600 if $mode eq 'blackhole';
    return syswrite $c, $mode if $mode =~ /^HTTP/;

    if ($mode eq 'slow') {
        for (split //, "HTTP/1.1 200 OK\r\n" . "X-Slow: 1\r\n" x 1000) {
            syswrite $c, $_ or return;
            sleep 0.1;
        }

    } elsif ($mode eq 'garbage') {
        syswrite $c, "\x16\x03\x01\0\0" . "\xff" x 300;

    } elsif ($mode eq 'reset') {
        $c->setsockopt(SOL_SOCKET, SO_LINGER, pack 'll', 1, 0);

    } elsif ($mode eq 'cut') {
        syswrite $c, "HTTP/1.1 200 OK\r\nContent-Len";

    } elsif ($mode eq 'long-header') {
        syswrite $c, "HTTP/1.1 200 OK\r\nX-Long: " . 'x' x 200_000;
        sleep 1;

    } elsif ($mode eq 'long-body') {
        syswrite $c, "HTTP/1.1 200 OK\r\n\r\n{\"a\":\"" . 'x' x 200_000;
        sleep 1;
    }
}

1;
