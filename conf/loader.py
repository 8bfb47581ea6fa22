"""TOML text to `Config`, or every mistake at once.

An operator who edits a file at 3 a.m. mends it once: unknown tables and keys, wrong types and values out of bounds are
all collected with their dotted keys, and only then reported.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from functools import cache
from pathlib import Path
from typing import Any

import tomli
from cattrs import AttributeValidationNote, ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from conf.schema import Check, Config, Mistake, cross_mistakes, tables

_NAMES = {str: "text", int: "a whole number", float: "a number", bool: "true or false", dict: "a table", list: "a list"}


class ConfigError(Exception):
    """The configuration cannot be used; `mistakes` says what to change. Nothing was opened or changed."""

    def __init__(self, source: str, mistakes: Sequence[Mistake]) -> None:
        self.source = source
        self.mistakes = tuple(mistakes)
        super().__init__("\n".join(f"{source}: {mistake}" for mistake in self.mistakes))


def load(path: Path | None) -> Config:
    """The configuration in the file at `path`; None gives the defaults (one zone on loopback)."""
    if path is None:
        return Config()
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigError(str(path), [Mistake("(file)", f"is not UTF-8: byte {error.start}")]) from None
    except OSError as error:
        raise ConfigError(str(path), [Mistake("(file)", f"cannot be read: {error.strerror}")]) from None
    return parse(text, str(path))


def parse(text: str, source: str = "configuration") -> Config:
    """`text` as `Config`. Raises ConfigError with every mistake, sorted by key."""
    try:
        document = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        raise ConfigError(source, [Mistake("(syntax)", str(error))]) from None
    try:
        config = _converter().structure(document, Config)
    except ClassValidationError as error:
        raise ConfigError(source, sorted(_mistakes(error, ()))) from None
    mistakes = cross_mistakes(config)
    if mistakes:
        raise ConfigError(source, sorted(mistakes))
    return config


class _Wrong(Exception):
    """A value of another type than the setting's, or out of its bounds. Nothing was changed."""


@cache
def _converter() -> Converter:
    converter = Converter(forbid_extra_keys=True, detailed_validation=True)
    for _, table_type in tables():
        overrides = {
            item.name: override(struct_hook=_checked(item.type, item.metadata["checks"])) for item in fields(table_type)
        }
        inner: Callable[[Any, Any], Any] = make_dict_structure_fn(table_type, converter, **overrides)  # type: ignore[arg-type]  # the stub takes no unpacked overrides

        def structure(value: Any, kind: type, inner: Callable[[Any, Any], Any] = inner) -> Any:
            return inner(_exactly(value, dict), kind)

        converter.register_structure_hook(table_type, structure)
    return converter


def _checked(kind: Any, checks: Sequence[Check]) -> Callable[[Any, Any], Any]:
    """A hook that takes a value of just this type (cattrs alone would turn "5" into 5) and within its bounds."""

    def structure(value: Any, _: Any) -> Any:
        if kind is float:
            value = float(_exactly(value, int, float))
        elif kind in (str, int, bool):
            value = _exactly(value, kind)
        else:
            value = tuple(_exactly(item, str) for item in _exactly(value, list))
        for check in checks:
            problem = check(value)
            if problem:
                raise _Wrong(problem)
        return value

    return structure


def _exactly(value: Any, *kinds: type) -> Any:
    if type(value) not in kinds:
        wanted = _NAMES[kinds[-1]]
        raise _Wrong(f"must be {wanted}, is {_NAMES.get(type(value), type(value).__name__)} ({value!r})")
    return value


def _mistakes(error: ClassValidationError, path: tuple[str, ...]) -> list[Mistake]:
    found: list[Mistake] = []
    for inner in error.exceptions:
        notes = [note for note in getattr(inner, "__notes__", []) if isinstance(note, AttributeValidationNote)]
        here = (*path, *(note.name for note in notes))
        if isinstance(inner, ClassValidationError):
            found += _mistakes(inner, here)
        elif isinstance(inner, ForbiddenExtraKeysError):
            found += [Mistake(".".join((*here, key)), _unknown(here, key)) for key in inner.extra_fields]
        else:
            found.append(Mistake(".".join(here) or "(file)", str(inner)))
    return found


def _unknown(path: tuple[str, ...], key: str) -> str:
    known: Mapping[str, Sequence[str]] = {name: tuple(item.name for item in fields(kind)) for name, kind in tables()}
    choices = known[path[0]] if path else tuple(known)
    near = difflib.get_close_matches(key, choices, 1)
    kind = "key" if path else "table"
    return f"unknown {kind}" + (
        f"; did you mean {'.'.join((*path, near[0]))}?" if near else f"; known: {', '.join(choices)}"
    )
