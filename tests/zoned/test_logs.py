"""Log lines: severities, repeats, the journal's priorities."""

import json
import os
from pathlib import Path

import pytest
import structlog

from zoned import logs


def warn(repeats: logs.Repeats, event: str, method: str = "warning") -> dict[str, object] | None:
    try:
        return dict(repeats(None, method, {"event": event}))
    except structlog.DropEvent:
        return None


def test_the_same_warning_is_written_a_few_times_then_counted_and_others_go_on():
    now = [100.0]
    repeats = logs.Repeats(lambda: now[0])
    written = [warn(repeats, "link lost") for _ in range(50)]
    assert written == [{"event": "link lost"}] * logs.BURST_MAX + [None] * 40
    assert warn(repeats, "disk full") == {"event": "disk full"}
    now[0] += logs.WINDOW_S
    assert warn(repeats, "link lost") == {"event": "link lost", "not_written": 40}
    now[0] += logs.WINDOW_S
    assert warn(repeats, "link lost") == {"event": "link lost"}


def test_requests_and_other_information_are_never_counted_away():
    repeats = logs.Repeats(lambda: 0.0)
    assert None not in [warn(repeats, "request", "info") for _ in range(1_000)]


def test_kinds_that_are_remembered_are_bounded():
    repeats = logs.Repeats(lambda: 0.0)
    for number in range(logs.KINDS_MAX * 3):
        assert warn(repeats, f"event {number}")
    assert len(repeats._kinds) <= logs.KINDS_MAX


@pytest.mark.parametrize(("level", "written"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_least_severity_may_change_at_any_time(level, written):
    threshold = logs.Threshold("error")
    threshold.level = logs.LEVELS[level]
    passed = 0
    for method in logs.LEVELS:
        try:
            threshold(None, method, {"event": "e"})
            passed += 1
        except structlog.DropEvent:
            pass
    assert passed == written


def test_a_stream_is_the_journals_only_if_systemd_says_so(tmp_path: Path):
    with (tmp_path / "log").open("w") as stream:
        found = os.fstat(stream.fileno())
        assert logs.goes_to_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino}"})
        assert not logs.goes_to_journal(stream, {"JOURNAL_STREAM": f"{found.st_dev}:{found.st_ino + 1}"})
        assert not logs.goes_to_journal(stream, {})


def test_each_line_gets_the_priority_of_its_severity():
    assert logs.with_priority(None, "warning", json.dumps({"event": "x"})) == '<4>{"event": "x"}'
    assert logs.with_priority(None, "error", "first\nsecond") == "<3>first\n<3>second"
