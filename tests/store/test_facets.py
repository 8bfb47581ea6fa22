"""What records are found by."""

from store.facets import Facet, facets, number
from store.images import DEFAULTS, Image, ImageMember

AT = "2026-11-22T09:00:00Z"


def test_the_facets_of_a_record():
    fields = {**DEFAULTS, "owner": "o", "checksum": "c", "visibility": "public", "name": "n"}
    members = {"p": ImageMember("pending", False, AT, AT)}
    image = Image("u", 1, "c", "c.1", 1, fields, {"os": "linux"}, ("t",), members=members)
    assert facets(image) == {
        *(Facet("tag", "", "t"), Facet("property", "os", "linux"), Facet("member", "pending", "p")),
        *(Facet("owner", "", "o"), Facet("checksum", "", "c"), Facet("visibility", "", "public")),
    }


def test_numbers_are_for_ever_and_tell_apart_what_is_near():
    assert number(Facet("tag", "", "t")) == -5043749173759530840
    near = [Facet("tag", "", "ab"), Facet("tag", "a", "b"), Facet("property", "a", "b"), Facet("property", "ab", "")]
    assert len({number(one) for one in near}) == 4
    assert all(-(2**63) <= number(one) < 2**63 for one in near)
