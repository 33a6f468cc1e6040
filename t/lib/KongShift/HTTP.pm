package KongShift::HTTP;

# A small HTTP/1.1 client on one socket: the connection stays with the worker
# that accepted it, every byte sent is the test's own, and nothing is retried
# behind the test's back.

use strict;
use warnings;

use Errno qw(EINTR);
use Exporter qw(import);
use IO::Socket::INET;
use IO::Socket::UNIX;
use JSON::PP ();
use Socket qw(IPPROTO_TCP TCP_NODELAY SOL_SOCKET SO_LINGER);
use Time::HiRes qw(time);

our @EXPORT_OK = qw(from_json to_json);

# long enough for a sanitizer build on a busy machine: only failures wait it out
our $TIMEOUT = $ENV{KONG_SHIFT_TIMEOUT} || 30;

my $json = JSON::PP->new->utf8->canonical->allow_nonref;

sub to_json   { $json->encode($_[0]) }
sub from_json { my $v = eval { $json->decode($_[0]) }; return $v }


sub new {
    my ($class, %o) = @_;

    my $sock = IO::Socket::INET->new(PeerAddr => $o{addr},
        PeerPort => $o{port}, Proto => 'tcp', Timeout => $TIMEOUT)
        or return undef;

    $sock->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);

    return bless { sock => $sock, buf => '', eof => 0,
        host => "$o{addr}:$o{port}" }, $class;
}

# false when the peer is gone; SIGPIPE is ignored by KongShift.pm
sub send {
    my ($self, $bytes) = @_;
    my $off = 0;

    while ($off < length $bytes) {
        my $n = syswrite $self->{sock}, $bytes, 65536, $off;
        next if !defined $n && $! == EINTR;
        return 0 if !defined $n;
        $off += $n;
    }

    return 1;
}

