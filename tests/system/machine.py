"""A machine of our own for a real systemd: see machine.sh for what keeps the real one untouched."""

import os
import signal
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.system.faults import needs_root, run

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("machine.sh")
PATIENCE_S = 90.0
# What a distribution's units would bring; ours refer to them.
TARGETS = (
    "sysinit",
    "basic",
    "sockets",
    "shutdown",
    "network-online",
    "multi-user",
    "umount",
    "timers",
    "time-set",
    "time-sync",
)

# What stands for the virtual environment in /opt/zoned: this test's interpreter and packages.
PROGRAM = """#!/bin/sh
export PYTHONPATH=/run/box/tree:/run/box/site LD_LIBRARY_PATH=/run/box/python/lib PYTHONDONTWRITEBYTECODE=1
exec /run/box/python/bin/{python} -c 'from zoned.{module} import main; main()' "$@"
"""

# The shipped unit is used as it is; the test only wants to read the log, and to wait less.
OVERRIDE = """
[Service]
StandardOutput=append:/run/box/out/log
StandardError=append:/run/box/out/log
WatchdogSec=4s
TimeoutAbortSec=1s
RestartSec=100ms
"""


class Machine:
    """A running systemd; commands are run inside."""

    def __init__(self, stage: Path, pid: int) -> None:
        self.log = stage / "out" / "log"
        self.console = stage / "out" / "console"
        self._pid = pid

    def run(self, *words: str, timeout_s: float = PATIENCE_S) -> subprocess.CompletedProcess[str]:
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup"]
        path = "PATH=/opt/zoned/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        return subprocess.run(
            [*enter, "env", path, *words], capture_output=True, text=True, timeout=timeout_s, check=False
        )

    def popen(self, *words: str) -> subprocess.Popen[str]:
        enter = ["nsenter", "--target", str(self._pid), "--mount", "--pid", "--net"]
        return subprocess.Popen(
            [*enter, *words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )

    def systemctl(self, *words: str) -> str:
        done = self.run("systemctl", *words)
        assert done.returncode == 0, f"systemctl {words}: {done.stdout}{done.stderr}\n{self.ends()}"
        return done.stdout.strip()

    def show(self, name: str, unit: str = "zoned.service") -> str:
        return self.systemctl("show", "--value", "--property", name, unit)

    def until(self, what: str, look: Callable[[], bool]) -> None:
        give_up = time.monotonic() + PATIENCE_S
        while not look():
            assert time.monotonic() < give_up, f"not within {PATIENCE_S} s: {what}\n{self.ends()}"
            time.sleep(0.1)

    def ends(self) -> str:
        files = [one.read_text(errors="replace")[-3_000:] for one in (self.console, self.log) if one.exists()]
        return "\n---\n".join(files)


def stage_files(stage: Path) -> None:
    """What the machine sees of this one: the tree, the interpreter, its packages, the units."""
    (stage / "out").mkdir(parents=True)
    units = stage / "units"
    units.mkdir()
    (stage / "tree").symlink_to(ROOT)
    (stage / "python").symlink_to(sys.base_prefix)
    (stage / "site").symlink_to(sysconfig.get_path("purelib"))
    (units / "zoned.service.d").mkdir()
    (units / "zoned.service.d" / "test.conf").write_text(OVERRIDE)
    programs = stage / "opt" / "bin"
    programs.mkdir(parents=True)
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    for name, module in (("zoned", "cli"), ("zonectl", "ctl")):
        (programs / name).write_text(PROGRAM.format(python=python, module=module))
        (programs / name).chmod(0o755)
    for name in TARGETS:
        (units / f"{name}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (units / "box.target").write_text("[Unit]\nDefaultDependencies=no\n")
    for path in (stage, units, stage / "out", stage / "opt", programs, units / "zoned.service.d"):
        path.chmod(0o755)


def cgroup_of_our_own() -> Path:
    """An empty group in the unified hierarchy, which the machine takes for the root of all."""
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists():
            try:
                return Path(tempfile.mkdtemp(prefix="zoned-test-", dir=root))
            except OSError as error:
                pytest.skip(f"no control group can be made here: {error.strerror}")
    pytest.skip("there is no unified hierarchy of control groups here")


def remove_group(group: Path) -> None:
    for directory, _, _ in os.walk(group, topdown=False):
        give_up = time.monotonic() + 10.0
        while True:
            try:
                Path(directory).rmdir()
                break
            except OSError:
                assert time.monotonic() < give_up, f"{directory} is still in use"
                time.sleep(0.05)


def command(stage: Path, group: Path, *more: str, script: Path = SCRIPT) -> list[str]:
    # Whatever becomes of the test's process, the machine goes with it.
    unshare = "unshare -f -p --mount-proc -m -u -i -n -C --kill-child"
    join = f'echo $$ > {group}/cgroup.procs; exec setpriv --pdeathsig KILL {unshare} "$@"'
    return ["sh", "-c", join, "sh", "sh", str(script), str(stage), *more]


def tools() -> None:
    """Skips the test where it cannot run; root gets what Debian has."""
    for tool in ("unshare", "nsenter", "setpriv", "ip"):
        needs_root(tool)
    if not Path("/lib/systemd/systemd").exists():
        pytest.skip("systemd is not installed here")
    tried = run("unshare", "-f", "-p", "--mount-proc", "-m", "-u", "-i", "-n", "-C", "true", check=False)
    if tried.returncode:
        pytest.skip(f"no namespaces can be made here: {tried.stderr.strip()}")


@contextmanager
def machine(stage: Path) -> Iterator[Machine]:
    """A machine whose systemd waits for units to start; gone after the block."""
    tools()
    stage_files(stage)
    group = cgroup_of_our_own()
    try:
        checked = run(*command(stage, group, "check"), check=False)
        assert checked.returncode == 0, checked.stderr
        with (stage / "out" / "console").open("wb") as console:
            outer = subprocess.Popen(
                command(stage, group), stdin=subprocess.DEVNULL, stdout=console, stderr=console, start_new_session=True
            )
        try:
            started = Machine(stage, first_process(outer))
            started.until(
                "systemd answers", lambda: started.run("systemctl", "show", "--property=Version").returncode == 0
            )
            yield started
        finally:
            outer.send_signal(signal.SIGKILL)  # unshare --kill-child takes the machine's first process with it
            outer.wait()
    finally:
        remove_group(group)


def first_process(outer: subprocess.Popen[bytes]) -> int:
    """The number, here, of the machine's first process once it is systemd."""
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    give_up = time.monotonic() + PATIENCE_S
    while outer.poll() is None and time.monotonic() < give_up:
        for child in children.read_text().split():
            if Path(f"/proc/{child}/comm").read_text().strip() == "systemd":
                return int(child)
        time.sleep(0.02)
    raise AssertionError(f"no systemd came up (exit status {outer.poll()})")
