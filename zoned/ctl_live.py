"""zonectl at a terminal: the live view, whether an upgrade may begin, and completion for the shell."""

import re
import sys
import time
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import get_completion_class

from zoned.asking import FORM, Asker, Column, age, asker_of, fail, show_one, show_rows, show_table, text

SAMPLE = re.compile(r"^(zoned_\w+)(?:\{([^}]*)\})? ([0-9.eE+-]+)$", re.M)
RATES = {
    "lookups": ("zoned_lookups_total", ""),
    "requests": ("zoned_requests_total", ""),
    "server errors": ("zoned_requests_total", 'code="5'),
    "writes": ("zoned_writes_total", ""),
    "buffered": ("zoned_writes_total", 'state="buffered"'),
}
EXITS = {"ok": 0, "warn": 1, "critical": 2}


def totals(metrics: str) -> dict[str, float]:
    """What RATES count, in Prometheus' text format."""
    found = dict.fromkeys(RATES, 0.0)
    for name, labels, value in SAMPLE.findall(metrics):
        for rate, (wanted, label) in RATES.items():
            if name == wanted and label in labels:
                found[rate] += float(value)
    return found


@click.command()
@click.option("--every", type=click.FloatRange(0.2, 60), default=2.0, show_default=True, help="Seconds.")
@click.option("-n", "--times", type=click.IntRange(1), help="So often; without it until Ctrl-C.")
@click.pass_context
def top(context: click.Context, every: float, times: int | None) -> None:
    """This zone live: what it is asked a second, its journal, and every zone."""
    asker: Asker = context.obj
    before, since, count = totals(_metrics(asker)), time.monotonic(), 0
    try:
        while times is None or count < times:
            time.sleep(every)
            count += 1
            status, zones, now = asker.get("/zone/v1/status"), asker.get("/zone/v1/zones"), time.monotonic()
            after = totals(_metrics(asker))
            rates = {name: (after[name] - before[name]) / (now - since) for name in RATES}
            before, since = after, now
            if sys.stdout.isatty():
                click.clear()
            _show_top(status, zones["zones"], rates)
    except KeyboardInterrupt:
        sys.exit(0)


def _metrics(asker: Asker) -> str:
    status, _, answer = asker.raw("GET", "/metrics")
    if status != 200 or not isinstance(answer, str):
        fail(f"the daemon answered {status} instead of its metrics", 1)
    return answer


def _show_top(status: Mapping[str, Any], zones: list[dict[str, Any]], rates: Mapping[str, float]) -> None:
    node, registry, journal = status["node"], status["registry"], status["journal"]
    where = registry["zone"] if registry["known"] else "NONE"
    stale = age(status["staleness_s"])
    click.echo(f"{node['zone']}  {registry['role']}, registry {where}, term {registry['term']}, at most {stale} behind")
    click.echo("a second: " + ", ".join(f"{rate:.1f} {name}" for name, rate in rates.items()))
    click.echo(f"journal: {journal['entries']} waiting, oldest {age(journal['oldest_age_s'])}")
    click.echo("")
    rows = [["ZONE", "STATE", "POSITION", "LAG", "RTT MS", "STALENESS", "RUNWAY"]]
    rows += [
        [
            *(text(one[name]) for name in ("zone", "state", "position", "lag", "rtt_ms")),
            age(one["staleness_s"]),
            f"{one['runway_days']:g}d" if one["runway_days"] is not None else "-",
        ]
        for one in zones
    ]
    show_table(rows)


@click.group()
def upgrade() -> None:
    """Whether now is a good time to change a version."""


@upgrade.command("check")
@FORM
@click.pass_context
def upgrade_check(context: click.Context, form: str | None) -> None:
    """May this node be restarted with another version now? Exit status 0 yes, 1 with care, 2 not now."""
    asker = asker_of(context, form)
    lines = judged(asker.get("/zone/v1/status"), asker.get("/zone/v1/zones")["zones"], asker.get("/zone/v1/health"))
    worst = max((line["state"] for line in lines), key=lambda state: EXITS[state])
    columns: list[Column] = [
        ("what", lambda one: one["what"]),
        ("state", lambda one: one["state"]),
        ("says", lambda one: one["says"]),
    ]
    if asker.form == "json":
        show_one(asker, {"state": worst, "lines": lines}, [])
    else:
        show_rows(asker, lines, columns, "")
    sys.exit(EXITS[worst])


def judged(status: Mapping[str, Any], zones: list[dict[str, Any]], health: Mapping[str, Any]) -> list[dict[str, str]]:
    """What speaks for and against a restart: versions, voters, what waits, what is the matter."""
    lines: list[dict[str, str]] = []

    def say(what: str, state: str, says: str) -> None:
        lines.append({"what": what, "state": state, "says": says})

    up = [one for one in zones if one["state"] in ("alive", "suspect")]
    versions = sorted({str(one["version"]) for one in up})
    minors = {version.rpartition(".")[0] for version in versions}
    listed = ", ".join(f"{one['zone']} {one['version']}" for one in up)
    if len(versions) == 1:
        say("versions", "ok", f"all run {versions[0]}")
    elif len(minors) <= 2:
        say("versions", "ok", f"an upgrade is under way: {listed}")
    else:
        say("versions", "critical", f"a node speaks with its previous minor version only: {listed}")
    registry, me = status["registry"], status["node"]["node_id"]
    voters = registry["voters"]
    others = sum(one["node_id"] in voters and one["node_id"] != me for one in up)
    needed = len(voters) // 2 + 1
    if not registry["known"]:
        say("registry", "warn", "none is known: writes are buffered already; better wait for one")
    elif len(voters) == 1 and me in voters:
        say("registry", "warn", "this is the only voter: writes are buffered while it restarts")
    elif others < needed:
        say("registry", "critical", f"only {others} other voters are up and {needed} are needed: bring the others back")
    else:
        say("registry", "ok", f"{others} other voters are up, {needed} are needed")
    waiting = status["journal"]["entries"]
    say("journal", "warn" if waiting else "ok", f"{waiting} writes wait" if waiting else "empty")
    drained = status["node"]["draining"]
    say("draining", "ok" if drained else "warn", "users go elsewhere" if drained else "zonectl drain on first")
    codes = [one for one in health["findings"] if one["code"] not in ("DRAINING", "VERSIONS_DIFFER", "NO_REGISTRY")]
    critical = [one["code"] for one in codes if one["severity"] == "critical"]
    state = "critical" if critical else "warn" if codes else "ok"
    say("health", state, ", ".join(one["code"] for one in codes) or "nothing else is the matter")
    return lines


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes SHELL complete commands and live names: zones, aliases, images, settings.

    \\b
    bash: zonectl completion bash > /etc/bash_completion.d/zonectl
    zsh:  zonectl completion zsh > "${fpath[1]}/_zonectl"
    fish: zonectl completion fish > ~/.config/fish/completions/zonectl.fish
    """
    made = get_completion_class(shell)
    assert made is not None
    click.echo(made(context.find_root().command, {}, "zonectl", "_ZONECTL_COMPLETE").source())
