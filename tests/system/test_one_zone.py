"""One zone, as a new user meets it, and everything that a wrong start can be."""

import contextlib
import os
import random
import socket
import subprocess
import sys
from pathlib import Path

import apsw
import httpx
import pytest

from tests.system.conftest import start_all, status, until
from zoned.fleet import Daemon, FleetError, free_ports

pytestmark = pytest.mark.system


def run_zoned(*words: str | Path, environ: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "zoned", *map(str, words)],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
        env={**os.environ, **(environ or {})},
    )


def one_line(done: subprocess.CompletedProcess[str]) -> str:
    """The one line that a failed start says."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("zoned: ")]
    assert "Traceback" not in done.stderr, done.stderr
    assert len(lines) == 1, done.stderr
    return lines[0]


async def test_without_configuration_one_zone_serves_and_survives_sigkill(tmp_path: Path, client: httpx.AsyncClient):
    environ = {"XDG_STATE_HOME": str(tmp_path), "HOME": str(tmp_path)}
    if any(_taken(port) for port in (9292, 9293)):
        pytest.skip("ports 9292 or 9293 of loopback are in use on this machine")
    for start in (1, 2):
        process = subprocess.Popen(  # noqa: ASYNC220  # returns at once; the handle ends it whatever happens
            [sys.executable, "-m", "zoned", "run"], env={**os.environ, **environ}, stderr=subprocess.DEVNULL
        )
        try:

            async def ready() -> bool:
                try:
                    return (await client.get("http://127.0.0.1:9292/readyz")).status_code == 200
                except httpx.TransportError:
                    return False

            await until("the daemon is ready", ready)
            if start == 1:
                answer = await client.post("http://127.0.0.1:9292/v2/images", json={"name": "ubuntu"})
                process.kill()  # right after the answer
                assert answer.status_code == 201
                made = answer.json()
            else:
                for path in (f"/v2/images/{made['id']}", f"/zone/v1/images/{made['zoned_id'] or made['id']}"):
                    found = await client.get(f"http://127.0.0.1:9292{path}")
                    assert found.status_code == 200
                    assert found.json()["name"] == "ubuntu"
        finally:
            process.kill()
            process.wait()


def _taken(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


async def test_sigterm_ends_cleanly_and_the_data_stays(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [daemon])
    made = (await client.post(f"{daemon.url}/zone/v1/images", json={"name": "x"})).json()
    assert daemon.stop() == 0
    assert not daemon.socket.exists()
    await start_all(client, [daemon])
    assert (await client.get(f"{daemon.url}/zone/v1/images/{made['uuid']}")).json()["name"] == "x"
    assert (await status(client, daemon))["node"]["generation"] == 2


def test_check_lists_three_planted_mistakes(tmp_path: Path):
    file = tmp_path / "bad.toml"
    file.write_text('[node]\nzone = "a b"\n[registry]\nexpct = 3\n[http]\nbody_bytes_max = "big"\n')
    done = run_zoned("check", "-c", file)
    assert done.returncode == 2
    assert [line.split(": ")[2] for line in done.stderr.splitlines()] == [
        "http.body_bytes_max",
        "node.zone",
        "registry.expct",
    ]
    assert run_zoned("run", "-c", file).returncode == 2
    assert run_zoned("check").returncode == 0


async def test_a_second_daemon_on_the_directory_or_the_ports_is_refused(fleet, client, tmp_path: Path):
    (daemon,) = fleet(1)
    await start_all(client, [daemon])
    made = (await client.post(f"{daemon.url}/zone/v1/images", json={"name": "x"})).json()
    assert "is in use by another zoned (process" in one_line(run_zoned("run", "-c", daemon.config))
    other = tmp_path / "other.toml"
    other.write_text(daemon.config.read_text().replace(str(daemon.directory / "data"), str(tmp_path / "other")))
    assert "http.listen" in one_line(run_zoned("run", "-c", other))
    ports = free_ports(1)
    other.write_text(other.read_text().replace(str(daemon.http_port), str(ports[0])))
    assert "peers.listen" in one_line(run_zoned("run", "-c", other))
    with_socket = f'[admin]\nsocket = "{daemon.socket}"\n'
    other.write_text(other.read_text().replace(str(daemon.peer_port), "0") + with_socket)
    assert "is served by another process" in one_line(run_zoned("run", "-c", other))
    assert (await client.get(f"{daemon.url}/zone/v1/images/{made['integer'] or made['uuid']}")).status_code == 200


async def test_a_data_directory_that_is_not_ours_is_refused_unchanged(fleet, client, tmp_path: Path):
    (daemon,) = fleet(1)
    await start_all(client, [daemon])
    daemon.stop()
    before = (daemon.directory / "data" / "zoned.db").read_bytes()
    text = daemon.config.read_text()
    daemon.config.write_text(text.replace('zone = "zone-a"', 'zone = "zone-b"'))
    assert "node.zone" in one_line(run_zoned("run", "-c", daemon.config))
    daemon.config.write_text(text + '[gossip]\nlabel = "other"\n')
    assert "gossip.label" in one_line(run_zoned("run", "-c", daemon.config))
    assert (daemon.directory / "data" / "zoned.db").read_bytes() == before
    connection = apsw.Connection(str(daemon.directory / "data" / "zoned.db"))
    connection.pragma("user_version", 77)
    connection.close()
    daemon.config.write_text(text)
    assert "schema version 77" in one_line(run_zoned("run", "-c", daemon.config))
    daemon.config.write_text(text.replace(str(daemon.directory / "data"), "/proc/zoned"))
    assert "node.data_dir /proc/zoned cannot be used" in one_line(run_zoned("run", "-c", daemon.config))


async def test_garbage_on_every_port_changes_nothing(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [daemon])

    async def has_integers() -> bool:
        return bool((await status(client, daemon))["ids"]["left"])

    await until("the first range is granted, which is a change of its own", has_integers)
    before = (await status(client, daemon))["catalogue"]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp:
        for size in range(0, 1500, 7):
            udp.sendto(os.urandom(size), ("127.0.0.1", daemon.peer_port))
    for port in (daemon.http_port, daemon.peer_port):
        for junk in (
            b"\x00" * 100,
            b"GET / HTTP/9.9\r\n\r\n",
            os.urandom(5000),
            b"POST / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        ):
            with socket.create_connection(("127.0.0.1", port)) as tcp:
                tcp.sendall(junk)
    assert (await client.post(f"{daemon.url}/v2/images", content=b"{")).status_code == 400
    assert (await client.post(f"{daemon.url}/v2/images", content=b"x" * 2_000_000)).status_code == 413
    assert (await client.get(f"{daemon.url}/livez", headers={"x": "y" * 100_000})).status_code == 431
    for path in ("raft", "forward", "founding", "log", "gossip"):
        answer = await client.post(f"http://127.0.0.1:{daemon.peer_port}/peer/v1/{path}", content=b"\xc1\xff")
        assert 400 <= answer.status_code < 500, path
        answer = await client.post(
            f"http://127.0.0.1:{daemon.peer_port}/peer/v1/{path}", content=b"\xc1\xff", headers={"Zoned-Label": "zoned"}
        )
        assert 400 <= answer.status_code < 500, path
    assert (await status(client, daemon))["catalogue"] == before
    assert (await client.post(f"{daemon.url}/v2/images", json={})).status_code == 201


async def test_a_peer_of_another_label_is_told_so_and_changes_nothing(fleet, client, tmp_path: Path):
    one, other = fleet(2, expect=3)
    other.config.write_text(other.config.read_text() + '[gossip]\nlabel = "elsewhere"\n')
    await start_all(client, [one, other])
    both: list[Daemon] = [one, other]

    async def warned() -> bool:
        return all("label" in daemon.log.read_text() and "elsewhere" in daemon.log.read_text() for daemon in both)

    await until("both say that the labels differ", warned)
    for daemon in both:
        zones = (await client.get(f"{daemon.url}/zone/v1/zones")).json()["zones"]
        assert [zone["zone"] for zone in zones] == [daemon.zone]
    answer = await client.post(
        f"http://127.0.0.1:{one.peer_port}/peer/v1/log", content=b"\x92\x00\x00", headers={"Zoned-Label": "elsewhere"}
    )
    assert answer.status_code == 403
    assert "set gossip.label alike" in answer.text


async def test_a_damaged_store_ends_the_daemon_with_one_line(fleet, client):
    (daemon,) = fleet(1)
    await start_all(client, [daemon])
    rng = random.Random(3)  # records that packing does not make small, so that most of the file is theirs
    for number in range(200):
        made = await client.post(
            f"{daemon.url}/zone/v1/images",
            json={"name": f"n {number}", "properties": {"p": rng.randbytes(1_500).hex()}},
        )
        assert made.status_code in (201, 202)
    daemon.stop()
    path = daemon.directory / "data" / "zoned.db"
    with path.open("r+b") as file:
        # Everything behind the first pages: wherever the records are, their pages make no sense now.
        file.seek(40 * 4096)
        file.write(b"\xa5" * (path.stat().st_size - 40 * 4096))
    daemon.start()
    with contextlib.suppress(FleetError):
        await daemon.wait_ready(client)
        with contextlib.suppress(httpx.TransportError):
            await client.get(f"{daemon.url}/zone/v1/images?limit=200")
    assert daemon.process is not None
    assert daemon.process.wait(20) == 1
    said = [line for line in daemon.log.read_text().splitlines() if line.startswith("zoned: ")]
    assert len(said) == 1, daemon.log_tail()
    assert "Corrupt" in said[0] or "malformed" in said[0] or "Damaged" in said[0]
