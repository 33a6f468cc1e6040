"""The command line, with Kong's commands, options, texts and exit codes."""

import contextlib
import os
import signal
import ssl
import subprocess
import sys
import time

import psycopg2

from . import conf as conf_module, db, export, migrations, plugins
from .cache import Cache
from .errors import KongError
from .process import Prefix, alive, launch, running, write_log
from .store import Store
from .versions import Version

# command: options with a value, options without, subcommands
PREFIX, CONF = {"p": "prefix", "prefix": "prefix"}, {"c": "conf", "conf": "conf"}
TIMEOUTS = {"db-timeout": "db_timeout", "lock-timeout": "lock_timeout"}
NGINX = {"nginx-conf": "nginx_conf"}
COMMANDS = {
    "check": ({}, {}, ()),
    "config": ({**CONF, **PREFIX}, {}, ("init", "db_import", "db_export", "parse")),
    "drain": (PREFIX, {}, ()),
    "health": (PREFIX, {}, ()),
    "hybrid": ({"d": "days", "days": "days"}, {}, ("gen_cert",)),
    "migrations": ({**CONF, **PREFIX, **TIMEOUTS}, {"y": "yes", "yes": "yes", "q": "quiet", "quiet": "quiet", "f": "force",
                                                    "force": "force"},
                   ("bootstrap", "up", "finish", "list", "status")),
    "prepare": ({**CONF, **PREFIX, **NGINX}, {}, ()),
    "quit": ({**PREFIX, "t": "timeout", "timeout": "timeout", "w": "wait", "wait": "wait"}, {}, ()),
    "reload": ({**CONF, **PREFIX, **NGINX}, {}, ()),
    "restart": ({**CONF, **PREFIX, **NGINX, **TIMEOUTS}, {"run-migrations": "run_migrations"}, ()),
    "start": ({**CONF, **PREFIX, **NGINX, **TIMEOUTS}, {"run-migrations": "run_migrations", "f": "force",
                                                        "force": "force"}, ()),
    "stop": (PREFIX, {}, ()),
    "version": ({}, {"a": "all", "all": "all"}, ()),
}
NUMBERS = ("db_timeout", "lock_timeout", "timeout", "wait", "days")
TRAILER = "\n  Run with --v (verbose) or --vv (debug) for more details"


class Options:
    """What the command line said."""

    def __init__(self):
        self.conf = self.prefix = self.days = self.nginx_conf = None
        self.force = self.yes = self.quiet = self.all = self.run_migrations = self.verbose = False
        self.db_timeout = self.lock_timeout = 60.0
        self.timeout, self.wait = 10.0, 0.0
        self.command, self.words = None, []


class Usage(Exception):
    """The command line is wrong: text and usage go to stderr."""


def commands_of(version):
    return [name for name in sorted(COMMANDS) if name != "drain" or version.has(3, 9)]


def subcommands_of(command, version):
    return [name for name in COMMANDS[command][2] if name != "status" or version.has(3, 0)]


def usage(version, command=None):
    if command is None:
        return "Usage: kong COMMAND [OPTIONS]\n\nThe available commands are:\n " + "\n ".join(commands_of(version)) + \
            "\n\nOptions:\n --v              verbose\n --vv             debug\n"
    valued, flags, _ = COMMANDS[command]
    subcommands = subcommands_of(command, version)
    lines = [f"Usage: kong {command} {'COMMAND ' if subcommands else ''}[OPTIONS]", ""]
    if subcommands:
        lines += ["The available commands are:", *("  " + name for name in subcommands), ""]
    lines.append("Options:")
    for options, marker in ((valued, " (optional value)"), (flags, "")):
        for name in options:
            lines.append(f" {'-' if len(name) == 1 else '--'}{name}{marker}")
    return "\n".join([*lines, " --v              verbose", " --vv             debug", ""])


def parse(command, words, version):
    options = Options()
    valued, flags, _ = COMMANDS[command]
    words = list(words)
    while words:
        word = words.pop(0)
        if not word.startswith("-") or word == "-":
            options.words.append(word)
            continue
        name, equals, value = word.lstrip("-").partition("=")
        if name in ("v", "vv"):
            options.verbose = True
        elif name in flags:
            setattr(options, flags[name], True)
        elif name in valued:
            if not equals:
                if not words:
                    raise Usage(f"parameter required for {name}\n\n" + usage(version, command))
                value = words.pop(0)
            if valued[name] in NUMBERS:
                try:
                    value = float(value)
                except ValueError:
                    raise Usage(f"{name}: {value} is not a number\n\n" + usage(version, command)) from None
            setattr(options, valued[name], value)
        else:
            raise Usage(f"unrecognized parameter: {name}\n\n" + usage(version, command))
    subcommands = subcommands_of(command, version)
    if subcommands:
        if not options.words:
            raise Usage(usage(version, command))
        options.command = options.words.pop(0).replace("-", "_")
        if options.command not in subcommands:
            raise Usage(f"No such command for {command}: {options.command}\n\n" + usage(version, command))
    return options


