"""`python deploy/lock.py`: what exactly is installed, made of `constraints.txt` by pip's own report. Needs the network.

Writes `deploy/hashes.txt` (everything, for `make`), `deploy/requirements.txt` (what a daemon needs and what builds it,
for operators) and `docs/licences.md`. The hashes are of the files that this machine's Python takes; `make` uses them on
such machines, and the pins alone on others.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import tomli
from packaging.markers import default_environment
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[1]
PINS, HASHES, RUNNING = (ROOT / name for name in ("constraints.txt", "deploy/hashes.txt", "deploy/requirements.txt"))
LICENCES = ROOT / "docs" / "licences.md"
BUILD = ("hatchling",)
ABOUT = "# Made by deploy/lock.py of constraints.txt, for CPython 3.11 on x86-64 Linux; do not edit.\n"


def report() -> list[dict[str, Any]]:
    """What pip would install of the pins, with metadata and hashes."""
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "report.json"
        asked = ["--dry-run", "--ignore-installed", "--quiet", "--report", str(file), "-r", str(PINS)]
        subprocess.run([sys.executable, "-m", "pip", "--disable-pip-version-check", "install", *asked], check=True)
        found: list[dict[str, Any]] = json.loads(file.read_text())["install"]
    return sorted(found, key=lambda one: canonicalize_name(one["metadata"]["name"]))


def closure(roots: Iterable[str], requires: Mapping[str, Iterable[str]]) -> set[str]:
    """Names of everything that the requirements `roots` need here; `requires` is by canonical name."""
    wanted = [Requirement(one) for one in roots]
    found: set[tuple[str, str]] = set()
    while wanted:
        one = wanted.pop()
        name = canonicalize_name(one.name)
        for extra in ("", *one.extras):
            if (name, extra) in found:
                continue
            found.add((name, extra))
            environment = {**default_environment(), "extra": extra}
            needed = map(Requirement, requires.get(name, ()))
            wanted += [two for two in needed if two.marker is None or two.marker.evaluate(environment)]
    return {name for name, _ in found}


def roots(extra: str = "") -> list[str]:
    """What a daemon and its building need; or what an extra of the project adds."""
    project = tomli.loads((ROOT / "pyproject.toml").read_text())["project"]
    added: list[str] = project["optional-dependencies"][extra] if extra else []
    return [*project["dependencies"], *BUILD, *added]


def licence(metadata: Mapping[str, Any]) -> str:
    """As a package says of itself: an SPDX expression, else a classifier, else its own words."""
    classifiers = [one.split(" :: ")[-1] for one in metadata.get("classifier", ()) if one.startswith("License :: ")]
    named = [one for one in classifiers if one != "OSI Approved"]
    free = (metadata.get("license") or "").strip().splitlines()
    return str(metadata.get("license_expression") or "; ".join(named) or (free[0] if free else "not said"))


def pinned(one: Mapping[str, Any]) -> str:
    sha256 = one["download_info"]["archive_info"]["hashes"]["sha256"]
    return f"{one['metadata']['name']}=={one['metadata']['version']} --hash=sha256:{sha256}\n"


def main() -> None:
    found = report()
    requires = {canonicalize_name(one["metadata"]["name"]): one["metadata"].get("requires_dist", ()) for one in found}
    running, postgres = closure(roots(), requires), closure(roots("postgres"), requires)
    HASHES.write_text(ABOUT + "".join(map(pinned, found)))
    RUNNING.write_text(
        ABOUT + "".join(pinned(one) for one in found if canonicalize_name(one["metadata"]["name"]) in running)
    )
    lines = ["# Licences\n", "Of every package that is installed, as it says itself. Made by `deploy/lock.py`; zoned"]
    lines += ["is Apache-2.0 (`LICENSE`). Packages that only tests and `make` use are marked so.\n"]
    lines += ["| package | version | licence | needed by |", "| --- | --- | --- | --- |"]
    for one in found:
        metadata = one["metadata"]
        name = canonicalize_name(metadata["name"])
        needed = "the daemon" if name in running else "PostgreSQL" if name in postgres else "tests"
        lines.append(f"| {metadata['name']} | {metadata['version']} | {licence(metadata)} | {needed} |")
    LICENCES.write_text("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
