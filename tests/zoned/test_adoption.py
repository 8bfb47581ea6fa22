"""Moving in: import from an Images API and from JSON lines, export, and the comparison of answers.

The Images API that is moved out of is another zoned; `make interop-glance` does the same with a real Glance.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import Served, config_text, described, serve, wait_for_integers
from zoned.ctl import main
from zoned.glance import native, token_headers
from zoned.shadowing import differences, from_log

PATCH = {"Content-Type": "application/openstack-images-v2.1-json-patch"}
U = "00000000-0000-4000-8000-0000000000"


@pytest.fixture(scope="module")
def old(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Where the images come from: one of each kind, and enough for several pages."""
    with serve(config_text(tmp_path_factory.mktemp("old"))) as running:
        wait_for_integers(running.url)
        served = described(running)
        with httpx.Client(base_url=served.url, trust_env=False) as client:
            for n in range(12):
                document = {
                    "id": f"{U}{n:02d}",
                    "name": f"im\u00e4ge {n}",
                    "visibility": ("public", "private", "shared", "community")[n % 4],
                    "tags": [f"t{n % 3}"],
                    "os_hidden": n == 5,
                    "protected": n == 6,
                    "own": "\u00fcber",
                    "disk_format": "raw",
                    "container_format": "bare",
                }
                assert client.post("/v2/images", json=document).status_code == 201
            assert client.post(f"/v2/images/{U}02/members", json={"member": "p2"}).status_code == 200
            place = {"op": "add", "path": "/locations/-", "value": {"url": "http://old/3", "metadata": {}}}
            assert client.patch(f"/v2/images/{U}03", json=[place], headers=PATCH).status_code == 200
            assert client.delete(f"/v2/images/{U}11").status_code == 204
        yield served


@pytest.fixture
def new(tmp_path: Path) -> Iterator[Served]:
    """An empty zone that leaves integers below 1,000 alone."""
    with serve(config_text(tmp_path / "new", "[ids]\nabove = 1000")) as running:
        wait_for_integers(running.url)
        yield described(running)


def zonectl(zone: Served, *words: object, given: str | None = None) -> Result:
    return CliRunner().invoke(main, ["--socket", str(zone.socket), *map(str, words)], input=given)


def record(zone: Served, reference: str | int) -> Any:
    return httpx.get(f"{zone.url}/zone/v1/images/{reference}", trust_env=False).json()


def told(result: Result) -> dict[str, int]:
    counts: dict[str, int] = json.loads(result.stdout)["counts"]
    return counts


def test_images_of_another_images_api_move_in_whole_and_once(old, new, tmp_path):
    dry = zonectl(new, "-f", "json", "import", old.url, "--dry-run")
    assert (dry.exit_code, told(dry)) == (0, {"created": 11})
    assert record(new, f"{U}00")["code"] == "not-found", "a dry run changes nothing"
    mark = tmp_path / "mark"
    done = zonectl(new, "-f", "json", "import", old.url, "--integers", "keep", "--zone", "alpha", "--bookmark", mark)
    assert (done.exit_code, told(done)) == (0, {"created": 11}), done.output
    assert not mark.exists(), "it is through"
    for n in (0, 2, 3, 5, 6):
        here, there = record(new, f"{U}{n:02d}"), record(old, f"{U}{n:02d}")
        if n == 3:
            assert here.pop("locations") == [{"url": "http://old/3", "metadata": {"zone": "alpha"}}]
        for document in (here, there):
            for name in ("write", "position", "locations"):
                document.pop(name, None)
            document["members"] = {project: one["status"] for project, one in document["members"].items()}
        assert here == there
    assert record(new, record(old, f"{U}02")["integer"])["uuid"] == f"{U}02"
    again = zonectl(new, "-f", "json", "import", old.url, "--integers", "keep", "--zone", "alpha")
    assert (again.exit_code, told(again)) == (0, {"same": 11})
    alike = zonectl(new, "shadow", old.url, "--per-s", 1000)
    assert alike.exit_code == 0, alike.output


