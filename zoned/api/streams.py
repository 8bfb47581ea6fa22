"""Public images as Simplestreams: `/streams/v1/index.json` and the two product files that it names.

`image-ids` is what clouds publish for tools that ask for "the ID of Ubuntu 22.04 in this region"; `image-downloads` has
those images whose bytes are at an HTTP location and whose digest is known, by a path that leads there. The format is
that of the `simplestreams` package: products by name, versions by date, items of a version.

A product's name is the image's property `product_name` (a version's `version_name`), as `sstream-mirror-glance` sets
them; else it is made of `os_distro`, `os_version` and `architecture`, as `com.ubuntu.cloud:server:22.04:amd64`; else
of the image's name.
"""

from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import replace
from datetime import datetime
from email.utils import format_datetime
from typing import Any

import trio
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from store.images import Image
from store.listing import NEWEST, Query, place
from zoned.api.answers import by_method, reply
from zoned.api.caller import Caller, caller_of
from zoned.zone import Zone

IMAGES_MAX = 5_000  # in the files, the newest
PAGE = 500
DATATYPES = ("image-ids", "image-downloads")
FORMAT = "products:1.0"
# Architectures as these files name them, which is Debian's way.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "i686": "i386", "armv7l": "armhf", "ppc64le": "ppc64el"}
FILE_TYPES = {"qcow2": "disk1.img", "raw": "disk.raw"}
DIGESTS = ("md5", "sha256", "sha512")
Products = dict[str, Any]


def product_of(image: Image) -> tuple[str, dict[str, Any]]:
    """The name of an image's product and what is said of it."""
    said = image.properties
    machine = said.get("architecture", "")
    arch = ARCHITECTURES.get(machine, machine) or "unknown"
    distro, version = said.get("os_distro", "").lower(), said.get("os_version", "")
    about = {"arch": arch, "os": distro or "unknown", "version": version or "unknown"}
    if "product_name" in said:
        return said["product_name"], about
    if distro and version:
        return f"com.{distro}.cloud:server:{version}:{arch}", about
    return f"image:{image.fields['name'] or image.uuid}:{arch}", about


def version_of(image: Image) -> str:
    """Versions of one product sort by it: the date, unless the image names its own."""
    stamp = str(image.fields["created_at"])
    digits = "".join(char for char in stamp if char.isdigit())
    return image.properties.get("version_name") or f"{digits[:8]}.{digits[8:]}"


def item_of(image: Image, region: str, endpoint: str) -> dict[str, Any]:
    """An image as an item of `image-ids`."""
    item: dict[str, Any] = {"id": image.uuid, "name": image.fields["name"], "region": region, "endpoint": endpoint}
    item["ftype"] = file_type(image)
    if image.fields["size"] is not None:
        item["size"] = image.fields["size"]
    item.update(digests(image))
    virt = image.properties.get("hypervisor_type") or image.properties.get("hw_vif_model", "")
    item["virt"] = "kvm" if virt in ("", "virtio", "qemu", "kvm") else virt
    return item


def file_type(image: Image) -> str:
    kind = str(image.fields["disk_format"] or "raw")
    return FILE_TYPES.get(kind, kind)


def digests(image: Image) -> dict[str, Any]:
    found = {"md5": image.fields["checksum"], image.fields["os_hash_algo"]: image.fields["os_hash_value"]}
    return {str(name): value for name, value in found.items() if name in DIGESTS and value}


def download_of(image: Image) -> dict[str, Any] | None:
    """An image as an item of `image-downloads`; None when its bytes cannot be fetched and checked over HTTP."""
    known, size = digests(image), image.fields["size"]
    if not known or size is None or not any(one.url.startswith(("http://", "https://")) for one in image.locations):
        return None
    path = f"v2/images/{image.uuid}/file"
    return {"path": path, "ftype": file_type(image), "size": size, **known}


