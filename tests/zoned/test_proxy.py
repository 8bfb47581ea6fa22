"""The write path of one node, on a real store: journal first, forwarded in order, applied exactly once.

`Way` is the way to a registry whose every answer a test may decide. What it accepts goes through the product's own
`Registry` onto the log in memory of test_registry.py, and from there through `store.apply`.
"""

from collections import deque
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from random import Random
from typing import cast
from uuid import uuid4

import pytest
import trio

from conf import Journal
from conf import Registry as Settings
from store import apply, catalogue, holding, journal
from store.database import Database
from store.entries import Entry, EntryKind
from store.errors import JournalFull, Refused
from store.journal import Limits
from store.operations import Create, Delete, Drop, Grant, Origin, State, Update, Write, decode_write, encode_write
from tests.zoned.conftest import ME, OTHER, open_store, until
from tests.zoned.test_registry import LogInMemory
from zoned import clock
from zoned import proxy as proxy_module
from zoned.api import answers
from zoned.api.problems import Problem
from zoned.drain import Drain
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.proxy import Proxy, limits
from zoned.registry import Answer, NotRegistry, Overloaded
from zoned.supervise import Backoff
from zoned.zone import Zone

AT = "2026-11-22T09:00:00Z"
WAIT_S = 60.0  # for outcomes that come
IN_VAIN_S = 0.15  # where none can come
BATCH_MAX = 4


class Way:
    """Implements `zoned.proxy.Forwarder`. `script` holds what happens to the next batches; then they are accepted."""

    def __init__(self, database: Database, registry: str | None = "one") -> None:
        self.registry = registry
        self.script: deque[str] = deque()
        self.node = LogInMemory()
        self.finished_at = clock.wall()  # stamped on receipts
        self.applies = True  # whether what is accepted is committed at once
        self.batches: list[list[Write]] = []
        self.flying = 0
        self._database = database
        self._registry = self.node.registry(database)
        self._changed = trio.Event()
        self._position = catalogue.replica(database.reader).position

    def changed(self) -> trio.Event:
        return self._changed

    def elect(self, registry: str | None, survive: int | None = None) -> None:
        """Another registry, or none; of the entries not applied yet only the first `survive` are in its log."""
        self.registry = registry
        self.node.core.term += 1
        if survive is not None:
            del self.node.entries[survive:]
        self._changed.set()
        self._changed = trio.Event()

    async def forward(self, registry: str, writes: Sequence[Write]) -> Answer:
        assert not self.flying, "one batch is in flight at a time"
        self.flying += 1
        try:
            await trio.sleep(0.001)
            self.batches.append(list(writes))
            match self.script.popleft() if self.script else "accept":
                case "unreachable":
                    raise PeerUnreachable("no answer")
                case "refused":
                    raise PeerRefused("no")
                case "not-registry":
                    return NotRegistry("")
                case "overloaded":
                    return Overloaded()
                case "answer-lost":
                    self._registry.accept(writes)
                    raise PeerUnreachable("the answer was lost")
            return self._registry.accept(writes)
        finally:
            self.flying -= 1

    async def serve(self, proxy: Proxy) -> None:
        """Commits and applies what is in the log, as the Raft shell does."""
        while True:
            await trio.sleep(0.002)
            if self.applies and self.node.entries:
                taken = self.node.entries[:]
                self.node.entries.clear()
                self.applied += [decode_write(data) for data in taken]
                entries = [Entry(self._position + n, 1, EntryKind.WRITE, data) for n, data in enumerate(taken, 1)]
                own = await self._database.write(lambda c, e=entries: apply.apply(c, e, ME, self.finished_at))  # type: ignore[misc]  # mypy infers no lambda defaults
                self._position += len(taken)
                proxy.on_applied(self._position, own)

    applied: list[Write]


@asynccontextmanager
async def running(database: Database, way: Way, wait_s: float = WAIT_S, **bounds: int) -> AsyncIterator[Proxy]:
    way.applied = []
    directory = str(database.path.parent)
    settings = Journal(**{"free_disk_min_bytes": 0, **bounds})
    proxy = Proxy(
        ME,
        database,
        way,
        Settings(wait_s=wait_s, forward_batch_max=BATCH_MAX),
        limits(settings, directory),
        Backoff(0.005, 0.02, Random(1)),
    )
    async with trio.open_nursery() as nursery:
        nursery.start_soon(way.serve, proxy)
        await nursery.start(proxy.serve)
        yield proxy
        nursery.cancel_scope.cancel()


