"""HTTP/1.1 messages on asyncio streams: heads and bodies, no more."""

MAX_HEAD = 64 * 1024
CHUNK = 64 * 1024


class BadMessage(Exception):
    """A message that is not HTTP/1.x."""


class Head:
    """Start line and headers. Names as sent; `get` takes lower case and gives the last value."""

    __slots__ = ("start", "fields", "index")

    def __init__(self, raw):
        lines = raw[:-4].split(b"\r\n")
        self.start = lines[0].split(b" ", 2)
        if len(self.start) < 3 and not (len(self.start) == 2 and self.start[0].startswith(b"HTTP/")):
            raise BadMessage("start line")
        self.fields, self.index = [], {}
        for line in lines[1:]:
            name, colon, value = line.partition(b":")
            if not colon or not name or name != name.strip():
                raise BadMessage("header line")
            value = value.strip()
            self.fields.append((name, value))
            self.index[name.lower()] = value

    def get(self, name, default=b""):
        return self.index.get(name, default)

    def all(self, name):
        return [value for key, value in self.fields if key.lower() == name]

    def length(self):
        """Content-Length, -1 when chunked, None when there is neither."""
        coding = self.get(b"transfer-encoding").lower()
        if coding:
            if coding != b"chunked":
                raise BadMessage("transfer coding")
            return -1
        text = self.get(b"content-length", None)
        if text is None:
            return None
        if not text.isdigit() or len(set(self.all(b"content-length"))) > 1:
            raise BadMessage("content length")
        return int(text)


async def chunks(reader):
    """The payload of a chunked body, piece by piece, trailers dropped."""
    while True:
        line = await reader.readuntil(b"\r\n")
        try:
            size = int(line.split(b";")[0].strip(), 16)
        except ValueError:
            raise BadMessage("chunk size") from None
        if size < 0:
            raise BadMessage("chunk size")
        if size == 0:
            while await reader.readuntil(b"\r\n") != b"\r\n":
                pass
            return
        while size:
            piece = await reader.read(min(size, CHUNK))
            if not piece:
                raise EOFError
            size -= len(piece)
            yield piece
        if await reader.readexactly(2) != b"\r\n":
            raise BadMessage("chunk end")


async def exactly(reader, size):
    """A body of known length, piece by piece."""
    while size:
        piece = await reader.read(min(size, CHUNK))
        if not piece:
            raise EOFError
        size -= len(piece)
        yield piece


async def until_end(reader):
    """A body that ends with the connection."""
    while True:
        piece = await reader.read(CHUNK)
        if not piece:
            return
        yield piece


def body(reader, length):
    """The pieces of a body whose length() is given."""
    if length == -1:
        return chunks(reader)
    return exactly(reader, length) if length is not None else until_end(reader)


def frame(piece):
    """One chunk of a chunked body."""
    return b"%x\r\n%b\r\n" % (len(piece), piece)
