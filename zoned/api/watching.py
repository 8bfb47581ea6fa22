"""`GET /zone/v1/watch`: changes of records as they are applied here, for whoever keeps something in step.

As server-sent events when `Accept` asks for them, as one JSON text per line otherwise. Every message, heartbeats too,
carries the position that the reader then has; who comes back with it (`from`, or `Last-Event-ID`, which browsers send
by themselves) goes on from there, in whichever zone. A reader sees only what it may see, and as long as it is let in:
a stream must not outlive its token.
"""

import orjson
import trio
from starlette.requests import Request
from starlette.responses import Response

from zoned.api import documents
from zoned.api.answers import by_method, query_integer, zone_of
from zoned.api.endless import Endless
from zoned.api.problems import RETRY_AFTER_S, Problem, bad, unsynced
from zoned.masking import has_secrets
from zoned.watch import Compacted, Event, told, withdrawn

EVENTS, LINES = "text/event-stream", "application/jsonl"
HEARTBEAT_S = 10
HEARTBEAT_S_MAX = 60
WATCHERS_MAX = 2_000


async def watch(request: Request) -> Response:
    """Changes behind the position `from`, and what comes then; 410 when those are no longer in the log."""
    zone, feed = zone_of(request), zone_of(request).feed
    if not zone.is_synced:
        raise unsynced()
    after = _from(request, zone.position)
    heartbeat_s = query_integer(request, "heartbeat", HEARTBEAT_S, 1, HEARTBEAT_S_MAX)
    try:
        feed.check(after)
    except Compacted as compacted:
        raise _too_old(after, compacted) from None
    kind = EVENTS if EVENTS in request.headers.get("accept", "") else LINES
    if request.method == "HEAD":
        return Response(None, media_type=kind)
    if feed.watchers >= WATCHERS_MAX:
        detail = f"{WATCHERS_MAX} watchers are connected to this node already; try another one of the zone"
        raise Problem(503, "too-many-watchers", detail, {"Retry-After": str(RETRY_AFTER_S)})
    return _Stream(request, kind, after, float(heartbeat_s))


def _from(request: Request, newest: int) -> int:
    text = request.headers.get("last-event-id") or request.query_params.get("from")
    if text is None:
        return newest
    if not text.isascii() or not text.isdigit() or len(text) > 16:
        raise bad(f"from must be a position, the last one you have, is {text[:40]!r}", "bad-query")
    return int(text)


def _too_old(after: int, compacted: Compacted) -> Problem:
    detail = (
        f"what comes behind position {after} is no longer in the log, which begins at {compacted.first}; list"
        " /zone/v1/images, whose answer says its position, and watch from there"
    )
    return Problem(410, "compacted", detail)


class _Stream(Endless):
    """The changes behind a position."""

    def __init__(self, request: Request, kind: str, after: int, heartbeat_s: float) -> None:
        super().__init__(request, kind)
        self._zone = zone_of(request)
        self._kind = kind
        self._position = after
        self._heartbeat_s = heartbeat_s

    async def follow(self) -> None:
        feed = self._zone.feed
        feed.watchers += 1
        try:
            await self._follow()
        finally:
            feed.watchers -= 1

    async def _follow(self) -> None:
        feed = self._zone.feed
        messages = [self._heartbeat()]
        sent_at = trio.current_time()
        while not feed.ending:
            if messages:
                await self.write(b"".join(messages))
                sent_at = trio.current_time()
                await feed.pause()
            before = self._position
            try:
                self._position, events = await feed.after(before)
            except Compacted as compacted:
                end = {"position": before, "type": "compacted", "detail": _too_old(before, compacted).detail}
                await self.write(self._message(before, "compacted", orjson.dumps(end)))
                return
            left_s = sent_at + self._heartbeat_s - trio.current_time()
            if (events or left_s <= 0) and not await self.is_let_in():
                return
            messages = [found for event in events if (found := self._told(event))]
            if not messages and left_s <= 0:
                messages = [self._heartbeat()]
            elif self._position == before:
                await feed.wait(before, left_s)

    def _told(self, event: Event) -> bytes:
        """The event as this reader is told of it; b"" when it is none of its business."""
        if self.caller.may_see(event.image):
            shown = self.caller.view(event.image)
            if shown is event.image and not self._is_kept_from(event):
                text = self._zone.feed.text(event, documents.native_document)
            else:
                document = None if shown.deleted_at is not None else documents.native_document(shown)
                text = told(event, document, hidden=("locations/", "members/"))
            return self._message(event.position, event.kind, text)
        if event.kind == "updated" and self.caller.may_see(event.before()):
            return self._message(event.position, "withdrawn", withdrawn(event))
        return b""

    def _is_kept_from(self, event: Event) -> bool:
        """Whether the names of what changed tell more than the record does, which has lost a location or a member."""
        names = event.change.changed if event.change is not None else ()
        urls = [name for name in names if name.startswith("locations/")]
        tells = {
            "images.see_members": any(name.startswith("members/") for name in names),
            "images.see_locations": bool(urls),
            "images.see_location_secrets": any(map(has_secrets, urls)),
        }
        return any(told and not self.caller.may(action, event.image) for action, told in tells.items())

    def _heartbeat(self) -> bytes:
        bound_s = self._zone.staleness.bound_s
        values = {
            "position": self._position,
            "type": "heartbeat",
            "staleness_s": round(bound_s, 3) if bound_s is not None else None,
        }
        return self._message(self._position, "heartbeat", orjson.dumps(values))

    def _message(self, position: int, kind: str, text: bytes) -> bytes:
        if self._kind == LINES:
            return text + b"\n"
        return b"id: %d\nevent: %b\ndata: %b\n\n" % (position, kind.encode(), text)


routes = [by_method("/watch", GET=watch)]
