"""`python -m tests.sim --seeds 2000`: many seeds, or `--seed N` one again. Exit status 1 if a seed fails."""

import argparse
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial

from tests.sim.checkers import Violation
from tests.sim.mutants import MUTANTS
from tests.sim.outage import run_outage
from tests.sim.swarm import PROFILES, draw
from tests.sim.world import Fault, World
from tests.sim.writes import run_writes


def run_seed(seed: int, kind: str, mutant: str | None) -> tuple[int, int, int, str | None]:
    """(seed, events, acknowledged writes, what went wrong if anything)."""
    fault = MUTANTS[mutant].fault if mutant is not None else Fault()
    world = World(draw(seed, kind), seed, fault)
    try:
        world.run()
    except Violation as violation:
        return seed, world.events, world.checkers.acked, str(violation)
    except Exception:
        return seed, world.events, world.checkers.acked, traceback.format_exc()
    return seed, world.events, world.checkers.acked, None


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.sim", description=__doc__)
    parser.add_argument("--seeds", type=int, default=100, help="how many seeds to run (default 100)")
    parser.add_argument("--first", type=int, default=0, help="the first of them (default 0)")
    parser.add_argument("--seed", type=int, help="run this one seed only, and tell the story")
    parser.add_argument("--profile", choices=PROFILES, default="swarm")
    parser.add_argument("--mutant", choices=sorted(MUTANTS), help="plant this fault: the run ought to fail")
    parser.add_argument("--jobs", type=int, default=1, help="processes (default 1)")
    parser.add_argument("--writes", action="store_true", help="the whole write path instead of Raft alone")
    parser.add_argument("--outage", action="store_true", help="the write path of five zones that scatter and share")
    arguments = parser.parse_args()
    if arguments.writes or arguments.outage:
        way, run = ("outage", run_outage) if arguments.outage else ("writes", run_writes)
        return _writes(range(arguments.first, arguments.first + arguments.seeds), way, run)
    if arguments.seed is not None:
        return _story(arguments.seed, arguments.profile, arguments.mutant)
    started = time.perf_counter()
    events = acked = failed = 0
    job = partial(run_seed, kind=arguments.profile, mutant=arguments.mutant)
    seeds = range(arguments.first, arguments.first + arguments.seeds)
    with ProcessPoolExecutor(arguments.jobs) as pool:
        results = pool.map(job, seeds, chunksize=4) if arguments.jobs > 1 else map(job, seeds)
        for seed, seed_events, seed_acked, wrong in results:
            events += seed_events
            acked += seed_acked
            if wrong is not None:
                failed += 1
                mutant = f" --mutant {arguments.mutant}" if arguments.mutant else ""
                print(f"seed {seed}: {wrong}")
                print(f"  again: python -m tests.sim --profile {arguments.profile} --seed {seed}{mutant}", flush=True)
    took = time.perf_counter() - started
    print(
        f"{arguments.seeds} seeds of {arguments.profile}: {failed} failed; {events} events,"
        f" {acked} acknowledged writes, {took:.1f} s, {events / took:.0f} events/s"
    )
    return 1 if failed else 0


def _writes(seeds: range, way: str, run: Callable[[int], str | None]) -> int:
    failed = 0
    for seed in seeds:
        wrong = run(seed)
        if wrong is not None:
            failed += 1
            print(f"seed {seed}: {wrong}\n  again: python -m tests.sim --{way} --first {seed} --seeds 1", flush=True)
    print(f"{len(seeds)} seeds of {way}: {failed} failed")
    return 1 if failed else 0


def _story(seed: int, kind: str, mutant: str | None) -> int:
    profile = draw(seed, kind)
    print(profile)
    world = World(profile, seed, MUTANTS[mutant].fault if mutant is not None else None)
    world.log = print
    try:
        world.run()
    except Violation as violation:
        print(f"{world.now:9.1f} VIOLATION {violation}")
        return 1
    print(f"{world.now:9.1f} fine: {world.events} events, {world.checkers.acked} acknowledged writes")
    return 0


if __name__ == "__main__":
    sys.exit(main())
