"""JSON-patch documents of the Images API as changes of a record. No I/O.

Two media types, as Glance: v2.1 (`{"op", "path", "value"}`, also RFC 6902's) and v2.0 (`{"add": path, "value"}`). All
or nothing: the first bad operation refuses the whole document.
"""

import re
from dataclasses import dataclass, field
from typing import Any

from store.images import FIELDS, PROPERTIES_MAX, Image, Location, Scalar
from store.operations import Change, Update
from zoned.api import locations
from zoned.api.caller import Caller
from zoned.api.documents import RESERVED, RESERVED_PREFIX, check_field, check_property, check_tags
from zoned.api.problems import Problem, bad
from zoned.api.schemas import READ_ONLY

V21 = "application/openstack-images-v2.1-json-patch"
V20 = "application/openstack-images-v2.0-json-patch"
STANDARD = "application/json-patch+json"
OPERATIONS_MAX = 1_000
_VERBS = ("add", "replace", "remove")
# RFC 6901: "~" only as "~0" or "~1".
_STRAY_TILDE = re.compile(r"~(?![01])")


@dataclass(frozen=True, slots=True)
class Step:
    """One operation of the document; `strict` for the 2.0 form, whose add may not overwrite."""

    verb: str
    path: tuple[str, ...]
    value: Any
    strict: bool


@dataclass(slots=True)
class _Edit:
    """The record being changed, in memory."""

    fields: dict[str, Scalar]
    properties: dict[str, str]
    tags: tuple[str, ...]
    locations: list[Location] = field(default_factory=list)


def parse(document: Any, media_type: str) -> list[Step]:
    """Raises Problem for what is no patch document of this media type."""
    if not isinstance(document, list):
        raise bad("Request body must be a JSON array of operation objects.", "bad-patch")
    if len(document) > OPERATIONS_MAX:
        raise Problem(413, "too-many-operations", f"a patch has at most {OPERATIONS_MAX} operations")
    return [_step(one, media_type) for one in document]


def _step(raw: Any, media_type: str) -> Step:
    if not isinstance(raw, dict):
        raise bad("Operations must be JSON objects.", "bad-patch")
    if media_type == V20:
        verbs = [verb for verb in _VERBS if verb in raw]
        if len(verbs) != 1:
            raise bad("Operation objects must contain exactly one member named add, replace or remove.", "bad-patch")
        verb, path = verbs[0], raw[verbs[0]]
    else:
        verb, path = str(raw.get("op")), raw.get("path")
        if verb not in _VERBS:
            raise bad(f"Operations must be add, replace or remove, not {verb[:40]!r}.", "bad-patch")
    if verb != "remove" and "value" not in raw:
        raise bad(f'Operation "{verb}" requires a member named "value".', "bad-patch")
    return Step(verb, _path(path), raw.get("value"), media_type == V20)


def _path(path: Any) -> tuple[str, ...]:
    if not isinstance(path, str) or not path.startswith("/") or _STRAY_TILDE.search(path):
        raise bad(f"Invalid JSON pointer for this resource: {str(path)[:200]!r}", "bad-patch")
    parts = tuple(part.replace("~1", "/").replace("~0", "~") for part in path[1:].split("/"))
    longest = 2 if parts[0] == "locations" else 1
    if not all(parts) or len(parts) > longest:
        raise bad(f"Invalid JSON pointer for this resource: {str(path)[:200]!r}", "bad-patch")
    return parts


def changes(
    image: Image,
    steps: list[Step],
    at: str,
    if_match: str | None,
    caller: Caller = Caller(),  # noqa: B008  # frozen
) -> Update | None:
    """The update that `steps` ask for, each change with the value it is based on; None when nothing would change."""
    edit = _Edit(dict(image.fields), dict(image.properties), image.tags, list(image.locations))
    for step in steps:
        _apply(edit, step, caller, image.integer)
    if len(edit.properties) > PROPERTIES_MAX:
        raise Problem(413, "too-many-properties", f"an image has at most {PROPERTIES_MAX} properties")
    if edit.fields["visibility"] != image.fields["visibility"]:
        caller.check_visibility(edit.fields["visibility"])
    if edit.fields["owner"] != image.fields["owner"]:
        caller.check_owner(edit.fields["owner"])
    if edit.locations and edit.fields["status"] == "queued":
        locations.check_formats(edit.fields)
        edit.fields["status"] = "active"
    old, new = set(image.tags), set(edit.tags)
    before = {one.url: one for one in image.locations}
    after = {one.url: one for one in edit.locations}
    update = Update(
        image.uuid,
        at,
        fields=_differences(image.fields, edit.fields),
        properties=_differences(image.properties, edit.properties),
        tags_added=tuple(sorted(new - old)),
        tags_removed=tuple(sorted(old - new)),
        locations_added=tuple(one for url, one in after.items() if before.get(url) != one),
        locations_removed=tuple(sorted(url for url, one in before.items() if after.get(url) != one)),
        if_match=if_match,
    )
    caller.check_locations(image, update.locations_added)
    return None if update == Update(image.uuid, at, if_match=if_match) else update


def _differences(before: Any, after: Any) -> dict[str, Change]:
    names = sorted(set(before) | set(after))
    return {name: (before.get(name), after.get(name)) for name in names if before.get(name) != after.get(name)}


def _apply(edit: _Edit, step: Step, caller: Caller, integer: int | None) -> None:
    name = step.path[0]
    if name == "zoned_id" and (step.verb == "remove" or step.value == integer):
        # openstacksdk takes what it does not know for a free property, and removes those when it replaces them all.
        return
    if name in READ_ONLY or name in ("id", "created_at", "updated_at"):
        raise Problem(403, "read-only", f"Attribute '{name}' is read-only.")
    if name in RESERVED or name.startswith(RESERVED_PREFIX):
        raise Problem(403, "reserved", f"Attribute '{name[:80]}' is reserved.")
    if name == "locations":
        place = step.path[1] if len(step.path) == 2 else None
        edit.locations = locations.changed(edit.fields, edit.locations, step.verb, place, step.value, caller)
    elif name == "tags":
        if step.verb == "remove":
            raise Problem(403, "not-removable", "Property tags may not be removed.")
        edit.tags = check_tags(step.value)
    elif name in FIELDS:
        _apply_field(edit, step, name)
    else:
        _apply_property(edit, step, name)


def _apply_field(edit: _Edit, step: Step, name: str) -> None:
    if step.verb == "remove":
        raise Problem(403, "not-removable", f"Property {name} may not be removed.")
    if name in ("disk_format", "container_format") and edit.fields["status"] not in ("queued", "importing"):
        raise Problem(403, "format-fixed", f"Attribute {name} can be only replaced for a queued image.")
    check_field(name, step.value)
    edit.fields[name] = step.value


def _apply_property(edit: _Edit, step: Step, name: str) -> None:
    present = name in edit.properties
    if step.verb == "add" and step.strict and present:
        raise Problem(409, "exists", f"Property {name} already present.")
    if step.verb != "add" and not present:
        raise Problem(409, "missing", f"Property {name} does not exist.")
    if step.verb == "remove":
        del edit.properties[name]
    else:
        check_property(name, step.value)
        edit.properties[name] = step.value
