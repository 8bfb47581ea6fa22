"""zonectl's commands about aliases and one record's history and presence, against a running zone."""

import json
import uuid
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import Served
from zoned.ctl import main


@pytest.fixture
def zonectl(served: Served):
    def run(*arguments: object, form: str = "json") -> Any:
        result = invoke(served.socket, "-f", form, *arguments)
        assert result.exit_code == 0, result.output
        return json.loads(result.stdout) if form == "json" else result

    return run


def invoke(path: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--socket", str(path), *map(str, arguments)])


@pytest.fixture
def image(served: Served):
    def make() -> dict[str, Any]:
        made: dict[str, Any] = httpx.post(f"{served.url}/zone/v1/images", json={"status": "active"}).json()
        return made

    return make


def test_a_name_is_set_tried_out_and_rolled_back(zonectl, image) -> None:
    name, old, new = f"stable-{uuid.uuid4()}", image(), image()
    assert zonectl("aliases", "set", name, old["integer"])["targets"] == {"*": old["uuid"]}
    tried = zonectl("aliases", "set", name, new["uuid"], "--zone", "alpha")
    assert (tried["image"], tried["by"].partition(" ")[0]) == (new["uuid"], "uid")
    assert zonectl("aliases", "show", name)["targets"] == {"*": old["uuid"], "alpha": new["uuid"]}
    assert name in {one["name"] for one in zonectl("aliases", "list")}
    assert zonectl("aliases", "rollback", name)["targets"] == {"*": old["uuid"]}
    assert zonectl("aliases", "rollback", name, "--zone", "alpha")["image"] == new["uuid"]
    assert zonectl("aliases", "delete", name)["targets"] == {}
    table = zonectl("aliases", "rollback", name, form="table").stdout
    assert old["uuid"] in table


def test_what_is_not_there_and_what_is_nonsense_end_with_their_own_status(served: Served, image) -> None:
    assert invoke(served.socket, "aliases", "show", "never-set").exit_code == 4
    assert invoke(served.socket, "aliases", "set", "UPPER", image()["uuid"]).exit_code == 2
    name = f"stable-{uuid.uuid4()}"
    assert invoke(served.socket, "aliases", "set", name, image()["uuid"]).exit_code == 0
    nothing_else = invoke(served.socket, "aliases", "rollback", name)
    assert (nothing_else.exit_code, nothing_else.stderr.count("\n")) == (5, 1)


def test_history_and_presence_of_an_image(zonectl, image, served: Served) -> None:
    made = image()
    httpx.put(f"{served.url}/v2/images/{made['uuid']}/tags/t").raise_for_status()
    changes = zonectl("history", made["integer"])
    assert [one["kind"] for one in changes] == ["updated", "created"]
    assert "tags/t: None -> True" in zonectl("history", made["ami"], form="table").stdout
    path = f"{served.url}/zone/v1/images/{made['uuid']}/presence/alpha"
    httpx.put(path, json={"state": "verified"}).raise_for_status()
    table = zonectl("presence", made["uuid"], form="table")
    assert "alpha" in table.stdout
    assert table.stderr.startswith("bootable in alpha: True (verified here at ")


def test_the_stream_is_printed_without_heartbeats_up_to_a_count(served: Served, image) -> None:
    start = int(httpx.get(f"{served.url}/zone/v1/status").headers["zone-position"])
    made = [image()["uuid"] for _ in range(2)]
    result = invoke(served.socket, "watch", "--from", start, "--count", 2)
    lines = [json.loads(line) for line in result.stdout.splitlines()]
    assert (result.exit_code, [one["uuid"] for one in lines]) == (0, made)
    assert {one["type"] for one in lines} == {"created"}


def test_a_stream_that_cannot_begin_says_why(served: Served, cut_off: Served, tmp_path: Path) -> None:
    nobody = invoke(tmp_path / "no.sock", "watch")
    assert (nobody.exit_code, nobody.stderr.count("\n")) == (3, 1)
    unsynced = invoke(cut_off.socket, "watch")
    assert (unsynced.exit_code, "not received the catalogue" in unsynced.stderr) == (1, True)
