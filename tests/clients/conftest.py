"""A cloud of three zones in real processes, and who speaks to it: real OpenStack clients."""

import contextlib
import io
import os
import pty
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import httpx
import pytest

from tests.clients.identity import standing_in
from zoned.fleet import Daemon, ended, make, zone_names

START_S = 60.0


@dataclass(frozen=True, slots=True)
class Cloud:
    """URLs: of a zone that is registry, of one that is not, of Keystone, of the proxy that checks tokens."""

    daemons: list[Daemon]
    registry: str
    follower: str
    identity: str
    proxy: str


def wait_for(what: str, look: Callable[[], bool], patience_s: float = START_S) -> None:
    end = time.monotonic() + patience_s
    while not look():
        assert time.monotonic() < end, f"not within {patience_s} s: {what}"
        time.sleep(0.05)


def _status(url: str) -> dict[str, object]:
    try:
        answer = httpx.get(f"{url}/zone/v1/status", timeout=5, trust_env=False)
        found: dict[str, object] = answer.json() if answer.status_code == 200 else {}
        return found
    except httpx.TransportError:
        return {}


def role(url: str) -> str:
    registry = _status(url).get("registry")
    return str(registry["role"]) if isinstance(registry, dict) else ""


def has_integers(url: str) -> bool:
    ids = _status(url).get("ids")
    return isinstance(ids, dict) and ids["left"] > 0


@contextlib.contextmanager
def running(directory: Path) -> Iterator[Cloud]:
    """Three zones, one of them the registry, until the end of the block."""
    daemons = make(directory, zone_names(3), 3, "[journal]\nfree_disk_min_bytes = 0\n")
    with ended(daemons):
        for daemon in daemons:
            daemon.start()
        urls = [daemon.url for daemon in daemons]
        wait_for("a registry and integers", lambda: all(has_integers(url) for url in urls))
        registry = next(url for url in urls if role(url) == "registry")
        follower = next(url for url in urls if url != registry)
        with standing_in(follower) as (identity, proxy):
            yield Cloud(daemons, registry, follower, identity, proxy)


@pytest.fixture(scope="session")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cloud]:
    with running(tmp_path_factory.mktemp("cloud")) as made:
        yield made


@dataclass(frozen=True, slots=True)
class Said:
    """What a command said and how it ended."""

    status: int
    out: str
    err: str


@pytest.fixture
def terminal() -> Iterator[TextIO]:
    """A terminal as standard input: from anything else both commands would read an image's bytes."""
    master, slave = pty.openpty()
    with os.fdopen(slave) as opened:
        yield opened
    os.close(master)


@pytest.fixture
def command(tmp_path: Path, terminal: TextIO) -> Callable[..., Said]:
    """Runs a command of the same environment, as a person would."""

    def run(name: str, *arguments: str) -> Said:
        kept = {name: value for name, value in os.environ.items() if not name.startswith("OS_")}
        kept |= {"HOME": str(tmp_path), "PYTHONWARNINGS": "ignore", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [str(Path(sys.executable).with_name(name)), *arguments],
            stdin=terminal,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            env=kept,
            timeout=60,
            check=False,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def openstack(terminal: TextIO, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Said]:
    """Runs the `openstack` command in this process: its start takes longer than everything it then does."""
    # They warn when they are imported: not for every test of this folder.
    from openstackclient import shell
    from osc_lib import clientmanager

    for name in [name for name in os.environ if name.startswith("OS_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(sys, "stdin", terminal)

    def run(*arguments: str) -> Said:
        for kept in vars(clientmanager.ClientManager).values():
            if isinstance(kept, clientmanager.ClientCache):
                kept._handle = None  # the last command's client, of its project and its zone
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status: object = shell.main(list(arguments))
            except SystemExit as ended:
                status = ended.code
        return Said(int(bool(status)), out.getvalue(), err.getvalue())

    return run
