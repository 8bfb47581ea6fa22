"""`zoned demo`: real daemons on loopback, the whole story, every claim checked.

Discover, register, look up, lose the registry, lose the majority (or the database), go on, heal. A claim that does not
hold ends the demo with exit status 1 and says what was seen instead.
"""

import shutil
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import orjson
import trio
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from conf import Registry
from store.images import FIELDS
from zoned.engine import check
from zoned.errors import CannotStart
from zoned.fleet import Daemon, FleetError, ended, make, zone_names

if TYPE_CHECKING:
    from zoned.postgres.scratch import Server

BACKUPS = 200
AT_ONCE = 16  # requests under way at one time
PATIENCE_S = 30.0  # for anything that should happen by itself
LOOK_S = 0.05


class ClaimFailed(Exception):
    """Something that the demo promises was not so. The text says what was seen."""


@dataclass(slots=True)
class Story:
    """What is shown: a line and a row per claim, a bar for the long ones."""

    console: Console
    progress: Progress
    rows: list[tuple[str, str, str]] = field(default_factory=list)
    began: float = field(default_factory=trio.current_time)

    @asynccontextmanager
    async def claim(self, text: str) -> AsyncIterator[list[str]]:
        """One claim: leaving the block quietly means that it holds; the list collects what was seen."""
        seen: list[str] = []
        began = trio.current_time()
        task = self.progress.add_task(text, total=None)
        try:
            yield seen
        finally:
            self.progress.remove_task(task)
        took = f"{trio.current_time() - began:.2f} s"
        self.rows.append((text, "; ".join(seen), took))
        self.progress.console.print(f"[green]✓[/green] {text}: {'; '.join(seen)} [dim]({took})[/dim]")


def source_records() -> list[dict[str, Any]]:
    """The records of a real Glance that ship with the package."""
    text = files("zoned").joinpath("data/catalogue.jsonl").read_bytes()
    return [orjson.loads(line) for line in text.splitlines()]


# What Glance says beside the record itself; everything else is compared.
_LINKS = {"self", "file", "schema", "direct_url", "stores"}
_BASE = tuple(FIELDS)


def registration(source: dict[str, Any]) -> dict[str, Any]:
    """A Glance record as a body of `POST /zone/v1/images`."""
    own = {"id", "tags", "locations", *_LINKS, *_BASE}
    return {
        "uuid": source["id"],
        **{name: source[name] for name in _BASE},
        "tags": source["tags"],
        "locations": source["locations"],
        "properties": {name: value for name, value in source.items() if name not in own},
    }


def comparable(document: dict[str, Any]) -> dict[str, Any]:
    """A record of the Images API in a form that can be compared: tags in order, zoned's own field left out."""
    return {**{k: v for k, v in document.items() if k != "zoned_id"}, "tags": sorted(document["tags"])}


