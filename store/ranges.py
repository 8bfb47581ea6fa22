"""Integer ranges: what was granted to whom, and what this node still has. Plain functions of a connection.

The counter only grows. A grant is applied from the log, so every node knows every range; only the owner keeps track of
how far a range is used, and it does so in the transaction that journals the record: an integer is used exactly when
the record that carries it is safe.
"""

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import apsw

from store.operations import Grant, Outcome, State

CEILINGS = (2**31 - 1, 2**53 - 1)
DATES_MAX_DAYS = 2_000_000  # calendars end
DAY_S = 86_400
RATE_DAYS = 7  # the rate is the busiest of the last week's days


@dataclass(frozen=True, slots=True)
class Lease:
    """The unused rest of one range of this node: `next` up to but not `stop`."""

    start: int
    next: int
    stop: int


@dataclass(frozen=True, slots=True)
class Runway:
    """How long the integers last: `left` of them at `rate` a day. `days` is None when nothing was ever taken."""

    left: int
    rate: float
    days: float | None


def grant(connection: apsw.Connection, node: str, operation: Grant, position: int, own: bool) -> Outcome:
    """Applies a grant: the next `count` integers go to `node`; into its leases too if that is this node."""
    counter: int = connection.execute("SELECT next_integer FROM replica").get
    start = max(counter, operation.above + 1)
    stop = min(start + operation.count, operation.ceiling + 1)
    if stop <= start:
        return Outcome(State.REFUSED, "exhausted", f"no integer is left below {operation.ceiling}")
    connection.execute(
        "INSERT INTO ranges (start, stop, node, position) VALUES (?, ?, ?, ?)", (start, stop, node, position)
    )
    connection.execute("UPDATE replica SET next_integer = ?", (stop,))
    if own:
        connection.execute("INSERT INTO leases VALUES (?, ?, ?)", (start, start, stop))
    return Outcome(State.DONE)


def retire(connection: apsw.Connection, node: str, position: int, own: bool) -> Outcome:
    """Applies a retirement: what is left of the node's ranges is burnt; `own`: this node, which gets new ones."""
    connection.execute("UPDATE ranges SET retired = ? WHERE node = ? AND retired = 0", (position, node))
    if not connection.changes():
        return Outcome(State.REFUSED, "not-found", f"node {node} holds no range")
    if own:
        connection.execute("DELETE FROM leases")
    return Outcome(State.DONE)


def held_by(connection: apsw.Connection, node: str) -> tuple[int, int]:
    """(ranges, integers in them) that were granted to a node and not retired; what it has used counts too."""
    count, integers = connection.execute(
        "SELECT count(*), coalesce(sum(stop - start), 0) FROM ranges WHERE node = ? AND retired = 0", (node,)
    ).get
    return count, integers


def why_not_kept(connection: apsw.Connection, integer: int) -> str | None:
    """Why an image from elsewhere cannot bring this integer along; None: it can, now and for ever.

    The counter only grows and every range begins at it, so what it has passed without a grant is never granted.
    """
    counter: int = connection.execute("SELECT next_integer FROM replica").get
    if integer >= counter:
        return f"integer {integer} is not behind the counter of integers yet, which is at {counter}"
    found = granted(connection, integer)
    if found is not None:
        node, start, stop = found[:3]
        return f"integer {integer} is in the range {start} to {stop - 1}, which was granted to node {node}"
    return None


def take(connection: apsw.Connection, at: float) -> int | None:
    """The next integer of this node's leases, or None when they are used up. `at`: wall clock, seconds since 1970."""
    row = connection.execute("SELECT start, next FROM leases WHERE next < stop ORDER BY start LIMIT 1").fetchone()
    if row is None:
        return None
    connection.execute("UPDATE leases SET next = next + 1 WHERE start = ?", (row[0],))
    connection.execute(
        "INSERT INTO usage VALUES (?, 1) ON CONFLICT (day) DO UPDATE SET taken = taken + 1", (int(at // DAY_S),)
    )
    taken: int = row[1]
    return taken


def leases(connection: apsw.Connection) -> list[Lease]:
    """This node's leases with something left, in the order they will be used."""
    return [
        Lease(*row)
        for row in connection.execute("SELECT start, next, stop FROM leases WHERE next < stop ORDER BY start")
    ]


def has_any(connection: apsw.Connection) -> bool:
    """Whether an integer is left in this node's leases."""
    found: int = connection.execute("SELECT EXISTS (SELECT 1 FROM leases WHERE next < stop)").get
    return bool(found)


def runway(connection: apsw.Connection, at: float) -> Runway:
    left: int = connection.execute("SELECT coalesce(sum(stop - next), 0) FROM leases").get
    rate: int = connection.execute(
        "SELECT coalesce(max(taken), 0) FROM usage WHERE day > ?", (int(at // DAY_S) - RATE_DAYS,)
    ).get
    return Runway(left, float(rate), left / rate if rate else None)


def outlook(ceiling: int, used: int, per_day: float, now: float) -> dict[str, Any]:
    """When the counter, at `used`, reaches `ceiling` if `per_day` are used; `now` is the wall clock. No date: never."""
    left = max(0, ceiling - used)
    days = 0.0 if not left else left / per_day if per_day else None
    return {
        "ceiling": ceiling,
        "left": left,
        "days": round(days, 1) if days is not None else None,
        "runs_out_at": _date(now + days * DAY_S) if days is not None and days < DATES_MAX_DAYS else None,
    }


def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d")


def granted(connection: apsw.Connection, integer: int) -> tuple[str, int, int, int, int] | None:
    """(node, start, stop, position, where it was retired or 0) of the range that `integer` was granted in."""
    return connection.execute(
        "SELECT node, start, stop, position, retired FROM ranges WHERE start <= ? AND stop > ?"
        " ORDER BY start DESC LIMIT 1",
        (integer, integer),
    ).fetchone()
