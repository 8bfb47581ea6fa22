"""zonectl's commands for those who run a zone: health, waiting, explaining, log, configuration, the support bundle."""

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click

from zoned.asking import EXITS, FORM, Asker, Column, age, asker_of, fail, show_one, show_rows, text
from zoned.completing import health_codes, references, settings

WAIT_LOOK_S = 0.2
UNITS_S = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


class Span(click.ParamType[float]):
    """A duration as people write it: 90s, 30m, 2h, 1d."""

    name = "duration"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        number, unit = str(value)[:-1], str(value)[-1:]
        if unit not in UNITS_S or not number.isascii() or not number.isdigit() or len(number) > 9:
            self.fail(f"{value!r} is no duration; write 90s, 30m, 2h or 1d", param, ctx)
        return float(int(number) * UNITS_S[unit])


@click.command()
@click.argument("code", required=False, shell_complete=health_codes)
@click.option(
    "--mute",
    metavar="CODE",
    shell_complete=health_codes,
    help="Do not hear of this for a while; it speaks again when it becomes worse.",
)
@click.option("--for", "span", type=Span(), default="4h", show_default=True, help="How long: 90s, 30m, 2h, 1d.")
@click.option("--unmute", metavar="CODE", shell_complete=health_codes, help="Hear of it again.")
@FORM
@click.pass_context
def health(
    context: click.Context, code: str | None, mute: str | None, span: float, unmute: str | None, form: str | None
) -> None:
    """What is the matter and what to do. Exit status 0 well, 1 warning, 2 critical. With CODE: what that one means."""
    asker = asker_of(context, form)
    if code:
        explain_code(asker, code)
    if mute or unmute:
        path, asked = "/admin/v1/health/mute", {"code": mute or unmute, "for_s": span if mute else 0}
        document = asker.ask("POST", path, asked)
    else:
        document = asker.get("/zone/v1/health")
    show_health(asker, document)
    sys.exit({"ok": 0, "warning": 1, "critical": 2}[document["status"]])


def explain_code(asker: Asker, code: str) -> NoReturn:
    """Asks no daemon: the reader may be looking at another zone's alert."""
    from zoned.health import CODES

    found = CODES.get(code.upper())
    if found is None:
        fail(f"no health code {code}; known: {', '.join(sorted(CODES))}", 4)
    document = {"code": code.upper(), "means": found.means, "do": found.do}
    show_one(asker, document, list(document.items()))
    sys.exit(0)


def in_short(document: Mapping[str, Any]) -> str:
    """Health in one line: how bad, and the codes that are not muted."""
    codes = [one["code"] for one in document["findings"] if one["muted_s"] is None]
    return f"{document['status']}: {', '.join(codes)}" if codes else str(document["status"])


def show_health(asker: Asker, document: Mapping[str, Any]) -> None:
    columns: list[Column] = [
        ("code", lambda one: one["code"]),
        ("severity", lambda one: one["severity"]),
        ("muted", lambda one: f"for {age(one['muted_s'])}" if one["muted_s"] is not None else None),
        ("what", lambda one: one["summary"]),
    ]
    if asker.form != "table":
        if asker.form == "csv":
            show_rows(asker, document["findings"], columns, "")
        else:
            show_one(asker, document, [])
        return
    click.echo(document["status"])
    for one in document["findings"]:
        muted = f", muted for {age(one['muted_s'])}" if one["muted_s"] is not None else ""
        click.echo(f"{one['code']} ({one['severity']}{muted}): {text(one['summary'])}")
        click.echo(f"  {one['means']}\n  {one['do']}")


def _status(asker: Asker, *keys: str) -> Any:
    """What stands there in the status; None while the daemon does not answer."""
    found = asker.peek("/zone/v1/status")
    for key in keys:
        found = found[key] if found is not None else None
    return found


def _is_ready(asker: Asker) -> bool:
    return asker.peek("/readyz") is not None


def _is_synced(asker: Asker) -> bool:
    here, others = _status(asker, "catalogue", "position"), asker.peek("/zone/v1/zones")
    if not here or others is None:
        return False
    return all(here >= (one["position"] or 0) for one in others["zones"] if one["state"] == "alive")


def _has_registry(asker: Asker) -> bool:
    return _status(asker, "registry", "known") is True


def _is_flushed(asker: Asker) -> bool:
    return bool(_status(asker, "journal", "entries") == 0)


def _is_drained(asker: Asker) -> bool:
    return _status(asker, "node", "draining") is True and _is_flushed(asker)


STATES = {
    "ready": _is_ready,
    "synced": _is_synced,
    "registry": _has_registry,
    "flushed": _is_flushed,
    "drained": _is_drained,
}


@click.command()
@click.argument("states", nargs=-1, required=True, type=click.Choice(list(STATES)))
@click.option("--for", "span", type=Span(), default="60s", show_default=True, help="At most so long: 90s, 30m.")
@click.pass_context
def wait(context: click.Context, states: tuple[str, ...], span: float) -> None:
    """Wait until this zone is all that is asked. Exit status 6 when the time is over.

    ready: it serves. synced: it has applied what others say they have. registry: it knows one. flushed: its journal is
    empty. drained: it is draining and its journal is empty.
    """
    asker: Asker = context.obj
    give_up = time.monotonic() + span
    while not all(STATES[state](asker) for state in states):
        if time.monotonic() >= give_up:
            fail(f"not {' and '.join(states)} within {age(span)}", 6)
        time.sleep(WAIT_LOOK_S)


