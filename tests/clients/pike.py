"""A real Glance 15.0.2 (Pike, the last release with the v1 API) whose registry is zoned: `make interop-pike`.

It needs Python 2.7 and installs into a virtual environment of its own, so it is no part of the suite; the shapes of
what Glance asks its registry are in tests/zoned/api/test_registry_v1.py. Image bytes stay in Glance's store, all
metadata is zoned's. Prints one line for each thing that was tried; the first that fails ends it.
"""

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import httpx

from zoned.fleet import free_ports

# What still works with Python 2.7; newer ones of these say so and do not.
PINS = """bcrypt<3.2 cffi<1.15.1 debtcollector<2 futurist<2 greenlet<2 importlib-metadata<3 msgpack<1 netaddr<0.9
netifaces<0.12 networkx<2.3 prettytable<2 psutil<5.9 pyparsing<3 pyperclip<1.8 pyrsistent<0.17 python-editor<1.1
Mako<1.2 PyYAML<6 repoze.lru<0.8 rfc3986<2 setuptools-scm<6 simplegeneric<0.9 tempita<0.6 wrapt<1.13 xattr<0.10
zipp<2"""
PASTE = """
[pipeline:glance-api]
pipeline = context rootapp
[composite:rootapp]
paste.composite_factory = glance.api:root_app_factory
/: apiversions
/v1: apiv1app
/v2: apiv2app
[app:apiversions]
paste.app_factory = glance.api.versions:create_resource
[app:apiv1app]
paste.app_factory = glance.api.v1.router:API.factory
[app:apiv2app]
paste.app_factory = glance.api.v2.router:API.factory
[filter:context]
paste.filter_factory = glance.api.middleware.context:ContextMiddleware.factory
"""
START_S = 60.0
BLOB = os.urandom(100_000)
OWNER = {"X-Identity-Status": "Confirmed", "X-User-Id": "u1", "X-Tenant-Id": "p1", "X-Roles": "admin"}
OTHER = {"X-Identity-Status": "Confirmed", "X-User-Id": "u2", "X-Tenant-Id": "p2", "X-Roles": "member"}
RAW = {"x-image-meta-disk_format": "raw", "x-image-meta-container_format": "bare"}
BYTES = {"Content-Type": "application/octet-stream"}
KEEP = {"x-glance-registry-purge-props": "false"}


def install(venv: Path, python: str) -> None:
    """Glance 15.0.2 under Python 2.7, once. `virtualenv` below 20.22 is the last that makes such environments."""
    if (venv / "bin" / "glance-api").exists():
        return
    tool = venv.with_name(venv.name + "-tool")
    constraints = venv.with_name(venv.name + "-constraints.txt")
    constraints.write_text("\n".join(PINS.split()) + "\n")
    for words in (
        [sys.executable, "-m", "venv", tool],
        [tool / "bin" / "pip", "install", "--quiet", "virtualenv<20.22"],
        [tool / "bin" / "virtualenv", "--quiet", "-p", python, venv],
        [venv / "bin" / "pip", "install", "--quiet", "-c", constraints, "glance==15.0.2"],
    ):
        subprocess.run([str(word) for word in words], check=True)


@contextmanager
def running(words: list[str], log: Path, url: str, headers: Mapping[str, str]) -> Iterator[None]:
    """A process until the end of the block, from when it answers at `url`."""
    with log.open("wb") as output:
        process = subprocess.Popen(words, stdout=output, stderr=output)
    try:
        due = time.monotonic() + START_S
        while True:
            try:
                httpx.get(url, headers=dict(headers), timeout=5, trust_env=False).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.monotonic() > due:
                    sys.exit(f"{words[0]} did not start; its log ends:\n{log.read_text(errors='replace')[-2_000:]}")
                time.sleep(0.2)
        yield
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def both(venv: Path) -> Iterator[tuple[httpx.Client, httpx.Client]]:
    """Clients of Glance's own API and of the zone behind it."""
    with tempfile.TemporaryDirectory(prefix="zoned-pike-") as name:
        directory = Path(name)
        http, registry, peers, glance = free_ports(4)
        (directory / "images").mkdir()
        (directory / "zoned.toml").write_text(
            f'[node]\ndata_dir = "{directory / "data"}"\n[peers]\nlisten = "127.0.0.1:{peers}"\n'
            f'[http]\nlisten = "127.0.0.1:{http}"\nregistry_listen = "127.0.0.1:{registry}"\n'
        )
        (directory / "paste.ini").write_text(PASTE)
        (directory / "policy.json").write_text('{"default": "", "publicize_image": "role:admin"}')
        (directory / "glance.conf").write_text(
            f"[DEFAULT]\nbind_host = 127.0.0.1\nbind_port = {glance}\nworkers = 0\nenable_v1_api = true\n"
            f"registry_host = 127.0.0.1\nregistry_port = {registry}\nsend_identity_headers = true\n"
            f"lock_path = {directory}\n[database]\nconnection = sqlite:///{directory / 'unused'}\n"
            f"[glance_store]\nstores = file,http\ndefault_store = file\n"
            f"filesystem_store_datadir = {directory / 'images'}\n"
            f"[paste_deploy]\nconfig_file = {directory / 'paste.ini'}\n"
            f"[oslo_policy]\npolicy_file = {directory / 'policy.json'}\n"
        )
        zone_words = [sys.executable, "-m", "zoned", "run", "-c", str(directory / "zoned.toml")]
        glance_words = [str(venv / "bin" / "glance-api"), "--config-file", str(directory / "glance.conf")]
        zone_url, glance_url = f"http://127.0.0.1:{http}", f"http://127.0.0.1:{glance}"
        with (
            running(zone_words, directory / "zoned.log", f"{zone_url}/readyz", {}),
            running(glance_words, directory / "glance.log", f"{glance_url}/v1/images", OWNER),
            httpx.Client(base_url=glance_url, timeout=30, trust_env=False) as api,
            httpx.Client(base_url=zone_url, timeout=30, trust_env=False) as zone,
        ):
            yield api, zone


