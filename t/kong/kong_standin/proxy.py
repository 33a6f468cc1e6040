"""The proxy of a data plane: clients in front, services behind, connections kept on both."""

import asyncio
import collections
import secrets
import select
import socket
import ssl
import time

from . import http1
from .policies import POLICIES, Denied
from .router import choose

IDEMPOTENT = (b"GET", b"HEAD", b"OPTIONS", b"PUT", b"DELETE", b"TRACE")
HOP_BY_HOP = {b"connection", b"keep-alive", b"proxy-connection", b"transfer-encoding", b"content-length", b"upgrade",
              b"te", b"trailer"}
REWRITTEN = HOP_BY_HOP | {b"host", b"via", b"expect", b"x-forwarded-for", b"x-forwarded-proto", b"x-forwarded-host",
                          b"x-forwarded-port", b"x-forwarded-path", b"x-forwarded-prefix", b"x-real-ip", b"x-kong-request-id"}
REASONS = {200: "OK", 400: "Bad Request", 401: "Unauthorized", 403: "Forbidden", 404: "Not Found",
           413: "Payload Too Large", 429: "Too Many Requests", 431: "Request Header Fields Too Large",
           502: "Bad Gateway", 503: "Service Temporarily Unavailable", 504: "Gateway Time-out"}
CLIENT_IDLE, UPSTREAM_IDLE, POOL_SIZE = 75, 30, 512
# How long a new connection may take to send its first request while Kong shuts down.
FIRST_REQUEST = 0.5
SMALL_BODY = 64 * 1024


class Stale(Exception):
    """A kept connection turned out closed before it brought a byte of the answer."""


class Trouble(Exception):
    """The service could not be asked: status and message of the answer."""

    def __init__(self, status, message):
        super().__init__(message)
        self.status, self.message = status, message


class Client:
    """A client's connection."""

    __slots__ = ("reader", "writer", "idle", "since", "address", "port", "scheme", "requests")

    def __init__(self, reader, writer, scheme):
        self.reader, self.writer, self.scheme = reader, writer, scheme
        self.idle, self.since, self.requests = True, time.monotonic(), 0
        peer, name = writer.get_extra_info("peername"), writer.get_extra_info("sockname")
        self.address = peer[0] if peer else "unix:"
        self.port = name[1] if isinstance(name, tuple) else 0


class Fed(asyncio.StreamReader):
    """Knows whether bytes wait that nobody has read."""

    waiting = False

    def feed_data(self, data):
        self.waiting = True
        super().feed_data(data)


class Exchange:
    """One request on its way: what it asked, what it may get."""

    def __init__(self, client, head, proxy):
        self.client, self.head = client, head
        self.started = time.monotonic()
        self.method, self.target, self.protocol = head.start
        self.http11 = self.protocol == b"HTTP/1.1"
        self.length = head.length()
        connection = head.get(b"connection").lower()
        self.keep = b"close" not in connection if self.http11 else b"keep-alive" in connection
        self.upgrade = head.get(b"upgrade") if b"upgrade" in connection else b""
        path = self.target.decode("latin-1")
        if path.startswith("http://") or path.startswith("https://"):
            path = "/" + path.split("/", 3)[3] if path.count("/") > 2 else "/"
        self.path, _, self.query = path.partition("?")
        self.host = head.get(b"host").decode("latin-1").lower()
        self.request_id = secrets.token_hex(16) if proxy.version.has(3, 5) else None
        self.route = self.consumer = self.credential = None
        self.upstream_headers, self.response_headers = [], []
        self.body_read = self.length in (None, 0)

    def header(self, name):
        return self.head.get(name.lower().encode()).decode("latin-1")


