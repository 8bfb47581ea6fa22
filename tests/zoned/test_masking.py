"""Credentials in URLs, by value."""

import pytest

from zoned.masking import has_secrets, masked, masked_url, masked_within


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("https://o/1", "https://o/1"),
        ("swift+https://user:pass@host/v1/c/o", "swift+https://***@host/v1/c/o"),
        ("swift://acct:user:a%40b@x@host/c", "swift://***@host/c"),
        ("https://o/1?X-Amz-Signature=abc&b=c#f", "https://o/1?***#f"),
        ("https://o/1?", "https://o/1?"),
        ("https://o/a@b/c", "https://o/a@b/c"),
        ("HTTPS://U:P@o", "HTTPS://***@o"),
        ("cannot reach http://u:p@a/x?y=z nor ftp://b@c", "cannot reach http://***@a/x?*** nor ftp://***@c"),
        ('{"url": "http://u:p@a/?q=1"}', '{"url": "http://***@a/?***"}'),
        ("someone@example.com asks?", "someone@example.com asks?"),
    ],
)
def test_urls_in_texts(text, shown):
    assert masked(text) == shown
    assert masked(shown) == shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https://o/a@b/c?#f", "https://o/a@b/c?#f"),
        ("s3://k:s@b/o?x=1#f", "s3://***@b/o?***#f"),
        ("http://u:a 'b\"<>@h/x", "http://***@h/x"),
        ("http://o/x?a b'\"c", "http://o/x?***"),
        ("http://u@v@h", "http://***@h"),
        ("http://h?a@b", "http://h?***"),
    ],
)
def test_whole_urls(url, shown):
    assert masked_url(url) == shown
    assert has_secrets(url) is (url != shown)


def test_documents():
    assert masked_within({"locations/s3://k:s@b/o": [None, ("http://a?t=1", 5)], "x": {"y": True}}) == {
        "locations/s3://***@b/o": [None, ["http://a?***", 5]],
        "x": {"y": True},
    }
