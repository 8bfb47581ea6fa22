"""One request and its answer between ASGI and a connection.

Intuition: `receive` and `send` run in the application's task and use the connection directly; nothing is queued between
them. The head of an answer waits for the first piece of its body, so that a small answer leaves in one packet and its
length is known without the application saying it. What the application does wrong raises `AnswerFault` in its own
`send`; what the client does wrong is kept in `refused` and said by the server when the application has returned.

Source: the ASGI specification, HTTP part, version 2.4.
"""

import errno
import math
import socket
import struct
from collections.abc import Awaitable, Callable, MutableMapping, Sequence
from typing import Any, NamedTuple, Protocol
from urllib.parse import unquote

import trio

from zoned.api.http1 import AnswerFault, AnswerHead, Body, Framing, HttpLimits, Refused, Request, answer_head, body_of

Message = MutableMapping[str, Any]  # ASGI's own name for it; its values are of many types by design
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]

READ_BYTES = 64 * 1024  # at most so much is read at once, and held for later requests while one is answered
# A rest of a body that nobody read is read away up to this size; above, a new connection is cheaper than the rest.
DRAIN_BYTES = 64 * 1024


class ClientGone(OSError):
    """The client closed or stopped reading. ASGI (spec 2.4) wants an OSError from send(). The connection is closed."""


class PeerCredentials(NamedTuple):
    """Who is at the other end of a Unix socket, by the kernel's word (SO_PEERCRED)."""

    pid: int
    uid: int
    gid: int


class Connection(Protocol):
    """What an exchange needs of the connection that carries it."""

    buffer: bytearray
    ended: bool  # the client sends no more
    gone: bool  # and takes no more
    client: tuple[str, int] | None
    server_address: tuple[str, int | None] | None
    peer: PeerCredentials | None
    node: str  # whom the client's certificate names; "" without one

    @property
    def draining(self) -> bool: ...  # no request follows this one
    def common_lines(self) -> bytes: ...
    def fill_now(self) -> bool: ...
    async def fill(self, due: float) -> bool: ...
    def queue(self, pieces: Sequence[bytes]) -> None: ...
    async def flush(self) -> None: ...
    def linger(self) -> None: ...


