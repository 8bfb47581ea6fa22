"""The results of bench/registry.py as a page for people: figure, goal, and whether it is met."""

import statistics
from typing import Any

MIB = 1 << 20


def render(results: dict[str, Any]) -> str:
    machine = results["machine"]
    lines = [
        "# The registry's figures",
        "",
        "Written by `make bench-registry`. All processes, clients included, share one machine and its loopback:"
        f" {machine['cores']} cores, {machine['memory_gib']} GiB, Linux {machine['kernel']},"
        f" Python {machine['python']}. Other work ran on it too; the load average stands with each part, and medians"
        " are to be preferred.",
        "",
        "| figure | measured | goal | |",
        "| --- | --- | --- | --- |",
        *_rows(results),
        "",
    ]
    for name, part in (("simulation", _simulation), ("failover", _failover), ("scale", _scale)):
        if name in results:
            found = results[name]
            before, after = found["load_average"]
            lines += [f"## {name.capitalize()}", "", *part(found), ""]
            if "note" in found:  # written by hand by whoever measured
                lines += [found["note"], ""]
            lines += [
                f"Measured on {found['on']} at commit {found.get('commit') or 'unknown'} in {found['took_s']} s;"
                f" load average {before} before, {after} after.",
                "",
            ]
    return "\n".join(lines)


def _rows(results: dict[str, Any]) -> list[str]:
    rows = []
    if "simulation" in results:
        rate = results["simulation"]["events_per_cpu_s"]
        rows.append(_row("simulation, events a second of one core", f"{rate:,}", "50,000 or more", rate >= 50_000))
    if "failover" in results:
        seconds = results["failover"]["seconds"]
        median = statistics.median(seconds["zoned"])
        rows.append(_row("registry killed: next committed write, median", f"{median:.2f} s", "under 1.0 s", median < 1))
        if "etcd" in seconds:
            theirs = f"{statistics.median(seconds['etcd']):.2f} s"
            rows.append(_row(f"the same, etcd {results['failover']['etcd_version']}", theirs, "", None))
    if "scale" in results:
        rows += _scale_rows(results["scale"])
    return rows


def _scale_rows(found: dict[str, Any]) -> list[str]:
    records = f"{found['records']:,} records"
    joins = found["donor_during"]["p99_ms"] / found["donor_before"]["p99_ms"]
    resident, idle = found["memory_serving_mib"]["VmRSS"], found["memory_idle_mib"]["VmRSS"]
    large, few, disk = found["speed"]["large"], found["speed"]["few"], found["disk_ratio"]
    lookup, newest = (large[name] / few[name] for name in ("cpu_us", "newest_25_p50_ms"))
    start = statistics.median(found["starts"]["clock_s"])
    beside = f"{records} against {found['few']:,}"
    return [
        _row(f"a node joins {records}", f"{found['joined_s']} s", "120 s", found["joined_s"] < 120),
        _row("donor's lookup p99 meanwhile", f"{joins:.2f} times", "2 times", joins < 2),
        _row(f"processor time of a lookup, {beside}", f"{lookup:.2f} times", "1.2 times", lookup <= 1.2),
        _row(f"an owner's newest 25, p50, {beside}", f"{newest:.2f} times", "1.3 times", newest <= 1.3),
        _row(f"start to ready with {records}, median", f"{start:.2f} s", "1 s", start <= 1),
        _row("resident memory of an idle daemon", f"{idle:.0f} MiB", "60 MiB", idle <= 60),
        _row(f"resident memory with {records}", f"{resident:.0f} MiB", "250 MiB", resident <= 250),
        _row("disk, to the JSON of the records", f"{disk} times", "1.6 times", disk < 1.6),
    ]


def _row(figure: str, measured: str, goal: str, met: bool | None) -> str:
    return f"| {figure} | {measured} | {goal} | {'' if met is None else 'met' if met else '**falls short**'} |"


def _simulation(found: dict[str, Any]) -> list[str]:
    return [
        f"{found['seeds']} seeds of the default swarm, {found['events']:,} events, {found['failed']} failed;"
        f" median of three runs: {found['events_per_s']:,} events a second by the clock,"
        f" {found['events_per_cpu_s']:,} by the process' own processor time.",
    ]


def _failover(found: dict[str, Any]) -> list[str]:
    lines = [
        f"{found['trials']} trials each, in turns: SIGKILL of the leader of three at a random moment, then a new write"
        " every 50 ms to the two survivors in turn, over HTTP, until one is answered as committed. zoned: profile `lan`"
        f" and the defaults. etcd {found['etcd_version']}: default times, puts through its HTTP gateway.",
        "",
        "| | min | median | max |",
        "| --- | --- | --- | --- |",
    ]
    for name, seconds in found["seconds"].items():
        low, middle, high = min(seconds), statistics.median(seconds), max(seconds)
        lines.append(f"| {name} | {low:.2f} s | {middle:.2f} s | {high:.2f} s |")
    return [*lines, "", WHY_SLOW] if max(found["seconds"]["zoned"]) >= 1 else lines


