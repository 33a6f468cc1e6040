# A change that cannot be saved is not made, and the answer says so; what stops
# the traffic to new is done all the same, and saved as soon as that works.

use strict;
use warnings;

use FindBin;
use lib "$FindBin::Bin/lib";
use Test::More;

use KongShift;

my $t = KongShift->new;
$t->backend;

my $front;
my $evidence = { strategy => 'in-place', x => '1', y => '2', journal => 'j' };

sub files { my ($dir) = @_; opendir my $dh, $dir or die "$dir: $!";
    return join ' ', sort grep { !/^(?:\.\.?|ballast)$/ } readdir $dh }

# break_it and mend are subs; between them nothing can be saved below $dir
sub cannot_save {
    my ($name, $dir, $break_it, $mend) = @_;
    my $file = "$dir/state.json";

    $front = $t->front(name => $name =~ s/\W/-/gr, workers => 2, weight => 5,
        state => $file, extra => 'kong_shift_gate on;');
    ok($front->start, "$name: starts") or BAIL_OUT($front->{start_output});

    $t->put('gate', { state => 'open', evidence => $evidence });
    $t->weight(100);
    my $before = $t->snapshot;
    my $text = read_file($file);

    $break_it->();

    for my $case (['PUT', 'weight', { new => 50 }],
        ['PUT', 'weight', { new => 0 }],
        ['PUT', 'freeze', { state => 'on' }],
        ['PUT', 'gate', { state => 'open', evidence => $evidence }])
    {
        my ($method, $what, $body) = @$case;
        my $r = $t->api($method, "/shifts/kong/$what", $body);
        my $say = "$name: $what " . ($body->{new} // $body->{state});

        is_json($r, 507, { code => 'not_saved', status => 507 }, "$say: 507");
        like($r->{headers}{'content-type'}, qr{^application/problem\+json},
            "$say: a problem body");
        is_deeply($t->snapshot, $before, "$say: nothing changed");
        is($t->pool('/'), 'new', "$say: for requests neither");
    }

    is(read_file($file), $text, "$name: the file is as it was");
    is(files($dir), 'state.json', "$name: nothing is left beside it");
    like($front->error_log, qr/\[(?:error|crit|alert)\].*\Q$file\E/,
        "$name: the log names the file");

    # twice: the second abort has a state to repeat that was not saved
    for my $n (1, 2) {
        is_json($t->api('POST', '/shifts/kong/abort', { comment => 'now' }),
            200, { effective => 0, aborted => JSON::PP::true,
            saved => JSON::PP::false }, "$name: abort $n is done, and says so");
        is(pool_counts($t->load(requests => 20, conns => 4)),
            'old 20, new 0, failed 0', "$name: abort $n is obeyed");
    }
    is_json($t->api('GET', '/shifts/kong'), 200, { saved => JSON::PP::false,
        aborted => JSON::PP::true }, "$name: the abort is not saved yet");

    is_json($t->api('PUT', '/shifts/kong/gate', { state => 'closed' }), 200,
        { state => 'closed', saved => JSON::PP::false },
        "$name: closing the gate is done, too");
    my $told = $t->snapshot;

    # which nginx refuses while the workers cannot write to the folder
    $front->set($front->{conf}, $t->front_main(zone => '2m', state => $file));
    $front->reload;
    is_deeply($t->snapshot, $told, "$name: an unsaved abort stays over it");
    is_json($t->api('GET', '/shifts/kong'), 200, { saved => JSON::PP::false },
        "$name: and is still not saved");
    $front->kill_worker($_) for $front->workers;
    is_deeply($t->snapshot, $told, "$name: and over the loss of all workers");

    $mend->();

    ok(retry_until(sub {
        my $r = $t->api('GET', '/shifts/kong');
        return $r->{json}{saved};
    }), "$name: it is saved as soon as that works");
    is(files($dir), 'state.json', "$name: in the one file");

    $front->kill_all;
    ok($front->start, "$name: start after kill -9 of all");
    is_deeply($t->snapshot, $told, "$name: the abort is there");
    is(pool_counts($t->load(requests => 20)), 'old 20, new 0, failed 0',
        "$name: and obeyed");

    $t->put('gate', { state => 'open', evidence => $evidence });
    is($t->weight(7)->{saved}, JSON::PP::true, "$name: changes are saved");
    ok($front->stop, "$name: stop");
}

my $dir = $t->state_dir('closed');
my ($uid, $gid) = (stat $dir)[4, 5];

# who owns a folder may open it again: it is taken from the workers
cannot_save('folder closed', $dir,
    sub { chown 0, 0, $dir if $> == 0; chmod 0555, $dir },
    sub { chown $uid, $gid, $dir if $> == 0; chmod 0755, $dir });

$dir = $t->state_dir('moved');
cannot_save('folder gone', $dir,
    sub { rename $dir, "$dir.away"; mkdir $dir; chmod 0555, $dir;
        write_file("$dir/state.json", read_file("$dir.away/state.json"))
            if $> == 0 || chmod 0755, $dir;
        chmod 0555, $dir },
    sub { chmod 0755, $dir; unlink "$dir/state.json"; rmdir $dir;
        rename "$dir.away", $dir });

SKIP: {
    $dir = $t->state_dir('full');
    skip 'only root can mount a small file system', 1 if $> != 0;
    skip 'no small file system can be mounted here', 1
        if system("mount -t tmpfs -o size=64k,mode=0755,uid=$uid,gid=$gid "
            . "tmpfs '$dir' 2>/dev/null");

    eval {
        cannot_save('disk full', $dir, sub {
            open my $fh, '>', "$dir/ballast" or die;
            1 while syswrite $fh, 'x' x 4096;
        }, sub { unlink "$dir/ballast" });
    };
    my $why = $@;
    $front->stop;
    system("umount '$dir'");
    die $why if $why;
}

$t->finish(qr/state|kong_shift/, qr/exited on signal 9/);
