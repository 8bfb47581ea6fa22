"""The demo is a test of its own: it checks every claim it makes and exits non-zero when one fails."""

import subprocess
import sys

import pytest

pytestmark = pytest.mark.system


def test_the_demo_tells_the_whole_story():
    done = subprocess.run(
        [sys.executable, "-m", "zoned", "demo"], capture_output=True, text=True, timeout=180, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the whole story" in done.stdout
