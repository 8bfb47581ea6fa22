"""What `zoned.engine.Engine` promises, on the embedded log and on a real PostgreSQL, each in a real daemon."""

import queue
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
import trio

from conf import parse
from store import catalogue, log
from store.entries import Entry, EntryKind
from store.operations import Create, Write, decode_write, encode_write
from tests.zoned.conftest import OTHER, config_text, serve, until
from zoned.daemon import Running
from zoned.engine import Engine, check
from zoned.errors import CannotStart
from zoned.raft.ready import NotLeader

AT = "2026-11-22T09:00:00Z"
PATIENCE_S = 30.0


@dataclass
class Subject:
    """A daemon's engine, what it committed, and the way to its loop."""

    name: str
    text: str
    dsn: str

    def run(self, contract: Callable[["Running", Engine], Awaitable[Any]]) -> Any:
        """What `contract` returns, run in the loop of a daemon on this subject's store."""
        told: queue.Queue[Any] = queue.Queue()

        async def beside(running: Running) -> None:
            replication = running.zone.replication
            try:
                await until(lambda: replication.engine is not None and replication.engine.is_registry, PATIENCE_S)
                assert replication.engine is not None
                told.put(await contract(running, replication.engine))
            except BaseException as error:
                told.put(error)
                raise

        with serve(self.text, beside=beside):
            result = told.get(timeout=2 * PATIENCE_S)
        if isinstance(result, BaseException):
            raise result
        return result


@pytest.fixture(params=["embedded", "postgresql"])
def subject(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Subject]:
    dsn = str(request.getfixturevalue("dsn")) if request.param == "postgresql" else ""
    more = f'engine = "postgresql"\ndsn = ["{dsn}"]' if dsn else ""
    yield Subject(request.param, config_text(tmp_path / "store", registry=more), dsn)


def writes(first: int, count: int) -> list[bytes]:
    return [
        encode_write(Write(OTHER, n, Create(f"{n:08x}-0000-4000-8000-{OTHER[-12:]}", None, AT, {})))
        for n in range(first, first + count)
    ]


def committed(running: Running) -> list[Entry]:
    reader = running.zone.replication.database.reader
    return log.read(reader, 1, catalogue.replica(reader).position + 1, 2**40)


def sequences(entries: list[Entry]) -> list[int]:
    found = [decode_write(one.data) for one in entries if one.kind is EntryKind.WRITE]
    return [one.sequence for one in found if one.node == OTHER]


async def applied(running: Running, through: int) -> None:
    await until(lambda: through in sequences(committed(running)), PATIENCE_S)


def test_what_is_proposed_is_committed_in_order_with_positions_without_gaps(subject: Subject):
    async def contract(running: Running, engine: Engine) -> list[Entry]:
        for first in range(1, 101, 20):
            engine.propose(writes(first, 20))
        await applied(running, 100)
        return committed(running)

    entries = subject.run(contract)
    assert [entry.index for entry in entries] == list(range(1, len(entries) + 1))
    assert sequences(entries) == list(range(1, 101))
    assert [entry.term for entry in entries] == sorted(entry.term for entry in entries)


def test_a_read_index_covers_all_that_was_applied_before_it(subject: Subject):
    async def contract(running: Running, engine: Engine) -> None:
        for sequence in range(1, 6):
            engine.propose(writes(sequence, 1))
            await applied(running, sequence)
            position = running.zone.replication.positions.position
            for patient in (False, True):
                index = await engine.read_index(patient=patient)
                assert index is not None
                assert index >= position

    subject.run(contract)


def test_after_a_restart_positions_go_on_and_the_term_is_another(subject: Subject):
    async def first(running: Running, engine: Engine) -> tuple[int, list[Entry]]:
        engine.propose(writes(1, 3))
        await applied(running, 3)
        return engine.term, committed(running)

    async def second(running: Running, engine: Engine) -> tuple[int, list[Entry]]:
        engine.propose(writes(4, 3))
        await applied(running, 6)
        return engine.term, committed(running)

    (term, before), (later, after) = subject.run(first), subject.run(second)
    assert later > term
    assert after[: len(before)] == before
    assert sequences(after) == [1, 2, 3, 4, 5, 6]


