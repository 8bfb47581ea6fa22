"""zonectl's commands about image records: look, where the bytes are, and what an operator does about a bad one."""

import sys
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import quote

import click

from zoned.asking import EXITS, FORM, Asker, Column, asker_of, fail, show_one, show_rows, text
from zoned.completing import references, zone_names

STEPS = ("journaled", "shared", "committed", "seen")  # as in zoned.receipts, which would be slow to import here
UNTIL = click.option(
    "--until", type=click.Choice(STEPS[1:]), help="Wait so far: `seen` is until every zone has obeyed."
)
WAIT = click.option(
    "--wait", "wait_s", type=click.IntRange(1, 60), default=30, show_default=True, help="Seconds for that."
)
Asked = tuple[str, str, Any]  # method, path, body


@click.group()
def image() -> None:
    """Image records."""


def path_of(reference: str) -> str:
    return f"/zone/v1/images/{quote(reference, safe='')}"


@image.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Newest so many.")
@FORM
@click.pass_context
def image_list(context: click.Context, limit: int, form: str | None) -> None:
    """The newest records."""
    asker = asker_of(context, form)
    columns: list[Column] = [(name, lambda one, name=name: one[name]) for name in ("uuid", "integer", "name", "status")]  # type: ignore[misc]  # mypy infers no lambda defaults
    columns += [("visibility", lambda one: one["visibility"]), ("created", lambda one: one["created_at"])]
    show_rows(asker, asker.get(f"/zone/v1/images?limit={limit}")["images"], columns, "no images")


@image.command("show")
@click.argument("reference", shell_complete=references)
@FORM
@click.pass_context
def image_show(context: click.Context, reference: str, form: str | None) -> None:
    """One record, by UUID, integer, ami-xxxxxxxx or alias."""
    asker = asker_of(context, form)
    document = asker.get(path_of(reference))
    lines: list[tuple[str, Any]] = []
    for name, value in document.items():
        if name == "properties":
            lines += sorted(value.items())
        elif name == "locations":
            lines += [("location", one["url"]) for one in value]
        elif name == "members":
            lines += [("shared with", f"{project} ({one['status']})") for project, one in sorted(value.items())]
        else:
            lines.append((name, ", ".join(value) if isinstance(value, list) else value))
    show_one(asker, document, lines)


def _written(context: click.Context, form: str | None, asked: Asked, until: str | None, wait_s: int) -> None:
    """Does one write, tells its receipt, and waits as far as that was asked for. Ends the process."""
    asker = asker_of(context, form)
    status, headers, document = asker.raw(*asked)
    if status >= 400:
        detail = document.get("detail", document.get("message", document)) if isinstance(document, dict) else document
        fail(text(str(detail).partition("<br")[0]), EXITS.get(status, 1))
    name, _, state = headers.get("Zone-Write", "").partition("; state=")
    told: Mapping[str, Any] = {"write": name or None, "state": state or "as it was"}
    if until is not None and name:
        receipt = _waited(asker, name, until, wait_s)
        told = {**told, **{key: receipt[key] for key in ("state", "seen", "unseen")}}
    seen, unseen = (", ".join(told.get(name, ())) or None for name in ("seen", "unseen"))
    shown = {**told, "seen": seen, "unseen": unseen}
    if asked[1] == "/zone/v1/images":  # a record was made
        made = {"uuid": document["uuid"], "integer": document["integer"]}
        told, shown = {**made, **told}, {**made, **shown}
    show_one(asker, told, [line for line in shown.items() if line[1] is not None])
    state = told["state"]
    if until is not None and state in STEPS and STEPS.index(state) < STEPS.index(until):
        fail(f"not {until} within {wait_s} s; the write goes on: zonectl writes show {name}", 6)
    sys.exit(5 if state in ("conflict", "refused", "dropped") else 0)


def _waited(asker: Asker, name: str, until: str, wait_s: int) -> Any:
    patient = Asker(asker.socket, asker.form, asker.timeout_s + wait_s)
    return patient.get(f"/zone/v1/writes/{quote(name, safe='')}?wait={wait_s}s&until={until}")