# --- commands


def existing(options):
    """The settings of the node in the prefix."""
    conf = load(None, options.prefix)
    if not os.path.isdir(conf["prefix"]):
        raise KongError("no such prefix: " + conf["prefix"])
    return conf


def load(path, prefix=None, base=None):
    try:
        return conf_module.load(path, prefix, base)
    except conf_module.ConfError as error:
        raise KongError(str(error)) from None


def restored(path, prefix):
    """Settings as .kong_env keeps them, under what the file, the environment and the command line say."""
    found = load(path, prefix)
    base = conf_module.parse_file(found.env_file) if os.path.exists(found.env_file) else None
    return load(path, prefix, base) if base else found


def check_database(conf, version, enabled):
    """What keeps a node with a database from starting; the text about pending migrations."""
    if not conf.has_database:
        return ""
    connection = db.connect_or_die(conf)
    try:
        text = migrations.check_for_start(connection, version)
        plugins.check_in_use(Store(connection, version, enabled).used_plugins(), enabled)
        return text
    except psycopg2.Error as error:
        raise KongError("[PostgreSQL error] " + db.reason(error)) from None
    finally:
        connection.close()


def check_certificate(conf):
    if conf["role"] == "traditional":
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(conf["cluster_cert"], conf["cluster_cert_key"])
    except (ssl.SSLError, OSError) as error:
        raise KongError(f"cluster_cert_key: failed loading key from {conf['cluster_cert_key']}: {error}") from None


def start(options, version):
    conf = load(options.conf, options.prefix)
    if running(conf):
        raise KongError("Kong is already running in " + conf["prefix"])
    if version.has(3, 4) and not conf.array("admin_listen") and conf.array("admin_gui_listen"):
        warn("Kong Manager won't be functional because the Admin API is not listened on any interface")
    Prefix.prepare(conf)
    check_certificate(conf)
    enabled = plugins.enabled(conf, version)
    pending = check_database(conf, version, enabled)
    if pending:
        print(pending)
        write_log(conf, "warn", "init.lua:676: init(): database has pending migrations:")
    if conf["role"] == "data_plane":
        check_cache(conf, version)
    conf_module.write_env(conf)
    launch(conf, version, enabled)
    print("Kong started")
    return 0


def warn(text):
    print(time.strftime("%Y/%m/%d %H:%M:%S") + " [warn] " + text, file=sys.stderr)


def check_cache(conf, version):
    """A cache of another minor is of no use: it goes."""
    cache = Cache(conf["prefix"], version, lambda level, text: write_log(conf, level, text))
    tag = cache.tag_mismatch()
    if tag is not None:
        pid = os.getpid()
        now = time.strftime("%Y/%m/%d %H:%M:%S")
        for text in (f'LMDB validation tag "{tag}" did not match configured tag "{version.tag}"',
                     "LMDB validation tag mismatch, wiping the database"):
            print(f"{now} [warn] {pid}#{pid}: {text}", file=sys.stderr)
            write_log(conf, "warn", text)
        cache.wipe()


def send_signal(conf, number):
    pid = running(conf)
    if pid is None:
        raise KongError("nginx not running in prefix: " + conf["prefix"])
    os.kill(pid, number)
    return pid


def wait_gone(pid, seconds):
    deadline = time.monotonic() + seconds
    while alive(pid):
        if time.monotonic() >= deadline:
            return False
        time.sleep(0.02)
    return True


def stop(options, _version):
    conf = existing(options)
    wait_gone(send_signal(conf, signal.SIGTERM), 10)
    print("Kong stopped")
    return 0


def quit_node(options, _version):
    conf = existing(options)
    if running(conf) is None:
        raise KongError("nginx not running in prefix: " + conf["prefix"])
    time.sleep(options.wait)
    pid = send_signal(conf, signal.SIGQUIT)
    if wait_gone(pid, max(options.timeout, 1)):
        print("Kong stopped (gracefully)")
        return 0
    with contextlib.suppress(KongError):
        send_signal(conf, signal.SIGTERM)
    wait_gone(pid, 10)
    print("Timeout, Kong stopped forcefully")
    return 0


def restart(options, version):
    conf = restored(options.conf, options.prefix)
    if running(conf):
        stop(options_for(conf), version)
    options.prefix = conf["prefix"]
    return start(options, version)


def options_for(conf):
    options = Options()
    options.prefix = conf["prefix"]
    return options


