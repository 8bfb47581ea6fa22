"""The generated documents equal what the schema says today."""

from pathlib import Path

import pytest

from conf import Config, parse
from conf.reference import GENERATED, sample

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("where", GENERATED)
def test_generated_documents_are_up_to_date(where: str):
    assert (ROOT / where).read_text(encoding="utf-8") == GENERATED[where](), "run `make gen`"


def test_the_sample_with_every_line_uncommented_is_the_default():
    text = "\n".join(
        line.removeprefix("#") if "=" in line and not line.startswith("# ") else line for line in sample().split("\n")
    )
    assert parse(text) == Config()
