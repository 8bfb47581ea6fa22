"""What was asked: one TOML file becomes frozen dataclasses, or every mistake in it at once."""

from conf.loader import ConfigError, load, parse
from conf.schema import (
    Admin,
    Audit,
    Auth,
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
    Presence,
    Registry,
    Security,
    is_loopback,
    split_address,
)
from conf.schema import name as name_problem

__all__ = [
    "Admin",
    "Audit",
    "Auth",
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
    "Presence",
    "Registry",
    "Security",
    "is_loopback",
    "load",
    "name_problem",
    "parse",
    "split_address",
]
