"""Images that come from elsewhere, over the admin socket: another catalogue's, or an export of this one.

Each document is a native record. What is not here yet is made, under its own UUID; what is here already is compared,
and changed only when that is asked for. So the same import may run again and again, and go on where it ended.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response

from store.errors import Refused, StorageFull, TooBroad, WriterEnded
from store.images import DEFAULTS, MEMBER_STATUSES, TIMES, Image, is_uuid, text_problem
from store.operations import Create, Grant, MemberChange, Update
from zoned import clock
from zoned.api import documents, problems
from zoned.api.answers import by_method, reply, write, zone_of
from zoned.api.problems import Problem, bad
from zoned.zone import Zone

IMPORT_MAX = 500  # images in one call
APART = ("integer", "ami", "members", "write", "position", "deleted_at", "presence")  # of a record, not of a create
PROJECT_CHARS_MAX = 255


@dataclass(frozen=True, slots=True)
class Wish:
    """One image as its source has it. `integer` is None when it is to get one here."""

    create: Create
    members: Mapping[str, tuple[str, bool]]


@dataclass(frozen=True, slots=True)
class Manner:
    """How to import: keep integers or give new ones, change what differs, or only say what would be done."""

    keep: bool
    update: bool
    dry_run: bool


async def take_in(request: Request) -> Response:
    """`{"images": [record, ...], "integers": "keep" or "assign", "update": false, "dry_run": false}`.

    Answers one item for each, in order: `result` (created, updated, same, differs, refused), `integer`, `state` of a
    write, and what differs as {what: [here, there]}.
    """
    zone, asked = zone_of(request), documents.parse_object(await request.body())
    images, manner = asked.get("images"), _manner(asked)
    if not isinstance(images, list) or not 1 <= len(images) <= IMPORT_MAX:
        raise bad(f"images must be a list of 1 to {IMPORT_MAX} records", "bad-body")
    items: list[dict[str, Any]] = [{} for _ in images]
    wishes = [_parsed(document, manner, items[number]) for number, document in enumerate(images)]
    if manner.keep and not manner.dry_run:
        await _leave_room(zone, [wish.create.integer or 0 for wish in wishes if wish is not None])
    async with trio.open_nursery() as nursery:
        for wish, item in zip(wishes, items, strict=True):
            if wish is not None:
                nursery.start_soon(_take_one, zone, wish, manner, item)
    return reply({"items": items, "position": zone.position})


def _manner(asked: Mapping[str, Any]) -> Manner:
    integers, update, dry_run = asked.get("integers", "assign"), asked.get("update", False), asked.get("dry_run", False)
    if integers not in ("keep", "assign") or type(update) is not bool or type(dry_run) is not bool:
        raise bad('integers must be "keep" or "assign", update and dry_run true or false', "bad-body")
    return Manner(integers == "keep", update, dry_run)


def _parsed(document: Any, manner: Manner, item: dict[str, Any]) -> Wish | None:
    """The wish in a document; None when it cannot be one, which the item then says."""
    try:
        if not isinstance(document, dict) or "uuid" not in document:
            raise bad("a record is an object with a uuid", "bad-record")
        item["uuid"] = document["uuid"]
        return _wish(document, manner.keep)
    except Problem as problem:
        item.update(_refused(problem))
        return None


def _wish(document: dict[str, Any], keep: bool) -> Wish:
    apart = {name: document.get(name) for name in APART}
    if apart["deleted_at"] is not None:
        raise bad("it is deleted there, and deleted images are not imported", "deleted")
    integer = apart["integer"] if keep else None
    if integer is not None and (type(integer) is not int or not 1 <= integer < 2**53):
        raise bad(f"integer must be 1 to 2^53-1, is {documents.shown(integer)}", "bad-integer")
    rest = {name: value for name, value in document.items() if name not in APART}
    create = documents.native_create(rest, "")
    known = Create(
        create.uuid, integer, create.at, create.fields, create.properties, create.tags, create.locations, create.origin
    )
    return Wish(known, _members(apart["members"]))


def _members(value: Any) -> dict[str, tuple[str, bool]]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise bad("members must be an object of {status, can_share} by project", "bad-members")
    found = {}
    for project, one in value.items():
        status = one.get("status", "pending") if isinstance(one, dict) else None
        if not project or text_problem(project, PROJECT_CHARS_MAX) or status not in MEMBER_STATUSES:
            raise bad(f"image member {project[:80]!r} needs a status: {', '.join(MEMBER_STATUSES)}", "bad-members")
        found[project] = (str(status), one.get("can_share") is True)
    return found


async def _leave_room(zone: Zone, integers: list[int]) -> None:
    """Moves the counter above every integer that comes along, so that nobody is ever granted one of them."""
    highest, ceiling = max(integers, default=0), zone.settings.config.ids.ceiling
    if highest <= zone.ids_status()["counter"]:
        return
    if highest >= ceiling:
        raise bad(f"integer {highest} is not below ids.ceiling, {ceiling}", "bad-integer")
    submitted = await write(zone, Grant(zone.settings.config.ids.lease_min, ceiling, highest))
    if submitted.state != "committed":
        detail = "integers can only be kept while there is a registry, which makes room for them; ask again then"
        raise Problem(503, "no-registry", detail, {"Retry-After": str(problems.RETRY_AFTER_S)})


def _refused(problem: Problem) -> dict[str, Any]:
    return {"result": "refused", "code": problem.code, "detail": problem.detail}


async def _take_one(zone: Zone, wish: Wish, manner: Manner, item: dict[str, Any]) -> None:
    try:
        item.update(await _taken(zone, wish, manner))
    except (Problem, Refused, TooBroad) as error:
        item.update(_refused(problems.from_error(error)))
    except (StorageFull, WriterEnded) as error:
        problem = problems.from_error(error)
        item.update({**_refused(problem), "again": True})


async def _taken(zone: Zone, wish: Wish, manner: Manner) -> dict[str, Any]:
    create = wish.create
    if not is_uuid(create.uuid):
        raise bad("the uuid is none", "bad-uuid")
    found = zone.find(create.uuid)
    if found is None and not zone.is_synced:
        raise problems.unsynced()
    if found is None:
        return await _made(zone, wish, manner)
    image = found.image
    if image.deleted_at is not None:
        raise problems.gone(create.uuid, image.deleted_at, image.successor)
    differing = differences(image, wish)
    if not differing:
        return {"result": "same", "integer": image.integer}
    number = differing.get("integer")
    if not manner.update or differing.keys() == {"integer"}:
        return {"result": "differs", "integer": image.integer, "differences": differing}
    told: dict[str, Any] = {"result": "updated", "integer": image.integer, "differences": differing}
    if number is not None:
        told["detail"] = f"it keeps integer {number[0]}, not {number[1]}"
    if not manner.dry_run:
        told["state"] = (await write(zone, _change(image, wish))).state
    return told


async def _made(zone: Zone, wish: Wish, manner: Manner) -> dict[str, Any]:
    create, integer = wish.create, wish.create.integer
    if manner.dry_run:
        why = zone.why_not_kept(integer) if integer is not None else None
        if why is not None:
            raise Problem(409, "integer-taken", why)
        return {"result": "created", "integer": integer}
    submitted = await write(zone, create)
    state = submitted.state
    assert submitted.image is not None
    if wish.members:
        members: dict[str, MemberChange] = {project: (None, one) for project, one in wish.members.items()}
        state = (await write(zone, Update(create.uuid, create.at, members=members))).state
    return {"result": "created", "integer": submitted.image.integer, "state": state}


def differences(image: Image, wish: Wish) -> dict[str, list[Any]]:
    """{what: [here, there]}. Times are no difference by themselves: nobody changed anything else."""
    create = wish.create
    pairs: dict[str, tuple[Any, Any]] = {
        name: (image.fields[name], create.fields.get(name, default))
        for name, default in DEFAULTS.items()
        if name not in TIMES
    }
    names = sorted({*image.properties, *create.properties})
    pairs |= {f"properties/{name}": (image.properties.get(name), create.properties.get(name)) for name in names}
    pairs["tags"] = (list(image.tags), list(create.tags))
    pairs["locations"] = _by_url(image.locations), _by_url(create.locations)
    here = {project: (one.status, one.can_share) for project, one in image.members.items()}
    pairs["members"] = ({k: list(v) for k, v in here.items()}, {k: list(v) for k, v in wish.members.items()})
    if create.integer is not None:
        pairs["integer"] = (image.integer, create.integer)
    return {what: [here, there] for what, (here, there) in pairs.items() if here != there}


def _by_url(locations: Any) -> list[dict[str, Any]]:
    return sorted(({"url": one.url, "metadata": dict(one.metadata)} for one in locations), key=lambda one: one["url"])


def _change(image: Image, wish: Wish) -> Update:
    """What makes the record here as it is there. Its date of change is then that of there."""
    create = wish.create
    fields = {
        name: (image.fields[name], create.fields.get(name, default))
        for name, default in DEFAULTS.items()
        if name not in TIMES and image.fields[name] != create.fields.get(name, default)
    }
    properties = {
        name: (image.properties.get(name), create.properties.get(name))
        for name in {*image.properties, *create.properties}
        if image.properties.get(name) != create.properties.get(name)
    }
    there = {one.url: one for one in create.locations}
    kept = [one for one in image.locations if there.get(one.url) == one]
    here = {project: (one.status, one.can_share) for project, one in image.members.items()}
    members: dict[str, MemberChange] = {
        project: (here.get(project), wish.members.get(project))
        for project in {*here, *wish.members}
        if here.get(project) != wish.members.get(project)
    }
    return Update(
        image.uuid,
        str(create.fields.get("updated_at") or clock.text(clock.wall())),
        fields=fields,
        properties=properties,
        tags_added=tuple(sorted(set(create.tags) - set(image.tags))),
        tags_removed=tuple(sorted(set(image.tags) - set(create.tags))),
        locations_added=tuple(one for one in create.locations if one not in kept),
        locations_removed=tuple(one.url for one in image.locations if one not in kept),
        members=members,
    )


admin_routes = [by_method("/admin/v1/images/import", POST=take_in)]
