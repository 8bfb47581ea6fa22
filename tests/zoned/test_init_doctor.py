"""Before the first start: what zoned init makes and leaves alone, what zoned doctor finds."""

import json
import os
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from pathlib import Path

import pytest
import tomli
from click.testing import CliRunner, Result

from conf import load
from conf.reference import sample
from store.database import lock_directory
from tests.zoned.conftest import Served, config_text, serve
from zoned import doctor
from zoned.cli import main
from zoned.fleet import free_ports


def zoned(*words: object) -> Result:
    result = CliRunner().invoke(main, [str(word) for word in words])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def init(path: Path, *settings: str) -> Result:
    return zoned("init", "-c", path, *(word for setting in settings for word in ("--set", setting)))


def test_a_new_node_gets_a_file_a_directory_and_an_identity_once(tmp_path: Path):
    path, data = tmp_path / "etc" / "zoned.toml", tmp_path / "data"
    settings = ["node.zone=zone-a", f"node.data_dir={data}", 'peers.seeds=["127.0.0.1:9"]', "registry.expect=3"]
    made = init(path, *settings)
    assert made.exit_code == 0, made.stderr
    config = load(path)
    assert (config.node.zone, config.registry.expect, config.peers.seeds) == ("zone-a", 3, ("127.0.0.1:9",))
    assert data.stat().st_mode & 0o777 == 0o700
    (node,) = re.findall(r"node ([0-9a-f-]{36}) of zone zone-a", made.stdout)
    text = path.read_text()
    again = init(path)
    assert (again.exit_code, path.read_text()) == (0, text)
    assert node in again.stdout
    assert not list(data.glob("*.lost-*"))


def test_the_identity_is_that_of_the_daemon_that_starts_there(tmp_path: Path):
    path = tmp_path / "zoned.toml"
    path.write_text(config_text(tmp_path / "store"))
    (node,) = re.findall(r"node ([0-9a-f-]{36})", zoned("init", "-c", path).stdout)
    with serve(path.read_text(), path) as running:
        assert running.zone.identity.node_id == node
        assert running.zone.identity.generation == 2
        busy = zoned("init", "-c", path)
        assert busy.exit_code == 1
        assert "in use by another zoned" in busy.stderr


def test_a_file_alone_is_made_if_asked(tmp_path: Path):
    done = zoned("init", "-c", tmp_path / "z.toml", "--file-only", "--set", f"node.data_dir={tmp_path}/data")
    assert done.exit_code == 0
    assert not (tmp_path / "data").exists()


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        (["nod.zone=a"], ["nod.zone"]),
        (["node.zone"], ["node.zone"]),
        (["node.zone=", "nope=1"], ["nope"]),
        (["node.zone='ü'"], ["node.zone"]),
        (["registry.expect=2", "registry.wait_s=-1"], ["registry.expect", "registry.wait_s"]),
        (["http.listen=0.0.0.0:1"], ["http.listen"]),
    ],
)
def test_a_wrong_setting_is_named_and_nothing_is_written(tmp_path: Path, settings, named):
    result = init(tmp_path / "z.toml", *settings)
    assert result.exit_code == 2
    assert [line.split(": ")[2] for line in result.stderr.splitlines()] == named
    assert list(tmp_path.iterdir()) == []


def test_settings_for_a_file_that_is_there_or_for_none_are_refused(tmp_path: Path):
    (tmp_path / "z.toml").write_text("[node]\n")
    assert init(tmp_path / "z.toml", "node.zone=b").exit_code == 2
    assert (tmp_path / "z.toml").read_text() == "[node]\n"
    assert zoned("init", "--set", "node.zone=b").exit_code == 2


def test_a_sample_says_what_was_chosen_whatever_it_holds():
    chosen = {
        "node.data_dir": 'a "b" \\ ü',
        "peers.seeds": ["h:1", "h:2"],
        "registry.wait_s": 0.5,
        "log.requests": True,
    }
    read = tomli.loads(sample(chosen))
    assert (read["node"]["data_dir"], read["peers"]["seeds"]) == (chosen["node.data_dir"], chosen["peers.seeds"])
    assert (read["registry"]["wait_s"], read["log"]["requests"]) == (0.5, True)


# Doctor.


def findings(path: Path, text: str) -> tuple[int, list[tuple[str, str, str]]]:
    """Exit status, and (verdict, about, text) of each finding."""
    path.write_text(text)
    result = zoned("doctor", "-c", path)
    lines = [line.split(maxsplit=2) for line in result.stdout.splitlines()]
    return result.exit_code, [(line[0], line[1], line[2]) for line in lines]


def found(listed: list[tuple[str, str, str]], about: str) -> list[tuple[str, str]]:
    return [(verdict, text) for verdict, what, text in listed if what == about]


def test_a_sound_machine_has_nothing_in_the_way(tmp_path: Path):
    status, listed = findings(tmp_path / "z.toml", config_text(tmp_path / "store"))
    assert status == 0
    assert {verdict for verdict, about, _ in listed if about != "disk"} == {"ok"}
    assert len(found(listed, "ports")) == 3
    assert list((tmp_path / "store").iterdir()) == [tmp_path / "store" / "lock"]


def test_a_directory_that_cannot_be_used_fails(tmp_path: Path):
    (tmp_path / "store").touch()
    status, listed = findings(tmp_path / "z.toml", config_text(tmp_path / "store"))
    assert status == 1
    assert found(listed, "store")[0][0] == "FAIL"


