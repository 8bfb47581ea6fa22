"""Hearsay about vitals: who reported something new of late, to be mentioned in passing. Sans-IO.

Every ping and ack carries the vitals of its sender, and a few that the sender heard of others. In a small cluster that
makes a position known everywhere within a few probe intervals; in a large one it costs no more bytes, only freshness.
"""

from collections import deque

MENTIONED_MAX = 3  # vitals of others per packet
MENTIONS = 2  # times that each piece of news is repeated
WAITING_MAX = 64


class Grapevine:
    """Members whose newest vitals are still to be repeated; the newest news first."""

    def __init__(self) -> None:
        self._waiting: deque[tuple[str, int]] = deque(maxlen=WAITING_MAX)

    def heard(self, node_id: str) -> None:
        self._drop(node_id)
        self._waiting.appendleft((node_id, MENTIONS))

    def take(self, exclude: str) -> list[str]:
        """Whose vitals to mention now, to anybody but `exclude`."""
        taken = [one for one in self._waiting if one[0] != exclude][:MENTIONED_MAX]
        for node_id, left in taken:
            self._drop(node_id)
            if left > 1:
                self._waiting.append((node_id, left - 1))
        return [node_id for node_id, _ in taken]

    def _drop(self, node_id: str) -> None:
        self._waiting = deque((one for one in self._waiting if one[0] != node_id), maxlen=WAITING_MAX)
