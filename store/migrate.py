"""Schema versions: forward from every released one, never backward.

`PRAGMA user_version` holds the schema's number and `PRAGMA application_id` marks the file as ours, so that a store of
another program or of a newer zoned is refused before anything is written.
"""

from importlib.resources import files

import apsw

from store.errors import CannotOpen

APPLICATION_ID = 0x7A6F6E65  # "zone"


def migrations() -> list[str]:
    """The SQL of each version, in order; the first is version 1."""
    folder = files("store.migrations")
    names = sorted(item.name for item in folder.iterdir() if item.name.startswith("v") and item.name.endswith(".sql"))
    return [folder.joinpath(name).read_text(encoding="utf-8") for name in names]


def pragma(connection: apsw.Connection, name: str) -> int:
    value = connection.pragma(name)
    assert isinstance(value, int)
    return value


def migrate(connection: apsw.Connection, path: str) -> int:
    """Brings the schema to this program's version, all or nothing; returns it. Raises CannotOpen otherwise."""
    known = migrations()
    version = pragma(connection, "user_version")
    foreign = pragma(connection, "application_id") != APPLICATION_ID
    if foreign and (version or pragma(connection, "schema_version")):
        raise CannotOpen(f"{path} is a database of another program; set node.data_dir to another directory")
    if version > len(known):
        raise CannotOpen(
            f"{path} has schema version {version}, this zoned knows {len(known)}: start the newer zoned that wrote it"
        )
    if version < len(known):
        with connection:
            for statements in known[version:]:
                connection.execute(statements)
            connection.pragma("application_id", APPLICATION_ID)
            connection.pragma("user_version", len(known))
    return len(known)
