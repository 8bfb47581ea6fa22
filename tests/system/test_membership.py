"""Gossip between real daemons: sealed and rotated by an operator, and a copied data directory refused."""

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gossip import Keyring
from zoned.fleet import Daemon, ended, free_ports, make, zone_names

pytestmark = pytest.mark.system
PATIENCE_S = 90.0


def zonectl(daemon: Daemon, *words: str) -> Any:
    command = [
        sys.executable,
        "-c",
        "from zoned.ctl import main; main()",
        "--socket",
        str(daemon.socket),
        "-f",
        "json",
        *words,
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return json.loads(done.stdout) if done.returncode == 0 else None


def wait(done: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not done():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def all_up(daemon: Daemon, count: int) -> bool:
    return bool(sum(one["state"] == "alive" for one in zonectl(daemon, "zones") or ()) == count)


def test_a_key_is_rotated_under_way_and_a_sleeper_catches_up(tmp_path: Path) -> None:
    daemons = make(tmp_path, zone_names(3), 3, '[gossip]\nsealing = "require"\n')
    ring = Keyring.fresh(b"\x07" * 32)
    old = ring.primary.key_id
    for daemon in daemons:
        path = daemon.directory / "data" / "gossip-keys.json"
        path.parent.mkdir(mode=0o700)
        path.write_bytes(ring.encode())
        path.chmod(0o600)
    with ended(daemons) as (a, b, c):
        for daemon in daemons:
            daemon.start()
        for daemon in daemons:
            wait(lambda daemon=daemon: all_up(daemon, 3))  # type: ignore[misc]  # mypy infers no lambda defaults
        c.kill()
        new = zonectl(a, "keys", "install")["keys"][1]["id"]
        wait(lambda: len(zonectl(b, "keys")["keys"]) == 2)
        assert zonectl(b, "keys", "use", new)
        assert zonectl(b, "keys", "remove", old)
        wait(lambda: zonectl(a, "keys")["version"] == 4)
        c.start()
        wait(lambda: all_up(a, 3))
        wait(lambda: zonectl(c, "keys") == zonectl(a, "keys"))
        wait(lambda: all(set(one["sees"].values()) == {"alive"} for one in zonectl(c, "reachability")))
        assert Keyring.decode((c.directory / "data" / "gossip-keys.json").read_bytes()).primary.key_id == new


def test_a_copied_data_directory_is_refused_and_the_original_goes_on(tmp_path: Path) -> None:
    daemons = make(tmp_path, zone_names(2), 1)
    with ended(daemons) as (a, b):
        a.start()
        wait(lambda: all_up(a, 1))
        b.start()
        wait(lambda: all_up(a, 2))
        b.kill()  # a clean copy of a store that is not being written
        copy = tmp_path / "copy"
        shutil.copytree(b.directory, copy, ignore=shutil.ignore_patterns("*.sock"))
        b.start()
        wait(lambda: all_up(a, 2))
        http_port, peer_port = free_ports(2)
        text = (copy / "zoned.toml").read_text().replace(str(b.directory), str(copy))
        text = text.replace(f":{b.http_port}", f":{http_port}").replace(f":{b.peer_port}", f":{peer_port}")
        (copy / "zoned.toml").write_text(text)
        command = [sys.executable, "-m", "zoned", "run", "-c", str(copy / "zoned.toml")]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert done.returncode == 1
        assert "this data directory is a copy" in done.stderr.splitlines()[-1]
        assert b.is_running
        assert all_up(a, 2)
