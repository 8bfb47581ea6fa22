"""A real Glance on PostgreSQL, for comparison: installed into a venv of its own, run by uWSGI, filled by SQL.

Its requests are not authenticated; who asks is told by headers, as Glance's own `trusted` pipelines took it: without
that, its default pipeline builds a policy enforcer per request, which costs it a third of its time.
"""

import getpass
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

VERSION = "33.0.0"
PACKAGES = (f"glance=={VERSION}", "uwsgi==2.0.31", "psycopg2-binary==2.9.13", "python-memcached==1.62")
WORKERS = 2
START_S = 60.0
PROJECT = "p1"
HEADERS = {
    "X-Identity-Status": "Confirmed",
    "X-User-Id": "u1",
    "X-Project-Id": PROJECT,
    "X-Tenant-Id": PROJECT,
    "X-Roles": "member,reader",
}
PASTE = """
[composite:glance-api]
paste.composite_factory = glance.api:root_app_factory
/: api
[composite:api]
paste.composite_factory = glance.api:pipeline_factory
default = versionnegotiation context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:versionnegotiation]
paste.filter_factory = glance.api.middleware.version_negotiation:VersionNegotiationFilter.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""


class PeerError(Exception):
    """Glance or its database could not be installed or started; the text says what is missing."""


def run(words: Sequence[str | Path], **more: object) -> str:
    done = subprocess.run([str(word) for word in words], capture_output=True, text=True, check=False, **more)  # type: ignore[call-overload]  # passed on
    if done.returncode:
        raise PeerError(f"{' '.join(map(str, words))[:300]} failed:\n{(done.stdout + done.stderr)[-2_000:]}")
    return str(done.stdout)


def install(venv: Path) -> None:
    """Glance into `venv`, once."""
    if not (venv / "bin" / "uwsgi").exists():
        run([sys.executable, "-m", "venv", venv])
        run([venv / "bin" / "pip", "install", "--quiet", "--disable-pip-version-check", *PACKAGES])


def postgres_bin() -> Path:
    """Where PostgreSQL's programs are."""
    named = shutil.which("initdb")
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    if named is None and not found:
        raise PeerError("PostgreSQL is not installed; on Debian: apt-get install postgresql")
    return Path(named).resolve().parent if named is not None else found[-1].parent


@contextmanager
def database(directory: Path, port: int) -> Iterator[str]:
    """A PostgreSQL of its own with an empty database; its URL. As root it runs as the user `postgres`."""
    programs, home = postgres_bin(), directory / "pg"
    home.mkdir(parents=True)
    shell: list[str | Path] = []
    user = getpass.getuser()
    if os.geteuid() == 0:
        user = "postgres"
        shutil.chown(home, user)
        for above in (directory, *directory.parents):
            if above.owner() == "root" and above != Path("/") and not above.stat().st_mode & 0o001:
                above.chmod(above.stat().st_mode | 0o011)
        shell = ["runuser", "-u", user, "--"]
    run([*shell, programs / "initdb", "-D", home / "data", "-A", "trust", "-U", user], cwd="/")
    options = f"-p {port} -k {home} -c listen_addresses=127.0.0.1 -c max_connections=100"
    run([*shell, programs / "pg_ctl", "-D", home / "data", "-w", "-l", home / "log", "-o", options, "start"], cwd="/")
    try:
        run([*shell, programs / "createdb", "-h", "127.0.0.1", "-p", str(port), "glance"], cwd="/")
        yield f"postgresql://{user}@127.0.0.1:{port}/glance"
    finally:
        run([*shell, programs / "pg_ctl", "-D", home / "data", "-m", "immediate", "stop"], cwd="/")


@contextmanager
def glance(venv: Path, directory: Path, url: str, port: int, workers: int = WORKERS) -> Iterator[str]:
    """Glance's API server on uWSGI; its URL."""
    paste, config = directory / "paste.ini", directory / "glance-api.conf"
    paste.write_text(PASTE)
    (directory / "images").mkdir()
    config.write_text(
        f"[DEFAULT]\nlog_file = {directory / 'glance.log'}\nimage_cache_dir = {directory / 'cache'}\n"
        f"[database]\nconnection = {url.replace('postgresql://', 'postgresql+psycopg2://')}\n"
        f"[glance_store]\nstores = file\ndefault_store = file\nfilesystem_store_datadir = {directory / 'images'}\n"
        f"[paste_deploy]\nconfig_file = {paste}\n"
    )
    run([venv / "bin" / "glance-manage", "--config-file", config, "db", "sync"])
    words = [
        *(venv / "bin" / "uwsgi", "--http", f"127.0.0.1:{port}", "--master", "--processes", str(workers)),
        *("--module", "glance.wsgi.api:application", "--venv", venv, "--die-on-term", "--lazy-apps"),
        *(
            "--http-keepalive",
            "--http-timeout",
            "120",
            "--buffer-size",
            "65535",
            "--disable-logging",
            "--listen",
            "100",
        ),
    ]
    with (directory / "uwsgi.log").open("wb") as log:
        process = subprocess.Popen(
            [str(word) for word in words],
            stdout=log,
            stderr=log,
            env={**os.environ, "OS_GLANCE_CONFIG_DIR": str(directory), "OS_GLANCE_CONFIG_FILES": str(config)},
        )
    try:
        found = f"http://127.0.0.1:{port}"
        _await(found, process, directory / "uwsgi.log")
        yield found
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(15)
        except subprocess.TimeoutExpired:  # it waits for workers that wait for the database
            process.send_signal(signal.SIGINT)
            process.wait(15)


def _await(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    due = time.monotonic() + START_S
    while time.monotonic() < due and process.poll() is None:
        request = urllib.request.Request(f"{url}/v2/images?limit=1", headers=HEADERS)
        with suppress(urllib.error.URLError, ConnectionError), urllib.request.urlopen(request, timeout=20):
            return
        time.sleep(0.2)
    raise PeerError(f"Glance did not start; its log ends:\n{log.read_text(errors='replace')[-2_000:]}")


def fill(url: str, count: int) -> None:
    """`count` images of 10 properties and 2 tags, as `bench.glance` makes them for zoned."""
    statements = f"""
    INSERT INTO images (id, name, size, status, visibility, created_at, updated_at, deleted, min_disk, min_ram,
                        protected, os_hidden, owner, disk_format, container_format)
      SELECT md5(n::text)::uuid::text, 'image-' || n, n, 'queued', 'shared', now() - n * interval '1 second', now(),
             false, 1, 1, false, false, '{PROJECT}', 'raw', 'bare' FROM generate_series(1, {count}) AS n;
    INSERT INTO image_properties (image_id, name, value, created_at, updated_at, deleted)
      SELECT md5(n::text)::uuid::text, 'p' || k, 'v' || (n / power(10, k % 4)::int) % 10, now(), now(), false
      FROM generate_series(1, {count}) AS n, generate_series(0, 9) AS k;
    INSERT INTO image_tags (image_id, value, created_at, updated_at, deleted)
      SELECT md5(n::text)::uuid::text, t, now(), now(), false
      FROM generate_series(1, {count}) AS n, LATERAL (VALUES ('t' || n % 100), ('u' || n % 7)) AS x(t);
    ANALYZE;
    """
    run(["psql", "-q", "-v", "ON_ERROR_STOP=1", url, "-c", statements])
