"""Which of an image's locations is best from here. No I/O."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from store import presence
from store.images import Image, Location

_IN_URLS = "!#$%&'()*+,/:;=?@[]~"  # RFC 3986's, and % for what is encoded already
_SCHEMES = ("https://", "http://")


@dataclass(frozen=True, slots=True)
class Place:
    """A location, its zone and the round trip to there (None: not known), and what is said of the bytes there."""

    location: Location
    zone: str | None
    rtt_ms: float | None
    present: tuple[str, ...]  # of wanted, claimed, verified, absent

    @property
    def why(self) -> str:
        """Where it is and how sure that is, in words."""
        if self.zone is None:
            return "the location names no zone"
        far = "no round trip known" if self.rtt_ms is None else f"{self.rtt_ms:g} ms" if self.rtt_ms else "this zone"
        sure = next((one for one in ("absent", "verified", "claimed") if one in self.present), "never verified")
        return f"zone {self.zone}: {far}, {sure}"


def ordered(image: Image, rtts: Mapping[str, float]) -> list[Place]:
    """An image's locations, the best first: not known to be absent, to be followed by any HTTP client, near.

    `rtts` are milliseconds to zones. A location's zone is its metadata's `zone`, else `store`.
    """
    places = []
    for one in image.locations:
        named = one.metadata.get("zone", one.metadata.get("store"))
        zone = str(named) if named is not None else None
        said = image.presence.get(zone, {}) if zone is not None else {}
        present = [*presence.kinds(said), *(["absent"] if presence.is_absent(said) else [])]
        places.append(Place(one, zone, rtts.get(zone) if zone is not None else None, tuple(present)))

    def distance(place: Place) -> tuple[bool, bool, float]:
        rtt_ms = math.inf if place.rtt_ms is None else place.rtt_ms
        return "absent" in place.present, not place.location.url.startswith(_SCHEMES), rtt_ms

    return sorted(places, key=distance)


def nearest(image: Image, rtts: Mapping[str, float]) -> str | None:
    """The URL of the best location, as it may stand in a header; None without any."""
    found = ordered(image, rtts)
    return quote(found[0].location.url, safe=_IN_URLS) if found else None