class Exchange:
    """One request and its answer, as ASGI sees them."""

    __slots__ = (
        "_connection",
        "_continue_due",
        "_left_s",
        "_listening",
        "_request",
        "_start",
        "_told",
        "body",
        "complete",
        "head",
        "refused",
        "request_id",
        "sent_bytes",
        "told_gone",
    )

    def __init__(self, connection: Connection, request: Request, limits: HttpLimits, request_id: str) -> None:
        self._connection = connection
        self._request = request
        self._continue_due = request.expects_continue
        self._left_s = limits.body_timeout_s
        self._listening: trio.CancelScope | None = None
        self._start: Message | None = None  # kept until the first piece of body, to leave with it
        self._told = False  # the whole request body has been handed over
        self.body: Body = body_of(request, limits)
        self.complete = False
        self.head: AnswerHead | None = None  # once (part of) the answer was sent
        self.refused: Refused | None = None  # the body's framing or size
        self.request_id = request_id
        self.sent_bytes = 0  # of body
        self.told_gone = False  # the application knows that the client ended, so it owes no answer

    def scope(self) -> Scope:
        request, connection = self._request, self._connection
        raw_path, _, query = request.target.partition(b"?")
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.4"},
            "http_version": "1.1" if request.http11 else "1.0",
            "method": request.method.decode(),
            "scheme": "http",
            "path": _decode_path(raw_path),
            "raw_path": raw_path,
            "query_string": query,
            "root_path": "",
            "headers": request.headers,
            "client": connection.client,
            "server": connection.server_address,
            "extensions": {"zoned": {"request_id": self.request_id, "peer": connection.peer, "node": connection.node}},
        }

    def deserted(self) -> bool:
        """There is nobody to answer any more."""
        return self._connection.gone or self.told_gone

    @property
    def status(self) -> int:
        return self.head.status if self.head is not None else 0

    @property
    def headers(self) -> Sequence[tuple[bytes, bytes]]:
        """As the application gave them."""
        return self._start.get("headers", ()) if self._start is not None else ()

    def close(self) -> None:
        """The application has returned: tasks that it left in receive() are told so."""
        self.complete = self.complete and not self._connection.gone
        if self._listening is not None:
            self._listening.cancel()

    async def receive(self) -> Message:
        if not self._told and self.refused is None:
            try:
                data = await self._next_piece()
            except Refused as refused:
                # ASGI has no word for "the body is bad"; the application is told that the client is gone, which every
                # application must bear, and what it then says is replaced by the refusal.
                self.refused = refused
                return {"type": "http.disconnect"}
            if data is not None:
                self._told = self.body.done
                return {"type": "http.request", "body": data, "more_body": not self.body.done}
        else:
            await self._until_over()
        self.told_gone = not self.complete and self.refused is None
        return {"type": "http.disconnect"}

    async def _next_piece(self) -> bytes | None:
        """Some of the body; b"" only at its end; None if the client ended before it."""
        body, connection = self.body, self._connection
        data = body.take(connection.buffer)
        while not data and not body.done:
            if self._continue_due:
                self._continue_due = False
                connection.queue((b"HTTP/1.1 100 Continue\r\n\r\n",))
                await connection.flush()
            began = trio.current_time()
            # The time is for waiting only, all waits of one body together: neither a slow application nor one byte a
            # minute can stretch it.
            if not await connection.fill(began + self._left_s):
                return None
            self._left_s -= trio.current_time() - began
            data = body.take(connection.buffer)
        return data

    async def _until_over(self) -> None:
        """Return when the client ends or the answer is complete."""
        connection = self._connection
        if self.complete or self.refused is not None or connection.ended:
            return
        # Looked at before any wait, because some applications call receive() in a scope that is cancelled already.
        if len(connection.buffer) < READ_BYTES and not connection.fill_now():
            return
        with trio.CancelScope() as self._listening:
            while len(connection.buffer) < READ_BYTES:
                if not await connection.fill(math.inf):
                    return
            # The client sends ahead more than we want to hold; its end will show when its next request is read.
            await trio.sleep_forever()

    async def send(self, message: Message) -> None:
        if self._connection.gone or (self.refused is not None and self.head is not None):
            raise ClientGone(errno.EPIPE, "the client is gone")
        if self.refused is not None:
            return
        kind = message["type"]
        if kind == "http.response.start" and self._start is None:
            self._start = message
        elif kind == "http.response.body" and self._start is not None and not self.complete:
            await self._send_body(self._start, message.get("body", b""), message.get("more_body", False))
        else:
            raise AnswerFault(f"{kind} is out of turn")

    async def _send_body(self, start: Message, body: bytes, more: bool) -> None:
        pieces: list[bytes] = []
        head = self.head
        if head is None:
            keep_alive = self._request.keep_alive and not self._connection.draining and self._rest_is_small()
            headers = start.get("headers", ())
            whole_bytes = None if more else len(body)
            common = self._connection.common_lines()
            head = answer_head(start["status"], headers, common, self._request, keep_alive, whole_bytes)
            pieces.append(head.data)
        if head.framing is not Framing.NONE:
            sent_bytes = self.sent_bytes + len(body)
            if head.body_bytes is not None and (
                sent_bytes > head.body_bytes or (not more and sent_bytes < head.body_bytes)
            ):
                raise AnswerFault("the body is not as long as Content-Length says")
            self.sent_bytes = sent_bytes
            if head.framing is not Framing.CHUNKED:
                pieces.append(body)
            elif body:
                pieces.append(b"%x\r\n%b\r\n" % (len(body), body))
            if head.framing is Framing.CHUNKED and not more:
                pieces.append(b"0\r\n\r\n")
        self.head = head
        self._connection.queue(pieces)
        await self._connection.flush()
        if not more:
            self.complete = True
            if self._listening is not None:
                self._listening.cancel()

    def _rest_is_small(self) -> bool:
        """Whether what the application left unread of the body can be read away, so that the connection may go on."""
        left_bytes = self.body.left_bytes
        return not self._continue_due and left_bytes is not None and left_bytes <= DRAIN_BYTES

    async def finish_body(self) -> bool:
        """Bring the input to the start of the next request, if that is cheap. False: the connection must end."""
        connection = self._connection
        if self.head is None or not self.head.keep_alive:
            if not self.body.done:
                connection.linger()
            return False
        due = trio.current_time() + self._left_s
        while not self.body.done:
            self.body.take(connection.buffer)
            if not self.body.done and not await connection.fill(due):
                return False
        return True


def path_of(request: Request) -> str:
    return _decode_path(request.target.partition(b"?")[0])


def _decode_path(raw_path: bytes) -> str:
    path = raw_path.decode("ascii")  # parse_head lets nothing else through
    return unquote(path) if "%" in path else path


def addresses_of(
    sock: socket.socket,
) -> tuple[tuple[str, int] | None, tuple[str, int | None] | None, PeerCredentials | None]:
    """Client and server address as ASGI writes them, and who the client is if the kernel knows."""
    try:
        here = sock.getsockname()
        if sock.family == socket.AF_UNIX:
            credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
            return None, (str(here), None), PeerCredentials(*struct.unpack("3i", credentials))
        there = sock.getpeername()
    except OSError:
        return None, None, None  # already gone again; the first read will tell
    return (there[0], there[1]), (here[0], here[1]), None
