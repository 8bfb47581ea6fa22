"""The figures of the registry: simulation speed, failover beside etcd, a million records.

`python -m bench.registry` measures everything (about half an hour) and writes bench/results/registry.json and .md;
with the names of parts (simulation, failover, scale) only those, the others stay as they were measured.
All load is on loopback, all processes share the machine, so the load average of each part is written down with it.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import trio

from bench import registry_failover, registry_scale
from bench.registry_text import render
from tests.sim.__main__ import run_seed

RESULTS = Path(__file__).parent / "results"
PARTS = ("simulation", "failover", "scale")
SEEDS = 100


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def simulation(arguments: argparse.Namespace) -> dict[str, Any]:
    """Events a second on one core, three times over the same seeds: by the clock and by the processor's time."""
    rates = []
    for _ in range(3):
        wall, busy = time.perf_counter(), time.process_time()
        results = [run_seed(seed, "swarm", None) for seed in range(SEEDS)]
        wall, busy = time.perf_counter() - wall, time.process_time() - busy
        events = sum(result[1] for result in results)
        rates.append((events / wall, events / busy))
        say(
            f"simulation: {events} events, {events / wall:.0f} a second, {events / busy:.0f} a second of processor time"
        )
    return {
        "seeds": SEEDS,
        "events": events,
        "failed": sum(result[3] is not None for result in results),
        "events_per_s": round(statistics.median(rate[0] for rate in rates)),
        "events_per_cpu_s": round(statistics.median(rate[1] for rate in rates)),
    }


def failover(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        took = trio.run(registry_failover.trials, Path(directory), arguments.trials, say)
    return {
        "trials": arguments.trials,
        "etcd_version": registry_failover.etcd_version(),
        "seconds": {name: [round(value, 3) for value in values] for name, values in took.items()},
    }


def scale(arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as directory:
        return trio.run(registry_scale.measure, Path(directory), arguments.records, say, arguments.catalogue)


def measured(part: Callable[[argparse.Namespace], dict[str, Any]], arguments: argparse.Namespace) -> dict[str, Any]:
    before = os.getloadavg()[0]
    began = time.monotonic()
    found = part(arguments)
    return {
        "on": time.strftime("%Y-%m-%d"),
        "commit": commit(),
        "took_s": round(time.monotonic() - began),
        "load_average": [round(before, 2), round(os.getloadavg()[0], 2)],
        **found,
    }


def commit() -> str:
    """What was measured; "" outside a checkout."""
    words = ["git", "rev-parse", "--short", "HEAD"]
    return subprocess.run(words, capture_output=True, text=True, check=False).stdout.strip()


def machine() -> dict[str, Any]:
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {
        "cores": os.cpu_count(),
        "memory_gib": round(memory / (1 << 30)),
        "kernel": platform.release().split("-")[0],
        "python": platform.python_version(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.registry", description=__doc__)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}; all when none is named")
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--catalogue", type=Path, help="a snapshot file that holds the records, instead of making one")
    arguments = parser.parse_args()
    unknown = set(arguments.parts) - set(PARTS)
    if unknown:
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    RESULTS.mkdir(exist_ok=True)
    kept = RESULTS / "registry.json"
    results: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {}
    results["machine"] = machine()
    jobs = {"simulation": simulation, "failover": failover, "scale": scale}
    for name in arguments.parts or PARTS:
        results[name] = measured(jobs[name], arguments)
        kept.write_text(json.dumps(results, indent=1) + "\n")
        (RESULTS / "registry.md").write_text(render(results))
    print((RESULTS / "registry.md").read_text())


if __name__ == "__main__":
    main()
