"""Answers that do not end by themselves: as long as the client reads, is let in, and the daemon runs."""

from collections.abc import Awaitable, Callable

import trio
from starlette.requests import Request
from starlette.responses import Response

from zoned.api.asgi import Receive, Scope, Send
from zoned.api.caller import AGAIN, Caller, caller_of
from zoned.api.problems import Problem


class Endless(Response):
    """An answer in pieces. `follow` is given by whoever derives from it, and calls `write` until it has no more to say.

    It ends as well when the client is gone. A stream must not outlive its token: `is_let_in` is to be asked before
    more is said.
    """

    def __init__(self, request: Request, kind: str) -> None:
        super().__init__(None, 200, {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}, kind)
        del self.headers["content-length"]
        self.caller: Caller = caller_of(request)
        # Tells who the reader is by now, or raises Problem; None: that does not change.
        self._again: Callable[[], Awaitable[Caller]] | None = request.scope.get(AGAIN)
        self._send: Send | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        self._send = send
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_until_gone, receive, nursery.cancel_scope)
            try:
                await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
                await self.follow()
                await send({"type": "http.response.body", "body": b"", "more_body": False})
            except OSError:
                pass  # the reader is gone, as readers of a stream without end will be
            nursery.cancel_scope.cancel()

    async def follow(self) -> None:
        """Says everything there is to say."""
        raise NotImplementedError

    async def write(self, data: bytes) -> None:
        """Waits until the client takes it. Raises OSError when the client is gone."""
        assert self._send is not None, "called from `follow` only"
        await self._send({"type": "http.response.body", "body": data, "more_body": True})

    async def is_let_in(self) -> bool:
        """Whether the reader still is who may read; what it sees from here on goes by its rights of now."""
        if self._again is not None:
            try:
                self.caller = await self._again()
            except Problem:
                return False
        return True


async def _until_gone(receive: Receive, scope: trio.CancelScope) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
    scope.cancel()
