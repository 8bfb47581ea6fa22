"""`zoned`: run, check, init, doctor, demo, restore. Every failure is one line that names the thing to change."""

import gc
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

import click

from conf import Config, ConfigError, load
from zoned import __version__

CONFIG = click.option(
    "-c",
    "--config",
    "path",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="TOML file; without it one zone on loopback.",
)


def fail(text: str, status: int) -> NoReturn:
    for line in text.splitlines():
        click.echo(f"zoned: {line}", err=True)
    sys.exit(status)


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, "-V", "--version", prog_name="zoned")
def main() -> None:
    """Image metadata in every zone: found everywhere, numbered once, writable while the registry is away."""


@main.command()
@CONFIG
def run(path: Path | None) -> None:
    """Serve this zone until SIGTERM."""
    with _lean_imports():
        import trio

        from gossip import NotAlone
        from store.errors import CannotOpen, WriterEnded
        from zoned import daemon, logs
        from zoned.errors import CannotStart, StoreDamaged
        from zoned.settings import Settings

    config = _load(path)
    settings = Settings(config, path)
    logs.set_up(config.log.level, config.log.format)
    settings.listen(lambda changed: logs.set_level(changed.log.level))
    daemon.secure_umask()
    try:
        trio.run(daemon.run, settings)
    except BaseExceptionGroup as group:
        expected = [
            error for error in leaves(group) if isinstance(error, CannotOpen | CannotStart | NotAlone | StoreDamaged)
        ]
        if expected:
            fail(str(expected[0]), 1)
        quiet = (KeyboardInterrupt, WriterEnded)  # what others say because of the error
        errors = [error for error in leaves(group) if not isinstance(error, quiet)]
        if not errors:
            sys.exit(130)
        _last_words(config, errors)


@contextmanager
def _lean_imports() -> Iterator[None]:
    """For the imports of a daemon, which should be up soon and stay small."""
    gc.disable()  # of what is imported nothing goes away: looking for it costs a tenth of the start
    # Libraries take rich to draw tracebacks if it can be imported; a daemon draws nothing, and it is 5 MiB and 50 ms.
    hidden = "rich" not in sys.modules
    if hidden:
        sys.modules["rich"] = None  # type: ignore[assignment]  # the import system's word for "not to be found"
    try:
        yield
    finally:
        if hidden:
            del sys.modules["rich"]
        gc.freeze()
        # Requests leave few cycles and many objects: to look for them as often as Python does took a tenth of a write.
        gc.set_threshold(20_000, 20, 20)
        gc.enable()


def _last_words(config: Config, errors: list[BaseException]) -> NoReturn:
    """The unexpected ends the daemon; the store is crash-safe and the service manager starts it again."""
    import structlog

    logger = structlog.get_logger()
    for error in errors:
        debug = config.log.level == "debug"
        logger.error(
            "ended by an unexpected error",
            problem=f"{type(error).__name__}: {error}",
            exc_info=error if debug else None,
        )
    fail(f"ended by an unexpected error: {type(errors[0]).__name__}: {errors[0]}", 1)


def leaves(error: BaseException) -> Iterator[BaseException]:
    """Every single error in a tree of groups."""
    if isinstance(error, BaseExceptionGroup):
        for inner in error.exceptions:
            yield from leaves(inner)
    else:
        yield error


@main.command()
@CONFIG
def check(path: Path | None) -> None:
    """Say what is wrong with a configuration, all of it. Exit status 2 if anything is."""
    config = _load(path)
    click.echo(f"{path or 'the defaults'}: zone {config.node.zone!r}, no mistakes")


@main.command()
@CONFIG
@click.option("--set", "settings", multiple=True, metavar="KEY=VALUE", help="A setting of the new file.")
@click.option("--file-only", is_flag=True, help="Leave the data directory to the first start.")
def init(path: Path | None, settings: tuple[str, ...], file_only: bool) -> None:
    """Make what a node needs before its first start: FILE, data directory, identity. Nothing is overwritten."""
    from store.errors import StoreError
    from zoned.init import chosen, load_or_default, make_file, make_node

    try:
        if settings and path is None:
            raise click.UsageError("--set needs a file to write to: add -c FILE")
        if path is not None:
            written = make_file(path, chosen(settings))
            click.echo(f"{path}: {'written' if written else 'there already, left as it is'}")
        config = load_or_default(path)
        if not file_only:
            directory, me = make_node(config)
            click.echo(f"{directory}: node {me.node_id} of zone {me.zone}")
    except ConfigError as error:
        fail(str(error), 2)
    except StoreError as error:
        fail(str(error), 1)


