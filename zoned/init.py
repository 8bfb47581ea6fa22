"""`zoned init`: everything that a node needs before its first start, made once and never overwritten.

A configuration file to read and change, the data directory for its owner only, and the node's identity in it.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import tomli

from conf import Config, ConfigError, load, parse
from conf.reference import sample
from conf.schema import Mistake, tables
from store import identity
from store.database import lock_directory, open_writer
from store.errors import CannotOpen
from store.identity import Identity
from zoned import paths
from zoned.membership import check_owner, load_credentials


def chosen(settings: Sequence[str]) -> dict[str, Any]:
    """`KEY=VALUE` pairs as dotted keys and TOML values; what is no TOML is text. Raises ConfigError."""
    found, wrong = {}, []
    known = {f"{table}.{name}" for table, kind in tables() for name in (item.name for item in fields(kind))}
    for setting in settings:
        key, equals, text = setting.partition("=")
        if not equals or key not in known:
            wrong.append(Mistake(key, "is no setting; write KEY=VALUE with a key of docs/configuration.md"))
            continue
        try:
            found[key] = tomli.loads(f"value = {text}")["value"]
        except tomli.TOMLDecodeError:
            found[key] = text
    if wrong:
        raise ConfigError("--set", wrong)
    return found


def make_file(path: Path, values: Mapping[str, Any]) -> bool:
    """Writes the configuration file unless it is there; whether it was written. Raises ConfigError; then it is not."""
    if path.exists():
        if values:
            raise ConfigError(str(path), [Mistake("(file)", "exists already; change it there instead of with --set")])
        return False
    text = sample(values)
    parse(text, str(path))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except OSError as error:
        raise ConfigError(str(path), [Mistake("(file)", f"cannot be written: {error.strerror}")]) from None
    return True


def make_node(config: Config) -> tuple[Path, Identity]:
    """The data directory and who this node is from now on. Raises CannotOpen, as while a daemon runs there."""
    directory = paths.data_dir(config)
    with lock_directory(directory):
        try:
            connection = open_writer(directory / "zoned.db")
        except OSError as error:
            raise CannotOpen(f"{directory} cannot be used: {error.strerror}; check node.data_dir") from None
        try:
            with connection:
                own = load_credentials(directory, config.gossip.label, identity.is_new(connection))
                me = identity.start(connection, own.node_id, config.node.zone, config.gossip.label)
            check_owner(me, own)
        finally:
            connection.close()
    return directory, me


def load_or_default(path: Path | None) -> Config:
    """The file, or the defaults while there is none. Raises ConfigError."""
    return load(path if path is not None and path.exists() else None)
