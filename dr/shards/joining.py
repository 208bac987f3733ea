"""Several folders of shards read as one, each record knowing its source."""

import dataclasses
import logging
import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, combinations
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.digests import digest_of
from dr.shards.manifest import Manifest
from dr.shards.naming import source_names
from dr.shards.opening import open_shards
from dr.shards.remote import find_remote_shards
from dr.shards.remote_cache import RemoteCache
from dr.shards.shard_set import ShardSet
from dr.urls import is_url

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
SOURCE = "source"
_FRAMING = ("decode", "crop", "fit", "jpeg")
_OF_FILTER = {"unsharp": "filter_", "graham": "graham_", "clahe": "clahe_"}


@dataclass(frozen=True, kw_only=True)
class JoinedShards(ShardSet):
    """Several sets of shards whose record numbers run on from one to the next.

    `table` has a column `source`, one of `names`; patients are `<source>/<patient>`, and so are
    the names that more than one source has. `image_size` is the smallest of the `parts`;
    `manifest` is None; `digest` is that of the parts' digests in their order.
    """

    parts: tuple[ShardSet, ...]
    names: tuple[str, ...]


def open_entry(entry: str, *, cache: RemoteCache, key: str) -> ShardSet:
    """Open one entry of a list of shards: a folder, or a URL whose shards the cache fetches.

    Raises as `open_shards` and `find_remote_shards` do.
    """
    if not is_url(entry):
        if not Path(entry).is_dir():
            raise ValueError(f"{key}={entry}: there is no such folder; make it with dr.prepare")
        return open_shards(Path(entry))
    remote = find_remote_shards(entry, cache, key=key)
    return open_shards(remote.folder, remote=remote)


def open_entries(entries: str | Sequence[str], *, cache: RemoteCache, key: str) -> ShardSet:
    """Open a folder or URL of shards, or several as one; `key` is the setting that names them.

    Raises as `open_entry` and `join_shards` do.
    """
    listed = [entries] if isinstance(entries, str) else list(entries)
    parts = [open_entry(entry, cache=cache, key=key) for entry in listed]
    return parts[0] if len(parts) == 1 else join_shards(parts, source_names(listed), key=key)


def parts_of(shards: ShardSet) -> dict[str, ShardSet]:
    """The parts of joined shards by their names; other shards are their own part."""
    if isinstance(shards, JoinedShards):
        return dict(zip(shards.names, shards.parts, strict=True))
    return {source_names([shards.place])[0]: shards}


def join_shards(parts: Sequence[ShardSet], names: Sequence[str], *, key: str) -> JoinedShards:
    """Join sets of shards under distinct `names`.

    Preparations that frame a photograph differently (decoding, cropping, fitting, JPEG quality)
    are warned about. Raises ValueError naming `key` where two parts hold the same records, or
    were filtered differently: a network would learn the source from that.
    """
    for (name, one), (other_name, other) in combinations(zip(names, parts, strict=True), 2):
        if one.digest == other.digest:
            raise ValueError(
                f"{key}: {one.place} and {other.place} hold the same records; name one of them"
            )
        _check_alike(name, one, other_name, other, key=key)
    _say_what_differs(parts, names, key=key)
    return _joined(parts, names)


def _check_alike(name: str, one: ShardSet, other_name: str, other: ShardSet, *, key: str) -> None:
    differences = preparation_differences(one, other)
    if not differences:
        return
    text = ", ".join(differences.values())
    if all(setting.startswith(_FRAMING) for setting in differences):
        _log.warning("%s: %s and %s were prepared differently: %s", key, name, other_name, text)
        return
    raise ValueError(
        f"{key}: {name} and {other_name} were prepared differently ({text}): a network would learn "
        "the source from that; prepare them alike"
    )


def _say_what_differs(parts: Sequence[ShardSet], names: Sequence[str], *, key: str) -> None:
    bare = [name for name, part in zip(names, parts, strict=True) if part.manifest is None]
    if bare:
        _log.warning(
            "%s: %s came without a manifest, so whether all are prepared alike is not known",
            key,
            ", ".join(bare),
        )
    sizes = sorted({part.image_size for part in parts})
    if len(sizes) > 1:
        listed = ", ".join(map(str, sizes))
        _log.warning("%s: hold pictures of %s px; all are decoded to one size", key, listed)