def create(name: str = "n") -> Create:
    return Create(str(uuid4()), None, AT, {"name": name})


def backlog(database: Database) -> int:
    return journal.backlog(database.reader).entries


async def submit_many(proxy: Proxy, count: int) -> list[str]:
    """So many creates at once; the UUIDs."""
    operations = [create() for _ in range(count)]
    async with trio.open_nursery() as nursery:
        for operation in operations:
            nursery.start_soon(proxy.submit, operation)
    return [operation.uuid for operation in operations]


def check_exactly_once(database: Database, way: Way, uuids: list[str]) -> None:
    """Every write took effect once, in the order of the journal."""
    count = len(uuids)
    assert apply.mark(database.reader, ME) == count
    effective: list[int] = []
    for write in way.applied:
        if write.sequence == len(effective) + 1:
            effective.append(write.sequence)
    assert effective == list(range(1, count + 1))
    receipts = journal.receipts(database.reader, count + 1)
    assert [one.sequence for one in receipts] == list(range(count, 0, -1))
    assert {one.state for one in receipts} == {"committed"}
    assert {one.uuid for one in receipts} == set(uuids)
    assert catalogue.replica(database.reader).images == count
    assert catalogue.recount(database.reader) == catalogue.replica(database.reader)


# The client's side.


async def test_a_write_is_answered_with_its_outcome(database):
    async with running(database, Way(database)) as proxy:
        operation = create()
        submitted = await proxy.submit(operation)
        assert (submitted.state, submitted.write_id) == ("committed", f"{ME}.1")
        assert submitted.receipt is not None
        assert (submitted.receipt.uuid, submitted.receipt.position) == (operation.uuid, 1)


async def test_the_same_create_again_is_answered_with_the_first_ones_receipt(database):
    async with running(database, Way(database)) as proxy:
        operation = create()
        first = await proxy.submit(operation)
        again = await proxy.submit(operation)
        assert (again.write_id, again.state) == (first.write_id, "committed")
        assert backlog(database) == 0


async def test_a_write_the_local_view_refuses_is_not_journaled(database):
    async with running(database, Way(database)) as proxy:
        operation = create()
        await proxy.submit(operation)
        with pytest.raises(Refused):
            await proxy.submit(Create(operation.uuid, None, AT, {"name": "other"}))
        with pytest.raises(Refused):
            await proxy.submit(Delete(str(uuid4()), AT))
        assert journal.backlog(database.reader).last_sequence == 1


async def test_a_full_journal_refuses_and_takes_writes_again_once_it_has_drained(database):
    way = Way(database, registry=None)
    async with running(database, way, wait_s=0.0, entries_max=2) as proxy:
        await proxy.submit(create())
        await proxy.submit(create())
        with pytest.raises(JournalFull):
            await proxy.submit(create())
        way.elect("one")
        await until(lambda: backlog(database) == 0)
        assert (await proxy.submit(create())).write_id == f"{ME}.3"


async def test_without_a_registry_a_write_is_answered_as_buffered_after_the_wait(database):
    async with running(database, Way(database, registry=None), IN_VAIN_S) as proxy:
        begun = trio.current_time()
        submitted = await proxy.submit(create())
        assert submitted.state == "buffered"
        assert trio.current_time() - begun >= IN_VAIN_S * 0.9


async def test_once_the_registry_is_away_for_longer_than_a_client_waits_nobody_waits(database):
    async with running(database, Way(database, registry=None), IN_VAIN_S) as proxy:
        await proxy.submit(create())
        await until(lambda: proxy.is_away)
        for _ in range(5):
            assert (await proxy.submit(create())).state == "buffered"
            assert proxy.is_away


async def test_an_unreachable_registry_counts_as_away_too(database):
    way = Way(database)
    way.script.extend(["unreachable"] * 10_000)
    async with running(database, way, IN_VAIN_S) as proxy:
        await proxy.submit(create())
        await proxy.submit(create())
        await until(lambda: proxy.is_away)
        assert (await proxy.submit(create())).state == "buffered"


