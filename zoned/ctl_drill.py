"""`zonectl drill`: what an outage would mean now, and a small one for real. Exit status 0 ok, 1 warn, 2 critical."""

import contextlib
import sys
import time
from collections.abc import Mapping
from typing import Any

import click

from zoned.asking import FORM, Asker, Column, asker_of, fail, show_one, show_rows

KINDS = ("registry-outage", "partition", "disk-full")
EXITS = {"ok": 0, "warn": 1, "critical": 2}
RECOVER_S = 90.0  # after the drill the daemon watches the recovery; then it has the result


class Seconds(click.ParamType[float]):
    """`60`, `60s`, `5m` or `1h`."""

    name = "TIME"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        if isinstance(value, float):
            return value
        number, unit = (value[:-1], value[-1:]) if value[-1:] in ("s", "m", "h") else (value, "s")
        if (
            not number.isascii()
            or not number.isdigit()
            or not 1 <= int(number) * {"s": 1, "m": 60, "h": 3600}[unit] <= 3600
        ):
            self.fail("must be 1s to 1h, as 60s or 5m", param, ctx)
        return float(int(number) * {"s": 1, "m": 60, "h": 3600}[unit])


@click.command()
@click.argument("kind", type=click.Choice(KINDS), required=False)
@click.option("--live", is_flag=True, help="Do it, on this node only. Ends by itself, even without zonectl.")
@click.option("--for", "for_s", type=Seconds(), default=60.0, show_default="60s", help="How long, at most 1h.")
@click.option("--force", is_flag=True, help="Even when others would have no registry meanwhile.")
@click.option("--stop", is_flag=True, help="End the live drill.")
@FORM
@click.pass_context
def drill(
    context: click.Context, kind: str | None, live: bool, for_s: float, force: bool, stop: bool, form: str | None
) -> None:
    """Plan an outage from the present state; with --live play it and compare.

    registry-outage: this node forwards no writes. partition: nothing goes to or comes from other nodes. disk-full:
    writes are refused as if the disk were full. Exit status 0 ok, 1 warn, 2 critical.
    """
    asker = asker_of(context, form)
    if stop:
        asker.ask("DELETE", "/admin/v1/drill")
        click.echo("zonectl: the drill ends", err=True)
    elif kind is None:
        fail(f"name a drill: {', '.join(KINDS)}", 2)
    elif live:
        _play(asker, kind, for_s, force)
    else:
        document = asker.get(f"/admin/v1/drill/{kind}?for_s={for_s:.0f}")
        _show(asker, document, "plan", ("what", "state", "says"))


def _show(asker: Asker, document: Mapping[str, Any], key: str, names: tuple[str, ...]) -> None:
    """JSON carries the whole document; the other forms its lines. Ends the process with its state."""
    columns: list[Column] = [(name, lambda one, name=name: one[name]) for name in names]  # type: ignore[misc]  # mypy infers no lambda defaults
    if asker.form in ("json", "jsonl"):
        show_one(asker, document, [])
    else:
        show_rows(asker, document[key], columns, "nothing to say")
    sys.exit(EXITS[document["state"]])


def _play(asker: Asker, kind: str, for_s: float, force: bool) -> None:
    begun = asker.ask("POST", f"/admin/v1/drill/{kind}", {"for_s": for_s, "force": force})
    click.echo(f"zonectl: {kind} for {for_s:.0f} s; it ends by itself, or with zonectl drill --stop", err=True)
    give_up = time.monotonic() + for_s + RECOVER_S
    try:
        while time.monotonic() < give_up:
            time.sleep(0.5)
            state = asker.get("/admin/v1/drill")
            last = state["last"]
            if state["live"] is None and last is not None and last["id"] == begun["id"]:
                _show(asker, last, "compared", ("what", "state", "plan", "live"))
    except KeyboardInterrupt:
        with contextlib.suppress(SystemExit):
            asker.ask("DELETE", "/admin/v1/drill")
        fail("the drill was stopped", 1)
    fail("the drill has ended, but the daemon tells no result", 6)
