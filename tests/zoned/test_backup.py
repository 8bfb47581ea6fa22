"""`zonectl backup` into a folder where the newest stay; a backup that does not add up is none."""

import re
from pathlib import Path

import apsw
import httpx
import pytest
from click.testing import CliRunner, Result

from store import snapshot
from tests.zoned.conftest import Served, config_text, serve
from zoned import backup
from zoned.ctl import main


def zonectl(zone: Served, *words: object) -> Result:
    return CliRunner().invoke(main, ["--socket", str(zone.socket), *map(str, words)])


def test_the_newest_stay_and_nothing_else_is_touched(served, tmp_path: Path):
    old = [tmp_path / f"zoned-alpha-2026010{n}T000000Z" for n in range(1, 5)]
    other = [tmp_path / "zoned-beta-20260101T000000Z", tmp_path / "notes"]
    for file in (*old, *other):
        file.touch()
    done = zonectl(served, "backup", "--keep", 2, tmp_path)
    assert done.exit_code == 0, done.output
    (made,) = set(tmp_path.iterdir()) - {*old, *other}
    assert re.fullmatch(r"zoned-alpha-\d{8}T\d{6}Z", made.name)
    assert set(tmp_path.iterdir()) == {made, old[-1], *other}
    assert snapshot.describe(made).position > 0
    samples = httpx.get(f"{served.url}/metrics", trust_env=False).text
    assert re.search(r"^zoned_backup_timestamp_seconds \d", samples, re.M)
    missing = zonectl(served, "backup", "--keep", 2, tmp_path / "none")
    assert (missing.exit_code, "is no folder" in missing.stderr) == (2, True)


def test_a_backup_that_does_not_add_up_is_not_kept(served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    httpx.post(f"{served.url}/zone/v1/images", json={"name": "n"}, trust_env=False)
    check = backup._check

    def damaged(file: Path) -> None:
        connection = apsw.Connection(str(file))
        connection.execute("DELETE FROM images WHERE key = (SELECT max(key) FROM images WHERE deleted = 0)")
        connection.close()
        check(file)

    monkeypatch.setattr(backup, "_check", damaged)
    done = zonectl(served, "backup", tmp_path / "file")
    assert (done.exit_code, done.stderr.count("\n")) == (1, 1), done.output
    assert "no backup was kept" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_without_a_daemon_no_file_is_blamed(tmp_path: Path):
    done = CliRunner().invoke(main, ["--socket", str(tmp_path / "none"), "backup", str(tmp_path / "file")])
    assert (done.exit_code, done.stderr.count("\n"), "no daemon answers" in done.stderr) == (3, 1, True)


def test_a_zone_without_the_catalogue_gives_no_backup_that_would_replace_a_good_one(tmp_path: Path):
    (kept := tmp_path / "kept").mkdir()
    old = kept / "zoned-alpha-20260101T000000Z"
    old.touch()
    with serve(config_text(tmp_path / "store", 'seeds = ["127.0.0.1:9"]', "expect = 0")) as running:
        words = ["--socket", str(running.socket), "backup", "--keep", "1", str(kept)]
        done = CliRunner().invoke(main, words)
    assert (done.exit_code, done.stderr.count("\n"), "has not received the catalogue" in done.stderr) == (5, 1, True)
    assert list(kept.iterdir()) == [old]
