# GET /metrics: text that Prometheus takes, with what the endpoint says in JSON.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend(pools => ['new'], conf => <<"EOC");
    server {
        listen @{[ $t->listen_at('old') ]};
        add_header Via "1.1 kong/3.8.1" always;
        location / { return 200 "old\\n"; }
        location /bad { return 502; }
    }
EOC

my ($old, $new) = map { $t->listen_at($_) } qw(old new);
my $path = "$t->{dir}/a\\\\b\\\"c";

# names that have to be escaped, bytes that are no UTF-8, and a pool that needs
# many buffers
my $many = join ' ', map { "server 127.0.0.1:$_;" } 1 .. 32;
my $http = <<"EOC";
    upstream many_old { zone many_old 128k; $many }
    upstream many_new { zone many_new 128k; $many }
    upstream "a\\"b\\\\c\xc3\xa9" { kong_shift old=dp_old new=odd weight=0.0001;
                             kong_shift_gate on; }
    upstream odd { zone odd 64k; server "unix:$path"; server "unix:/\xff\xfe"; }
    @{[ join "\n", map { "upstream many$_ { kong_shift old=many_old "
        . "new=many_new; }" } 1 .. 5 ]}
EOC
my $front = $t->front(workers => 2, weight => 12.5, http => $http,
    state => $t->state_dir . '/state.json');
ok($front->start, 'nginx starts') or BAIL_OUT($front->{start_output});


# --- a strict reader of the text format 0.0.4

# name => { type, help, samples => { labels => value } }; dies of what is wrong
sub parse {
    my ($text) = @_;
    my (%m, $in);

    die "no line feed at the end\n" if $text !~ /\n\z/;
    utf8::decode(my $copy = $text) or die "not UTF-8\n";

    for my $line (split /\n/, $text, -1) {
        next if $line eq '';
        die "CR: $line\n" if $line =~ /\r/;

        if ($line =~ /^# HELP ([a-z][a-z0-9_]*) (\S.*\S)$/) {
            die "$1 twice\n" if $m{$1};
            $m{ $in = $1 } = { help => $2, samples => {} };
            next;
        }
        if ($line =~ /^# TYPE (\S+) (counter|gauge)$/) {
            die "TYPE of $1 in $in\n" if $1 ne $in || $m{$in}{type};
            $m{$in}{type} = $2;
            next;
        }

        my ($name, $rest) = $line =~ /^([a-z][a-z0-9_]*)\{(.*)$/
            or die "no sample: $line\n";
        die "$name among $in\n" if $name ne $in || !$m{$in}{type};

        my %label;
        while ($rest =~ s/^([a-z][a-z0-9_]*)="((?:[^"\\]|\\[\\"n])*)"(,?)//) {
            my ($l, $v, $comma) = ($1, $2, $3);
            die "$l twice: $line\n" if exists $label{$l};
            $v =~ s/\\(.)/$1 eq 'n' ? "\n" : $1/ge;
            $label{$l} = $v;
            last if !$comma;
        }
        my ($value) = $rest =~ /^\} (\d+(?:\.\d+)?)$/
            or die "no value: $line\n";

        my $key = join ' ', map { "$_=$label{$_}" } sort keys %label;
        die "a sample twice: $line\n" if exists $m{$in}{samples}{$key};
        $m{$in}{samples}{$key} = $value;
    }

    for (sort keys %m) {
        die "$_: no type\n" if !$m{$_}{type};
        die "$_: a counter is called _total, and nothing else\n"
            if ($m{$_}{type} eq 'counter') != /_total$/;
        die "$_: not ours\n" if !/^kong_shift_/;
    }

    return \%m;
}

