"""zonectl's commands for those who run a zone, against running zones over their Unix sockets."""

import json
import re
import tarfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
from click.testing import CliRunner, Result

from tests.zoned.conftest import OTHER, Served, config_text, described, serve, wait_for_integers
from zoned import bundle
from zoned.ctl import main
from zoned.health import CODES


def invoke(served: Served, *words: object) -> Result:
    result = CliRunner().invoke(main, ["--socket", str(served.socket), *map(str, words)])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def answer(served: Served, *words: object) -> Any:
    return json.loads(invoke(served, "-f", "json", *words).stdout)


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Served]:
    """A zone of this test alone, because the test changes how it is run."""
    path = tmp_path / "zoned.toml"
    path.write_text(config_text(tmp_path / "store"))
    with serve(path.read_text(), path) as running:
        wait_for_integers(running.url)
        yield described(running)


def test_a_sound_zone_is_well_and_one_without_a_registry_is_not(served: Served, cut_off: Served):
    well = invoke(served, "health")
    assert (well.exit_code, well.stdout) == (0, "ok\n")
    ill = invoke(cut_off, "health")
    assert ill.exit_code == 2
    assert "NO_REGISTRY (warning): no cluster was met yet\n" in ill.stdout
    assert CODES["NO_REGISTRY"].do in ill.stdout
    assert answer(cut_off, "health")["status"] == "critical"
    lines = invoke(cut_off, "health", "-f", "csv").stdout.splitlines()
    assert lines[0] == "code,severity,muted,what"


def test_callers_set_their_own_bounds_over_http(served: Served):
    def ask(**query: object) -> httpx.Response:
        return httpx.get(f"{served.url}/zone/v1/health", params={name: str(value) for name, value in query.items()})

    assert ask(fail="warning").status_code == 200
    give_up = time.monotonic() + 20.0
    while ask(max_staleness=0, fail="warning").status_code != 503:  # a zone just started has no bound yet
        assert time.monotonic() < give_up
        time.sleep(0.05)
    assert ask(max_staleness=0, fail="critical").json()["findings"][0]["code"] == "STALE"
    assert ask(max_staleness=0).status_code == 200
    for query in ({"fail": "never"}, {"max_staleness": "x"}, {"max_buffer": -1}, {"min_runway_days": "nan"}):
        refused = ask(**query)
        assert (refused.status_code, refused.json()["code"]) == (400, "bad-query")


def test_a_code_is_explained_without_a_daemon(tmp_path: Path):
    result = CliRunner().invoke(main, ["--socket", str(tmp_path / "none"), "health", "no_registry"])
    assert result.exit_code == 0
    assert CODES["NO_REGISTRY"].means in result.stdout
    assert CliRunner().invoke(main, ["health", "NOTHING"]).exit_code == 4


def test_a_muted_code_no_longer_counts_and_may_be_heard_again(own: Served):
    assert invoke(own, "drain", "on").exit_code == 0
    assert invoke(own, "health").exit_code == 1
    muted = invoke(own, "health", "--mute", "DRAINING", "--for", "2h")
    assert muted.exit_code == 0
    assert "muted for 2h0m" in muted.stdout or "muted for 1h59m" in muted.stdout
    assert invoke(own, "health").exit_code == 0
    assert invoke(own, "health", "--unmute", "DRAINING").exit_code == 1
    assert invoke(own, "health", "--mute", "NOTHING").exit_code == 4
    assert invoke(own, "health", "--mute", "DRAINING", "--for", "2 hours").exit_code == 2


@pytest.mark.parametrize("body", [{"code": "STALE"}, {"code": "STALE", "for_s": -1}, {"code": "STALE", "for_s": True}])
def test_a_mute_without_a_time_is_refused(own: Served, body):
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(own.socket)), base_url="http://x") as client:
        assert client.post("/admin/v1/health/mute", json=body).status_code == 400


@pytest.mark.parametrize("state", ["ready", "synced", "registry", "flushed"])
def test_a_sound_zone_is_waited_for_no_longer_than_needed(served: Served, state):
    assert invoke(served, "wait", state).exit_code == 0


