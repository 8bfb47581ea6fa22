"""zonectl's commands for moving in: records from another catalogue, and whether both answer alike."""

import contextlib
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO
from urllib.parse import urlsplit

import click

from zoned.asking import FORM, Column, asker_of, fail, show_one, show_rows, text
from zoned.ctl_operating import Span

HEADER = click.option("--header", "headers", multiple=True, metavar="'NAME: VALUE'", help="For the Glance; repeatable.")
BATCH_PATIENCE_S = 120.0


@contextlib.contextmanager
def told_plainly() -> Iterator[None]:
    """Whatever a source does wrong is one line."""
    from zoned.glance import GlanceError

    try:
        yield
    except GlanceError as error:
        fail(str(error), 1)
    except UnicodeDecodeError as error:
        fail(f"the file is not UTF-8 text: {error.reason} at byte {error.start}", 2)
    except OSError as error:
        fail(f"{error.filename or 'the file'}: {error.strerror or error}", 1)
    except KeyboardInterrupt:
        fail("stopped; what was done stays done, and the same command goes on", 130)


@click.command("import")
@click.argument("source")
@click.option(
    "--integers", type=click.Choice(["assign", "keep"]), default="assign", show_default=True, help="Of images."
)
@click.option("--integers-from", "table", type=click.File("r"), help="Lines UUID,INTEGER to keep, as from s3_images.")
@click.option("--update", is_flag=True, help="Change images that are here and differ; without it they are reported.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@click.option("--zone", default="", help="The zone that the bytes are in, for locations that do not say it.")
@click.option("--file-urls", is_flag=True, help="Where the Glance tells no location, its own download URL becomes one.")
@click.option("--bookmark", type=click.Path(path_type=Path, dir_okay=False), help="Remember here how far it is.")
@HEADER
@FORM
@click.pass_context
def take_in(
    context: click.Context,
    source: str,
    integers: str,
    table: TextIO | None,
    update: bool,
    dry_run: bool,
    zone: str,
    file_urls: bool,
    bookmark: Path | None,
    headers: tuple[str, ...],
    form: str | None,
) -> None:
    """Take in the images of SOURCE: the URL of an Images API (Glance), or a file of JSON lines ("-": standard input).

    UUIDs and dates are kept. Run it again as often as you like: what is here is compared, never doubled, and nothing
    is deleted. The token for a Glance is $OS_TOKEN. Exit status 5 if images differ or were refused.
    """
    from dataclasses import replace

    from zoned.importing import Bookmark, Wanted, read_integers, run

    asker = asker_of(context, form)
    asker = replace(asker, timeout_s=max(asker.timeout_s, BATCH_PATIENCE_S))
    with told_plainly():
        known = read_integers(table) if table is not None else {}
        wanted = Wanted("keep" if known else integers, update, dry_run, zone, file_urls)
        mark = Bookmark(bookmark, source)
        with _batches(source, headers, mark.read(), wanted, known) as (batches, total):
            report = run(asker, batches, total, wanted, mark)
    _tell(asker_of(context, form).form, report.counts, report.items, context, dry_run)
    sys.exit(0 if report.is_clean else 5)


@contextlib.contextmanager
def _batches(source: str, headers: Sequence[str], after: str | None, wanted: Any, known: Mapping[str, int]) -> Any:
    from zoned.glance import Glance, token_headers
    from zoned.importing import from_glance, from_lines

    if "://" in source:
        with Glance(_url(source), _headers(headers, token_headers)) as glance:
            yield from_glance(glance, after, wanted, known), None
    elif source == "-":
        yield from_lines(sys.stdin, after, known), None
    else:
        with Path(source).open(encoding="utf-8") as file:
            total = sum(1 for _ in file)
            file.seek(0)
            yield from_lines(file, after, known), total


def _url(source: str) -> str:
    try:
        parts = urlsplit(source)
        is_fine = parts.scheme in ("http", "https") and bool(parts.hostname) and (parts.port or 1) > 0
    except ValueError:
        is_fine = False
    if not is_fine:
        fail(f"{source} is no URL of an Images API; write it as http://glance:9292", 2)
    return source


def _headers(given: Sequence[str], read: Any) -> dict[str, str]:
    try:
        found: dict[str, str] = read(given)
    except ValueError as error:
        fail(str(error), 2)
    return found


def _tell(
    form: str, counts: Mapping[str, int], items: Sequence[Mapping[str, Any]], context: click.Context, dry_run: bool
) -> None:
    columns: list[Column] = [
        ("uuid", lambda one: one.get("uuid")),
        ("result", lambda one: one["result"]),
        ("integer", lambda one: one.get("integer")),
        ("why", _why),
    ]
    asker = asker_of(context, form)
    if form == "json":
        show_one(asker, {"counts": dict(counts), "items": list(items)}, [])
    elif items:
        show_rows(asker, items, columns, "")
    said = ", ".join(f"{counts[name]} {name}" for name in ("created", "updated", "same", "differs", "refused"))
    click.echo(f"zonectl: {'would be: ' if dry_run else ''}{said}", err=True)
    if sum(counts[name] for name in ("updated", "differs", "refused")) > len(items):
        click.echo(f"zonectl: only the first {len(items)} of those are shown", err=True)


def _why(item: Mapping[str, Any]) -> str:
    if "differences" not in item:
        return str(item.get("detail", ""))
    told = [f"{what}: {text(here)} here, {text(there)} there" for what, (here, there) in item["differences"].items()]
    return "; ".join(told)


@click.command("export")
@click.argument("file", type=click.Path(dir_okay=False, allow_dash=True), default="-")
@click.pass_context
def give_out(context: click.Context, file: str) -> None:
    """Write every image record to FILE, one JSON line each; `zonectl import` reads them in any cloud.

    Not in it: deleted images, histories, presence and aliases, which `zonectl backup` has.
    """
    from zoned.importing import export

    with told_plainly():
        if file == "-":
            count = export(context.obj, sys.stdout)
        elif Path(file).exists():
            fail(f"{file} exists; name another file", 5)
        else:
            partial = Path(file).with_name(Path(file).name + ".partial")
            try:
                with partial.open("w", encoding="utf-8") as opened:
                    count = export(context.obj, opened)
                partial.rename(file)
            finally:
                partial.unlink(missing_ok=True)
    click.echo(f"zonectl: {count} images exported", err=True)


@click.command()
@click.argument("url")
@click.option("--zoned", "own", metavar="URL", help="Ask zoned here, as the Glance is asked, instead of on the socket.")
@click.option("--count", type=click.IntRange(1, 100_000), default=200, show_default=True, help="Of images asked about.")
@click.option("--paths", type=click.File("r"), help="Ask these instead: paths, or an access log of the Glance.")
@click.option("--per-s", type=click.FloatRange(0.1, 1_000), default=20.0, show_default=True, help="Questions a second.")
@click.option("--for", "span", type=Span(), default="5m", show_default=True, help="At most so long: 90s, 30m, 2h.")
@HEADER
@FORM
@click.pass_context
def shadow(
    context: click.Context,
    url: str,
    own: str | None,
    count: int,
    paths: TextIO | None,
    per_s: float,
    span: float,
    headers: tuple[str, ...],
    form: str | None,
) -> None:
    """Ask the Glance at URL and zoned the same, and report answers that differ. Changes nothing; bounded.

    Where the bytes are is not compared. The token for both is $OS_TOKEN. Exit status 5 if any answer differs.
    """
    from zoned.glance import Glance, token_headers
    from zoned.shadowing import compare, from_log, questions

    asker = asker_of(context, form)
    said = _headers(headers, token_headers)
    with told_plainly(), Glance(_url(url), said) as glance, contextlib.ExitStack() as stack:
        if own is not None:
            ask = stack.enter_context(Glance(_url(own), said)).ask
        else:

            def ask(path: str) -> tuple[int, Any]:
                status, _, document = asker.raw("GET", path)
                return status, document

        if paths is not None:
            asked = list(dict.fromkeys(from_log(paths.read().splitlines())))
        else:
            images = [one for page in glance.newest(count) for one in page]
            asked = questions(images)
        if not asked:
            fail("there is no question to ask: the file has no path of the Images API v2", 2)
        found = compare(glance, ask, asked, per_s, span)
    columns: list[Column] = [
        ("question", lambda one: one["question"]),
        ("what", lambda one: one["what"]),
        ("glance", lambda one: one["glance"]),
        ("zoned", lambda one: one["zoned"]),
    ]
    if asker.form != "table" or found.rows:
        show_rows(asker, found.rows, columns, "")
    click.echo(f"zonectl: {found.asked} questions, {found.alike} answered alike", err=True)
    if found.cut:
        click.echo(f"zonectl: {found.cut}", err=True)
    sys.exit(0 if found.alike == found.asked else 5)