def products(images: Iterable[Image], datatype: str, region: str, endpoint: str) -> Products:
    """The products of one file."""
    found: Products = {}
    for image in images:
        item = item_of(image, region, endpoint) if datatype == "image-ids" else download_of(image)
        if item is None:
            continue
        name, about = product_of(image)
        product = found.setdefault(name, {**about, "versions": {}})
        version = product["versions"].setdefault(version_of(image), {"items": {}})
        version["items"][f"{region}-{image.uuid[:8]}" if datatype == "image-ids" else image.uuid] = item
    return dict(sorted(found.items()))


def index(files: Mapping[str, Products], updated: str, region: str, endpoint: str) -> dict[str, Any]:
    """What `/streams/v1/index.json` says; `files` by datatype."""
    entries: dict[str, Any] = {}
    for datatype, found in files.items():
        entry: dict[str, Any] = {"datatype": datatype, "format": FORMAT, "path": f"streams/v1/{datatype}.json"}
        entry |= {"updated": updated, "products": list(found)}
        if datatype == "image-ids":
            entry |= {"cloudname": region, "clouds": [{"region": region, "endpoint": endpoint}]}
        entries[content_id(datatype)] = entry
    return {"format": "index:1.0", "index": entries, "updated": updated}


def content_id(datatype: str) -> str:
    return f"zoned:{datatype}"


def newest(images: Iterable[Image]) -> str:
    """When the newest of them was changed, as these files write times."""
    stamps = [str(image.fields["updated_at"]) for image in images]
    when = max(stamps, default="1970-01-01T00:00:00Z")
    return format_datetime(datetime.fromisoformat(when), usegmt=False)


class Streams:
    """The files of one zone, made anew when the catalogue has changed."""

    def __init__(self, zone: Zone) -> None:
        self._zone = zone
        self._as_of: tuple[int, int] | None = None
        self._images: list[Image] = []
        self._lock = trio.Lock()

    async def images(self, caller: Caller) -> list[Image]:
        """Public, active and not hidden, as far as the caller may see them; the newest first."""
        async with self._lock:
            now = (self._zone.position, self._zone.journal_last())
            if now != self._as_of:
                self._images = await self._read()
                self._as_of = now
        return [image for image in self._images if caller.may_see(image)]

    async def _read(self) -> list[Image]:
        found: list[Image] = []
        query = Query(PAGE, visibility="public", tests=(("status", "=", "active"),))
        while True:
            page = await self._zone.page(query)
            found += [one.image for one in page.found]
            if not page.more or not page.found or len(found) >= IMAGES_MAX:
                return found[:IMAGES_MAX]
            query = replace(query, after=place(found[-1], NEWEST))

    async def _products(self, images: list[Image], datatype: str, region: str, endpoint: str) -> Products:
        """`products`, made in a thread: of thousands of images it takes long enough to hold up lookups."""
        return await trio.to_thread.run_sync(products, images, datatype, region, endpoint)

    def _where(self, request: Request) -> tuple[str, str]:
        """(region, endpoint): this zone, and where its users get their tokens, which is how clients know a cloud."""
        auth = self._zone.settings.config.auth
        url = auth.keystone_url if auth.api == "keystone" else self._zone.url
        return self._zone.name, url or str(request.base_url).rstrip("/")

    async def show_index(self, request: Request) -> Response:
        """Which product files there are, for Simplestreams clients."""
        images, (region, endpoint) = await self.images(caller_of(request)), self._where(request)
        files = {datatype: await self._products(images, datatype, region, endpoint) for datatype in DATATYPES}
        return reply(index(files, newest(images), region, endpoint))

    def file(self, datatype: str) -> Callable[[Request], Awaitable[Response]]:
        """The endpoint of one product file."""

        async def show(request: Request) -> Response:
            """Public images as Simplestreams products."""
            images, (region, endpoint) = await self.images(caller_of(request)), self._where(request)
            document = {
                "content_id": content_id(datatype),
                "datatype": datatype,
                "format": FORMAT,
                "updated": newest(images),
                "products": await self._products(images, datatype, region, endpoint),
            }
            return reply(document)

        return show


def routes(zone: Zone) -> list[BaseRoute]:
    streams = Streams(zone)
    files = [by_method(f"/{datatype}.json", GET=streams.file(datatype)) for datatype in DATATYPES]
    return [by_method("/index.json", GET=streams.show_index), *files]
