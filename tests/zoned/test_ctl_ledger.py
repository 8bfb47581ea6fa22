"""zonectl on a zone of its own: what an operator does to waiting writes, conflicts, integers; and drills.

Conflicts come by way of an import: another node's write that was made on what has changed since.
"""

import base64
import json
import time
from collections.abc import Iterator
from typing import Any
from uuid import uuid4

import httpx
import msgpack
import pytest

from store.operations import Create, Operation, Origin, Point, Update, encode
from tests.zoned.conftest import OTHER, Served, config_text, described, serve
from tests.zoned.test_ctl import good, invoke, rows

AT = "2026-11-22T09:00:00Z"
CONFLICTS = 12
FORMS = ("table", "json", "jsonl", "csv")


@pytest.fixture(scope="module")
def operated(tmp_path_factory, quiet_logs) -> Iterator[Served]:
    """A zone that only this module writes to, without waiting for long."""
    text = config_text(tmp_path_factory.mktemp("operated"), "", "wait_s = 5.0")
    with serve(text) as running:
        give_up = time.monotonic() + 60.0
        while (state := httpx.get(f"{running.url}/zone/v1/status").json())["staleness_s"] is None:
            assert time.monotonic() < give_up, state
            time.sleep(0.02)
        yield described(running)


@pytest.fixture
def zonectl(operated):
    """Runs the command; nothing is held at the beginning."""

    def run(*arguments: object) -> Any:
        return invoke(operated.socket, *arguments)

    run("writes", "release")
    good(run("writes", "flush"))
    return run


def answer(zonectl, *words: object) -> Any:
    return json.loads(good(zonectl("-f", "json", *words)))


def register(zone: Served, **document: Any) -> dict[str, Any]:
    made: dict[str, Any] = httpx.post(f"{zone.url}/zone/v1/images", json=document, timeout=20).json()
    return made


def name_of(zone: Served, uuid: str) -> str:
    return str(httpx.get(f"{zone.url}/zone/v1/images/{uuid}").json()["name"])


def until_there_are_integers(zonectl) -> None:
    give_up = time.monotonic() + 60.0
    while not answer(zonectl, "ids")["left"]:
        assert time.monotonic() < give_up, "no integers were granted"
        time.sleep(0.05)


def line(sequence: int, operation: Operation, node: str) -> str:
    data = base64.b64encode(encode(operation)).decode()
    return json.dumps({"node": node, "sequence": sequence, "at": 1.0, "needs": None, "operation": data})


@pytest.fixture(scope="module")
def conflicts(operated, tmp_path_factory) -> Iterator[dict[str, Any]]:
    """Open conflicts, each about a name: `ours` in the catalogue, `theirs` of alice in zone beta."""
    file, node = tmp_path_factory.mktemp("import") / "writes", str(uuid4())
    alice, change = Origin("beta", "alice", 1), {"name": ("base", "theirs")}
    images = [register(operated, name="ours")["uuid"] for _ in range(CONFLICTS)]
    late = [line(n, Update(uuid, AT, change, origin=alice), node) for n, uuid in enumerate(images, 1)]
    file.write_text("\n".join(late))
    good(invoke(operated.socket, "writes", "import", file))
    give_up = time.monotonic() + 60.0
    while (listed := httpx.get(f"{operated.url}/zone/v1/conflicts").json())["open"] < CONFLICTS:
        assert time.monotonic() < give_up, "the imported writes were not applied"
        time.sleep(0.05)
    return iter(listed["conflicts"])


@pytest.fixture
def conflict(conflicts, zonectl) -> dict[str, Any]:
    """One that no other test touches."""
    return dict(next(conflicts))


# Conflicts.


def test_a_conflict_of_an_alias_is_settled_by_pointing_it(operated, zonectl, tmp_path):
    one, two = (register(operated)["uuid"] for _ in range(2))
    good(invoke(operated.socket, "aliases", "set", "disputed", one))
    file = tmp_path / "writes"
    file.write_text(line(1, Point("disputed", AT, {"": (two, two)}, origin=Origin("beta", "alice", 1)), str(uuid4())))
    good(zonectl("writes", "import", file))
    found: list[dict[str, Any]] = []
    give_up = time.monotonic() + 20.0
    while not found:
        assert time.monotonic() < give_up, "the imported write was not applied"
        found = [one for one in answer(zonectl, "conflicts", "list") if one["what"] == "aliases/disputed/"]
    done = answer(zonectl, "conflicts", "resolve", found[0]["id"], "--take", "theirs")
    assert done["resolved"]["take"] == "theirs"
    assert answer(zonectl, "aliases", "show", "disputed")["image"] == two


