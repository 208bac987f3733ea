"""Settings that may hold a URL in a folder's place: telling them apart, and showing them."""

import re
from typing import Any

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_CREDENTIALS = re.compile(r"(://)[^/@\s'\"]+@")


def is_url(value: object) -> bool:
    """Whether a setting names a place by URL (`s3://bucket/folder`) and not a folder here."""
    return isinstance(value, str) and _SCHEME.match(value) is not None


def masked(text: str) -> str:
    """`text` with `***` for the user and password of every URL in it.

    >>> masked("https://ann:secret@host/shards: not found")
    'https://***@host/shards: not found'
    """
    return _CREDENTIALS.sub(r"\1***@", text)


def mask_values(value: Any) -> Any:
    """A nested plain value with every text in it `masked`."""
    if isinstance(value, dict):
        return {key: mask_values(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [mask_values(inner) for inner in value]
    return masked(value) if isinstance(value, str) else value