def test_waiting_ends_with_6_when_the_time_is_over_also_without_a_daemon(cut_off: Served, tmp_path: Path):
    for words in (["registry"], ["synced"], ["drained"]):
        result = invoke(cut_off, "wait", *words, "--for", "0s")
        assert (result.exit_code, result.stderr) == (6, f"zonectl: not {words[0]} within 0.0s\n")
    none = CliRunner().invoke(main, ["--socket", str(tmp_path / "none"), "wait", "ready", "--for", "0s"])
    assert none.exit_code == 6


def test_draining_is_waited_for_and_ends(own: Served):
    assert invoke(own, "drain", "on").exit_code == 0
    assert invoke(own, "wait", "drained").exit_code == 0
    assert invoke(own, "wait", "ready", "--for", "0s").exit_code == 6
    assert invoke(own, "drain", "off").exit_code == 0
    assert invoke(own, "wait", "ready").exit_code == 0


def test_an_answer_is_explained_whatever_it_is(served: Served, cut_off: Served):
    made = httpx.post(f"{served.url}/zone/v1/images", json={"name": "n"}).json()
    told = answer(served, "explain", made["integer"])
    assert (told["answer"], told["uuid"], told["changed by"]) == (200, made["uuid"], made["write"])
    assert told["source"].startswith("the catalogue")
    assert told["integer granted to"] == served.node_id
    httpx.delete(f"{served.url}/zone/v1/images/{made['uuid']}")
    gone = invoke(served, "explain", made["uuid"])
    assert gone.exit_code == 4
    assert "was deleted at" in gone.stdout
    never = invoke(served, "explain", OTHER)
    assert never.exit_code == 4
    assert "as of position" in never.stdout
    unsynced = invoke(cut_off, "explain", OTHER)
    assert unsynced.exit_code == 1
    assert "not known: no registry yet" in unsynced.stdout
    buffered = httpx.post(f"{cut_off.url}/zone/v1/images", json={"name": "n"}).json()
    assert answer(cut_off, "explain", buffered["uuid"])["source"].startswith("this node's journal")


def test_the_log_level_and_request_lines_change_while_it_runs(own: Served):
    assert answer(own, "log", "level")["level"] == "info"
    assert answer(own, "log", "level", "debug")["level"] == "debug"
    assert answer(own, "log", "requests", "on")["requests"] is True
    assert answer(own, "config", "show", "log.")[0] == {"key": "log.level", "value": "debug", "file": "info"}
    assert [one["key"] for one in answer(own, "config", "diff")] == ["log.level", "log.requests"]
    assert {one["key"] for one in answer(own, "config", "reload")} == {"log.level", "log.requests"}
    assert answer(own, "log", "level") == {"level": "info", "format": "auto", "requests": False}
    assert invoke(own, "config", "diff").stderr == "the file says what is in force\n"
    assert invoke(own, "log", "level", "loud").exit_code == 2
    with httpx.Client(transport=httpx.HTTPTransport(uds=str(own.socket)), base_url="http://x") as client:
        for body in ({}, {"level": "loud"}, {"requests": 1}, {"level": "info", "more": 1}):
            assert client.post("/admin/v1/log", json=body).status_code == 400
    assert httpx.post(f"{own.url}/admin/v1/log", json={"level": "debug"}).status_code != 200


def test_a_reload_takes_what_it_can_names_the_rest_and_refuses_mistakes(own: Served):
    path = own.socket.parent.parent / "zoned.toml"
    text = path.read_text()
    written = text.replace("body_bytes_max = 200_000", "body_bytes_max = 300_000")
    path.write_text(written + '[log]\nlevel = "warning"\n[presence]\nverified_days = 7.0\n')
    large = {"name": "n", "properties": {f"p{n}": "x" * 50_000 for n in range(5)}}
    assert httpx.post(f"{own.url}/zone/v1/images", json=large).status_code == 413
    changed = {one["key"]: one["file"] for one in answer(own, "config", "reload")}
    assert changed == {"log.level": "warning", "http.body_bytes_max": 300_000, "presence.verified_days": 7.0}
    assert httpx.post(f"{own.url}/zone/v1/images", json=large).status_code in (201, 202)
    (left,) = answer(own, "config", "diff")
    assert (left["key"], left["value"], left["file"]) == ("presence.verified_days", 30.0, 7.0)
    assert "a restart" in invoke(own, "config", "diff").stdout
    path.write_text("nonsense = 1")
    refused = invoke(own, "config", "reload")
    assert (refused.exit_code, "nonsense" in refused.stderr) == (5, True)
    assert invoke(own, "config", "diff").exit_code == 1
    assert "CONFIG_REFUSED" in invoke(own, "health").stdout
    path.write_text(text)
    assert invoke(own, "config", "reload").exit_code == 0
    assert invoke(own, "health").stdout == "ok\n"


