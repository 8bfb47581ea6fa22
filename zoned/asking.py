"""How zonectl asks the local daemon over its Unix socket, and prints the answer.

Data goes to standard output, talk to standard error. Exit status: 0 done, 1 failed, 2 usage, 3 daemon not reachable,
4 not found or gone, 5 conflict or precondition, 6 timed out waiting, 7 refused. Only the standard library and click are
imported before the answer is there, so that a start costs little.
"""

import csv
import http.client
import json
import os
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NoReturn
from urllib.parse import quote

import click

TIMEOUT_S = 30.0
# HTTP status -> exit status; whatever is not listed is 1.
EXITS = {400: 2, 403: 7, 404: 4, 410: 4, 409: 5, 412: 5, 422: 5, 504: 6, 507: 7}


def fail(text: str, status: int) -> NoReturn:
    click.echo(f"zonectl: {text}", err=True)
    sys.exit(status)


def no_daemon(path: Path, error: Exception) -> str:
    said = (error.strerror if isinstance(error, OSError) else None) or " ".join(str(error).split())[:200]
    return f"no daemon answers at {path} ({said}); start `zoned run`, or name its socket with --socket"


class UnixConnection(http.client.HTTPConnection):
    """HTTP over a Unix socket."""

    def __init__(self, path: Path, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(os.fspath(self._path))


@dataclass(frozen=True, slots=True)
class Asker:
    """How this call reaches the daemon and prints."""

    socket: Path
    form: str
    timeout_s: float
    columns: tuple[str, ...] = ()  # of lists; none: all

    def get(self, path: str) -> Any:
        return self.ask("GET", path)

    def ask(self, method: str, path: str, document: Any = None) -> Any:
        """The daemon's JSON answer. Ends the process with the right status when there is none."""
        status, _, answer = self.raw(method, path, document)
        if isinstance(answer, str):
            fail(f"the daemon answered {status} with something else than JSON", 1)
        if status >= 400:
            detail = answer.get("detail", answer) if isinstance(answer, dict) else answer
            fail(text(detail), EXITS.get(status, 1))
        return answer

    def lines(self, path: str) -> Iterator[str]:
        """The lines of an answer without end, as they come. Ends the process when there is none, or it breaks off."""
        connection = UnixConnection(self.socket, self.timeout_s)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            if answer.status >= 400:
                self.ask("GET", path)  # says what is wrong
            for line in answer:
                yield line.decode(errors="replace").rstrip("\n")
        except TimeoutError:
            fail(f"the daemon at {self.socket} fell silent for {self.timeout_s:g} s", 6)
        except (OSError, http.client.HTTPException) as error:
            fail(
                f"the daemon at {self.socket} is gone: {error}; start `zoned run`, or name its socket with --socket", 3
            )
        finally:
            connection.close()

    def raw(self, method: str, path: str, document: Any = None) -> tuple[int, http.client.HTTPMessage, Any]:
        """Status, headers and body (parsed if it is JSON, else as text), whatever they are."""
        try:
            return self._exchange(method, path, document)
        except TimeoutError:
            fail(f"the daemon at {self.socket} did not answer within {self.timeout_s:g} s", 6)
        except (OSError, http.client.HTTPException) as error:
            fail(no_daemon(self.socket, error), 3)

    def _exchange(self, method: str, path: str, document: Any) -> tuple[int, http.client.HTTPMessage, Any]:
        connection = UnixConnection(self.socket, self.timeout_s)
        try:
            headers = {"Accept": "application/json"}
            if method == "PATCH":
                headers["Content-Type"] = "application/json-patch+json"
            connection.request(method, path, json.dumps(document) if document is not None else None, headers)
            answer = connection.getresponse()
            body = answer.read()
        finally:
            connection.close()
        try:
            return answer.status, answer.headers, json.loads(body)
        except ValueError:
            return answer.status, answer.headers, body.decode(errors="replace")

    def peek(self, path: str) -> Any:
        """The answer to a GET if it is a good one, else None, whatever is the matter: for waiting."""
        try:
            status, _, answer = self._exchange("GET", path, None)
        except (OSError, http.client.HTTPException):
            return None
        return answer if status == 200 else None


def settled(asker: Asker, write_id: str, wait_s: float) -> str:
    """What became of a write of this node, within `wait_s`: committed, or the state of its receipt."""
    path = f"/zone/v1/writes/{quote(write_id, safe='')}?wait={min(60, int(wait_s))}s"
    state = str(asker.get(path)["state"])
    return "committed" if state == "seen" else state


WAIT = click.option(
    "--wait", "wait_s", type=click.IntRange(0, 60), default=10, show_default=True, help="Seconds, for the outcome."
)
Column = tuple[str, Callable[[Mapping[str, Any]], Any]]


def text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    shown = f"{value:g}" if isinstance(value, float) else str(value)
    # Names come from users: nothing that they hold may steer the operator's terminal.
    return shown if shown.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in shown)


def age(seconds: float | None) -> str:
    """A duration in its two largest units at most."""
    if seconds is None:
        return "-"
    for size, unit, small, name in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "m"), (60, "m", 1, "s")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit}{int(seconds % size // small)}{name}"
    return f"{seconds:.1f}s"


def show_rows(asker: Asker, rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], empty: str) -> None:
    """A list in the form asked for; JSON forms carry everything, tables the columns."""
    columns = _chosen(asker.columns, columns)
    if asker.form == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif asker.form == "jsonl":
        for row in rows:
            click.echo(json.dumps(row, ensure_ascii=False))
    elif asker.form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerow([name for name, _ in columns])
        writer.writerows([["" if take(row) is None else take(row) for _, take in columns] for row in rows])
    elif rows:
        table = [[name.upper() for name, _ in columns]] + [[text(take(row)) for _, take in columns] for row in rows]
        show_table(table)
    else:
        click.echo(empty, err=True)


def _chosen(names: Sequence[str], columns: Sequence[Column]) -> Sequence[Column]:
    """The columns that were asked for, by their heading. Ends the process for one that is none."""
    known = {name.lower(): (name, take) for name, take in columns}
    for name in names:
        if columns and name.lower() not in known:
            fail(f"no column {name!r}; known: {', '.join(known)}", 2)
    return [known[name.lower()] for name in names if columns] or columns


def show_table(table: Sequence[Sequence[str]]) -> None:
    widths = [max(len(row[n]) for row in table) for n in range(len(table[0]))]
    for row in table:
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())


def show_one(asker: Asker, document: Mapping[str, Any], lines: Sequence[tuple[str, Any]]) -> None:
    """One thing: JSON carries everything, the others the lines."""
    if asker.form == "json":
        click.echo(json.dumps(document, indent=2, ensure_ascii=False))
    elif asker.form == "jsonl":
        click.echo(json.dumps(document, ensure_ascii=False))
    elif asker.form == "csv":
        writer = csv.writer(sys.stdout, lineterminator="\n")
        writer.writerows([(name, "" if value is None else value) for name, value in lines])
    else:
        show_table([[name, text(value)] for name, value in lines])


FORM = click.option(
    "-f", "--format", "form", type=click.Choice(["table", "json", "jsonl", "csv"]), default=None, help="How to print."
)


def asker_of(context: click.Context, form: str | None) -> Asker:
    """`-f` may stand before or after the command."""
    asker: Asker = context.obj
    return asker if form is None else replace(asker, form=form)
