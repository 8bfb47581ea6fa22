"""`zonectl`: the commands, one per question an operator has. See `zoned.asking` for how they ask and print."""

import contextlib
import os
import sys
import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

import click

from zoned import __version__
from zoned.asking import (
    FORM,
    TIMEOUT_S,
    Asker,
    Column,
    age,
    asker_of,
    fail,
    show_one,
    show_rows,
)
from zoned.completing import zone_names
from zoned.ctl_adopt import give_out, shadow, take_in
from zoned.ctl_aliases import aliases, history, presence, watch
from zoned.ctl_audit import audit
from zoned.ctl_conflicts import conflicts
from zoned.ctl_drill import drill
from zoned.ctl_ids import ids
from zoned.ctl_images import image, locate, risk
from zoned.ctl_live import completion, top, upgrade
from zoned.ctl_operating import config, explain, health, in_short, log, support_bundle, wait
from zoned.ctl_registry import backup, registry, sync
from zoned.ctl_tls import tls
from zoned.ctl_writes import writes

EVERYWHERE = ("--watch", "--columns")  # options of zonectl itself that people write at the end


class _Careful(click.Group):
    """An answer of another shape than this version's is one line, not a traceback. `--watch` and `--columns` may stand
    anywhere; with the first the command is asked again and again."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        moved: list[str] = []
        rest: list[str] = []
        given = iter(args)
        for word in given:
            if word == "--":
                rest += [word, *given]
            elif word in EVERYWHERE:
                moved += [word, *islice(given, 1)]
            else:
                (moved if word.startswith(tuple(f"{name}=" for name in EVERYWHERE)) else rest).append(word)
        return super().parse_args(ctx, [*moved, *rest])

    def invoke(self, ctx: click.Context) -> Any:
        try:
            if ctx.params.get("watch") is None:
                return super().invoke(ctx)
            self._again_and_again(ctx, ctx.params["watch"])
        except (KeyError, TypeError, AttributeError) as error:
            fail(f"the daemon's answer is not as zonectl {__version__} knows it ({type(error).__name__}: {error})", 1)
        except BrokenPipeError:  # whoever read it, as `head`, has enough
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            sys.exit(0)

    def _again_and_again(self, ctx: click.Context, seconds: float) -> None:
        words = (list(ctx._protected_args), list(ctx.args))
        while True:
            ctx._protected_args, ctx.args = list(words[0]), list(words[1])
            if sys.stdout.isatty():
                click.clear()
            with contextlib.suppress(SystemExit):
                super().invoke(ctx)
            sys.stdout.flush()
            time.sleep(seconds)


@click.group(cls=_Careful, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="zonectl")
@click.option("--socket", "path", type=click.Path(path_type=Path), metavar="PATH", help="The daemon's admin socket.")
@click.option("--timeout", type=click.FloatRange(0.1), default=TIMEOUT_S, show_default=True, help="Seconds to wait.")
@click.option("--watch", type=click.FloatRange(0.1), metavar="SECONDS", help="Ask again after so long, until Ctrl-C.")
@click.option("--columns", metavar="NAME,...", help="Of a list, only these columns, in this order.")
@FORM
@click.pass_context
def main(
    context: click.Context,
    path: Path | None,
    timeout: float,
    watch: float | None,
    columns: str | None,
    form: str | None,
) -> None:
    """Look at and steer the zone daemon on this machine."""
    from zoned.paths import find_socket

    chosen = tuple(name.strip() for name in columns.split(",")) if columns is not None else ()
    context.obj = Asker(path or find_socket(), form or "table", timeout, chosen)


@main.command()
@FORM
@click.pass_context
def status(context: click.Context, form: str | None) -> None:
    """The state of this zone on one screen."""
    asker = asker_of(context, form)
    document = asker.get("/zone/v1/status")
    node, registry, catalogue = document["node"], document["registry"], document["catalogue"]
    journal, ids, zones = document["journal"], document["ids"], document["zones"]
    where = f"{registry['zone']} (term {registry['term']})" if registry["known"] else "none known: writes are buffered"
    runway = f"{ids['runway_days']:g} days" if ids["runway_days"] is not None else "no integer taken yet"
    waiting = f"{journal['entries']} writes, oldest {age(journal['oldest_age_s'])}" if journal["entries"] else "empty"
    if journal["drain_per_s"] and journal["entries"]:
        waiting += f", {journal['drain_per_s']:g} leave a second, all in {age(journal['drain_ends_in_s'])}"
    if journal["held_from"] is not None:
        waiting += f", HELD from sequence {journal['held_from']} on"
    lines = [
        ("zone", f"{node['zone']}, up {age(node['uptime_s'])}, version {node['version']}"),
        ("url", node["url"]),
        ("role", registry["role"]),
        ("registry", where),
        ("catalogue", f"{catalogue['images']} images at position {catalogue['position']}"),
        ("hash", catalogue["hash"]),
        (
            "staleness",
            f"at most {age(document['staleness_s'])}" if document["staleness_s"] is not None else "not known",
        ),
        ("journal", waiting),
        ("conflicts", f"{document['conflicts']['open']} open"),
        ("integers", f"{ids['left']} left, runway {runway}"),
        ("zones", f"{zones['up']} of {zones['known']} up"),
        ("health", in_short(asker.get("/zone/v1/health"))),
    ]
    show_one(asker, document, lines)


def role_in_gossip(one: Mapping[str, Any]) -> str:
    if one["registry"]:
        return "registry"
    return "follower" if not one["voter"] else "witness" if one["witness"] else "voter"


@main.group(invoke_without_command=True)
@FORM
@click.pass_context
def zones(context: click.Context, form: str | None) -> None:
    """Every node that this one knows of."""
    if context.invoked_subcommand is not None:
        return
    asker = asker_of(context, form)
    columns: list[Column] = [
        ("zone", lambda one: one["zone"] + (" (here)" if one["me"] else "")),
        ("state", lambda one: one["state"]),
        ("since", lambda one: age(one["since_s"])),
        ("role", role_in_gossip),
        ("position", lambda one: one["position"]),
        ("lag", lambda one: one["lag"]),
        ("rtt ms", lambda one: one["rtt_ms"]),
        ("last ack", lambda one: age(one["acked_s"])),
        ("url", lambda one: one["url"]),
        ("version", lambda one: one["version"]),
    ]
    show_rows(asker, asker.get("/zone/v1/zones")["zones"], columns, "no zones")


@zones.command("show")
@click.argument("zone", shell_complete=zone_names)
@FORM
@click.pass_context
def zones_show(context: click.Context, zone: str, form: str | None) -> None:
    """Everything that is known here of ZONE (or a node ID)."""
    asker = asker_of(context, form)
    found = [one for one in asker.get("/zone/v1/zones")["zones"] if zone in (one["zone"], one["node_id"])]
    if not found:
        fail(f"no node or zone {zone} is known here; zonectl zones lists them", 4)
    if asker.form in ("json", "jsonl"):
        show_rows(asker, found, [], "")
    else:
        show_one(asker, found[0], [line for one in found for line in one.items()])


@zones.command("why")
@click.argument("zone", shell_complete=zone_names)
@FORM
@click.pass_context
def zones_why(context: click.Context, zone: str, form: str | None) -> None:
    """Why a zone is believed to be as it is: who suspects it, since when, which probes stayed unanswered."""
    asker = asker_of(context, form)
    columns: list[Column] = [
        ("node", lambda one: one["node_id"]),
        ("state", lambda one: one["state"]),
        ("since", lambda one: age(one["since_s"])),
        ("last ack", lambda one: age(one["acked_s"])),
        ("answers", lambda one: one["answers"]),
        ("suspected by", lambda one: one["suspected_by"]),
        ("confirmed by", lambda one: ", ".join(one["confirmed_by"]) or None),
        ("convicted in", lambda one: age(one["convicted_in_s"])),
        ("unanswered", lambda one: ", ".join(f"{age(s)} ago" for s in one["unanswered_probes_s_ago"]) or None),
        ("own health", lambda one: one["own_health"]),
    ]
    show_rows(asker, asker.get(f"/zone/v1/zones/{quote(zone, safe='')}/why")["nodes"], columns, "no nodes")


@main.command()
@click.argument("switch", type=click.Choice(["on", "off"]), default="on")
@FORM
@click.pass_context
def drain(context: click.Context, switch: str, form: str | None) -> None:
    """Send users elsewhere: this node says it is draining to its load balancer (/readyz) and to all zones."""
    asker = asker_of(context, form)
    document = asker.ask("POST", "/admin/v1/drain", {"on": switch == "on"})
    show_one(asker, document, list(document.items()))


@main.command()
@FORM
@click.pass_context
def reachability(context: click.Context, form: str | None) -> None:
    """Who believes what of whom: a row per observer, a column per node, as each observer says itself. `relayed`: alive,
    but answers that observer only through others, so the link between the two is bad."""
    asker = asker_of(context, form)
    nodes = asker.get("/zone/v1/reachability")["nodes"]

    def seen(about: Mapping[str, Any]) -> Column:
        return about["zone"], lambda one: one["sees"][about["node_id"]] if one["sees"] else "(no answer)"

    columns: list[Column] = [("as seen by", lambda one: one["zone"]), *map(seen, nodes)]
    show_rows(asker, nodes, columns, "no nodes")


@main.command()
@FORM
@click.pass_context
def gossip(context: click.Context, form: str | None) -> None:
    """Counters of gossip: health, queue, datagrams, exchanges, drops by reason, changes of members."""
    asker = asker_of(context, form)
    document = asker.get("/zone/v1/gossip")
    lines = [(name, value) for name, value in document.items() if name != "counts"]
    show_one(asker, document, [*lines, *document["counts"].items()])


@main.group(invoke_without_command=True)
@FORM
@click.pass_context
def keys(context: click.Context, form: str | None) -> None:
    """The keys that seal gossip. Rotate: install, then use, then remove; each reaches all nodes by itself."""
    if context.invoked_subcommand is None:
        asker = asker_of(context, form)
        show_keys(asker, asker.get("/admin/v1/keys"))


def show_keys(asker: Asker, document: Mapping[str, Any]) -> None:
    lines = [("sealing", document["sealing"]), ("version", document["version"])]
    show_one(asker, document, [*lines, *((f"key {key['id']}", key["role"]) for key in document["keys"])])


def change_keys(context: click.Context, form: str | None, change: str, value: str) -> None:
    asker = asker_of(context, form)
    show_keys(asker, asker.ask("POST", "/admin/v1/keys", {change: value}))


@keys.command("generate")
def keys_generate() -> None:
    """Print a new keyring file with one random key, for gossip.keyring of every node. Asks no daemon."""
    from secrets import token_bytes

    from gossip import Keyring

    click.echo(Keyring.fresh(token_bytes(32)).encode(), nl=False)


@keys.command("install")
@click.option("--stdin", "is_piped", is_flag=True, help="Take the key, 32 bytes in base64, from standard input.")
@FORM
@click.pass_context
def keys_install(context: click.Context, is_piped: bool, form: str | None) -> None:
    """Read with one more key, a random one unless it is piped in. Everybody has it within seconds; then `use` it."""
    secret = sys.stdin.readline().strip() if is_piped else ""
    change_keys(context, form, "install", secret)


@keys.command("use")
@click.argument("key_id")
@FORM
@click.pass_context
def keys_use(context: click.Context, key_id: str, form: str | None) -> None:
    """Seal with this key from now on."""
    change_keys(context, form, "use", key_id)


@keys.command("remove")
@click.argument("key_id")
@click.option("--revoke", is_flag=True, help="Forget it wholly: who slept through the rotation is locked out.")
@FORM
@click.pass_context
def keys_remove(context: click.Context, key_id: str, revoke: bool, form: str | None) -> None:
    """Retire this key: it still helps a node that slept through the rotation to the new one, and opens nothing else."""
    change_keys(context, form, "revoke" if revoke else "remove", key_id)


for command in (
    registry,
    sync,
    backup,
    aliases,
    history,
    presence,
    watch,
    tls,
    health,
    wait,
    explain,
    log,
    config,
    support_bundle,
    writes,
    conflicts,
    ids,
    drill,
    take_in,
    give_out,
    shadow,
    image,
    locate,
    risk,
    top,
    upgrade,
    completion,
    audit,
):
    main.add_command(command)
