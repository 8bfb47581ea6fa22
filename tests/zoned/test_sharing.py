"""Shared journals: whom to help by value, and three nodes in one process whose links a test cuts."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from conf import Registry as Settings
from gossip import Member, MemberView, State
from store import apply, catalogue, journal, shared
from store.database import Database
from store.entries import Entry, EntryKind
from store.journal import Limits
from store.operations import Delete, Grant, Update, Write, decode, encode, encode_write, switches_off
from tests.zoned.conftest import open_store, until
from tests.zoned.test_proxy import AT, Way, create
from zoned import receipts as receipts_module
from zoned import sharing as sharing_module
from zoned.errors import PeerRefused, PeerUnreachable
from zoned.follow import Positions
from zoned.proxy import Proxy
from zoned.receipts import Receipts
from zoned.registry import Accepted, NotRegistry, Overloaded
from zoned.sharing import Relief, Sharing, donors, pack, unpack
from zoned.supervise import Backoff

A, B, C = (f"00000000-0000-4000-8000-00000000000{letter}" for letter in "abc")
ZONES = {A: "alpha", B: "beta", C: "gamma"}
PATIENCE_S = sharing_module.PATIENCE_S


def writes(first: int, last: int) -> list[Write]:
    return [Write(A, n, Grant(1, 9), True) for n in range(first, last + 1)]


def test_a_journal_that_moves_is_left_alone_and_one_that_stands_still_is_helped():
    relief = Relief(Random(1))
    assert relief.due(0.0, {A: 3}, set()) == []
    assert relief.due(PATIENCE_S * 0.9, {A: 4}, set()) == []
    assert relief.due(PATIENCE_S * 1.5, {A: 5}, set()) == []
    assert relief.due(PATIENCE_S * 4.0, {A: 5}, set()) == [(A, 5)]


def test_whom_others_wait_for_is_helped_at_once():
    assert Relief(Random(1)).due(0.0, {A: 3, B: 0}, {A}) == [(A, 3)]


def test_a_helper_goes_on_behind_what_was_accepted_and_from_the_mark_when_in_doubt():
    relief = Relief(Random(1))
    relief.due(0.0, {A: 0}, {A})
    assert relief.answered(writes(1, 5), Accepted(5, 1), 0.1)
    assert relief.due(0.2, {A: 2}, set()) == [(A, 5)]
    relief.doubt(0.3)
    assert relief.due(0.4, {A: 2}, set()) == [(A, 2)]
    assert relief.answered(writes(3, 5), Accepted(5, 1), 0.5)
    assert relief.due(0.6 + sharing_module.STALL_S, {A: 2}, set()) == [(A, 2)]


@pytest.mark.parametrize(
    "answer", [None, NotRegistry(""), Overloaded(), Accepted(9, 1), Accepted(2, 1)], ids=lambda one: repr(one)
)
def test_a_helper_that_gets_nowhere_waits(answer):
    relief = Relief(Random(1))
    relief.due(0.0, {A: 2}, {A})
    assert not relief.answered(writes(3, 5), answer, 1.0)
    assert relief.due(1.1, {A: 2}, set()) == []
    assert relief.due(1.1 + 2 * PATIENCE_S, {A: 2}, set()) == [(A, 2)]


def test_two_far_groups_of_very_many_nodes_still_pull_from_each_other():
    """Each node's nearest are all of its own group; what it journals comes to everybody all the same."""
    groups = [[f"{group} {n}" for n in range(60)] for group in "ab"]
    pulls = {me: donors(me, [*mine, *theirs]) for mine, theirs in (groups, groups[::-1]) for me in mine}
    assert {len(found) for found in pulls.values()} == {sharing_module.PEERS_NEAR + sharing_module.PEERS_FAR}
    for origin in (groups[0][0], groups[1][59]):
        have = {origin}
        for _ in range(5):
            have |= {me for me, found in pulls.items() if found & have}
        assert have == set(pulls)
    few = [str(n) for n in range(20)]
    assert donors("x", few) == set(few)


GOOD = [A, 1, 0.0, None, encode(Grant(1, 9))]


