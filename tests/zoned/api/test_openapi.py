"""The OpenAPI document: complete, and true to what is served."""

import httpx
import jsonschema
import pytest

from zoned.api import schemas
from zoned.api.openapi import LIST_PARAMETERS


async def test_every_route_is_described_once_with_its_parameters(zone: httpx.AsyncClient) -> None:
    document = (await zone.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1.")
    ids = []
    for path, methods in document["paths"].items():
        names = {part[1:-1] for part in path.split("/") if part.startswith("{")}
        for operation in methods.values():
            assert {one["name"] for one in operation["parameters"] if one["in"] == "path"} == names
            assert operation["summary"]
            ids.append(operation["operationId"])
    assert len(set(ids)) == len(ids)
    assert {"/v2/images", "/v1/images/detail", "/zone/v1/status", "/v2/schemas/{name}"} <= set(document["paths"])
    assert set(document["paths"]["/v2/images/{image_id}"]) == {"get", "patch", "delete"}


async def test_native_writes_are_described_with_their_bodies(zone: httpx.AsyncClient) -> None:
    document = (await zone.get("/openapi.json")).json()
    for method, path in (
        *(("post", "/zone/v1/images"), ("post", "/zone/v1/images:batchGet"), ("put", "/zone/v1/aliases/{name}")),
        ("put", "/zone/v1/images/{reference}/presence/{zone}"),
    ):
        content = document["paths"][path][method]["requestBody"]["content"]["application/json"]["schema"]
        jsonschema.Draft202012Validator.check_schema(content)
    made = document["components"]["schemas"]["native-create"]["properties"]
    assert {"uuid", "size", "status", "locations"} <= set(made)
    names = {one["name"] for one in document["paths"]["/zone/v1/watch"]["get"]["parameters"]}
    assert names == {"from", "heartbeat"}


async def test_the_schemas_in_it_are_the_served_ones(zone: httpx.AsyncClient) -> None:
    components = (await zone.get("/openapi.json")).json()["components"]["schemas"]
    for name, served in schemas.DOCUMENTS.items():
        assert components[name]["properties"] == served["properties"]
        jsonschema.Draft202012Validator.check_schema(components[name])
    assert "zoned_id" not in components["image-create"]["properties"]


@pytest.mark.parametrize("parameter", LIST_PARAMETERS, ids=lambda one: one["name"])
async def test_every_parameter_of_a_list_is_understood(zone: httpx.AsyncClient, parameter: dict) -> None:  # type: ignore[type-arg]  # of JSON
    """A parameter that nobody knows would be taken for a free property."""
    answer = await zone.get("/v2/images", params={parameter["name"]: "\x01"})
    free = parameter["name"] in ("tag", "id", "name", "status", "disk_format", "container_format", "owner")
    assert answer.status_code == (200 if free else 400)


async def test_people_get_a_page_without_outside_assets(zone: httpx.AsyncClient) -> None:
    page = await zone.get("/docs")
    assert page.headers["content-type"].startswith("text/html")
    assert "/v2/images/{image_id}/members" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
    assert "<script" not in page.text


@pytest.mark.parametrize("version", ["v2", "v2.3", "v1"])
async def test_accept_may_name_the_version_in_the_place_of_the_path(zone: httpx.AsyncClient, version: str) -> None:
    accept = {"Accept": f"application/vnd.openstack.images-{version}"}
    assert "images" in (await zone.get("/images", headers=accept)).json()
    assert (await zone.get("/v9/images", headers=accept)).status_code == 300
    unknown = {"Accept": "application/vnd.openstack.images-v9"}
    assert (await zone.get("/images", headers=unknown)).status_code == 300


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_a_body_where_none_means_anything_is_a_bad_request(zone: httpx.AsyncClient, method: str) -> None:
    answer = await zone.request(method, "/v2/images/11111111-1111-4111-8111-111111111111", content=b"{}")
    assert answer.status_code == 400
