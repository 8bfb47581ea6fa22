"""The bound by value, against a true history, and over HTTP."""

import math
import random
from typing import Any, cast

import httpx
import pytest
import trio
import trio.testing

from zoned import clock
from zoned.follow import Positions
from zoned.replication import Replication
from zoned.staleness import Bound, Staleness


def test_nothing_is_known_before_the_first_proof():
    bound = Bound()
    assert bound.at(5.0) is None
    bound.answered(1.0, 10, 9)
    assert bound.at(5.0) is None


def test_an_answer_counts_from_when_it_was_asked_once_its_position_is_applied():
    bound = Bound()
    bound.answered(1.0, 10, 10)
    assert bound.at(4.0) == 3.0
    bound.answered(2.0, 12, 11)
    assert bound.at(4.0) == 3.0
    bound.applied(12)
    assert bound.at(4.0) == 2.0


def test_a_late_answer_to_an_early_question_takes_nothing_back():
    bound = Bound()
    bound.answered(3.0, 10, 10)
    bound.answered(1.0, 5, 10)
    assert bound.at(4.0) == 1.0


@pytest.mark.parametrize("seed", range(200))
def test_the_bound_is_never_wrong(seed: int):
    """A true history of commits, read indices that arrive late or never, applying that lags: compare each bound."""
    rng = random.Random(seed)
    bound, now, committed, applied = Bound(), 0.0, [0.0], 0  # committed[i]: when position i was committed
    answers: list[tuple[float, float, int]] = []  # (arrives, asked, index)
    for _ in range(300):
        now += rng.expovariate(10)
        step = rng.random()
        if step < 0.4:
            committed.append(now)
        elif step < 0.6:
            # The registry reads its commit index somewhere between the question and the answer.
            asked, read_at = now, now + rng.expovariate(5)
            index = max(i for i, when in enumerate(committed) if when <= now)
            index = min(len(committed) - 1, index + rng.randint(0, 2) * (read_at > now))
            answers.append((read_at + rng.expovariate(2), asked, index))
        elif step < 0.9:
            applied = min(len(committed) - 1, applied + rng.randint(0, 5))
            bound.applied(applied)
        for arrived in [one for one in answers if one[0] <= now]:
            answers.remove(arrived)
            if rng.random() < 0.8:
                bound.answered(arrived[1], arrived[2], applied)
        said = bound.at(now)
        if said is not None:
            missing = committed[applied + 1] if applied + 1 < len(committed) else math.inf
            assert missing >= now - said - 1e-9, f"a commit of {missing} is missing, the bound at {now} is {said}"


class Replicating:
    """As much of a Replication as the bound needs."""

    def __init__(self) -> None:
        self.cluster_id = "first"
        self.positions = Positions(10)

    async def read_index(self, *, patient: bool) -> int:
        await trio.sleep(1)
        return 10


async def test_what_was_proved_in_a_history_that_was_given_up_is_forgotten(autojump_clock):
    replication = Replicating()
    staleness = Staleness(cast(Any, replication))
    assert await staleness.ask() == 10
    assert staleness.bound_s is not None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(staleness._watch_applied)
        await trio.testing.wait_all_tasks_blocked()
        nursery.start_soon(staleness.ask)
        await trio.testing.wait_all_tasks_blocked()
        replication.cluster_id = "second"  # an answer of the first is still under way
        replication.positions.advance(20)
        await trio.sleep(5)
        forgotten: float | None = staleness.bound_s
        assert await staleness.ask() == 10
        nursery.cancel_scope.cancel()
    assert forgotten is None
    assert staleness.bound_s is not None


class Registry:
    """Answers with `index` until it is gone (None)."""

    cluster_id = "c"

    def __init__(self) -> None:
        self.cluster_id = "one"
        self.positions = Positions(7)
        self.index: int | None = 7
        self.asked: list[bool] = []

    async def read_index(self, *, patient: bool) -> int | None:
        await trio.lowlevel.checkpoint()
        self.asked.append(patient)
        return self.index


async def test_a_voter_vouches_only_with_what_it_proved_after_the_question(autojump_clock):
    registry = Registry()
    staleness = Staleness(cast(Replication, registry))
    await staleness.ask(patient=True)
    proved = staleness.fresh_at
    assert proved is not None
    assert await staleness.position_since(proved) == 7
    answers: list[int | None] = []

    async def question(instant: float) -> None:
        answers.append(await staleness.position_since(instant))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(question, clock.boot())
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        registry.index = 9  # not applied here yet: proves nothing
        await staleness.ask(patient=True)
        await trio.testing.wait_all_tasks_blocked()
        assert answers == []
        registry.index = 7
        await staleness.ask(patient=True)
    assert answers == [7]
    assert await staleness.position_since(clock.boot()) is None  # and nobody asks the registry meanwhile
    assert registry.asked == [True, True, True]


async def test_whoever_waits_for_freshness_asks_at_once(autojump_clock):
    registry = Registry()
    staleness = Staleness(cast(Replication, registry))
    assert await staleness.wait_until(60.0, trio.current_time() + 5)
    assert registry.asked == [False]
    registry.index = None
    assert not await staleness.wait_until(0.0, trio.current_time() + 5)


async def test_answers_name_their_bound_and_reads_can_ask_for_more(served):
    async with httpx.AsyncClient(base_url=served.url, trust_env=False) as client:
        made = await client.post("/zone/v1/images", json={"name": "fresh"})
        position = int(made.headers["zone-position"])
        path = f"/zone/v1/images/{made.json()['uuid']}"
        found = await client.get(path, params={"consistent": "1"})
        assert found.status_code == 200
        assert 0 <= float(found.headers["zone-staleness"]) < 5
        for headers in ({"Zone-After-Position": str(position)}, {"Zone-Max-Staleness": "5", "Zone-On-Stale": "fail"}):
            assert (await client.get(path, headers=headers)).status_code == 200
        token = {"Zone-After-Position": str(position), "Zone-History": made.headers["zone-history"]}
        assert (await client.get(path, headers=token)).status_code == 200
        given_up = await client.get(path, headers={**token, "Zone-History": "another"})
        assert (given_up.status_code, given_up.json()["code"]) == (412, "other-history")
        wait = {"Zone-Max-Staleness": "1", "Zone-On-Stale": "wait"}
        assert (await client.get(path, headers=wait)).status_code == 200
        for headers in (
            {"Zone-After-Position": "x"},
            {"Zone-Max-Staleness": "-1"},
            {"Zone-Max-Staleness": "1", "Zone-On-Stale": "x"},
        ):
            assert (await client.get(path, headers=headers)).status_code == 400


async def test_a_zone_without_registry_says_that_it_cannot_prove_anything(cut_off):
    async with httpx.AsyncClient(base_url=cut_off.url, trust_env=False) as client:
        found = await client.get("/zone/v1/status")
        assert "zone-staleness" not in found.headers
        stale = await client.get("/zone/v1/status", headers={"Zone-Max-Staleness": "5", "Zone-On-Stale": "fail"})
        assert (stale.status_code, stale.json()["code"]) == (504, "stale")
        assert (await client.get("/zone/v1/status", headers={"Zone-Max-Staleness": "5"})).status_code == 200
        consistent = await client.get("/zone/v1/status?consistent=1")
        assert (consistent.status_code, consistent.json()["code"]) == (504, "not-consistent")