async def test_a_node_that_keeps_saying_it_is_not_the_registry_counts_as_away_too(database):
    way = Way(database)
    way.script.extend(["not-registry"] * 10_000)
    async with running(database, way, IN_VAIN_S) as proxy:
        for _ in range(3):
            await proxy.submit(create())
        await until(lambda: proxy.is_away)
        assert (await proxy.submit(create())).state == "buffered"


async def test_a_registry_that_comes_back_makes_clients_wait_for_outcomes_again(database):
    way = Way(database, registry=None)
    async with running(database, way, IN_VAIN_S) as proxy:
        uuids = await submit_many(proxy, 3)
        await until(lambda: proxy.is_away)
        way.elect("one")
        await until(lambda: backlog(database) == 0)
        proxy._settings = replace(proxy._settings, wait_s=WAIT_S)
        operation = create()
        assert (await proxy.submit(operation)).state == "committed"
        check_exactly_once(database, way, [*uuids, operation.uuid])


async def test_a_write_answered_as_buffered_is_forwarded_as_such(database):
    way = Way(database, registry=None)
    async with running(database, way, IN_VAIN_S) as proxy:
        await proxy.submit(create())
        way.elect("one")
        await until(lambda: backlog(database) == 0)
        proxy._settings = replace(proxy._settings, wait_s=WAIT_S)
        await proxy.submit(create())
        assert [(write.sequence, write.buffered) for batch in way.batches for write in batch] == [(1, True), (2, False)]


async def test_a_buffered_change_of_what_others_changed_meanwhile_is_a_conflict_in_the_receipt(database):
    way = Way(database)
    async with running(database, way, wait_s=0.01) as proxy:
        operation = create("old")
        await proxy.submit(operation)
        await until(lambda: backlog(database) == 0)
        way.elect(None)
        await trio.sleep(0.03)
        mine = await proxy.submit(Update(operation.uuid, AT, fields={"name": ("old", "mine")}))
        assert mine.state == "buffered"
        theirs = Write(OTHER, 1, Update(operation.uuid, AT, fields={"name": ("old", "theirs")}))
        way.node.entries.append(encode_write(theirs))
        await until(lambda: apply.mark(database.reader, OTHER) == 1)
        way.elect("two")
        await until(lambda: backlog(database) == 0)
        receipt = journal.receipt(database.reader, 2)
        assert receipt is not None
        assert receipt.state == State.CONFLICT.value
        found = catalogue.find(database.reader, operation.uuid)
        assert found is not None
        assert found.image.fields["name"] == "theirs"


# The registry's side.


async def test_everything_is_sent_in_order_in_bounded_batches(database):
    way = Way(database, registry=None)
    async with running(database, way, wait_s=0.0) as proxy:
        uuids = await submit_many(proxy, 11)
        way.elect("one")
        await until(lambda: backlog(database) == 0)
        assert [len(batch) for batch in way.batches] == [4, 4, 3]
        assert [write.sequence for batch in way.batches for write in batch] == list(range(1, 12))
        check_exactly_once(database, way, uuids)


@pytest.mark.parametrize(
    "script",
    [
        ["unreachable"] * 3,
        ["refused"] * 3,
        ["not-registry"] * 3,
        ["overloaded"] * 3,
        ["answer-lost"] * 3,
        ["accept", "answer-lost", "overloaded", "accept", "unreachable", "not-registry", "answer-lost", "refused"],
    ],
)
async def test_whatever_the_registry_answers_every_write_takes_effect_once_and_in_order(database, script):
    way = Way(database)
    way.script.extend(script)
    async with running(database, way) as proxy:
        uuids = await submit_many(proxy, 20)
        await until(lambda: backlog(database) == 0)
        check_exactly_once(database, way, uuids)


