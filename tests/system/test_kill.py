"""Goal: an acknowledged write is never lost and no integer is given twice, whoever is killed and whenever.

Method: clients stream creates, changes and deletes at random zones and write down every answer they got. Meanwhile a
seeded killer SIGKILLs one, two or all daemons at a random moment of the stream and starts them again. After each
round everything drains, and the clients' own record is compared with what every zone holds.
"""

import random
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx
import pytest
import trio

from tests.system.conftest import settled, start_all, status, until
from zoned.fleet import Daemon

pytestmark = pytest.mark.system

ROUNDS = 20
CLIENTS = 6
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


@dataclass
class Record:
    """What the clients were told."""

    integers: dict[str, int] = field(default_factory=dict)
    properties: dict[str, set[str]] = field(default_factory=dict)  # acknowledged additions, per image
    deleted: set[str] = field(default_factory=set)
    maybe_deleted: set[str] = field(default_factory=set)  # asked for, no answer: may have happened
    committed: int = 0
    buffered: int = 0
    failed: int = 0


class Clients:
    """Streams of writes that stop at nothing and note only what was acknowledged."""

    def __init__(self, http: httpx.AsyncClient, daemons: list[Daemon], rng: random.Random, record: Record) -> None:
        self.http = http
        self.daemons = daemons
        self.rng = rng
        self.record = record
        self.mine: list[str] = []

    async def stream(self) -> None:
        while True:
            daemon = self.rng.choice(self.daemons)
            step = self.rng.random()
            try:
                if step < 0.6 or not self.mine:
                    await self.create(daemon)
                elif step < 0.9:
                    await self.change(daemon, self.rng.choice(self.mine))
                else:
                    await self.delete(daemon, self.mine.pop(self.rng.randrange(len(self.mine))))
            except httpx.TransportError:
                self.record.failed += 1
                await trio.sleep(0.02)

    async def create(self, daemon: Daemon) -> None:
        wanted = str(uuid.UUID(int=self.rng.getrandbits(128), version=4))
        answer = await self.http.post(f"{daemon.url}/zone/v1/images", json={"uuid": wanted, "name": "n"})
        if answer.status_code == 503:  # a daemon that ends says so, and promises nothing
            self.record.failed += 1
            return
        assert answer.status_code in (201, 202), answer.text
        made = answer.json()
        assert made["uuid"] == wanted
        assert made["integer"] is not None
        assert made["integer"] not in self.record.integers.values(), f"integer {made['integer']} was given twice"
        self.record.integers[wanted] = made["integer"]
        self.record.committed += answer.status_code == 201
        self.record.buffered += answer.status_code == 202
        self.mine.append(wanted)

    async def change(self, daemon: Daemon, image: str) -> None:
        name = f"p{self.rng.getrandbits(32):08x}"
        body = [{"op": "add", "path": f"/{name}", "value": "v"}]
        answer = await self.http.patch(f"{daemon.url}/v2/images/{image}", json=body, headers=PATCH)
        # The zone may not know the image yet (404 or unsynced), or know that somebody deleted it: then it says so.
        if answer.status_code in (404, 503):
            return
        assert answer.status_code == 200, answer.text
        self.record.properties.setdefault(image, set()).add(name)

    async def delete(self, daemon: Daemon, image: str) -> None:
        self.record.maybe_deleted.add(image)
        answer = await self.http.delete(f"{daemon.url}/v2/images/{image}")
        if answer.status_code in (404, 503):
            return
        assert answer.status_code == 204, answer.text
        self.record.deleted.add(image)


async def check(http: httpx.AsyncClient, daemons: list[Daemon], record: Record) -> None:
    """Compares the clients' record with what every zone holds."""
    await settled(http, daemons)
    for daemon in daemons:
        held: dict[str, dict[str, Any]] = {}
        marker: str | None = ""
        while marker is not None:
            page = (await http.get(f"{daemon.url}/zone/v1/images?limit=1000{marker and f'&marker={marker}'}")).json()
            held.update({one["uuid"]: one for one in page["images"]})
            marker = page["next"]
        integers = [one["integer"] for one in held.values()]
        assert len(set(integers)) == len(integers), f"{daemon.zone} holds an integer twice"
        for image, integer in record.integers.items():
            if image in record.deleted:
                assert image not in held, f"{daemon.zone} shows deleted {image}"
            elif image not in record.maybe_deleted:
                assert image in held, f"{daemon.zone} lost acknowledged {image}"
                assert held[image]["integer"] == integer, f"{daemon.zone} gave {image} another integer"
                missing = record.properties.get(image, set()) - set(held[image]["properties"])
                assert not missing, f"{daemon.zone} lost acknowledged changes {missing} of {image}"


async def one_round(http: httpx.AsyncClient, daemons: list[Daemon], seed: int, record: Record) -> None:
    rng = random.Random(seed)
    victims = rng.sample(daemons, rng.choice([1, 1, 2, len(daemons)]))
    async with trio.open_nursery() as nursery:
        for number in range(CLIENTS):
            nursery.start_soon(Clients(http, daemons, random.Random(seed * 100 + number), record).stream)
        await trio.sleep(rng.uniform(0.05, 0.6))
        for victim in victims:
            victim.kill()
            await trio.sleep(rng.choice([0.0, 0.0, 0.05]))
        await trio.sleep(rng.uniform(0.2, 1.0))
        rng.shuffle(victims)
        for victim in victims:
            victim.start()
            await trio.sleep(rng.uniform(0.0, 0.3))
        nursery.cancel_scope.cancel()
    await start_all(http, daemons)


# httpx leaves a half-read body to the garbage collector when a request is cancelled, which trio remarks upon.
@pytest.mark.filterwarnings(
    "ignore:Exception ignored in. <async_generator object ByteStream:pytest.PytestUnraisableExceptionWarning"
)
async def test_no_acknowledged_write_is_lost_and_no_integer_repeats(fleet, client):
    # A short wait, so that many answers are `buffered` ones: those are the harder promise.
    daemons = fleet(3, extra="wait_s = 0.2\n")
    await start_all(client, daemons)

    async def has_integers() -> bool:
        return all([(await status(client, daemon))["ids"]["left"] for daemon in daemons])

    await until("every zone has integers", has_integers)
    record = Record()
    for seed in range(ROUNDS):
        try:
            await one_round(client, daemons, seed, record)
            await check(client, daemons, record)
        except BaseException as error:
            error.add_note(f"in the round of seed {seed}")
            raise
    print(f"\n{record.committed} committed, {record.buffered} buffered, {record.failed} unanswered")
    # A check that cannot fail is none: there was something to lose, in both ways of answering.
    assert record.committed > 20  # few on a busy machine: most are then answered as buffered
    assert record.buffered > 20
    assert record.failed > 0
    assert sum(map(len, record.properties.values())) > 50
    assert record.deleted