def _uuid(context: click.Context, reference: str) -> str:
    return str(context.obj.get(path_of(reference))["uuid"])


def _change(context: click.Context, reference: str, steps: list[dict[str, Any]]) -> Asked:
    return "PATCH", f"/v2/images/{_uuid(context, reference)}", steps


INTEGERS, TRUTHS = ("min_ram", "min_disk", "size", "virtual_size"), ("protected", "os_hidden")
VALUES = click.argument("values", nargs=-1, metavar="NAME=VALUE...")


def _values(given: Sequence[str]) -> dict[str, Any]:
    """Attributes and free properties as the Images API types them. Ends the process."""
    found: dict[str, Any] = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not name or not equals:
            fail(f"{one!r} is not NAME=VALUE", 2)
        if name in TRUTHS and value not in ("true", "false"):
            fail(f"{name} is true or false, not {value!r}", 2)
        if name in INTEGERS and not (value.isascii() and value.isdigit()):
            fail(f"{name} is a whole number, not {value!r}", 2)
        found[name] = value == "true" if name in TRUTHS else int(value) if name in INTEGERS else value
    return found


@image.command("register")
@VALUES
@click.option("--tag", "tags", multiple=True, help="Repeatable.")
@click.option("--location", "urls", multiple=True, metavar="URL", help="Where the bytes are; makes it active.")
@UNTIL
@WAIT
@FORM
@click.pass_context
def image_register(
    context: click.Context,
    values: tuple[str, ...],
    tags: tuple[str, ...],
    urls: tuple[str, ...],
    until: str | None,
    wait_s: int,
    form: str | None,
) -> None:
    """Make a record: name=ubuntu visibility=public disk_format=qcow2 container_format=bare os_distro=ubuntu."""
    from store.images import FIELDS

    given = _values(values)
    document: dict[str, Any] = {name: value for name, value in given.items() if name in (*FIELDS, "uuid")}
    document["properties"] = {name: value for name, value in given.items() if name not in document}
    document["tags"] = list(tags)
    document["locations"] = [{"url": url, "metadata": {}} for url in urls]
    _written(context, form, ("POST", "/zone/v1/images", document), until, wait_s)


@image.command("set")
@click.argument("reference", shell_complete=references)
@VALUES
@click.option("--remove", "removed", multiple=True, metavar="NAME", help="A free property; repeatable.")
@UNTIL
@WAIT
@FORM
@click.pass_context
def image_set(
    context: click.Context,
    reference: str,
    values: tuple[str, ...],
    removed: tuple[str, ...],
    until: str | None,
    wait_s: int,
    form: str | None,
) -> None:
    """Change attributes and free properties of a record; others' concurrent changes of other names stay."""
    steps: list[dict[str, Any]] = [
        {"op": "add", "path": pointer(name), "value": value} for name, value in _values(values).items()
    ]
    steps += [{"op": "remove", "path": pointer(name)} for name in removed]
    if not steps:
        fail("there is nothing to change: give NAME=VALUE or --remove NAME", 2)
    _written(context, form, _change(context, reference, steps), until, wait_s)


def pointer(name: str) -> str:
    """A JSON pointer to a member (RFC 6901)."""
    return "/" + name.replace("~", "~0").replace("/", "~1")


@image.command("deactivate")
@click.argument("reference", shell_complete=references)
@UNTIL
@WAIT
@FORM
@click.pass_context
def image_deactivate(context: click.Context, reference: str, until: str | None, wait_s: int, form: str | None) -> None:
    """Switch a bad image off everywhere; with --until seen it is proved which zones have obeyed."""
    path = f"/v2/images/{_uuid(context, reference)}/actions/deactivate"
    _written(context, form, ("POST", path, {}), until, wait_s)