def test_what_differs_is_told_and_changed_only_when_asked(old, new):
    assert zonectl(new, "import", old.url).exit_code == 0
    change = [{"op": "replace", "path": "/name", "value": "renamed here"}, {"op": "remove", "path": "/own"}]
    url = f"{new.url}/v2/images/{U}01"
    assert httpx.patch(url, json=change, headers=PATCH, trust_env=False).status_code == 200
    report = zonectl(new, "import", old.url)
    assert report.exit_code == 5
    assert "differs" in report.stdout
    assert "name: renamed here here, im\u00e4ge 1 there" in report.stdout
    seen = zonectl(new, "-f", "json", "shadow", old.url, "--per-s", 1000)
    assert seen.exit_code == 5
    whats = {row["what"] for row in json.loads(seen.stdout) if row["question"] == f"/v2/images/{U}01"}
    assert whats == {"name", "own", "updated_at"}
    changed = zonectl(new, "-f", "json", "import", old.url, "--update")
    assert told(changed) == {"same": 10, "updated": 1}
    assert record(new, f"{U}01")["name"] == "im\u00e4ge 1"
    assert zonectl(new, "shadow", old.url, "--per-s", 1000).exit_code == 0


def test_an_export_is_an_import(old, new, tmp_path):
    file = tmp_path / "images"
    assert zonectl(old, "export", file).exit_code == 0
    assert zonectl(old, "export", file).exit_code == 5, "nothing is overwritten"
    assert len(file.read_text().splitlines()) == 11
    done = zonectl(new, "-f", "json", "import", file, "--integers", "keep")
    assert told(done) == {"created": 11}, done.output
    assert record(new, f"{U}03")["integer"] == record(old, f"{U}03")["integer"]
    assert zonectl(new, "-f", "json", "import", "-", given=file.read_text()).exit_code == 0
    deleted = json.dumps({**json.loads(file.read_text().splitlines()[0]), "deleted_at": "2026-11-22T09:00:00Z"})
    refused = zonectl(new, "import", "-", given=deleted)
    assert (refused.exit_code, "deleted there" in refused.stdout) == (5, True)


def test_integers_of_elsewhere_are_kept_where_nobody_can_get_them(new):
    lines = "".join(json.dumps({"uuid": f"{U}{n:02d}", "name": "n"}) + "\n" for n in range(4))
    # 1001 is in this zone's own range; 2**40 is far above the counter, which moves above it.
    table = f"uuid,integer\n{U}00,7\n{2**40},{U}01\n{U}02,1001\n"
    Path(new.socket).parent.joinpath("table").write_text(table)
    words = ("import", "-", "--integers-from", Path(new.socket).parent / "table")
    planned = zonectl(new, "-f", "json", *words, "--dry-run", given=lines)
    assert told(planned) == {"created": 3, "refused": 1}
    done = zonectl(new, "-f", "json", *words, given=lines)
    assert (done.exit_code, told(done)) == (5, {"created": 3, "refused": 1})
    (refused,) = json.loads(done.stdout)["items"]
    assert (refused["uuid"], refused["code"]) == (f"{U}02", "integer-taken")
    assert [record(new, n)["uuid"] for n in (7, 2**40, f"{U}03")] == [f"{U}00", f"{U}01", f"{U}03"]
    assert record(new, f"{U}03")["integer"] > 1000, "without one of its own it gets one here"
    assert httpx.get(f"{new.url}/zone/v1/status", trust_env=False).json()["ids"]["counter"] > 2**40


def test_an_import_that_was_broken_off_goes_on_at_its_bookmark(new, tmp_path):
    file, mark = tmp_path / "images", tmp_path / "mark"
    file.write_text("".join(json.dumps({"uuid": f"{U}{n:02d}"}) + "\n" for n in range(99)) + "no JSON\n")
    # Full batches before the line that stops it are taken.
    file.write_text(file.read_text().replace("no JSON\n", json.dumps({"uuid": f"{U}99"}) + "\n") + "no JSON\n")
    broken = zonectl(new, "import", file, "--bookmark", mark)
    assert (broken.exit_code, broken.stderr) == (
        2,
        "zonectl: line 101 is no JSON; give one record in each line, as zonectl export writes them\n",
    )
    assert json.loads(mark.read_text()) == {"source": str(file), "place": "100"}
    file.write_text(file.read_text().replace("no JSON\n", ""))
    assert told(zonectl(new, "-f", "json", "import", file, "--bookmark", mark)) == {}
    mark.write_text('{"source": "elsewhere", "place": "3"}')
    assert "is the bookmark of an import from elsewhere" in zonectl(new, "import", file, "--bookmark", mark).stderr


@pytest.mark.parametrize(
    ("line", "why"),
    [
        ({"uuid": "no"}, "must be a UUID"),
        ({"uuid": f"{U}00", "status": "odd"}, "status"),
        ({"uuid": f"{U}00", "integer": 0}, "integer must be"),
        ({"uuid": f"{U}00", "members": {"p": {"status": "odd"}}}, "needs a status"),
        ({"uuid": f"{U}00", "odd": 1}, "unknown attribute"),
        ({"uuid": f"{U}00", "locations": [{"url": "no"}]}, "location"),
    ],
)
def test_a_bad_record_is_refused_alone(served, line, why):
    result = zonectl(served, "import", "-", "--integers", "keep", "--dry-run", given=json.dumps(line))
    assert (result.exit_code, why in result.stdout) == (5, True), result.output


