"""The clockwork of gossip: every interval, count and size in one frozen value, and the two profiles.

The intuition behind the numbers: detection time = (time until someone probes the dead) + one probe interval +
the suspicion time. The probe interval is what the network can afford; the suspicion time is what a healthy but slow
member needs to hear the accusation and answer it. `lan` suits one building, `wan` zones that are tens to hundreds of
milliseconds apart. Sans-IO.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class GossipOptions:
    """Seconds are suffixed `_s`, bytes `_bytes`; the defaults are the `lan` profile."""

    probe_interval_s: float = 0.75  # one member is probed per interval, stretched by bad local health
    probe_timeout_s: float = 0.3  # direct ping unanswered for so long: ask helpers; shortened by a known round trip
    probe_timeout_min_s: float = 0.1
    indirect_probes: int = 3  # helpers asked
    suspicion_mult: float = 4.0  # shortest suspicion = mult * max(1, log10 members) * probe interval
    suspicion_max_mult: float = 6.0  # longest = so many times the shortest, when nobody confirms
    confirmations: int = 2  # distinct confirmers, besides the first accuser, that bring it down to the shortest
    health_max: int = 8  # worst local health: probing becomes so many times slower
    gossip_interval_s: float = 0.1  # one round of broadcasts per interval, sooner for what is new; none without news
    fanout: int = 3  # members told per round
    retransmit_mult: float = 3.0  # one broadcast is sent ceil(mult * log2(members + 1)) times by each member
    gossip_to_dead_s: float = 30.0  # the recently dead still hear gossip, so that a wrong verdict is refuted
    publish_interval_s: float = 0.5  # changes of own facts are broadcast at most so often; the first one at once
    exchange_interval_s: float = 30.0  # full state with one random member, besides what the digests on acks find
    exchange_timeout_s: float = 5.0
    exchanges_max: int = 8  # full exchanges in flight that we started
    caution_s: float = 1.0  # a start waits so long at most to learn whether its ID or address runs elsewhere
    redial_min_s: float = 0.1  # back-off of dialling seeds, the book and the dead: first pause ...
    redial_max_s: float = 30.0  # ... and the longest, kept for ever
    left_keep_s: float = 86_400.0  # a member that left is remembered so long, so that old news cannot revive it
    members_max: int = 4096
    stream_only: bool = False  # no UDP at all: every packet is an HTTP POST to the same port, and the peers are told so
    seal_bytes: int = 0  # kept free in every datagram
    datagram_bytes: int = 1232  # under the smallest usual path MTU (IPv6: 1280) with room for a seal
    notices_max: int = 256  # waiting per subscriber; then the oldest is dropped and counted

    def __post_init__(self) -> None:
        if not 0 < self.probe_timeout_s < self.probe_interval_s:
            raise ValueError("probe_timeout_s must lie between 0 and probe_interval_s, or helpers get no time")
        if self.datagram_bytes < 1232:
            raise ValueError("datagram_bytes must be at least 1232, or the longest member would not fit")

    @classmethod
    def lan(cls) -> "GossipOptions":
        return cls()

    @classmethod
    def wan(cls) -> "GossipOptions":
        return cls(
            probe_interval_s=2.0,
            probe_timeout_s=0.8,
            probe_timeout_min_s=0.2,
            suspicion_mult=3.5,
            gossip_interval_s=0.25,
            publish_interval_s=1.0,
            exchange_interval_s=60.0,
            exchange_timeout_s=15.0,
            caution_s=3.0,
            redial_min_s=0.25,
            redial_max_s=60.0,
            gossip_to_dead_s=60.0,
        )
