"""The results of bench/outage.py as a page for people: figure, goal, and whether it is met."""

from typing import Any

GOALS = {"buffered_per_s": 1_500, "median_ms": 10.0, "drain_per_s": 1_500, "memory_mib": 60.0, "start_s": 2.0}


def render(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        "# Figures of an outage",
        "",
        "Written by `make bench-outage`. Three voters, a follower and the clients share one machine and its loopback:"
        f" {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']},"
        f" Python {machine['python']}. Other work ran on it too; the load average stands with each part.",
        "",
        "| figure | measured | goal | |",
        "| --- | --- | --- | --- |",
    ]
    if "buffered" in results:
        lines += _buffered(results["buffered"])
    if "backlog" in results:
        lines += _backlog(results["backlog"])
    lines.append("")
    for name in ("buffered", "backlog"):
        if name in results:
            before, after = results[name]["load_average"]
            lines.append(f"{name}: measured on {results[name]['on']}; load average {before} before, {after} after.")
    lines += ["", *_notes(results), ""]
    return "\n".join(lines)


def _row(figure: str, measured: str, goal: str, met: bool) -> str:
    return f"| {figure} | {measured} | {goal} | {'met' if met else '**short**'} |"


def _buffered(found: dict[str, Any]) -> list[str]:
    rows = []
    for name, what in (("alone", "no other zone reached"), ("shared", "a neighbour takes a copy of each")):
        one = found[name]
        figure = f"buffered registrations a second, {one['clients']} clients, each synced, {what}"
        goal = GOALS["buffered_per_s"]
        rows.append(_row(figure, f"{one['per_s']:,}", f"{goal:,} or more", one["per_s"] >= goal))
    light = found["light"]
    figure = f"median answer while the registry is known to be away, {light['clients']} client"
    below = f"under {GOALS['median_ms']:g} ms"
    rows.append(_row(figure, f"{light['median_ms']} ms", below, light["median_ms"] < GOALS["median_ms"]))
    rows.append(_drain(found["drain"]))
    return rows


def _drain(drain: dict[str, Any]) -> str:
    goal = GOALS["drain_per_s"]
    figure = f"drain of {drain['entries']:,} entries, a second"
    return _row(figure, f"{drain['per_s']:,}", f"{goal:,} or more", drain["per_s"] >= goal)


def _backlog(found: dict[str, Any]) -> list[str]:
    memory = found["memory_mib"]
    more = [round(after - before, 1) for before, after in zip(memory["before"], memory["after"], strict=True)]
    start = sorted(found["start_s"])[len(found["start_s"]) // 2]
    what = f"{found['entries']:,} buffered entries"
    return [
        _row(f"{what}: more memory", f"{more[0]} MiB", f"under {GOALS['memory_mib']:g} MiB", more[0] < 60.0),
        _row(f"{what} of a neighbour: more memory", f"{more[1]} MiB", "", more[1] < GOALS["memory_mib"]),
        _row(f"{what}: start until ready (median)", f"{start} s", f"under {GOALS['start_s']:g} s", start < 2.0),
        _drain(found["drain"]),
    ]


def _notes(results: dict[str, Any]) -> list[str]:
    notes = [
        "Where the time of a buffered registration goes, estimated from rough profiles: about two thirds in the event"
        " loop's thread, of which half is the HTTP application (routing, two nested faces, middleware) and a fifth"
        " reading and checking the document; one third in the writer's thread, which checks, packs and stores the"
        " write and the record that readers see meanwhile.",
    ]
    if "buffered" in results:
        statuses = {name: results["buffered"][name]["statuses"] for name in ("alone", "shared")}
        notes += ["", f"Answers by HTTP status: {statuses}."]
    return notes
