"""A bar on standard error for whoever waits at a terminal; nothing anywhere else. For zonectl's long commands."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

Advance = Callable[[float], None]


@contextmanager
def bar(what: str, total: float | None) -> Iterator[Advance]:
    """Gives the function that says how much more is done; `total` is None when nobody knows."""
    if not sys.stderr.isatty():
        yield lambda _done: None
        return
    from rich.console import Console  # 50 ms, which only those pay who see it
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.advance(task, done)
