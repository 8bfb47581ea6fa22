"""`make screenshots`: the pictures of the README, taken of three real zones in a real Chromium, for docs/images.

They are of a moment, so two runs never give the same bytes; what they show is the same.
"""

import sys
import tempfile
import time
from pathlib import Path

from tests.browser.test_page import COMPLETE
from tests.browser.webdriver import Browser, chromium, missing
from tests.browser.zones import PATIENCE_S, ask, fill, registry_of, until, zones
from zoned.fleet import Daemon

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "images"
SIZES = {"desk": (1280, 1000), "phone": (390, 844)}
BUSY_S = 40.0  # so long users are busy before the first picture: plots want something to show
LOOKUPS = 60


def shoot(browser: Browser, daemon: Daemon, name: str, size: str, scheme: str) -> None:
    width, height = SIZES[size]
    browser.look(width, height, scheme)
    browser.open(f"{daemon.url}/ui/")
    browser.until("the page is complete", COMPLETE)
    browser.until("its rates are known", "/[0-9] lookups/.test(document.querySelector('.card').innerText)")
    file = FOLDER / f"{name}.png"
    file.write_bytes(browser.picture(height))
    print(f"{file.relative_to(Path.cwd())}: {file.stat().st_size >> 10} KiB")


def use(daemon: Daemon, uuids: list[str], seconds: float) -> None:
    """Hosts and backup workers at work."""
    end, n = time.monotonic() + seconds, 0
    while time.monotonic() < end:
        n += 1
        ask("GET", daemon, f"/zone/v1/images/{uuids[n % len(uuids)]}")
        if n % LOOKUPS == 0:
            ask("POST", daemon, "/zone/v1/images", {"name": f"backup of server {n // LOOKUPS}"})


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
            use(seen, uuids, BUSY_S)
            shoot(browser, seen, "status-light", "desk", "light")
            shoot(browser, seen, "status-dark", "desk", "dark")
            for daemon in daemons:
                if daemon is not seen:
                    daemon.kill()
            until("no registry", lambda: not ask("GET", seen, "/zone/v1/status")["registry"]["known"])
            for n in range(3):
                ask("POST", seen, "/zone/v1/images", {"name": f"backup {n} while it was away"})
            browser.until("both are away", "document.querySelectorAll('#map .place.away').length === 2", PATIENCE_S)
            shoot(browser, seen, "outage", "desk", "light")
            shoot(browser, seen, "outage-phone", "phone", "dark")
    return 0


if __name__ == "__main__":
    sys.exit(main())
