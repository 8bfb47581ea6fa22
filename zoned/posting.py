"""HTTP/1.1 POSTs to peers over kept connections: for a node that asks its peers many times a second.

The registry and each voter speak ten times a second for ever, so what one request costs is what an idle daemon costs.
A general client spends more than a millisecond of Python on each; this one writes a head and a body in one piece and
lets llhttp (through httptools) read the answer.

A kept connection may have been closed by the peer in the very moment when it is used again. A request that finds it so,
with not one byte of an answer there, is sent again on another: what travels between peers bears being repeated.
"""

import math
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import httptools
import trio

HEAD_BYTES_MAX = 16 * 1024
READ_BYTES = 64 * 1024
IDLE_MAX = 64  # connections kept, of all peers together
IDLE_S = 60.0  # below what the peers' server grants, so that few are found closed

Address = tuple[str, int]
Target = tuple[Address, str, int]  # the last: of which generation what is believed of the other side is
Connect = Callable[[Address, str], Awaitable[trio.abc.Stream]]


class PostFailed(OSError):
    """No whole answer came. Whether the peer acted on the request is unknown."""


@dataclass(slots=True)
class _Kept:
    """A connection between requests."""

    target: Target
    stream: trio.abc.Stream
    since: float


async def connect_tcp(address: Address, name: str) -> trio.abc.Stream:
    """A TCP connection; every address behind a host's name is tried. Raises OSError."""
    return await trio.open_tcp_stream(*address)


class Poster:
    """Sends requests. `connect` opens a connection to an address for a host of that name, raising OSError."""

    def __init__(self, connect: Connect = connect_tcp, generation: Callable[[], int] = lambda: 0) -> None:
        """A connection is used again only while `generation` is what it was when it was made."""
        self._connect = connect
        self._generation = generation
        self._kept: deque[_Kept] = deque()  # the one used last at the right

    async def post(
        self,
        address: Address,
        path: str,
        headers: bytes,
        body: bytes,
        bytes_max: int,
        *,
        name: str = "",
        connect_s: float = math.inf,
    ) -> tuple[int, bytes]:
        """Status and body as they came; nothing is decompressed. `headers` are whole lines, `bytes_max` bounds the
        answer, `name` is the host that is meant, `address` its place. The caller bounds the time. Raises OSError.
        """
        name = name or address[0]
        target = (address, name, self._generation())
        shown = f"[{name}]" if ":" in name else name
        head = f"POST {path} HTTP/1.1\r\nhost: {shown}:{address[1]}\r\ncontent-length: {len(body)}\r\n".encode()
        request = b"".join((head, headers, b"\r\n", body))
        while (stream := self._take(target)) is not None:
            answer = await self._ask(target, stream, request, bytes_max, is_fresh=False)
            if answer is not None:
                return answer
        stream = None
        with trio.move_on_after(connect_s):
            try:
                stream = await self._connect(address, name)
            except UnicodeError:  # of a host's name that is none
                raise PostFailed(f"{shown} is no name of a host") from None
        if stream is None:
            raise PostFailed(f"{shown}:{address[1]}: no connection within {connect_s:g} s")
        answer = await self._ask(target, stream, request, bytes_max, is_fresh=True)
        assert answer is not None
        return answer

    async def aclose(self) -> None:
        """Closes what is kept."""
        while self._kept:
            await trio.aclose_forcefully(self._kept.popleft().stream)

    def _take(self, target: Target) -> trio.abc.Stream | None:
        for kept in reversed(self._kept):
            if kept.target == target:
                self._kept.remove(kept)
                return kept.stream
        return None

    async def _keep(self, target: Target, stream: trio.abc.Stream) -> None:
        now, current = trio.current_time(), self._generation()
        whole = [*self._kept, _Kept(target, stream, now)]
        self._kept = deque(one for one in whole if one.target[2] == current)
        for one in whole:
            if one.target[2] != current:
                await trio.aclose_forcefully(one.stream)
        while len(self._kept) > IDLE_MAX or (self._kept and self._kept[0].since + IDLE_S < now):
            await trio.aclose_forcefully(self._kept.popleft().stream)

    async def _ask(
        self, target: Target, stream: trio.abc.Stream, request: bytes, bytes_max: int, *, is_fresh: bool
    ) -> tuple[int, bytes] | None:
        """The answer; None when a connection that is not fresh turns out to have been closed."""
        reader = _Reader(bytes_max)
        try:
            await stream.send_all(request)
            while not reader.is_complete:
                reader.feed(bytes(await stream.receive_some(READ_BYTES)))
        except (trio.BrokenResourceError, httptools.HttpParserError) as error:
            if not is_fresh and not reader.size:
                return None
            raise PostFailed(str(error.__cause__ or error)) from None
        finally:
            if reader.keeps_alive:
                await self._keep(target, stream)
            else:
                await trio.aclose_forcefully(stream)
        return reader.status, b"".join(reader.pieces)


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
        """Raises BrokenResourceError when the connection ended too early, PostFailed at more than is allowed."""
        if not data:
            raise trio.BrokenResourceError("closed before the whole answer")
        self.size += len(data)
        self._parser.feed_data(data)
        if self.size > self._bytes_max + HEAD_BYTES_MAX:
            self.keeps_alive = False
            raise PostFailed(f"the answer is longer than {self._bytes_max} bytes")

    def on_body(self, data: bytes) -> None:
        if not self.is_complete:
            self.pieces.append(data)

    def on_message_complete(self) -> None:
        # What follows was not asked for, and nobody knows what it is: the connection ends with it.
        self.keeps_alive = not self.is_complete and bool(self._parser.should_keep_alive())
        if not self.is_complete:
            self.status = self._parser.get_status_code()
        self.is_complete = True
