"""A PostgreSQL server of one's own on a Unix socket, for the demo, tests and benches: made, ended, frozen, by handle.

PostgreSQL does not run as root: then its processes run as the user that Debian makes for it.
"""

import getpass
import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

USER = "postgres"
PATIENCE_S = 60.0
LOOK_S = 0.02
SETTINGS = ("listen_addresses=", "fsync=off", "max_connections=100", "log_line_prefix=%m [%p] ")


class NoServer(Exception):
    """There is no PostgreSQL to start here; the text says what to do."""


def programs() -> Path:
    """Where PostgreSQL's programs are. Raises NoServer."""
    named = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if named is None and not found:
        raise NoServer("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    if os.geteuid() == 0 and USER not in {entry.pw_name for entry in pwd.getpwall()}:
        raise NoServer(f"PostgreSQL does not run as root, and there is no user {USER}")
    return Path(named).resolve().parent if named is not None else found[-1].parent


def _as_its_user() -> dict[str, Any]:
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(USER)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _run(words: list[str | Path]) -> None:
    done = subprocess.run(
        [str(word) for word in words], capture_output=True, text=True, check=False, cwd="/", **_as_its_user()
    )
    if done.returncode:
        raise NoServer(f"{words[0]} failed: {(done.stderr or done.stdout)[-2_000:]}")


@dataclass(slots=True)
class Server:
    """One server: its directory, which holds data, socket and log, and its process while it runs."""

    directory: Path
    port: int = 5432
    process: subprocess.Popen[bytes] | None = field(default=None)

    @property
    def data(self) -> Path:
        return self.directory / "data"

    @property
    def user(self) -> str:
        return USER if os.geteuid() == 0 else getpass.getuser()

    @property
    def dsn(self) -> str:
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"host={self.directory} port={self.port} user={self.user} dbname={database}"

    def start(self, *settings: str) -> None:
        """Starts it and waits until it answers."""
        options = [word for one in (*SETTINGS, *settings) for word in ("-c", one)]
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [
                    *(str(programs() / "postgres"), "-D", str(self.data), "-k", str(self.directory)),
                    *("-p", str(self.port), *options),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,
                **_as_its_user(),
            )
        self.wait()

    def wait(self) -> None:
        """Waits until it answers. Raises NoServer."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                psycopg.connect(self.dsn, connect_timeout=5).close()
                return
            except psycopg.OperationalError as error:
                if self.process is None or self.process.poll() is not None or time.monotonic() > deadline:
                    raise NoServer(f"PostgreSQL does not answer: {error}; see {self.directory / 'log'}") from None
                time.sleep(LOOK_S)

    def execute(self, statement: str) -> list[Any]:
        """One statement in a connection of its own; its rows."""
        with psycopg.connect(self.dsn, autocommit=True) as connection:
            done = connection.execute(statement.encode())
            return done.fetchall() if done.description is not None else []

    def _processes(self) -> list[int]:
        """Its own and its children, which lead groups of their own."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        try:
            return [self.process.pid, *map(int, children.read_text().split())]
        except OSError:
            return [self.process.pid]

    def signal(self, number: int) -> None:
        for pid in self._processes():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass

    def freeze(self) -> None:
        self.signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self.signal(signal.SIGCONT)

    def kill(self) -> None:
        """SIGKILL to all of its processes, and waits until they are gone."""
        if self.process is not None:
            pids = self._processes()
            self.freeze()  # so that none of them begins another
            pids += self._processes()
            self.signal(signal.SIGKILL)
            self.process.wait()
            deadline = time.monotonic() + PATIENCE_S
            while any(_lives(pid) for pid in pids) and time.monotonic() < deadline:
                time.sleep(LOOK_S)
            self.process = None

    def make_standby(self, directory: Path) -> "Server":
        """A streaming, asynchronous standby of this server in `directory`, not started."""
        made = Server(_own(directory), self.port)
        _run([programs() / "pg_basebackup", "-d", self.dsn, "-D", made.data, "-R", "-X", "stream", "-c", "fast"])
        return made

    def promote(self) -> None:
        """Makes a standby the primary, and waits for that."""
        _run([programs() / "pg_ctl", "-D", self.data, "-w", "promote"])


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def _own(directory: Path) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        shutil.chown(directory, USER)
    directory.chmod(0o755)
    return directory


def make(directory: Path) -> Server:
    """An empty server in `directory`, not started. Raises NoServer."""
    made = Server(_own(directory))
    _run([programs() / "initdb", "-D", made.data, "-A", "trust", "-U", made.user, "--no-sync", "-E", "UTF8"])
    return made


@contextmanager
def folder() -> Iterator[Path]:
    """A directory with a short name, as Unix sockets need; removed at the end."""
    path = Path(tempfile.mkdtemp(prefix="zoned-pg-"))
    path.chmod(0o755)
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
