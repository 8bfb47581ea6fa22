"""What was asked: one TOML file becomes frozen dataclasses, or every mistake in it at once."""

from conf.loader import ConfigError, load, parse
from conf.schema import (
    Admin,
    Config,
    Gossip,
    Http,
    Ids,
    Journal,
    Log,
    Mistake,
    Node,
    Peers,
    Presence,
    Registry,
    Security,
    split_address,
)
from conf.schema import name as name_problem

__all__ = [
    "Admin",
    "Config",
    "ConfigError",
    "Gossip",
    "Http",
    "Ids",
    "Journal",
    "Log",
    "Mistake",
    "Node",
    "Peers",
    "Presence",
    "Registry",
    "Security",
    "load",
    "name_problem",
    "parse",
    "split_address",
]
