"""zonectl's commands about integers: how long they last, what belongs to what, ranges by hand."""

from typing import Any
from urllib.parse import quote

import click

from zoned.asking import FORM, WAIT, asker_of, settled, show_one
from zoned.completing import references, zone_names
from zoned.ctl_registry import node_of

YEARS_FROM_DAYS = 10_000.0


def _days(days: float | None) -> str:
    if days is None:
        return "nothing is used"
    return f"{days:,.1f} days" if days < YEARS_FROM_DAYS else f"{days / 365.25:,.0f} years"


@click.group(invoke_without_command=True)
@FORM
@click.pass_context
def ids(context: click.Context, form: str | None) -> None:
    """Integer ranges of this node and how long they last."""
    asker = context.obj = asker_of(context, form)
    if context.invoked_subcommand is not None:
        return
    document = asker.get("/zone/v1/ids")
    lines: list[tuple[str, Any]] = [
        ("left", document["left"]),
        ("rate per day", document["rate_per_day"]),
        ("runway days", document["runway_days"]),
        ("ranges granted", f"{document['ranges']}, {document['granted']} integers"),
        *((f"lease from {one['start']}", f"next {one['next']}, up to {one['stop'] - 1}") for one in document["leases"]),
        ("all zones per day", document["all_zones_per_day"]),
        ("counter", document["counter"]),
    ]
    for one in document["ceilings"]:
        name = f"ceiling 2^{one['ceiling'].bit_length()}-1"
        date = one["runs_out_at"] or ("never at this rate" if one["days"] is None else "beyond all calendars")
        lines.append((name, f"{one['left']} left, {_days(one['days'])}, {date}"))
    show_one(asker, document, lines)


@ids.command("lookup")
@click.argument("reference", shell_complete=references)
@FORM
@click.pass_context
def ids_lookup(context: click.Context, reference: str, form: str | None) -> None:
    """UUID, integer and EC2 name of one image, from any of them."""
    asker = asker_of(context, form)
    document = asker.get(f"/zone/v1/ids/{quote(reference, safe='')}")
    lines = [(name, document[name]) for name in ("uuid", "integer", "ami", "deleted_at")]
    granted = document["granted"]
    if granted:
        retired = ", retired since" if granted["retired"] else ""
        lines.append(
            ("granted to", f"{granted['node_id']} (range {granted['start']} to {granted['stop'] - 1}{retired})")
        )
    show_one(asker, document, lines)


@ids.command("lease")
@click.argument("count", type=click.IntRange(1, 1_000_000_000))
@click.option("--above", type=click.IntRange(0), help="All above this: leaves those below to images of elsewhere.")
@WAIT
@FORM
@click.pass_context
def ids_lease(context: click.Context, count: int, above: int | None, wait_s: int, form: str | None) -> None:
    """Ask for COUNT integers more, now: before a campaign, or before a registry is away for long."""
    asker = asker_of(context, form)
    document = asker.ask(
        "POST", "/admin/v1/ids/lease", {"count": count, **({"above": above} if above is not None else {})}
    )
    if document["state"] == "buffered" and wait_s:
        state = settled(asker, document["write"], wait_s)
        document = {**document, **asker.get("/zone/v1/ids"), "state": state}
    names = ("asked_for", "state", "left", "runway_days")
    show_one(asker, document, [(name.replace("_", " "), document[name]) for name in names])


@ids.command("retire")
@click.argument("node", shell_complete=zone_names)
@click.option("--force", is_flag=True, help="Even while the node is alive; it asks for new ranges then.")
@WAIT
@FORM
@click.pass_context
def ids_retire(context: click.Context, node: str, force: bool, wait_s: int, form: str | None) -> None:
    """Burn what NODE (ID or zone) has left of its ranges. Nothing of them is ever given out again."""
    asker = asker_of(context, form)
    known = {one["zone"] for one in asker.get("/zone/v1/zones")["zones"]}
    target = node_of(asker, node) if node in known else node
    document = asker.ask("POST", "/admin/v1/ids/retire", {"node": target, "force": force})
    if document["state"] == "buffered" and wait_s:
        document = {**document, "state": settled(asker, document["write"], wait_s)}
    names = ("node", "ranges", "integers_at_most", "state")
    show_one(asker, document, [(name.replace("_", " "), document[name]) for name in names])