@main.command()
@CONFIG
def doctor(path: Path | None) -> None:
    """Look for what stands in the way: disk, ports, peers, clock, packages. Exit status 1 if anything does."""
    from zoned.doctor import Verdict, examine

    worst = 0
    for found in examine(_load(path)):
        click.echo(f"{found.verdict.value:<5} {found.about:<9} {found.text}")
        worst |= found.verdict is Verdict.FAIL
    sys.exit(worst)


@main.command()
@click.option("--zones", type=click.IntRange(3, 7), default=3, show_default=True, help="How many zones to start.")
@click.option("--keep", is_flag=True, help="Leave the zones running and print how to reach and stop them.")
@click.option(
    "--engine",
    type=click.Choice(["embedded", "postgresql"]),
    default="embedded",
    help="What orders the writes; postgresql: a server is started for the demo.",
)
def demo(zones: int, keep: bool, engine: str) -> None:
    """Start zones on loopback and tell the whole story, checking every claim."""
    from zoned.demo import main as tell

    if keep and engine == "postgresql":
        raise click.UsageError("--keep goes with --engine embedded only: the demo's PostgreSQL ends with it")
    sys.exit(tell(zones, keep, engine))


@main.command()
@click.argument("name")
@click.option("--project", help="ID of the project that it speaks for; none: no project.")
@click.option("--role", "roles", multiple=True, help="A role: member, reader, auditor, service, admin. Repeatable.")
@click.option("--days", type=click.IntRange(1, 36_500), help="It ends after so many days; without it never.")
def token(name: str, project: str | None, roles: tuple[str, ...], days: int | None) -> None:
    """Make a token for NAME: the token on standard error, its entry for auth.tokens_file on standard output.

    \b
    zoned token backup-worker --project p1 --role member >> tokens.toml
    """
    import secrets

    from zoned import clock
    from zoned.auth.tokens import entry_text

    made = secrets.token_urlsafe(32)
    expires = clock.wall() + days * 86_400.0 if days is not None else None
    click.echo(entry_text(name, made, project, list(roles or ("member",)), expires))
    click.echo(f"zoned: the token of {name}, shown only now: {made}", err=True)


@main.command()
@CONFIG
@click.argument("backup", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--integers-burnt",
    type=click.IntRange(0),
    default=None,
    help="How far above the backup's the integer counter goes on.",
)
def restore(path: Path | None, backup: Path, integers_burnt: int | None) -> None:
    """Make this node's empty data directory from BACKUP, as the first node of a new cluster.

    The other nodes get empty data directories and registry.expect = 0, and join it.
    """
    import uuid

    from store import snapshot
    from store.database import lock_directory
    from store.errors import StoreError
    from zoned import paths
    from zoned.membership import load_credentials

    config = _load(path)
    directory = paths.data_dir(config)
    burnt = snapshot.INTEGERS_BURNT if integers_burnt is None else integers_burnt
    try:
        with lock_directory(directory):
            found = snapshot.describe(backup)
            said = snapshot.check(backup)
            snapshot.check_empty(directory / "zoned.db")
            own = load_credentials(directory, config.gossip.label, is_new=True)
            where = (config.node.zone, config.gossip.label)
            counter = snapshot.restore(backup, directory / "zoned.db", burnt, str(uuid.uuid4()), own.node_id, where)
    except StoreError as error:
        fail(str(error), 1)
    click.echo(f"{said.images} images as of position {found.position}, hash {said.digest}")
    click.echo(f"restored into {directory}; the next integer granted is {counter}")


def _load(path: Path | None) -> Config:
    try:
        return load(path)
    except ConfigError as error:
        fail(str(error), 2)
