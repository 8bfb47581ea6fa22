"""HTTP/1.1 POSTs to peers over kept connections: for a node that asks its peers many times a second.

The registry and each voter speak ten times a second for ever, so what one request costs is what an idle daemon costs.
A general client spends more than a millisecond of Python on each; this one writes a head and a body in one piece and
lets llhttp (through httptools) read the answer.

A kept connection may have been closed by the peer in the very moment when it is used again. A request that finds it so,
with not one byte of an answer there, is sent again on another: what travels between peers bears being repeated.
"""

from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httptools
import trio

from zoned.errors import PeerUnreachable

HEAD_BYTES_MAX = 16 * 1024
READ_BYTES = 64 * 1024
IDLE_MAX = 64  # connections kept, of all peers together
IDLE_S = 60.0  # below what the peers' server grants, so that few are found closed

Address = tuple[str, int]
Connect = Callable[[Address], Awaitable[trio.abc.Stream]]


@dataclass(frozen=True, slots=True)
class Answer:
    """Status and body, as they came: nothing is decompressed."""

    status: int
    body: bytes


@dataclass(slots=True)
class _Kept:
    """A connection between requests."""

    address: Address
    stream: trio.abc.Stream
    since: float


async def connect_tcp(address: Address) -> trio.abc.Stream:
    """A TCP connection; every address behind a name is tried. Raises OSError."""
    return await trio.open_tcp_stream(*address)


class Poster:
    """Sends requests. `connect` opens a connection to an address, raising OSError; `answer_bytes_max` bounds a body."""

    def __init__(self, answer_bytes_max: int, connect: Connect = connect_tcp) -> None:
        self._answer_bytes_max = answer_bytes_max
        self._connect = connect
        self._kept: deque[_Kept] = deque()  # the one used last at the right

    async def post(self, address: Address, path: str, headers: bytes, body: bytes) -> Answer:
        """`headers` are whole lines. Raises PeerUnreachable (outcome unknown); the caller bounds the time."""
        host, port = address
        name = f"[{host}]" if ":" in host else host
        head = f"POST {path} HTTP/1.1\r\nhost: {name}:{port}\r\ncontent-length: {len(body)}\r\n".encode()
        request = b"".join((head, headers, b"\r\n", body))
        while (stream := self._take(address)) is not None:
            answer = await self._ask(address, stream, request, is_fresh=False)
            if answer is not None:
                return answer
        try:
            stream = await self._connect(address)
        except (OSError, UnicodeError) as error:
            # Addresses come from gossip: an unusable one is a peer that cannot be reached, and nothing more.
            raise PeerUnreachable(f"{name}:{port}: {error}") from None
        answer = await self._ask(address, stream, request, is_fresh=True)
        assert answer is not None
        return answer

    async def aclose(self) -> None:
        """Closes what is kept."""
        while self._kept:
            await trio.aclose_forcefully(self._kept.popleft().stream)

    def _take(self, address: Address) -> trio.abc.Stream | None:
        for kept in reversed(self._kept):
            if kept.address == address:
                self._kept.remove(kept)
                return kept.stream
        return None

    async def _keep(self, address: Address, stream: trio.abc.Stream) -> None:
        now = trio.current_time()
        self._kept.append(_Kept(address, stream, now))
        while len(self._kept) > IDLE_MAX or self._kept[0].since + IDLE_S < now:
            await trio.aclose_forcefully(self._kept.popleft().stream)

    async def _ask(self, address: Address, stream: trio.abc.Stream, request: bytes, *, is_fresh: bool) -> Answer | None:
        """The answer; None when a connection that is not fresh turns out to have been closed."""
        reader = _Reader(self._answer_bytes_max)
        try:
            await stream.send_all(request)
            while not reader.is_complete:
                reader.feed(bytes(await stream.receive_some(READ_BYTES)))
        except (trio.BrokenResourceError, httptools.HttpParserError) as error:
            if not is_fresh and not reader.size:
                return None
            reason = error.__cause__ or error
            raise PeerUnreachable(f"{address[0]}:{address[1]}: {reason}") from None
        finally:
            if reader.keeps_alive:
                await self._keep(address, stream)
            else:
                await trio.aclose_forcefully(stream)
        return Answer(reader.status, b"".join(reader.pieces))


class _Reader:
    """One answer, fed as it comes. `on_...` are httptools' names."""

    def __init__(self, bytes_max: int) -> None:
        self._bytes_max = bytes_max
        self._parser = httptools.HttpResponseParser(self)
        self.size = 0  # of all that came
        self.status = 0
        self.is_complete = False
        self.keeps_alive = False
        self.pieces: list[bytes] = []

    def feed(self, data: bytes) -> None:
        """Raises BrokenResourceError when the connection ended too early, PeerUnreachable at more than is allowed."""
        if not data:
            raise trio.BrokenResourceError("closed before the whole answer")
        self.size += len(data)
        self._parser.feed_data(data)
        if self.size > self._bytes_max + HEAD_BYTES_MAX:
            self.keeps_alive = False
            raise PeerUnreachable(f"the answer is longer than {self._bytes_max} bytes")

    def on_body(self, data: bytes) -> None:
        self.pieces.append(data)

    def on_message_complete(self) -> None:
        # What follows was not asked for, and nobody knows what it is: the connection ends with it.
        self.keeps_alive = not self.is_complete and bool(self._parser.should_keep_alive())
        self.status = self._parser.get_status_code()
        self.is_complete = True