@pytest.mark.parametrize(
    "packed",
    [
        None, {}, [1], [[]], [["x", *GOOD[1:]]], [[A, 0, *GOOD[2:]]], [[A, 1, float("nan"), *GOOD[3:]]],
        [[*GOOD[:3], b"\x01", GOOD[4]]], [[*GOOD[:4], b"\x93"]], [[*GOOD[:4], encode(Grant(0, 9))]], [[*GOOD, 1]],
        [[A, 2**53, *GOOD[2:]]],
    ],
)  # fmt: skip
def test_what_no_correct_node_gives_is_refused(packed):
    with pytest.raises(PeerRefused):
        unpack(packed)


def test_rows_travel_as_they_are():
    rows = unpack([GOOD])
    assert pack(rows) == [GOOD]


# Three nodes.


class Ways(Way):
    """A way to the registry that also says of which cluster it is."""

    cluster_id = "c"


class Node:
    """One node of the test, with what the daemon would give it."""

    def __init__(self, me: str, database: Database, others: "dict[str, Node]", cut: set[tuple[str, str]]) -> None:
        self.id = me
        self.database = database
        self.way = Ways(database, None)
        self.way.applied = []
        limits = Limits(10_000, 10**8, 0, str(database.path.parent))
        settings = Settings(wait_s=0.0)
        rng = Random(me)
        self.members: dict[str, MemberView] = {
            one: MemberView(Member(one, 1, zone, "h", 1, facts={"cluster": "c"}), State.ALIVE, 0.0)
            for one, zone in ZONES.items()
        }
        self.proxy = Proxy(me, database, self.way, settings, limits, Backoff(0.005, 0.02, rng))
        self.sharing = Sharing(
            me, database, self, self.members, self.way, self.proxy, settings, limits, rng  # type: ignore[arg-type]  # this node stands in for its peers
        )  # fmt: skip
        self.positions = Positions(0)
        self.receipts = Receipts(me, database, self.proxy, self.sharing, self.members, self.positions)
        self._others = others
        self._cut = cut

    async def ask(self, node_id: str, path: str, body: Any, timeout_s: float) -> Any:
        """Implements `zoned.peers.Peers.ask`, for the one question that is asked here."""
        assert path == "journal"
        _cluster, asker, wait_s, wanted, without = body
        await trio.sleep(0.001)
        if (asker, node_id) in self._cut:
            raise PeerUnreachable("cut")
        answer = pack(await self._others[node_id].sharing.give(asker, wanted, set(without), min(wait_s, 0.05)))
        if (asker, node_id) in self._cut:
            raise PeerUnreachable("cut")
        return answer

    def shows(self, uuid: str) -> tuple[str, object] | None:
        found = catalogue.find(self.database.reader, uuid)
        return (found.source.value, found.image.fields["name"]) if found is not None else None

    def held(self) -> int:
        return shared.stock(self.database.reader).entries


@asynccontextmanager
async def three(tmp_path: Path, cut: set[tuple[str, str]]) -> AsyncIterator[tuple[Node, Node, Node]]:
    nodes: dict[str, Node] = {}
    async with (
        open_store(tmp_path / "a", A) as a,
        open_store(tmp_path / "b", B) as b,
        open_store(tmp_path / "c", C) as c,
    ):
        for me, database in ((A, a), (B, b), (C, c)):
            nodes[me] = Node(me, database, nodes, cut)
        async with trio.open_nursery() as nursery:
            for node in nodes.values():
                await nursery.start(node.proxy.serve)
                await nursery.start(node.sharing.serve)
            yield nodes[A], nodes[B], nodes[C]
            nursery.cancel_scope.cancel()


def cut_between(*pairs: tuple[str, str]) -> set[tuple[str, str]]:
    return {pair for a, b in pairs for pair in ((a, b), (b, a))}


async def apply_everywhere(nodes: tuple[Node, ...], entries: list[bytes], since: int = 0) -> None:
    log = [Entry(since + n, 1, EntryKind.WRITE, data) for n, data in enumerate(entries, 1)]
    for node in nodes:
        own = await node.database.write(lambda c, me=node.id: apply.apply(c, log, me, 0.0))  # type: ignore[misc]  # mypy infers no lambda defaults
        node.positions.advance(since + len(log))
        node.proxy.on_applied(since + len(log), own)


