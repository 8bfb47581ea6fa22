"""What records are found by, besides the columns that lists sort by: owner, tags, properties, image members. Sans-IO.

A facet is one short fact of a record. The table `facets` holds each as a number, a hash of its text: eight bytes
whatever the text, without a dictionary of texts that would grow for ever. Two texts of one number do not happen by
chance (2^64), and whoever made two on purpose would only be found by both.
"""

import hashlib
from functools import lru_cache
from typing import NamedTuple

from store.images import Image

OPEN_VISIBILITIES = ("public", "community")
# Attributes that are a facet and no column, as few records share one, or (owner) a column as well.
BY_VALUE = ("owner", "checksum", "os_hash_value")

REMEMBERED_CHARS_MAX = 64  # of a value


class Facet(NamedTuple):
    """`kind`: tag, property (`name` is its name), member (`name` is its status) or a base attribute."""

    kind: str
    name: str
    value: str


def facets(image: Image) -> set[Facet]:
    """All of a record, tombstone or not."""
    found = {Facet("tag", "", tag) for tag in image.tags}
    found |= {Facet("property", name, value) for name, value in image.properties.items()}
    found |= {Facet("member", member.status, project) for project, member in image.members.items()}
    found |= {Facet(name, "", str(image.fields[name])) for name in BY_VALUE if image.fields[name]}
    if image.fields["visibility"] in OPEN_VISIBILITIES:
        found.add(Facet("visibility", "", str(image.fields["visibility"])))
    return found


def number(facet: Facet) -> int:
    """A facet as the store has it: 64 bits of BLAKE2b of its parts, which hold no NUL."""
    return _remembered(facet) if len(facet.value) <= REMEMBERED_CHARS_MAX else _number(facet)


def _number(facet: Facet) -> int:
    return int.from_bytes(hashlib.blake2b("\0".join(facet).encode(), digest_size=8).digest(), signed=True)


_remembered = lru_cache(maxsize=2_048)(_number)  # most facets of a record are those of its neighbours too