sub metrics {
    my $r = $t->api('GET', '/metrics');
    my $m = $r && $r->{status} == 200 ? eval { parse($r->{body}) } : undef;

    ok($m, 'metrics can be read') or diag($@ || 'no answer');
    return ($m // {}, $r);
}

sub value {
    my ($m, $name, %label) = @_;
    %label = (shift => 'kong', %label);

    return $m->{"kong_shift_$name"}{samples}{ join ' ', map { "$_=$label{$_}" }
        sort keys %label };
}


# --- the answer

# the state is written first by a worker that is up already
ok(retry_until(sub { $t->api('GET', '/shifts/kong')->{json}{saved} }),
    'the state is saved');

my ($m, $r) = metrics();
like($r->{headers}{'content-type'}, qr{^text/plain; version=0\.0\.4\b},
    'the type Prometheus asks for');
is($r->{headers}{'x-content-type-options'}, 'nosniff', 'and nothing else');
like($r->{headers}{'cache-control'} // '', qr/no-store/, 'not for caches');
cmp_ok(length $r->{body}, '>', 65536, 'more than one buffer');
is($t->api('HEAD', '/metrics')->{headers}{'content-length'},
    length $r->{body}, 'HEAD: the length GET has');
is_json($t->api('POST', '/metrics'), 405, { code => 'method_not_allowed' },
    'it cannot be written');

SKIP: {
    my ($promtool) = grep { -x } map { "$_/promtool" } split /:/, $ENV{PATH};
    skip 'no promtool', 1 if !$promtool;

    write_file("$t->{dir}/metrics", $r->{body});
    my $said = `'$promtool' check metrics < '$t->{dir}/metrics' 2>&1`;
    is("$? $said", '0 ', 'promtool finds nothing to say');
}


# --- shifts

my $odd = "a\"b\\c\xc3\xa9";
is_deeply([map { value($m, $_) } qw(weight effective_weight aborted gate_open
    frozen generation saved)], [12.5, 12.5, 0, undef, 0, 1, 1],
    'a shift without a gate');
is_deeply([map { value($m, $_, shift => $odd) } qw(weight effective_weight
    aborted gate_open)], ['0.0001', 0, 0, 0],
    'a closed gate, and a name that is escaped');
cmp_ok(abs(value($m, 'changed_timestamp_seconds') - time), '<', 60,
    'when it was changed');

$t->put('freeze', { state => 'on' });
$t->weight(99.9999);
$t->api('POST', '/shifts/kong/abort');
($m) = metrics();
is_deeply([map { value($m, $_) } qw(weight effective_weight aborted frozen
    generation)], [0, 0, 1, 1, 4], 'follows what is set');


# --- pools and peers: the very numbers of the JSON

my %gauge = (total => 'peers', active => 'active', long_lived => 'long_lived');

sub same {
    my ($name) = @_;
    my ($m) = metrics();

    for my $p (qw(old new)) {
        my $j = $t->api('GET', "/shifts/kong/pools/$p")->{json};
        my $c = $j->{counters};
        my (%got, %want);

        for (qw(chosen served failed canceled rescued fallback)) {
            $want{$_} = $c->{$_};
            $got{$_} = value($m, "requests_${_}_total", pool => $p);
        }
        for (qw(connect_errors suspected wrong_version)) {
            $want{$_} = $c->{$_};
            $got{$_} = value($m, "${_}_total", pool => $p);
        }
        for my $class (map { $_ . 'xx' } 1 .. 5) {
            $want{$class} = $c->{responses}{$class};
            $got{$class} = value($m, 'responses_total', pool => $p,
                class => $class);
        }
        for my $of (qw(not_found errors)) {
            for my $origin (qw(gateway backend transport unknown)) {
                $want{"$of $origin"} = $c->{$of}{$origin};
                $got{"$of $origin"} = value($m, "${of}_total", pool => $p,
                    origin => $origin);
            }
        }
        for (sort keys %gauge) {
            $want{$_} = $j->{$_};
            $got{$_} = value($m, "pool_$gauge{$_}", pool => $p);
        }
        for (qw(drained fallback fail_open)) {
            $want{$_} = $j->{$_} ? 1 : 0;
            $got{$_} = value($m, "pool_$_", pool => $p);
        }
        for my $v (@{ $j->{versions} }) {
            $want{$v->{version}} = $v->{responses};
            $got{$v->{version}} = value($m, 'version_responses_total',
                pool => $p, version => $v->{version});
        }
        for my $peer (@{ $j->{peers} }) {
            my %at = (pool => $p, peer => $peer->{addr});
            $want{"$peer->{addr} drained"} = $peer->{state} eq 'drained' ? 1 : 0;
            $got{"$peer->{addr} drained"} = value($m, 'peer_drained', %at);
            for (qw(requests failed connect_errors)) {
                $want{"$peer->{addr} $_"} = $peer->{$_};
                $got{"$peer->{addr} $_"} = value($m, "peer_${_}_total", %at);
            }
            for my $class (map { $_ . 'xx' } 1 .. 5) {
                $want{"$peer->{addr} $class"} = $peer->{responses}{$class};
                $got{"$peer->{addr} $class"} = value($m,
                    'peer_responses_total', %at, class => $class);
            }
        }
        is_deeply(\%got, \%want, "$name: $p");
    }
    return $m;
}

$t->weight(50);
same('at rest');
$t->get('/') for 1 .. 20;
$t->get('/bad') for 1 .. 4;
$m = same('after 24 requests');
is(value($m, 'requests_served_total', pool => 'old')
    + value($m, 'requests_served_total', pool => 'new'), 24, 'which are counted');
is_deeply($m->{kong_shift_version_responses_total}{samples},
    { 'pool=old shift=kong version=3.8.1' => 12 }, 'by version');
is(value($m, 'errors_total', pool => 'old', origin => 'backend'), 2,
    'by who failed');
$t->weight(100);
$t->api('POST', '/shifts/kong/pools/old/drain');
$t->put("pools/old/peers/$old", { state => 'drain' });
$m = same('drained');
is(value($m, 'pool_drained', pool => 'old'), 1, 'drained');
is(value($m, 'pool_oldest_seconds', pool => 'old'), '0.000',
    'nothing is under way');
is(value($m, 'pool_peers_ready', pool => 'old'), undef,
    'what is not checked is not said to be ready');

is(scalar grep({ /pool=new/ && /shift=\Q$odd\E/ } keys
    %{ $m->{kong_shift_peer_drained}{samples} }), 2, 'two odd peers');
ok(exists $m->{kong_shift_peer_drained}{samples}{
    "peer=unix:$t->{dir}/a\\b\"c pool=new shift=$odd" },
    'one with a name that is escaped');
ok(exists $m->{kong_shift_peer_drained}{samples}{
    "peer=unix:/?? pool=new shift=$odd" }, 'one that is no UTF-8');
is_json($t->api('GET', '/shifts/a%22b%5Cc%C3%A9/pools/new'), 200,
    { upstream => 'odd', total => 2 }, 'neither stops the JSON');

is(scalar(grep { /^peer=/ && /shift=many/ } keys
    %{ $m->{kong_shift_peer_requests_total}{samples} }), 320,
    'all peers of the many');

$t->finish;