@pytest.mark.parametrize(
    ("words", "status", "why"),
    [
        (("import", "http://127.0.0.1:1"), 1, "does not answer"),
        (("import", "ftp://x"), 2, "is no URL of an Images API"),
        (("import", "/no/such/file"), 1, "No such file"),
        (("import", "http://x", "--header", "no header"), 2, "is no header"),
        (("shadow", "http://127.0.0.1:1"), 1, "does not answer"),
        (("export", "/no/such/folder/file"), 1, "No such file"),
    ],
)
def test_what_cannot_be_asked_is_one_line(served, words, status, why):
    result = zonectl(served, *words)
    assert (result.exit_code, result.stderr.count("\n")) == (status, 1), result.output
    assert why in result.stderr


def test_bodies_of_the_import_route_are_checked(served):
    transport = httpx.HTTPTransport(uds=str(served.socket))
    with httpx.Client(transport=transport, base_url="http://zoned", trust_env=False) as client:
        bodies: list[dict[str, Any]] = [{}, {"images": []}, {"images": [{}] * 501}, {"images": [{}], "integers": "odd"}]
        for body in bodies:
            assert client.post("/admin/v1/images/import", json=body).status_code == 400
        items = client.post("/admin/v1/images/import", json={"images": [1, {}, {"uuid": 5}]}).json()["items"]
    assert [item["result"] for item in items] == ["refused"] * 3
    assert httpx.post(f"{served.url}/admin/v1/images/import", json={"images": [{}]}).status_code in (300, 404, 405)


def test_a_glance_document_reads_as_a_record():
    document = {
        "id": f"{U}00",
        "name": "n",
        "status": "active",
        "tags": ["b"],
        "kernel_id": None,
        "own": "1",
        "size": 5,
        "direct_url": "rbd://x",
        "stores": "a",
        "self": "/v2",
        "os_glance_x": "1",
        "file": "/f",
        "zoned_id": 9,
    }
    made = native(document, {}, "http://old/file", "alpha")
    assert made == {
        "uuid": f"{U}00",
        "name": "n",
        "status": "active",
        "tags": ["b"],
        "size": 5,
        "integer": 9,
        "properties": {"own": "1"},
        "members": {},
        "locations": [{"url": "rbd://x", "metadata": {"zone": "alpha"}}],
    }
    del document["direct_url"]
    (location,) = native(document, {}, "http://old/file", "")["locations"]
    assert location == {"url": "http://old/file", "metadata": {}}
    queued = {**document, "status": "queued"}
    assert native(queued, {}, "http://old/file", "")["locations"] == []
    assert token_headers(["A: b"], {"OS_TOKEN": "t"}) == {"X-Auth-Token": "t", "A": "b"}
    for token in ("\u00fc", "a\nb"):
        with pytest.raises(ValueError, match=r"\$OS_TOKEN is no token"):
            token_headers([], {"OS_TOKEN": token})


def test_lists_are_compared_but_for_what_no_order_tells_apart():
    def listed(*images: tuple[str, str], more: bool = False) -> tuple[int, Any]:
        page = {"images": [{"id": one, "created_at": at} for one, at in images]}
        return 200, {**page, **({"next": "x"} if more else {})}

    path = "/v2/images?limit=2"
    assert differences(path, listed(("a", "2"), ("b", "2")), listed(("b", "2"), ("a", "2"))) == []
    assert differences(path, listed(("a", "2"), ("b", "1")), listed(("b", "1"), ("a", "2")))
    assert differences(path, listed(("a", "2"), ("b", "1"), more=True), listed(("a", "2"), ("c", "1"), more=True)) == []
    (row,) = differences(path, listed(("a", "2")), listed())
    assert (row["glance"], row["zoned"]) == ("1, only there: a", "0 in another order")
    assert differences(path, (404, None), (200, {}))[0]["what"] == "status"


def test_paths_are_read_from_an_access_log():
    lines = ['1.2.3.4 - - [x] "GET /v2/images?limit=1 HTTP/1.1" 200 5', "POST /v2/images", "/v2/images", "", "GET"]
    assert list(from_log([*lines, "/v2/images/x/file", "/v1/images"])) == ["/v2/images?limit=1", "/v2/images"]