def test_a_conflict_is_listed_with_both_values_who_when_and_where(operated, zonectl, conflict):
    assert (conflict["what"], conflict["ours"]["value"], conflict["theirs"]["value"]) == ("name", "ours", "theirs")
    theirs = conflict["theirs"]
    assert (theirs["by"], theirs["zone"], theirs["at"]) == ("alice", "beta", AT)
    row = next(row for row in rows(good(zonectl("conflicts", "list", "-f", "csv"))) if row["id"] == str(conflict["id"]))
    assert (row["id"], row["ours"], row["theirs"]) == (str(conflict["id"]), "ours", "theirs")
    assert "by alice in beta, 2026-11-22T09:00:00Z" in good(zonectl("conflicts", "show", conflict["id"]))
    over_http = httpx.get(f"{operated.url}/zone/v1/conflicts").json()
    assert conflict in over_http["conflicts"]
    assert over_http["open"] == answer(zonectl, "status")["conflicts"]["open"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (("--take", "ours"), "ours"),
        (("--take", "theirs"), "theirs"),
        (("--take", "value", "--value", "third"), "third"),
    ],
)
def test_a_conflict_is_settled_and_stays_on_record(operated, zonectl, conflict, words, name):
    done = answer(zonectl, "conflicts", "resolve", conflict["id"], *words)
    assert (done["state"], done["resolved"]["take"]) == ("resolved", words[1])
    assert done["resolved"]["by"].startswith("uid ")
    assert name_of(operated, conflict["uuid"]) == name
    again = zonectl("conflicts", "resolve", conflict["id"], "--take", "ours")
    assert again.exit_code == 5
    assert "was resolved by uid" in again.stderr
    assert conflict["id"] not in [one["id"] for one in answer(zonectl, "conflicts", "list")]
    assert conflict["id"] in [one["id"] for one in answer(zonectl, "conflicts", "list", "--all")]


def test_a_settlement_waits_like_any_write(zonectl, conflict):
    good(zonectl("writes", "hold"))
    waits = zonectl("conflicts", "resolve", conflict["id"], "--take", "theirs", "--wait", 0)
    assert waits.exit_code == 0
    assert "waits in the journal" in waits.stderr
    assert answer(zonectl, "conflicts", "show", conflict["id"])["state"] == "open"
    good(zonectl("writes", "release"))
    good(zonectl("writes", "flush"))
    assert answer(zonectl, "conflicts", "show", conflict["id"])["state"] == "resolved"


@pytest.mark.parametrize(
    ("words", "status"),
    [
        (("show", 10**6), 4),
        (("resolve", 10**6, "--take", "ours"), 4),
        (("resolve", 1, "--take", "value"), 2),
        (("resolve", 1, "--take", "ours", "--value", "x"), 2),
        (("resolve", 1), 2),
        (("resolve", 1, "--take", "mine"), 2),
    ],
)
def test_what_cannot_be_settled_is_one_line(zonectl, words, status):
    result = zonectl("conflicts", *words)
    assert (result.exit_code, result.stdout) == (status, "")


@pytest.mark.parametrize("body", [{}, {"take": "all"}, {"take": "ours", "value": 1}, {"take": "value", "value": [1]}])
def test_a_settlement_that_says_nothing_is_400(operated, conflict, body):
    answered = httpx.post(f"{operated.url}/zone/v1/conflicts/{conflict['id']}/resolve", json=body)
    assert answered.status_code == 400
    assert httpx.get(f"{operated.url}/zone/v1/conflicts/{conflict['id']}").json()["state"] == "open"


def test_the_ledger_is_for_administrators(operated, conflict):
    member = {"X-Project-Id": "p", "X-Roles": "member"}
    for path in ("conflicts", f"conflicts/{conflict['id']}"):
        assert httpx.get(f"{operated.url}/zone/v1/{path}", headers=member).status_code == 403


@pytest.mark.parametrize("query", ["state=closed", "limit=0", "before=x"])
def test_a_list_asked_for_wrongly_is_400(operated, query):
    assert httpx.get(f"{operated.url}/zone/v1/conflicts?{query}").status_code == 400


# Waiting writes.


