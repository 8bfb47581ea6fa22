"""zonectl's commands about this node's own writes: what became of them, and what an operator may do while they wait."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from zoned.asking import FORM, Asker, Column, asker_of, fail, show_one, show_rows

IMPORT_LINES = 500  # in one call
STEPS = ("journaled", "shared", "committed", "seen")  # as in zoned.receipts, which would be slow to import here


@click.group()
def writes() -> None:
    """This node's own writes."""


@writes.command("list")
@click.option("-n", "--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="Newest so many.")
@click.option("--waiting", is_flag=True, help="Only those not yet committed.")
@FORM
@click.pass_context
def writes_list(context: click.Context, limit: int, waiting: bool, form: str | None) -> None:
    """Receipts, newest first."""
    asker = asker_of(context, form)
    path = f"/zone/v1/writes?limit={limit}" + ("&state=journaled" if waiting else "")
    columns: list[Column] = [
        ("sequence", lambda one: one["sequence"]),
        ("kind", lambda one: one["kind"]),
        ("state", lambda one: one["state"]),
        ("at", lambda one: one["at"]),
        ("position", lambda one: one["position"]),
        ("integer", lambda one: one["integer"]),
        ("uuid", lambda one: one["uuid"]),
        ("detail", lambda one: one["detail"]),
    ]
    show_rows(asker, asker.get(path)["writes"], columns, "no writes")


@writes.command("show")
@click.argument("write_id")
@click.option("--until", type=click.Choice(STEPS[1:]), default="committed", show_default=True, help="What to wait for.")
@click.option("--wait", type=click.IntRange(0, 60), default=0, help="Wait so many seconds; exit status 6 if in vain.")
@FORM
@click.pass_context
def writes_show(context: click.Context, write_id: str, until: str, wait: int, form: str | None) -> None:
    """One receipt, by the ID that the write's answer named."""
    asker = asker_of(context, form)
    asker = replace(asker, timeout_s=asker.timeout_s + wait)
    document = asker.get(f"/zone/v1/writes/{quote(write_id, safe='')}?wait={wait}&until={until}")
    shown = {
        **document,
        "shared": ", ".join(one["zone"] or one["node_id"] for one in document["shared"]) or None,
        "seen": ", ".join(f"{zone} {at}" for zone, at in document["seen"].items()) or None,
        "unseen": ", ".join(document["unseen"]) or None,
    }
    show_one(asker, document, list(shown.items()))
    state = document["state"]
    if wait and state in STEPS and STEPS.index(state) < STEPS.index(until):
        fail(f"not {until} within {wait} s; the write goes on", 6)


def sequence_of(write: str) -> int:
    """The sequence number in `write`, a receipt's ID or the number itself. Ends the process for anything else."""
    number = write.rpartition(".")[2]
    if not number.isascii() or not number.isdigit() or len(number) > 15:
        fail(f"{write} is no write: give its sequence number or its ID, zonectl writes list has them", 2)
    return int(number)


def show_state(asker: Asker, document: dict[str, Any]) -> None:
    hold = document["hold"]
    lines = [
        ("hold", f"from sequence {hold['sequence']} on, since {hold['at']}, by {hold['by']}" if hold else "none"),
        ("reason", hold["reason"] if hold else None),
        ("held", document["held"]),
    ]
    show_one(asker, document, [line for line in lines if line[1] not in (None, "")])
    if hold and hold["sequence"] <= document["left_through"] and document["held"]:
        click.echo(
            f"zonectl: writes up to sequence {document['left_through']} may have left this node before; those may be"
            " committed all the same",
            err=True,
        )


@writes.command("hold")
@click.argument("write", required=False)
@click.option("--reason", default="", help="Why; kept with the hold.")
@FORM
@click.pass_context
def writes_hold(context: click.Context, write: str | None, reason: str, form: str | None) -> None:
    """Hold back WRITE and everything behind it (without WRITE: all). Writes keep their order, so none can overtake.

    New writes are still accepted and wait behind, and so do requests for integers. It outlasts a restart.
    """
    asker = asker_of(context, form)
    first = sequence_of(write) if write else None
    show_state(asker, asker.ask("POST", "/admin/v1/writes/hold", {"from": first, "reason": reason}))


@writes.command("release")
@FORM
@click.pass_context
def writes_release(context: click.Context, form: str | None) -> None:
    """End the hold: everything goes its way again."""
    asker = asker_of(context, form)
    show_state(asker, asker.ask("POST", "/admin/v1/writes/release", {}))


@writes.command("drop")
@click.argument("write")
@click.option("--reason", required=True, help="Why; everybody can read it in the ledger.")
@FORM
@click.pass_context
def writes_drop(context: click.Context, write: str, reason: str, form: str | None) -> None:
    """Take one waiting write out. What, who and why is recorded in the conflict ledger of every zone.

    If it is in the log already, the log decides; its receipt says `committed` then, not `dropped`.
    """
    asker = asker_of(context, form)
    document = asker.ask("POST", f"/admin/v1/writes/{sequence_of(write)}/drop", {"reason": reason})
    show_one(asker, document, [(name, value) for name, value in document.items() if value is not None])
    if document["may_have_left"]:
        click.echo("zonectl: it may have left this node before; zonectl writes show tells how it ends", err=True)
    if document["same_image_behind"]:
        behind = document["same_image_behind"]
        click.echo(f"zonectl: {behind} later writes of the same image wait; they may be refused now", err=True)


@writes.command("retry")
@FORM
@click.pass_context
def writes_retry(context: click.Context, form: str | None) -> None:
    """Send what waits now, and again what was sent: the log takes each write once."""
    asker = asker_of(context, form)
    document = asker.ask("POST", "/admin/v1/writes/retry", {})
    show_one(asker, document, [("waiting", document["waiting"]), ("held", document["held"])])


@writes.command("flush")
@click.option("--wait", "wait_s", type=click.FloatRange(0, 600), default=30.0, show_default=True, help="Seconds.")
@FORM
@click.pass_context
def writes_flush(context: click.Context, wait_s: float, form: str | None) -> None:
    """Wait until everything that waits now is committed. Exit status 6 when that takes longer."""
    asker = asker_of(context, form)
    patient = Asker(asker.socket, asker.form, max(asker.timeout_s, wait_s + 10.0))
    document = patient.ask("POST", "/admin/v1/writes/flush", {"wait_s": wait_s})
    show_one(asker, document, [("through", document["through"]), ("left", document["left"])])


@writes.command("export")
@click.argument("file", type=click.File("w", lazy=True), default="-")
@click.option("--data-dir", type=click.Path(path_type=Path, exists=True), help="Of a node whose daemon is dead.")
@click.pass_context
def writes_export(context: click.Context, file: Any, data_dir: Path | None) -> None:
    """Write the waiting writes to FILE, one JSON line each, oldest first; `import` reads them in any zone."""
    count = 0
    for line in _on_disk(data_dir) if data_dir else _of_daemon(context.obj):
        file.write(json.dumps(line) + "\n")
        count += 1
    click.echo(f"zonectl: {count} writes exported", err=True)


def _of_daemon(asker: Asker) -> Any:
    after = 0
    while after is not None:
        document = asker.get(f"/admin/v1/writes/export?after={after}")
        yield from document["writes"]
        after = document["next"]


def _on_disk(data_dir: Path) -> Any:
    import apsw

    from store import holding

    try:
        connection = apsw.Connection(str(data_dir / "zoned.db"), flags=apsw.SQLITE_OPEN_READONLY)
        after = 0
        while found := list(holding.export(connection, after)):
            yield from found
            after = found[-1]["sequence"]
    except apsw.Error as error:
        fail(f"{data_dir / 'zoned.db'} cannot be read: {error}", 1)


@writes.command("import")
@click.argument("file", type=click.File("r"), default="-")
@FORM
@click.pass_context
def writes_import(context: click.Context, file: Any, form: str | None) -> None:
    """Hand over another node's exported writes: they are forwarded from here under its ID and take effect once."""
    asker = asker_of(context, form)
    lines: list[Any] = []
    try:
        lines.extend(json.loads(line) for line in file)
    except (ValueError, RecursionError):  # a line that is no text is no JSON either
        fail(f"line {len(lines) + 1} is no JSON; give the file as zonectl writes export wrote it", 2)
    if not lines:
        fail("there is nothing to import", 2)
    totals: dict[str, Any] = {}
    for begin in range(0, len(lines), IMPORT_LINES):
        part = asker.ask("POST", "/admin/v1/writes/import", {"writes": lines[begin : begin + IMPORT_LINES]})
        totals = {name: totals.get(name, 0) + value for name, value in part.items()}
    show_one(asker, totals, list(totals.items()))
    if totals["left_out"]:
        click.echo("zonectl: some writes before these are missing, so they can never be applied", err=True)
        sys.exit(5)
