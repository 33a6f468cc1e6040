"""A node as a process: its prefix, its pid, its listening sockets, its start in the background."""

import contextlib
import errno
import os
import socket
import sys
import time

from . import conf as conf_module
from .errors import KongError

LEVELS = ("debug", "info", "notice", "warn", "error", "crit", "alert", "emerg")


def write_log(conf, level, text):
    """A line of logs/error.log as nginx writes them."""
    if LEVELS.index(level) < (LEVELS.index(conf["log_level"]) if conf["log_level"] in LEVELS else 2):
        return
    pid = os.getpid()
    line = f"{time.strftime('%Y/%m/%d %H:%M:%S')} [{level}] {pid}#{pid}: *1 [lua] {text}\n"
    try:
        with open(os.path.join(conf["prefix"], "logs", "error.log"), "a", encoding="utf-8") as out:
            out.write(line)
    except OSError:
        # A full disk must not stop the proxy.
        pass


def bind(conf, kept=()):
    """Listening sockets by setting: {name: [(socket, (host, port, flags))]}; those in `kept` with such an address are used
    again. Raises OSError with the address in strerror."""
    names = {"control_plane": ("admin_listen", "cluster_listen", "status_listen"),
             "data_plane": ("proxy_listen", "status_listen"),
             "traditional": ("proxy_listen", "admin_listen", "status_listen")}[conf["role"]]
    known = {address: listener for listener, address in kept}
    bound = {}
    for name in names:
        bound[name] = []
        for host, port, flags in conf_module.listeners(conf, name):
            address = (host, port, tuple(flags))
            bound[name].append((known.get(address) or listen(*address), address))
    return bound


def listen(host, port, flags):
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "reuseport" in flags:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        raise OSError(error.errno, f"bind() to {host}:{port} failed ({error.errno}: {error.strerror})") from None
    listener.listen(1024)
    listener.setblocking(False)
    return listener


def running(conf):
    """The pid of the node in this prefix, or None."""
    try:
        with open(conf.pid_file, encoding="ascii") as stored:
            pid = int(stored.read())
    except (OSError, ValueError):
        return None
    return pid if alive(pid) else None


def alive(pid):
    """Whether that process is there, or may still hold its ports; it removes its pid file before."""
    try:
        os.kill(pid, 0)
    except OSError:
        return False
    # A killed child of ours waits as a zombie until init takes it.
    with contextlib.suppress(OSError), open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return stat.read().rpartition(")")[2].split()[0] != "Z" or len(os.listdir(f"/proc/{pid}/task")) > 1
    return False


class Prefix:
    """Makes the prefix; what real Kong says about it comes after everything else on stdout."""

    notice = None

    @classmethod
    def prepare(cls, conf):
        if not os.path.isdir(conf["prefix"]):
            cls.notice = f"prefix directory {conf['prefix']} not found, trying to create it"
        try:
            for name in ("pids", "logs", "ssl"):
                os.makedirs(os.path.join(conf["prefix"], name), exist_ok=True)
        except OSError as error:
            raise KongError(f"could not prepare Kong prefix at {conf['prefix']}: {error.strerror}") from None


def launch(conf, version, enabled):
    """Starts the node in the background and returns when it listens."""
    try:
        bound = bind(conf)
    except OSError as error:
        text = f"nginx: [emerg] {error.strerror}" + \
            ("\nnginx: [emerg] still could not bind()" if error.errno == errno.EADDRINUSE else "")
        raise KongError("./kong/cmd/start.lua:99: " + text) from None
    if conf["nginx_daemon"] == "off":
        write_pid(conf)
        print("Kong started", flush=True)
        serve(conf, version, enabled, bound, lambda text: None)
        sys.exit(0)
    sys.stdout.flush()
    sys.stderr.flush()
    receive, send = os.pipe()
    child = os.fork()
    if child == 0:
        daemon(conf, version, enabled, bound, send)
    os.close(send)
    os.waitpid(child, 0)
    for listeners in bound.values():
        for listener, _ in listeners:
            listener.close()
    with os.fdopen(receive, encoding="utf-8") as pipe:
        told = pipe.read()
    if told != "ready":
        raise KongError("./kong/cmd/start.lua:99: nginx: [error] " + (told or "the process ended, see logs/error.log"))


def write_pid(conf):
    with open(conf.pid_file, "w", encoding="ascii") as out:
        out.write(f"{os.getpid()}\n")


def daemon(conf, version, enabled, bound, send):
    """Never returns: this is the node from here on."""
    os.setsid()
    if os.fork():
        os._exit(0)
    try:
        null = os.open(os.devnull, os.O_RDWR)
        log = os.open(os.path.join(conf["prefix"], "logs", "error.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(null, 0)
        os.dup2(null, 1)
        os.dup2(log, 2)
        kept = {send} | {listener.fileno() for listeners in bound.values() for listener, _ in listeners}
        # A test runner waits until every holder of its descriptors is gone.
        for name in os.listdir("/proc/self/fd"):
            if int(name) > 2 and int(name) not in kept:
                with contextlib.suppress(OSError):
                    os.close(int(name))
        write_pid(conf)

        def tell(text):
            os.write(send, (text or "ready").encode())
            os.close(send)

        serve(conf, version, enabled, bound, tell)
        os._exit(0)
    except BaseException as error:  # pylint: disable=broad-except
        write_log(conf, "emerg", f"{type(error).__name__}: {error}")
        with contextlib.suppress(OSError):
            os.write(send, f"{type(error).__name__}: {error}".encode())
        os._exit(1)


def serve(conf, version, enabled, bound, tell):
    """Runs the node until it is told to end."""
    # Here and not above: most commands end before they would need any of it.
    import asyncio
    from .node import Node

    async def main():
        await Node(conf, version, enabled).run(bound, tell)

    asyncio.run(main())
