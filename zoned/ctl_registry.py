"""zonectl's commands about the registry and what it holds: steering, verifying, backing up."""

import sys
from pathlib import Path

import click

from zoned.asking import FORM, Asker, asker_of, fail, show_one
from zoned.completing import zone_names


@click.group()
def registry() -> None:
    """Who orders writes, and who may."""


@registry.command("status")
@FORM
@click.pass_context
def registry_status(context: click.Context, form: str | None) -> None:
    """The registry as this node sees it: who, term, log, who takes part."""
    asker = asker_of(context, form)
    document = asker.get("/zone/v1/status")["registry"]
    names = {one["node_id"]: one["zone"] for one in asker.get("/zone/v1/zones")["zones"]}
    lines = [(name, value) for name, value in document.items() if name not in ("voters", "learners", "witnesses")]
    parts = dict.fromkeys(document["voters"], "voter") | dict.fromkeys(document["learners"], "learner")
    for node_id, part in parts.items():
        label = "witness" if part == "voter" and node_id in document["witnesses"] else part
        lines.append((label, f"{node_id} {names.get(node_id, '(not known to gossip)')}"))
    show_one(asker, document, lines)


def node_of(asker: Asker, name: str) -> str:
    """The node ID that a node ID or a zone's name means. Ends the process when it is none or several."""
    found = [one["node_id"] for one in asker.get("/zone/v1/zones")["zones"] if name in (one["node_id"], one["zone"])]
    if not found:
        fail(f"no node or zone {name} is known here; zonectl zones lists them", 4)
    if len(found) > 1:
        fail(f"zone {name} has {len(found)} nodes; give a node ID, zonectl -f json zones has them", 2)
    return str(found[0])


def steer(context: click.Context, action: str, node: str) -> None:
    click.echo(context.obj.ask("POST", f"/admin/v1/registry/{action}", {"node": node})["begun"])


@registry.command()
@click.argument("node", required=False, shell_complete=zone_names)
@click.pass_context
def transfer(context: click.Context, node: str | None) -> None:
    """Hand the registry over to NODE (ID or zone), or to whoever is furthest."""
    steer(context, "transfer", node_of(context.obj, node) if node else "")


@registry.command()
@click.argument("node", shell_complete=zone_names)
@click.pass_context
def add(context: click.Context, node: str) -> None:
    """Let NODE (ID or zone) take part, first as a learner."""
    steer(context, "add", node_of(context.obj, node))


@registry.command()
@click.argument("node", shell_complete=zone_names)
@click.pass_context
def remove(context: click.Context, node: str) -> None:
    """Take NODE out of the registry for good. An ID works for a node that is gone."""
    known = {one["zone"] for one in context.obj.get("/zone/v1/zones")["zones"]}
    steer(context, "remove", node_of(context.obj, node) if node in known else node)


@registry.command()
@click.option("--yes", is_flag=True, help="Do it. Without this, only say what it would mean.")
@FORM
@click.pass_context
def recover(context: click.Context, yes: bool, form: str | None) -> None:
    """Go on without a majority, from what this node holds. The last way out: reads what is given up first."""
    asker = asker_of(context, form)
    plan = asker.ask("POST", "/admin/v1/registry/recover", {"confirm": yes})
    show_one(asker, plan, [(name, ", ".join(v) if isinstance(v, list) else v) for name, v in plan.items()])
    if not yes and plan["possible"]:
        click.echo("zonectl: nothing was changed; add --yes to do it", err=True)


@click.group()
def sync() -> None:
    """Whether the zones hold the same."""


@sync.command()
@click.option(
    "--deep", is_flag=True, help="Also look, here, at what lists find each record by: a minute for a million."
)
@FORM
@click.pass_context
def verify(context: click.Context, deep: bool, form: str | None) -> None:
    """Count every record anew, here and in every zone, and name those that differ. Exit status 1 if any does."""
    asker = asker_of(context, form)
    patient = Asker(asker.socket, asker.form, max(asker.timeout_s, 600.0))
    document = patient.ask("POST", f"/admin/v1/verify{'?deep=1' if deep else ''}", {})
    here = document["here"]
    damage = "lists do not find what is there" if here["unfit"] else "its records do not add up to its own hash"
    lines = [("here", "as it should be" if here["equal"] else f"DAMAGED: {damage}")]
    lines += [("lists wrongly", uuid) for uuid in here["unfit"]]
    for one in document["peers"]:
        said = one.get("problem") or ("equal" if one["equal"] else f"{len(one['differing'])} records differ")
        said += f"; other tables differ: {', '.join(one['tables'])}" if one["tables"] else ""
        lines += [(one["zone"], said), *((f"differs in {one['zone']}", uuid) for uuid in one["differing"])]
    lines += [(one["zone"], f"not asked: {one['state']}") for one in document.get("not_asked", ())]
    show_one(asker, document, lines)
    if not document["equal"]:
        sys.exit(1)


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--keep", type=click.IntRange(1, 10_000), help="FILE is a folder, where so many backups are kept.")
@click.pass_context
def backup(context: click.Context, file: Path, keep: int | None) -> None:
    """Write the whole catalogue, as of one position, to FILE, and count it anew; `zoned restore` reads it."""
    from zoned.backup import save, save_into

    click.echo(save(context.obj.socket, file) if keep is None else save_into(context.obj, file, keep))
