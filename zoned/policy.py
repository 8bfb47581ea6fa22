"""Who may do what, as data: for each action the kinds of caller that may. Sans-IO.

The table that is shipped (`policy.toml`) is Glance's default policy for the actions that both have. An operator's own
file names only what it changes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Protocol

import tomli

ADMIN, AUDITOR, SERVICE = "admin", "auditor", "service"
WRITERS = frozenset((ADMIN, "member", "_member_", "manager"))


class Asking(Protocol):
    """Who asks: a project (None: none) and the roles held there."""

    @property
    def project(self) -> str | None: ...
    @property
    def roles(self) -> frozenset[str]: ...


class Owned(Protocol):
    """What a rule looks at in an image."""

    @property
    def fields(self) -> Mapping[str, object]: ...
    @property
    def members(self) -> Mapping[str, object]: ...


class PolicyWrong(Exception):
    """A policy file cannot be used; the text names the table, the key and what it may hold. Nothing was changed."""


def _in_project(caller: Asking, image: Owned | None) -> bool:
    return image is not None and caller.project is not None and image.fields["owner"] == caller.project


def _has_visibility(wanted: str) -> Callable[[Asking, Owned | None], bool]:
    return lambda caller, image: image is not None and image.fields["visibility"] == wanted


def _is_member(caller: Asking, image: Owned | None) -> bool:
    shared = image is not None and image.fields["visibility"] == "shared"
    return shared and image is not None and caller.project is not None and caller.project in image.members


# Each kind of caller that a rule may name. `image` is None where an action has none.
KINDS: Mapping[str, Callable[[Asking, Owned | None], bool]] = {
    "admin": lambda caller, image: ADMIN in caller.roles,
    "auditor": lambda caller, image: AUDITOR in caller.roles,
    "service": lambda caller, image: SERVICE in caller.roles,
    "owner": lambda caller, image: bool(caller.roles & WRITERS) and _in_project(caller, image),
    "owner-reader": lambda caller, image: bool(caller.roles) and _in_project(caller, image),
    "image-member": _is_member,
    "image-member-writer": lambda caller, image: bool(caller.roles & WRITERS) and _is_member(caller, image),
    "public": _has_visibility("public"),
    "community": _has_visibility("community"),
    "unowned": lambda caller, image: image is not None and image.fields["owner"] is None,
    "member": lambda caller, image: bool(caller.roles & WRITERS),
    "project": lambda caller, image: bool(caller.roles) and caller.project is not None,
    "anyone": lambda caller, image: True,
}


@dataclass(frozen=True, slots=True)
class Policy:
    """For each action ("images.show") the kinds of caller that may; and which locations an image may have at all.

    `schemes` are those of URLs that anybody may register, None for any.
    """

    rules: Mapping[str, tuple[str, ...]]
    schemes: frozenset[str] | None = None

    def allows(self, action: str, caller: Asking, image: Owned | None = None) -> bool:
        """Whether `caller` may do `action`, to `image` if it is done to one."""
        return any(KINDS[kind](caller, image) for kind in self.rules[action])


def parse(text: str, base: Policy | None = None) -> Policy:
    """A policy file; what it does not name stays as in `base`. Raises PolicyWrong with every mistake."""
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise PolicyWrong(f"no TOML: {error}") from None
    rules = dict(base.rules) if base else {}
    wrong = []
    for table, actions in document.items():
        for name, kinds in actions.items() if isinstance(actions, dict) else [("", actions)]:
            action = f"{table}.{name}".rstrip(".")
            if base is not None and action not in base.rules:
                wrong.append(f"{action}: no such action; known: {', '.join(base.rules)}")
            elif not isinstance(kinds, list) or not all(isinstance(kind, str) and kind in KINDS for kind in kinds):
                wrong.append(f"{action}: must be a list of {', '.join(KINDS)}")
            else:
                rules[action] = tuple(kinds)
    if wrong:
        raise PolicyWrong("\n".join(wrong))
    return Policy(rules, base.schemes if base else None)


DEFAULT = parse(resources.files("zoned").joinpath("policy.toml").read_text(encoding="utf-8"))
