"""Which of an image's locations is best from here. No I/O."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from store.images import Image

_SCHEMES = ("https://", "http://")


def nearest(image: Image, here: str, zones: Iterable[Mapping[str, Any]]) -> str | None:
    """The URL of the nearest location: this zone's own first, then by measured round trip; None without any.

    A location's zone is its metadata's `zone`, else `store`. One that any HTTP client can follow goes before others.
    """
    rtts = {here: 0.0}
    for one in zones:
        if one["rtt_ms"] is not None:
            rtts[one["zone"]] = min(float(one["rtt_ms"]), rtts.get(one["zone"], math.inf))

    def distance(n: int) -> tuple[bool, float, int]:
        location = image.locations[n]
        zone = location.metadata.get("zone", location.metadata.get("store"))
        return not location.url.startswith(_SCHEMES), rtts.get(str(zone), math.inf), n

    best = min(range(len(image.locations)), key=distance, default=None)
    return image.locations[best].url if best is not None else None
