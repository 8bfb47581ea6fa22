"""Requests handed on to the daemon: an ASGI application in a worker, and its counterpart in the daemon.

HTTP/1.1 over a Unix socket that only this user's processes may use, connections kept and used again. The daemon must
know who the client really is, so its address travels in two headers that a worker sets and a client cannot: what comes
under their names from outside is dropped. Bodies stream both ways, with the back-pressure of both connections.
"""

import errno
import os

import trio

from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.exchange import READ_BYTES, ClientGone
from zoned.api.http1 import OWN, Body, ChunkedBody, Headers, HttpLimits, LengthBody, problem

CLIENT, SERVER = b"zoned-client", b"zoned-server"
# What belongs to one connection, and what a worker alone may say.
NOT_HANDED_ON = frozenset((b"connection", b"keep-alive", b"expect", b"te", b"trailer", b"upgrade", CLIENT, SERVER))
ENDLESS = HttpLimits(body_bytes_max=1 << 62)  # an answer may be a stream without end
IDLE_MAX = 256  # connections to the daemon kept while they are not used


class DaemonGone(OSError):
    """The daemon closed the connection. What it did with the request is not known."""

    def __init__(self) -> None:
        super().__init__(errno.ECONNRESET, "the daemon closed the connection")


class Upstream:
    """One connection to the daemon. Its methods raise DaemonGone."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self._stream = stream
        self.buffer = bytearray()

    async def send(self, data: bytes) -> None:
        try:
            await self._stream.send_all(data)
        except trio.BrokenResourceError:
            raise DaemonGone from None

    async def fill(self) -> None:
        try:
            data = await self._stream.receive_some(READ_BYTES)
        except trio.BrokenResourceError:
            data = b""
        if not data:
            raise DaemonGone
        self.buffer += data

    async def take_head(self) -> tuple[int, Headers]:
        while (end := self.buffer.find(b"\r\n\r\n")) < 0:
            await self.fill()
        first, *lines = bytes(self.buffer[:end]).split(b"\r\n")
        del self.buffer[: end + 4]
        return int(first[9:12]), [(name, value) for name, _, value in (line.partition(b": ") for line in lines)]

    def close(self) -> None:
        """At once and without a word: the daemon ends what it does for it."""
        self._stream.socket.close()


class Forward:
    """The worker's ASGI application: every request is the daemon's."""

    def __init__(self, daemon: bytes) -> None:
        self._daemon = daemon
        self._idle: list[Upstream] = []

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            upstream = self._idle.pop() if self._idle else await self._connect()
        except OSError:
            await _unavailable(send)
            return
        passage = Passage(upstream, scope, receive, send)
        try:
            await passage.run()
        finally:
            if passage.reusable and len(self._idle) < IDLE_MAX:
                self._idle.append(upstream)
            else:
                upstream.close()
        if passage.lost and not passage.answering:
            await _unavailable(send)
        elif passage.lost:
            raise DaemonGone  # the half-sent answer is cut, so that it looks cut

    def close(self) -> None:
        """Close the connections that are not used."""
        while self._idle:
            self._idle.pop().close()

    async def _connect(self) -> Upstream:
        connected = trio.socket.socket(trio.socket.AF_UNIX, trio.socket.SOCK_STREAM)
        try:
            await connected.connect(self._daemon)
        except BaseException:
            connected.close()
            raise
        return Upstream(trio.SocketStream(connected))


async def _unavailable(send: Send) -> None:
    status, headers, body = problem(503, "restarting", "the daemon is starting or stopping", [(b"retry-after", b"1")])
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


class Passage:
    """One request and its answer, on their way between client and daemon."""

    def __init__(self, upstream: Upstream, scope: Scope, receive: Receive, send: Send) -> None:
        self.answering = False
        self.lost = False  # the daemon ended first
        self._upstream = upstream
        self._scope = scope
        self._receive = receive
        self._send = send
        self._asked = self._answered = False  # all of it has passed
        self._chunked = any(name == b"transfer-encoding" for name, _ in scope["headers"])

    @property
    def reusable(self) -> bool:
        return self._asked and self._answered

    async def run(self) -> None:
        """Returns when the answer has passed, or either side is gone."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask, nursery.cancel_scope)
            try:
                await self._answer()
            except DaemonGone:
                self.lost = True
            except ClientGone:
                pass  # recorded by the server
            nursery.cancel_scope.cancel()

    async def _ask(self, passage: trio.CancelScope) -> None:
        """Hand the request on; then wait for the client, whose end is the end of all."""
        try:
            data, more = request_head(self._scope), True
            while more:
                message = await self._receive()
                if message["type"] == "http.disconnect":
                    break
                more = message["more_body"]
                data += self._piece(message["body"], more)
                await self._upstream.send(data)
                data = b""
            else:
                self._asked = True
                await self._receive()
        except DaemonGone:
            return  # perhaps it refused the body, and the refusal is being read
        passage.cancel()

    def _piece(self, body: bytes, more: bool) -> bytes:
        if not self._chunked:
            return body
        return (b"%x\r\n%b\r\n" % (len(body), body) if body else b"") + (b"" if more else b"0\r\n\r\n")

    async def _answer(self) -> None:
        upstream = self._upstream
        status, headers = await upstream.take_head()
        self.answering = True
        body = body_of_answer(self._scope["method"], status, headers)
        kept = [(name, value) for name, value in headers if name not in OWN or name == b"content-length"]
        await self._send({"type": "http.response.start", "status": status, "headers": kept})
        piece = body.take(upstream.buffer)
        while not body.done:
            if piece:
                await self._send({"type": "http.response.body", "body": piece, "more_body": True})
            else:
                await upstream.fill()
            piece = body.take(upstream.buffer)
        self._answered = (b"connection", b"close") not in headers
        await self._send({"type": "http.response.body", "body": piece})


