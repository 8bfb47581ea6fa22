"""zonectl about images and at a terminal: what an operator does about a bad image, what is at risk, completion, top."""

import json
import os
import subprocess
import sys
from typing import Any

import httpx
import pytest
from click.testing import CliRunner, Result

from tests.zoned.conftest import Served
from zoned.ctl import main
from zoned.ctl_live import judged, totals


def zonectl(zone: Served, *words: object) -> Result:
    return CliRunner().invoke(main, ["--socket", str(zone.socket), *map(str, words)])


def registered(zone: Served, **more: Any) -> dict[str, Any]:
    body = {"name": "n", "disk_format": "raw", "container_format": "bare", **more}
    made: dict[str, Any] = httpx.post(f"{zone.url}/zone/v1/images", json=body, trust_env=False).json()
    return made


def test_a_bad_image_is_switched_off_hidden_and_deleted_with_a_receipt(served):
    uuid = registered(served, locations=[{"url": "http://a/1", "metadata": {"zone": "alpha"}}])["uuid"]

    def shown() -> Any:
        return httpx.get(f"{served.url}/zone/v1/images/{uuid}", trust_env=False).json()

    off = zonectl(served, "-f", "json", "image", "deactivate", uuid, "--until", "seen")
    assert (off.exit_code, shown()["status"]) == (0, "deactivated"), off.output
    assert json.loads(off.stdout)["seen"].keys() == {"alpha"}
    assert zonectl(served, "image", "reactivate", uuid, "--until", "committed").exit_code == 0
    assert zonectl(served, "image", "hide", uuid, "--until", "committed").exit_code == 0
    assert (shown()["status"], shown()["os_hidden"]) == ("active", True)
    asked = zonectl(served, "image", "delete", uuid)
    assert (asked.exit_code, "add --yes" in asked.stderr, shown()["deleted_at"]) == (0, True, None)
    assert zonectl(served, "image", "delete", uuid, "--yes", "--until", "committed").exit_code == 0
    assert shown()["code"] == "gone"
    gone = zonectl(served, "image", "deactivate", uuid)
    assert (gone.exit_code, gone.stderr.count("\n")) == (4, 1)


def test_a_record_is_made_and_changed_at_the_terminal(served):
    words = ("name=jammy", "min_ram=512", "protected=false", "disk_format=raw", "container_format=bare", "a/b=c")
    made = zonectl(
        served,
        "-f",
        "json",
        "image",
        "register",
        *words,
        "--tag",
        "base",
        "--location",
        "http://a/1",
        "--until",
        "seen",
    )
    assert made.exit_code == 0, made.output
    told = json.loads(made.stdout)

    def shown() -> Any:
        return httpx.get(f"{served.url}/zone/v1/images/{told['uuid']}", trust_env=False).json()

    first = shown()
    assert (first["integer"], first["name"], first["min_ram"]) == (told["integer"], "jammy", 512)
    assert (first["status"], first["tags"], first["properties"]) == ("active", ["base"], {"a/b": "c"})
    changed = zonectl(
        served, "image", "set", told["uuid"], "os=linux", "min_ram=1024", "--remove", "a/b", "--until", "seen"
    )
    assert changed.exit_code == 0, changed.output
    assert (shown()["min_ram"], shown()["properties"]) == (1024, {"os": "linux"})


@pytest.mark.parametrize("word", ["name", "=x", "min_ram=much", "protected=yes"])
def test_what_is_no_value_of_a_record_is_one_line(served, word):
    for words in (("register", word), ("set", "1", word)):
        refused = zonectl(served, "image", *words)
        assert (refused.exit_code, refused.stderr.count("\n")) == (2, 1), refused.output


def test_a_change_of_nothing_is_refused(served):
    assert zonectl(served, "image", "set", "1").exit_code == 2


def test_what_the_images_api_refuses_is_one_line(served):
    uuid = registered(served, protected=True)["uuid"]
    refused = zonectl(served, "image", "deactivate", uuid)
    assert (refused.exit_code, refused.stderr.count("\n"), "<" in refused.stderr) == (7, 1, False), refused.stderr
    assert zonectl(served, "image", "delete", uuid, "--yes").exit_code == 7


def test_images_with_their_bytes_in_one_zone_only_are_listed(served):
    def located(*zones: str) -> str:
        places = [{"url": f"http://{zone}/{n}", "metadata": {"zone": zone}} for n, zone in enumerate(zones)]
        return str(registered(served, locations=places)["uuid"])

    alone, both, moved = located("alpha"), located("alpha", "beta"), located("beta", "alpha")
    said = httpx.put(f"{served.url}/zone/v1/images/{moved}/presence/alpha", json={"state": "absent"}, trust_env=False)
    assert said.status_code in (200, 202)
    listed = {one["uuid"]: one["zone"] for one in json.loads(zonectl(served, "-f", "json", "risk").stdout)}
    assert (listed[alone], listed[moved], both in listed) == ("alpha", "beta", False)
    of_alpha = {one["uuid"] for one in json.loads(zonectl(served, "-f", "json", "risk", "--zone", "alpha").stdout)}
    assert (alone in of_alpha, moved in of_alpha) == (True, False)
    paged: list[str] = []
    marker: str | None = ""
    while marker is not None:
        page = httpx.get(f"{served.url}/zone/v1/risk?limit=2{marker}", trust_env=False).json()
        paged += [one["uuid"] for one in page["images"]]
        marker = f"&marker={page['next']}" if page["next"] else None
    assert sorted(paged) == sorted(listed), "in pages the same"
    first = json.loads(zonectl(served, "-f", "json", "locate", both).stdout)[0]
    assert first["zone"] == "alpha"
    assert zonectl(served, "locate", both, "--from", "nowhere").exit_code == 2