class Demo:
    """The story, told to one fleet."""

    def __init__(
        self, daemons: list[Daemon], client: httpx.AsyncClient, story: Story, server: "Server | None" = None
    ) -> None:
        """`server`: the PostgreSQL that keeps the registry, if one does."""
        self.daemons = daemons
        self.server = server
        self.client = client
        self.story = story
        self.integers: dict[str, int] = {}  # UUID -> integer, of every answer that a client got

    @property
    def running(self) -> list[Daemon]:
        return [daemon for daemon in self.daemons if daemon.is_running]

    async def get(self, daemon: Daemon, path: str) -> Any:
        answer = await self.client.get(daemon.url + path)
        if answer.status_code != 200:
            raise ClaimFailed(f"{daemon.zone} answered GET {path} with {answer.status_code}: {answer.text[:200]}")
        return answer.json()

    async def until(self, what: str, look: Callable[[], Awaitable[bool]]) -> None:
        """Waits until `look` says so. Raises ClaimFailed after PATIENCE_S."""
        with trio.move_on_after(PATIENCE_S):
            while not await look():  # noqa: ASYNC110  # what is awaited happens in another process
                await trio.sleep(LOOK_S)
            return
        raise ClaimFailed(f"not within {PATIENCE_S:.0f} s: {what}")

    async def for_all(self, label: str, items: Iterable[Any], work: Callable[[Any], Awaitable[None]]) -> None:
        """Runs `work` for each item, AT_ONCE at a time, with a bar."""
        waiting = list(items)
        task: TaskID = self.story.progress.add_task(label, total=len(waiting))
        waiting.reverse()

        async def worker() -> None:
            while waiting:
                await work(waiting.pop())
                self.story.progress.advance(task)

        try:
            async with trio.open_nursery() as nursery:
                for _ in range(AT_ONCE):
                    nursery.start_soon(worker)
        finally:
            self.story.progress.remove_task(task)

    async def register(self, daemon: Daemon, body: dict[str, Any], states: set[str]) -> str:
        """Registers an image; its state. Checks that the answer has what a client was promised."""
        answer = await self.client.post(daemon.url + "/zone/v1/images", content=orjson.dumps(body))
        if answer.status_code not in (201, 202):
            raise ClaimFailed(f"{daemon.zone} answered a registration with {answer.status_code}: {answer.text[:200]}")
        made = answer.json()
        if made["state"] not in states or made["integer"] is None or (body.get("uuid", made["uuid"]) != made["uuid"]):
            raise ClaimFailed(f"{daemon.zone} answered a registration with {made}")
        self.integers[made["uuid"]] = made["integer"]
        return str(made["state"])

    async def look_up_all(self, daemon: Daemon, label: str) -> int:
        """Asks `daemon` for every image ever registered, by UUID and by integer; how many lookups that was."""

        async def look(item: tuple[str, int]) -> None:
            uuid, integer = item
            for reference in (uuid, integer):
                found = await self.get(daemon, f"/zone/v1/images/{reference}")
                if (found["uuid"], found["integer"]) != item:
                    raise ClaimFailed(f"{daemon.zone} found {found['uuid']}/{found['integer']} for {reference}")

        await self.for_all(label, self.integers.items(), look)
        return 2 * len(self.integers)

    # The chapters.

    async def discover(self) -> None:
        async with self.story.claim("zones find each other") as seen:
            for daemon in self.daemons:
                daemon.start()
            for daemon in self.daemons:
                await daemon.wait_ready(self.client)
            await self.until("every zone lists all zones alive", self._all_see_all)
            seen.append(f"{len(self.daemons)} of {len(self.daemons)} in every zone's list")

    async def _all_see_all(self) -> bool:
        for daemon in self.running:
            zones = (await self.get(daemon, "/zone/v1/zones"))["zones"]
            alive = {one["zone"] for one in zones if one["state"] == "alive"}
            if alive != {other.zone for other in self.running}:
                return False
        return True

    async def elect(self, text: str) -> Daemon:
        """Waits until every running zone names the same registry; the registry's daemon."""
        found: list[Daemon] = []

        async def agreed() -> bool:
            named = {(await self.get(d, "/zone/v1/status"))["registry"]["zone"] for d in self.running}
            found[:] = [d for d in self.running if named == {d.zone}]
            return bool(found)

        async with self.story.claim(text) as seen:
            await self.until("all zones name the same registry", agreed)
            seen.append(f"all zones name {found[0].zone}")
        return found[0]

    async def register_catalogue(self) -> list[dict[str, Any]]:
        sources = source_records()
        first, last = self.daemons[0], self.daemons[-1]
        async with self.story.claim(f"the catalogue is registered in {first.zone}") as seen:
            began = trio.current_time()

            async def one(source: dict[str, Any]) -> None:
                await self.register(first, registration(source), {"committed"})

            await self.for_all("registering", sources, one)
            rate = len(sources) / (trio.current_time() - began)
            seen.append(f"{len(sources)} records committed, {rate:.0f}/s")
        async with self.story.claim(f"every record is found in {last.zone}, equal to its source") as seen:
            await self.until(f"{last.zone} has applied the records", lambda: self._has_position_of(first, last))

            async def compare(source: dict[str, Any]) -> None:
                found = await self.get(last, f"/v2/images/{source['id']}")
                if comparable(found) != comparable(source) or found["zoned_id"] != self.integers[source["id"]]:
                    raise ClaimFailed(f"{last.zone} has {found}, the source {source}")

            await self.for_all("comparing", sources, compare)
            lookups = await self.look_up_all(last, "looking up")
            seen.append(f"{len(sources)} records equal field by field, {lookups} lookups by UUID and integer")
        return sources

    async def _has_position_of(self, one: Daemon, other: Daemon) -> bool:
        wanted = (await self.get(one, "/zone/v1/status"))["catalogue"]["position"]
        there = (await self.get(other, "/zone/v1/status"))["catalogue"]["position"]
        return bool(there >= wanted)

    async def lose_registry(self, registry: Daemon) -> None:
        async with self.story.claim(f"the registry ({registry.zone}) is killed with SIGKILL, another serves") as seen:
            registry.kill()
            killed = trio.current_time()
            survivor = self.running[0]
            number = 0

            async def committed() -> bool:
                nonlocal number
                number += 1
                return (
                    await self.register(
                        survivor, {"name": f"after the registry's death {number}"}, {"committed", "buffered"}
                    )
                    == "committed"
                )

            await self.until("a write is committed again", committed)
            seen.append(f"next committed write {trio.current_time() - killed:.2f} s after the kill")

    async def lose_majority(self) -> Daemon:
        remaining = self.running[-1]
        who = f"all zones but {remaining.zone}" if self.server is None else f"PostgreSQL and all but {remaining.zone}"
        async with self.story.claim(f"{who} are killed, it goes on registering") as seen:
            for daemon in self.running[:-1]:
                daemon.kill()
            if self.server is not None:
                await trio.to_thread.run_sync(self.server.kill)

            async def backup(number: int) -> None:
                body = {"name": f"backup {number}", "size": 1_000 + number, "properties": {"image_type": "backup"}}
                body["locations"] = [{"url": f"https://objects.example.org/backups/{number}", "metadata": {}}]
                await self.register(remaining, body, {"buffered"})

            await self.for_all("backing up", range(BACKUPS), backup)
            seen.append(f"{BACKUPS} backups, each answered with UUID and integer")
        async with self.story.claim(f"{remaining.zone} still answers every lookup") as seen:
            seen.append(f"{await self.look_up_all(remaining, 'looking up')} lookups by UUID and integer")
        return remaining

    async def heal(self, remaining: Daemon) -> None:
        async with self.story.claim("the others come back, the journal drains") as seen:
            waiting = (await self.get(remaining, "/zone/v1/status"))["journal"]["entries"]
            began = trio.current_time()
            if self.server is not None:
                await trio.to_thread.run_sync(self.server.start)
            for daemon in self.daemons:
                if not daemon.is_running:
                    daemon.start()
            for daemon in self.daemons:
                await daemon.wait_ready(self.client)

            async def drained() -> bool:
                return not any([(await self.get(d, "/zone/v1/status"))["journal"]["entries"] for d in self.daemons])

            await self.until("every journal is empty", drained)
            seen.append(f"{waiting} waiting writes committed {trio.current_time() - began:.2f} s after their start")
        async with self.story.claim("all zones hold the same catalogue") as seen:
            await self.until("equal positions", self._equal_positions)
            states = [(await self.get(daemon, "/zone/v1/status"))["catalogue"] for daemon in self.daemons]
            if any(state != states[0] for state in states):
                raise ClaimFailed(f"the zones' catalogues differ: {states}")
            if states[0]["images"] != len(self.integers):
                raise ClaimFailed(f"{states[0]['images']} images are held, {len(self.integers)} were registered")
            seen.append(
                f"{states[0]['images']} images, hash {states[0]['hash'][:16]}… at position {states[0]['position']}"
            )
        async with self.story.claim("no integer was given twice") as seen:
            for daemon in self.daemons:
                held = await self.all_images(daemon)
                if held != self.integers or len(set(held.values())) != len(held):
                    raise ClaimFailed(f"{daemon.zone} holds other images or integers than its clients were told")
            seen.append(f"{len(self.integers)} images with {len(set(self.integers.values()))} integers in each zone")

    async def _equal_positions(self) -> bool:
        positions = {(await self.get(d, "/zone/v1/status"))["catalogue"]["position"] for d in self.daemons}
        return len(positions) == 1

    async def all_images(self, daemon: Daemon) -> dict[str, int]:
        """UUID -> integer of every record, page by page."""
        held: dict[str, int] = {}
        marker: str | None = None
        while True:
            page = await self.get(daemon, "/zone/v1/images?limit=100" + (f"&marker={marker}" if marker else ""))
            held.update({one["uuid"]: one["integer"] for one in page["images"]})
            marker = page["next"]
            if marker is None:
                return held

    async def tell(self) -> None:
        await self.discover()
        registry = await self.elect("they elect a registry")
        await self.register_catalogue()
        await self.lose_registry(registry)
        remaining = await self.lose_majority()
        await self.heal(remaining)


