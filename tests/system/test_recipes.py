"""Goal: an operator may trust docs/operations.md. Method: every command on it is run, and must print what it says."""

import shutil
from pathlib import Path

import pytest
import trio

from tests.system.recipes import play, recipes

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed here"),
]


@pytest.mark.parametrize("section", recipes())
async def test_recipe(section: str, tmp_path: Path):
    await trio.to_thread.run_sync(play, tmp_path, recipes()[section])
