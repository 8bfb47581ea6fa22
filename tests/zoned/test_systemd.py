"""The service manager's protocol: what it is told, which sockets are taken from it, and when they are refused."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio

from zoned import systemd


@contextmanager
def manager(path: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind("\0" + path[1:] if path[0] == "@" else path)
        listening.settimeout(10)
        yield listening


@pytest.mark.parametrize("abstract", [False, True])
def test_a_message_is_one_datagram_with_a_line_for_each_word(tmp_path: Path, abstract):
    path = f"@zoned-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with manager(path) as listening:
        systemd.notify({"NOTIFY_SOCKET": path}, READY=1, STATUS="two\nlines  here")
        assert listening.recv(4_096) == b"READY=1\nSTATUS=two lines here"


@pytest.mark.parametrize("where", ["", "relative", "/nowhere/at/all", "/" + "x" * 200])
def test_without_a_manager_nothing_happens(where):
    systemd.notify({"NOTIFY_SOCKET": where} if where else {}, READY=1)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({}, None),
        ({"WATCHDOG_USEC": "4000000"}, 4.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": str(os.getpid())}, 4.0),
        ({"WATCHDOG_USEC": "4000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
    ],
)
def test_the_watchdog_is_fed_only_if_it_waits_for_this_process(environ, expected):
    assert systemd.watchdog_s(environ) == expected


async def test_the_watchdog_is_fed_after_a_read_of_the_store_and_the_status_told_when_it_changes(
    tmp_path, monkeypatch, autojump_clock
):
    reads, said = 0, ["one", "one", "two"]
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "3000000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)

    def read() -> None:
        nonlocal reads
        reads += 1

    with manager(str(tmp_path / "notify")) as listening:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(systemd.keep_informed, read, lambda: said[min(reads, 3) - 1])
            await trio.sleep(2.5)
            nursery.cancel_scope.cancel()
        got = [listening.recv(4_096) for _ in range(5)]
    assert reads == 3
    assert got == [b"STATUS=one", b"WATCHDOG=1", b"WATCHDOG=1", b"STATUS=two", b"WATCHDOG=1"]


async def test_a_store_that_cannot_be_read_feeds_nobody(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))

    def read() -> None:
        raise OSError("no disk")

    with manager(str(tmp_path / "notify")) as listening:
        listening.setblocking(False)
        with pytest.raises(OSError, match="no disk"):
            await systemd.keep_informed(read, lambda: "fine")
        with pytest.raises(BlockingIOError):
            listening.recv(4_096)


# A process that finds sockets from descriptor 3 on, as systemd leaves them.
TAKE = """
import os, sys, trio
os.environ["LISTEN_PID"] = str(os.getpid())
from zoned.errors import CannotStart
from zoned.listeners import bound_address, take_inherited
async def main():
    try:
        found = take_inherited(*sys.argv[1:4])
    except CannotStart as error:
        print("refused:", error)
        return
    if found is None:
        print("none")
        return
    async with await found.accept() as stream:
        await stream.send_all(b"hello")
    print("served", os.get_inheritable(4))
trio.run(main)
"""


def take(sockets: list[socket.socket], names: str, *words: str) -> subprocess.Popen[str]:
    """Starts a process that was given these sockets."""
    moves = " ".join(f"{3 + n}<&{one.fileno()}" for n, one in enumerate(sockets))
    # Through a shell, which puts descriptors where systemd would.
    script = f'exec {moves}; exec "$@"' if moves else 'exec "$@"'
    return subprocess.Popen(
        ["bash", "-c", script, "bash", sys.executable, "-c", TAKE, *words],
        stdout=subprocess.PIPE,
        text=True,
        pass_fds=[one.fileno() for one in sockets],
        env={**os.environ, "LISTEN_FDS": str(len(sockets)), "LISTEN_FDNAMES": names},
    )


@contextmanager
def listening(kind: int = socket.SOCK_STREAM) -> Iterator[tuple[socket.socket, str]]:
    with socket.socket(socket.AF_INET, kind) as made:
        made.bind(("127.0.0.1", 0))
        if kind == socket.SOCK_STREAM:
            made.listen()
        # Above 3 and 4, where the shell will put it, and where no other descriptor of this process is.
        with socket.socket(fileno=fcntl.fcntl(made, fcntl.F_DUPFD_CLOEXEC, 200)) as high:
            yield high, "{}:{}".format(*made.getsockname())


def said(process: subprocess.Popen[str]) -> str:
    out, _ = process.communicate(timeout=30)
    return out.strip()


def test_a_connection_made_before_the_daemon_came_is_served_by_it():
    with listening() as (first, _), listening() as (second, address):
        host, port = second.getsockname()
        with socket.create_connection((host, port), 30) as client:  # nobody runs yet
            process = take([first, second], "admin:http", "http", "http.listen", address)
            assert client.recv(10) == b"hello"
        assert said(process) == "served False"


@pytest.mark.parametrize(
    ("names", "wanted", "expected"),
    [
        ("other", "here", "none"),
        ("http", "127.0.0.1:1", "refused: the socket unit listens on here, http.listen says 127.0.0.1:1; make them"),
        ("http:http", "here", "refused: the socket unit gives 2 sockets named http; it must be one"),
    ],
)
def test_sockets_that_do_not_fit_are_refused_in_one_sentence(names, wanted, expected):
    with listening() as (first, address), listening() as (second, _):
        sockets = [first, second][: names.count(":") + 1]
        found = said(take(sockets, names, "http", "http.listen", wanted.replace("here", address)))
    assert found.startswith(expected.replace("here", address))


def test_a_socket_that_does_not_listen_is_refused():
    with listening(socket.SOCK_DGRAM) as (datagrams, address):
        found = said(take([datagrams], "http", "http", "http.listen", address))
    assert "is no listening stream socket" in found


def test_sockets_meant_for_another_process_are_left_alone(monkeypatch):
    monkeypatch.setenv("LISTEN_PID", "1")
    monkeypatch.setenv("LISTEN_FDS", "1")
    monkeypatch.setenv("LISTEN_FDNAMES", "http")
    assert systemd.inherited("http") is None
