"""The house rules that a machine can check: imports, lengths, documents, names."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("zoned", "gossip", "store", "conf")
MODULE_LINES_MAX = 700
FUNCTION_LINES_MAX = 70
SOURCES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_import_contracts_are_kept():
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            "from importlinter.cli import lint_imports_command; lint_imports_command()",
            "--no-cache",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("path", [*SOURCES, *TESTS], ids=name_of)
def test_modules_and_functions_stay_short(path: Path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MODULE_LINES_MAX
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert node.end_lineno is not None
            length = node.end_lineno - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{node.name} has {length} lines"


@pytest.mark.parametrize("path", SOURCES, ids=name_of)
def test_every_module_says_what_it_is_for(path: Path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    assert (ast.get_docstring(tree) or "").strip()


def test_no_module_shadows_the_standard_library():
    top = {path.stem for path in ROOT.glob("*.py")} | set(PACKAGES)
    assert not top & set(sys.stdlib_module_names)


def test_every_lint_exception_has_its_reason():
    for path in SOURCES:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            for mark in ("# noqa", "# type: ignore"):
                if mark in line:
                    rest = line.split(mark, 1)[1]
                    assert "  # " in rest, f"{name_of(path)}:{number}: {mark} without a reason"


def documents() -> list[Path]:
    return sorted(
        [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"), *(p for k in PACKAGES for p in (ROOT / k).rglob("*.md"))]
    )


def test_documents_name_only_files_that_exist():
    """A path in backquotes that looks like one of ours must be there."""
    for document in documents():
        for word in document.read_text(encoding="utf-8").split("`")[1::2]:
            first = word.partition("/")[0]
            if "/" in word and first in (*PACKAGES, "tests", "docs", "deploy", "bench") and not set(word) & set(" *{<"):
                path = ROOT / word.partition(":")[0].rstrip("/")
                assert path.exists() or path.with_suffix(".py").exists(), f"{name_of(document)} names {word}"


def test_the_makefile_and_the_readme_agree():
    """Every `make` target that a document names exists."""
    targets = {line.partition(":")[0] for line in (ROOT / "Makefile").read_text().splitlines() if ":" in line}
    for document in documents():
        for line in document.read_text(encoding="utf-8").splitlines():
            words = line.strip().strip("`$ ").split()
            if len(words) >= 2 and words[0] == "make" and words[1].isidentifier():
                assert words[1] in targets, f"{name_of(document)}: {line}"
