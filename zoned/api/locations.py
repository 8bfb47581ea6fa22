"""What may be done with an image's locations: by patch, and by the routes of version 2.17. No I/O.

zoned never opens a URL: it keeps what an object store said, and with the first location an image becomes active.
"""

from collections.abc import Mapping
from typing import Any

from store.images import LOCATIONS_MAX, Location, Scalar
from zoned.api.caller import Caller
from zoned.api.documents import parse_location, parse_locations, shown
from zoned.api.problems import Problem, bad
from zoned.api.schemas import check_attribute, check_location

_HASHES = ("checksum", "os_hash_algo", "os_hash_value")
_HASH_DIGITS = {"md5": 32, "sha1": 40, "sha224": 56, "sha256": 64, "sha384": 96, "sha512": 128}


def changed(
    fields: dict[str, Scalar],
    current: list[Location],
    verb: str,
    place: str | None,
    value: Any,
    caller: Caller,
) -> list[Location]:
    """The locations after one patch operation at `/locations` or `/locations/{place}`; may set hashes in `fields`.

    Raises Problem.
    """
    for one in value if isinstance(value, list) else [value]:
        if verb != "remove":
            check_location(one)
    if verb == "replace":
        if place is not None:
            raise bad("Invalid JSON pointer for this resource: a single location cannot be replaced", "bad-location")
        return _replaced(fields, current, value)
    if place is None:
        raise bad("locations are changed one at a time, with add /locations/- or remove /locations/N", "bad-location")
    if verb == "add":
        return added(fields, current, place, value)
    if not caller.may("images.remove_location"):
        raise Problem(403, "forbidden", "You are not permitted to delete image locations.")
    if not _is_place(place, len(current)):
        raise bad("Invalid position for removing a location.", "bad-location")
    if len(current) == 1:
        raise Problem(403, "last-location", "The last location of an image may not be removed.")
    return [one for n, one in enumerate(current) if n != int(place)]


def added(fields: dict[str, Scalar], current: list[Location], place: str, value: Any) -> list[Location]:
    """`current` with one more; at its end, whatever `place` says, because locations are a set."""
    location = parse_location(value)
    if any(one.url == location.url for one in current):
        raise bad(f"Invalid location: {location.url[:200]} is there already", "bad-location")
    if place != "-" and not _is_place(place, len(current) + 1):
        raise bad("Invalid position for adding a location.", "bad-location")
    if len(current) >= LOCATIONS_MAX:
        raise Problem(413, "too-many-locations", f"an image has at most {LOCATIONS_MAX} locations")
    take_hashes(fields, value.get("validation_data"))
    return [*current, location]


def _replaced(fields: dict[str, Scalar], current: list[Location], value: Any) -> list[Location]:
    """The whole list at once: the URLs must stay, their metadata may change; an image without any gets its first."""
    wanted = parse_locations(value)
    if not wanted:
        raise Problem(403, "last-location", "Invalid locations: the last location of an image may not be removed.")
    if current and {one.url for one in wanted} != {one.url for one in current}:
        raise bad("Invalid locations: URLs may be added and removed, not replaced", "bad-location")
    for one in value:
        take_hashes(fields, one.get("validation_data"))
    if not current:
        return list(wanted)
    by_url = {one.url: one for one in wanted}
    return [by_url[one.url] for one in current]


def take_hashes(fields: dict[str, Scalar], validation: Any) -> None:
    """Hashes given with a location: they are the image's while it is queued, afterwards they must be the same."""
    if not validation:
        return
    if not isinstance(validation, Mapping) or not set(validation) <= set(_HASHES):
        raise bad(f"validation_data may hold {', '.join(_HASHES)}, is {shown(validation)}", "bad-location")
    algorithm, value = validation.get("os_hash_algo"), validation.get("os_hash_value")
    if not isinstance(algorithm, str) or not isinstance(value, str):
        raise bad("validation_data needs both os_hash_algo and os_hash_value", "bad-location")
    digits = _HASH_DIGITS.get(algorithm)
    if digits is not None and (len(value) != digits or not set(value) <= set("0123456789abcdefABCDEF")):
        raise bad(f"os_hash_value must be {digits} hexadecimal digits for {algorithm}", "bad-location")
    for name in _HASHES:
        if name in validation:
            check_attribute(name, validation[name])
    if fields["status"] == "queued":
        fields.update(validation)
    elif any(fields[name] not in (None, known) for name, known in validation.items()):
        raise Problem(409, "hash-differs", "the image has other hashes than those in validation_data")


def check_formats(fields: Mapping[str, Scalar]) -> None:
    """An image that is about to have data needs both formats. Raises Problem."""
    if fields["disk_format"] is None or fields["container_format"] is None:
        raise bad("Properties disk_format, container_format must be set prior to saving data.", "formats-missing")


def _is_place(text: str, below: int) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 4 and int(text) < below
