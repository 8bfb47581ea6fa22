"""`/zone/v1/aliases`: names that point to images, promoted zone by zone and rolled back.

A name is a reference like any other on native routes, and stands for what it points to in the zone that is asked. Who
may not see an image does not learn of it by a name, whatever else that name points or pointed to.
"""

from collections.abc import Mapping
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response

from conf import name_problem
from store.aliases import ALIASES_MAX, EVERYWHERE, Alias
from store.images import ZONES_MAX, is_alias_name
from store.operations import Change, Point
from zoned import clock
from zoned.api import documents
from zoned.api.answers import (
    by_method,
    if_match,
    look_up,
    query_integer,
    reply,
    write,
    write_headers,
    zone_of,
)
from zoned.api.caller import Caller, caller_of
from zoned.api.problems import Problem, bad, not_found, unsynced
from zoned.zone import Zone

LIST_DEFAULT, LIST_MAX = 100, 1_000
PAGES_MAX = ALIASES_MAX // LIST_MAX  # read behind the first one for a list: together they are all there are
AT_ONCE = 64  # judged before others get their turn
ALL = "*"  # how a document writes the zone EVERYWHERE


async def index(request: Request) -> Response:
    """Aliases by name: `limit`, and `marker`, the last name seen."""
    zone, caller = zone_of(request), caller_of(request)
    limit = query_integer(request, "limit", LIST_DEFAULT, 1, LIST_MAX)
    found = await _behind(zone, caller, request.query_params.get("marker", ""), limit + 1)
    body = {
        "aliases": [_document(zone, caller, one, zone.name) for one in found[:limit]],
        "next": found[limit - 1].name if len(found) > limit else None,
        "position": zone.position,
    }
    return reply(body)


async def _behind(zone: Zone, caller: Caller, marker: str, limit: int) -> list[Alias]:
    """The next aliases that the caller may see. Hidden ones are passed over: a short page would tell of them."""
    found: list[Alias] = []
    most = limit
    for _ in range(1 + PAGES_MAX):
        page = await zone.aliases(marker, most)
        for n, one in enumerate(page, 1):
            if n % AT_ONCE == 0:
                await trio.lowlevel.checkpoint()
            if _may_see(zone, caller, one):
                found.append(one)
        if len(found) >= limit or len(page) < most:
            break
        marker, most = page[-1].name, LIST_MAX
    return found[:limit]


async def show(request: Request) -> Response:
    """What a name points to, in this zone or in `?zone=`, and what it pointed to before."""
    zone = zone_of(request)
    alias = _existing(request, zone)
    if not alias.targets or not _may_see(zone, caller_of(request), alias):
        raise _no_alias(alias.name, zone.position)
    where = request.query_params.get("zone", zone.name)
    return reply(_document(zone, caller_of(request), alias, where), headers={"ETag": f'"{alias.write}"'})


async def put(request: Request) -> Response:
    """Points a name to an image: in the zones named, or everywhere. `image` null gives up those zones' own pointers."""
    zone, name = zone_of(request), _name(request)
    _check_admin(request)
    asked = documents.parse_object(await request.body())
    if not set(asked) <= {"image", "zones"} or "image" not in asked:
        raise bad('{"image": REFERENCE, "zones": [...]} is expected; without zones it counts everywhere', "bad-body")
    zones, wanted = _zones(asked.get("zones")), _image(zone, asked["image"])
    if wanted is None and zones is None:
        raise bad("name the zones whose own pointers are given up, or delete the alias", "bad-body")
    alias = zone.alias(name)
    before = alias.targets if alias is not None else {}
    if zones is None:  # everywhere: no zone keeps a pointer of its own
        after: Mapping[str, str | None] = {EVERYWHERE: wanted}
    else:
        after = {**before, **dict.fromkeys(zones, wanted)}
    return await _move(request, zone, name, before, after)


async def roll_back(request: Request) -> Response:
    """Points a name to what it pointed to before its last change: in the zones named, or as a whole."""
    zone = zone_of(request)
    _check_admin(request)
    body = await request.body()
    asked = documents.parse_object(body) if body else {}
    if not set(asked) <= {"zones"}:
        raise bad('{"zones": [...]} is expected, or nothing for all', "bad-body")
    alias, zones = _existing(request, zone), _zones(asked.get("zones"))
    if not alias.earlier:
        raise Problem(409, "no-earlier", f"alias {alias.name} never pointed to anything else")
    if zones is None:
        return await _move(request, zone, alias.name, alias.targets, alias.earlier[-1].targets)
    after = dict(alias.targets)
    for one in zones:
        after[one] = _earlier_target(alias, one)
    return await _move(request, zone, alias.name, alias.targets, after)


