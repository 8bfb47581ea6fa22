"""The sample file and the reference page, made from the schema. `python -m conf.reference` writes them anew; a test
compares, so neither can be out of date."""

import json
from collections.abc import Mapping
from dataclasses import MISSING, fields
from inspect import getdoc
from pathlib import Path
from types import MappingProxyType
from typing import Any

import tomli

from conf.schema import tables


def _toml(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, tuple | list):
        return "[" + ", ".join(_toml(item) for item in value) + "]"
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else str(value)


def _line(name: str, default: Any, value: Any) -> str:
    return f"#{name} = {_toml(default)}" if value is None else f"{name} = {_toml(value)}"


def sample(chosen: Mapping[str, Any] = MappingProxyType({})) -> str:
    """A TOML file with every setting at its default, commented out; `chosen` (dotted keys) are set."""
    lines = ["# zoned: every setting with its default. Remove the # before a line to change it.", ""]
    for name, kind in tables():
        lines += [f"# {getdoc(kind)}", f"[{name}]"]
        for item in fields(kind):
            assert item.default is not MISSING
            lines += [f"# {item.metadata['why']}", _line(item.name, item.default, chosen.get(f"{name}.{item.name}"))]
        lines.append("")
    text = "\n".join(lines)
    tomli.loads(text)
    return text


def page() -> str:
    """The Markdown reference page."""
    lines = [
        "# Configuration",
        "",
        "Generated from `conf/schema.py` by `make gen`. One TOML file, `zoned run -c FILE`; every key is optional.",
        "`zoned check -c FILE` names every mistake at once. A file to start from: `deploy/zoned.toml`.",
        "",
    ]
    for name, kind in tables():
        lines += [f"## [{name}]", "", str(getdoc(kind)), "", "| key | default | meaning |", "| --- | --- | --- |"]
        for item in fields(kind):
            lines.append(f"| `{name}.{item.name}` | `{_toml(item.default)}` | {item.metadata['why']} |")
        lines.append("")
    return "\n".join(lines)


GENERATED = {"docs/configuration.md": page, "deploy/zoned.toml": sample}


if __name__ == "__main__":
    root = Path(__file__).resolve().parent.parent
    for where, make in GENERATED.items():
        (root / where).parent.mkdir(exist_ok=True)
        (root / where).write_text(make(), encoding="utf-8")
