"""A running node: listeners, signals, Status API, life and death of the process."""

import asyncio
import json
import os
import signal
import ssl
import subprocess
import time
import urllib.parse
import uuid

from aiohttp import web

from . import admin, conf as conf_module, control_plane, data_plane, db, plugins
from .errors import KongError
from .process import bind, write_log
from .proxy import Proxy
from .router import Router
from .store import reachable
from .versions import ZERO_HASH

def default_certificate(conf):
    """A self-signed certificate for listeners with `ssl`, as Kong makes one in the prefix."""
    folder = os.path.join(conf["prefix"], "ssl")
    certificate, key = os.path.join(folder, "kong-default.crt"), os.path.join(folder, "kong-default.key")
    if not os.path.exists(certificate):
        os.makedirs(folder, exist_ok=True)
        subprocess.run(["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "7300", "-subj",
                        "/C=US/ST=California/L=San Francisco/O=Kong/OU=IT Department/CN=localhost", "-keyout", key, "-out",
                        certificate], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


class Node:
    """One Kong process."""

    def __init__(self, conf, version, enabled):
        self.conf, self.version, self.plugins = conf, version, enabled
        self.installed = plugins.installed(conf, version)
        self.node_id = self.identity()
        self.bound, self.servers, self.runners = {}, [], []
        self.proxy = self.data_plane = self.control_plane = None
        self.admin = admin.Admin(self)
        self.draining = False
        self.requests = self.in_flight = 0
        self.finish, self.reloading = asyncio.Event(), asyncio.Lock()
        self.graceful = False

    def identity(self):
        """2.x takes a new id at every start; 3.x keeps it in the prefix."""
        path = os.path.join(self.conf["prefix"], "kong.id")
        if not self.version.has(3, 0):
            return str(uuid.uuid4())
        if os.path.exists(path):
            with open(path, encoding="ascii") as stored:
                found = stored.read().strip()
            if len(found) == 36:
                return found
        fresh = str(uuid.uuid4())
        with open(path, "w", encoding="ascii") as stored:
            stored.write(fresh)
        return fresh

    def log(self, level, text):
        write_log(self.conf, level, text)

    # --- listeners

    async def start(self, bound):
        self.bound = bound
        role = self.conf["role"]
        if role != "control_plane":
            self.proxy = self.proxy or Proxy(self)
            self.proxy.start()
            await self.serve_proxy()
        if role != "data_plane":
            await self.serve("admin_listen", self.application(self.admin_request, admin_headers=True))
        await self.serve("status_listen", self.application(self.status_request))
        if role == "control_plane":
            self.control_plane = control_plane.ControlPlane(self)
            await self.serve("cluster_listen", self.control_plane.application(),
                             control_plane.tls_context(self.conf, self.log))
            self.control_plane.start()
        elif role == "data_plane":
            self.data_plane = data_plane.DataPlane(self, self.apply)
            self.data_plane.restore()
            self.data_plane.start()

    def apply(self, config):
        """A new configuration takes effect between two requests."""
        priorities = {name: priority for name, (_, priority) in self.plugins.items()}
        self.proxy.router = Router(config, priorities, self.version.has(3, 0))

    async def serve_proxy(self):
        loop = asyncio.get_running_loop()
        for listener, (_, _, flags) in self.bound["proxy_listen"]:
            context = default_certificate(self.conf) if "ssl" in flags else None
            self.servers.append(await loop.create_server(self.proxy.protocol("https" if context else "http"),
                                                         sock=listener.dup(), ssl=context))

    async def serve(self, name, app, context=None):
        for listener, (_, _, flags) in self.bound.get(name, ()):
            runner = web.AppRunner(app, access_log=None, handle_signals=False, keepalive_timeout=75)
            await runner.setup()
            if context is None and "ssl" in flags:
                await web.SockSite(runner, listener.dup(), ssl_context=default_certificate(self.conf)).start()
            else:
                await web.SockSite(runner, listener.dup(), ssl_context=context).start()
            self.runners.append(runner)

    def application(self, handler, admin_headers=False):
        """A web application in which every request goes to one handler, with Kong's headers on the answer."""
        async def every(request):
            self.requests += 1
            self.in_flight += 1
            started = time.monotonic()
            try:
                status, body, headers = await handler(request)
            finally:
                self.in_flight -= 1
            data = b"" if body is None else body if isinstance(body, bytes) \
                else json.dumps(body, separators=(",", ":")).encode()
            shown = {"Access-Control-Allow-Origin": "*"}
            if body is not None:
                shown["Content-Type"] = "application/json; charset=utf-8"
            if admin_headers and self.version.has(3, 4):
                shown["Access-Control-Allow-Credentials"] = "true"
            shown.update(headers)
            shown["X-Kong-Admin-Latency"] = str(int((time.monotonic() - started) * 1000))
            shown["Server"] = self.version.server
            return web.Response(status=status, body=data, headers=shown,
                                reason="Service Temporarily Unavailable" if status == 503 else None)
        app = web.Application(client_max_size=64 * 1024 * 1024)
        app.router.add_route("*", "/{path:.*}", every)
        return app

    # --- Admin API and Status API

    async def admin_request(self, request):
        path = request.rel_url.raw_path
        wanted = admin.Request(request.method, path, request.query, request.content_type
                               if request.headers.get("Content-Type") else "", await request.read())
        loop = asyncio.get_running_loop()
        status, body, headers, wrote = await loop.run_in_executor(None, self.admin_work, wanted)
        if wrote and self.control_plane:
            self.control_plane.notify()
        return status, body, headers

    def admin_work(self, wanted):
        status, body, headers, wrote = self.admin.handle(wanted)
        if wrote:
            try:
                with db.session(self.conf) as connection:
                    control_plane.announce(connection, self.node_id, "clustering:push_config", "all")
            except db.psycopg2.Error as error:
                self.log("error", "unable to announce a change: " + db.reason(error))
        return status, body, headers, wrote

    async def status_request(self, request):
        path = request.path.rstrip("/") or "/"
        if path == "/status" and request.method in ("GET", "HEAD"):
            return 200, await self.in_thread(self.status_body, None), {}
        if path == "/status/ready" and self.version.has(3, 3):
            return await self.ready(request)
        if path == "/metrics" and request.method in ("GET", "HEAD"):
            return 200, self.metrics(), {"Content-Type": "text/plain; charset=UTF-8"}
        if path in ("/status", "/metrics"):
            return 405, {"message": "Method not allowed"}, {}
        return 404, {"message": "Not found"}, {}

    async def in_thread(self, work, *values):
        return await asyncio.get_running_loop().run_in_executor(None, work, *values)

    async def ready(self, request):
        if request.method == "POST":
            if not self.version.has(3, 9):
                return 405, {"message": "Method not allowed"}, {}
            try:
                wanted = (await request.json())["status"] if request.content_type == "application/json" \
                    else urllib.parse.parse_qs((await request.read()).decode())["status"][0]
            except (ValueError, KeyError, TypeError):
                wanted = None
            if wanted != "draining":
                return 400, {"message": "bad request"}, {}
            self.draining = True
            return 204, None, {}
        if request.method not in ("GET", "HEAD"):
            return 405, {"message": "Method not allowed"}, {}
        if self.draining:
            return 503, {"message": "draining"}, {}
        if self.conf.has_database:
            if await self.in_thread(reachable, self.conf):
                return 200, {"message": "ready"}, {}
            return 503, {"message": "failed to connect to database"}, {}
        if self.data_plane.hash == ZERO_HASH:
            return 503, {"message": "no configuration available (empty configuration present)"}, {}
        return 200, {"message": "ready"}, {}

    def status_body(self, database):
        """GET /status of either API."""
        proxy = self.proxy
        active = 1 + (len(proxy.clients) if proxy else 0)
        total = self.requests + (proxy.total if proxy else 0)
        accepted = self.requests + (proxy.accepted if proxy else 0)
        waiting = sum(client.idle for client in proxy.clients) if proxy else 0
        dictionaries = {name: {"allocated_slabs": "0.04 MiB", "capacity": capacity} for name, capacity in
                        (("kong", "5.00 MiB"), ("kong_db_cache", "32.00 MiB"), ("kong_locks", "8.00 MiB"))}
        body = {"memory": {"lua_shared_dicts": dictionaries,
                           "workers_lua_vms": [{"http_allocated_gc": "16.56 MiB", "pid": os.getpid()}]},
                "server": {"connections_accepted": accepted, "connections_active": active, "connections_handled": accepted,
                           "connections_reading": 0, "connections_waiting": waiting,
                           "connections_writing": active - waiting, "total_requests": total}}
        if self.data_plane:
            body["configuration_hash"] = self.data_plane.hash
        if self.conf.has_database or not self.version.has(3, 0):
            body["database"] = {"reachable": database if database is not None else
                                reachable(self.conf) if self.conf.has_database else True}
        return body

    def metrics(self):
        total = self.proxy.total if self.proxy else self.requests
        return (f'kong_node_info{{node_id="{self.node_id}",version="{self.version.text}"}} 1\n'
                f'kong_nginx_requests_total{{node_id="{self.node_id}",subsystem="http"}} {total}\n').encode()

    # --- life

    def reload(self):
        """New settings from the prefix; connections of the old ones finish in peace."""
        asyncio.create_task(self.reconfigure())

    async def reconfigure(self):
        async with self.reloading:
            values = conf_module.parse_file(self.conf.env_file)
            fresh = conf_module.Conf(conf_module.DEFAULTS)
            fresh.update(values)
            before = [entry for listeners in self.bound.values() for entry in listeners]
            try:
                # An address that stays keeps its socket, so that no connection is refused.
                bound = bind(fresh, before)
                enabled = plugins.enabled(fresh, self.version)
            except (OSError, KongError) as error:
                self.log("emerg", f"reload failed, the old settings stay: {error}")
                return
            await self.withdraw(grace=0)
            used = [entry for listeners in bound.values() for entry in listeners]
            for listener, _ in before:
                if all(listener is not other for other, _ in used):
                    listener.close()
            self.conf, self.plugins, self.draining = fresh, enabled, False
            if self.proxy:
                self.proxy.retire()
            await self.start(bound)

    async def withdraw(self, grace):
        """Ends the services; the sockets in `bound` stay open."""
        for server in self.servers:
            server.close()
        self.servers = []
        if self.proxy and self.proxy.sweeper:
            self.proxy.sweeper.cancel()
        if self.data_plane:
            await self.data_plane.stop()
        if self.control_plane:
            await self.control_plane.stop()
        deadline = time.monotonic() + grace
        while self.in_flight and time.monotonic() < deadline:
            await asyncio.sleep(0.02)
        runners, self.runners = self.runners, []
        for runner in runners:
            await runner.cleanup()

    def quit(self, graceful):
        self.graceful = self.graceful or graceful
        if not graceful:
            # SIGTERM: at once, as nginx does.
            if os.path.exists(self.conf.pid_file):
                os.unlink(self.conf.pid_file)
            os._exit(0)
        self.finish.set()

    async def run(self, bound, tell):
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self.quit, False)
        loop.add_signal_handler(signal.SIGINT, self.quit, False)
        loop.add_signal_handler(signal.SIGQUIT, self.quit, True)
        loop.add_signal_handler(signal.SIGHUP, self.reload)
        await self.start(bound)
        tell("")
        self.log("notice", f"Kong {self.version.text} started, role {self.conf['role']}")
        await self.finish.wait()
        for listeners in self.bound.values():
            for listener, _ in listeners:
                listener.close()
        for server in self.servers:
            server.close()
        if self.proxy:
            self.proxy.retire(closing=True)
            while self.proxy.busy():
                await asyncio.sleep(0.02)
                self.proxy.retire(closing=True)
        await self.withdraw(grace=3600)
        if os.path.exists(self.conf.pid_file):
            os.unlink(self.conf.pid_file)
