"""Where the bytes of an image are: per zone what was wanted, claimed and verified there, each with its date. Sans-IO.

What is said is a dated observation, never a wish reported as a fact. Of each kind only the latest is kept, whoever
brings it and however late, so observations of many zones merge in any order to the same (a map of registers by time).
`unwanted` takes back `wanted`; `absent` takes back `claimed` and `verified`. At one moment the one that takes back
counts: a host must not be sent where the bytes may be missing.
"""

from collections.abc import Mapping
from datetime import datetime, timedelta

from store.images import ZONES_MAX, Sighting

Said = Mapping[str, Sighting]  # kind of presence -> (when, note), of one zone
_TAKEN_BACK_BY = {"wanted": "unwanted", "claimed": "absent", "verified": "absent"}


def merged(current: Mapping[str, Said], news: Mapping[str, Said]) -> dict[str, Said]:
    """`current` with what is newer in `news`. Zones beyond the bound are left out, the last by name."""
    result = dict(current)
    for zone, said in news.items():
        kept = dict(result.get(zone, {}))
        for kind, sighting in said.items():
            kept[kind] = max(kept.get(kind, sighting), sighting)
        result[zone] = kept
    return dict(sorted(result.items())[:ZONES_MAX])


def holds(said: Said, kind: str) -> str | None:
    """Since when (the latest word) `wanted`, `claimed` or `verified` holds; None when it does not."""
    if kind not in said:
        return None
    when = said[kind][0]
    taken_back = said.get(_TAKEN_BACK_BY[kind])
    return when if taken_back is None or taken_back[0] < when else None


def kinds(said: Said) -> list[str]:
    """Which of `wanted`, `claimed` and `verified` hold."""
    return [kind for kind in _TAKEN_BACK_BY if holds(said, kind) is not None]


def is_recent(when: str, now: str, days_max: float) -> bool:
    """Whether a sighting is at most so old; both as `2026-11-22T09:00:00.000Z`."""
    return datetime.fromisoformat(now) - datetime.fromisoformat(when) <= timedelta(days=days_max)


def is_absent(said: Said) -> bool:
    """Whether the last word is that the bytes are not there."""
    return "absent" in said and not {"claimed", "verified"} & set(kinds(said))
