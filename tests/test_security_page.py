"""docs/security.md names a test for every row, and says of the policy what the policy says."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from zoned.policy import DEFAULT

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "docs" / "security.md"
TEST = re.compile(r"`(tests/[\w/]+\.py)(?:::(\w+))?`")


def tables() -> Iterator[tuple[list[str], list[list[str]]]]:
    """(heads, rows of cells) of each table."""
    rows: list[list[str]] = []
    for line in [*PAGE.read_text(encoding="utf-8").splitlines(), ""]:
        if line.startswith("|"):
            rows.append([cell.strip() for cell in line.strip("|").split(" | ")])
        elif rows:
            yield rows[0], rows[2:]
            rows = []


def test_every_row_names_tests_that_are_there():
    found = list(tables())
    assert len(found) >= 10
    for heads, rows in found:
        if heads == ["action", "who may"]:
            continue
        assert heads[-1] == "tested by", heads
        for row in rows:
            assert len(row) == len(heads), row
            named = TEST.findall(row[-1])
            assert named, f"no test: {row[0]}"
            for path, function in named:
                assert (ROOT / path).exists(), path
                assert f"def {function}(" in (ROOT / path).read_text() if function else True, row[-1]


def test_the_table_of_rights_is_the_policy():
    (rows,) = (rows for heads, rows in tables() if heads == ["action", "who may"])
    assert {action.strip("`"): tuple(who.split(", ")) for action, who in rows} == dict(DEFAULT.rules)


@pytest.mark.parametrize("words", ["Threat model", "what a stolen one can do, how to recover", "What is not defended"])
def test_the_page_has_what_it_must_say(words):
    assert words in PAGE.read_text(encoding="utf-8")
