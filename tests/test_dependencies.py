"""What is installed is pinned, with hashes and licences; checked against what is installed here, without a network."""

import importlib.util
import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
HASHED = re.compile(r"([A-Za-z0-9_.-]+)==(\S+) --hash=sha256:([0-9a-f]{64})")
ROW = re.compile(r"\| (\S+) \| (\S+) \| (.+) \| (the daemon|PostgreSQL|tests) \|")
AFTER = "constraints.txt was changed: run `make lock`"
LIBRARY = "LGPL-3.0-only"  # of what those add who choose PostgreSQL
FREE = re.compile(r"MIT|BSD|Apache|ISC|MPL|Mozilla|PSF|any-OSI")  # nothing that would bind who passes zoned on


def lock_script() -> Any:
    spec = importlib.util.spec_from_file_location("lock", ROOT / "deploy" / "lock.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pins() -> dict[str, str]:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found: dict[str, str] = {canonicalize_name(one[0]): one[2] for one in (line.partition("==") for line in lines)}
    assert len(found) == len(lines) > 100
    return found


def hashed(name: str) -> dict[str, str]:
    lines = (ROOT / "deploy" / name).read_text().splitlines()[1:]
    found = [HASHED.fullmatch(line) for line in lines]
    assert all(found), "each line is a pin with its hash"
    return {canonicalize_name(one[1]): one[2] for one in found if one is not None}


def test_every_pin_has_its_hash():
    assert hashed("hashes.txt") == pins(), AFTER


def test_what_a_daemon_needs_is_among_them_and_whole():
    """By what the installed packages say of themselves: nothing is missing, nothing is there without a need."""
    lock = lock_script()
    known = pins()
    requires = {}
    for name in known:
        try:
            requires[name] = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            pytest.skip(f"{name} is not installed here")
    needed = lock.closure(lock.roots(), requires)
    assert hashed("requirements.txt") == {name: known[name] for name in needed}, AFTER


def test_every_licence_is_listed_and_free():
    rows = [ROW.fullmatch(line) for line in (ROOT / "docs" / "licences.md").read_text().splitlines()]
    listed = {canonicalize_name(one[1]): (one[2], one[3]) for one in rows if one is not None}
    optional = {canonicalize_name(one[1]) for one in rows if one is not None and one[4] == "PostgreSQL"}
    assert {name: version for name, (version, _) in listed.items()} == pins(), AFTER
    assert [
        name
        for name, (_, licence) in listed.items()
        if not (FREE.search(licence) or (name in optional and licence == LIBRARY))
    ] == []
    for name, (version, licence) in listed.items():
        try:
            found = metadata.metadata(name)
        except metadata.PackageNotFoundError:
            continue
        if found["Version"] == version and found["License-Expression"]:
            assert licence == found["License-Expression"], name
