"""A bounded run of the fuzzer over every target, and that it would find something."""

import subprocess
import sys

import pytest

from tests.fuzz.run import fuzz
from tests.fuzz.targets import Target, targets

INPUTS = 1_500


@pytest.mark.parametrize("target", targets(), ids=lambda one: one.name)
def test_whatever_comes_is_read_or_refused_by_name(target):
    found = fuzz(target, 0, INPUTS)
    assert found is None, found


@pytest.mark.parametrize("target", targets(), ids=lambda one: one.name)
def test_the_valid_inputs_are_valid(target):
    for data in target.seeds:
        target.read(data)


def test_a_reader_that_stumbles_is_found():
    def read(data: bytes) -> object:
        return data.decode("ascii")

    assert fuzz(Target("stumbles", [b"hello"], read, ()), 0, 200) is not None


def test_the_long_run_starts():
    """`make fuzz`: its processes must be able to import what they are to do."""
    asked = [sys.executable, "-m", "tests.fuzz", "--only", "keyring", "--count", "5", "--jobs", "1"]
    done = subprocess.run(asked, capture_output=True, text=True, timeout=120)
    assert (done.returncode, "5 inputs" in done.stdout) == (0, True), done.stderr
