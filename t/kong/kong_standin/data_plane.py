"""A data plane's configuration: from the control plane, from its cache, to the proxy."""

import asyncio
import gzip
import json
import platform
import random
import socket
import ssl
import urllib.parse

import aiohttp
from aiohttp.abc import AbstractResolver

from .cache import Cache
from .versions import ZERO_HASH


class BadConfig(Exception):
    """A configuration this version refuses."""


class FixedName(AbstractResolver):
    """The server name in TLS is kong_clustering, wherever the control plane lives."""

    def __init__(self, host):
        self.host = host

    async def resolve(self, host, port=0, family=socket.AF_INET):
        found = await asyncio.get_running_loop().getaddrinfo(self.host, port, type=socket.SOCK_STREAM)
        return [{"hostname": host, "host": address[0], "port": address[1], "family": kind, "proto": protocol,
                 "flags": socket.AI_NUMERICHOST} for kind, _, protocol, _, address in found]

    async def close(self):
        pass


def check(config, minor):
    """What makes a data plane refuse a configuration: one for newer ones, or rows that "finish" has not rewritten."""
    for position, plugin in enumerate(config.get("plugins", ()), 1):
        entry = f"bad config received from control plane in 'plugins':\n  - in entry {position} of 'plugins':\n    in 'config':\n"
        headers = plugin["config"].get("headers") if plugin["name"] == "http-log" else None
        if minor >= (3, 0) and headers and not all(isinstance(value, str) for value in headers.values()):
            raise BadConfig(entry + "      in 'headers': expected a string")
        if plugin["name"] != "rate-limiting" or minor >= (3, 6):
            continue
        if "redis" in plugin["config"]:
            raise BadConfig(entry + "      in 'redis': unknown field")
        if plugin["config"].get("policy") == "redis" and not plugin["config"].get("redis_host"):
            raise BadConfig(entry + "      in 'redis_host': required field missing")


class DataPlane:
    """Holds the connection to the control plane and the configuration in force."""

    def __init__(self, node, apply):
        self.node, self.apply = node, apply
        self.hash = ZERO_HASH
        self.cache = Cache(node.conf["prefix"], node.version, node.log)
        self.task = self.websocket = None

    def restore(self):
        """Starts with what the last run knew."""
        found = self.cache.load()
        if found:
            self.apply(found[0])
            self.hash = found[1]

    def start(self):
        self.task = asyncio.create_task(self.follow())

    async def stop(self):
        if self.task:
            self.task.cancel()
            await asyncio.gather(self.task, return_exceptions=True)

    async def follow(self):
        least, _, most = self.node.conf["standin_retry"].partition("-")
        while True:
            delay = random.uniform(float(least), float(most or least))
            start = "data_plane.lua:156: communicate(): [clustering] connection to control plane "
            end = f" (retrying after {delay:.0f} seconds) [{self.node.conf['cluster_control_plane']}]"
            try:
                await self.communicate()
                self.node.log("info", start + "closed" + end)
            except (aiohttp.ClientError, OSError, asyncio.TimeoutError) as error:
                self.node.log("warn", f"{start}{self.url()} broken: {self.problem(error)}{end}")
            await asyncio.sleep(delay)

    @staticmethod
    def problem(error):
        """A failed connection in Kong's words."""
        if isinstance(error, aiohttp.ClientConnectorError):
            return "connection refused" if isinstance(error.os_error, ConnectionRefusedError) else str(error.os_error)
        if isinstance(error, asyncio.TimeoutError):
            return "timeout"
        return "failed to receive response header: closed"

    def url(self, name=None):
        host, _, port = self.node.conf["cluster_control_plane"].rpartition(":")
        query = urllib.parse.urlencode({"node_id": self.node.node_id, "node_hostname": platform.node(),
                                        "node_version": self.node.version.text})
        return f"wss://{name or host}:{port}/v1/outlet?{query}"

    async def communicate(self):
        conf = self.node.conf
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        # A wrong certificate is found by the control plane, not here: so it was recorded.
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.load_cert_chain(conf["cluster_cert"], conf["cluster_cert_key"])
        host, _, _ = conf["cluster_control_plane"].rpartition(":")
        connector = aiohttp.TCPConnector(resolver=FixedName(host.strip("[]")), ssl=context)
        timeout = aiohttp.ClientTimeout(sock_connect=5, sock_read=None, total=None)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
            async with session.ws_connect(self.url("kong_clustering"), autoping=False, max_msg_size=0, compress=0) as websocket:
                await websocket.send_bytes(json.dumps(self.basic_info()).encode())
                pings = asyncio.create_task(self.ping(websocket))
                try:
                    async for message in websocket:
                        if message.type is aiohttp.WSMsgType.BINARY:
                            await self.receive(json.loads(gzip.decompress(message.data)))
                            await websocket.ping(self.hash.encode())
                finally:
                    pings.cancel()

    def basic_info(self):
        labels = dict(label.split(":", 1) for label in self.node.conf.array("cluster_dp_labels") if ":" in label)
        return {"type": "basic_info", "labels": labels,
                "plugins": [{"name": name, "version": version} for name, (version, _) in self.node.plugins.items()]}

    async def ping(self, websocket):
        while True:
            await websocket.ping(self.hash.encode())
            await asyncio.sleep(self.node.conf.seconds("standin_ping"))

    async def receive(self, message):
        """A configuration that is refused leaves the one in force alone."""
        config, config_hash = message["config_table"], message["config_hash"]
        if config_hash == self.hash:
            return
        try:
            check(config, self.node.version.minor)
        except BadConfig as error:
            self.node.log("error", f"data_plane.lua:225: [clustering] unable to update running config: {error}")
            return
        self.apply(config)
        self.hash = config_hash
        await asyncio.get_running_loop().run_in_executor(None, self.cache.store, config, config_hash)