async def test_a_switch_off_rides_ahead_of_the_queue_with_what_waits_for_its_image(database):
    way = Way(database, registry=None)
    async with running(database, way, wait_s=0.0) as proxy:
        uuids = await submit_many(proxy, 9)
        last = journal.receipt(database.reader, 9)
        assert last is not None
        assert last.uuid is not None
        off = await proxy.submit(Update(last.uuid, AT, fields={"status": ("queued", "deactivated")}))
        await submit_many(proxy, 1)
        way.elect("one")
        await proxy.wait_for(10, 20.0)
        assert off.write_id == f"{ME}.10"
        await until(lambda: backlog(database) == 0)
        assert [one.sequence for one in way.batches[0]] == [9, 10]
        positions = {one.sequence: one.position for one in journal.receipts(database.reader, 20)}
        assert sorted(positions, key=lambda one: positions[one] or 0) == [9, 10, *range(1, 9), 11]
        assert apply.mark(database.reader, ME) == 11
        assert database.reader.execute("SELECT count(*) FROM ahead").get == 0
        found = catalogue.find(database.reader, last.uuid)
        assert found is not None
        assert found.image.fields["status"] == "deactivated"
        assert catalogue.replica(database.reader).images == len(uuids) + 1


@pytest.mark.parametrize("script", [["unreachable"] * 2, ["answer-lost"] * 2, ["not-registry"], ["overloaded"] * 2])
async def test_what_rides_ahead_takes_effect_once_whatever_the_registry_answers(database, script):
    way = Way(database, registry=None)
    way.script.extend(script)
    async with running(database, way, wait_s=0.0) as proxy:
        await submit_many(proxy, 6)
        last = journal.receipt(database.reader, 6)
        assert last is not None
        assert last.uuid is not None
        await proxy.submit(Update(last.uuid, AT, fields={"status": ("queued", "deactivated")}))
        way.elect("one")
        await until(lambda: backlog(database) == 0)
        assert {one.state for one in journal.receipts(database.reader, 10)} == {"committed"}
        assert apply.mark(database.reader, ME) == 7


@pytest.mark.parametrize("survive", [0, 1, 3, 5])
async def test_what_an_election_lost_is_sent_again_to_the_next_registry(database, survive):
    way = Way(database)
    way.applies = False
    async with running(database, way, wait_s=0.01) as proxy:
        uuids = await submit_many(proxy, 6)
        await until(lambda: len(way.node.entries) == 6)
        way.elect("two", survive)
        way.applies = True
        await until(lambda: backlog(database) == 0, proxy_module.STALL_S / 2)
        check_exactly_once(database, way, uuids)


@pytest.mark.parametrize("seed", range(6))
async def test_any_course_of_elections_and_losses_ends_with_every_write_once(database, seed):
    rng = Random(seed)
    way = Way(database)
    async with running(database, way, wait_s=0.005) as proxy:
        uuids: list[str] = []
        for turn in range(12):
            uuids += await submit_many(proxy, rng.randrange(4))
            way.script.extend(rng.choices(["accept", "unreachable", "answer-lost", "overloaded", "not-registry"], k=2))
            way.applies = rng.random() < 0.6
            if rng.random() < 0.5:
                way.elect(rng.choice([None, f"r{turn}"]), rng.randrange(4))
            await trio.sleep(0.002)
        way.script.clear()
        way.applies = True
        way.elect("last", 0)
        await until(lambda: backlog(database) == 0)
        check_exactly_once(database, way, uuids)


async def test_an_accepted_write_that_never_comes_is_sent_again(database, monkeypatch):
    monkeypatch.setattr(proxy_module, "STALL_S", 0.05)
    way = Way(database)
    way.applies = False
    async with running(database, way, wait_s=0.01) as proxy:
        uuids = await submit_many(proxy, 2)
        await until(lambda: len(way.node.entries) == 2)
        # Lost, and nobody noticed a change of the registry.
        way.node.entries.clear()
        way.node.core.term += 1
        way.applies = True
        await until(lambda: backlog(database) == 0)
        check_exactly_once(database, way, uuids)


async def test_what_an_earlier_run_left_waiting_is_sent_first_and_as_buffered(tmp_path):
    async with open_store(tmp_path) as database, running(database, Way(database, None), wait_s=0.0) as proxy:
        uuids = await submit_many(proxy, 3)
    async with open_store(tmp_path) as database:
        way = Way(database)
        async with running(database, way) as proxy:
            operation = create()
            assert (await proxy.submit(operation)).state == "committed"
            sent = [(write.sequence, write.buffered) for batch in way.batches for write in batch]
            assert sent == [(1, True), (2, True), (3, True), (4, False)]
            check_exactly_once(database, way, [*uuids, operation.uuid])


