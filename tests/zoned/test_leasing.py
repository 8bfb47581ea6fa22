"""Integers before they are needed: how many to ask for, and the asking on a real store."""

from uuid import uuid4

import pytest
import trio

from conf import Ids
from store import catalogue, journal, ranges
from store.operations import Create
from store.ranges import Runway
from tests.zoned.conftest import captured_logs, until
from tests.zoned.test_proxy import AT, Way, backlog, running
from zoned import leasing
from zoned.leasing import Leasing, wanted

SMALL = Ids(lease_min=4)


@pytest.fixture(autouse=True)
def look_often(monkeypatch):
    monkeypatch.setattr(leasing, "LOOK_S", 0.01)


@pytest.mark.parametrize(
    ("left", "rate", "count"),
    [
        (0, 0, 1_000),
        (500, 0, 1_000),
        (501, 0, 0),
        (0, 100, 3_000),
        (1_500, 100, 3_000),
        (1_501, 100, 0),
        (0, 10, 1_000),
    ],
)
def test_at_half_a_runway_a_whole_one_is_asked_for(left, rate, count):
    assert wanted(Ids(), Runway(left, float(rate), None)) == count


async def test_a_new_node_asks_for_integers_and_keeps_half_a_lease_in_hand(database):
    way = Way(database)
    async with running(database, way) as proxy, trio.open_nursery() as nursery:
        await nursery.start(Leasing(database, proxy, SMALL).serve)
        await until(lambda: ranges.runway(database.reader, 0).left == 4)
        numbers = []
        for _ in range(20):
            await until(lambda: ranges.runway(database.reader, 0).left > 0)
            submitted = await proxy.submit(Create(str(uuid4()), None, AT, {}))
            assert submitted.receipt is not None
            numbers.append(submitted.receipt.integer)
        assert numbers == list(range(1, 21))
        nursery.cancel_scope.cancel()


async def test_without_a_registry_one_request_waits_and_no_more_are_made(database):
    way = Way(database, registry=None)
    async with running(database, way) as proxy, trio.open_nursery() as nursery:
        await nursery.start(Leasing(database, proxy, SMALL).serve)
        await until(lambda: backlog(database) == 1)
        await trio.sleep(0.1)
        assert backlog(database) == 1
        assert journal.has_grant(database.reader)
        nursery.cancel_scope.cancel()


async def test_what_was_made_without_an_integer_is_numbered_once_a_range_arrives(database):
    way = Way(database, registry=None)
    uuids = [str(uuid4()) for _ in range(3)]
    async with running(database, way, wait_s=0.0) as proxy, trio.open_nursery() as nursery:
        for uuid in uuids:
            await proxy.submit(Create(uuid, None, AT, {}))
        await nursery.start(Leasing(database, proxy, SMALL).serve)
        way.elect("one")

        def numbers() -> list[int | None]:
            found = [catalogue.find(database.reader, uuid) for uuid in uuids]
            return [one.image.integer if one else None for one in found]

        await until(lambda: None not in numbers())
        await until(lambda: backlog(database) == 0)
        assert len(set(numbers())) == 3
        assert catalogue.recount(database.reader) == catalogue.replica(database.reader)
        nursery.cancel_scope.cancel()


async def test_it_is_loud_long_before_integers_run_out(database):
    way = Way(database, registry=None)
    async with running(database, way) as proxy:
        with captured_logs() as lines:
            watch = Leasing(database, proxy, Ids(ceiling=2**31 - 1))
            for left, counter in ((1_000, 1), (60, 1), (50, 1), (1_000, 2_000_000_000), (900, 2_000_000_001), (10, 1)):
                watch._tell(Runway(left, 10.0, left / 10), counter)
        assert [line["event"] for line in lines if line["log_level"] == "error"] == [
            "integers run short",
            "the ceiling of integers is near",
            "integers run short",
        ]