def test_what_is_held_waits_and_what_is_dropped_is_on_record(operated, zonectl):
    held = answer(zonectl, "writes", "hold", "--reason", "a bad batch")
    assert held["hold"]["reason"] == "a bad batch"
    wanted, unwanted = register(operated, name="wanted"), register(operated, name="unwanted")
    assert (wanted["state"], unwanted["state"]) == ("buffered", "buffered")
    assert answer(zonectl, "status")["journal"]["held_from"] == held["hold"]["sequence"]
    assert f"HELD from sequence {held['hold']['sequence']} on" in good(zonectl("status"))
    late = zonectl("writes", "flush", "--wait", 0.1)
    assert late.exit_code == 6
    assert "2 writes still wait, from sequence" in late.stderr
    dropped = answer(zonectl, "writes", "drop", unwanted["write"], "--reason", "made twice")
    assert (dropped["integer_burnt"], dropped["reason"]) == (unwanted["integer"], "made twice")
    assert zonectl("writes", "drop", unwanted["write"], "--reason", "again").exit_code == 4
    good(zonectl("writes", "release"))
    good(zonectl("writes", "flush"))
    assert name_of(operated, wanted["uuid"]) == "wanted"
    assert zonectl("image", "show", unwanted["uuid"]).exit_code == 4
    receipt = answer(zonectl, "writes", "show", unwanted["write"])
    assert receipt["state"] == "dropped"
    assert "made twice" in receipt["detail"]
    entry = answer(zonectl, "conflicts", "list", "--all")[0]
    assert (entry["what"], entry["resolved"]["take"], entry["resolved"]["note"]) == ("write", "dropped", "made twice")
    assert entry["theirs"]["value"]["fields"]["name"] == "unwanted"


def test_later_writes_of_a_dropped_image_are_pointed_at(operated, zonectl):
    good(zonectl("writes", "hold"))
    made = register(operated)
    httpx.delete(f"{operated.url}/zone/v1/images/{made['uuid']}")
    dropped = zonectl("writes", "drop", made["write"], "--reason", "why")
    assert dropped.exit_code == 0
    assert "1 later writes of the same image wait" in dropped.stderr


def test_a_drop_needs_a_reason(zonectl):
    assert zonectl("writes", "drop", 1).exit_code == 2
    assert zonectl("writes", "drop", 1, "--reason", " ").exit_code == 2
    assert zonectl("writes", "drop", "nothing", "--reason", "why").exit_code == 2


def test_what_waits_is_exported_by_the_daemon_and_from_its_disk(operated, zonectl, tmp_path):
    good(zonectl("writes", "hold"))
    made = register(operated, name="carried")
    file = tmp_path / "writes"
    result = zonectl("writes", "export", file)
    assert (result.exit_code, result.stderr) == (0, "zonectl: 1 writes exported\n")
    exported = json.loads(file.read_text())
    assert (exported["kind"], exported["uuid"]) == ("create", made["uuid"])
    on_disk = zonectl("writes", "export", "--data-dir", operated.socket.parent)
    assert json.loads(on_disk.stdout) == exported
    nothing = zonectl("writes", "export", "--data-dir", tmp_path)
    assert nothing.exit_code == 1
    assert "cannot be read" in nothing.stderr


def test_an_import_takes_effect_once_and_never_over_a_gap(operated, zonectl, tmp_path):
    file, node, uuids = tmp_path / "writes", str(uuid4()), [str(uuid4()) for _ in range(3)]
    lines = [line(n, Create(uuid, None, AT, {"name": f"n{n}"}), node) for n, uuid in enumerate(uuids, 1)]
    file.write_text("\n".join([lines[0], lines[2]]) + "\n")
    gap = zonectl("-f", "json", "writes", "import", file)
    assert gap.exit_code == 5
    assert json.loads(gap.stdout) == {"taken": 1, "known_already": 0, "left_out": 1}
    file.write_text("\n".join(lines) + "\n")
    whole = answer(zonectl, "writes", "import", file)
    assert whole == {"taken": 2, "known_already": 1, "left_out": 0}
    assert answer(zonectl, "writes", "import", file)["taken"] == 0
    give_up = time.monotonic() + 60.0
    while httpx.get(f"{operated.url}/zone/v1/images/{uuids[2]}").headers.get("zone-source") != "local":
        assert time.monotonic() < give_up, "the imported writes were not applied"
        time.sleep(0.05)
    for number, uuid in enumerate(uuids, 1):
        assert name_of(operated, uuid) == f"n{number}"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no json\n",
        b"{}\n",
        b'{"node": "x", "sequence": 1, "operation": "", "at": 1}\n',
        pytest.param(b"\x00\xaf\xff\n", id="binary"),
        pytest.param(b"[" * 100_000, id="deep"),
    ],
)
def test_what_is_no_export_is_not_imported(zonectl, tmp_path, content):
    file = tmp_path / "writes"
    file.write_bytes(content)
    result = zonectl("writes", "import", file)
    assert (result.exit_code, result.stdout) == (2, "")


def test_retrying_is_harmless(operated, zonectl):
    before = register(operated)["integer"]
    assert answer(zonectl, "writes", "retry")["waiting"] == 0
    assert register(operated)["integer"] == before + 1


# Integers.