WHY_SLOW = (
    "Trials of zoned above a second are most likely stretched ticks: a node that was itself stalled a short while ago"
    " waits up to four times as long (fading by half in ten seconds), so that a busy machine does not take a slow"
    " leader for a dead one. Each trial starts the killed daemon again seconds before the next kill, on shared cores."
)


def _scale(found: dict[str, Any]) -> list[str]:
    size, count = found["json_bytes"], found["records"]
    lines = [
        f"{count:,} records, each like one of the 240 of zoned/data/catalogue.jsonl, which a real Glance served, with"
        f" UUIDs, hashes, sizes and times of its own: {size / count:,.0f} bytes each as JSON of the Images API v2, on"
        f" average. `zoned restore` made a zone of them in {found['restore_s']} s. Then an empty node joined it, while"
        " another process asked the first node for random records, 200 a second.",
        "",
        "| lookups | number | p50 | p99 | p99.9 | max |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    names = {
        "donor_before": "donor, before",
        "donor_during": "donor, while the other joined",
        "lookups_after": "the new node, afterwards",
    }
    for key, label in names.items():
        one = found[key]
        times = " | ".join(f"{one[column]} ms" for column in ("p50_ms", "p99_ms", "p999_ms", "max_ms"))
        lines.append(f"| {label} | {one['lookups']:,} | {times} |")
    return [*lines, "", WHY_TAIL, "", *_speed(found), "", *_memory(found), "", *_disk(found)]


def _speed(found: dict[str, Any]) -> list[str]:
    lines = [
        "The same questions to both catalogues over one connection each, in turns; every project owns about 500 records"
        " in both. Processor time is user and system of the daemon.",
        "",
        "| records | processor time of a lookup | an owner's newest 25, p50 | p99 |",
        "| --- | --- | --- | --- |",
    ]
    for name, count in (("large", found["records"]), ("few", found["few"])):
        one = found["speed"][name]
        times = " | ".join(f"{one[f'newest_25_{share}_ms']} ms" for share in ("p50", "p99"))
        lines.append(f"| {count:,} | {one['cpu_us']} us | {times} |")
    return lines


def _memory(found: dict[str, Any]) -> list[str]:
    memory, joined, idle = found["memory_serving_mib"], found["memory_after_join_mib"], found["memory_idle_mib"]
    return [
        f"Resident memory of the new node after a restart, {found['lookups_after']['lookups']:,} lookups and some"
        f" lists: {memory['VmRSS']} MiB ({memory['RssAnon']} its own, {memory['RssFile']} pages of files), at most"
        f" {memory['VmHWM']}. Right after joining: donor {joined['donor']['VmRSS']} (at most"
        f" {joined['donor']['VmHWM']}), new node {joined['newcomer']['VmRSS']} (at most"
        f" {joined['newcomer']['VmHWM']}). An empty zone at rest: {idle['VmRSS']} MiB ({idle['RssAnon']} its own,"
        f" {idle['RssFile']} pages of files).",
        "",
        "Start of the process to ready, modules compiled as an installation leaves them; the processor's time tells"
        " what other work on the machine added:",
        "",
        "| | by the clock | processor |",
        "| --- | --- | --- |",
        *(
            f"| {label} | {_listed(found[name]['clock_s'])} | {_listed(found[name]['processor_s'])} |"
            for label, name in ((f"{found['records']:,} records", "starts"), ("none", "empty_starts"))
        ),
    ]


def _listed(seconds: list[float]) -> str:
    return ", ".join(f"{one:.2f}" for one in sorted(seconds)) + " s"


def _disk(found: dict[str, Any]) -> list[str]:
    size, count = found["json_bytes"], found["records"]
    return [
        f"Disk of the new node: {sum(found['disk'].values()) / MIB:,.0f} MiB for {size / MIB:,.0f} MiB of JSON. A store"
        f" of {found['grown']:,} records that grew record by record, as applying the log makes it:"
        f" {found['grown_ratio']} times its JSON. What takes the disk of the new node, in bytes a record:",
        "",
        "| table or index | bytes a record |",
        "| --- | --- |",
        *(f"| {name} | {taken / count:,.0f} |" for name, taken in found["tables"].items() if taken > size / 200),
    ]


WHY_TAIL = (
    "The donor's p99 is what the goal is about; its worst lookups, from p99.9 on, do suffer while the snapshot is"
    " copied and hashed, most likely because lookups are answered in the one thread that also runs everything"
    " else, on cores that the copy shares."
)
