import os
from pathlib import Path

import pytest

from tests.gossip.transcript import play

SCENARIOS = sorted((Path(__file__).parent / "scenarios").glob("*.txt"))


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_scenario(path: Path) -> None:
    text = path.read_text()
    played = play(text)
    if os.environ.get("GOSSIP_REWRITE"):
        path.write_text(played)
    else:
        assert played == text
