from uuid import UUID

from gossip.codec import decode_exchange, decode_packet
from gossip.keyring import Keyring
from gossip.messages import Ack
from gossip.sealing import Envelope, Sealing
from tests.gossip import protocol


def test_the_page_is_what_the_codec_does() -> None:
    assert protocol.PATH.read_text(encoding="utf-8") == protocol.page()


def test_every_item_is_described() -> None:
    from gossip.codec import _READERS

    assert len(protocol.MEANINGS) == len(_READERS)


def test_the_bytes_on_the_page_are_read_back() -> None:
    blocks = protocol.page().split("```")[1::2]
    ping, state, sealed = (bytes.fromhex(block) for block in blocks)
    assert decode_packet(protocol.LABEL, ping).source == protocol.ME.node_id
    assert decode_exchange(protocol.LABEL, state).source == str(UUID(int=2))
    opened = Envelope(protocol.LABEL, Sealing.REQUIRE, Keyring.fresh(b"\x02" * 32)).open(sealed)
    assert decode_packet(protocol.LABEL, opened.frame).parts == (Ack(7),)
