"""zonectl audit against a running zone."""

import json
import uuid
from pathlib import Path

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import Served
from zoned.ctl import main


def zonectl(served: Served, *arguments: str) -> Result:
    return CliRunner().invoke(main, ["--socket", str(served.socket), "-f", "json", "audit", *arguments])


@pytest.fixture
def request_id(served: Served) -> str:
    """Of a request that registered an image for alice of project p1."""
    told = f"req-{uuid.uuid4()}"
    told_headers = {
        "X-OpenStack-Request-ID": told,
        "X-User-Name": "alice\x9b",
        "X-Project-Id": "p1",
        "X-Roles": "member",
    }
    raw = [(name.encode(), value.encode("latin-1")) for name, value in told_headers.items()]
    made = httpx.post(f"{served.url}/zone/v1/images", json={"name": "x"}, headers=raw)
    assert made.status_code == 201
    return told


def test_who_did_what_is_told(served, request_id):
    done = zonectl(served, "tail", "-n", "1000")
    assert done.exit_code == 0, done.output
    (line,) = (one for one in json.loads(done.stdout) if one["request"] == request_id)
    assert (line["by"], line["project"], line["zone"], line["kind"]) == ("alice@p1", "p1", "alpha", "create")
    table = CliRunner().invoke(main, ["--socket", str(served.socket), "audit", "tail"]).stdout
    assert table.split()[:2] == ["POSITION", "AT"]
    again = zonectl(served, "verify")
    assert (again.exit_code, json.loads(again.stdout)["equal"]) == (0, True)


def test_an_export_is_checked_without_a_daemon(served, request_id, tmp_path: Path):
    done = zonectl(served, "export")
    assert done.exit_code == 0
    lines = done.stdout.splitlines()
    file = tmp_path / "audit.jsonl"

    def verified(*kept: str) -> Result:
        file.write_text("".join(f"{one}\n" for one in kept))
        return CliRunner().invoke(main, ["--socket", "/nowhere", "audit", "verify", str(file)])

    assert verified(*lines).exit_code == 0
    assert verified(*lines[1:]).exit_code == 0, "a later export begins later"
    gap = verified(*lines[:1], *lines[2:])
    assert (gap.exit_code, "are missing" in gap.stderr) == (1, True)
    altered = verified(*(one.replace("alice@p1", "mallory@p1") for one in lines))
    assert (altered.exit_code, "was altered" in altered.stderr) == (1, True)
    for nothing in ([], ["{}"], ["no JSON"], ["[1]"]):
        assert verified(*nothing).exit_code == 1


def test_only_auditors_and_administrators_see_it(served):
    def status(roles: str) -> int:
        headers = {"X-Project-Id": "p1", "X-Roles": roles}
        return httpx.get(f"{served.url}/zone/v1/audit", headers=headers).status_code

    assert [status(roles) for roles in ("admin", "auditor", "service", "member", "reader")] == [200, 200, 403, 403, 403]