@click.command()
@click.argument("reference", shell_complete=references)
@FORM
@click.pass_context
def explain(context: click.Context, reference: str, form: str | None) -> None:
    """Why this zone answers as it does about an image: where the record comes from, how old that can be, or why not."""
    asker = asker_of(context, form)
    status, headers, document = asker.raw("GET", f"/zone/v1/images/{quote(reference, safe='')}")
    told: list[tuple[str, Any]] = [("asked", reference), ("answer", status)]
    if status == 200:
        told += [
            ("uuid", document["uuid"]),
            ("integer", document["integer"]),
            ("status", document["status"]),
            ("changed by", headers.get("ETag", "").strip('"') or None),
            ("source", _source(headers.get("Zone-Source", ""))),
        ]
    else:
        told += [("code", document.get("code")), ("because", document.get("detail"))]
    bound = headers.get("Zone-Staleness")
    told += [
        ("zone", headers.get("Zone-Name")),
        ("position", headers.get("Zone-Position")),
        (
            "staleness",
            f"nothing committed more than {bound} s ago is missing" if bound else "not known: no registry yet",
        ),
    ]
    if status == 200:
        mapping = asker.get(f"/zone/v1/ids/{quote(reference, safe='')}")
        told.append(("ami", mapping["ami"]))
        if mapping["granted"]:
            told.append(("integer granted to", mapping["granted"]["node_id"]))
    show_one(asker, dict(told), told)
    if status != 200:
        sys.exit(EXITS.get(status, 1))


def _source(source: str) -> str:
    said = {
        "local": "the catalogue: committed and applied here",
        "journal": "this node's journal: written here, not committed yet",
        "provisional": "another zone's journal: readable, not committed yet",
    }
    return said.get(source, source)


@click.group()
def log() -> None:
    """What the daemon writes to its log."""


@log.command("level")
@click.argument("level", required=False, type=click.Choice(["debug", "info", "warning", "error"]))
@FORM
@click.pass_context
def log_level(context: click.Context, level: str | None, form: str | None) -> None:
    """Show or set the least severity written, until the next reload or start."""
    _show_log(asker_of(context, form), {"level": level} if level else None)


@log.command("requests")
@click.argument("switch", required=False, type=click.Choice(["on", "off"]))
@FORM
@click.pass_context
def log_requests(context: click.Context, switch: str | None, form: str | None) -> None:
    """Show or set whether each HTTP request is a line, until the next reload or start."""
    _show_log(asker_of(context, form), {"requests": switch == "on"} if switch else None)


def _show_log(asker: Asker, change: Mapping[str, Any] | None) -> None:
    document = asker.ask("POST", "/admin/v1/log", change) if change else asker.get("/admin/v1/log")
    show_one(asker, document, list(document.items()))


@click.group()
def config() -> None:
    """The configuration in force."""


def _value(value: Any) -> str:
    return ", ".join(value) if isinstance(value, list) else text(value)


@config.command("show")
@click.argument("prefix", default="", shell_complete=settings)
@FORM
@click.pass_context
def config_show(context: click.Context, prefix: str, form: str | None) -> None:
    """Every setting, or those that begin with PREFIX, as they are in force."""
    asker = asker_of(context, form)
    found = [one for one in asker.get("/admin/v1/config")["settings"] if one["key"].startswith(prefix)]
    columns: list[Column] = [("key", lambda one: one["key"]), ("value", lambda one: _value(one["value"]))]
    show_rows(asker, found, columns, "no such setting")


@config.command("diff")
@FORM
@click.pass_context
def config_diff(context: click.Context, form: str | None) -> None:
    """What the file says otherwise. Exit status 1 if it cannot be used."""
    asker = asker_of(context, form)
    document = asker.get("/admin/v1/config")
    if document["problem"]:
        fail(document["problem"], 1)
    _show_changes(asker, [one for one in document["settings"] if one["value"] != one["file"]], "value")


@config.command("reload")
@FORM
@click.pass_context
def config_reload(context: click.Context, form: str | None) -> None:
    """Read the file anew; what needs a restart is named and left."""
    asker = asker_of(context, form)
    document = asker.ask("POST", "/admin/v1/config/reload", {})
    _show_changes(asker, document["changed"] + document["after_a_restart"], "was")


def _show_changes(asker: Asker, found: Sequence[Mapping[str, Any]], was: str) -> None:
    from zoned.settings import LIVE

    columns: list[Column] = [
        ("key", lambda one: one["key"]),
        ("was" if was == "was" else "in force", lambda one: _value(one[was])),
        ("file", lambda one: _value(one["file"])),
        ("needs", lambda one: "a reload" if one["key"] in LIVE else "a restart"),
    ]
    show_rows(asker, found, columns, "the file says what is in force")


@click.command("support-bundle")
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.pass_context
def support_bundle(context: click.Context, file: Path) -> None:
    """Write what helps to understand this zone from afar to FILE (tar.gz). No secrets, no image records."""
    from zoned.bundle import write

    count = write(context.obj, file)
    click.echo(f"{file}: {count} parts; look through it before you send it")
