"""`make screenshots`: the pictures of the README, taken of three real zones in a real Chromium, for docs/images.

They are of a moment, so two runs never give the same bytes; what they show is the same.
"""

import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.browser.test_page import COMPLETE
from tests.browser.webdriver import Browser, chromium, missing
from tests.browser.zones import ask, fill, registry_of, zones
from zoned.fleet import Daemon

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
SIZES = {"desk": (1280, 1000), "phone": (390, 844)}
BUSY_S = 40.0  # so long users are busy before the first picture: plots want something to show
OUTAGE_S = 10.0
PAUSE_S, LOOKUPS = 0.03, 60  # between two lookups; so many to one registration


def shoot(browser: Browser, daemon: Daemon, name: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    browser.look(width, height, scheme)
    browser.open(f"{daemon.url}/ui/")
    browser.until("the page is complete", COMPLETE)
    browser.until("its rates are known", "/[1-9][0-9]* lookups/.test(document.querySelector('.card').innerText)")
    file = FOLDER / f"{name}.png"
    file.write_bytes(browser.picture(height))
    print(f"{file.relative_to(Path.cwd())}: {file.stat().st_size >> 10} KiB")


@contextmanager
def used(daemon: Daemon, uuids: list[str]) -> Iterator[None]:
    """Hosts and backup workers are at work during the block."""
    over = threading.Event()

    def work() -> None:
        n = 0
        while not over.wait(PAUSE_S):
            n += 1
            ask("GET", daemon, f"/zone/v1/images/{uuids[n % len(uuids)]}")
            if n % LOOKUPS == 0:
                ask("POST", daemon, "/zone/v1/images", {"name": f"backup of server {n // LOOKUPS}"})

    worker = threading.Thread(target=work)
    worker.start()
    try:
        yield
    finally:
        over.set()
        worker.join()


def main() -> int:
    reason = missing()
    if reason:
        print(f"screenshots: {reason}", file=sys.stderr)
        return 1
    FOLDER.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="zoned-screenshots-") as directory:
        root = Path(directory)
        with zones(root / "zones") as daemons, chromium(root) as browser:
            uuids = fill(daemons)
            seen = next(daemon for daemon in daemons if daemon is not registry_of(daemons))
            with used(seen, uuids):
                time.sleep(BUSY_S)
                shoot(browser, seen, "status-light", "desk", "light")
                shoot(browser, seen, "status-dark", "desk", "dark")
                for daemon in daemons:
                    if daemon is not seen:
                        daemon.kill()
                browser.until("both are away", "document.querySelectorAll('#map .place.away').length === 2")
                time.sleep(OUTAGE_S)
                shoot(browser, seen, "outage", "desk", "light")
                shoot(browser, seen, "outage-phone", "phone", "dark")
    return 0


if __name__ == "__main__":
    sys.exit(main())