def done(what: str, answer: httpx.Response, *statuses: int) -> httpx.Response:
    if answer.status_code not in statuses:
        sys.exit(f"{what}: {answer.status_code}, not {statuses}\n{answer.text[:2_000]}")
    print(f"{what}: {answer.status_code}", flush=True)
    return answer


def upload(api: httpx.Client, name: str, **meta: str) -> str:
    headers = {**OWNER, **RAW, **BYTES, "x-image-meta-name": name}
    headers |= {f"x-image-meta-{key}": value for key, value in meta.items()}
    made = done(f"upload {name}", api.post("/v1/images", content=BLOB, headers=headers), 201).json()["image"]
    assert (made["status"], made["size"]) == ("active", len(BLOB))
    assert made["checksum"] == hashlib.md5(BLOB, usedforsecurity=False).hexdigest()
    return str(made["id"])


def try_all(api: httpx.Client, zone: httpx.Client) -> None:
    public = upload(api, "public", is_public="true", **{"property-base": "b1"})
    path = f"/v1/images/{public}"
    assert done("download by another project", api.get(path, headers=OTHER), 200).content == BLOB
    head = done("head", api.head(path, headers=OTHER), 200).headers
    assert (head["x-image-meta-name"], head["x-image-meta-property-base"]) == ("public", "b1")
    there = done("the same in zoned", zone.get(f"/v2/images/{public}"), 200).json()
    assert (there["size"], there["base"], there["locations"][0]["url"][:8]) == (len(BLOB), "b1", "file:///")
    change = {**OWNER, "x-image-meta-name": "renamed", "x-image-meta-property-new": "n"}
    renamed = done("update", api.put(path, headers=change), 200).json()["image"]
    assert (renamed["name"], renamed["properties"]) == ("renamed", {"new": "n"})
    listed = done("list by property", api.get("/v1/images/detail?property-new=n", headers=OTHER), 200).json()["images"]
    assert [one["id"] for one in listed] == [public]

    private = upload(api, "private")
    done("a private image is not there for others", api.get(f"/v1/images/{private}", headers=OTHER), 404)
    done("share", api.put(f"/v1/images/{private}/members/p2", headers=OWNER), 200, 204)
    members = done("members", api.get(f"/v1/images/{private}/members", headers=OWNER), 200).json()
    assert members == {"members": [{"member_id": "p2", "can_share": False}]}
    assert done("a shared image", api.get(f"/v1/images/{private}", headers=OTHER), 200).content == BLOB
    shared = done("images shared with a project", api.get("/v1/shared-images/p2", headers=OWNER), 200).json()
    assert [one["image_id"] for one in shared["shared_images"]] == [private]
    done("stop sharing", api.delete(f"/v1/images/{private}/members/p2", headers=OWNER), 200, 204)
    done("it is not there again", api.get(f"/v1/images/{private}", headers=OTHER), 404)

    done("protect", api.put(path, headers={**OWNER, **KEEP, "x-image-meta-protected": "true"}), 200)
    done("a protected image is not deleted", api.delete(path, headers=OWNER), 403)
    done("unprotect", api.put(path, headers={**OWNER, **KEEP, "x-image-meta-protected": "false"}), 200)
    done("delete", api.delete(path, headers=OWNER), 200)
    done("it is gone", api.get(path, headers=OWNER), 404)
    done("gone in zoned", zone.get(f"/zone/v1/images/{public}"), 410)

    queued = done("reserve", api.post("/v1/images", headers={**OWNER, **RAW}), 201).json()["image"]["id"]
    late = done("upload later", api.put(f"/v1/images/{queued}", content=BLOB, headers={**OWNER, **BYTES}), 200)
    assert late.json()["image"]["status"] == "active"
    done("upload twice", api.put(f"/v1/images/{queued}", content=BLOB, headers={**OWNER, **BYTES}), 409)
    chosen = {**OWNER, **RAW, "x-image-meta-id": str(uuid.uuid4())}
    done("an ID of one's own", api.post("/v1/images", headers=chosen), 201)
    done("the same ID again", api.post("/v1/images", headers=chosen), 409)
    done("a marker that is none", api.get(f"/v1/images?marker={public}", headers=OWNER), 400)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--venv", type=Path, default=Path(".venv-glance15"), help="where Glance 15 is, or is installed")
    parser.add_argument("--python", default="python2.7", help="a Python 2.7")
    arguments = parser.parse_args()
    venv = arguments.venv.absolute()
    install(venv, arguments.python)
    with both(venv) as (api, zone):
        try_all(api, zone)
    print("all of it works")


if __name__ == "__main__":
    main()