def test_integers_are_leased_by_hand_and_retired_for_good(operated, zonectl):
    before = answer(zonectl, "ids")
    leased = answer(zonectl, "ids", "lease", 50)
    assert (leased["state"], leased["left"]) == ("committed", before["left"] + 50)
    refused = zonectl("ids", "retire", operated.node_id)
    assert refused.exit_code == 5
    assert "is alive" in refused.stderr
    used = register(operated)["integer"]
    retired = answer(zonectl, "ids", "retire", "alpha", "--force")
    assert retired["ranges"] == before["ranges"] + 1
    assert retired["left"] < leased["left"]
    looked_up = answer(zonectl, "ids", "lookup", used)
    assert looked_up["granted"]["retired"] > 0
    assert "retired since" in good(zonectl("ids", "lookup", used))
    after = register(operated)["integer"]
    assert after is None or after > before["counter"] + 50
    until_there_are_integers(zonectl)
    assert zonectl("ids", "retire", OTHER).exit_code == 4
    assert zonectl("ids", "retire", "nothing").exit_code == 2
    assert zonectl("ids", "lease", 0).exit_code == 2


def test_every_ceiling_has_a_date(zonectl, operated):
    register(operated)
    document = answer(zonectl, "ids")
    assert [one["ceiling"] for one in document["ceilings"]] == [2**31 - 1, 2**53 - 1]
    for one in document["ceilings"]:
        assert one["left"] == one["ceiling"] - document["counter"]
        assert one["days"] > 0
    printed = good(zonectl("ids"))
    assert "ceiling 2^31-1" in printed
    assert "ceiling 2^53-1" in printed


# Drills.


@pytest.mark.parametrize("kind", ["registry-outage", "partition", "disk-full"])
@pytest.mark.parametrize("form", FORMS)
def test_a_plan_is_told_in_every_form_and_by_its_exit_status(operated, zonectl, kind, form):
    register(operated, locations=[{"url": "swift://a/1", "metadata": {"zone": "alpha"}}])
    result = zonectl("drill", kind, "-f", form)
    # Alone, this zone has no other voter, and with a full disk nothing is written.
    assert result.exit_code == (0 if kind == "registry-outage" else 1), result.output
    if form in ("json", "jsonl"):
        document = json.loads(result.stdout)
        assert document["state"] == ("ok" if result.exit_code == 0 else "warn")
        assert {line["what"] for line in document["plan"]} >= {"lookups", "writes", "disk"}
    else:
        assert "from this node's own copy" in result.stdout


def test_a_live_drill_ends_by_itself_and_is_compared_with_its_plan(operated, zonectl):
    register(operated)
    admin_client = httpx.Client(transport=httpx.HTTPTransport(uds=str(operated.socket)), base_url="http://admin")
    with admin_client as admin:
        assert admin.post("/admin/v1/drill/disk-full", json={"for_s": 3600}).status_code == 202
        again = admin.post("/admin/v1/drill/partition", json={"for_s": 1})
        assert (again.status_code, again.json()["code"]) == (409, "drill-refused")
        while admin.get("/admin/v1/drill").json()["live"] is None:
            time.sleep(0.01)
        refused = httpx.post(f"{operated.url}/zone/v1/images", json={})
        assert refused.status_code == 507
        assert "a disk-full drill is on" in refused.text
        assert httpx.get(f"{operated.url}/zone/v1/images").status_code == 200
        good_bye = zonectl("drill", "--stop")
        assert good_bye.exit_code == 0
        while (state := admin.get("/admin/v1/drill").json())["live"] is not None:
            time.sleep(0.01)
    compared = {line["what"]: line for line in state["last"]["compared"]}
    assert compared["writes"]["live"] == "1 refused, 0 accepted"
    assert state["last"]["stopped"] is True
    assert register(operated)["state"] == "committed"


def test_live_with_zonectl(operated, zonectl):
    played = zonectl("drill", "registry-outage", "--live", "--for", "1s", "-f", "json")
    assert played.exit_code == 0, played.output
    document = json.loads(played.stdout)
    assert {line["what"] for line in document["compared"]} == {"lookups", "writes", "recovered"}
    assert document["measured"]["recovered_s"] is not None


@pytest.mark.parametrize("words", [(), ("flood",), ("partition", "--for", "2h"), ("partition", "--for", "soon")])
def test_a_drill_asked_for_wrongly_is_one_line(zonectl, words):
    assert zonectl("drill", *words).exit_code == 2


def test_an_import_names_the_nodes_whose_writes_are_needed_first(zonectl, tmp_path):
    file, node, base = tmp_path / "writes", str(uuid4()), str(uuid4())
    first, second = (json.loads(line(n, Create(str(uuid4()), None, AT, {}), node)) for n in (1, 2))
    second["needs"] = base64.b64encode(msgpack.packb({base: 7})).decode()
    file.write_text(f"{json.dumps(first)}\n{json.dumps(second)}\n")
    result = zonectl("writes", "import", file)
    assert result.exit_code == 5
    assert f"1 of 2 writes were kept, the next needs those of node {base} up to 7" in result.stderr