def test_the_holder_is_named_and_only_it_takes_writes(subject: Subject):
    async def contract(running: Running, engine: Engine) -> None:
        replication = running.zone.replication
        assert engine.is_informed
        assert engine.holder == replication.registry == replication.me
        assert replication.registry_term == engine.term
        await replication.steer("transfer", OTHER) if subject.dsn else await trio.lowlevel.checkpoint()
        if subject.dsn:
            assert not engine.is_registry
            with pytest.raises(NotLeader):
                engine.propose(writes(1, 1))
            with pytest.raises(NotLeader):
                await engine.read_index()
            # Whom it was left to does not come: it is taken back after the election time.
            await until(lambda: engine.is_registry, PATIENCE_S)

    subject.run(contract)


def test_an_engine_that_cannot_run_is_named_in_one_line(monkeypatch: pytest.MonkeyPatch):
    settings = parse('[registry]\nengine = "postgresql"\ndsn = ["host=/x password=secret"]').registry
    with pytest.raises(CannotStart, match="passfile") as refused:
        check(settings)
    assert "secret" not in str(refused.value)
    with pytest.raises(CannotStart, match="number 1 cannot be used"):
        check(parse('[registry]\nengine = "postgresql"\ndsn = ["nonsense"]').registry)
    monkeypatch.setitem(__import__("sys").modules, "zoned.postgres.lanes", None)
    with pytest.raises(CannotStart, match=r"pip install 'zoned\[postgres\]'"):
        check(settings)
    check(parse("").registry)


def test_a_node_of_another_cluster_is_told_so(dsn: str, tmp_path: Path):
    """Its store was founded without the database, which has a log of its own."""
    own = Subject("embedded", config_text(tmp_path / "own"), "")
    more = f'engine = "postgresql"\ndsn = ["{dsn}"]'
    other = Subject("postgresql", config_text(tmp_path / "other", registry=more), dsn)

    async def nothing(running: Running, engine: Engine) -> None:
        await trio.lowlevel.checkpoint()

    own.run(nothing)
    found: queue.Queue[str] = queue.Queue()

    async def look(running: Running) -> None:
        replication = running.zone.replication
        await until(lambda: bool(replication.database_status.get("problem")), PATIENCE_S)
        found.put(replication.database_status["problem"])

    with serve(config_text(tmp_path / "own", registry=more), beside=look):
        assert "it is empty, and this node has the log of cluster" in found.get(timeout=PATIENCE_S)
    other.run(nothing)
    with serve(config_text(tmp_path / "own", registry=more), beside=look):
        assert "keeps the log of cluster" in found.get(timeout=PATIENCE_S)


def test_a_takeover_core_is_patient_only_with_others():
    from zoned.postgres.takeover import NOBODY, Look, Row, Take, Takeover

    core = Takeover("me", 0.2, 1.0, Random(1))
    core.answered(Look(), Row(3, 7, "me", 5), 0.0, 0.0)
    assert core.next() == Take(Row(3, 7, "me", 5), 4)  # what it had before a restart
    core.answered(core.next(), Row(4, 7, "me", 6), 0.1, 0.1)
    core.lost(gave_up=True)
    core.answered(Look(), Row(4, 7, NOBODY, 7), 0.2, 0.2)
    assert core.next() == Look()  # it gave it up itself: others first
    other = Takeover("other", 0.2, 1.0, Random(1))
    other.answered(Look(), Row(4, 7, NOBODY, 7), 0.2, 0.2)
    assert other.next() == Take(Row(4, 7, NOBODY, 7), 5)
    behind = Takeover("behind", 0.2, 1.0, Random(1))
    behind.answered(Look(), Row(9, 9, "x", 1), 0.0, 0.0)
    behind.answered(Look(), Row(2, 5, NOBODY, 1), 0.3, 0.3)  # the database failed over, and lost terms
    assert behind.next() == Take(Row(2, 5, NOBODY, 1), 10)
