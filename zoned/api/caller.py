"""Who asks, and what that allows: a caller and the policy's answers about it. No I/O.

Where users are not authenticated (`auth.api = "none"`), a caller is an administrator unless headers say less:
`X-Project-Id` (or `X-Tenant-Id`) and `X-Roles`, as an authenticating proxy in front would set them. Headers can only
take rights away.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from starlette.requests import Request

from store.images import DEFAULTS, NAME_CHARS_MAX, Image, Location
from zoned import policy
from zoned.api.problems import Problem, bad
from zoned.masking import has_secrets, masked_url
from zoned.policy import ADMIN, AUDITOR, Owned, Policy

CALLER = "zoned.caller"  # where the ASGI scope says who asks, once that was found out
AGAIN = "zoned.again"  # and how to find out once more, for answers without an end


@dataclass(frozen=True, slots=True)
class Caller:
    """A project (None: none), the roles held there, and the user's name for the records (empty: not known)."""

    project: str | None = None
    roles: frozenset[str] = frozenset((ADMIN,))
    user: str = ""
    policy: Policy = field(default=policy.DEFAULT, repr=False, compare=False)

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles

    @property
    def sees_everything(self) -> bool:
        """Whether lists show this caller every image (`store.listing` knows no policy)."""
        return bool(self.roles & {ADMIN, AUDITOR})

    @property
    def name(self) -> str:
        """For the records: a user of the machine, or a user and project of the cloud."""
        named = f"{self.user}@{self.project}" if self.project else self.user or "admin"
        return printable(named)

    def may(self, action: str, image: Owned | None = None) -> bool:
        return self.policy.allows(action, self, image)

    def check(self, action: str, image: Owned | None, what: str) -> None:
        """Raises Problem unless the caller may do `action`; `what` says it in words."""
        if not self.may(action, image):
            raise Problem(403, "forbidden", f"You are not permitted to {what}.")

    def may_see(self, image: Image) -> bool:
        """By its ID; lists are narrower (`store.listing`)."""
        return self.may("images.show", image)

    def view(self, image: Image) -> Image:
        """The record as this caller may see it: where its bytes are and whom it is shared with is not for everybody."""
        members, locations = image.members, image.locations
        if locations and not self.may("images.see_locations", image):
            locations = ()
        elif any(has_secrets(one.url) for one in locations) and not self.may("images.see_location_secrets", image):
            locations = tuple(replace(one, url=masked_url(one.url)) for one in locations)
        if members and not self.may("images.see_members", image):
            members = {name: one for name, one in members.items() if name == self.project}
        if locations is image.locations and members is image.members:
            return image
        return replace(image, locations=locations, members=members)

    def check_creates(self) -> None:
        """Raises Problem for a caller who may not register images."""
        if not self.may("images.create"):
            raise Problem(403, "forbidden", "You are not authorized to complete this action.")

    def told_locations(self, image: Image) -> Image:
        """The record with those locations only that the caller may be sent to: credentials are not handed on."""
        if self.may("images.see_location_secrets", image):
            return image
        return replace(image, locations=tuple(one for one in image.locations if not has_secrets(one.url)))

    def check_locations(self, image: Owned, added: Iterable[Location]) -> None:
        """Raises Problem when the caller may not give these locations to an image, be it new or there already."""
        for one in added:
            self.check("images.add_location", image, "add image locations")
            scheme = one.url.partition("://")[0].lower()
            if self.policy.schemes is not None and scheme not in self.policy.schemes:
                raise bad(f"locations with the scheme {scheme[:20]!r} are not allowed here", "bad-location")

    def check_visibility(self, visibility: object) -> None:
        """Raises Problem when the caller may not give an image this visibility."""
        if visibility == "public":
            self.check("images.publicize", None, "publicize this image")
        if visibility == "community":
            self.check("images.communitize", None, "communitize this image")

    def check_owner(self, owner: object) -> None:
        """Raises Problem when the caller may not give an image to this project."""
        if owner != self.project:
            self.check("images.give_away", None, "set an image's owner to another project")


@dataclass(frozen=True, slots=True)
class Asked:
    """An image that is asked for and not made yet, as rules look at it."""

    asked: Mapping[str, object]
    members: Mapping[str, object] = field(default_factory=dict)

    @property
    def fields(self) -> Mapping[str, object]:
        return {**DEFAULTS, **self.asked}


def printable(text: str) -> str:
    """As records may hold it, whatever identity service it comes from."""
    return "".join(one for one in text if one.isprintable())[:NAME_CHARS_MAX]


def from_headers(headers: Mapping[str, str], rules: Policy = policy.DEFAULT) -> Caller:
    """What a trusted proxy says of the caller; without its word an administrator."""
    project = headers.get("x-project-id") or headers.get("x-tenant-id")
    roles = headers.get("x-roles")
    user = headers.get("x-user-name") or headers.get("x-user-id") or ""
    if roles is None:
        named = frozenset(("member",)) if project else frozenset((ADMIN,))
    else:
        named = frozenset(role.strip().lower() for role in roles.split(",") if role.strip())
    return Caller(project or None, named, user[:255], rules)


def caller_of(request: Request) -> Caller:
    """Who asks, as the door found out. Whoever came by no door is nobody: never an administrator by omission."""
    known = request.scope.get(CALLER)
    return known if isinstance(known, Caller) else Caller(None, frozenset(), "nobody")
