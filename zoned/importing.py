"""`zonectl import` and `export`: records in batches between a file or another Images API and the daemon.

An import only ever adds, and changes what differs when asked to: whatever it did before it was broken off is found to
be the same when it runs again. A bookmark file spares reading that part of the source once more.
"""

import csv
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from store.images import is_uuid
from zoned.asking import Asker, fail
from zoned.glance import ENDED, Glance, native
from zoned.progress import bar

BATCH_IMAGES = 100
BATCH_CHARS = 400_000  # http.body_bytes_max is a million bytes unless it was changed; a text has up to four a character
PAGE = 500
TOLD_MAX = 1_000  # items that are kept for the report; the counts go on

Batch = tuple[list[dict[str, Any]], str]  # records, and the bookmark once they are taken


@dataclass(frozen=True, slots=True)
class Wanted:
    """How to import."""

    integers: str  # keep or assign
    update: bool
    dry_run: bool
    zone: str  # where the bytes are; "": not said
    file_urls: bool  # where the source names no location, its own download is one


@dataclass(slots=True)
class Report:
    """What came of it: how many of each result, and the items that are worth a look."""

    counts: Counter[str] = field(default_factory=Counter)
    items: list[dict[str, Any]] = field(default_factory=list)

    def add(self, items: Sequence[dict[str, Any]]) -> None:
        for item in items:
            self.counts[item["result"]] += 1
            if item["result"] not in ("created", "same") and len(self.items) < TOLD_MAX:
                self.items.append(item)

    @property
    def is_clean(self) -> bool:
        return not self.counts["differs"] and not self.counts["refused"]


class Bookmark:
    """How far an import of one source is, in a file; without one nothing is remembered."""

    def __init__(self, path: Path | None, source: str) -> None:
        self._path, self._source = path, source

    def read(self) -> str | None:
        """Ends the process when the file is another source's."""
        if self._path is None or not self._path.exists():
            return None
        try:
            kept = json.loads(self._path.read_text())
            source, place = kept["source"], str(kept["place"])
        except (OSError, ValueError, KeyError, TypeError):
            fail(f"{self._path} is no bookmark of an import; remove it, or name another file", 2)
        if source != self._source:
            fail(f"{self._path} is the bookmark of an import from {source}; remove it, or name another file", 2)
        return place

    def write(self, place: str) -> None:
        if self._path is not None:
            partial = self._path.with_name(self._path.name + ".partial")
            partial.write_text(json.dumps({"source": self._source, "place": place}) + "\n")
            partial.rename(self._path)

    def close(self) -> None:
        """The import is through: the next one begins at the beginning."""
        if self._path is not None:
            self._path.unlink(missing_ok=True)


def run(asker: Asker, batches: Iterator[Batch], total: int | None, wanted: Wanted, mark: Bookmark) -> Report:
    """Hands the batches to the daemon, in order. Ends the process where it cannot go on."""
    report = Report()
    how = {"integers": wanted.integers, "update": wanted.update, "dry_run": wanted.dry_run}
    with bar("would import" if wanted.dry_run else "import", total) as advance:
        for records, place in batches:
            items = asker.ask("POST", "/admin/v1/images/import", {"images": records, **how})["items"]
            report.add(items)
            advance(len(records))
            full = next((item for item in items if item.get("again")), None)
            if full is not None:
                fail(f"stopped: {full['detail']}; the same command goes on when there is room", 1)
            if not wanted.dry_run:
                mark.write(place)
    if not wanted.dry_run:
        mark.close()
    return report


def from_lines(file: TextIO, after: str | None, integers: Mapping[str, int]) -> Iterator[Batch]:
    """JSON lines as `zonectl export` writes them: native records, or Images API documents. Ends the process."""
    begin = int(after) if after is not None and after.isdigit() else 0
    batch: list[dict[str, Any]] = []
    chars, number = 0, 0
    for number, line in enumerate(file, 1):
        if number <= begin or not line.strip():
            continue
        try:
            document = json.loads(line)
        except (ValueError, RecursionError):
            fail(f"line {number} is no JSON; give one record in each line, as zonectl export writes them", 2)
        if not isinstance(document, dict) or not ("uuid" in document or "id" in document):
            fail(f"line {number} is no record: it has no uuid", 2)
        record = document if "uuid" in document else native(document, {}, None, "")
        if batch and chars + len(line) > BATCH_CHARS:
            yield batch, str(number - 1)
            batch, chars = [], 0
        batch.append(numbered(record, integers))
        chars += len(line)
        if len(batch) == BATCH_IMAGES:
            yield batch, str(number)
            batch, chars = [], 0
    if batch:
        yield batch, str(number)


def from_glance(glance: Glance, after: str | None, wanted: Wanted, integers: Mapping[str, int]) -> Iterator[Batch]:
    """Everything that the token sees. Raises GlanceError."""
    # Hidden ones are in no list that does not ask for them.
    for hidden in ("false", "true"):
        place, _, marker = (after or "").partition(" ")
        if place == "true" and hidden == "false":
            continue
        start = marker if place == hidden else None
        for page in glance.pages(start or None, [("os_hidden", hidden)]):
            live = [one for one in page if one.get("status") not in ENDED]
            members = glance.members(live)
            records = []
            for one in live:
                uuid = str(one["id"])
                url = f"{glance.url}/v2/images/{uuid}/file" if wanted.file_urls else None
                records.append(numbered(native(one, members.get(uuid, {}), url, wanted.zone), integers))
            for begin in range(0, len(records), BATCH_IMAGES):
                part = records[begin : begin + BATCH_IMAGES]
                yield part, f"{hidden} {part[-1]['uuid']}"


def numbered(record: dict[str, Any], integers: Mapping[str, int]) -> dict[str, Any]:
    """With the integer that a list gives it, if there is one."""
    number = integers.get(str(record["uuid"]).lower())
    return record if number is None else {**record, "integer": number}


def read_integers(file: TextIO) -> dict[str, int]:
    """`UUID,INTEGER` lines, as Nova's s3_images table has them; a heading is skipped. Ends the process."""
    found: dict[str, int] = {}
    used: dict[int, str] = {}
    for number, row in enumerate(csv.reader(file), 1):
        cells = [cell.strip() for cell in row]
        if len(cells) == 2 and is_uuid(cells[1]):
            cells.reverse()
        if len(cells) != 2 or not is_uuid(cells[0]) or not (cells[1].isascii() and cells[1].isdigit()):
            if number == 1 or not any(cells):
                continue
            fail(f"line {number} of the integers is not UUID,INTEGER: {','.join(row)[:80]!r}", 2)
        uuid, integer = cells[0].lower(), int(cells[1])
        if used.setdefault(integer, uuid) != uuid:
            fail(f"line {number} of the integers: {integer} is also that of {used[integer]}", 2)
        if found.setdefault(uuid, integer) != integer:
            fail(f"line {number} of the integers: {uuid} also has {found[uuid]}", 2)
    return found


def export(asker: Asker, file: TextIO) -> int:
    """Writes every live record, newest first, one JSON line each; returns how many."""
    count, marker = 0, ""
    total = asker.get("/zone/v1/status")["catalogue"]["images"]
    with bar("export", total) as advance:
        while True:
            document = asker.get(f"/zone/v1/images?limit={PAGE}{marker}")
            if not document["complete"]:
                fail("this zone has not received the whole catalogue yet; zonectl wait synced, then again", 5)
            for one in document["images"]:
                file.write(json.dumps(one, ensure_ascii=False) + "\n")
            count += len(document["images"])
            advance(len(document["images"]))
            if document["next"] is None:
                return count
            marker = f"&marker={document['next']}"
