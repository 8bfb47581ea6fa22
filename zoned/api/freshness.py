"""Reads that name how fresh they must be, met before the read is made.

`Zone-After-Position: P` waits until P is applied (read your own writes anywhere). With the `Zone-History` that it came
with, a position of a history that was given up is 412 instead of a wrong yes. `Zone-Max-Staleness: S` with
`Zone-On-Stale: serve` (the default: the answer says its bound), `wait` or `fail`. `?consistent=1` asks the registry
first. What cannot be met is 504, never a quiet older answer.
"""

from urllib.parse import parse_qs

import trio
from starlette.datastructures import Headers

from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.caller import CALLER
from zoned.api.lookup import moment
from zoned.api.problems import Problem, bad, native
from zoned.zone import Zone

WAIT_MAX_S = 10.0  # for any of these; clients' own time-outs are seldom longer
READ_AT = "zoned.read_at"  # key in the scope: the `Moment` before a read
ON_STALE = ("serve", "wait", "fail")


def with_freshness(app: App, zone: Zone) -> App:
    """Holds reads back until they are as fresh as they ask to be."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] in ("GET", "HEAD") and CALLER in scope:
            try:
                await meet(Headers(scope=scope), scope["query_string"], zone)
            except Problem as problem:
                await native(problem)(scope, receive, send)
                return
            # What is proved while the answer is made says nothing of what was read before.
            scope[READ_AT] = moment(zone)
        await app(scope, receive, send)

    return wrapped


async def meet(headers: Headers, query: bytes, zone: Zone) -> None:
    """Waits until the asked freshness is there. Raises Problem 504 when it cannot be had in time, 400 for nonsense."""
    _same_history(headers, zone)
    if b"consistent=" in query and parse_qs(query.decode("latin-1")).get("consistent") == ["1"]:
        await _consistent(zone)
    after = headers.get("zone-after-position")
    if after is not None:
        await _after(zone, _number("Zone-After-Position", after, 18))
        _same_history(headers, zone)
    most = headers.get("zone-max-staleness")
    if most is not None:
        await _fresh(zone, float(_number("Zone-Max-Staleness", most, 9)), headers.get("zone-on-stale", "serve"))


def _number(name: str, text: str, digits_max: int) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > digits_max:
        raise bad(f"{name} must be a whole number, is {text[:40]!r}", "bad-header")
    return int(text)


async def _consistent(zone: Zone) -> None:
    with trio.move_on_after(WAIT_MAX_S):
        index = await zone.staleness.ask()
        if index is not None and await zone.positions.wait_beyond(index - 1, WAIT_MAX_S):
            return
    detail = "the registry could not be asked; without consistent=1 the local answer is served"
    raise Problem(504, "not-consistent", detail)


async def _after(zone: Zone, position: int) -> None:
    if not await zone.positions.wait_beyond(position - 1, WAIT_MAX_S):
        raise Problem(504, "behind", f"this zone has applied {zone.position}, position {position} did not come in time")


def _same_history(headers: Headers, zone: Zone) -> None:
    """Positions that the reader has, from whichever answer, are of the history that it names."""
    history = headers.get("zone-history")
    if history is not None and zone.history not in ("", history):
        detail = (
            f"asked in history {history[:40]}, this zone is in {zone.history}: the catalogue was begun anew by"
            " recover or restore, and what was written before may be missing; look, and write it again"
        )
        raise Problem(412, "other-history", detail)


async def _fresh(zone: Zone, most_s: float, on_stale: str) -> None:
    if on_stale not in ON_STALE:
        raise bad(f"Zone-On-Stale must be one of {', '.join(ON_STALE)}, is {on_stale[:40]!r}", "bad-header")
    bound_s = zone.staleness.bound_s
    if on_stale == "serve" or (bound_s is not None and bound_s <= most_s):
        return
    if on_stale == "wait" and await zone.staleness.wait_until(most_s, trio.current_time() + WAIT_MAX_S):
        return
    said = f"may be {bound_s:.1f} s old" if bound_s is not None else "may be of any age"
    raise Problem(504, "stale", f"the answer {said}, Zone-Max-Staleness is {most_s:g}")
