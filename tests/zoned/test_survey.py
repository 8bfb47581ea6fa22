"""How the bytes of images stand in a zone, counted; and that health and metrics show it."""

import threading
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import trio
import trio.testing

from store.errors import Damaged, TooBroad
from store.images import DEFAULTS, Image, Location
from tests.zoned.conftest import captured_logs, config_text, serve, wait_for_integers
from zoned.daemon import Running
from zoned.health import Counted
from zoned.survey import Survey, count

NOW = "2026-11-22T12:00:00.000Z"
U = "00000000-0000-4000-8000-00000000000a"


def image(said: dict[str, Any], *zones: str) -> Image:
    places = tuple(Location(f"http://{zone}/1", {"zone": zone}) for zone in zones)
    fields = {**DEFAULTS, "status": "active"}
    return Image(U, 1, U, f"{U}.1", 1, fields, {}, (), places, presence={"here": said} if said else {})


def at(hour: int, day: int = 22) -> tuple[str, str]:
    return f"2026-11-{day:02d}T{hour:02d}:00:00.000Z", ""


def test_images_are_counted_by_what_was_said_of_this_zone():
    made = [
        image({"wanted": at(10)}, "there"),  # late
        image({"wanted": at(10), "unwanted": at(11)}, "there", "elsewhere"),
        image({"wanted": (NOW, "")}),
        image({"wanted": at(10), "claimed": at(11)}, "there"),
        image({"verified": at(11)}, "here"),
        image({"verified": at(11, day=1)}, "here", "there"),  # old
        image({"claimed": at(9), "absent": at(10)}, "here", "there"),  # of two locations one is known to be empty
        image({}),
    ]
    counted = count(Counted(), made, "here", NOW, 7.0)
    assert counted == Counted(8, wanted=3, claimed=1, verified=2, absent=1, late=1, old=1, single_zone=3)
    assert count(counted, made[:1], "here", NOW, 7.0).looked_at == 9
    assert count(Counted(), made, "other", NOW, 7.0).wanted == 0


def test_health_and_metrics_show_the_count(tmp_path: Path):
    written, counted = threading.Event(), threading.Event()

    async def beside(running: Running) -> None:
        await trio.to_thread.run_sync(written.wait, 20.0)
        await Survey(running.zone).look()
        counted.set()

    with serve(config_text(tmp_path), beside=beside) as running:
        wait_for_integers(running.url)
        with httpx.Client(base_url=running.url, trust_env=False) as client:
            body = {"name": "n", "locations": [{"url": "http://alpha/1", "metadata": {"zone": "alpha"}}]}
            uuid = client.post("/zone/v1/images", json=body).json()["uuid"]
            said = {"state": "wanted", "at": "2026-01-01T00:00:00Z"}
            assert client.put(f"/zone/v1/images/{uuid}/presence/alpha", json=said).status_code in (200, 202)
            said = {"state": "verified", "at": "2026-01-01T00:00:00Z"}
            assert client.put(f"/zone/v1/images/{uuid}/presence/alpha", json=said).status_code in (200, 202)
            written.set()
            assert counted.wait(20.0)
            samples = client.get("/metrics").text
            assert 'zoned_presence{state="verified"} 1.0' in samples
            assert "zoned_presence_old 1.0" in samples
            assert "zoned_images_single_zone 1.0" in samples
            codes = {one["code"] for one in client.get("/zone/v1/health").json()["findings"]}
            assert "PRESENCE_OLD" in codes


async def test_a_damaged_record_or_a_busy_store_only_puts_the_count_off(autojump_clock: trio.testing.MockClock):
    asked: list[float] = []

    class Broken:
        name = "here"
        settings = SimpleNamespace(config=SimpleNamespace(presence=SimpleNamespace(verified_days=7.0)))

        async def page(self, query: object) -> None:
            asked.append(trio.current_time())
            raise (Damaged if len(asked) % 2 else TooBroad)("not now")

    with captured_logs() as logs, trio.move_on_after(1_000):
        await Survey(Broken()).serve()  # type: ignore[arg-type]  # of a zone only this is asked
    assert len(asked) == len(logs) > 2
