"""Writes that name how safe they must be before they are answered: `Zone-Durability: local`, `peers=K`, `committed`.

`local` is what every answer promises: the write is synced here. `peers=K` waits until K other nodes have it on their
disks, or the log has; `committed` until the log has. What does not come true in time is 504 with the receipt; the
write stays journaled and nothing is undone, so the client asks for the receipt and does not write again.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any

import trio
from starlette.datastructures import Headers

from store.operations import Origin
from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.idempotency import KEYED
from zoned.api.problems import STATUSES, Problem, bad, native
from zoned.receipts import FINAL
from zoned.supervise import first_of
from zoned.zone import Zone

WAIT_MAX_S = 10.0  # clients' own time-outs are seldom longer
PEERS_MAX = 99
READS = ("GET", "HEAD", "OPTIONS")
HEADER = b"zone-write"


def with_durability(app: App, zone: Zone) -> App:
    """Holds answers to writes back until what they ask for is true."""

    async def wrapped(scope: Scope, receive: Receive, send: Send) -> None:
        asked = Headers(scope=scope).get("zone-durability") if scope["type"] == "http" else None
        if asked is None or scope["method"] in READS:
            await app(scope, receive, send)
            return
        try:
            until, peers = parse(asked)
        except Problem as problem:
            await native(problem)(scope, receive, send)
            return
        failed = False

        async def hold(message: MutableMapping[str, Any]) -> None:
            nonlocal failed
            if message["type"] == "http.response.start":
                problem = await _meet(zone, message["headers"], until, peers, scope.get(KEYED))
                if problem is not None:
                    failed = True
                    await native(problem)(scope, receive, send)
            if not failed:
                await send(message)

        await app(scope, receive, hold)

    return wrapped


def parse(asked: str) -> tuple[str, int]:
    """(step of the receipt, how many peers). Raises Problem."""
    word, _, number = asked.strip().lower().partition("=")
    if word in ("local", "committed") and not number:
        return {"local": "journaled"}.get(word, word), 0
    if word == "peers" and number.isascii() and number.isdigit() and 0 < int(number[:3]) <= PEERS_MAX:
        return "shared", int(number)
    raise bad(
        f"Zone-Durability must be local, peers=K (1 to {PEERS_MAX}) or committed, is {asked[:40]!r}", "bad-header"
    )


async def _meet(
    zone: Zone, headers: Iterable[tuple[bytes, bytes]], until: str, peers: int, origin: Origin | None
) -> Problem | None:
    """Waits; the answer instead, when it did not come true. Answers that name no waiting write are as they are.

    `origin` is of the request's Idempotency-Key: the write may be another node's, which took the request first.
    """
    said = next((value.decode("latin-1") for name, value in headers if name.lower() == HEADER), "")
    write_id, _, state = said.partition("; state=")
    receipt = zone.receipts.find(write_id) if state.startswith("buffered") else None
    if receipt is None:
        waits = state.startswith("buffered")
        return await _meet_elsewhere(zone, origin, write_id, until, peers) if waits and origin is not None else None
    told = await zone.receipts.wait(receipt.sequence, until, WAIT_MAX_S, peers)
    if told is None or (told.is_at(until, peers) and told.state not in FINAL):
        return None
    if told.state in FINAL:
        return _ended(write_id, told.state, told.receipt.code, told.receipt.detail)
    detail = f"{_not_yet(until, peers)}; ask for its receipt"
    location = f"/zone/v1/writes/{write_id}"
    return Problem(504, "not-durable", detail, {"Zone-Write": f"{write_id}; state=buffered", "Location": location})


async def _meet_elsewhere(zone: Zone, origin: Origin, write_id: str, until: str, peers: int) -> Problem | None:
    """The same for a write that another node journaled, and that is here because journals are shared.

    Its receipt is there. What is known here is the log, and two disks: this node's and that of who made it.
    """
    if until == "journaled" or (until == "shared" and peers == 1):
        return None
    deadline = trio.current_time() + WAIT_MAX_S
    while True:
        moved = zone.positions.moved
        known = zone.known_write(origin)
        if known is None or known.state != "journaled":
            break
        if not await first_of(moved, at_most_s=deadline - trio.current_time()):
            detail = f"{_not_yet(until, peers)}; ask the node that took it for its receipt"
            return Problem(504, "not-durable", detail, {"Zone-Write": f"{write_id}; state=buffered"})
    if known is None:
        return _ended(write_id, "dropped", "dropped", "an operator took the write out")
    return None if known.state == "done" else _ended(write_id, known.state, known.code, f"it ended as {known.state}")


def _ended(write_id: str, state: str, code: str, detail: str) -> Problem:
    return Problem(STATUSES.get(code, 409), code, detail, {"Zone-Write": f"{write_id}; state={state}"})


def _not_yet(until: str, peers: int) -> str:
    wanted = f"held by {peers} peers" if peers else until
    return f"the write is safe here and goes on, but was not {wanted} within {WAIT_MAX_S:g} s"