def test_columns_are_chosen_by_name_and_anywhere(served):
    registered(served)
    chosen = zonectl(served, "image", "list", "-n", 1, "--columns", "name,UUID").stdout.splitlines()
    assert chosen[0].split() == ["NAME", "UUID"]
    assert zonectl(served, "--columns=status", "-f", "csv", "image", "list", "-n", 1).stdout.splitlines()[0] == "status"
    wrong = zonectl(served, "zones", "--columns", "odd")
    assert (wrong.exit_code, "known: zone, state" in wrong.stderr) == (2, True)


def test_watching_asks_again_until_it_is_ended(served):
    words = [sys.executable, "-c", "from zoned.ctl import main; main()", "--socket", str(served.socket)]
    with subprocess.Popen([*words, "health", "--watch", "0.1"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        process.kill()
    assert lines[0] == lines[1] == lines[2]


def test_whoever_reads_no_further_causes_no_traceback(served):
    for _ in range(2):
        registered(served, name="x" * 250)
    words = f"{sys.executable} -c 'from zoned.ctl import main; main()' --socket {served.socket} -f json image list"
    done = subprocess.run(["bash", "-c", f"{words} | head -c 1"], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("[", "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_shell_completes_commands_and_live_names(served, shell):
    made = zonectl(served, "completion", shell)
    assert (made.exit_code, "_ZONECTL_COMPLETE" in made.stdout) == (0, True)

    def completed(*words: str) -> str:
        line = ["zonectl", "--socket", str(served.socket), *words]
        fish = {"COMP_WORDS": " ".join(line), "COMP_CWORD": words[-1]}
        other = {"COMP_WORDS": " ".join(line), "COMP_CWORD": str(len(line) - 1)}
        told = {"_ZONECTL_COMPLETE": f"{shell}_complete", **(fish if shell == "fish" else other)}
        command = [sys.executable, "-c", "from zoned.ctl import main; main(prog_name='zonectl')"]
        environment = {**os.environ, **told}
        done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
        assert done.stderr == ""
        return done.stdout

    assert "alpha" in completed("zones", "why", "al")
    if shell != "bash":
        return  # the same code, asked for in another shell's way
    assert "registry" in completed("reg")
    assert "NO_SPARE_VOTER" in completed("health", "--mute", "NO_S")
    assert "journal.entries_max" in completed("config", "show", "journal.")


def test_completion_is_silent_without_a_daemon(tmp_path):
    environment = {**os.environ, "_ZONECTL_COMPLETE": "bash_complete", "COMP_CWORD": "5"}
    environment["COMP_WORDS"] = f"zonectl --socket {tmp_path}/none zones why "
    command = [sys.executable, "-c", "from zoned.ctl import main; main(prog_name='zonectl')"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=60)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_top_shows_rates_and_zones(served):
    seen = zonectl(served, "top", "-n", 1, "--every", 0.2)
    assert seen.exit_code == 0
    assert "a second: " in seen.stdout
    assert "alpha" in seen.stdout
    text = 'zoned_lookups_total{code="200",source="local"} 5.0\nzoned_lookups_total{code="404",source="-"} 1\n'
    text += 'zoned_requests_total{code="503"} 2\nzoned_writes_total{state="buffered"} 3\nzoned_odd_total 9\n'
    assert totals(text) == {"lookups": 6, "requests": 2, "server errors": 2, "writes": 3, "buffered": 3}


def test_a_zone_is_shown_whole(served):
    assert "node_id" in zonectl(served, "zones", "show", "alpha").stdout
    assert json.loads(zonectl(served, "-f", "json", "zones", "show", "alpha").stdout)[0]["zone"] == "alpha"
    assert zonectl(served, "zones", "show", "nowhere").exit_code == 4


def verdicts(others_up: int, versions: tuple[str, ...], draining: bool = True, entries: int = 0) -> dict[str, str]:
    zones = [
        {"node_id": str(n), "zone": f"z{n}", "state": "alive" if n <= others_up else "dead", "version": version}
        for n, version in enumerate(versions)
    ]
    status = {
        "node": {"node_id": "0", "draining": draining},
        "registry": {"known": True, "voters": [str(n) for n in range(len(versions))]},
        "journal": {"entries": entries},
    }
    return {line["what"]: line["state"] for line in judged(status, zones, {"findings": []})}


def test_an_upgrade_is_judged_by_voters_versions_and_what_waits(served):
    assert set(verdicts(2, ("1.0.0",) * 3).values()) == {"ok"}
    assert verdicts(1, ("1.0.0",) * 3)["registry"] == "critical"
    assert verdicts(2, ("1.0.0", "1.1.0", "1.0.0"))["versions"] == "ok"
    assert verdicts(2, ("1.0.0", "1.1.0", "1.2.0"))["versions"] == "critical"
    assert (verdicts(2, ("1.0.0",) * 3, draining=False, entries=4))["journal"] == "warn"
    checked = zonectl(served, "upgrade", "check")
    assert (checked.exit_code, "this is the only voter" in checked.stdout) == (1, True)
