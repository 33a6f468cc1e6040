"""The cluster listener: data planes over a websocket, their rows, the push of the configuration."""

import asyncio
import gzip
import hashlib
import json
import ssl
import subprocess
import time
import uuid

import psycopg2
from aiohttp import WSMsgType, web

from . import db, plugins
from .store import Store
from .versions import ZERO_HASH, number, refusal

# A heartbeat may be late by half before the connection is given up.
LATE = 1.5


class ClusterTLS(ssl.SSLObject):
    """Tells a wrong certificate to the log: asyncio drops failed handshakes without a word."""

    report = staticmethod(lambda text: None)

    def do_handshake(self):
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError:
            type(self).report("[clustering] data plane presented incorrect client certificate during handshake (digest does "
                              "not match the control plane certificate)")
            raise


def certificate_der(path):
    with open(path, encoding="ascii", errors="replace") as pem:
        text = pem.read()
    end = "-----END CERTIFICATE-----"
    return ssl.PEM_cert_to_DER_cert(text[text.index("-----BEGIN CERTIFICATE-----"):text.index(end) + len(end)])


def tls_context(conf, log):
    """Only who shows the very same certificate gets in: that is cluster_mtls = shared."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(conf["cluster_cert"], conf["cluster_cert_key"])
    context.load_verify_locations(conf["cluster_cert"])
    context.verify_mode = ssl.CERT_REQUIRED
    context.sslobject_class = type("NodeTLS", (ClusterTLS,), {"report": staticmethod(lambda text: log("error", text))})
    return context


def expiry(path):
    """notAfter of a certificate in seconds since 1970."""
    shown = subprocess.run(["openssl", "x509", "-noout", "-enddate", "-in", path], check=True, capture_output=True, text=True)
    return int(ssl.cert_time_to_seconds(shown.stdout.strip().partition("=")[2]))


class Peer:
    """A connected data plane."""

    def __init__(self, query, ip):
        self.id, self.hostname, self.version, self.ip = query["node_id"], query["node_hostname"], query["node_version"], ip
        self.hash, self.status, self.plugins, self.labels = ZERO_HASH, "unknown", {}, {}
        self.websocket = None
        self.sent = None

    def __str__(self):
        return f"[id: {self.id}, host: {self.hostname}, ip: {self.ip}, version: {self.version}]"


class ControlPlane:
    """Keeps data planes supplied."""

    def __init__(self, node):
        self.node = node
        self.peers = set()
        self.config = self.hash = None
        self.changed = asyncio.Event()
        self.last_event = time.time()
        self.tasks = []
        self.own_certificate = certificate_der(node.conf["cluster_cert"])
        self.expiry = expiry(node.conf["cluster_cert"])

    def application(self):
        app = web.Application()
        app.router.add_get("/v1/outlet", self.outlet)
        return app

    def start(self):
        self.tasks = [asyncio.create_task(self.pusher()), asyncio.create_task(self.watcher()),
                      asyncio.create_task(self.purger())]

    async def stop(self):
        for task in self.tasks:
            task.cancel()
        for peer in list(self.peers):
            await peer.websocket.close()

    async def in_thread(self, work, *values):
        return await asyncio.get_running_loop().run_in_executor(None, work, *values)

    # --- the configuration

    def export(self):
        with db.session(self.node.conf) as connection:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True, autocommit=False)
            return Store(connection, self.node.version, self.node.plugins).export()

    async def refresh(self):
        """Reads the configuration anew; the old one stays when the database does not answer."""
        try:
            self.config = await self.in_thread(self.export)
        except psycopg2.Error as error:
            self.node.log("error", "[clustering] unable to export config from database: " + db.reason(error))
            return False
        content = json.dumps([self.node.version.hash_class, self.config], sort_keys=True).encode()
        self.hash = hashlib.md5(content).hexdigest()
        return True

    def notify(self):
        """After a write through this node."""
        self.changed.set()

    async def pusher(self):
        while True:
            await self.changed.wait()
            # Writes come in bunches.
            await asyncio.sleep(0.1)
            self.changed.clear()
            if await self.refresh():
                for peer in list(self.peers):
                    if peer.status != "kong_version_incompatible":
                        await self.push(peer)

    async def watcher(self):
        """Writes through other nodes on the same database announce themselves in cluster_events."""
        while True:
            await asyncio.sleep(self.node.conf.seconds("db_update_frequency"))
            try:
                found = await self.in_thread(self.poll_events)
            except psycopg2.Error:
                continue
            if found:
                self.notify()

    def poll_events(self):
        with db.session(self.node.conf) as connection:
            row = db.rows(connection, "SELECT extract(epoch FROM max(at))::float AS at FROM cluster_events "
                          "WHERE channel = 'clustering:push_config' AND node_id <> %s AND at > to_timestamp(%s)",
                          (self.node.node_id, self.last_event))[0]
        if row["at"]:
            self.last_event = row["at"]
        return bool(row["at"])

    async def purger(self):
        """Expired rows go away every 300 s (2.x: 60 s)."""
        interval = 300 if self.node.version.has(3, 0) else 60
        while True:
            await asyncio.sleep(interval)
            try:
                await self.in_thread(self.purge)
            except psycopg2.Error as error:
                self.node.log("warn", "unable to purge expired rows: " + db.reason(error))

    def purge(self):
        with db.session(self.node.conf) as connection:
            for table, column in (("keyauth_credentials", "ttl"), ("cluster_events", "expire_at"),
                                  ("clustering_data_planes", "ttl")):
                db.run(connection, f"DELETE FROM {table} WHERE {column} < CURRENT_TIMESTAMP")

    # --- data planes

    async def outlet(self, request):
        certificate = request.transport.get_extra_info("ssl_object").getpeercert(binary_form=True)
        if certificate != self.own_certificate:
            self.node.log("error", "[clustering] data plane presented incorrect client certificate during handshake (digest "
                          "does not match the control plane certificate)")
            return web.Response(status=444)
        try:
            uuid.UUID(request.query["node_id"])
            peer = Peer({key: request.query[key] for key in ("node_id", "node_hostname", "node_version")}, request.remote)
        except (KeyError, ValueError):
            return web.Response(status=400)
        peer.websocket = web.WebSocketResponse(autoping=False, max_msg_size=0, compress=False)
        await peer.websocket.prepare(request)
        self.peers.add(peer)
        try:
            await self.talk(peer)
        finally:
            self.peers.discard(peer)
            self.node.log("info", f"[clustering] data plane disconnected {peer}")
        return peer.websocket

    async def talk(self, peer):
        message = await peer.websocket.receive(timeout=5)
        if message.type not in (WSMsgType.BINARY, WSMsgType.TEXT):
            return
        info = json.loads(message.data)
        peer.plugins = {plugin["name"]: plugin.get("version") for plugin in info.get("plugins", ())}
        peer.labels = info.get("labels") or {}
        refused = refusal(self.node.version.text, peer.version)
        if refused:
            peer.status = "kong_version_incompatible"
            self.node.log("error", f"control_plane.lua:273: serve_cluster_listener(): [clustering] {refused} {peer}")
            await self.record(peer)
            await peer.websocket.close()
            return
        self.compare_plugins(peer)
        peer.status = "normal"
        await self.record(peer)
        if self.config is None:
            await self.refresh()
        await self.push(peer)
        await self.listen(peer)

    def compare_plugins(self, peer):
        """Differences that do not matter yet."""
        for name, (version, _) in sorted(self.node.plugins.items()):
            if name not in peer.plugins:
                self.node.log("warn", f"check_version_compatibility(): [clustering] {name} plugin {version} is missing from "
                              f"data plane {peer}")

    async def listen(self, peer):
        limit = self.node.conf.seconds("standin_ping") * LATE
        while True:
            try:
                message = await peer.websocket.receive(timeout=limit)
            except asyncio.TimeoutError:
                self.node.log("error", "[clustering] did not receive ping frame from data plane within "
                              f"{limit:.0f} seconds {peer}")
                await peer.websocket.close()
                return
            if message.type is WSMsgType.PING:
                peer.hash = message.data.decode("ascii", "replace") or ZERO_HASH
                await self.record(peer)
                await peer.websocket.pong()
            elif message.type in (WSMsgType.CLOSE, WSMsgType.CLOSED, WSMsgType.CLOSING, WSMsgType.ERROR):
                return

    async def push(self, peer):
        if self.config is None or peer.sent == self.hash:
            return
        configured = {plugin["name"] for plugin in self.config.get("plugins", ())}
        problem = plugins.incompatible(configured, self.node.plugins, peer.plugins)
        if problem:
            peer.status = problem[0]
            self.node.log("warn", f"control_plane.lua:435: [clustering] unable to send updated configuration to data plane: "
                          f"{problem[1]} {peer}")
            await self.record(peer)
            return
        if peer.status != "normal":
            peer.status = "normal"
            await self.record(peer)
        table = downgrade(self.config, peer, self.node)
        body = {"type": "reconfigure", "timestamp": time.time(), "config_hash": self.hash, "config_table": table}
        peer.sent = self.hash
        try:
            await peer.websocket.send_bytes(gzip.compress(json.dumps(body).encode(), 1))
        except (ConnectionError, RuntimeError):
            pass

    async def record(self, peer):
        try:
            await self.in_thread(self.write_row, peer)
        except psycopg2.Error as error:
            self.node.log("error", "control_plane.lua:262: update_sync_status(): [clustering] unable to update clustering data "
                          f"plane status: [postgres] {db.reason(error)} {peer}")

    def write_row(self, peer):
        values = {"id": peer.id, "hostname": peer.hostname, "ip": peer.ip, "version": peer.version,
                  "config_hash": peer.hash if peer.status != "kong_version_incompatible" else ZERO_HASH,
                  "sync_status": peer.status}
        version = self.node.version
        if version.has(3, 5):
            values["labels"] = json.dumps(peer.labels)
        if version.has(3, 6):
            values["cert_details"] = json.dumps({"expiry_timestamp": self.expiry})
        if version.has(3, 7):
            values["rpc_capabilities"] = []
        moving = ["last_seen = now()", "ttl = EXCLUDED.ttl"] + [f"{name} = EXCLUDED.{name}" for name in values if name != "id"]
        if version.has(3, 3):
            moving.append("updated_at = now()")
        casts = {"labels": "::jsonb", "cert_details": "::jsonb", "rpc_capabilities": "::text[]"}
        marks = ", ".join("%s" + casts.get(name, "") for name in values)
        sql = (f"INSERT INTO clustering_data_planes ({', '.join(values)}, last_seen, ttl) VALUES ({marks}, now(), now() + "
               f"make_interval(secs => %s)) ON CONFLICT (id) DO UPDATE SET {', '.join(moving)}")
        with db.session(self.node.conf) as connection:
            db.run(connection, sql, [*values.values(), self.node.conf.seconds("cluster_data_plane_purge_delay")])
            if not version.has(3, 0):
                announce(connection, self.node.node_id, "invalidations", "clustering_data_planes:" + peer.id)


def announce(connection, node_id, channel, data):
    """A row of cluster_events, as other nodes poll for them."""
    db.run(connection, "INSERT INTO cluster_events (id, node_id, at, expire_at, channel, data) "
           "VALUES (%s, %s, now(), now() + interval '1 hour', %s, %s)", (str(uuid.uuid4()), node_id, channel, data))


def downgrade(config, peer, node):
    """What an older data plane gets: fields it does not know are taken away, as far as Kong thinks of them."""
    theirs = number(peer.version)
    if theirs == node.version.minor or "plugins" not in config:
        return config
    changed = []
    for plugin in config["plugins"]:
        fields = dict(plugin["config"])
        if plugin["name"] == "key-auth" and theirs < (3, 7) and "realm" in fields:
            del fields["realm"]
            node.log("warn", "invalidate_keys_from_config(): [clustering] key_auth plugin contains configuration 'realm' which "
                     f"is incompatible with dataplane and will be ignored {peer}")
        # Kong's adapter thinks of policy redis only; with another policy the record stays, and old data planes refuse it.
        if plugin["name"] == "rate-limiting" and theirs < (3, 6) and fields.get("policy") == "redis" and "redis" in fields:
            for name, value in fields.pop("redis").items():
                fields["redis_" + name] = value
        changed.append({**plugin, "config": fields})
    return {**config, "plugins": changed}
