"""Inputs that are almost valid: the old tricks of mutation fuzzing (zzuf, AFL), seeded. No I/O."""

from collections.abc import Sequence
from random import Random

INTERESTING = (
    *(
        b"\x00",
        b"\xff",
        b"\x7f",
        b"\x80",
        b"\r\n",
        b"\n",
        b"\r",
        b" ",
        b"\t",
        b":",
        b",",
        b";",
        b'"',
        b"\\",
        b"/",
        b"%",
        b"#",
    ),
    *(
        b"-1",
        b"0",
        b"99999999999999999999",
        b"1e999",
        b"NaN",
        b"null",
        b"true",
        b"[]",
        b"{}",
        b'""',
        b"\xf0\x9f\x92\xa9",
    ),
    *(
        b"\xed\xa0\x80",
        b"\\ud800",
        b"../",
        b"\xc1",
        b"\xcf" + b"\xff" * 8,
        b"\xdd\xff\xff\xff\xff",
        b"[" * 100,
        b"\x91" * 200,
    ),
    *(b"chunked", b"Content-Length: 3\r\n", b"Transfer-Encoding: chunked\r\n", b"\r\n\r\n", b"\x0b", b"\x85", b"\xa0"),
)
BYTES_MAX = 70_000


def mutated(rng: Random, seeds: Sequence[bytes]) -> bytes:
    """One input: a seed with one to eight changes."""
    data = bytearray(rng.choice(seeds))
    for _ in range(1 << rng.randrange(4)):
        _change(rng, data, seeds)
    return bytes(data[:BYTES_MAX])


def _change(rng: Random, data: bytearray, seeds: Sequence[bytes]) -> None:
    at = rng.randrange(len(data) + 1)
    end = min(len(data), at + rng.choice((1, 2, 4, 16, 64)))
    match rng.randrange(9):
        case 0 if at < len(data):
            data[at] ^= 1 << rng.randrange(8)
        case 1 if at < len(data):
            data[at] = rng.randrange(256)
        case 2:
            del data[at:end]
        case 3:
            data[at:at] = data[at:end]
        case 4:
            data[at:at] = rng.choice(INTERESTING)
        case 5:
            data[at:end] = rng.choice(INTERESTING)
        case 6:
            other = rng.choice(seeds)
            cut = rng.randrange(len(other) + 1)
            data[at:] = other[cut:]
        case 7:
            del data[at:]
        case _:
            data[at:at] = rng.randbytes(rng.choice((1, 2, 8, 64)))
