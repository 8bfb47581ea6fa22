"""The table of `bench.speed` as Markdown."""

import statistics
from typing import Any


def render(results: dict[str, Any]) -> str:
    """`results` as `bench.speed` keeps them; `scale` among them is the part of that name of `bench.registry`."""
    found = results["machine"]
    lines = [
        "# Speed",
        "",
        f"Made by `python -m bench.speed` on {found['cores']} cores, {found['memory_gib']} GiB, kernel"
        f" {found['kernel']}, Python {found['python']}. How to read it: docs/performance.md.",
        "",
        "| work | zoned | beside it | ratio or figure | must | aim | |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, rows in ROWS.items():
        if name in results:
            lines += rows(results[name])
    if "scale" in results:
        lines += _scale(results["scale"])
        lines += ["", f"The last rows are of `make bench-registry`, measured on {results['scale']['on']}."]
    lines += ["", "| part | on | load average before, after | rates of the runs |", "|---|---|---|---|"]
    for name in ROWS:
        if name in results:
            lines.append(_circumstances(name, results[name]))
    return "\n".join(lines) + "\n"


def _row(
    work: str, ours: str, theirs: str, figure: float, must: float | None = None, aim: float = 0, less: bool = False
) -> str:
    """`less`: smaller is better."""
    verdict, bounds = "", "| |"
    if must is not None:
        met, all_met = (figure <= must, figure <= aim) if less else (figure >= must, figure >= aim)
        verdict, bounds = "aim met" if all_met else "met" if met else "**short**", f"{must:g} | {aim:g} |"
    return f"| {work} | {ours} | {theirs} | **{figure:.2f}** | {bounds} {verdict} |"


def _speed(one: dict[str, Any]) -> str:
    cpu = f", {one['cpu_us']:.0f} us" if one["cpu_us"] else ""
    return f"{one['rate']:.0f}/s{cpu}"


def _lookups(part: dict[str, Any]) -> list[str]:
    ours = part["zoned"]
    rows = []
    for peer, what, must, aim in (
        ("nginx", "nginx, static files", 0.15, 0.30),
        ("etcd", "etcd 3.4, serializable gets (gRPC)", 1.0, 1.5),
    ):
        theirs = part[peer]
        work = f"lookups, 64 connections, {part['records']} records, one core, beside {what}"
        rows.append(_row(work, _speed(ours), _speed(theirs), ours["rate"] / theirs["rate"], must, aim))
        rows.append(
            _row(
                f"the same in processor time of the server, beside {peer}",
                f"{ours['cpu_us']:.0f} us",
                f"{theirs['cpu_us']:.0f} us",
                theirs["cpu_us"] / ours["cpu_us"],
            )
        )
    return rows


def _batch(part: dict[str, Any]) -> list[str]:
    if "missing" in part:
        return [f"| batchGet | not measured: {part['missing']} | | | 5 | 10 | **short** |"]
    records = part["batch"]["rate"] * part["references"]
    return [
        _row(
            f"batchGet of {part['references']}, records/s beside single lookups",
            f"{records:.0f}/s",
            _speed(part["single"]),
            records / part["single"]["rate"],
            5,
            10,
        )
    ]


def _flat(part: dict[str, Any]) -> list[str]:
    many, few = part[str(part["many"])], part[str(part["few"])]
    work = f"processor time per lookup, {part['many']} records beside {part['few']} (smaller is better)"
    ratio = many["cpu_us"] / few["cpu_us"]
    return [_row(work, f"{many['cpu_us']:.1f} us", f"{few['cpu_us']:.1f} us", ratio, 1.2, 1.05, True)]


def _writes(part: dict[str, Any]) -> list[str]:
    work = f"committed creates, 3 voters, {part['clients']} clients, beside etcd 3 members, puts of 1 KiB"
    ratio = part["zoned"]["rate"] / part["etcd"]["rate"]
    return [_row(work, _speed(part["zoned"]), _speed(part["etcd"]), ratio, 0.25, 0.6)]


def _level(part: dict[str, Any]) -> list[str]:
    work = f"lookup p99 while {part['creates']['rate']:.0f} creates/s run, beside idle (smaller is better)"
    ratio = part["writing"]["p99_ms"] / part["idle"]["p99_ms"]
    ours, theirs = (f"{part[one]['p99_ms']:.2f} ms" for one in ("writing", "idle"))
    return [_row(work, ours, theirs, ratio, 3, 1.5, True)]


def _scale(found: dict[str, Any]) -> list[str]:
    large, few = (found["speed"][one]["newest_25_p50_ms"] for one in ("large", "few"))
    records, start_s = f"{found['records']:,} records", statistics.median(found["starts"]["clock_s"])
    idle, serving = (found[one]["VmRSS"] for one in ("memory_idle_mib", "memory_serving_mib"))
    owner = f"an owner's newest 25, p50, {records} beside {found['few']:,} (smaller is better)"
    return [
        _row(owner, f"{large} ms", f"{few} ms", large / few, 1.3, 1.1, True),
        _row(f"join of an empty node to {records}, s", f"{found['joined_s']} s", "", found["joined_s"], 120, 60, True),
        _row(f"start to ready with {records}, s", f"{start_s} s", "", start_s, 1, 0.5, True),
        _row("resident memory of an idle daemon, MiB", f"{idle} MiB", "", idle, 60, 45, True),
        _row(f"resident memory with {records}, MiB", f"{serving} MiB", "", serving, 250, 120, True),
    ]


ROWS = {"lookups": _lookups, "batch": _batch, "flat": _flat, "writes": _writes, "level": _level}


def _circumstances(name: str, part: dict[str, Any]) -> str:
    rates = "; ".join(
        f"{key} {', '.join(map(str, value['rates']))}" for key, value in part.items() if isinstance(value, dict)
    )
    return f"| {name} | {part['on']} | {' , '.join(map(str, part['load_average']))} | {rates} |"
