"""The table of `bench.speed` as Markdown."""

from typing import Any


def render(results: dict[str, Any]) -> str:
    found = results["machine"]
    lines = [
        "# Speed",
        "",
        f"Made by `python -m bench.speed` on {found['cores']} cores, {found['memory_gib']} GiB, kernel"
        f" {found['kernel']}, Python {found['python']}. How to read it: docs/performance.md.",
        "",
        "| work | zoned | beside it | ratio | must | aim |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in ROWS.items():
        if name in results:
            lines += rows(results[name])
    lines += ["", "| part | on | load average before, after | rates of the runs |", "|---|---|---|---|"]
    for name in ROWS:
        if name in results:
            lines.append(_circumstances(name, results[name]))
    return "\n".join(lines) + "\n"


def _row(work: str, ours: str, theirs: str, ratio: float, must: str, aim: str) -> str:
    return f"| {work} | {ours} | {theirs} | **{ratio:.2f}** | {must} | {aim} |"


def _speed(one: dict[str, Any]) -> str:
    cpu = f", {one['cpu_us']:.0f} us" if one["cpu_us"] else ""
    return f"{one['rate']:.0f}/s{cpu}"


def _lookups(part: dict[str, Any]) -> list[str]:
    ours = part["zoned"]
    rows = []
    for peer, what, must, aim in (
        ("nginx", "nginx, static files", "0.15", "0.30"),
        ("etcd", "etcd 3.4, serializable gets (gRPC)", "1.0", "1.5"),
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
                "",
                "",
            )
        )
    return rows


def _batch(part: dict[str, Any]) -> list[str]:
    if "missing" in part:
        return [f"| batchGet | not measured: {part['missing']} | | | 5 | 10 |"]
    records = part["batch"]["rate"] * part["references"]
    return [
        _row(
            f"batchGet of {part['references']}, records/s beside single lookups",
            f"{records:.0f}/s",
            _speed(part["single"]),
            records / part["single"]["rate"],
            "5",
            "10",
        )
    ]


def _flat(part: dict[str, Any]) -> list[str]:
    many, few = part[str(part["many"])], part[str(part["few"])]
    work = f"processor time per lookup, {part['many']} records beside {part['few']} (smaller is better)"
    ratio = many["cpu_us"] / few["cpu_us"]
    return [_row(work, f"{many['cpu_us']:.1f} us", f"{few['cpu_us']:.1f} us", ratio, "1.2", "1.05")]


def _writes(part: dict[str, Any]) -> list[str]:
    work = f"committed creates, 3 voters, {part['clients']} clients, beside etcd 3 members, puts of 1 KiB"
    ratio = part["zoned"]["rate"] / part["etcd"]["rate"]
    return [_row(work, _speed(part["zoned"]), _speed(part["etcd"]), ratio, "0.25", "0.6")]


def _level(part: dict[str, Any]) -> list[str]:
    work = f"lookup p99 while {part['creates']['rate']:.0f} creates/s run, beside idle (smaller is better)"
    ratio = part["writing"]["p99_ms"] / part["idle"]["p99_ms"]
    return [_row(work, f"{part['writing']['p99_ms']:.2f} ms", f"{part['idle']['p99_ms']:.2f} ms", ratio, "3", "1.5")]


ROWS = {"lookups": _lookups, "batch": _batch, "flat": _flat, "writes": _writes, "level": _level}


def _circumstances(name: str, part: dict[str, Any]) -> str:
    rates = "; ".join(
        f"{key} {', '.join(map(str, value['rates']))}" for key, value in part.items() if isinstance(value, dict)
    )
    return f"| {name} | {part['on']} | {' , '.join(map(str, part['load_average']))} | {rates} |"
