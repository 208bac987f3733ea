"""Short, distinct names for the folders that a training joins."""

import os
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import count

from dr.urls import is_url, masked


def source_names(entries: Sequence[str]) -> list[str]:
    """A name for each folder or URL: its last part, numbered from 1 where several share it.

    >>> source_names(["/a/eyepacs", "/b/aptos/", "s3://c/eyepacs"])
    ['eyepacs-1', 'aptos', 'eyepacs-2']
    """
    last = [_last_part(entry) for entry in entries]
    often = {name for name, times in Counter(last).items() if times > 1}
    taken = set(last)
    numbered = {name: _free_names(name, taken) for name in sorted(often)}
    return [next(numbered[name]) if name in often else name for name in last]


def _free_names(name: str, taken: set[str]) -> Iterator[str]:
    for number in count(1):
        candidate = f"{name}-{number}"
        if candidate not in taken:
            taken.add(candidate)
            yield candidate


def _last_part(entry: str) -> str:
    path = masked(entry) if is_url(entry) else os.path.abspath(entry)
    return path.rstrip("/").rpartition("/")[2] or "root"
