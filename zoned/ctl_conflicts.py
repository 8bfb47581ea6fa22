"""zonectl's commands about the conflict ledger: what concurrent writes did not get, and settling it."""

import json
from collections.abc import Mapping
from typing import Any

import click

from zoned.asking import FORM, WAIT, Column, asker_of, fail, settled, show_one, show_rows


def shown(value: Any) -> str:
    """A value of the ledger as one line."""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _short(value: Any) -> str:
    text = shown(value)
    return text if len(text) <= 40 else text[:39] + "…"


def _kind(dropped: Mapping[str, Any]) -> str:
    """Of a dropped write; what it asked for is for `show`."""
    return str(dropped["theirs"]["value"]["kind"])


@click.group()
def conflicts() -> None:
    """Values that lost against concurrent writes. `ours` is what the catalogue keeps, `theirs` what lost."""


@conflicts.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Newest so many.")
@click.option("--all", "everything", is_flag=True, help="Resolved ones and dropped writes, too.")
@FORM
@click.pass_context
def conflicts_list(context: click.Context, limit: int, everything: bool, form: str | None) -> None:
    """Open conflicts, newest first."""
    asker = asker_of(context, form)
    columns: list[Column] = [
        ("id", lambda one: one["id"]),
        ("state", lambda one: one["resolved"]["take"] if one["resolved"] else "open"),
        ("uuid", lambda one: one["uuid"]),
        ("what", lambda one: one["what"]),
        ("ours", lambda one: _short(one["ours"]["value"]) if one["what"] != "write" else None),
        ("theirs", lambda one: _short(one["theirs"]["value"]) if one["what"] != "write" else _kind(one)),
        ("by", lambda one: one["theirs"]["by"]),
        ("zone", lambda one: one["theirs"]["zone"]),
        ("at", lambda one: one["theirs"]["at"]),
    ]
    state = "all" if everything else "open"
    found = asker.get(f"/zone/v1/conflicts?limit={limit}&state={state}")["conflicts"]
    show_rows(asker, found, columns, "no conflicts" if everything else "no open conflicts")


def _lines(document: Mapping[str, Any]) -> list[tuple[str, Any]]:
    ours, theirs, resolved = document["ours"], document["theirs"], document["resolved"]
    lines: list[tuple[str, Any]] = [
        ("id", document["id"]),
        ("state", document["state"]),
        ("uuid", document["uuid"]),
        ("what", document["what"]),
        ("ours", shown(ours["value"])),
        ("ours written by", ours["write"]),
        ("theirs", shown(theirs["value"])),
        ("theirs written by", theirs["write"]),
        (
            "theirs asked for",
            f"by {theirs['by'] or '(not known)'} in {theirs['zone'] or '(not known)'}, {theirs['at']}",
        ),
        ("position", document["position"]),
    ]
    if resolved:
        who = f"{resolved['by'] or '(not known)'} in {resolved['zone'] or '(not known)'}, {resolved['at']}"
        lines += [("resolved", f"{resolved['take']} by {who}"), ("resolved write", resolved["write"])]
        lines += [("note", resolved["note"])] if resolved["note"] else []
    return lines


@conflicts.command("show")
@click.argument("number", type=click.IntRange(1))
@FORM
@click.pass_context
def conflicts_show(context: click.Context, number: int, form: str | None) -> None:
    """One entry: both values, who, when and where."""
    asker = asker_of(context, form)
    document = asker.get(f"/zone/v1/conflicts/{number}")
    show_one(asker, document, _lines(document))


@conflicts.command("resolve")
@click.argument("number", type=click.IntRange(1))
@click.option("--take", type=click.Choice(["ours", "theirs", "value"]), required=True, help="Whose value stays.")
@click.option("--value", help="With --take value: a text, or anything else as JSON (true, 12, null, [..]).")
@WAIT
@FORM
@click.pass_context
def conflicts_resolve(
    context: click.Context, number: int, take: str, value: str | None, wait_s: int, form: str | None
) -> None:
    """Settle an open entry. An ordinary write: ordered, and recorded with who and when."""
    if (value is not None) is not (take == "value"):
        fail("--value goes with --take value, and only with it", 2)
    asker = asker_of(context, form)
    asked: dict[str, Any] = {"take": take}
    if value is not None:
        try:
            asked["value"] = json.loads(value)
        except ValueError:
            asked["value"] = value
    document = asker.ask("POST", f"/zone/v1/conflicts/{number}/resolve", asked)
    if document["state"] == "open" and wait_s:
        settled(asker, document["write"], wait_s)
        document = {**asker.get(f"/zone/v1/conflicts/{number}"), "write": document["write"]}
    show_one(asker, document, _lines(document))
    if document["state"] == "open":
        click.echo(f"zonectl: the resolution waits in the journal; zonectl writes show {document['write']}", err=True)