def request_head(scope: Scope) -> bytes:
    """The request as the daemon gets it: HTTP/1.1, with the client's address."""
    query, headers = scope["query_string"], scope["headers"]
    target = scope["raw_path"] + (b"?" + query if query else b"")
    lines = [b"%b %b HTTP/1.1" % (scope["method"].encode(), target)]
    lines += [b"%b: %b" % header for header in headers if header[0] not in NOT_HANDED_ON]
    if not any(name == b"host" for name, _ in headers):
        lines.append(b"host: zoned")  # HTTP/1.0 may leave it out
    for name, address in ((CLIENT, scope["client"]), (SERVER, scope["server"])):
        if address is not None:
            lines.append(b"%b: %b %d" % (name, address[0].encode(), address[1]))
    return b"\r\n".join(lines) + b"\r\n\r\n"


def body_of_answer(method: str, status: int, headers: Headers) -> Body:
    """What follows the head of an answer of our own server (RFC 9112, 6.3)."""
    if method == "HEAD" or status in (204, 304):
        return LengthBody(0)
    lengths = [int(value) for name, value in headers if name == b"content-length"]
    return LengthBody(lengths[0]) if lengths else ChunkedBody(ENDLESS)


def from_workers(app: App) -> App:
    """The daemon's side: believes a worker, and nobody else, who the client is."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        known = scope["extensions"]["zoned"]
        if known["peer"] is None or known["peer"].uid != os.getuid():
            status, headers, body = problem(403, "forbidden", "this socket is for the daemon's own workers")
            await send({"type": "http.response.start", "status": status, "headers": headers})
            await send({"type": "http.response.body", "body": body})
            return
        told = {name: value for name, value in scope["headers"] if name in (CLIENT, SERVER)}
        handed_on = {
            **scope,
            "headers": [header for header in scope["headers"] if header[0] not in told],
            "client": _address(told.get(CLIENT)),
            "server": _address(told.get(SERVER)),
            "extensions": {**scope["extensions"], "zoned": {**known, "peer": None}},
        }
        await app(handed_on, receive, send)

    return wrapped


def _address(told: bytes | None) -> tuple[str, int] | None:
    if told is None:
        return None
    host, _, port = told.decode("latin-1").rpartition(" ")
    return host, int(port)