async def test_what_waits_in_one_zone_is_held_and_shown_in_the_others(tmp_path):
    async with three(tmp_path, set()) as (a, b, c):
        operation = create("backup")
        submitted = await a.proxy.submit(operation)
        await until(lambda: b.shows(operation.uuid) == c.shows(operation.uuid) == ("provisional", "backup"))
        told = await a.receipts.wait(1, "shared", 10.0, peers=2)
        assert told is not None
        assert (told.state, told.shared) == ("shared", (B, C))
        assert submitted.state == "buffered"


async def test_two_who_do_not_reach_each_other_hear_of_each_other_from_a_third(tmp_path):
    async with three(tmp_path, cut_between((A, B))) as (a, b, _c):
        mine, theirs = create("a"), create("b")
        await a.proxy.submit(mine)
        await b.proxy.submit(theirs)
        await until(lambda: b.shows(mine.uuid) is not None and a.shows(theirs.uuid) is not None)
        await a.proxy.submit(Update(theirs.uuid, AT, fields={"name": ("b", "a's")}))
        await until(lambda: b.shows(theirs.uuid) == ("journal", "b"))
        told = await a.receipts.wait(1, "shared", 10.0)
        assert told is not None
        assert told.shared == (C,)


async def test_whoever_reaches_a_registry_forwards_for_who_cannot_and_once_is_enough(tmp_path):
    async with three(tmp_path, set()) as (a, b, c):
        operations = [create(f"{n}") for n in range(5)]
        for operation in operations:
            await a.proxy.submit(operation)
        await until(lambda: b.held() == c.held() == 5)
        for helper in (b, c):
            helper.way.elect("registry")
        for helper in (b, c):
            await until(lambda helper=helper: len(helper.way.node.entries) == 5)  # type: ignore[misc]  # as above
        # Both logs end up in one: what comes twice takes effect once.
        await apply_everywhere((a, b, c), [*b.way.node.entries, *c.way.node.entries])
        assert b.held() == c.held() == journal.backlog(a.database.reader).entries == 0
        assert {node.shows(operations[4].uuid) for node in (a, b, c)} == {("local", "4")}
        told = await a.receipts.wait(5, "committed", 10.0)
        assert told is not None
        assert (told.state, told.receipt.position) == ("committed", 5)


async def test_a_change_of_a_provisional_record_brings_the_record_along(tmp_path):
    async with three(tmp_path, set()) as (a, b, _c):
        operation = create("n")
        await a.proxy.submit(operation)
        await until(lambda: b.shows(operation.uuid) is not None)
        await b.proxy.submit(Update(operation.uuid, AT, fields={"name": ("n", "m")}))
        b.way.elect("registry")
        await until(lambda: len(b.way.node.entries) == 1)
        await apply_everywhere((b,), b.way.node.entries)
        await until(lambda: len(b.way.node.entries) == 2)
        await apply_everywhere((b,), b.way.node.entries[1:], since=1)
        assert b.shows(operation.uuid) == ("local", "m")


async def test_a_full_disk_keeps_nothing_of_others_and_loses_nothing(tmp_path):
    async with three(tmp_path, set()) as (a, b, c):
        b.sharing._limits = replace(b.sharing._limits, free_disk_min_bytes=2**62)
        operation = create("n")
        await a.proxy.submit(operation)
        await until(lambda: c.held() == 1)
        assert b.held() == 0
        b.sharing._limits = replace(b.sharing._limits, free_disk_min_bytes=0)
        await until(lambda: b.held() == 1)


