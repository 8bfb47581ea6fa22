"""`zoned doctor`: what stands in the way of this node, before users find out.

Each check looks at one thing outside the daemon (interpreter, disk, ports, clock, peers) and says in one sentence what
is so and, if that is not well, what to change. Nothing is left behind but an empty data directory, if there was none.
"""

import os
import platform
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from enum import Enum
from importlib.util import find_spec
from pathlib import Path

import apsw
import httpx

from conf import Config, split_address
from store.database import lock_directory
from store.errors import CannotOpen
from zoned import clock, engine, paths
from zoned.auth.doors import read_policy, read_secret
from zoned.auth.tokens import TokenFile, TokensWrong
from zoned.errors import CannotStart
from zoned.membership import load_keyring
from zoned.peer_tls import AUTHORITIES, NODE

PACKAGES = ("conf", "store", "gossip")  # short names: a stranger's package of the same name would be run in their place
SQLITE_MIN = (3, 51, 3)  # before it, a rare race between a checkpoint and a writer could damage a WAL store
SYNC_SLOW_S = 0.05  # a commit is a sync or two: above this every write is felt
SYNCS = 15
CLOCK_OFF_S = 5.0  # times are for people only; the Date header has whole seconds
PEER_TIMEOUT_S = 3.0
REMOTE_DISKS = frozenset(("nfs", "nfs4", "cifs", "smb3", "fuse.sshfs", "9p", "ceph", "glusterfs"))
FLEETING_DISKS = frozenset(("tmpfs", "ramfs", "overlay"))


class Verdict(Enum):
    """How much a finding matters."""

    OK = "ok"
    WARN = "warn"
    FAIL = "FAIL"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check says."""

    verdict: Verdict
    about: str
    text: str


Check = Callable[[Config], Iterator[Finding]]


def ok(about: str, text: str) -> Finding:
    return Finding(Verdict.OK, about, text)


def warn(about: str, text: str) -> Finding:
    return Finding(Verdict.WARN, about, text)


def bad(about: str, text: str) -> Finding:
    return Finding(Verdict.FAIL, about, text)


def examine(config: Config) -> Iterator[Finding]:
    """Every finding, in order."""
    checks: tuple[Check, ...] = (
        _interpreter,
        _packages,
        _sqlite,
        _directory,
        _keyring,
        _engine,
        _doors,
        _ports,
        _peers,
    )
    for check in checks:
        yield from check(config)


def _interpreter(_config: Config) -> Iterator[Finding]:
    yield ok("python", f"{platform.python_version()} at {sys.executable}")


def _packages(_config: Config) -> Iterator[Finding]:
    """Our own packages, not strangers' of the same names."""
    home = Path(__file__).resolve().parent.parent
    for name in PACKAGES:
        spec = find_spec(name)
        origin = Path(spec.origin).resolve() if spec is not None and spec.origin else None
        if origin is None or origin.parent.parent != home:
            yield bad("packages", f"{name} is {origin}, not {home / name}; give zoned a virtual environment of its own")
            return
    yield ok("packages", f"conf, store and gossip are those of {home}")


def _sqlite(_config: Config) -> Iterator[Finding]:
    found = tuple(int(part) for part in apsw.sqlite_lib_version().split(".")[:3])
    text = f"SQLite {apsw.sqlite_lib_version()}, apsw {apsw.apsw_version()}"
    if found < SQLITE_MIN:
        yield bad("sqlite", f"{text}; at least {'.'.join(map(str, SQLITE_MIN))} is needed: install the pinned apsw")
    else:
        yield ok("sqlite", text)


def _directory(config: Config) -> Iterator[Finding]:
    directory = paths.data_dir(config)
    try:
        with lock_directory(directory):
            yield ok("store", f"{directory} is free to use")
            yield _sync(directory)
    except CannotOpen as error:
        verdict = warn if "in use by" in str(error) else bad
        yield verdict("store", str(error))
        if verdict is bad:
            return
    if directory.stat().st_mode & 0o077:
        yield warn("store", f"{directory} can be read by others; chmod 700 {directory}")
    kind = file_system_of(directory, Path("/proc/self/mountinfo"))
    if kind in REMOTE_DISKS:
        yield bad("disk", f"{directory} is on {kind}; SQLite needs a local disk: change node.data_dir")
    elif kind in FLEETING_DISKS:
        yield warn("disk", f"{directory} is on {kind}, which may be gone after a restart; use it for trials only")
    disk = os.statvfs(directory)
    free, least = disk.f_bavail * disk.f_frsize, config.journal.free_disk_min_bytes
    text = f"{free >> 20} MiB free on {kind or 'its disk'}"
    if free < least:
        yield bad("disk", f"{text}; writes are refused below {least >> 20} MiB (journal.free_disk_min_bytes)")
    else:
        yield (warn if free < 4 * least else ok)("disk", text)


def _sync(directory: Path) -> Finding:
    """How long a small synced write takes here."""
    with tempfile.TemporaryFile(dir=directory) as file:
        times = []
        for _ in range(SYNCS):
            began = time.monotonic()
            file.write(b"x" * 4_096)
            file.flush()
            os.fsync(file.fileno())
            times.append(time.monotonic() - began)
    middle = statistics.median(times)
    text = f"a synced write takes {middle * 1_000:.1f} ms, at worst {max(times) * 1_000:.1f} ms"
    return warn("disk", f"{text}; every commit waits for that") if middle > SYNC_SLOW_S else ok("disk", text)