async def _run(daemons: list[Daemon], server: "Server | None", console: Console) -> list[tuple[str, str, str]]:
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        story = Story(console, progress)
        limits = httpx.Limits(max_connections=AT_ONCE * 2)
        async with httpx.AsyncClient(timeout=30.0, limits=limits, trust_env=False) as client:
            await Demo(daemons, client, story, server).tell()
        story.rows.append(("the whole story", "", f"{trio.current_time() - story.began:.2f} s"))
        return story.rows


@contextmanager
def _database(engine: str) -> Iterator["Server | None"]:
    """A PostgreSQL that runs, if the engine is one. Raises FleetError when there is none to start."""
    if engine != "postgresql":
        yield None
        return
    check(Registry(engine=engine))
    from zoned.postgres import scratch  # an extra: imported when it is asked for

    with scratch.folder() as folder:
        try:
            server = scratch.make(folder / "pg")
            server.start()
        except scratch.NoServer as error:
            raise FleetError(str(error)) from None
        try:
            yield server
        finally:
            server.kill()


def main(zones: int, keep: bool, engine: str = "embedded") -> int:
    """Tells the story; the exit status: 0 if every claim held, 1 otherwise."""
    console = Console()
    try:
        with _database(engine) as server:
            return _tell(console, zones, keep, server)
    except (FleetError, CannotStart) as error:
        _show_failure(console, error)
        return 1