def test_a_directory_in_use_or_open_to_others_is_a_warning(tmp_path: Path):
    store = tmp_path / "store"
    store.mkdir(mode=0o755)
    with lock_directory(store):
        status, listed = findings(tmp_path / "z.toml", config_text(store))
    assert status == 0
    (in_use, in_the_open) = found(listed, "store")
    assert (in_use[0], f"process {os.getpid()}" in in_use[1]) == ("warn", True)
    assert (in_the_open[0], "chmod 700" in in_the_open[1]) == ("warn", True)


def test_a_disk_with_too_little_room_fails(tmp_path: Path):
    text = config_text(tmp_path / "store").replace(
        "free_disk_min_bytes = 0", "free_disk_min_bytes = 9_000_000_000_000_000"
    )
    status, listed = findings(tmp_path / "z.toml", text)
    assert status == 1
    assert "FAIL" in [verdict for verdict, _ in found(listed, "disk")]


def test_a_port_in_use_is_named_with_its_setting(tmp_path: Path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "{}:{}".format(*taken.getsockname())
        text = config_text(tmp_path / "store").replace(
            '[http]\nlisten = "127.0.0.1:0"', f'[http]\nlisten = "{address}"'
        )
        _, listed = findings(tmp_path / "z.toml", text)
    assert found(listed, "ports")[0][0] == "warn"
    assert f"http.listen {address} TCP" in found(listed, "ports")[0][1]


def test_a_keyring_that_is_missing_fails(tmp_path: Path):
    text = config_text(tmp_path / "store").replace("[gossip]", '[gossip]\nsealing = "require"')
    status, listed = findings(tmp_path / "z.toml", text)
    assert status == 1
    assert found(listed, "keyring")[0][0] == "FAIL"


@pytest.mark.parametrize(
    ("more", "about"),
    [
        ('[auth]\napi = "tokens"', "auth"),
        ('[auth]\napi = "keystone"\nkeystone_url = "http://k:5000/v3"\nkeystone_password_file = "/none"', "auth"),
        ('tls = "require"', "tls"),
    ],
)
def test_a_file_that_is_missing_fails(tmp_path: Path, more: str, about: str):
    status, listed = findings(tmp_path / "z.toml", config_text(tmp_path / "store", more))
    assert status == 1
    assert {verdict for verdict, _ in found(listed, about)} == {"FAIL"}


@contextmanager
def somebody(server: str, date: str) -> Iterator[str]:
    """An HTTP server that answers one request with these headers."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve_one() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                head = f"HTTP/1.1 405 x\r\nserver: {server}\r\ndate: {date}\r\ncontent-length: 0\r\n\r\n"
                connection.sendall(head.encode())

        thread = threading.Thread(target=serve_one)
        thread.start()
        yield "{}:{}".format(*listener.getsockname())
        thread.join(10)


def peers(path: Path, seed: str) -> dict[str, list[tuple[str, str]]]:
    text = config_text(path / "store", f"seeds = {json.dumps([seed])}", "expect = 0")
    _, listed = findings(path / "z.toml", text)
    return {about: found(listed, about) for about in ("peers", "clock")}


def test_a_running_node_answers_and_its_clock_agrees(tmp_path: Path, served: Served):
    said = peers(tmp_path, served.peer_url.removeprefix("http://"))
    assert [verdict for verdict, _ in said["peers"]] == ["ok"]
    assert [verdict for verdict, _ in said["clock"]] == ["ok"]


@pytest.mark.parametrize(("server", "verdict"), [("zoned", "ok"), ("nginx", "FAIL")])
def test_a_clock_that_is_off_and_a_stranger_at_the_port_are_noticed(tmp_path: Path, server, verdict):
    with somebody(server, formatdate(1_000_000_000, usegmt=True)) as address:
        said = peers(tmp_path, address)
    assert [one for one, _ in said["peers"]] == [verdict]
    assert [one for one, _ in said["clock"]] == (["warn"] if server == "zoned" else [])


def test_under_tls_a_seed_is_only_asked_for_its_port(tmp_path: Path, served: Served):
    (free,) = free_ports(1)
    seeds = json.dumps([served.peer_url.removeprefix("http://"), f"127.0.0.1:{free}"])
    text = config_text(tmp_path / "store", f'tls = "require"\nseeds = {seeds}', "expect = 0")
    _, listed = findings(tmp_path / "z.toml", text)
    assert [verdict for verdict, _ in found(listed, "peers")] == ["ok", "warn"]


def test_a_peer_that_is_away_is_a_warning(tmp_path: Path):
    (port,) = free_ports(1)
    assert peers(tmp_path, f"127.0.0.1:{port}")["peers"][0][0] == "warn"


def test_a_strangers_package_of_the_same_name_fails(tmp_path: Path, monkeypatch):
    (tmp_path / "gossip").mkdir()
    (tmp_path / "gossip" / "__init__.py").touch()

    class Spec:
        origin = str(tmp_path / "gossip" / "__init__.py")

    monkeypatch.setattr(doctor, "find_spec", lambda name: Spec())
    (finding,) = doctor._packages(load(None))
    assert finding.verdict is doctor.Verdict.FAIL
    assert str(tmp_path) in finding.text


@pytest.mark.parametrize(
    ("directory", "kind"), [("/var/lib/zoned", "nfs4"), ("/var", "ext4"), ("/srv/a b/zoned", "xfs"), ("/etc", "ext4")]
)
def test_the_file_system_is_the_innermost_that_holds_the_directory(tmp_path: Path, directory, kind):
    (tmp_path / "mountinfo").write_text(
        "1 0 8:1 / / rw - ext4 /dev/sda rw\n"
        "2 1 0:5 / /var/lib rw,relatime shared:1 - nfs4 server:/x rw\n"
        "3 1 0:6 / /srv/a\\040b rw - xfs /dev/sdb rw\n"
    )
    assert doctor.file_system_of(Path(directory), tmp_path / "mountinfo") == kind
