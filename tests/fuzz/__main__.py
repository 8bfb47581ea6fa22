"""`python -m tests.fuzz`: many inputs for each target, on all cores; a finding prints how to see it again."""

import argparse
import multiprocessing
import sys

from tests.fuzz.run import run
from tests.fuzz.targets import targets


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--count", type=int, default=100_000, help="inputs for each target")
    parser.add_argument("--datagrams", type=int, default=0, help="inputs for the datagram targets, if not --count")
    parser.add_argument("--first", type=int, default=0, help="the first seed")
    parser.add_argument("--only", help="one target by name")
    parser.add_argument("--jobs", type=int, default=multiprocessing.cpu_count())
    asked = parser.parse_args()
    names = [one.name for one in targets() if asked.only in (None, one.name)]
    work = []
    for name in names:
        count = asked.datagrams if asked.datagrams and "datagram" in name else asked.count
        step = max(1, min(20_000, count))
        work += [(name, asked.first + n, min(step, count - n)) for n in range(0, count, step)]
    done: dict[str, tuple[int, float]] = {}
    wrong = False
    with multiprocessing.get_context("spawn").Pool(asked.jobs) as pool:
        for name, count, seconds, found in pool.imap_unordered(run, work):
            inputs, spent = done.get(name, (0, 0.0))
            done[name] = (inputs + count, spent + seconds)
            if found:
                wrong = True
                print(found)
    for name, (inputs, spent) in done.items():
        print(f"{name:16} {inputs:>9,} inputs  {spent / inputs * 1e6:7.1f} us each")
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main())
