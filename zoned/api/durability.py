"""Writes that name how safe they must be before they are answered: `Zone-Durability: local`, `peers=K`, `committed`.

`local` is what every answer promises: the write is synced here. `peers=K` waits until K other nodes have it on their
disks, or the log has; `committed` until the log has. What does not come true in time is 504 with the receipt; the
write stays journaled and nothing is undone, so the client asks for the receipt and does not write again.
"""

from collections.abc import Iterable, MutableMapping
from typing import Any

from starlette.datastructures import Headers

from zoned.api.asgi import App, Receive, Scope, Send
from zoned.api.problems import STATUSES, Problem, bad, native
from zoned.receipts import FINAL
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
                problem = await _meet(zone, message["headers"], until, peers)
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


async def _meet(zone: Zone, headers: Iterable[tuple[bytes, bytes]], until: str, peers: int) -> Problem | None:
    """Waits; the answer instead, when it did not come true. Answers that name no waiting write are as they are."""
    said = next((value.decode("latin-1") for name, value in headers if name.lower() == HEADER), "")
    write_id, _, state = said.partition("; state=")
    receipt = zone.receipts.find(write_id) if state.startswith("buffered") else None
    if receipt is None:
        return None
    told = await zone.receipts.wait(receipt.sequence, until, WAIT_MAX_S, peers)
    if told is None or (told.is_at(until, peers) and told.state not in FINAL):
        return None
    if told.state in FINAL:
        code, detail = told.receipt.code, told.receipt.detail
        return Problem(STATUSES.get(code, 409), code, detail, {"Zone-Write": f"{write_id}; state={told.state}"})
    detail = (
        f"the write is safe here and goes on, but was not {f'held by {peers} peers' if peers else until} within"
        f" {WAIT_MAX_S:g} s; ask for its receipt"
    )
    location = f"/zone/v1/writes/{write_id}"
    return Problem(504, "not-durable", detail, {"Zone-Write": f"{write_id}; state=buffered", "Location": location})
