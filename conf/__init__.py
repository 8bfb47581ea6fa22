"""What was asked: one TOML file becomes frozen dataclasses, or every mistake in it at once."""

from conf.loader import ConfigError, load, parse
from conf.schema import (
    Admin,
    Config,
    Gossip,
    Http,
    Idempotency,
    Ids,
    Journal,
    Log,
    Mistake,
    Node,
    Peers,
    Registry,
    Security,
    split_address,
)

__all__ = [
    "Admin",
    "Config",
    "ConfigError",
    "Gossip",
    "Http",
    "Idempotency",
    "Ids",
    "Journal",
    "Log",
    "Mistake",
    "Node",
    "Peers",
    "Registry",
    "Security",
    "load",
    "parse",
    "split_address",
]