@image.command("reactivate")
@click.argument("reference", shell_complete=references)
@UNTIL
@WAIT
@FORM
@click.pass_context
def image_reactivate(context: click.Context, reference: str, until: str | None, wait_s: int, form: str | None) -> None:
    """Switch it on again."""
    path = f"/v2/images/{_uuid(context, reference)}/actions/reactivate"
    _written(context, form, ("POST", path, {}), until, wait_s)


@image.command("hide")
@click.argument("reference", shell_complete=references)
@click.option("--off", is_flag=True, help="Show it again.")
@UNTIL
@WAIT
@FORM
@click.pass_context
def image_hide(
    context: click.Context, reference: str, off: bool, until: str | None, wait_s: int, form: str | None
) -> None:
    """Leave an image out of lists; who knows its ID can still use it."""
    step = {"op": "replace", "path": "/os_hidden", "value": not off}
    _written(context, form, _change(context, reference, [step]), until, wait_s)


@image.command("delete")
@click.argument("reference", shell_complete=references)
@click.option("--yes", is_flag=True, help="Do it. Without this, only say what would go.")
@UNTIL
@WAIT
@FORM
@click.pass_context
def image_delete(
    context: click.Context, reference: str, yes: bool, until: str | None, wait_s: int, form: str | None
) -> None:
    """Delete a record for good: its UUID and its integer are never used again."""
    if not yes:
        document = asker_of(context, form).get(path_of(reference))
        names = ("uuid", "integer", "name", "status", "visibility", "owner", "protected", "created_at")
        show_one(asker_of(context, form), document, [(name, document[name]) for name in names])
        click.echo("zonectl: nothing was changed; add --yes to do it", err=True)
        return
    _written(context, form, ("DELETE", path_of(reference), None), until, wait_s)


@click.command()
@click.argument("reference", shell_complete=references)
@click.option("--from", "near", default=None, shell_complete=zone_names, help="As seen from this zone; default: here.")
@FORM
@click.pass_context
def locate(context: click.Context, reference: str, near: str | None, form: str | None) -> None:
    """Where to fetch the bytes of an image, the best place first, and why."""
    asker = asker_of(context, form)
    asked = f"?near={quote(near, safe='')}" if near is not None else ""
    columns: list[Column] = [
        ("zone", lambda one: one["zone"]),
        ("rtt ms", lambda one: one["rtt_ms"]),
        ("presence", lambda one: ", ".join(one["presence"]) or None),
        ("url", lambda one: one["url"]),
        ("why", lambda one: one["why"]),
    ]
    show_rows(asker, asker.get(f"{path_of(reference)}/locations{asked}")["locations"], columns, "no location is known")


@click.command()
@click.option("--zone", "name", default=None, shell_complete=zone_names, help="Only what is lost with this zone.")
@click.option(
    "-n", "--limit", type=click.IntRange(1, 100_000), default=1_000, show_default=True, help="At most so many."
)
@FORM
@click.pass_context
def risk(context: click.Context, name: str | None, limit: int, form: str | None) -> None:
    """Images whose bytes are in one zone only, or in none that is known: what is lost when that zone burns down."""
    asker = asker_of(context, form)
    asked = f"&zone={quote(name, safe='')}" if name is not None else ""
    found: list[dict[str, Any]] = []
    marker, looked_at = "", 0
    while len(found) < limit:
        page = asker.get(f"/zone/v1/risk?limit=1000{asked}{marker}")
        found += page["images"]
        looked_at += page["looked_at"]
        if page["next"] is None:
            break
        marker = f"&marker={page['next']}"
    columns: list[Column] = [
        ("zone", lambda one: one["zone"]),
        ("uuid", lambda one: one["uuid"]),
        ("integer", lambda one: one["integer"]),
        ("name", lambda one: one["name"]),
        ("owner", lambda one: one["owner"]),
        ("size", lambda one: one["size"]),
    ]
    show_rows(asker, found[:limit], columns, "no image has its bytes in one zone only")
    if found:
        click.echo(f"zonectl: {len(found)} of {looked_at} active images that were looked at", err=True)
