"""What the shell may complete: names that the local daemon knows right now, and fixed ones. Never an error or slow."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import click

from zoned.asking import Asker

LOOK_S = 1.0
FEW = 200  # names that are offered

Completer = Callable[[click.Context, click.Parameter, str], list[str]]


def _live(path: str, names: Callable[[Any], Iterable[str]]) -> Completer:
    def complete(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
        from zoned.paths import find_socket

        given: Path | None = context.find_root().params.get("path")
        try:
            document = Asker(given or find_socket(), "json", LOOK_S).peek(path)
            found = names(document) if document is not None else ()
            return sorted({one for one in found if one and one.startswith(incomplete)})[:FEW]
        except (json.JSONDecodeError, KeyError, TypeError):
            return []

    return complete


def _codes(_context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    from zoned.health import CODES

    return [code for code in CODES if code.startswith(incomplete.upper())]


zone_names = _live("/zone/v1/zones", lambda document: (one["zone"] for one in document["zones"]))
alias_names = _live("/zone/v1/aliases?limit=200", lambda document: (one["name"] for one in document["aliases"]))
settings = _live("/admin/v1/config", lambda document: (one["key"] for one in document["settings"]))
image_references = _live("/zone/v1/images?limit=100", lambda document: (one["uuid"] for one in document["images"]))
health_codes = _codes


def references(context: click.Context, parameter: click.Parameter, incomplete: str) -> list[str]:
    """What an image goes by: aliases first, then UUIDs of the newest."""
    return [*alias_names(context, parameter, incomplete), *image_references(context, parameter, incomplete)]
