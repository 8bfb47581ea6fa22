"""What the log did to records, position by position, for those who watch.

Nothing is queued for a watcher: each remembers only how far it is, and asks for what comes next. What was asked for
lately is kept, rendered, so that a thousand watchers at the head cost one reading. Who is far behind reads from the
log; who is behind what is left of the log is told so.

A position is an event when its write changed a record. The record in an event is as it is when the event is made, which
may be later than the event: a watcher that takes every event ends with the truth.
"""

from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import apsw
import orjson
import trio

from store import catalogue, history, log
from store.apply import Applied
from store.database import Database
from store.entries import Entry, EntryKind
from store.history import Change
from store.images import Image, ImageMember
from store.operations import decode_write, subject
from zoned.follow import Positions

KEPT_MAX = 2_048  # positions kept rendered
BATCH_ENTRIES = 256  # read at a time for one watcher
BATCH_BYTES = 262_144
SENDS_PER_S = 2_000.0  # to all watchers together, while changes come in faster than that
PAUSE_S = 0.05  # between two sends to one watcher, at least


class Compacted(Exception):
    """What comes next is no longer in the log. `first` is the oldest position that is."""

    def __init__(self, first: int) -> None:
        self.first = first
        super().__init__(f"the log begins at position {first}")


@dataclass(frozen=True, slots=True)
class Event:
    """A change of a record at a position. `kind`: created, updated, deleted or numbered."""

    position: int
    kind: str
    image: Image
    change: Change | None  # None when only the newest is known and it is not this one's

    def before(self) -> Image:
        """The record as it was, as far as it decides who may see it."""
        changed = self.change.changed if self.change is not None else {}
        fields = {
            **self.image.fields,
            **{name: changed[name][0] for name in ("owner", "visibility") if name in changed},
        }
        members = dict(self.image.members)
        for what, (was, _) in changed.items():
            if what.startswith("members/"):
                project = what.removeprefix("members/")
                members.pop(project, None)
                if was is not None:
                    members[project] = ImageMember(str(was), False, "", "")
        return replace(self.image, fields=fields, members=members)


Row = tuple[int, Event | None]  # None: nothing that a watcher of records would want to know


def read(connection: apsw.Connection, after: int, through: int) -> list[Row]:
    """The positions behind `after`, one for each entry that is applied. Raises Compacted."""
    first = log.first_position(connection)
    if after + 1 < first:
        raise Compacted(first)
    entries = log.read(connection, after + 1, min(through, after + BATCH_ENTRIES) + 1, BATCH_BYTES)
    if not entries:
        raise Compacted(through + 1)
    return [(entry.index, _event(connection, entry)) for entry in entries]


def _event(connection: apsw.Connection, entry: Entry) -> Event | None:
    write = decode_write(entry.data) if entry.kind is EntryKind.WRITE else None
    uuid = subject(write.operation) if write is not None else None
    record = catalogue.committed(connection, uuid) if uuid is not None else None
    if record is None:
        return None
    image = Image.decode(record)
    change = history.at(connection, image.uuid, entry.index)
    if change is None and image.position == entry.index:
        change = history.made(image) if write is not None and write.id == image.write else None
    return Event(entry.index, change.kind, image, change) if change is not None else None


class Feed:
    """The events of this node's log."""

    def __init__(self, database: Database, positions: Positions) -> None:
        self.watchers = 0
        self.ended = trio.Event()
        self._database = database
        self._positions = positions
        self._news = trio.Event()
        self._kept: OrderedDict[int, Event | None] = OrderedDict()
        self._texts: dict[int, bytes] = {}
        self._reading = trio.Lock()

    @property
    def ending(self) -> bool:
        return self.ended.is_set()

    def on_applied(self, position: int, applied: Sequence[Applied]) -> None:
        self._wake()

    def end(self) -> None:
        """The daemon stops: watchers finish."""
        self.ended.set()
        self._wake()

    def _wake(self) -> None:
        self._news.set()
        self._news = trio.Event()

    async def wait(self, beyond: int, at_most_s: float) -> None:
        """Until more than `beyond` is applied, the daemon stops, or the time is over."""
        with trio.move_on_after(at_most_s):
            while self._positions.position <= beyond and not self.ending:
                await self._news.wait()

    async def pause(self) -> None:
        """Between two sends to one watcher: the more there are, the more changes each takes at a time."""
        await trio.sleep(max(PAUSE_S, self.watchers / SENDS_PER_S))

    async def after(self, position: int) -> tuple[int, list[Event]]:
        """(how far this goes, the events behind `position` up to there). Raises Compacted."""
        through = self._positions.position
        if through <= position:
            return position, []
        if position + 1 not in self._kept:
            async with self._reading:
                if position + 1 not in self._kept:
                    self._keep(await self._database.read(lambda c: read(c, position, through)))
        events: list[Event] = []
        last = position
        while last + 1 in self._kept and last - position < BATCH_ENTRIES:
            last += 1
            event = self._kept[last]
            if event is not None:
                events.append(event)
        return last, events

    def _keep(self, rows: list[Row]) -> None:
        self._kept.update(rows)
        while len(self._kept) > KEPT_MAX:
            position, _ = self._kept.popitem(last=False)
            self._texts.pop(position, None)

    def text(self, event: Event, render: Callable[[Image], object]) -> bytes:
        """The event as JSON; `render` makes the document of a record that is not deleted."""
        text = self._texts.get(event.position)
        if text is None:
            text = told(event, None if event.image.deleted_at is not None else render(event.image))
            if event.position in self._kept:
                self._texts[event.position] = text
        return text

    def check(self, position: int) -> None:
        """Raises Compacted when what comes behind `position` is no longer in the log."""
        first = log.first_position(self._database.reader)
        if position + 1 < first:
            raise Compacted(first)


def told(event: Event, document: object, hidden: tuple[str, ...] = ()) -> bytes:
    """What a watcher is told of a change, as JSON. `document` is the record, None for one that is deleted.

    Of what is `hidden` ("locations/", "members/") it is not said that it changed: the names would tell.
    """
    change = event.change
    changed = [name for name in sorted(change.changed) if not name.startswith(hidden)] if change is not None else []
    values = {
        "position": event.position,
        "type": event.kind,
        "uuid": event.image.uuid,
        "integer": event.image.integer,
        "at": change.at if change is not None else None,
        "write": change.write if change is not None else None,
        "changed": changed,
        "image": document,
    }
    return orjson.dumps(values)


def withdrawn(event: Event) -> bytes:
    """What a watcher is told who could see the record up to now, and cannot any more."""
    image = event.image
    values = {"position": event.position, "type": "withdrawn", "uuid": image.uuid, "integer": image.integer}
    return orjson.dumps(values)
