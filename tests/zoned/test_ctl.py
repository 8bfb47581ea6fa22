"""zonectl against a running zone over its Unix socket: every command in every form, and every exit status."""

import csv
import io
import json
import re
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import OTHER, Served
from zoned import ctl
from zoned.asking import age, text
from zoned.ctl import main

FORMS = ("table", "json", "jsonl", "csv")


@pytest.fixture(scope="module")
def record(served: Served) -> dict[str, Any]:
    """One image of the zone."""
    body = {"name": "caf\u00e9", "tags": ["b", "a"], "properties": {"own": "1"}, "locations": [{"url": "swift://a/1"}]}
    made: dict[str, Any] = httpx.post(f"{served.url}/zone/v1/images", json=body).json()
    return made


@pytest.fixture
def zonectl(served: Served):
    """Runs the command on the healthy zone."""

    def run(*arguments: object) -> Result:
        return invoke(served.socket, *arguments)

    return run


def invoke(path: Path, *arguments: object) -> Result:
    return CliRunner().invoke(main, ["--socket", str(path), *map(str, arguments)])


def good(result: Result) -> str:
    assert (result.exit_code, result.stderr) == (0, ""), result.output
    return result.stdout


def rows(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


# Lists.

LISTS = {
    ("zones",): (
        "zones",
        "node_id",
        ["zone", "state", "since", "role", "position", "lag", "rtt ms", "last ack", "url", "version"],
    ),
    ("image", "list"): ("images", "uuid", ["uuid", "integer", "name", "status", "visibility", "created"]),
    ("writes", "list"): ("writes", "id", ["sequence", "kind", "state", "at", "position", "integer", "uuid", "detail"]),
}
PATHS = {("zones",): "/zone/v1/zones", ("image", "list"): "/zone/v1/images", ("writes", "list"): "/zone/v1/writes"}


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_list_in_json_carries_what_http_carries(zonectl, served, record, command):
    key, identity, _ = LISTS[command]
    listed = json.loads(good(zonectl(*command, "-f", "json")))
    over_http = httpx.get(served.url + PATHS[command]).json()[key]
    assert [one[identity] for one in listed] == [one[identity] for one in over_http]
    assert listed[0].keys() == over_http[0].keys()


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_list_in_json_lines_is_one_record_a_line(zonectl, record, command):
    lines = good(zonectl(*command, "-f", "jsonl")).splitlines()
    assert all(isinstance(json.loads(line), dict) for line in lines)
    assert len(lines) == len(json.loads(good(zonectl(*command, "-f", "json"))))


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_list_in_csv_has_named_columns(zonectl, record, command):
    found = rows(good(zonectl(*command, "-f", "csv")))
    assert list(found[0]) == LISTS[command][2]


@pytest.mark.parametrize("command", LISTS, ids=" ".join)
def test_a_list_as_a_table_has_a_head_and_a_row_for_each(zonectl, record, command):
    lines = good(zonectl(*command)).splitlines()
    assert lines[0].split() == " ".join(LISTS[command][2]).upper().split()
    assert len(lines) == 1 + len(json.loads(good(zonectl(*command, "-f", "json"))))


def test_the_limit_of_a_list_is_kept(zonectl, record):
    assert len(json.loads(good(zonectl("image", "list", "-n", 1, "-f", "json")))) == 1
    assert len(json.loads(good(zonectl("writes", "list", "--limit", 1, "-f", "json")))) == 1


def test_waiting_writes_are_listed_alone_and_an_empty_list_talks_on_stderr(zonectl, cut_off):
    result = zonectl("writes", "list", "--waiting")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "no writes\n")
    assert json.loads(good(zonectl("writes", "list", "--waiting", "-f", "json"))) == []
    httpx.post(f"{cut_off.url}/zone/v1/images", json={})
    waiting = json.loads(good(invoke(cut_off.socket, "writes", "list", "--waiting", "-f", "json")))
    assert {one["state"] for one in waiting} == {"journaled"}


# Single things.


def single(record: dict[str, Any]) -> list[tuple[tuple[object, ...], str]]:
    uuid, integer, write = record["uuid"], record["integer"], record["write"]
    return [
        (("status",), "/zone/v1/status"),
        (("ids",), "/zone/v1/ids"),
        (("image", "show", uuid), f"/zone/v1/images/{uuid}"),
        (("image", "show", integer), f"/zone/v1/images/{integer}"),
        (("image", "show", record["ami"]), f"/zone/v1/images/{uuid}"),
        (("ids", "lookup", integer), f"/zone/v1/ids/{integer}"),
        (("writes", "show", write), f"/zone/v1/writes/{write}"),
    ]