async def test_a_crash_after_acceptance_and_before_applying_sends_nothing_twice_into_effect(tmp_path):
    async with open_store(tmp_path) as database:
        first = Way(database)
        first.applies = False
        async with running(database, first, wait_s=0.01) as proxy:
            uuids = await submit_many(proxy, 3)
            await until(lambda: len(first.node.entries) == 3)
    async with open_store(tmp_path) as database:
        way = Way(database)
        way.node.entries[:] = first.node.entries  # the log has them; the new run of this node does not know
        way.applies = False
        async with running(database, way):
            await until(lambda: len(way.node.entries) >= 6)
            way.applies = True
            await until(lambda: backlog(database) == 0)
            check_exactly_once(database, way, uuids)


async def test_a_range_is_asked_for_through_the_journal_and_numbers_what_comes_later(database):
    way = Way(database)
    async with running(database, way) as proxy:
        assert (await proxy.submit(create())).receipt.integer is None  # type: ignore[union-attr]  # it was journaled
        await proxy.submit(Grant(10, 2**31 - 1), wait=False)
        await until(lambda: backlog(database) == 0)
        submitted = await proxy.submit(create())
        assert submitted.receipt is not None
        assert submitted.receipt.integer == 1


# Waiting for outcomes.


async def test_waiting_ends_when_the_write_is_applied(database):
    way = Way(database, registry=None)
    async with running(database, way, wait_s=0.0) as proxy:
        await proxy.submit(create())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(proxy.wait_for, 1, 60.0)
            await trio.sleep(0.01)
            way.elect("one")
        assert backlog(database) == 0


async def test_waiting_for_what_was_applied_before_ends_at_once(database):
    async with running(database, Way(database)) as proxy:
        await proxy.submit(create())
        with trio.fail_after(30):
            await proxy.wait_for(1, 60.0)


async def test_one_who_gives_up_waiting_does_not_end_the_waiting_of_others(database):
    way = Way(database, registry=None)
    async with running(database, way, wait_s=0.0) as proxy:
        await proxy.submit(create())
        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(proxy.wait_for, 1, 60.0)
                await proxy.wait_for(1, 0.02)
                way.elect("one")
        assert backlog(database) == 0


async def test_nobody_is_told_success_for_a_write_that_was_dropped(database):
    """An operator takes the write out while its client still waits."""
    way = Way(database, registry=None)
    async with running(database, way, wait_s=WAIT_S) as proxy:
        problems: list[Problem] = []

        async def client() -> None:
            with pytest.raises(Problem) as raised:
                await answers.write(cast(Zone, proxy), create())
            problems.append(raised.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(client)
            await until(lambda: backlog(database) == 1)
            by = Origin("a", "bob", 1, "r")
            assert await database.write(lambda c: holding.drop(c, ME, 1, "wrong", AT, by))
            way.elect("one")
    assert [(one.status, one.code, one.detail) for one in problems] == [(409, "dropped", "dropped by bob: wrong")]
    assert problems[0].headers["Zone-Write"] == f"{ME}.1; state=dropped"


async def test_what_is_dropped_or_held_during_a_pause_does_not_leave(database):
    """The drain's pause comes before the journal is read, not between reading and sending."""
    way = Way(database)
    async with running(database, way, wait_s=0.0) as proxy:
        way.registry = None
        for _ in range(3):
            await proxy.submit(create())
        proxy.drain = Drain(20.0, Random(0))
        proxy.drain.pause_s(24, trio.current_time())  # in debt: the next batch waits
        before = proxy.left_through
        way.elect("one")
        await trio.sleep(0.05)
        assert (way.batches, proxy.left_through) == ([], before)
        by = Origin("a", "bob", 1, "r")
        assert await database.write(lambda c: holding.drop(c, ME, 1, "wrong", AT, by))
        await database.write(lambda c: holding.hold(c, holding.Hold(3, "why", "bob", AT)))
        await until(lambda: backlog(database) == 1)
        assert [(one.sequence, type(one.operation)) for batch in way.batches for one in batch] == [
            (1, Drop),
            (2, Create),
        ]
        assert proxy.left_through == 2


def test_the_bounds_of_the_journal_come_from_its_table():
    assert limits(Journal(entries_max=5, bytes_max=4_096, free_disk_min_bytes=7), "/d") == Limits(5, 4_096, 7, "/d")
