"""docs/operations.md, run: its console blocks against a real fleet, what they print compared with the page.

`python -m tests.system.recipes [SECTION...]` runs all, or these, and writes what was really printed into the page.
"""

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from tests.system.test_operations import zonectl
from zoned.fleet import Daemon, ended, make, zone_names

PAGE = Path(__file__).parents[2] / "docs" / "operations.md"
PROMPT = re.compile(r"^(zone-[a-z])([$#]) (.*)$")
GLANCE = "http://glance.example:9292"
IMAGES = 5
SETTLE_S = 60.0
Step = tuple[str, str, list[str]]  # zone, command, what it printed


def recipes() -> dict[str, list[Step]]:
    """The steps of each section that has any."""
    found: dict[str, list[Step]] = {}
    section, inside = "", False
    for line in PAGE.read_text().splitlines():
        prompt = PROMPT.match(line)
        if line.startswith("## "):
            section = line[3:]
        elif line.startswith("```"):
            inside = line == "```console"
        elif inside and prompt:
            found.setdefault(section, []).append((prompt[1], prompt[3], []))
        elif inside:
            found[section][-1][2].append(line)
    return found


def shape(line: str) -> str:
    """What must be equal between two runs of a line."""
    line = re.sub(r"[0-9a-f]{8}-[0-9a-f-]{27}|\b[0-9a-f]{64}\b", "ID", line.rstrip())
    line = re.sub(r"\d+(\.\d+)?", "0", line)
    return re.sub(r"(?<= )-(?= |$)|\b0(s|min|h)\b", "0", re.sub(r" +", " ", line))


def same(printed: list[str], expected: list[str]) -> bool:
    """Whether two outputs are alike; their order may depend on IDs."""
    return sorted(map(shape, printed)) == sorted(map(shape, expected))


class Machines:
    """The zones of the page."""

    def __init__(self, root: Path, daemons: list[Daemon], glance: Daemon | None = None) -> None:
        self._root = root
        self._glance = glance
        self._zones = {daemon.zone: daemon for daemon in daemons}

    def run(self, zone: str, command: str) -> list[str]:
        """Runs a command of the page on a zone's machine; the lines that it prints, as on the page."""
        daemon = self._zones[zone]
        match command.split():
            case ["systemctl", "start", "zoned"]:
                daemon.start()
                return []
            case ["systemctl", "stop", "zoned"]:
                daemon.stop()
                return []
            case ["systemctl", "restart", "zoned"]:
                daemon.stop()
                daemon.start()
                return []
            case ["poweroff", "-f"]:
                daemon.kill()
                return []
        real = command
        for ours, theirs in self._names(daemon):
            real = real.replace(ours, theirs)
        python, socket = shlex.quote(sys.executable), shlex.quote(str(daemon.socket))
        words = f"""
            zonectl() {{ {python} -c "from zoned.ctl import main; main()" --socket {socket} "$@"; }}
            zoned() {{ {python} -m zoned "$@"; }}
            {real}
        """
        done = subprocess.run(["bash", "-c", words], capture_output=True, text=True, timeout=60, check=False)
        printed = done.stdout + done.stderr
        for ours, theirs in self._names(daemon):
            printed = printed.replace(theirs, ours)
        return [line.rstrip() for line in printed.splitlines() if line.strip()]

    def _names(self, daemon: Daemon) -> list[tuple[str, str]]:
        return [
            ("/var/lib/zoned", str(daemon.directory / "data")),
            ("/etc/zoned/zoned.toml", str(daemon.config)),
            ("/var/backups", str(self._root)),
            *((f"http://192.0.2.{11 + n}:9292", one.url) for n, one in enumerate(self._zones.values())),
            *([(GLANCE, self._glance.url)] if self._glance is not None else []),
        ]


def play(root: Path, steps: list[Step], learn: bool = False) -> list[list[str]]:
    """Runs a recipe on a fresh fleet; what each step printed at last. With `learn` nothing is expected."""
    root.mkdir(parents=True, exist_ok=True)
    printed: list[list[str]] = []
    glance = make(root / "glance", ["elsewhere"], 1) if any(GLANCE in command for _, command, _ in steps) else []
    with ended(fleet_of(root, {zone for zone, _, _ in steps})) as daemons, ended(glance):
        prepare(daemons, 0 if glance else IMAGES)
        for other in glance:
            move_in(other)
        machines = Machines(root, daemons, glance[0] if glance else None)
        for zone, command, expected in steps:
            query = command.startswith("zonectl") and expected
            if learn and command.startswith("zonectl"):
                time.sleep(18.0)
            lines = machines.run(zone, command)
            give_up = time.monotonic() + SETTLE_S
            while query and not learn and not same(lines, expected) and time.monotonic() < give_up:
                time.sleep(0.3)
                lines = machines.run(zone, command)
            printed.append(lines)
            if not learn and not same(lines, expected):
                wanted, got = "\n".join(expected), "\n".join(lines)
                raise AssertionError(
                    f"{zone}: {command}\nprinted\n{got}\nand not, as docs/operations.md says,\n{wanted}"
                )
    return printed


def fleet_of(root: Path, zones: set[str]) -> list[Daemon]:
    """The three voters of the page, and a fourth node that only follows where a recipe names its zone."""
    daemons = make(root, zone_names(4 if "zone-d" in zones else 3), 3, "voters = 3\n")
    for follower in daemons[3:]:
        follower.config.write_text(follower.config.read_text().replace("expect = 3", "expect = 0"))
    return daemons


def move_in(other: Daemon) -> None:
    """Stands for the Glance that a recipe moves out of: an Images API with some images."""
    other.start()
    zonectl(other, "wait", "ready", "registry")
    register(other, IMAGES)


def register(daemon: Daemon, count: int) -> None:
    for _ in range(count):
        words = ["curl", "-sf", "-d", '{"name": "n"}', f"{daemon.url}/zone/v1/images"]
        subprocess.run(words, capture_output=True, timeout=30, check=True)


def prepare(daemons: list[Daemon], images: int = IMAGES) -> None:
    """Three zones, some records, the registry in zone-a."""
    for daemon in daemons:
        daemon.start()
    give_up = time.monotonic() + 40.0
    first = daemons[0]
    while time.monotonic() < give_up:
        time.sleep(0.3)
        said = zonectl(first, "registry", "status").stdout
        zones = zonectl(first, "zones").stdout
        if re.search(r"^zone +zone-a$", said, re.M) and zones.count("alive") == len(daemons):
            break
        if re.search(r"^zone +zone-[bc]$", said, re.M):
            zonectl(first, "registry", "transfer", "zone-a")
    else:
        raise AssertionError(f"zone-a did not become the registry:\n{said}")
    register(first, images)


def learn(wanted: Sequence[str]) -> None:
    """Writes what the commands print into the page: of the sections named, or of all."""
    text = PAGE.read_text().splitlines()
    outputs: list[list[str]] = []
    with tempfile.TemporaryDirectory() as directory:
        for number, (section, steps) in enumerate(recipes().items()):
            if wanted and section not in wanted:
                outputs += [printed for _, _, printed in steps]
                continue
            print(section, flush=True)
            outputs += play(Path(directory) / str(number), steps, learn=True)
    lines, inside = [], False
    for line in text:
        if line.startswith("```"):
            inside = line == "```console"
        if inside and not line.startswith("```") and not PROMPT.match(line):
            continue
        lines.append(line)
        if inside and PROMPT.match(line):
            lines += outputs.pop(0)
    PAGE.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    assert shutil.which("curl")
    learn(sys.argv[1:])
