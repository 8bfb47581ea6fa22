"""zonectl's commands about the audit: who did what, in the order of the log, and whether that was tampered with."""

import json
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import click

from zoned import clock
from zoned.asking import FORM, Asker, Column, asker_of, fail, show_one, show_rows, text

PAGE = 1_000
LOOK_S = 1.0


@click.group()
def audit() -> None:
    """Who did what, in the order of the log. Each line is chained to the one before."""


_COLUMNS: list[Column] = [
    ("position", lambda one: one["position"]),
    ("at", lambda one: clock.text(one["at"]) if one["at"] is not None else None),
    *(
        (name, lambda one, name=name: one[name])
        for name in ("kind", "outcome", "by", "project", "zone", "request", "subject")
    ),
]


@audit.command()
@click.option("-n", "--limit", type=click.IntRange(1, PAGE), default=20, show_default=True, help="Newest so many.")
@click.option("--follow", is_flag=True, help="Go on with what comes.")
@FORM
@click.pass_context
def tail(context: click.Context, limit: int, follow: bool, form: str | None) -> None:
    """The newest lines."""
    asker = asker_of(context, form)
    found = asker.get(f"/zone/v1/audit?limit={limit}")["lines"]
    show_rows(asker, found, _COLUMNS, "nothing was done yet")
    while follow:
        time.sleep(LOOK_S)
        after = found[-1]["position"] if found else 0
        more = asker.get(f"/zone/v1/audit?after={after}&limit={PAGE}")["lines"]
        for one in more:
            cells = [text(take(one)) for _, take in _COLUMNS]
            click.echo("  ".join(cells) if asker.form == "table" else json.dumps(one, ensure_ascii=False))
        found = more or found


@audit.command()
@click.option("--after", type=click.IntRange(0), default=0, help="Only what came behind this position.")
@click.pass_context
def export(context: click.Context, after: int) -> None:
    """Every line that is kept, one JSON object each, for a place that this node cannot change."""
    for one in _lines(context.obj, after):
        click.echo(json.dumps(one, ensure_ascii=False))


def _lines(asker: Asker, after: int) -> Iterator[Mapping[str, Any]]:
    while found := asker.get(f"/zone/v1/audit?after={after}&limit={PAGE}")["lines"]:
        yield from found
        after = found[-1]["position"]


@audit.command()
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@FORM
@click.pass_context
def verify(context: click.Context, file: Path | None, form: str | None) -> None:
    """Follow the chain: through FILE, which was exported (no daemon is asked), else through what this node keeps, and
    compare with every other node. Exit status 1 when a line was altered or removed.
    """
    if file is not None:
        _verify_file(asker_of(context, form), file)
        return
    asker = asker_of(context, form)
    patient = Asker(asker.socket, asker.form, max(asker.timeout_s, 600.0))
    document = patient.ask("POST", "/admin/v1/audit/verify", {})
    here = document["here"]
    said = f"{here['lines']} lines, positions {here['first']} to {here['last']}" if here["equal"] else here["problem"]
    lines = [("here", said)]
    for one in document["peers"]:
        verdict = (
            f"equal at position {one['position']}" if one["equal"] else "ANOTHER CHAIN: one of the two was altered"
        )
        lines.append((one["zone"], one.get("problem") or verdict))
    lines += [(one["zone"], f"not asked: {one['state']}") for one in document.get("not_asked", ())]
    show_one(asker, document, lines)
    if not document["equal"]:
        sys.exit(1)


def _verify_file(asker: Asker, file: Path) -> None:
    from store.audit import Line, parse

    last: Line | None = None
    first = count = 0
    try:
        with file.open(encoding="utf-8") as opened:
            for number, written in enumerate(opened, 1):
                try:
                    line = parse(json.loads(written))
                    if last is not None and line.before != last.chain:
                        raise ValueError(f"lines between the positions {last.position} and {line.position} are missing")
                except ValueError as error:
                    fail(f"{file}, line {number}: {error}", 1)
                first, last, count = first or line.position, line, count + 1
    except (OSError, UnicodeDecodeError) as error:
        fail(f"{file} cannot be read: {error}", 1)
    if last is None:
        fail(f"{file} holds no lines", 1)
    document = {"lines": count, "first": first, "last": last.position, "chain": last.chain.hex()}
    show_one(asker, document, list(document.items()))
