"""The OpenAPI document, made of the route table and the very schemas that requests are checked with. No I/O."""

from collections.abc import Iterable, Mapping
from typing import Any

from starlette.routing import BaseRoute

from store.images import FIELDS, NAME_CHARS_MAX, PRESENCES, ZONES_MAX
from zoned import __version__
from zoned.api import batch, filters, patches, schemas, watching
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
_REFERENCE = {"type": ["string", "integer"], "description": "A UUID, an integer, an EC2 name or an alias."}
_ZONES = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": ZONES_MAX}


def _object(required: list[str], **properties: Document) -> Document:
    return {
        _JSON: {
            "schema": {
                "type": "object",
                "required": required,
                "properties": properties,
                "additionalProperties": False,
            }
        }
    }


# What a request's body is, by method and path.
_BODIES: Mapping[tuple[str, str], Document] = {
    ("POST", "/v2/images"): _reference("image-create"),
    ("PATCH", "/v2/images/{image_id}"): {
        kind: {"schema": {"type": "array", "items": _STEP}} for kind in (patches.STANDARD, patches.V21)
    },
    ("POST", "/v2/images/{image_id}/members"): {_JSON: {"schema": _MEMBER}},
    ("PUT", "/v2/images/{image_id}/members/{member}"): {_JSON: {"schema": _ANSWER}},
    ("POST", "/v2/images/{image_id}/locations"): {_JSON: {"schema": {**schemas.LOCATION, "required": ["url"]}}},
    ("POST", "/zone/v1/images"): _reference("native-create"),
    ("POST", "/zone/v1/images:batchGet"): _object(
        ["references"], references={"type": "array", "items": _REFERENCE, "maxItems": batch.REFERENCES_MAX}
    ),
    ("PUT", "/zone/v1/aliases/{name}"): _object(["image"], image={"type": ["string", "integer", "null"]}, zones=_ZONES),
    ("POST", "/zone/v1/aliases/{name}/rollback"): _object([], zones=_ZONES),
    ("PUT", "/zone/v1/images/{reference}/presence/{zone}"): _object(
        ["state"],
        state={"enum": list(PRESENCES)},
        note={"type": "string", "maxLength": NAME_CHARS_MAX},
        at={"type": "string", "format": "date-time"},
    ),
}
_NATIVE_CREATE = {
    "type": "object",
    "additionalProperties": False,
    "properties": {
        "uuid": {"type": "string", "format": "uuid"},
        **{name: {**schemas.IMAGE["properties"][name], "readOnly": False} for name in FIELDS},
        "properties": {"type": "object", "additionalProperties": {"type": "string"}},
        "tags": schemas.IMAGE["properties"]["tags"],
        "locations": {"type": "array", "items": {**schemas.LOCATION, "required": ["url"]}},
    },
}
# What a good answer holds.
_ANSWERS: Mapping[tuple[str, str], tuple[str, str]] = {
    ("POST", "/v2/images"): ("201", "image"),
    ("GET", "/v2/images"): ("200", "images"),
    ("GET", "/v2/images/{image_id}"): ("200", "image"),
    ("PATCH", "/v2/images/{image_id}"): ("200", "image"),
    ("GET", "/v2/images/{image_id}/members"): ("200", "members"),
    ("POST", "/v2/images/{image_id}/members"): ("200", "member"),
    ("GET", "/v2/images/{image_id}/members/{member}"): ("200", "member"),
    ("PUT", "/v2/images/{image_id}/members/{member}"): ("200", "member"),
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

_PAGE = [_query("limit", type="integer", minimum=1, maximum=1_000), _query("marker", type="string")]
_QUERIES: Mapping[tuple[str, str], list[Document]] = {
    ("GET", "/v2/images"): LIST_PARAMETERS,
    ("GET", "/zone/v1/images"): _PAGE,
    ("GET", "/zone/v1/aliases"): _PAGE,
    ("DELETE", "/zone/v1/images/{reference}"): [_query("successor", type="string")],
    ("GET", "/zone/v1/aliases/{name}"): [_query("zone", type="string")],
    ("GET", "/zone/v1/images/{reference}/locations"): [_query("near", type="string")],
    ("GET", "/zone/v1/watch"): [
        _query("from", type="integer", minimum=0),
        _query("heartbeat", type="integer", minimum=1, maximum=watching.HEARTBEAT_S_MAX),
    ],
}


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
                "native-create": _NATIVE_CREATE,
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
    key = (method, prefix + template)
    parameters: list[Document] = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    parameters += _QUERIES.get(key, [])
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
