"""What was done, by whom, in the order of the log: one line for every write, each chained to the one before it.

A line is made where the log is applied, of the entry and its outcome only, so every node has the same lines. `before`
of a line is the chain up to it; with the line comes `SHA-256(before + line)`, which is `before` of the next line, or
of the newest the running value in `replica`. Whoever alters or removes a line on one node breaks that node's chain, or
must make it anew from there on, and then it is not the other nodes' chain any more (`zoned.verify`), nor that of what
was exported before.

The lines of the newest entries are kept (`audit.entries_keep`): the older ones go, as the log's entries do, and are
for whoever exports them in time. Plain functions of a connection.
"""

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import apsw
import orjson

from store.entries import Entry
from store.operations import Grant, Outcome, Point, Retire, State, Write, origin_of, subject

NAMES = (
    *("position", "kind", "outcome", "code", "at", "by", "project", "zone", "request"),
    *("write", "subject", "sha256"),
)
BEGINNING = bytes(32)  # the chain before the first line
BATCH = 2_000  # lines read at a time while they are counted anew


@dataclass(frozen=True, slots=True)
class Line:
    """One line and the chain before it; `text` is a JSON list of the values of NAMES, as it was hashed."""

    position: int
    before: bytes
    text: bytes

    @property
    def chain(self) -> bytes:
        return chained(self.before, self.text)

    def document(self) -> dict[str, Any]:
        """For people and for exports: named values, and the chain in hexadecimal."""
        values = zip(NAMES, orjson.loads(self.text), strict=True)
        return {**dict(values), "before": self.before.hex(), "chain": self.chain.hex()}


@dataclass(frozen=True, slots=True)
class Counted:
    """The lines that are kept, looked at one by one. `problem` says what is wrong with them, "" if nothing is."""

    lines: int
    first: int
    last: int
    problem: str


def chained(before: bytes, text: bytes) -> bytes:
    return hashlib.sha256(before + text).digest()


def of_write(entry: Entry, write: Write, outcome: Outcome) -> bytes:
    """The line of a write that was applied. Of one that is malformed only what is certain is told."""
    operation = write.operation
    kind = type(operation).__name__.lower()
    told: list[Any] = [None, None, None, None, None, write.id, None]
    if outcome.code != "malformed":
        origin = origin_of(operation)
        if origin is not None:
            told[:5] = origin.at, origin.by, origin.project, origin.zone, origin.request
        told[6] = _subject(operation)
    state = "committed" if outcome.state is State.DONE else outcome.state.value
    return orjson.dumps([entry.index, kind, state, outcome.code, *told, hashlib.sha256(entry.data).hexdigest()])


def of_membership(entry: Entry) -> bytes:
    """The line of a change of who votes."""
    told = [None] * 7
    return orjson.dumps([entry.index, "membership", "committed", "", *told, hashlib.sha256(entry.data).hexdigest()])


def _subject(operation: Any) -> str | None:
    """What was changed: an image, `alias:NAME`, a node whose ranges are burnt; a grant is about none."""
    if isinstance(operation, Point):
        return f"alias:{operation.alias}"
    if isinstance(operation, Grant | Retire):
        return operation.node if isinstance(operation, Retire) else None
    return subject(operation)


def head(connection: apsw.Connection) -> bytes:
    """The chain with everything that was applied."""
    found: bytes = connection.execute("SELECT chain FROM replica").get
    return found


def keep(connection: apsw.Connection, lines: Iterable[Line]) -> None:
    """Adds lines, in order; the caller moves the running value."""
    connection.executemany(
        "INSERT INTO audit VALUES (?, ?, ?)", [(one.position, one.before, one.text) for one in lines]
    )


def read(connection: apsw.Connection, after: int, limit: int) -> list[Line]:
    """At most `limit` lines of entries behind the position `after`, in order."""
    rows = connection.execute(
        "SELECT position, before, line FROM audit WHERE position > ? ORDER BY position LIMIT ?", (after, limit)
    )
    return [Line(*row) for row in rows]


def newest(connection: apsw.Connection, limit: int) -> list[Line]:
    """The newest lines, in order."""
    rows = connection.execute("SELECT position, before, line FROM audit ORDER BY position DESC LIMIT ?", (limit,))
    return [Line(*row) for row in rows][::-1]


def chain_at(connection: apsw.Connection, position: int) -> bytes | None:
    """The chain with every line up to and including `position`; None when that is not applied yet or no longer kept."""
    first, applied = connection.execute("SELECT (SELECT min(position) FROM audit), position FROM replica").get
    if position > applied or first is None or position < first - 1:
        return None
    behind = read(connection, position, 1)
    return behind[0].before if behind else head(connection)


def count(connection: apsw.Connection) -> Counted:
    """Reads every line that is kept and follows the chain through them, to the running value."""
    lines = first = last = 0
    expected: bytes | None = None
    while found := read(connection, last, BATCH):
        for one in found:
            problem = _problem(one, expected)
            if problem:
                return Counted(lines, first or one.position, one.position, problem)
            lines, first, last, expected = lines + 1, first or one.position, one.position, one.chain
    if expected not in (None, head(connection)):
        return Counted(lines, first, last, f"what came behind the line at position {last} was altered or removed")
    return Counted(lines, first, last, "")


def _problem(line: Line, expected: bytes | None) -> str:
    if expected is not None and line.before != expected:
        return f"the line before the one at position {line.position} was altered or removed"
    try:
        values = orjson.loads(line.text)
    except orjson.JSONDecodeError:
        values = None
    if not isinstance(values, list) or len(values) != len(NAMES) or values[0] != line.position:
        return f"the line at position {line.position} was altered"
    return ""


def parse(document: Mapping[str, Any]) -> Line:
    """An exported line. Raises ValueError for what is none, or does not have the chain that it says."""
    try:
        text = orjson.dumps([document[name] for name in NAMES])
        line = Line(int(document["position"]), bytes.fromhex(document["before"]), text)
        said = bytes.fromhex(document["chain"])
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"no line of an export: {error}") from None
    if line.chain != said:
        raise ValueError(f"the line at position {line.position} was altered")
    return line


def has_before(connection: apsw.Connection, position: int) -> bool:
    """Whether lines up to `position` are kept."""
    first: Any = connection.execute("SELECT min(position) FROM audit").get
    return first is not None and first <= position


def forget(connection: apsw.Connection, position: int, limit: int) -> int:
    """Removes at most `limit` lines of entries up to `position`; returns how many."""
    connection.execute(
        "DELETE FROM audit WHERE position IN"
        " (SELECT position FROM audit WHERE position <= ? ORDER BY position LIMIT ?)",
        (position, limit),
    )
    return connection.changes()