def _tell(console: Console, zones: int, keep: bool, server: "Server | None") -> int:
    root = Path(tempfile.mkdtemp(prefix="zoned-demo-"))
    names = zone_names(zones)
    extra = f'engine = "postgresql"\ndsn = ["{server.dsn}"]\n' if server is not None else ""
    daemons = make(root, names, zones if zones % 2 else zones - 1, extra)
    kept = False
    try:
        with ended([] if keep else daemons):
            rows = trio.run(_run, daemons, server, console)
        _show(console, rows, zones)
        kept = keep
        if keep:
            _show_kept(console, daemons, root)
        return 0
    except BaseExceptionGroup as group:
        failed = group.subgroup((ClaimFailed, FleetError, httpx.HTTPError))
        if failed is None:
            raise
        _show_failure(console, failed)
        return 1
    except (ClaimFailed, FleetError, httpx.HTTPError) as error:
        _show_failure(console, error)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        if not kept:
            with ended(daemons):
                pass
            shutil.rmtree(root, ignore_errors=True)


def _show(console: Console, rows: list[tuple[str, str, str]], zones: int) -> None:
    table = Table(title=f"{zones} zones on this machine")
    for heading in ("claim", "seen", "time"):
        table.add_column(heading, justify="right" if heading == "time" else "left")
    for row in rows:
        table.add_row(*row)
    console.print(table)


def _show_failure(console: Console, error: BaseException) -> None:
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    console.print(f"[red]✗ a claim failed:[/red] {error}")


def _show_kept(console: Console, daemons: list[Daemon], root: Path) -> None:
    console.print("The zones go on running:")
    for daemon in daemons:
        assert daemon.process is not None
        console.print(
            f"  {daemon.zone}  {daemon.url}  zonectl --socket {daemon.socket} status  (process {daemon.process.pid})"
        )
    pids = " ".join(str(daemon.process.pid) for daemon in daemons if daemon.process)
    console.print(f"Stop them with: kill {pids}; rm -r {root}")
