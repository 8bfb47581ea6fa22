"""Words for bench/results/outage.md."""

from typing import Any


def render(results: dict[str, Any]) -> str:
    return ""
