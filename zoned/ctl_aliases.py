"""zonectl's commands about names that point to images, one record's history and bytes, and the stream of changes."""

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from zoned.asking import FORM, Asker, Column, asker_of, show_one, show_rows
from zoned.completing import alias_names, references

ZONES = click.option("--zone", "zones", multiple=True, help="Only there; may be given again. Default: everywhere.")


@click.group()
def aliases() -> None:
    """Names that point to images: promoted zone by zone, rolled back."""


def path_of(name: str) -> str:
    return f"/zone/v1/aliases/{quote(name, safe='')}"


def show_alias(asker: Asker, document: Mapping[str, Any]) -> None:
    lines = [("name", document["name"]), ("here", document["image"])]
    lines += [(f"zone {zone}" if zone != "*" else "everywhere", uuid) for zone, uuid in document["targets"].items()]
    lines += [("changed", f"{document['at']} by {document['by'] or '-'}"), ("state", document.get("state", "-"))]
    show_one(asker, document, lines)


@aliases.command("list")
@FORM
@click.pass_context
def list_aliases(context: click.Context, form: str | None) -> None:
    """Every alias and what it is here."""
    asker = asker_of(context, form)
    found: list[dict[str, Any]] = []
    marker: str | None = ""
    while marker is not None:
        page = asker.get(f"/zone/v1/aliases?limit=1000&marker={quote(marker, safe='')}")
        found += page["aliases"]
        marker = page["next"]
    columns: list[Column] = [
        ("name", lambda one: one["name"]),
        ("image", lambda one: one["image"]),
        ("zones of their own", lambda one: ", ".join(zone for zone in one["targets"] if zone != "*") or None),
        ("at", lambda one: one["at"]),
        ("by", lambda one: one["by"]),
    ]
    show_rows(asker, found, columns, "no aliases")


@aliases.command("show")
@click.argument("name", shell_complete=alias_names)
@FORM
@click.pass_context
def show_one_alias(context: click.Context, name: str, form: str | None) -> None:
    """Where NAME points, zone by zone."""
    asker = asker_of(context, form)
    show_alias(asker, asker.get(path_of(name)))


@aliases.command("set")
@click.argument("name", shell_complete=alias_names)
@click.argument("image", shell_complete=references)
@ZONES
@FORM
@click.pass_context
def set_alias(context: click.Context, name: str, image: str, zones: Sequence[str], form: str | None) -> None:
    """Point NAME to IMAGE (any reference); with --zone only there, to try it out."""
    asker = asker_of(context, form)
    body = {"image": image, **({"zones": list(zones)} if zones else {})}
    show_alias(asker, asker.ask("PUT", path_of(name), body))


@aliases.command("rollback")
@click.argument("name", shell_complete=alias_names)
@ZONES
@FORM
@click.pass_context
def roll_back(context: click.Context, name: str, zones: Sequence[str], form: str | None) -> None:
    """Point NAME to what it pointed to before its last change."""
    asker = asker_of(context, form)
    show_alias(asker, asker.ask("POST", f"{path_of(name)}/rollback", {"zones": list(zones)} if zones else {}))


@aliases.command("delete")
@click.argument("name", shell_complete=alias_names)
@FORM
@click.pass_context
def delete_alias(context: click.Context, name: str, form: str | None) -> None:
    """Unset NAME; it can be rolled back."""
    asker = asker_of(context, form)
    show_alias(asker, asker.ask("DELETE", path_of(name)))


@click.command()
@click.argument("reference", shell_complete=references)
@FORM
@click.pass_context
def history(context: click.Context, reference: str, form: str | None) -> None:
    """Who changed what of an image, and when; the newest first."""
    asker = asker_of(context, form)
    document = asker.get(f"/zone/v1/images/{quote(reference, safe='')}/history")
    columns: list[Column] = [
        ("position", lambda one: one["position"]),
        ("kind", lambda one: one["kind"]),
        ("at", lambda one: one["at"]),
        ("by", lambda one: one["by"]),
        ("changed", lambda one: ", ".join(_change(what, pair) for what, pair in one["changed"].items()) or None),
        ("request", lambda one: one["request_id"]),
    ]
    show_rows(asker, document["changes"], columns, "no changes")


def _change(what: str, pair: Mapping[str, Any]) -> str:
    return f"{what}: {pair['from']} -> {pair['to']}"


@click.command()
@click.argument("reference", shell_complete=references)
@FORM
@click.pass_context
def presence(context: click.Context, reference: str, form: str | None) -> None:
    """Where the bytes of an image are wanted, claimed and verified, zone by zone."""
    asker = asker_of(context, form)
    document = asker.get(f"/zone/v1/images/{quote(reference, safe='')}/presence")
    columns: list[Column] = [
        (name, lambda one, name=name: one[name])  # type: ignore[misc]  # a default binds the name now
        for name in ("zone", "wanted", "claimed", "verified", "absent")
    ]
    show_rows(asker, document["zones"], columns, "nobody has said anything of its bytes")
    if asker.form == "table":
        click.echo(f"bootable in {document['zone']}: {document['bootable_here']} ({document['why']})", err=True)


@click.command()
@click.option("--from", "position", type=click.IntRange(0), help="The last position you have. Default: from now on.")
@click.option("--count", type=click.IntRange(1), help="End after so many changes.")
@click.pass_context
def watch(context: click.Context, position: int | None, count: int | None) -> None:
    """Changes of images as they are applied here, one JSON text per line; heartbeats are left out."""
    asker: Asker = context.obj
    heartbeat_s = max(1, min(10, int(asker.timeout_s / 2)))
    start = f"&from={position}" if position is not None else ""
    seen = 0
    for line in asker.lines(f"/zone/v1/watch?heartbeat={heartbeat_s}{start}"):
        if json.loads(line)["type"] == "heartbeat":
            continue
        click.echo(line)
        seen += 1
        if seen == count:
            return
    click.echo("the daemon stopped", err=True)
