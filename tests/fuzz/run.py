"""One target, many inputs. In a module of its own: the processes of `python -m tests.fuzz` cannot import its main."""

import time
from random import Random

from tests.fuzz.mutate import mutated
from tests.fuzz.targets import Target, targets


def fuzz(target: Target, seed: int, count: int) -> str | None:
    """The first finding among `count` inputs from `seed` on; None when there is none."""
    for n in range(seed, seed + count):
        data = mutated(Random(n), target.seeds)
        try:
            target.read(data)
        except target.errors:
            pass
        except Exception as error:
            again = f"python -m tests.fuzz --only '{target.name}' --first {n} --count 1"
            return f"{target.name}: {type(error).__name__}: {error}\n  input {data[:400]!r}\n  again: {again}"
    return None


def run(work: tuple[str, int, int]) -> tuple[str, int, float, str | None]:
    name, seed, count = work
    began = time.process_time()
    (target,) = (one for one in targets() if one.name == name)
    found = fuzz(target, seed, count)
    return name, count, time.process_time() - began, found
