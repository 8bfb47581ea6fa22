"""Two words seen by two processes."""

import os
import subprocess
import sys

from zoned import clock
from zoned.page import Page


def test_another_process_sees_what_was_written_before_it_looks():
    page = Page()
    assert (page.position, page.fresh_at) == (0, None)
    page.position = (1 << 53) - 1
    page.fresh_at = 12.25
    code = f"from zoned.page import Page; page = Page({page.descriptor}); print(page.position, page.fresh_at)"
    told = subprocess.run(
        [sys.executable, "-c", code], pass_fds=[page.descriptor], capture_output=True, text=True, check=True
    )
    assert told.stdout == f"{(1 << 53) - 1} 12.249999999\n"
    page.close()


def test_the_time_of_freshness_is_never_later_than_was_said():
    page = Page(os.dup(Page().descriptor))
    for _ in range(100):
        said = clock.boot()
        page.fresh_at = said
        found = page.fresh_at
        assert found is not None
        assert said - 3e-9 <= found <= said
    page.fresh_at = None
    assert page.fresh_at is None
    page.close()