async def test_receipts_say_which_zones_have_seen_a_write_and_take_nothing_back(tmp_path):
    async with three(tmp_path, set()) as (a, b, c):
        await a.proxy.submit(create("n"))
        waiting = await a.receipts.wait(1, "committed", 0.0)
        assert waiting is not None
        assert (waiting.state, waiting.unseen) in (
            ("journaled", ("alpha", "beta", "gamma")),
            ("shared", ("alpha", "beta", "gamma")),
        )
        rows = journal.read(a.database.reader, 0, 10, 10**6)
        write = Write(A, 1, decode(rows[0][1]), True)
        await apply_everywhere((a, b, c), [encode_write(write)])
        told = await a.receipts.wait(1, "seen", 0.0)
        assert told is not None
        assert (told.state, set(told.seen), told.unseen) == ("committed", {"alpha"}, ("beta", "gamma"))
        positions: Mapping[str, int] = {B: 1, C: 1}
        for node, position in positions.items():
            a.members[node] = replace(a.members[node], vitals={"position": position})
        told = await a.receipts.wait(1, "seen", 10.0)
        assert told is not None
        assert (told.state, told.unseen) == ("seen", ())
        for node in positions:
            a.members[node] = replace(a.members[node], vitals={})
        told = await a.receipts.wait(1, "seen", 0.0)
        assert told is not None
        assert (told.state, set(told.seen)) == ("seen", {"alpha", "beta", "gamma"})


async def test_a_node_of_another_cluster_has_seen_nothing(tmp_path):
    """What it says of its position is of another log."""
    async with three(tmp_path, set()) as (a, b, c):
        await a.proxy.submit(create("n"))
        rows = journal.read(a.database.reader, 0, 10, 10**6)
        await apply_everywhere((a, b, c), [encode_write(Write(A, 1, decode(rows[0][1]), True))])
        for node, cluster in ((B, "c"), (C, "given up")):
            member = replace(a.members[node].member, facts={"cluster": cluster})
            a.members[node] = replace(a.members[node], member=member, vitals={"position": 100})
        told = await a.receipts.wait(1, "seen", 0.0)
        assert told is not None
        assert (told.state, set(told.seen), told.unseen) == ("committed", {"alpha", "beta"}, ("gamma",))


async def test_what_was_switched_off_is_watched_until_every_zone_has_seen_it(tmp_path, monkeypatch):
    monkeypatch.setattr(receipts_module, "WATCH_S", 0.01)
    async with three(tmp_path, set()) as (a, b, c), trio.open_nursery() as nursery:
        nursery.start_soon(a.receipts.serve)
        operation = create("n")
        await a.proxy.submit(operation)
        await a.proxy.submit(Delete(operation.uuid, AT))
        rows = journal.read(a.database.reader, 0, 10, 10**6)
        log = [encode_write(Write(A, sequence, decode(data), True)) for sequence, data in rows]
        await apply_everywhere((a, b, c), log)
        await until(lambda: set(journal.seen(a.database.reader, 2)) == {"alpha"})
        for node in (B, C):
            a.members[node] = replace(a.members[node], vitals={"position": 2})
        await until(lambda: set(journal.seen(a.database.reader, 2)) == {"", "alpha", "beta", "gamma"})
        await until(lambda: journal.watched(a.database.reader, 10) == [])
        nursery.cancel_scope.cancel()


async def test_a_switch_off_among_others_writes_is_forwarded_at_once_with_what_waits_for_its_image(tmp_path):
    """`a` reaches no registry, `b` does: the rest of the journal of `a` stands still and is none of `b`'s haste."""
    async with three(tmp_path, set()) as (a, b, _c):
        made = [create("n") for _ in range(5)]
        for operation in made:
            await a.proxy.submit(operation)
        await a.proxy.submit(Update(made[3].uuid, AT, fields={"status": ("queued", "deactivated")}))
        await until(lambda: len(shared.run(b.database.reader, A, 0, 10, 10**6)) == 6)
        b.way.elect("one")
        await until(lambda: any(one.ahead for batch in b.way.batches for one in batch))
        first = b.way.batches[0]
        assert [(one.node, one.sequence, one.ahead) for one in first] == [(A, 4, True), (A, 6, True)]


@pytest.mark.parametrize(
    ("operation", "does"),
    [
        (Delete(A, AT), True),
        (Update(A, AT, fields={"status": ("active", "deactivated")}), True),
        (Update(A, AT, fields={"status": ("deactivated", "active")}), False),
        (Update(A, AT, fields={"name": ("a", "b")}), False),
        (create(), False),
    ],
)
def test_what_switches_off(operation, does):
    assert switches_off(operation) is does