def reload(options, version):
    conf = restored(options.conf, options.prefix)
    if not os.path.isdir(conf["prefix"]):
        raise KongError("no such prefix: " + conf["prefix"])
    if running(conf) is None:
        raise KongError("nginx not running in prefix: " + conf["prefix"])
    check_certificate(conf)
    plugins.enabled(conf, version)
    conf_module.write_env(conf)
    send_signal(conf, signal.SIGHUP)
    print("Kong reloaded")
    return 0


def health(options, _version):
    conf = existing(options)
    if running(conf) is None:
        print("nginx.......not running\n")
        raise KongError("Kong is not running at " + conf["prefix"])
    print(f"nginx.......running\n\nKong is healthy at {conf['prefix']}")
    return 0


def check(options, _version):
    path = options.words[0] if options.words else "/etc/kong/kong.conf"
    load(path)
    print(f"configuration at {path} is valid")
    return 0


def prepare(options, _version):
    conf = load(options.conf, options.prefix)
    Prefix.prepare(conf)
    conf_module.write_env(conf)
    return 0


def drain(options, _version):
    """Through the Status API, as real Kong does."""
    import urllib.error
    import urllib.request
    conf = restored(None, existing(options)["prefix"])
    listeners = conf_module.listeners(conf, "status_listen")
    if not listeners:
        print("No status listeners found in configuration.")
        return 0
    host, port, flags = listeners[0]
    if host in ("0.0.0.0", "::"):
        host = "127.0.0.1"
    request = urllib.request.Request(f"{'https' if 'ssl' in flags else 'http'}://{host}:{port}/status/ready",
                                     data=b'{"status":"draining"}', headers={"Content-Type": "application/json"})
    try:
        urllib.request.urlopen(request, timeout=5).close()
        print("Kong's status successfully changed to 'draining'")
    except (OSError, urllib.error.URLError) as error:
        print(f"Failed to send request to {host}:{port}: {getattr(error, 'reason', error)}")
    return 0


def hybrid(options, _version):
    if len(options.words) not in (0, 2):
        raise KongError("both cert and key path needs to be provided")
    names = options.words or ("./cluster.crt", "./cluster.key")
    certificate, key = (os.path.abspath(name) for name in names)
    for path in (certificate, key):
        if os.path.exists(path):
            raise KongError(f"{path} already exists.\nWill not overwrite it.")
    days = str(int(options.days or 1095))
    made = subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:secp384r1", "-nodes",
                           "-days", days, "-subj", "/CN=kong_clustering", "-keyout", key, "-out", certificate],
                          capture_output=True, text=True, check=False)
    if made.returncode:
        raise KongError(made.stderr.strip())
    os.chmod(certificate, 0o644)
    os.chmod(key, 0o600)
    print(f"Successfully generated certificate/key pairs, they have been written to: '{certificate}' and '{key}'.")
    return 0


def show_version(options, version):
    if options.all:
        print(f"Kong: {version.text}\nngx_lua: 10026\nnginx: 1025003\nLua: LuaJIT 2.1.1700206165")
    else:
        print(version.text)
    return 0


def run_migrations(options, version):
    conf = load(options.conf, options.prefix)
    Prefix.prepare(conf)
    plugins.enabled(conf, version)
    if options.quiet:
        with open(os.devnull, "w", encoding="ascii") as null, contextlib.redirect_stdout(null):
            return migrations.command(conf, version, options)
    return migrations.command(conf, version, options)


def run_config(options, version):
    conf = load(options.conf, options.prefix)
    if os.path.exists(conf.env_file):
        # Kong's own habit: the settings of the node in the prefix win over -c.
        conf = load(None, conf["prefix"], conf_module.parse_file(conf.env_file))
    return export.command(conf, version, plugins.enabled(conf, version), options)


HANDLERS = {"check": check, "config": run_config, "drain": drain, "health": health, "hybrid": hybrid,
            "migrations": run_migrations, "prepare": prepare, "quit": quit_node, "reload": reload, "restart": restart,
            "start": start, "stop": stop, "version": show_version}


def run(version_text, words):
    """Runs one command; returns the exit code."""
    version = Version(version_text)
    try:
        if not words:
            raise Usage(usage(version))
        command = words[0]
        if command in ("--help", "-h", "help"):
            print(usage(version))
            return 0
        if command not in commands_of(version):
            raise Usage(f"No such command: {command}\n\n" + usage(version))
        if "--help" in words[1:]:
            print(usage(version, command))
            return 0
        options = parse(command, words[1:], version)
        code = HANDLERS[command](options, version)
    except Usage as error:
        print(f"kong: {error}" if not str(error).startswith("Usage") else error, file=sys.stderr)
        return 1
    except KongError as error:
        sys.stdout.flush()
        print(f"Error: {error}\n{TRAILER}", file=sys.stderr)
        code = 1
    except BrokenPipeError:
        # `kong migrations list | head`: nobody reads on; the interpreter must not try again at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 1
    if Prefix.notice:
        print(Prefix.notice)
    return code