# reads once; 0 at the end of input, undef when nothing came in time
sub fill {
    my ($self, $timeout) = @_;
    my $end = time() + ($timeout // $TIMEOUT);

    while (1) {
        my $left = $end - time();
        my $bits = '';
        vec($bits, fileno($self->{sock}), 1) = 1;

        my $n = select $bits, undef, undef, $left > 0 ? $left : 0;
        next if $n < 0;
        return undef if $n == 0;

        $n = sysread $self->{sock}, $self->{buf}, 65536, length $self->{buf};
        next if !defined $n && $! == EINTR;
        $self->{eof} = 1 if !$n;
        return $n // 0;
    }
}

sub until {
    my ($self, $re) = @_;

    while ($self->{buf} !~ $re) {
        return 0 if $self->{eof} || !$self->fill;
    }

    return 1;
}

# one response, or undef when the connection ended or stayed silent before it
sub response {
    my ($self, $method) = @_;
    $method //= 'GET';

    while (1) {
        $self->until(qr/\r\n\r\n/) or return undef;

        $self->{buf} =~ s/\A(.*?\r\n)\r\n//s;
        my $head = $1;
        my $r = parse_head($head) or return undef;
        next if $r->{status} == 100;

        return $r if $method eq 'HEAD' || $r->{status} =~ /^(?:101|204|304)$/;

        my $h = $r->{headers};

        if (lc($h->{'transfer-encoding'} // '') eq 'chunked') {
            $self->read_chunks($r) or return undef;

        } elsif (defined $h->{'content-length'}) {
            my $n = $h->{'content-length'};
            while (length $self->{buf} < $n) {
                return undef if $self->{eof} || !$self->fill;
            }
            $r->{body} = substr $self->{buf}, 0, $n, '';

        } else {
            1 while !$self->{eof} && $self->fill;
            $r->{body} = $self->{buf};
            $self->{buf} = '';
        }

        if (($h->{'content-type'} // '') =~ /json/) {
            $r->{json} = from_json($r->{body});
        }

        return $r;
    }
}

sub parse_head {
    my ($head) = @_;

    $head =~ s/\AHTTP\/1\.[01] (\d{3})[^\r]*\r\n// or return undef;
    my $r = { status => $1, head => $head, headers => {}, body => '' };

    for (split /\r\n/, $head) {
        my ($n, $v) = /^([^:]+):[ \t]*(.*?)[ \t]*$/ or next;
        $r->{headers}{lc $n} = $v;
    }

    return $r;
}

sub read_chunks {
    my ($self, $r) = @_;

    while (1) {
        $self->until(qr/\A[0-9a-fA-F]+\r\n/) or return 0;
        $self->{buf} =~ s/\A([0-9a-fA-F]+)\r\n//;
        my $n = hex $1;

        while (length $self->{buf} < $n + 2) {
            return 0 if $self->{eof} || !$self->fill;
        }

        $r->{body} .= substr $self->{buf}, 0, $n, '';
        substr $self->{buf}, 0, 2, '';
        return 1 if $n == 0;
    }
}

# headers is a list of whole lines; Host and Content-Length come by themselves
# unless a line names them
sub format_request {
    my ($self, $method, $uri, %o) = @_;
    my @h = @{ $o{headers} // [] };

    unshift @h, "Host: $self->{host}" if !grep { /^host:/i } @h;

    if (defined $o{body} && !grep { /^(?:content-length|transfer-encoding):/i }
        @h)
    {
        push @h, 'Content-Length: ' . length $o{body};
    }

    my $v = $o{version} // '1.1';
    return join("\r\n", "$method $uri HTTP/$v", @h, '', '') . ($o{body} // '');
}

sub request {
    my ($self, $method, $uri, %o) = @_;

    # a refused body may be answered before it was taken in: read anyway
    $self->send($self->format_request($method, $uri, %o));
    return $self->response($method);
}

# true when the server ended the connection and said nothing more
sub closed {
    my ($self) = @_;

    1 while !$self->{eof} && $self->fill;
    return $self->{eof} && $self->{buf} eq '';
}

sub reset {
    my ($self) = @_;

    $self->{sock}->setsockopt(SOL_SOCKET, SO_LINGER, pack 'll', 1, 0);
    close $self->{sock};
}

sub close_now { close $_[0]{sock} }


# Many requests over several connections, each with up to "pipeline" requests
# under way.  uri is a string or a sub (index) -> string.  Answers
#   { pool => {old => N, new => N}, status => {200 => N}, worker => {PID => N},
#     order => [pool of request 0, ...], stale => N, failed => N }
# A connection that ends before the answer of a request sent on it while idle
# is what any client retries once on a fresh connection ("stale"); anything
# else that goes wrong is "failed".  stop is asked whether to end early.

sub load {
    my (%o) = @_;

    my $l = {
        addr => $o{addr}, port => $o{port}, uri => $o{uri} // '/',
        head => join('', map { "$_\r\n" } @{ $o{headers} // [] }),
        total => $o{requests} // 1, depth => $o{pipeline} // 1,
        fresh => $o{fresh}, stop => $o{stop},
        next => 0, done => 0, bits => '', conn => {},
        res => { pool => {}, status => {}, worker => {}, order => [],
            stale => 0, failed => 0, errors => [] },
    };

    my $n = $o{conns} // 1;
    $n = $l->{total} if $n > $l->{total};

    load_connect($l, []) for 1 .. $n;

    while ($l->{done} < $l->{total}) {
        my $r = $l->{bits};
        my $got = select $r, undef, undef, $TIMEOUT;

        if ($got == 0) {
            load_fail($l, 'no answer in time') for 1 .. $l->{total}
                - $l->{done};
            last;
        }

        for my $fd ($got > 0 ? keys %{ $l->{conn} } : ()) {
            load_read($l, $l->{conn}{$fd}) if vec $r, $fd, 1;
        }

        last if !%{ $l->{conn} };
    }

    close $_->{sock} for values %{ $l->{conn} };
    $l->{res}{requests} = $l->{done};

    return $l->{res};
}

sub load_fail {
    my ($l, $why) = @_;

    $l->{done}++;
    $l->{res}{failed}++;
    push @{ $l->{res}{errors} }, $why if @{ $l->{res}{errors} } < 5;
}

# todo: requests of a broken connection that are to be sent again
sub load_connect {
    my ($l, $todo) = @_;

    my $sock = IO::Socket::INET->new(PeerAddr => $l->{addr},
        PeerPort => $l->{port}, Proto => 'tcp', Timeout => $TIMEOUT);

    if (!$sock) {
        load_fail($l, "connect: $!") for @$todo ? @$todo : 1;
        return;
    }

    $sock->setsockopt(IPPROTO_TCP, TCP_NODELAY, 1);

    my $fd = fileno $sock;
    my $c = { sock => $sock, fd => $fd, buf => '', queue => [], used => 0,
        todo => [@$todo] };

    $l->{conn}{$fd} = $c;
    vec($l->{bits}, $fd, 1) = 1;
    load_send($l, $c);
}

sub load_drop {
    my ($l, $c) = @_;

    vec($l->{bits}, $c->{fd}, 1) = 0;
    delete $l->{conn}{ $c->{fd} };
    close $c->{sock};
}

sub load_send {
    my ($l, $c) = @_;
    my @batch = splice @{ $c->{todo} };

    if (!$l->{stopped} && $l->{stop} && $l->{stop}->()) {
        $l->{stopped} = 1;
        $l->{total} = $l->{next};
    }

    while (@batch < $l->{depth} && $l->{next} < $l->{total}) {
        push @batch, $l->{next}++;
    }

    return load_drop($l, $c) if !@batch;

    my $uri = $l->{uri};
    my $out = join '', map {
        'GET ' . (ref $uri ? $uri->($_) : $uri) . " HTTP/1.1\r\nHost: t\r\n"
        . $l->{head} . "\r\n" } @batch;

    push @{ $c->{queue} }, @batch;

    # an end of the connection shows when the answer is read
    syswrite $c->{sock}, $out;
}

sub load_read {
    my ($l, $c) = @_;
    my $res = $l->{res};

    my $n = sysread $c->{sock}, $c->{buf}, 65536, length $c->{buf};
    my $close = !$n;

    while ($c->{buf} =~ /\AHTTP\/1\.1 (\d+) .*?\r\n\r\n/s) {
        my ($status, $head) = ($1, $&);
        my ($len) = $head =~ /^Content-Length: (\d+)\r$/mi
            or die "unexpected answer: $head";
        last if length $c->{buf} < length($head) + $len;

        my $body = substr $c->{buf}, length $head, $len;
        substr $c->{buf}, 0, length($head) + $len, '';

        my $i = shift @{ $c->{queue} };
        my ($pool) = $body =~ /^(\w+)/;

        $res->{status}{$status}++;
        $res->{worker}{$1}++ if $head =~ /^X-Worker: (\d+)\r$/m;
        $c->{used}++;

        if ($status == 200) {
            $res->{pool}{$pool}++;
            $res->{order}[$i] = $pool;
            $l->{done}++;
        } else {
            load_fail($l, "status $status");
        }

        $close = 1 if $head =~ /^Connection: close\r$/mi;
    }

    if ($close) {
        my @left = @{ $c->{queue} };

        if (@left && $c->{used} == 0 || $c->{buf} ne '') {
            my $why = $n ? 'closed' : "closed ($!)";
            load_fail($l, $why) for @left;
            @left = ();
        }

        $res->{stale} += @left;
        load_drop($l, $c);
        load_connect($l, \@left) if @left || $l->{next} < $l->{total};

    } elsif (!@{ $c->{queue} }) {
        if ($l->{fresh}) {
            load_drop($l, $c);
            load_connect($l, []) if $l->{next} < $l->{total};
        } else {
            load_send($l, $c);
        }
    }
}

1;
