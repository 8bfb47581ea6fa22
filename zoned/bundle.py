"""A support bundle: the answers of this daemon that help to understand it from afar, without secrets.

Nothing is taken from files: keyrings and tokens never pass an API, so they cannot get in. What could still tell too
much is masked (user names and passwords in URLs), and no image record is asked for.
"""

import io
import json
import platform
import re
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from zoned import __version__, clock
from zoned.asking import Asker, fail
from zoned.masking import masked as masked_text

PARTS = {
    "status": "/zone/v1/status",
    "health": "/zone/v1/health",
    "zones": "/zone/v1/zones",
    "reachability": "/zone/v1/reachability",
    "gossip": "/zone/v1/gossip",
    "ids": "/zone/v1/ids",
    "config": "/admin/v1/config",
    "log": "/admin/v1/log",
}
_SECRET_KEY = re.compile(r"secret|password|token|private|key$", re.IGNORECASE)


def masked(document: Any) -> Any:
    """The document without what may be secret: values of keys that sound so, and credentials in URLs."""
    if isinstance(document, dict):
        return {key: _value(str(key), value) for key, value in document.items()}
    if isinstance(document, list):
        return [masked(one) for one in document]
    return masked_text(document) if isinstance(document, str) else document


def _value(key: str, value: Any) -> Any:
    # A setting's own name stands under "key"; its value under "value" beside it.
    return "***" if _SECRET_KEY.search(key) and key != "key" and isinstance(value, str) and value else masked(value)


def write(asker: Asker, file: Path) -> int:
    """Writes the bundle; how many parts it has. Ends the process when the daemon does not answer or FILE exists."""
    parts = dict(_parts(asker))
    try:
        with file.open("xb") as out, tarfile.open(fileobj=out, mode="w:gz") as archive:
            file.chmod(0o600)
            for name, data in parts.items():
                entry = tarfile.TarInfo(f"zoned-support/{name}")
                entry.size, entry.mtime, entry.mode = len(data), int(clock.wall()), 0o600
                archive.addfile(entry, io.BytesIO(data))
    except FileExistsError:
        fail(f"{file} exists; name another file", 5)
    except OSError as error:
        fail(f"{file} cannot be written: {error.strerror}", 1)
    return len(parts)


def _parts(asker: Asker) -> Iterator[tuple[str, bytes]]:
    about = {"zonectl": __version__, "python": sys.version, "system": platform.platform()}
    yield "about.json", _json(about)
    for name, path in PARTS.items():
        yield f"{name}.json", _json(masked(asker.get(path)))
    _, _, text = asker.raw("GET", "/metrics")
    yield "metrics.txt", str(text).encode()


def _json(document: Any) -> bytes:
    return json.dumps(document, indent=2, ensure_ascii=False).encode() + b"\n"