class Proxy:
    """Serves clients by the router in force."""

    def __init__(self, node):
        self.node, self.version = node, node.version
        self.clients, self.pool = set(), collections.defaultdict(collections.deque)
        self.router, self.retired_before, self.closing = None, 0.0, False
        self.accepted = self.total = 0
        chosen = [token.lower() for token in node.conf.array("headers")]
        self.show_server = "server_tokens" in chosen or "server" in chosen
        self.show_via = "server_tokens" in chosen or "via" in chosen
        self.show_latency = "latency_tokens" in chosen
        self.show_id = self.version.has(3, 5) and "x-kong-request-id" in chosen
        self.tls_out = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        self.tls_out.check_hostname = False
        self.tls_out.verify_mode = ssl.CERT_NONE
        self.sweeper = None

    # --- connections of clients

    def protocol(self, scheme):
        """A factory for loop.create_server."""
        def make():
            reader = Fed(limit=http1.MAX_HEAD)
            return asyncio.StreamReaderProtocol(reader, lambda r, w: self.serve(Client(r, w, scheme)))
        return make

    def start(self):
        self.sweeper = asyncio.create_task(self.sweep())

    async def sweep(self):
        """Closes what has been idle for too long, on both ends."""
        while True:
            await asyncio.sleep(5)
            now = time.monotonic()
            for client in list(self.clients):
                if client.idle and now - client.since > CLIENT_IDLE:
                    client.writer.close()
            for kept in self.pool.values():
                while kept and now - kept[0][2] > UPSTREAM_IDLE:
                    kept.popleft()[1].close()

    def retire(self, closing=False):
        """Idle connections close, busy ones after their answer: nginx's old workers at a reload or quit."""
        self.closing = closing
        self.retired_before = time.monotonic()
        idle = {client.writer.get_extra_info("socket").fileno(): client for client in self.clients
                if not self.is_busy(client) and not client.writer.is_closing()}
        poll = select.poll()
        for descriptor in idle:
            poll.register(descriptor, select.POLLIN)
        # A request may have come since the loop looked last: closing now would reset its connection.
        for descriptor, _ in poll.poll(0):
            del idle[descriptor]
        for client in idle.values():
            client.writer.close()

    @staticmethod
    def is_busy(client):
        """In a request, or so new that its first one may be on the way."""
        return not client.idle or client.reader.waiting or \
            not client.requests and time.monotonic() - client.since < FIRST_REQUEST

    def busy(self):
        return sum(map(self.is_busy, self.clients))

    def drop_pool(self):
        for kept in self.pool.values():
            while kept:
                kept.pop()[1].close()

    async def serve(self, client):
        begun = client.since
        self.clients.add(client)
        self.accepted += 1
        try:
            client.writer.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            while True:
                try:
                    raw = await client.reader.readuntil(b"\r\n\r\n")
                except asyncio.LimitOverrunError:
                    await self.refuse(client, 431)
                    break
                client.idle, client.reader.waiting = False, False
                client.requests += 1
                self.total += 1
                try:
                    exchange = Exchange(client, http1.Head(raw.lstrip(b"\r\n")), self)
                except (http1.BadMessage, ValueError):
                    await self.refuse(client, 400)
                    break
                if self.closing or begun <= self.retired_before:
                    exchange.keep = False
                await self.handle(exchange)
                if not exchange.keep:
                    break
                client.idle, client.since = True, time.monotonic()
        except (asyncio.IncompleteReadError, ConnectionError, EOFError, http1.BadMessage, TimeoutError):
            client.writer.transport.abort()
        except asyncio.CancelledError:
            client.writer.transport.abort()
            raise
        finally:
            self.clients.discard(client)
            client.writer.close()

    async def refuse(self, client, status):
        text = f"HTTP/1.1 {status} {REASONS[status]}\r\nServer: {self.version.server}\r\nConnection: close\r\n" \
               "Content-Length: 0\r\n\r\n"
        client.writer.write(text.encode())
        await client.writer.drain()

    # --- a request

    async def handle(self, exchange):
        try:
            found = self.router.find(exchange.method.decode("latin-1"), exchange.client.scheme, exchange.host, exchange.path,
                                     {name.decode("latin-1").lower(): value.decode("latin-1")
                                      for name, value in exchange.head.fields}) if self.router else None
            if found is None:
                raise Denied(404, "no Route matched with those values")
            exchange.route = found[0]
            for name, candidates in exchange.route.plugins:
                policy = POLICIES.get(name)
                config = choose(candidates, exchange.consumer["id"] if exchange.consumer else None) if policy else None
                if config is not None:
                    policy(exchange, config, self.router, self.version)
            if exchange.route.service is None:
                raise Denied(503, "no Service found with those values")
            await self.forward(exchange, found[1])
        except Denied as denied:
            await self.answer(exchange, denied.status, denied.message, denied.headers, denied.body)
        except Trouble as trouble:
            await self.answer(exchange, trouble.status, trouble.message, trouble=True)

    def message(self, exchange, text):
        if exchange.request_id:
            return f'{{\n  "message":"{text}",\n  "request_id":"{exchange.request_id}"\n}}'.encode()
        return f'{{"message":"{text}"}}'.encode() if not self.version.has(3, 0) \
            else f'{{\n  "message":"{text}"\n}}'.encode()

    async def answer(self, exchange, status, message, headers=(), body=None, trouble=False):
        """An answer made by Kong itself."""
        await self.swallow(exchange)
        content_type = "application/json; charset=utf-8"
        if body is None:
            body = self.message(exchange, message) if message is not None else b""
        else:
            content_type, body = body
        spent = int((time.monotonic() - exchange.started) * 1000)
        lines = [f"HTTP/1.1 {status} {REASONS.get(status, 'Unknown')}",
                 "Date: " + time.strftime("%a, %d %b %Y %H:%M:%S GMT", time.gmtime()), f"Content-Type: {content_type}",
                 "Connection: " + ("keep-alive" if exchange.keep else "close")]
        lines += [f"{name}: {value}" for name, value in (*exchange.response_headers, *headers)]
        lines.append(f"Content-Length: {len(body)}")
        if trouble:
            if self.show_latency:
                lines += [f"X-Kong-Upstream-Latency: {spent}", "X-Kong-Proxy-Latency: 0"]
            if self.show_via:
                lines.append("Via: " + self.version.via)
        elif self.show_latency:
            lines.append(f"X-Kong-Response-Latency: {spent}")
        if self.show_server:
            lines.append("Server: " + self.version.server)
        if self.show_id:
            lines.append("X-Kong-Request-Id: " + exchange.request_id)
        head = ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")
        exchange.client.writer.write(head if exchange.method == b"HEAD" else head + body)
        await exchange.client.writer.drain()

    async def swallow(self, exchange):
        """Reads a body nobody wants, if it is small; else the connection cannot be kept."""
        if exchange.body_read:
            return
        exchange.body_read = True
        if exchange.length == -1 or exchange.length > SMALL_BODY or exchange.head.get(b"expect"):
            exchange.keep = False
            return
        await exchange.client.reader.readexactly(exchange.length)

    # --- the service behind

    async def forward(self, exchange, matched):
        service = exchange.route.service
        addresses = service.addresses()
        if not addresses:
            raise Denied(503, "failure to get a peer from the ring-balancer")
        exchange.path = exchange.route.upstream_path(exchange.path, matched)
        small = b""
        streamed = exchange.length == -1 or (exchange.length or 0) > SMALL_BODY
        if exchange.head.get(b"expect").lower() == b"100-continue" and not exchange.body_read:
            exchange.client.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if not exchange.body_read and not streamed:
            small = await exchange.client.reader.readexactly(exchange.length)
            exchange.body_read = True
        may_repeat = not streamed and exchange.method in IDEMPOTENT
        timed_out = False
        for attempt in range(service.retries + 1):
            host, port, authority = addresses[attempt % len(addresses)]
            try:
                link = await self.link(service, host, port, may_repeat)
            except socket.gaierror:
                raise Denied(503, "name resolution failed") from None
            except TimeoutError:
                timed_out = True
                continue
            except OSError:
                timed_out = False
                continue
            try:
                await self.converse(exchange, service, link, authority, small, streamed)
                return
            except Stale:
                # Nothing of an answer has come: a fresh connection is the same as the first.
                self.forget(host, port, service.tls)
        if timed_out:
            raise Trouble(504, "The upstream server is timing out")
        raise Trouble(502, "An invalid response was received from the upstream server")

    def forget(self, host, port, tls):
        """When one kept connection was closed, its contemporaries are suspect."""
        kept = self.pool[(host, port, tls)]
        while kept:
            kept.pop()[1].close()

    async def link(self, service, host, port, may_repeat):
        """A connection to a service: (reader, writer, key, reused)."""
        key = (host, port, service.tls)
        kept = self.pool[key]
        now = time.monotonic()
        # Where a second try is not allowed, no first one on a connection that may be closing.
        while kept and may_repeat:
            reader, writer, since = kept.pop()
            if writer.is_closing() or reader.at_eof() or reader.waiting or now - since > UPSTREAM_IDLE:
                writer.close()
                continue
            return reader, writer, key, True
        loop = asyncio.get_running_loop()
        reader = Fed(limit=http1.MAX_HEAD)
        protocol = asyncio.StreamReaderProtocol(reader)
        async with asyncio.timeout(service.connect_timeout):
            transport, _ = await loop.create_connection(lambda: protocol, host, port,
                                                        ssl=self.tls_out if service.tls else None)
        transport.get_extra_info("socket").setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return reader, asyncio.StreamWriter(transport, protocol, reader, loop), key, False

    def keep(self, link):
        reader, writer, key, _ = link
        kept = self.pool[key]
        if len(kept) >= POOL_SIZE or self.closing:
            writer.close()
            return
        reader.waiting = False
        kept.append((reader, writer, time.monotonic()))

    def request_head(self, exchange, authority):
        client, head, version = exchange.client, exchange.head, self.version
        target = exchange.path + ("?" + exchange.query if exchange.query else "")
        host = head.get(b"host").decode("latin-1")
        lines = [f"{exchange.method.decode()} {target} HTTP/1.1",
                 "Host: " + (host if exchange.route.preserve_host else authority)]
        if exchange.upgrade:
            lines += ["Connection: upgrade", "Upgrade: " + exchange.upgrade.decode("latin-1")]
        else:
            lines.append("Connection: keep-alive")
        if version.has(3, 8):
            before = head.get(b"via").decode("latin-1")
            lines.append("Via: " + (before + ", " if before else "") + version.via)
        forwarded = head.get(b"x-forwarded-for").decode("latin-1")
        bare, _, _ = host.partition(":")
        matched_path = exchange.target.decode("latin-1").partition("?")[0]
        lines += ["X-Forwarded-For: " + (forwarded + ", " if forwarded else "") + client.address,
                  "X-Forwarded-Proto: " + client.scheme, "X-Forwarded-Host: " + bare, f"X-Forwarded-Port: {client.port}",
                  "X-Forwarded-Path: " + matched_path]
        if exchange.route.strip and exchange.route.prefixes:
            lines.append("X-Forwarded-Prefix: " + next((p for p in exchange.route.prefixes if matched_path.startswith(p)), ""))
        lines.append("X-Real-IP: " + client.address)
        if exchange.request_id:
            lines.append("X-Kong-Request-Id: " + exchange.request_id)
        replaced = {name.lower() for name, _ in exchange.upstream_headers}
        named = {token.strip() for token in head.get(b"connection").lower().split(b",")}
        for name, value in head.fields:
            low = name.lower()
            if low not in REWRITTEN and low.decode("latin-1") not in replaced and low not in named:
                lines.append(name.decode("latin-1") + ": " + value.decode("latin-1"))
        lines += [f"{name}: {value}" for name, value in exchange.upstream_headers if value is not None]
        if exchange.length == -1:
            lines.append("Transfer-Encoding: chunked")
        elif exchange.length is not None:
            lines.append(f"Content-Length: {exchange.length}")
        return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")

    async def upload(self, exchange, writer):
        """Passes on a body too large to hold."""
        async for piece in http1.body(exchange.client.reader, exchange.length):
            writer.write(http1.frame(piece) if exchange.length == -1 else piece)
            await writer.drain()
        if exchange.length == -1:
            writer.write(b"0\r\n\r\n")
            await writer.drain()
        exchange.body_read = True

    async def converse(self, exchange, service, link, authority, small, streamed):
        """Request out, answer back. Once the answer has begun an error cuts the client off: never a short answer."""
        reader, writer, _, reused = link
        sending = None
        begun = False
        asked = time.monotonic()
        try:
            writer.write(self.request_head(exchange, authority) + small)
            if streamed:
                sending = asyncio.create_task(self.upload(exchange, writer))
            head = await self.response_head(reader, service, reused)
            begun = True
            if head.start[1] == b"101":
                await self.tunnel(exchange, head, reader, writer)
                return
            await self.relay(exchange, head, link, asked, sending)
            link = None
        except TimeoutError:
            if begun:
                raise
            raise Trouble(504, "The upstream server is timing out") from None
        except (OSError, asyncio.IncompleteReadError, http1.BadMessage, asyncio.LimitOverrunError) as error:
            if begun:
                raise ConnectionAbortedError from error
            if streamed and not exchange.body_read:
                exchange.keep, exchange.body_read = False, True
            raise Trouble(502, "An invalid response was received from the upstream server") from None
        finally:
            if sending:
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
            if link:
                writer.close()

    async def response_head(self, reader, service, reused):
        async with asyncio.timeout(service.read_timeout):
            while True:
                try:
                    raw = await reader.readuntil(b"\r\n\r\n")
                except asyncio.IncompleteReadError as error:
                    if reused and not error.partial:
                        raise Stale from None
                    raise
                except ConnectionError:
                    if reused and not reader.waiting:
                        raise Stale from None
                    raise
                head = http1.Head(raw)
                status = head.start[1]
                if len(status) != 3 or not status.isdigit():
                    raise http1.BadMessage("status")
                if not status.startswith(b"1") or status == b"101":
                    return head

    def response_lines(self, exchange, head, asked):
        """Status line and headers for the client, framing left out."""
        reason = b" ".join(head.start[1:])
        lines = [b"HTTP/1.1 " + reason]
        named = {token.strip() for token in head.get(b"connection").lower().split(b",")}
        for name, value in head.fields:
            low = name.lower()
            if low not in HOP_BY_HOP and low not in named and not (low == b"via" and self.show_via):
                lines.append(name + b": " + value)
        now = time.monotonic()
        extra = list(exchange.response_headers)
        if self.show_server and b"server" not in head.index and self.version.has(3, 8):
            extra.append(("Server", self.version.server))
        if self.show_latency:
            extra += [("X-Kong-Upstream-Latency", int((now - asked) * 1000)),
                      ("X-Kong-Proxy-Latency", int((asked - exchange.started) * 1000))]
        if self.show_via:
            before = head.get(b"via").decode("latin-1") if self.version.has(3, 8) else ""
            extra.append(("Via", (before + ", " if before else "") + self.version.via))
        if self.show_id:
            extra.append(("X-Kong-Request-Id", exchange.request_id))
        lines += [f"{name}: {value}".encode("latin-1") for name, value in extra]
        return lines

    async def relay(self, exchange, head, link, asked, sending):
        """The answer, piece by piece, in the framing the client understands."""
        reader, writer, _, _ = link
        client = exchange.client.writer
        length = head.length()
        if exchange.method == b"HEAD" or head.start[1] in (b"204", b"304"):
            bodyless, length = length, 0
        else:
            bodyless = None
        lines = self.response_lines(exchange, head, asked)
        reusable = b"close" not in head.get(b"connection").lower() and head.start[0] == b"HTTP/1.1" and length is not None
        chunked = length in (None, -1) and exchange.http11
        if length in (None, -1) and not exchange.http11:
            exchange.keep = False
        if sending and not sending.done():
            # The service answers before it has the whole body; what is left of it cannot be told from a next request.
            exchange.keep = False
            reusable = False
        shown = bodyless if length == 0 and bodyless is not None else length
        if chunked:
            lines.append(b"Transfer-Encoding: chunked")
        elif shown not in (None, -1) and not (bodyless is None and head.start[1] in (b"204", b"304")):
            lines.append(b"Content-Length: %d" % shown)
        lines.append(b"Connection: " + (b"keep-alive" if exchange.keep else b"close"))
        start = b"\r\n".join(lines) + b"\r\n\r\n"
        if length is not None and 0 <= length <= SMALL_BODY:
            async with asyncio.timeout(exchange.route.service.read_timeout):
                rest = await reader.readexactly(length) if length else b""
            client.write(start + rest)
        else:
            client.write(start)
            await self.relay_body(exchange, reader, length, chunked)
        await client.drain()
        if reusable and (sending is None or sending.done() and not sending.exception()):
            self.keep(link)
        else:
            writer.close()

    async def relay_body(self, exchange, reader, length, chunked):
        client = exchange.client.writer
        pieces = http1.body(reader, length)
        while True:
            async with asyncio.timeout(exchange.route.service.read_timeout):
                piece = await anext(pieces, None)
            if piece is None:
                break
            client.write(http1.frame(piece) if chunked else piece)
            await client.drain()
        if chunked:
            client.write(b"0\r\n\r\n")

    async def tunnel(self, exchange, head, reader, writer):
        """After 101 both ends talk freely."""
        client = exchange.client
        exchange.keep = False
        lines = [b"HTTP/1.1 101 Switching Protocols"]
        lines += [name + b": " + value for name, value in head.fields]
        client.writer.write(b"\r\n".join(lines) + b"\r\n\r\n")

        async def copy(source, sink):
            while piece := await source.read(http1.CHUNK):
                sink.write(piece)
                await sink.drain()

        tasks = [asyncio.create_task(copy(client.reader, writer)), asyncio.create_task(copy(reader, client.writer))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
