"""Versions, schemas and what else a client asks first."""

import httpx
import jsonschema
import pytest

from store.images import FIELDS
from tests.zoned.api.test_images_v2 import made
from zoned.api import schemas
from zoned.api.problems import Problem


async def test_the_root_offers_versions_as_multiple_choices_and_versions_as_plain_ones(zone: httpx.AsyncClient) -> None:
    for path, status in (("/", 300), ("/versions", 200), ("/nothing", 300), ("/nothing/else?x=1", 300)):
        answer = await zone.get(path)
        assert answer.status_code == status
        versions = answer.json()["versions"]
        assert versions[0] == {
            "id": "v2.17",
            "status": "CURRENT",
            "links": [{"rel": "self", "href": f"{zone.base_url}/v2/"}],
        }
        assert {one["status"] for one in versions[1:]} == {"SUPPORTED"}
        assert "v2.0" in {one["id"] for one in versions}


@pytest.mark.parametrize("version", ["v2", "v2.0", "v2.9", "v2.17"])
async def test_every_minor_version_is_the_same_api(zone: httpx.AsyncClient, version: str) -> None:
    image_id = (await made(zone))["id"]
    assert (await zone.get(f"/{version}/images/{image_id}")).json()["id"] == image_id
    slash = await zone.get(f"/{version}")
    assert (slash.status_code, slash.headers["location"]) == (302, f"{zone.base_url}/{version}/")
    assert (await zone.get(f"/{version}/")).status_code == 404
    assert (await zone.get("/v2.99/images")).status_code == 300


@pytest.mark.parametrize("name", sorted(schemas.DOCUMENTS))
async def test_schemas_are_served_and_are_json_schema(zone: httpx.AsyncClient, name: str) -> None:
    served = (await zone.get(f"/v2/schemas/{name}")).json()
    assert served == schemas.DOCUMENTS[name]
    jsonschema.Draft202012Validator.check_schema({**served, "type": "object"})


async def test_what_is_answered_fits_the_schema_that_is_served(zone: httpx.AsyncClient) -> None:
    image = await made(zone, name="n", tags=["t"], own="1", disk_format="raw", container_format="bare")
    where = {"url": "http://objects.example/1", "metadata": {}}
    assert (await zone.post(f"/v2/images/{image['id']}/locations", json={"url": where["url"]})).status_code == 202
    member = (await zone.post(f"/v2/images/{image['id']}/members", json={"member": "p"})).json()
    shown = (await zone.get(f"/v2/images/{image['id']}")).json()
    jsonschema.validate(shown, (await zone.get("/v2/schemas/image")).json())
    jsonschema.validate((await zone.get("/v2/images")).json(), (await zone.get("/v2/schemas/images")).json())
    jsonschema.validate(member, (await zone.get("/v2/schemas/member")).json())


async def test_no_other_schema_is_known(zone: httpx.AsyncClient) -> None:
    assert (await zone.get("/v2/schemas/nothing")).status_code == 404


@pytest.mark.parametrize("name", sorted(FIELDS))
def test_the_document_and_the_store_agree_on_every_attribute(name: str) -> None:
    known = FIELDS[name]
    good = [known.default, *known.choices, *((None,) if known.null else ())]
    bad = ["x" * 70_000, -1, 2**64, [], {}, *(() if known.null else (None,))]
    for value in good:
        schemas.check_attribute(name, value)
    for value in bad:
        assert known.problem(value)
        with pytest.raises(Problem):
            schemas.check_attribute(name, value)


async def test_no_bytes_are_imported_and_zones_stand_for_stores(zone: httpx.AsyncClient) -> None:
    assert (await zone.get("/v2/info/import")).json()["import-methods"]["value"] == []
    assert (await zone.get("/v2/info/stores")).json() == {
        "stores": [{"id": "alpha", "default": "true", "read-only": "true"}]
    }
    assert (await zone.get("/v2/info/stores/detail")).status_code == 200
    assert (await zone.get("/v2/info/stores/detail", headers={"X-Roles": "member"})).status_code == 403
    assert (await zone.get("/v2/info/usage")).json() == {"usage": {}}
    assert (await zone.get("/healthcheck")).text == "OK"