async def delete(request: Request) -> Response:
    """Unsets a name. It can be rolled back, or set again."""
    zone = zone_of(request)
    _check_admin(request)
    alias = _existing(request, zone)
    return await _move(request, zone, alias.name, alias.targets, {})


async def _move(
    request: Request, zone: Zone, name: str, before: Mapping[str, str], after: Mapping[str, str | None]
) -> Response:
    changes: dict[str, Change] = {
        one: (before.get(one), after.get(one)) for one in sorted({*before, *after}) if before.get(one) != after.get(one)
    }
    alias = zone.alias(name)
    if not changes and alias is not None:
        return reply({**_document(zone, caller_of(request), alias, zone.name), "state": "committed"})
    if not changes:
        raise bad("nothing is asked for", "bad-body")
    submitted = await write(zone, Point(name, clock.text(clock.wall()), changes, if_match(request)))
    alias = zone.alias(name)
    assert alias is not None
    headers = {"ETag": f'"{alias.write}"', **write_headers(zone, submitted)}
    body = {**_document(zone, caller_of(request), alias, zone.name), "state": submitted.state}
    return reply(body, 202 if submitted.state == "buffered" else 200, headers)


def _earlier_target(alias: Alias, zone: str) -> str:
    now = alias.target(zone)
    for one in reversed(alias.earlier):
        target = one.targets.get(zone, one.targets.get(EVERYWHERE))
        if target is not None and target != now:
            return target
    raise Problem(409, "no-earlier", f"alias {alias.name} never pointed to anything else in zone {zone}")


def _document(zone: Zone, caller: Caller, alias: Alias, where: str) -> dict[str, Any]:
    """As the caller may see it: who moved a name is for who sees everything."""
    target = alias.target(where)
    earlier = ((one, _shown(zone, caller, one.targets)) for one in reversed(alias.earlier))
    return {
        "name": alias.name,
        "zone": where,
        "image": target if target is not None and _sees(zone, caller, target) else None,
        "targets": _shown(zone, caller, alias.targets),
        "write": alias.write,
        "position": alias.position,
        "at": alias.at,
        "by": _by(caller, alias.by),
        "earlier": [
            {"targets": targets, "write": one.write, "at": one.at, "by": _by(caller, one.by)}
            for one, targets in earlier
            if targets or caller.sees_everything
        ],
    }


def _by(caller: Caller, by: tuple[str, str]) -> str | None:
    return by[0] or None if caller.sees_everything else None


def _shown(zone: Zone, caller: Caller, targets: Mapping[str, str]) -> dict[str, str]:
    return {where or ALL: uuid for where, uuid in targets.items() if _sees(zone, caller, uuid)}


def _sees(zone: Zone, caller: Caller, uuid: str) -> bool:
    found = None if caller.sees_everything else zone.find(uuid)
    return caller.sees_everything or (found is not None and caller.may_see(found.image))


def _may_see(zone: Zone, caller: Caller, alias: Alias) -> bool:
    return any(_sees(zone, caller, uuid) for uuid in set(alias.targets.values()))


def _check_admin(request: Request) -> None:
    caller_of(request).check("zone.name", None, "change aliases")


def _name(request: Request) -> str:
    name: str = request.path_params["name"]
    if not is_alias_name(name):
        rule = "1 to 128 of a-z 0-9 . _ -, beginning with a letter, and no other kind of reference"
        raise bad(f"an alias has a name of {rule}, not {name[:80]!r}", "bad-alias")
    return name


def _existing(request: Request, zone: Zone) -> Alias:
    name = request.path_params["name"]
    alias = zone.alias(name)
    if alias is None:
        raise _no_alias(name, zone.position) if zone.is_synced else unsynced()
    return alias


def _no_alias(name: str, position: int) -> Problem:
    problem = not_found(name[:128], position)
    problem.detail = f"no alias {name[:128]} as of position {position}"
    return problem


def _zones(value: Any) -> list[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not 0 < len(value) <= ZONES_MAX:
        raise bad(f"zones must be a list of 1 to {ZONES_MAX} names", "bad-zone")
    for one in value:
        if not isinstance(one, str) or name_problem(one):
            raise bad(f"a zone's name {name_problem(one) if isinstance(one, str) else 'must be a text'}", "bad-zone")
    return value


def _image(zone: Zone, value: Any) -> str | None:
    """The UUID that a reference stands for."""
    if value is None:
        return None
    if type(value) not in (str, int) or len(str(value)) > 128:
        raise bad(f"image must be a reference, is {documents.shown(value)}", "bad-reference")
    return look_up(zone, str(value), integers=True, aliases=True).image.uuid


routes = [
    by_method("/aliases", GET=index),
    by_method("/aliases/{name}", GET=show, PUT=put, DELETE=delete),
    by_method("/aliases/{name}/rollback", POST=roll_back),
]
