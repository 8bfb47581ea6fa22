"""Another Images API as a source of records: how its documents read here, and how it is asked. For zonectl.

Only what Images API v2 promises is used, so any server of that API will do, a zoned of another cloud as well.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote, urlencode

import httpx

from store.images import FIELDS
from zoned.api.documents import is_free

PAGE = 200  # images in one answer; a server may give fewer
MEMBERS_AT_ONCE = 8
TIMEOUT_S = 60.0
ENDED = ("deleted", "pending_delete", "killed")  # no images any more, or never
# What `created_at:asc` means to every server: an image made during an import comes last, and is not missed.
OLDEST_FIRST = ("created_at:asc", "id:asc")


class GlanceError(Exception):
    """The other side did not answer as an Images API does. Nothing was changed there: it is only read."""


class Glance:
    """A running Images API v2, read only. `url` is its endpoint, with or without `/v2`."""

    def __init__(self, url: str, headers: Mapping[str, str], timeout_s: float = TIMEOUT_S) -> None:
        self.url = url.rstrip("/").removesuffix("/v2")
        self._client = httpx.Client(headers=dict(headers), timeout=timeout_s, trust_env=False)

    def __enter__(self) -> "Glance":
        return self

    def __exit__(self, *_: object) -> None:
        self._client.close()

    def ask(self, path: str) -> tuple[int, Any]:
        """(status, body; None if it is no JSON). Raises GlanceError when nobody answers."""
        try:
            answer = self._client.get(self.url + path)
        except (httpx.HTTPError, httpx.InvalidURL) as error:
            raise GlanceError(f"{self.url} does not answer ({str(error) or type(error).__name__})") from None
        try:
            return answer.status_code, answer.json()
        except ValueError:
            return answer.status_code, None

    def get(self, path: str) -> Any:
        """The JSON of a good answer. Raises GlanceError for any other."""
        status, document = self.ask(path)
        if status == 401:
            hint = "set OS_TOKEN, as with OS_TOKEN=$(openstack token issue -f value -c id)"
            raise GlanceError(f"{self.url} wants a token that is good now: {hint}")
        if status != 200 or not isinstance(document, dict):
            gone = "; if that image is gone there, remove the bookmark" if status == 400 and "marker=" in path else ""
            raise GlanceError(f"{self.url}{path} answered {status}, not with image records{gone}")
        return document

    def newest(self, count: int) -> Iterator[list[dict[str, Any]]]:
        """The newest `count` images. Raises GlanceError."""
        after: str | None = None
        while count > 0:
            asked = [("limit", str(min(PAGE, count))), *([("marker", after)] if after else [])]
            images = self.get("/v2/images?" + urlencode(asked)).get("images", [])
            if not images:
                return
            yield images
            count, after = count - len(images), str(images[-1]["id"])

    def pages(self, after: str | None, query: Sequence[tuple[str, str]] = ()) -> Iterator[list[dict[str, Any]]]:
        """All images that the token sees, oldest first, behind the image `after`. Raises GlanceError."""
        asked = [("limit", str(PAGE)), ("sort", ",".join(OLDEST_FIRST)), *query]
        while True:
            path = "/v2/images?" + urlencode([*asked, *([("marker", after)] if after else [])])
            document = self.get(path)
            images = document.get("images")
            if not isinstance(images, list) or not all(isinstance(one, dict) and "id" in one for one in images):
                raise GlanceError(f"{self.url}{path} is no list of images")
            if images:
                yield images
                after = str(images[-1]["id"])
            if not images or "next" not in document:
                return

    def members(self, images: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
        """{image ID: {project: {"status"}}} of those that are shared. Raises GlanceError."""
        shared = [str(one["id"]) for one in images if one.get("visibility") == "shared"]
        with ThreadPoolExecutor(MEMBERS_AT_ONCE) as pool:
            found = pool.map(lambda one: self.ask(f"/v2/images/{quote(one, safe='')}/members"), shared)
            return {uuid: _members(status, document) for uuid, (status, document) in zip(shared, found, strict=True)}


def _members(status: int, document: Any) -> dict[str, Any]:
    """None for an image that went away meanwhile, or whose members the token may not see."""
    listed = document.get("members", []) if status == 200 and isinstance(document, dict) else []
    return {str(one["member_id"]): {"status": one.get("status", "pending")} for one in listed}


def token_headers(more: Sequence[str], environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """`NAME: VALUE` each, and the token of $OS_TOKEN. Raises ValueError for what is no header."""
    token = environ.get("OS_TOKEN", "")
    if not token.isascii() or not token.isprintable():
        raise ValueError("$OS_TOKEN is no token: it holds characters that no header can have")
    headers = {"X-Auth-Token": token} if token else {}
    for one in more:
        name, colon, value = one.partition(":")
        if not colon or not name.strip() or not one.isascii() or not one.isprintable():
            raise ValueError(f"{one[:80]!r} is no header; write it as 'X-Roles: admin'")
        headers[name.strip()] = value.strip()
    return headers


def native(document: Mapping[str, Any], members: Mapping[str, Any], file_url: str | None, zone: str) -> dict[str, Any]:
    """An Images API document as a native record.

    Where it names no location, `file_url` (if given) becomes one. `zone` is where its bytes are; "": not said.
    """
    record: dict[str, Any] = {name: document[name] for name in FIELDS if document.get(name) is not None}
    record["uuid"] = document["id"]
    record["tags"] = document.get("tags") or []
    record["properties"] = {
        name: value for name, value in document.items() if isinstance(value, str) and name not in FIELDS and _own(name)
    }
    record["locations"] = _locations(document, file_url, zone)
    record["members"] = dict(members)
    if document.get("zoned_id") is not None:
        record["integer"] = document["zoned_id"]
    return record


def _own(name: str) -> bool:
    return is_free(name) and name not in ("direct_url", "stores", "tags", "id")


def _locations(document: Mapping[str, Any], file_url: str | None, zone: str) -> list[dict[str, Any]]:
    told = document.get("locations")
    if not isinstance(told, list) or not told:
        url = document.get("direct_url")
        told = [{"url": url, "metadata": {}}] if isinstance(url, str) else []
    if not told and file_url is not None and document.get("status") in ("active", "deactivated"):
        told = [{"url": file_url, "metadata": {}}]
    found = []
    for one in told:
        metadata = dict(one.get("metadata") or {})
        if zone:
            metadata.setdefault("zone", zone)
        found.append({"url": one.get("url"), "metadata": metadata})
    return found
