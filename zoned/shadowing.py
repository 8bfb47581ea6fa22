"""`zonectl shadow`: the same questions to a running Glance and to zoned, and what they answer differently.

Reads only, and only as much as it is told to: so many images, so many questions a second, so long. Questions are made
of the images that the Glance lists (each record, its members, lists by the values it has, every order), or read from a
file of paths as an access log has them.
"""

import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from zoned.glance import Glance
from zoned.progress import bar

Answer = tuple[int, Any]  # status, body (None when it is no JSON)
Row = dict[str, Any]  # question, what, glance, zoned

# What zoned adds, and what depends on settings of the Glance that clients do not see as the image's own.
ASIDE = frozenset(("zoned_id", "locations", "direct_url", "stores", "first", "next", "schema"))
BY_VALUE = ("name", "status", "owner", "visibility", "disk_format", "container_format", "min_ram", "protected")
ORDERS = ("name:asc", "size:desc", "created_at:asc", "updated_at:desc", "status:asc", "disk_format:desc")
VALUES_MAX = 5  # of one attribute that are listed by
LIST = 100  # images in a list that is compared
ROWS_MAX = 1_000


@dataclass(slots=True)
class Compared:
    """What came of it."""

    asked: int = 0
    alike: int = 0
    rows: list[Row] = field(default_factory=list)
    cut: str = ""  # why not everything was asked


def compare(
    glance: Glance,
    zoned: Callable[[str], Answer],
    questions: Sequence[str],
    per_s: float,
    for_s: float,
) -> Compared:
    """Asks both, one question after the other, at most `per_s` a second and for `for_s` seconds."""
    found, began = Compared(), time.monotonic()
    with bar("shadow", len(questions)) as advance:
        for number, path in enumerate(questions):
            early = began + number / per_s - time.monotonic()
            if early > 0:
                time.sleep(early)
            if time.monotonic() - began > for_s:
                found.cut = f"after {for_s:.0f} s {len(questions) - number} of {len(questions)} questions were left"
                return found
            rows = differences(path, glance.ask(path), zoned(path))
            found.asked += 1
            found.alike += not rows
            found.rows += rows[: max(0, ROWS_MAX - len(found.rows))]
            advance(1)
    return found


def questions(images: Sequence[Mapping[str, Any]]) -> list[str]:
    """Paths worth asking, about these images."""
    asked = [f"/v2/images/{quote(str(one['id']), safe='')}" for one in images]
    asked += [f"/v2/images/{quote(str(one['id']), safe='')}/members" for one in images if one["visibility"] == "shared"]
    asked += [f"/v2/images/{uuid.uuid4()}", "/v2/images/no-such-image"]
    asked += [_list(sort=order) for order in ORDERS]
    asked += [_list(limit="3"), _list(os_hidden="true"), _list(visibility="all")]
    values: dict[str, set[str]] = defaultdict(set)
    for one in images:
        for name in BY_VALUE:
            if one.get(name) is not None:
                values[name].add(_text(one[name]))
        for tag in one.get("tags", []):
            values["tag"].add(str(tag))
        if one.get("size") is not None:
            values["size_min"].add(str(one["size"]))
        values["created_at"].add(f"gte:{one['created_at']}")
        for name in sorted(set(one) - ASIDE)[:50]:
            if isinstance(one[name], str) and name.startswith(("os_d", "os_v", "hw_", "arch")):
                values[name].add(one[name])
    for name, found in sorted(values.items()):
        asked += [_list(**{name: value}) for value in sorted(found)[:VALUES_MAX]]
    return asked


def _text(value: object) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _list(**asked: str) -> str:
    return "/v2/images?" + urlencode({"limit": str(LIST), **asked})


def from_log(lines: Sequence[str]) -> Iterator[str]:
    """Paths of GET requests: a path alone in a line, or an access log's `GET /v2/images HTTP/1.1`."""
    for line in lines:
        words = line.replace('"', " ").split()
        if "GET" in words[:-1]:
            words = words[words.index("GET") + 1 :]
        elif len(words) != 1:
            continue
        if words[0].startswith("/v2/") and not words[0].partition("?")[0].endswith("/file"):
            yield words[0]


def differences(path: str, theirs: Answer, ours: Answer) -> list[Row]:
    """What a client would see differ; nothing if it would not."""

    def row(what: str, glance: Any, zoned: Any) -> Row:
        return {"question": path, "what": what, "glance": glance, "zoned": zoned}

    if theirs[0] != ours[0]:
        return [row("status", theirs[0], ours[0])]
    one, other = theirs[1], ours[1]
    if theirs[0] != 200 or not isinstance(one, dict) or not isinstance(other, dict):
        return []
    if isinstance(one.get("images"), list) and isinstance(other.get("images"), list):
        return _of_lists(path, one, other, row)
    if isinstance(one.get("members"), list) and isinstance(other.get("members"), list):
        pairs = ({m["member_id"]: m["status"] for m in said["members"]} for said in (one, other))
        glance, zoned = pairs
        return [row("members", glance, zoned)] if glance != zoned else []
    return [row(name, one.get(name), other.get(name)) for name in _differing(one, other)]


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    names = sorted((one.keys() | other.keys()) - ASIDE)
    return [name for name in names if _plain(one.get(name)) != _plain(other.get(name))]


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, list) and all(isinstance(one, str) for one in value) else value


def _of_lists(
    path: str, one: Mapping[str, Any], other: Mapping[str, Any], row: Callable[[str, Any, Any], Row]
) -> list[Row]:
    """Images that only one side has, another order, and records that differ."""
    rows = []
    theirs, ours = ({str(image["id"]): image for image in said["images"]} for said in (one, other))
    for uuid_ in theirs.keys() & ours.keys():
        names = _differing(theirs[uuid_], ours[uuid_])
        rows += [row(f"{uuid_} {name}", theirs[uuid_].get(name), ours[uuid_].get(name)) for name in names]
    keys = _sort_keys(path)
    glance, zoned = _groups(one, keys), _groups(other, keys)
    shorter = min(len(glance), len(zoned)) if "next" in one or "next" in other else None
    if glance[:shorter] != zoned[:shorter]:
        rows.append(row("images", _told(glance, ours.keys()), _told(zoned, theirs.keys())))
    return rows


def _sort_keys(path: str) -> list[str]:
    asked = dict(parse_qsl(urlsplit(path).query))
    named = [one.partition(":")[0] for one in asked.get("sort", "").split(",")] if "sort" in asked else []
    return [*named, asked.get("sort_key", "created_at"), "created_at"]


def _groups(said: Mapping[str, Any], keys: Sequence[str]) -> list[tuple[list[str], list[str]]]:
    """The list as runs of images that no order tells apart: a Glance sorts by parts of a second that it never shows.

    The last run of a page that is not the last one may be cut in two, so it is left out.
    """

    def key(image: Mapping[str, Any]) -> list[str]:
        return [str(image.get(name)) for name in keys]

    runs = [(values, sorted(str(image["id"]) for image in run)) for values, run in groupby(said["images"], key)]
    return runs[:-1] if "next" in said else runs


def _told(runs: Sequence[tuple[list[str], list[str]]], others: Any) -> str:
    listed = [uuid_ for _, run in runs for uuid_ in run]
    alone = [uuid_ for uuid_ in listed if uuid_ not in others]
    if not alone:
        return f"{len(listed)} in another order"
    return f"{len(listed)}, only there: {', '.join(alone[:3])}{' ...' if len(alone) > 3 else ''}"
