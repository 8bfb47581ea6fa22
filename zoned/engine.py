"""The seam between the zones and what orders their writes.

Two engines order: the log that the zones replicate among themselves (`zoned.raft`), and a database (`zoned.postgres`).
Whichever it is, entries carry a term and a position without gaps, every node keeps and applies them alike, and the
registry is the one node that may add to them. Everything on the zones' side (journal, forwarding, applying, following,
snapshots) sees no more of an engine than this.
"""

from collections.abc import Sequence
from typing import Protocol

import trio

from conf import Registry
from zoned.errors import CannotStart


class Reading:
    """A read index that somebody waits for: there once it is settled, None when the term ended meanwhile."""

    def __init__(self) -> None:
        self.settled = trio.Event()
        self.index: int | None = None

    def settle(self, index: int | None) -> None:
        self.index = index
        self.settled.set()


class Engine(Protocol):
    """One node's part in ordering writes."""

    @property
    def is_informed(self) -> bool:
        """Whether this node knows by itself who is the registry, and need not go by what gossip says."""

    @property
    def holder(self) -> str | None:
        """The node that seems to be the registry; None when this node knows of none."""

    @property
    def term(self) -> int:
        """Grows with every registry: what an older one still wants to commit is refused."""

    @property
    def is_registry(self) -> bool:
        """Whether this node may take writes: it holds the term, and everything committed before that is applied."""

    def propose(self, writes: Sequence[bytes]) -> object:
        """Takes encoded writes to be committed behind everything it took before; none of them is committed yet.

        Applying tells what became of them; those of a term that ends may be lost. Raises NotLeader or Busy.
        """

    async def read_index(self, *, patient: bool = False) -> int | None:
        """A position such that everything acknowledged before this call is at or below it; None when the term ended.

        `patient`: with the next sign of life that this node gives anyway. Raises NotLeader or Busy.
        """


def check(settings: Registry) -> None:
    """Raises CannotStart when the engine that is asked for cannot run here."""
    if settings.engine != "postgresql":
        return
    try:
        from zoned.postgres.lanes import dsn_problem
    except ImportError as error:
        raise CannotStart(
            f"registry.engine = 'postgresql' needs psycopg ({error}): pip install 'zoned[postgres]'"
        ) from None
    for number, dsn in enumerate(settings.dsn):
        problem = dsn_problem(dsn)
        if problem:
            raise CannotStart(f"registry.dsn: number {number + 1} cannot be used: {problem}")
