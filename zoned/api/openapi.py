"""The OpenAPI document, made of the route table and the very schemas that requests are checked with. No I/O."""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.routing import BaseRoute

from zoned import __version__
from zoned.api import filters, patches, schemas
from zoned.api.answers import Endpoint, MethodRoute

Document = dict[str, Any]
VERSION = "3.1.0"
_JSON = "application/json"
_REF = "#/components/schemas/"


def _reference(name: str) -> Document:
    return {_JSON: {"schema": {"$ref": f"{_REF}{name}"}}}


_STEP = {
    "type": "object",
    "required": ["op", "path"],
    "properties": {"op": {"enum": ["add", "replace", "remove"]}, "path": {"type": "string"}, "value": {}},
}
_MEMBER = {"type": "object", "required": ["member"], "properties": {"member": {"type": "string", "minLength": 1}}}
_ANSWER = {
    "type": "object",
    "required": ["status"],
    "properties": {"status": schemas.MEMBER["properties"]["status"]},
}
# What a request's body is, by method and path below the version.
_BODIES: Mapping[tuple[str, str], Document] = {
    ("POST", "/images"): _reference("image-create"),
    ("PATCH", "/images/{image_id}"): {
        kind: {"schema": {"type": "array", "items": _STEP}} for kind in (patches.STANDARD, patches.V21)
    },
    ("POST", "/images/{image_id}/members"): {_JSON: {"schema": _MEMBER}},
    ("PUT", "/images/{image_id}/members/{member}"): {_JSON: {"schema": _ANSWER}},
    ("POST", "/images/{image_id}/locations"): {_JSON: {"schema": {**schemas.LOCATION, "required": ["url"]}}},
}
# What a good answer holds.
_ANSWERS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("POST", "/images"): ("201", "image"),
    ("GET", "/images"): ("200", "images"),
    ("GET", "/images/{image_id}"): ("200", "image"),
    ("PATCH", "/images/{image_id}"): ("200", "image"),
    ("GET", "/images/{image_id}/members"): ("200", "members"),
    ("POST", "/images/{image_id}/members"): ("200", "member"),
    ("GET", "/images/{image_id}/members/{member}"): ("200", "member"),
    ("PUT", "/images/{image_id}/members/{member}"): ("200", "member"),
}


def _query(name: str, **schema: Any) -> Document:
    return {"name": name, "in": "query", "required": False, "schema": schema}


LIST_PARAMETERS = [
    _query("limit", type="integer", minimum=0, maximum=filters.LIMIT_MAX, default=filters.LIMIT_DEFAULT),
    _query("marker", type="string"),
    _query("sort", type="string"),
    _query("sort_key", type="array", items={"enum": list(filters.SORT_KEYS)}),
    _query("sort_dir", type="array", items={"enum": ["asc", "desc"]}),
    _query("visibility", enum=["all", "public", "private", "shared", "community"]),
    _query("member_status", enum=["all", "pending", "accepted", "rejected"]),
    _query("os_hidden", enum=["true", "false"]),
    _query("protected", enum=["true", "false"]),
    _query("tag", type="array", items={"type": "string"}),
    *(_query(name, type="string") for name in ("id", "name", "status", "disk_format", "container_format", "owner")),
    *(_query(name, type="string") for name in ("created_at", "updated_at")),
    *(_query(name, type="integer", minimum=0) for name in ("size_min", "size_max", "min_ram", "min_disk")),
]


def document(faces: Iterable[tuple[str, Iterable[BaseRoute]]]) -> Document:
    """`faces` are (prefix, routes); only routes made by `by_method` are described."""
    paths: dict[str, Document] = {}
    for prefix, routes in faces:
        for route in routes:
            if isinstance(route, MethodRoute):
                template = route.path.replace(":path}", "}")
                paths[prefix + template] = {
                    method.lower(): _operation(prefix, template, method, handler, route.param_convertors)
                    for method, handler in route.handlers.items()
                }
    return {
        "openapi": VERSION,
        "info": {
            "title": "zoned",
            "version": __version__,
            "description": "Image metadata in every zone of a cloud.",
            "license": {"name": "Apache-2.0"},
        },
        "paths": paths,
        "components": {
            "schemas": {
                **{name: _schema(one) for name, one in schemas.DOCUMENTS.items()},
                "image-create": _writable(schemas.IMAGE),
            }
        },
    }


def _writable(served: Mapping[str, Any]) -> Document:
    """What a caller may set: the served schema without what is read-only."""
    hidden = {name for name, one in served["properties"].items() if one.get("readOnly")} | {"locations"}
    properties = {name: one for name, one in served["properties"].items() if name not in hidden}
    return {**_schema(served), "properties": properties}


def _schema(served: Mapping[str, Any]) -> Document:
    return {"type": "object", **{name: value for name, value in served.items() if name not in ("name", "links")}}


def _operation(prefix: str, template: str, method: str, handler: Endpoint, names: Mapping[str, Any]) -> Document:
    key = (method, template) if prefix == "/v2" else ("", "")
    parameters: list[Document] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    if key == ("GET", "/images"):
        parameters += LIST_PARAMETERS
    responses: Document = {"default": {"description": "Errors, and what else the route answers."}}
    if key in _ANSWERS:
        status, name = _ANSWERS[key]
        responses[status] = {"description": "Done.", "content": _reference(name)}
    told = (handler.__doc__ or "").strip().partition("\n")[0]
    where = template.translate({ord(one): "-" for one in "/{}:"}).strip("-")
    found: Document = {
        "operationId": f"{prefix.strip('/').replace('/', '-')}-{method.lower()}-{where}",
        "summary": told or handler.__name__.replace("_", " ").strip().capitalize(),
        "tags": [prefix.strip("/")],
        "parameters": parameters,
        "responses": responses,
    }
    if key in _BODIES:
        found["requestBody"] = {"required": True, "content": _BODIES[key]}
    return found


def page(described: Document) -> str:
    """The same for people: one page without any script or outside asset."""
    rows = []
    for path, methods in described["paths"].items():
        for method, operation in methods.items():
            rows.append(f"<tr><td>{method.upper()}<td><code>{path}</code><td>{_escaped(operation['summary'])}")
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><title>zoned: API</title>"
        "<style>body{font:16px/1.4 system-ui;margin:2rem;max-width:70rem}td{padding:.2rem 1rem .2rem 0;"
        "vertical-align:top;border-top:1px solid #ccc}</style>"
        '<h1>zoned: API</h1><p>The same for programs: <a href="openapi.json">openapi.json</a>.</p><table>'
        + "\n".join(rows)
        + "</table></html>\n"
    )


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;")
