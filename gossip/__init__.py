"""Who is there: SWIM membership over UDP, sans-IO core and trio shell. `open_gossip` is the way in."""

from gossip.codec import VERSION as PROTOCOL
from gossip.credentials import Credentials
from gossip.effects import Change, Copied, Effect, Exchange, Notice, Notify, Refusal, Send, Superseded, Why
from gossip.errors import (
    AddressTaken,
    BadIdentity,
    CodecError,
    ExchangeFailed,
    GossipError,
    IdentityTaken,
    KeyringError,
    Malformed,
    NotAFrame,
    NotAlone,
    Oversize,
    Starting,
    WrongLabel,
    WrongVersion,
)
from gossip.exchange import Post
from gossip.keyring import Key, Keyring, Role
from gossip.members import Event, MemberView
from gossip.messages import Address, Entry, Facts, FactValue, Member, State
from gossip.node import Gossip, Security, Subscription, open_gossip
from gossip.options import GossipOptions
from gossip.sealing import Sealing
from gossip.swim import Swim

__all__ = [
    "PROTOCOL",
    "Address",
    "AddressTaken",
    "BadIdentity",
    "Change",
    "CodecError",
    "Copied",
    "Credentials",
    "Effect",
    "Entry",
    "Event",
    "Exchange",
    "ExchangeFailed",
    "FactValue",
    "Facts",
    "Gossip",
    "GossipError",
    "GossipOptions",
    "IdentityTaken",
    "Key",
    "Keyring",
    "KeyringError",
    "Malformed",
    "Member",
    "MemberView",
    "NotAFrame",
    "NotAlone",
    "Notice",
    "Notify",
    "Oversize",
    "Post",
    "Refusal",
    "Role",
    "Sealing",
    "Security",
    "Send",
    "Starting",
    "State",
    "Subscription",
    "Superseded",
    "Swim",
    "Why",
    "WrongLabel",
    "WrongVersion",
    "open_gossip",
]