def test_the_whole_configuration_is_shown(served: Served):
    shown = {one["key"]: one["value"] for one in answer(served, "config", "show")}
    assert shown["node.zone"] == "alpha"
    assert shown["peers.seeds"] == []
    assert len(shown) > 30
    assert invoke(served, "config", "show", "nothing.").stderr == "no such setting\n"


def test_a_support_bundle_holds_the_answers_and_no_secret(served: Served, tmp_path: Path):
    httpx.post(f"{served.url}/zone/v1/images", json={"name": "a-customers-image"})
    file = tmp_path / "bundle.tar.gz"
    result = invoke(served, "support-bundle", file)
    assert result.exit_code == 0, result.stderr
    assert file.stat().st_mode & 0o077 == 0
    with tarfile.open(file) as archive:
        parts = {member.name: archive.extractfile(member) for member in archive}
        texts = {name: part.read().decode() for name, part in parts.items() if part is not None}
    assert json.loads(texts["zoned-support/status.json"])["node"]["zone"] == "alpha"
    assert "zoned_build_info" in texts["zoned-support/metrics.txt"]
    assert len(texts) == 10
    assert "a-customers-image" not in "".join(texts.values())
    again = invoke(served, "support-bundle", file)
    assert again.exit_code == 5
    assert invoke(served, "support-bundle", tmp_path / "no" / "such").exit_code == 1


def test_what_may_be_secret_is_masked_wherever_it_stands():
    found = {
        "url": "https://user:pass@store/1",
        "admin_token": "abc",
        "list": [{"password": "x", "key": "log.level", "private_key": "y"}],
        "empty_secret": "",
        "keys": [{"id": "k1"}],
    }
    assert bundle.masked(found) == {
        "url": "https://***@store/1",
        "admin_token": "***",
        "list": [{"password": "***", "key": "log.level", "private_key": "***"}],
        "empty_secret": "",
        "keys": [{"id": "k1"}],
    }


REQUEST_ID = "req-0f8fad5b-d9cb-469f-a165-70867728950e"


@pytest.mark.parametrize("path", ["/v2/images", "/zone/v1/status", "/zone/v1/images/nothing", "/nothing"])
def test_a_callers_request_id_is_taken_over_and_anything_else_replaced(served: Served, path):
    with httpx.Client() as client:

        def told(value: str) -> str:
            return client.get(served.url + path, headers={"X-OpenStack-Request-ID": value}).headers[
                "X-OpenStack-Request-ID"
            ]

        assert told(REQUEST_ID) == REQUEST_ID
        for other in ("", "mine", REQUEST_ID + "x", REQUEST_ID.upper(), "x" * 5_000):
            assert re.fullmatch(r"req-[0-9a-f-]{36}", told(other))
            assert told(other) not in (other, REQUEST_ID)


def test_a_lookup_takes_the_request_id_over_as_well(served: Served):
    made = httpx.post(f"{served.url}/zone/v1/images", json={}).json()
    found = httpx.get(f"{served.url}/v2/images/{made['uuid']}", headers={"x-openstack-request-id": REQUEST_ID})
    assert (found.status_code, found.headers["X-OpenStack-Request-ID"]) == (200, REQUEST_ID)


def test_the_request_id_does_not_stay_bound():
    assert "request_id" not in structlog.contextvars.get_contextvars()