@pytest.mark.parametrize("number", range(7))
def test_one_thing_is_shown_in_every_form(zonectl, served, record, number):
    command, path = single(record)[number]
    shown = json.loads(good(zonectl(*command, "-f", "json")))
    over_http = httpx.get(served.url + path).json()
    assert shown.keys() == over_http.keys()
    if command != ("status",):
        assert shown == over_http
    (line,) = good(zonectl(*command, "-f", "jsonl")).splitlines()
    assert json.loads(line).keys() == shown.keys()
    in_csv = list(csv.reader(io.StringIO(good(zonectl(*command, "-f", "csv")))))
    assert {len(row) for row in in_csv} == {2}
    assert len(good(zonectl(*command)).splitlines()) == len(in_csv)


def test_the_form_may_stand_before_the_command_or_after_it(zonectl, record):
    command = ("image", "show", record["uuid"])
    assert good(zonectl("-f", "json", *command)) == good(zonectl(*command, "-f", "json"))
    assert good(zonectl("-f", "csv", *command, "-f", "json")) == good(zonectl(*command, "-f", "json"))
    assert json.loads(good(zonectl("-f", "json", "ids", "lookup", record["uuid"])))["uuid"] == record["uuid"]


def test_the_form_may_stand_between_a_command_and_its_subcommand(zonectl, record):
    assert json.loads(good(zonectl("ids", "-f", "json", "lookup", record["uuid"])))["uuid"] == record["uuid"]


def test_the_table_of_an_image_shows_its_properties_and_locations(zonectl, record):
    lines = dict(line.split(maxsplit=1) for line in good(zonectl("image", "show", record["uuid"])).splitlines())
    assert (lines["name"], lines["own"], lines["location"], lines["tags"]) == ("caf\u00e9", "1", "swift://a/1", "a, b")
    assert (lines["protected"], lines["checksum"]) == ("no", "-")


def test_status_is_one_screen(zonectl, served):
    lines = good(zonectl("status")).splitlines()
    assert [line.split()[0] for line in lines] == [
        *("zone", "url", "role", "registry", "catalogue", "hash", "staleness"),
        *("journal", "conflicts", "integers", "zones", "health"),
    ]
    assert served.url in lines[1]
    assert "alpha (term " in lines[3]


def test_status_without_a_registry_says_that_writes_are_buffered(cut_off):
    said = good(invoke(cut_off.socket, "status"))
    assert "writes are buffered" in said
    assert re.search(r"^health +critical: .*\bNO_REGISTRY\b", said, re.M)


@pytest.mark.parametrize("name", ["one\ntwo", "\x1b[2Jgone", "a\rb", "\x9b2J"])
def test_a_hostile_name_can_neither_forge_rows_nor_steer_the_terminal(zonectl, served, name):
    made = httpx.post(f"{served.url}/zone/v1/images", json={"name": name}).json()
    for command in (("image", "list"), ("image", "show", made["uuid"])):
        printed = good(zonectl(*command)).replace("\n", "")
        assert not [char for char in printed if ord(char) < 32 or 127 <= ord(char) < 160]
    listed = json.loads(good(zonectl("image", "list", "-n", 1_000, "-f", "json")))
    assert len(good(zonectl("image", "list", "-n", 1_000)).splitlines()) == 1 + len(listed)


# Exit statuses.


@pytest.mark.parametrize(
    "arguments",
    [
        *(("nothing",), ("image", "nothing"), ("image", "show"), ("status", "-f", "xml"), ("status", "extra")),
        *(("image", "list", "-n", "0"), ("image", "list", "-n", "1001"), ("--timeout", "0", "status"), ("--nope",)),
    ],
)
def test_usage_mistakes_end_with_2_and_say_so_on_stderr(zonectl, arguments):
    result = zonectl(*arguments)
    assert (result.exit_code, result.stdout) == (2, "")
    assert "Error" in result.stderr


