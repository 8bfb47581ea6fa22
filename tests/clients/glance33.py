"""Moving out of a real Glance 33: `make interop-glance`.

Glance is installed into a virtual environment of its own and keeps its records in SQLite, so this is no part of the
suite; tests/zoned/test_adoption.py does the same with another zoned as the source. Prints one line for each thing that
was tried; the first that fails ends it.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx

from bench import glance_peer
from zoned.fleet import Daemon, ended, free_ports, make

IMAGES = 240  # more than a page
WHO = {"X-Identity-Status": "Confirmed", "X-User-Id": "u1", "X-Project-Id": "p1", "X-Tenant-Id": "p1"}
ADMIN = {**WHO, "X-Roles": "admin,member,reader"}
MEMBER = {**WHO, "X-Project-Id": "p2", "X-Tenant-Id": "p2", "X-Roles": "member,reader"}
BYTES = {"Content-Type": "application/octet-stream"}
PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}


def tried(what: str, held: object, shown: object = "") -> None:
    print(f"{'ok    ' if held else 'FAILED'} {what}", flush=True)
    if not held:
        sys.exit(str(shown)[:3_000])


def fill(url: str) -> list[str]:
    """Images of every kind; their IDs."""
    ids = []
    with httpx.Client(base_url=url, headers=ADMIN, trust_env=False, timeout=30) as client:
        for n in range(IMAGES):
            document = {
                "name": f"im\u00e4ge {n % 50}",
                "disk_format": "raw",
                "container_format": "bare",
                "min_ram": n % 7,
                "visibility": ("public", "private", "shared", "community")[n % 4],
                "os_hidden": n % 10 == 9,
                "tags": [f"t{n % 5}", "base"],
                "os_distro": "ubuntu",
                "hw_n": str(n % 3),
                "protected": n % 6 == 0,
            }
            made = client.post("/v2/images", json=document)
            made.raise_for_status()
            ids.append(str(made.json()["id"]))
            path = f"/v2/images/{ids[-1]}"
            if n % 2 == 0:
                client.put(f"{path}/file", content=b"x" * (100 + n), headers=BYTES).raise_for_status()
            if n % 4 == 2:
                client.post(f"{path}/members", json={"member": "p2"}).raise_for_status()
            if n % 8 == 2:
                client.put(f"{path}/members/p2", json={"status": "accepted"}, headers=MEMBER).raise_for_status()
            if n % 8 == 4:
                client.post(f"{path}/actions/deactivate").raise_for_status()
    return ids


def zonectl(zone: Daemon, *words: str | Path, who: dict[str, str] | None = None) -> tuple[int, Any, str]:
    """(exit status, JSON, talk)."""
    command = [sys.executable, "-c", "from zoned.ctl import main; main()", "--socket", str(zone.socket), "-f", "json"]
    headers = [word for name, value in (who or {}).items() for word in ("--header", f"{name}: {value}")]
    done = subprocess.run([*command, *map(str, words), *headers], capture_output=True, text=True, check=False)
    return done.returncode, json.loads(done.stdout or "null"), done.stderr


def move(zone: Daemon, url: str, ids: list[str], directory: Path) -> None:
    zonectl(zone, "wait", "ready", "registry")
    table = directory / "s3_images"
    table.write_text("".join(f"{n},{uuid}\n" for n, uuid in enumerate(ids[:100], 1)))
    words = ("import", url, "--integers-from", table, "--file-urls", "--zone", "zone-a")
    status, said, talk = zonectl(zone, *words, "--dry-run", who=ADMIN)
    tried("a dry run says what would be done", (status, said["counts"]) == (0, {"created": IMAGES}), (said, talk))
    status, said, talk = zonectl(zone, *words, who=ADMIN)
    tried(f"{IMAGES} images move in", (status, said["counts"]) == (0, {"created": IMAGES}), (said, talk))
    status, said, talk = zonectl(zone, *words, who=ADMIN)
    tried("and are there when it runs again", (status, said["counts"]) == (0, {"same": IMAGES}), (said, talk))
    with httpx.Client(base_url=zone.url, trust_env=False) as client:
        numbers = [client.get(f"/zone/v1/images/{n}").json()["uuid"] for n in (1, 42, 100)]
        tried("integers of the table are kept", numbers == [ids[0], ids[41], ids[99]], numbers)
        sent = client.get(f"/v2/images/{ids[0]}/file")
        tried("downloads go to the Glance", sent.headers["location"] == f"{url}/v2/images/{ids[0]}/file", sent.headers)
        stream = client.get("/streams/v1/index.json")
        tried("public images are in the streams", stream.status_code == 200, stream.text)
    for name, who in (("an administrator", ADMIN), ("a member of another project", MEMBER)):
        status, said, talk = zonectl(zone, "shadow", url, "--zoned", zone.url, "--per-s", "200", who=who)
        tried(f"both answer {name} alike: {talk.strip()}", status == 0, (said, talk))
    body = [{"op": "replace", "path": "/name", "value": "changed there"}]
    httpx.patch(f"{url}/v2/images/{ids[1]}", json=body, headers={**ADMIN, **PATCH}, trust_env=False).raise_for_status()
    status, said, _ = zonectl(zone, "shadow", url, "--per-s", "200", who=ADMIN)
    tried("a change is told by shadow", status == 5, said)
    status, said, _ = zonectl(zone, *words, who=ADMIN)
    tried("and by the next import", (status, said["counts"].get("differs")) == (5, 1), said)
    status, said, talk = zonectl(zone, *words, "--update", who=ADMIN)
    tried("which takes it over if told to", (status, said["counts"].get("updated")) == (0, 1), (said, talk))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv-glance"), help="where Glance is, or is installed")
    venv = parser.parse_args().venv.absolute()
    glance_peer.install(venv)
    with tempfile.TemporaryDirectory(prefix="interop-glance-") as name:
        directory, (port,) = Path(name), free_ports(1)
        database = f"sqlite:///{directory}/glance.db"
        began = time.monotonic()
        with glance_peer.glance(venv, directory, database, port, workers=1) as url:
            ids = fill(url)
            zones = make(directory / "zones", ["zone-a"], 1, "[ids]\nabove = 1000\n")
            with ended(zones):
                zones[0].start()
                move(zones[0], url, ids, directory)
        print(f"all of it in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
