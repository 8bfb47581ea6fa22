"""What only the operator of this node may do to its writes and integers, over the Unix socket; and drills."""

from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from conf import Ids
from gossip import State
from store.images import is_uuid, text_problem
from store.operations import Grant, Operation, Retire
from zoned.api import documents
from zoned.api.answers import by_method, query_integer, reply, write, write_headers, zone_of
from zoned.api.problems import Problem, bad
from zoned.drills import FOR_MAX_S, KINDS, DrillRefused, Drills
from zoned.errors import PeerRefused
from zoned.origin import ORIGIN
from zoned.queue import IMPORT_MAX, Blocked, Queue

REASON_CHARS_MAX = 255
COUNT_MAX = 1_000_000_000
FLUSH_MAX_S = 600.0


async def _asked(request: Request) -> dict[str, Any]:
    return documents.parse_object(await request.body() or b"{}")


def _reason(asked: dict[str, Any], needed: bool) -> str:
    reason = asked.get("reason", "")
    if not isinstance(reason, str) or (needed and not reason.strip()) or text_problem(reason, REASON_CHARS_MAX):
        raise bad(f"say why: a reason of 1 to {REASON_CHARS_MAX} characters", "bad-reason")
    return reason


def _by() -> str:
    origin = ORIGIN.get()
    return origin.by if origin is not None else "admin"


def steering_routes(queue: Queue, ids: Ids, drills: Drills) -> list[BaseRoute]:
    return [*_writes_routes(queue), *_ids_routes(ids), *_drill_routes(drills)]


def _writes_routes(queue: Queue) -> list[BaseRoute]:
    """The journal in an operator's hands; see `zoned.queue`."""

    async def state(request: Request) -> Response:
        return reply(queue.state())

    async def hold(request: Request) -> Response:
        asked = await _asked(request)
        first = asked.get("from")
        if first is not None and (type(first) is not int or not 1 <= first < 2**53):
            raise bad("from must be a sequence number", "bad-body")
        return reply(await queue.hold(first, _reason(asked, needed=False), _by()))

    async def release(request: Request) -> Response:
        return reply(await queue.release())

    async def drop(request: Request) -> Response:
        asked, sequence = await _asked(request), request.path_params["sequence"]
        reason, origin = _reason(asked, needed=True), ORIGIN.get()
        assert origin is not None, "every request that is no GET has one"
        done = await queue.drop(sequence, reason, origin)
        if done is None:
            raise Problem(404, "not-found", f"no write with sequence {sequence} waits here")
        return reply(done)

    async def retry(request: Request) -> Response:
        return reply(queue.retry())

    async def flush(request: Request) -> Response:
        asked = await _asked(request)
        wait_s = asked.get("wait_s", 30.0)
        if type(wait_s) not in (int, float) or not 0 <= wait_s <= FLUSH_MAX_S:
            raise bad(f"wait_s must be 0 to {FLUSH_MAX_S:.0f} seconds", "bad-body")
        done = await queue.flush(float(wait_s))
        if done["left"]:
            held = f", from sequence {done['hold']['sequence']} on they are held" if done["hold"] else ""
            raise Problem(504, "not-flushed", f"after {wait_s:g} s {done['left']} writes still wait{held}")
        return reply(done)

    async def export(request: Request) -> Response:
        return reply(await queue.export(query_integer(request, "after", 0, 0, 2**53)))

    async def take_in(request: Request) -> Response:
        rows = (await _asked(request)).get("writes")
        if not isinstance(rows, list) or not 1 <= len(rows) <= IMPORT_MAX:
            raise bad(f"give 1 to {IMPORT_MAX} exported writes", "bad-body")
        try:
            return reply(await queue.take_in(rows))
        except (ValueError, PeerRefused) as error:
            raise bad(f"no exported writes of this version: {error}", "bad-body") from None
        except Blocked as error:
            raise Problem(409, "blocked", str(error)) from None

    return [
        by_method("/admin/v1/writes/hold", GET=state, POST=hold),
        by_method("/admin/v1/writes/release", POST=release),
        by_method("/admin/v1/writes/{sequence:int}/drop", POST=drop),
        by_method("/admin/v1/writes/retry", POST=retry),
        by_method("/admin/v1/writes/flush", POST=flush),
        by_method("/admin/v1/writes/export", GET=export),
        by_method("/admin/v1/writes/import", POST=take_in),
    ]


def _ids_routes(settings: Ids) -> list[BaseRoute]:
    """Ranges asked for by hand, and those of nodes that do not return."""

    async def submit(request: Request, operation: Operation, done: dict[str, Any]) -> Response:
        zone = zone_of(request)
        submitted = await write(zone, operation)
        document = {**done, "state": submitted.state, "write": submitted.write_id, **zone.ids_status()}
        return reply(document, 202 if submitted.state == "buffered" else 200, write_headers(zone, submitted))

    async def lease(request: Request) -> Response:
        asked = await _asked(request)
        count, above = asked.get("count"), asked.get("above", settings.above)
        if type(count) is not int or not 1 <= count <= COUNT_MAX:
            raise bad(f"count must be 1 to {COUNT_MAX} integers", "bad-body")
        if type(above) is not int or not 0 <= above < settings.ceiling:
            raise bad(f"above must be an integer below ids.ceiling, {settings.ceiling}", "bad-body")
        return await submit(request, Grant(count, settings.ceiling, above), {"asked_for": count})

    async def retire(request: Request) -> Response:
        asked, zone = await _asked(request), zone_of(request)
        node = asked.get("node")
        if not isinstance(node, str) or not is_uuid(node):
            raise bad("node must be a node ID", "bad-body")
        node = node.lower()
        view = zone.gossip.members.get(node)
        if view is not None and view.state in (State.ALIVE, State.SUSPECT) and asked.get("force") is not True:
            detail = (
                f"node {node} of {view.zone} is {view.state.name.lower()}; what it has left would be lost (--force)"
            )
            raise Problem(409, "alive", detail)
        count, integers = await zone.held_by(node)
        if not count:
            raise Problem(404, "not-found", f"node {node} holds no range")
        return await submit(request, Retire(node), {"node": node, "ranges": count, "integers_at_most": integers})

    return [
        by_method("/admin/v1/ids/lease", POST=lease),
        by_method("/admin/v1/ids/retire", POST=retire),
    ]


def _drill_routes(drills: Drills) -> list[BaseRoute]:
    """See `zoned.drills`."""

    def kind(request: Request) -> str:
        named = str(request.path_params["kind"])
        if named not in KINDS:
            raise Problem(404, "not-found", f"drills are {', '.join(KINDS)}")
        return named

    async def plan(request: Request) -> Response:
        for_s = query_integer(request, "for_s", 60, 1, int(FOR_MAX_S))
        return reply(await drills.plan(kind(request), float(for_s)))

    async def start(request: Request) -> Response:
        asked = await _asked(request)
        for_s = asked.get("for_s", 60)
        if type(for_s) not in (int, float) or not 1 <= for_s <= FOR_MAX_S:
            raise bad(f"for_s must be 1 to {FOR_MAX_S:.0f} seconds", "bad-body")
        try:
            return reply(await drills.start(kind(request), float(for_s), asked.get("force") is True), 202)
        except DrillRefused as error:
            raise Problem(409, "drill-refused", str(error)) from None

    async def state(request: Request) -> Response:
        return reply(drills.state())

    async def stop(request: Request) -> Response:
        drills.stop()
        return reply(drills.state())

    return [
        by_method("/admin/v1/drill", GET=state, DELETE=stop),
        by_method("/admin/v1/drill/{kind}", GET=plan, POST=start),
    ]