def failed(result: Result, status: int) -> str:
    """The one line on standard error."""
    assert (result.exit_code, result.stdout) == (status, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("zonectl: ")
    return str(line)


@pytest.mark.parametrize("command", [("image", "show"), ("ids", "lookup"), ("writes", "show")])
@pytest.mark.parametrize(
    "reference", ["11111111-1111-4111-8111-111111111112", "99999999", "a/../b?c#d", "%00", "caf\u00e9"]
)
def test_what_is_not_there_ends_with_4(zonectl, command, reference):
    failed(zonectl(*command, reference), 4)


def test_a_deleted_image_ends_with_4_and_keeps_its_mapping(zonectl, served):
    made = httpx.post(f"{served.url}/zone/v1/images", json={}).json()
    httpx.delete(f"{served.url}/zone/v1/images/{made['uuid']}")
    assert "deleted at" in failed(zonectl("image", "show", made["uuid"]), 4)
    assert json.loads(good(zonectl("ids", "lookup", made["uuid"], "-f", "json")))["deleted_at"]


def test_a_zone_that_cannot_know_yet_is_a_failure_and_not_an_absence(cut_off):
    failed(invoke(cut_off.socket, "image", "show", OTHER), 1)


@pytest.mark.parametrize("name", ["nothing.sock", "a/b/nothing.sock", "x" * 200])
def test_no_daemon_ends_with_3_and_names_the_socket(tmp_path, name):
    line = failed(invoke(tmp_path / name, "status"), 3)
    assert str(tmp_path / name) in line
    assert "zoned run" in line


def test_a_file_that_is_no_socket_ends_with_3(tmp_path):
    (tmp_path / "file").touch()
    failed(invoke(tmp_path / "file", "status"), 3)


@contextmanager
def answering(path: Path, answer: bytes | None) -> Iterator[None]:
    """Something on a Unix socket that gives this answer to one caller, or none."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        done = threading.Event()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65_536)
                if answer is None:
                    done.wait(10)
                else:
                    connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        yield
        done.set()
        thread.join(10)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (b"", 3),
        (b"SSH-2.0-OpenSSH\r\n", 3),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok", 1),
        (b'HTTP/1.1 507 x\r\nContent-Length: 15\r\n\r\n{"detail": "x"}', 7),
        (b'HTTP/1.1 409 x\r\nContent-Length: 15\r\n\r\n{"detail": "x"}', 5),
        (b'HTTP/1.1 412 x\r\nContent-Length: 15\r\n\r\n{"detail": "x"}', 5),
        (b'HTTP/1.1 504 x\r\nContent-Length: 15\r\n\r\n{"detail": "x"}', 6),
        (b'HTTP/1.1 403 x\r\nContent-Length: 15\r\n\r\n{"detail": "x"}', 7),
        (b"HTTP/1.1 500 x\r\nContent-Length: 21\r\n\r\nInternal Server Error", 1),
    ],
)
def test_each_kind_of_answer_has_its_exit_status(tmp_path, answer, status):
    with answering(tmp_path / "s", answer):
        failed(invoke(tmp_path / "s", "ids"), status)


@pytest.mark.parametrize(
    "answer",
    [b"HTTP/1.1 400 x\r\nContent-Length: 2\r\n\r\n[]", b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}"],
)
def test_an_answer_of_another_shape_is_a_failure_in_one_line(tmp_path, answer):
    with answering(tmp_path / "s", answer):
        result = invoke(tmp_path / "s", "ids")
    assert result.exit_code in (1, 2)
    assert isinstance(result.exception, SystemExit)


def test_a_daemon_that_does_not_answer_in_time_ends_with_6(tmp_path):
    with answering(tmp_path / "s", None):
        assert "0.1 s" in failed(invoke(tmp_path / "s", "--timeout", "0.1", "status"), 6)


# Words.


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(None, "-"), (0, "0.0s"), (59.94, "59.9s"), (61, "1m1s"), (3_600, "1h0m"), (90_061, "1d1h"), (9e7, "1041d16h")],
)
def test_an_age_has_its_two_largest_units(seconds, expected):
    assert age(seconds) == expected


@pytest.mark.parametrize(
    ("value", "expected"), [(None, "-"), (True, "yes"), (False, "no"), (1.50, "1.5"), (7, "7"), ("", "")]
)
def test_a_cell_says_a_value_in_words(value, expected):
    assert text(value) == expected


def test_the_socket_is_looked_for_where_the_environment_says(served, monkeypatch):
    monkeypatch.setenv("ZONED_SOCKET", str(served.socket))
    assert CliRunner().invoke(ctl.main, ["ids", "-f", "json"]).exit_code == 0


@pytest.mark.parametrize("arguments", [["--help"], ["-h"], ["image", "-h"], ["ids", "lookup", "-h"], ["--version"]])
def test_help_and_version_need_no_daemon(tmp_path, arguments):
    assert invoke(tmp_path / "none", *arguments).exit_code == 0
