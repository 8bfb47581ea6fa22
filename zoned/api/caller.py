"""Who asks, and what that allows: the Images APIs' visibility and ownership rules. No I/O.

Until requests are authenticated, a caller is an administrator unless headers say less: `X-Project-Id` (or
`X-Tenant-Id`) and `X-Roles`, as an authenticating proxy in front would set them. Headers can only take rights away.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from starlette.requests import Request

from store.images import NAME_CHARS_MAX, Image
from zoned.api.problems import Problem

ADMIN, SERVICE = "admin", "service"
WRITERS = frozenset((ADMIN, "member", "_member_", "manager"))


@dataclass(frozen=True, slots=True)
class Caller:
    """A project (None: none) and the roles held there."""

    project: str | None = None
    roles: frozenset[str] = frozenset((ADMIN,))

    @property
    def is_admin(self) -> bool:
        return ADMIN in self.roles

    @property
    def is_service(self) -> bool:
        """Other services of the cloud, which may see locations as an administrator does."""
        return self.is_admin or SERVICE in self.roles

    def may_see(self, image: Image) -> bool:
        """By its ID; lists are narrower (`store.listing`)."""
        visibility, owner = image.fields["visibility"], image.fields["owner"]
        if self.is_admin or visibility in ("public", "community") or owner is None or owner == self.project:
            return True
        return visibility == "shared" and self.project is not None and self.project in image.members

    def owns(self, image: Image) -> bool:
        return self.is_admin or (self.project is not None and image.fields["owner"] == self.project)

    def check_writes(self) -> None:
        """Raises Problem for a caller who may only read."""
        if not self.roles & WRITERS:
            raise Problem(403, "forbidden", "You are not authorized to complete this action.")

    def check_owns(self, image: Image, what: str) -> None:
        """Raises Problem unless the caller may change this image."""
        self.check_writes()
        if not self.owns(image):
            raise Problem(403, "forbidden", f"You are not permitted to {what}.")

    def check_visibility(self, visibility: object) -> None:
        """Raises Problem when the caller may not give an image this visibility."""
        if visibility == "public" and not self.is_admin:
            raise Problem(403, "forbidden", "You are not permitted to publicize this image.")

    def check_owner(self, owner: object) -> None:
        """Raises Problem when the caller may not give an image to this project."""
        if not self.is_admin and owner != self.project:
            raise Problem(403, "forbidden", "You are not permitted to set an image's owner to another project.")


def from_headers(headers: Mapping[str, str]) -> Caller:
    project = headers.get("x-project-id") or headers.get("x-tenant-id")
    roles = headers.get("x-roles")
    if roles is None:
        return Caller(project, frozenset(("member",))) if project else Caller()
    named = frozenset(role.strip().lower() for role in roles.split(",") if role.strip())
    return Caller(project or None, named)


def who(request: Request) -> str:
    """The caller's name for the records: a user of the machine, or a user and project of the cloud."""
    peer = request.scope.get("extensions", {}).get("zoned", {}).get("peer")
    if peer is not None:
        return f"uid {peer.uid}"
    user = request.headers.get("x-user-name") or request.headers.get("x-user-id")
    project = caller_of(request).project
    named = f"{user or ''}@{project}" if project else user or "admin"
    return "".join(one for one in named if one.isprintable())[:NAME_CHARS_MAX]


def caller_of(request: Request) -> Caller:
    return from_headers(request.headers)
