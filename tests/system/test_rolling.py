"""Goal: an upgrade goes unnoticed, and a request can be followed. Method: three zones are restarted one after the other
while clients of each ask without pause; logs of all zones are read afterwards.
"""

import os
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest
import trio

from tests.system.conftest import settled, start_all, status, until
from tests.system.test_operations import registry_of, zonectl
from zoned.fleet import Daemon, ended, make, zone_names

pytestmark = pytest.mark.system
REQUEST_S = 60.0
PAUSE_S = 0.02  # of a client between two requests: what is tested is not the machine


@dataclass(slots=True)
class Activated(Daemon):
    """A daemon whose listening socket is held by its service manager, which is this test."""

    door: socket.socket = field(default_factory=socket.socket)

    def open_door(self) -> None:
        self.door.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self.door.bind(("127.0.0.1", self.http_port))
        self.door.listen(4_096)

    def start(self) -> None:
        script = f'exec 3<&{self.door.fileno()}; export LISTEN_PID=$$; exec "$@"'
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                ["bash", "-c", script, "bash", sys.executable, "-m", "zoned", "run", "-c", str(self.config)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
                pass_fds=[self.door.fileno()],
                env={**os.environ, "LISTEN_FDS": "1", "LISTEN_FDNAMES": "http", "PYTHONUNBUFFERED": "1"},
            )


class Load:
    """Clients in threads: each asks its zone, a new connection for each request, until the end."""

    def __init__(self, urls: list[str], known: str) -> None:
        self.answers: Counter[tuple[str, int]] = Counter()
        self.errors: list[str] = []
        self._known = known
        self._end = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=(url,)) for url in urls]

    @contextmanager
    def running(self) -> Iterator[None]:
        for thread in self._threads:
            thread.start()
        try:
            yield
        finally:
            self._end.set()
            for thread in self._threads:
                thread.join(REQUEST_S * 3)

    def _ask(self, url: str) -> None:
        requests = [("GET", f"{url}/v2/images/{self._known}", None), ("POST", f"{url}/zone/v1/images", {"name": "n"})]
        while not self._end.is_set():
            for method, path, body in requests:
                try:
                    answer = httpx.request(method, path, json=body, timeout=REQUEST_S, trust_env=False)
                except httpx.HTTPError as error:
                    self.errors.append(f"{method} {path}: {error!r}")
                else:
                    self.answers[method, answer.status_code] += 1
                self._end.wait(PAUSE_S)


async def test_a_rolling_restart_under_load_fails_no_request(tmp_path: Path, client: httpx.AsyncClient):
    plain = make(tmp_path, zone_names(3), 3)
    daemons = [Activated(one.zone, one.directory, one.http_port, one.peer_port) for one in plain]
    with ExitStack() as stack:
        for daemon in daemons:
            stack.enter_context(daemon.door)
            daemon.open_door()
        stack.enter_context(ended(list(daemons)))
        await start_all(client, list(daemons))
        known = (await client.post(f"{daemons[0].url}/zone/v1/images", json={"name": "known"})).json()["uuid"]
        await settled(client, list(daemons))
        load = Load([daemon.url for daemon in daemons], known)
        with load.running():
            for daemon in daemons:
                before = dict(load.answers)
                await trio.to_thread.run_sync(restart, daemon)
                await until("clients were answered meanwhile", lambda before=before: answered_more(load, before))  # type: ignore[misc]  # mypy infers no lambda defaults
        assert load.errors == []
        assert {code for _, code in load.answers} <= {200, 201, 202}, load.answers
        state = await settled(client, list(daemons))
        writes = sum(number for (method, _), number in load.answers.items() if method == "POST")
        assert state["images"] == writes + 1


async def answered_more(load: Load, before: dict[tuple[str, int], int]) -> bool:
    return sum(load.answers.values()) > sum(before.values()) + 20


def restart(daemon: Daemon) -> None:
    """As docs/operations.md says."""
    for words in (("drain", "on"), ("wait", "drained")):
        done = zonectl(daemon, *words)
        assert done.returncode == 0, done.stderr
    assert daemon.stop() == 0
    daemon.start()
    done = zonectl(daemon, "wait", "ready", "registry", "synced")
    assert done.returncode == 0, done.stderr


async def test_a_write_can_be_followed_by_its_request_id_from_zone_to_zone(fleet, client: httpx.AsyncClient):
    daemons = fleet(3, extra='[log]\nlevel = "debug"\nrequests = true\n')
    await start_all(client, daemons)
    await settled(client, daemons)
    registry = await registry_of(client, daemons)
    other = next(daemon for daemon in daemons if daemon is not registry)
    asked = "req-0f8fad5b-d9cb-469f-a165-70867728950e"
    said = await client.post(
        f"{other.url}/zone/v1/images", json={"name": "n"}, headers={"X-OpenStack-Request-ID": asked}
    )
    assert said.headers["X-OpenStack-Request-ID"] == asked
    assert said.status_code == 201

    def events(daemon: Daemon) -> set[str]:
        lines = [line for line in daemon.log.read_text().splitlines() if asked in line]
        return {line.partition('"event": "')[2].partition('"')[0] for line in lines}

    async def logged() -> bool:
        return {"request", "forwarding"} <= events(other) and "writes forwarded here" in events(registry)

    await until("both logs name the request", logged)
    assert (await status(client, other))["journal"]["entries"] == 0
