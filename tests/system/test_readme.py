"""Goal: the README's tour works as it stands. Method: its blocks are run, in order, with other ports."""

import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from zoned.fleet import PORTS

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here"),
]
README = Path(__file__).parents[2] / "README.md"
PROGRAM = """#!/bin/sh
exec {python} -c 'from zoned.{module} import main; main()' "$@"
"""
# What each block of the tour must print, in order.
PRINTED = (
    ["zone-1", "zone-2", "zone-3", "registry"],
    ['"name":"debian"', '"state":"committed"', '"integer":'],
    ['"state":"buffered"', '"integer":', "journaled"],
    ['"name":"while they were away"', "zone-1", "empty"],
)


def decade(taken: set[int]) -> int:
    """A number whose ports N1, N2 and N3 were free a moment ago."""
    rng = random.SystemRandom()
    while True:
        found = rng.randint(PORTS[0] // 10, PORTS[1] // 10 - 1)
        with ExitStack() as stack:
            try:
                for last in (1, 2, 3):
                    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
                        bound = stack.enter_context(socket.socket(socket.AF_INET, kind))
                        bound.bind(("127.0.0.1", 10 * found + last))
            except OSError:
                continue
        if found not in taken:
            return found


def blocks() -> list[str]:
    section = README.read_text().partition("## Three zones in five minutes")[2].partition("\n## ")[0]
    return [block for block in re.findall(r"```sh\n(.*?)```", section, re.S) if "zoned demo" not in block]


def test_three_zones_in_five_minutes(tmp_path: Path):
    programs = tmp_path / ".venv" / "bin"
    programs.mkdir(parents=True)
    for name, module in (("zoned", "cli"), ("zonectl", "ctl")):
        (programs / name).write_text(PROGRAM.format(python=sys.executable, module=module))
        (programs / name).chmod(0o755)
    users = decade(set())
    peers = decade({users})
    found = blocks()
    assert len(found) == len(PRINTED)
    try:
        for block, wanted in zip(found, PRINTED, strict=True):
            text = block.replace("127.0.0.1:929", f"127.0.0.1:{users}").replace("127.0.0.1:930", f"127.0.0.1:{peers}")
            # Into files: the zones that a block starts keep its output open.
            with (tmp_path / "out").open("w") as out, (tmp_path / "err").open("w") as err:
                done = subprocess.run(
                    ["bash", "-euc", text], cwd=tmp_path, stdout=out, stderr=err, timeout=150, check=False
                )
            printed = (tmp_path / "out").read_text()
            said = f"{text}\n{printed}\n{(tmp_path / 'err').read_text()}"
            assert done.returncode == 0, said
            assert [one for one in wanted if one not in printed] == [], said
    finally:
        for file in (tmp_path / "zones").glob("*.pid"):
            with suppress(ProcessLookupError, ValueError):
                os.kill(int(file.read_text()), signal.SIGKILL)
