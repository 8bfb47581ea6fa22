"""What must not be told in URLs: user names and passwords in front of the host, and what stands in the query. No I/O.

Locations of images and addresses in messages may carry credentials (`swift+https://user:password@host`, signed URLs).
Who may not see them sees `***` in their place; no log line and no support bundle ever holds them.
"""

import re
from typing import Any

MASK = "***"
# Not beyond white space, quotes or angle brackets: a URL may stand in the middle of a text.
_URL = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*://)([^/?#\s\"'<>]*@)?([^?#\s\"'<>]*)(\?[^#\s\"'<>]*)?")


def has_secrets(url: str) -> bool:
    """Whether `masked_url` would change it. Cheap: most URLs have neither."""
    return ("@" in url or "?" in url) and masked_url(url) != url


def masked_url(url: str) -> str:
    """A text that is a URL and nothing else, whatever characters it holds."""
    scheme, _, rest = url.partition("://")
    rest, mark, fragment = rest.partition("#")
    rest, _, query = rest.partition("?")
    authority, slash, path = rest.partition("/")
    user, at, host = authority.rpartition("@")
    return f"{scheme}://{MASK if user else ''}{at}{host}{slash}{path}{_query(url, query)}{mark}{fragment}"


def _query(url: str, query: str) -> str:
    return f"?{MASK}" if query else "?" if "?" in url.partition("#")[0] else ""


def masked(text: str) -> str:
    """The text with every URL in it masked."""
    if "://" not in text or ("@" not in text and "?" not in text):
        return text
    return _URL.sub(_mask, text)


def _mask(found: re.Match[str]) -> str:
    scheme, user, rest, query = found.groups()
    return f"{scheme}{f'{MASK}@' if user else ''}{rest}{f'?{MASK}' if query and len(query) > 1 else query or ''}"


def masked_within(value: Any) -> Any:
    """A JSON document with every text in it masked, names included."""
    if isinstance(value, str):
        return masked(value)
    if isinstance(value, dict):
        return {masked(name) if isinstance(name, str) else name: masked_within(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [masked_within(one) for one in value]
    return value