def preparation_differences(one: ShardSet, other: ShardSet) -> dict[str, str]:
    """What two preparations differ in, by setting, as `setting: its value, the other's`.

    Settings without effect don't count; shards without a manifest differ in nothing known.
    """
    if one.manifest is None or other.manifest is None:
        return {}
    first, second = _in_force(one.manifest), _in_force(other.manifest)
    return {
        setting: f"{setting}: {first.get(setting)}, {second.get(setting)}"
        for setting in {**first, **second}
        if first.get(setting) != second.get(setting)
    }


def _in_force(manifest: Manifest) -> dict[str, Any]:
    settings = dataclasses.asdict(manifest.preparation)
    if settings["crop"] != "gray":
        settings.pop("crop_threshold", None)
    chosen = settings["filter"]
    if chosen == "unsharp" and not settings["filter_relative"]:
        settings["filter_at_size"] = manifest.image_size
    idle = tuple(prefix for name, prefix in _OF_FILTER.items() if name != chosen)
    return {name: value for name, value in settings.items() if not name.startswith(idle)}


def _joined(parts: Sequence[ShardSet], names: Sequence[str]) -> JoinedShards:
    starts = (0, *accumulate(len(part.files) for part in parts[:-1]))
    remote = any(part.fetch is not None for part in parts)
    common = {
        field.name: getattr(parts[0], field.name)
        for field in dataclasses.fields(ShardSet)
        if field.init
    }
    own: dict[str, Any] = {
        "files": tuple(path for part in parts for path in part.files),
        "shard": np.concatenate([p.shard + start for p, start in zip(parts, starts, strict=True)]),
        "offset": np.concatenate([part.offset for part in parts]),
        "length": np.concatenate([part.length for part in parts]),
        "table": _joined_table(parts, names),
        "image_size": min(part.image_size for part in parts),
        "digest": digest_of([part.digest for part in parts]),
        "manifest": None,
        "url": None,
        "fetch": _FetchFromPart(tuple(parts), starts) if remote else None,
        "parts": tuple(parts),
        "names": tuple(names),
        "_open": {},
        "_lock": threading.Lock(),
    }
    return JoinedShards(**common | own)


@dataclass(frozen=True)
class _FetchFromPart:
    """Where a joined shard lies, brought here by its own part; `starts` are their first numbers."""

    parts: tuple[ShardSet, ...]
    starts: tuple[int, ...]

    def __call__(self, shard: int) -> Path:
        number = bisect_right(self.starts, shard) - 1
        part, own = self.parts[number], shard - self.starts[number]
        return part.files[own] if part.fetch is None else part.fetch(own)


def _joined_table(parts: Sequence[ShardSet], names: Sequence[str]) -> "pd.DataFrame":
    import pandas as pd

    own = pd.concat([part.table["name"].drop_duplicates() for part in parts])
    shared = set(own[own.duplicated()])
    tables = []
    for part, source in zip(parts, names, strict=True):
        table = part.table
        if SOURCE in table:
            _log.warning("%s: the label table's column `source` is not used", part.place)
        clear = table["name"].where(~table["name"].isin(shared), source + "/" + table["name"])
        patient = source + "/" + table["patient"]
        tables.append(table.assign(name=clear, patient=patient, **{SOURCE: source}))
    joined = pd.concat(tables, ignore_index=True)
    texts = joined.columns[[not pd.api.types.is_numeric_dtype(kind) for kind in joined.dtypes]]
    joined[texts] = joined[texts].fillna("")
    return joined


def source_numbers(shards: ShardSet) -> NDArray[np.int64] | None:
    """The source of each record of joined shards, from 0, int64 `[records]`; else None."""
    if not isinstance(shards, JoinedShards):
        return None
    return np.repeat(np.arange(len(shards.parts)), [len(part) for part in shards.parts])
