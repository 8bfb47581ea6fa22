"""Who may write to the database's log: the takeover protocol. Sans-IO.

One row holds the term, the position, the holder and a beat. The holder moves the beat; who sees it unmoved for the
election time, counted by its own monotonic clock in looks that the database answered, takes the next term by a
compare-and-set on term and beat. Nothing depends on that patience but peace: every commit begins by moving the position
*where the term is still its own*, so a holder that was deposed while it slept changes nothing, whatever it believes.

A holder that loses a connection in mid-commit does not know whether the commit happened, and does not guess: it gives
its term up and takes a new one, which fences what may still be under way; then everything before is decided and can be
read. The same road is taken after a restart, after a takeover and after the database failed over.
"""

from dataclasses import dataclass
from random import Random

NOBODY = ""  # in the place of the holder: given up, so nobody needs patience


@dataclass(frozen=True, slots=True)
class Row:
    """The `registry` row."""

    term: int
    position: int
    holder: str
    beat: int


@dataclass(frozen=True, slots=True)
class Look:
    """Read the row."""


@dataclass(frozen=True, slots=True)
class Take:
    """Set holder and `term` where term and beat are still those of `seen`."""

    seen: Row
    term: int


@dataclass(frozen=True, slots=True)
class Beat:
    """Move the beat where this node still holds `term`."""

    term: int


Ask = Look | Take | Beat


class Takeover:
    """One node's part. Times are the caller's monotonic seconds; `election_s` is the shortest patience."""

    def __init__(self, me: str, tick_s: float, election_s: float, rng: Random) -> None:
        self.me = me
        self.row: Row | None = None  # as last seen; None while the database does not answer
        self.held: int | None = None  # the term that this node holds, as far as it knows
        self.term = 0  # the highest ever seen: a database that failed over may have gone back
        self._tick_s = tick_s
        self._election_s = election_s
        self._rng = rng
        self._answered_at = 0.0  # when the last answer that counts came
        self._counted_at = 0.0  # up to when the row is known to have stood still
        self._unmoved_s = 0.0
        self._patience_s = self._draw()
        self._gave_up = False  # of its own will: the others come first

    def _draw(self) -> float:
        return self._election_s * self._rng.uniform(1.0, 2.0)

    @property
    def holder(self) -> str | None:
        """Who seems to hold the term; None when nobody does, or its beat has stood still for the election time."""
        row = self.row
        if row is None or row.holder == NOBODY or self._unmoved_s >= self._election_s:
            return None
        if row.holder == self.me and self.held is None:
            return None
        return row.holder

    def is_current(self, now: float) -> bool:
        """Whether this node holds the term and was told so within the election time."""
        return self.held is not None and now - self._answered_at < self._election_s

    def next(self) -> Ask:
        """What to ask the database now."""
        if self.held is not None:
            return Beat(self.held)
        row = self.row
        if row is None:
            return Look()
        # What this node held before it restarted or lost its connection needs no patience: nobody else holds it.
        at_once = row.holder == self.me or (row.holder == NOBODY and not self._gave_up)
        if at_once or self._unmoved_s >= self._patience_s:
            return Take(row, max(self.term, row.term) + 1)
        return Look()

    def answered(self, ask: Ask, row: Row | None, asked_at: float, now: float) -> None:
        """What came of it: the row as it is after it; None when the condition did not hold."""
        match ask:
            case Look():
                self._seen(row, asked_at, now)
            case Take():
                self.held = ask.term if row is not None else None
                self._gave_up = False
                self._forget(row)
            case Beat() if row is None and ask.term == self.held:
                self.lost()
            case Beat() if row is not None and self.row is not None and row.beat > self.row.beat:
                self.row = row  # and not one from before a commit that was told of meanwhile
            case Beat():
                pass
        self._answered_at = now
        if row is not None:
            self.term = max(self.term, row.term)

    def committed(self, term: int, row: Row, now: float) -> None:
        """A commit of `term` went through, which moved the beat as well."""
        if term == self.held:
            self.row, self._answered_at = row, now

    def lost(self, gave_up: bool = False) -> None:
        """The database did not answer, or said that the term is another's: what is under way is not known.

        The next answer begins everything anew. `gave_up`: this node left the term, and does not take it back at once.
        """
        self.held, self._gave_up = None, gave_up
        self._forget(None)

    def _forget(self, row: Row | None) -> None:
        self.row, self._unmoved_s, self._patience_s = row, 0.0, self._draw()

    def _seen(self, row: Row | None, asked_at: float, now: float) -> None:
        before = self.row
        if row is not None and row.holder != NOBODY:
            self._gave_up = False
        if row is None or before is None or (row.term, row.beat) != (before.term, before.beat):
            self._forget(row)
            self._counted_at = now
            return
        # What lies between two looks counts for two ticks at most: time in which this node or the database slept says
        # nothing of the holder.
        self._unmoved_s += min(max(0.0, asked_at - self._counted_at), 2 * self._tick_s)
        self._counted_at = asked_at
        self.row = row
