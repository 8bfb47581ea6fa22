"""Integer ranges: what was granted to whom, and what this node still has. Plain functions of a connection.

The counter only grows. A grant is applied from the log, so every node knows every range; only the owner keeps track of
how far a range is used, and it does so in the transaction that journals the record: an integer is used exactly when
the record that carries it is safe.
"""

from dataclasses import dataclass

import apsw

from store.operations import Grant, Outcome, State

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
    start: int = connection.execute("SELECT next_integer FROM replica").get
    stop = min(start + operation.count, operation.ceiling + 1)
    if stop <= start:
        return Outcome(State.REFUSED, "exhausted", f"no integer is left below {operation.ceiling}")
    connection.execute("INSERT INTO ranges VALUES (?, ?, ?, ?)", (start, stop, node, position))
    connection.execute("UPDATE replica SET next_integer = ?", (stop,))
    if own:
        connection.execute("INSERT INTO leases VALUES (?, ?, ?)", (start, start, stop))
    return Outcome(State.DONE)


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


def granted(connection: apsw.Connection, integer: int) -> tuple[str, int, int, int] | None:
    """(node, start, stop, position) of the range that `integer` was granted in."""
    return connection.execute(
        "SELECT node, start, stop, position FROM ranges WHERE start <= ? AND stop > ? ORDER BY start DESC LIMIT 1",
        (integer, integer),
    ).fetchone()
