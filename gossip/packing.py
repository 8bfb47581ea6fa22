"""What goes into one datagram besides what it is for: own vitals, as much news as fits, hearsay. Sans-IO."""

from collections.abc import Sequence

from gossip.broadcasts import Broadcasts
from gossip.codec import PARTS_MAX, part_bytes
from gossip.members import Members
from gossip.messages import Ack, Part, Ping, Vitals
from gossip.vitals import MENTIONED_MAX, Grapevine


class Packing:
    """Fills datagrams whose parts may take `room_bytes`."""

    def __init__(self, members: Members, news: Broadcasts, grapevine: Grapevine, room_bytes: int) -> None:
        self._members = members
        self._news = news
        self._grapevine = grapevine
        self._room_bytes = room_bytes

    def fill(self, node_id: str, parts: Sequence[Part]) -> tuple[Part, ...]:
        """The parts of a datagram to this member: those given, and what may ride along."""
        content = list(parts)
        chats = any(isinstance(part, Ping | Ack) for part in parts)
        room = self._room_bytes - sum(part_bytes(part) for part in content)
        if chats:
            room -= self._mention(self._members.me, content, room)
        news = self._news.take(room, self._members.up_count, PARTS_MAX - len(content) - MENTIONED_MAX)
        content += [claim for claim in news if claim not in content]
        room -= sum(part_bytes(claim) for claim in news)
        for other in self._grapevine.take(node_id) if chats else ():
            room -= self._mention(other, content, room)
        return tuple(content)

    def _mention(self, node_id: str, content: list[Part], room: int) -> int:
        """Append this member's vitals if there are any and they fit; the bytes they take."""
        view = self._members.views.get(node_id)
        if view is None or view.beat == 0:
            return 0
        vitals = Vitals(node_id, view.generation, view.beat, view.vitals)
        size = part_bytes(vitals)
        if size > room:
            return 0
        content.append(vitals)
        return size