def file_system_of(directory: Path, mountinfo: Path) -> str | None:
    """The type of the file system that holds the directory, from /proc/self/mountinfo (proc(5)); None if unknown."""
    best, found = -1, None
    where = directory.resolve()
    try:
        lines = mountinfo.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        before, _, after = line.partition(" - ")
        point = Path(before.split()[4].encode().decode("unicode_escape"))
        if where.is_relative_to(point) and len(point.parts) >= best:
            best, found = len(point.parts), after.split()[0]
    return found


def _keyring(config: Config) -> Iterator[Finding]:
    try:
        keyring = load_keyring(config, paths.data_dir(config))
    except CannotStart as error:
        yield bad("keyring", str(error))
        return
    if keyring is not None:
        yield ok(
            "keyring", f"{len(keyring.keys)} keys, version {keyring.version}; gossip.sealing = {config.gossip.sealing}"
        )
    elif len(config.peers.seeds) > 0:
        yield warn("keyring", "gossip is not sealed: whoever reaches the port can read it; see gossip.sealing")


def _engine(config: Config) -> Iterator[Finding]:
    try:
        engine.check(config.registry)
    except CannotStart as error:
        yield bad("registry", str(error))


def _doors(config: Config) -> Iterator[Finding]:
    """The files that tell callers and peers apart."""
    modes = (config.auth.api, config.auth.registry_api)
    try:
        if "tokens" in modes:
            path = Path(config.auth.tokens_file or paths.data_dir(config) / "tokens.toml")
            TokenFile(path, read_policy(config.auth), config.auth.anonymous_read, clock.wall, time.monotonic)
            yield ok("auth", "the token file can be used")
        if "keystone" in modes:
            read_secret("auth.keystone_password_file", config.auth.keystone_password_file)
            yield ok("auth", "the Keystone password can be read")
    except TokensWrong as error:
        yield bad("auth", f"auth.tokens_file: {error}; zoned token makes an entry")
    except CannotStart as error:
        yield bad("auth", str(error))
    if config.peers.tls != "off":
        folder = paths.tls_dir(config)
        for name in (AUTHORITIES, NODE):
            if not os.access(folder / name, os.R_OK):
                yield bad("tls", f"{folder / name} cannot be read; see zonectl tls")


def _ports(config: Config) -> Iterator[Finding]:
    wanted = [("http.listen", config.http.listen, socket.SOCK_STREAM)]
    if config.http.registry_listen:
        wanted.append(("http.registry_listen", config.http.registry_listen, socket.SOCK_STREAM))
    wanted += [("peers.listen", config.peers.listen, kind) for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM)]
    for key, address, kind in wanted:
        host, port = split_address(address)
        name = f"{key} {address} {'TCP' if kind == socket.SOCK_STREAM else 'UDP'}"
        try:
            family, _, _, _, where = socket.getaddrinfo(host, port, type=kind)[0]
            with socket.socket(family, kind) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, kind == socket.SOCK_STREAM)
                probe.bind(where)
                if kind == socket.SOCK_STREAM:
                    probe.listen(1)
        except OSError as error:
            hint = "a daemon or its socket unit has it, or change the setting"
            yield warn("ports", f"{name}: {error.strerror or error}; {hint}")
        else:
            yield ok("ports", f"{name} is free")


def _peers(config: Config) -> Iterator[Finding]:
    """Whether the seeds answer, and whether their clocks and ours agree; under TLS only whether the port is open."""
    if config.peers.tls != "off":
        for seed in config.peers.seeds:
            yield _port(seed)
        return
    with httpx.Client(timeout=PEER_TIMEOUT_S, trust_env=False) as client:
        for seed in config.peers.seeds:
            yield from _peer(client, seed)


def _port(seed: str) -> Finding:
    """A seed that is not spoken to: that takes this node's certificate, and the daemon has it."""
    if seed.startswith("_"):
        return warn("peers", f"{seed} is a service; its nodes are not looked up here")
    try:
        with socket.create_connection(split_address(seed), PEER_TIMEOUT_S):
            return ok("peers", f"{seed} is open for TCP; UDP to the same port must be open, too")
    except OSError as error:
        return warn("peers", f"{seed} does not answer ({error}); is it up, is the port open for TCP and UDP?")


def _peer(client: httpx.Client, seed: str) -> Iterator[Finding]:
    if seed.startswith("_"):
        yield warn("peers", f"{seed} is a service; its nodes are not looked up here")
        return
    try:
        answer = client.get(f"http://{seed}/peer/v1/gossip")
    except (httpx.HTTPError, OSError) as error:
        text = str(error) or type(error).__name__
        yield warn("peers", f"{seed} does not answer ({text}); is it up, is the port open for TCP and UDP?")
        return
    if answer.headers.get("server") != "zoned":
        yield bad("peers", f"{seed} is answered by {answer.headers.get('server', 'something')}, not by zoned")
        return
    yield ok("peers", f"{seed} answers over TCP; UDP to the same port must be open, too")
    try:
        off_s = clock.wall() - parsedate_to_datetime(answer.headers["date"]).timestamp()
    except (KeyError, ValueError):
        return
    text = f"{off_s:+.0f} s from that of {seed}"
    if abs(off_s) > CLOCK_OFF_S:
        yield warn("clock", f"{text}; set both by NTP: times in records would mislead")
    else:
        yield ok("clock", text)
