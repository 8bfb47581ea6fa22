"""Every file in scenarios/ is a story that must go exactly as written."""

import os
from pathlib import Path

import pytest

from tests.zoned.raft.scenario import Scenario

FILES = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


def perform(text: str) -> str:
    """The same text with every transcript as it is now. Blocks are separated by blank lines; `#` lines are prose."""
    scenario = Scenario()
    blocks = []
    for block in text.strip().split("\n\n"):
        head = block.split("\n----")[0]
        commands = [line for line in head.splitlines() if line and not line.startswith("#")]
        transcript = [scenario.run(command) for command in commands]
        shown = [part for part in transcript if part != "ok"] or ["ok"]
        blocks.append(head if not commands else head + "\n----\n" + "\n".join(shown))
    return "\n\n".join(blocks) + "\n"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text()
    performed = perform(text)
    if os.environ.get("REWRITE_SCENARIOS"):
        path.write_text(performed)
    else:
        assert performed == text


def test_there_are_scenarios() -> None:
    assert len(FILES) >= 10
