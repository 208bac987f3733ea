"""The shards that a training reads: those it was given, or those it prepares into the cache."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from dr.config import (
    FoldersData,
    MedMNISTData,
    PreparationConfig,
    SyntheticData,
    TableData,
    TrainConfig,
)
from dr.shards.joining import open_entries, parts_of, preparation_differences
from dr.shards.labels import read_label_source
from dr.shards.manifest import recipe_digest
from dr.shards.opening import open_shards
from dr.shards.overlap import find_overlap
from dr.shards.prepare import prepare_source, read_source
from dr.shards.remote_cache import RemoteCache
from dr.shards.shard_set import ShardSet

_log = logging.getLogger(__name__)


def training_shards(config: TrainConfig) -> ShardSet:
    """Open `shards`, several as one, or prepare `data` into a cache folder named by its digest.

    Raises ValueError where `shards` and `data` contradict each other, or several shards do not
    go together.
    """
    if config.shards is not None:
        cache = RemoteCache.within(config.cache, config.remote_cache_gb)
        shards = open_entries(config.shards, cache=cache, key="shards")
        _check_source(config, list(parts_of(shards).values()))
        return shards
    source = read_source(config)
    recipe = recipe_digest(config.preparation, config.image_size or config.data.image_size)
    folder = Path(config.cache) / f"shards-{source.digest()[:8]}-{recipe[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepare_source(config, source, folder=folder)
    return open_shards(folder)


class Outside(NamedTuple):
    """A test set; `shared` of its records seem to be among those trained on."""

    shards: ShardSet
    shared: int


def outside_shards(config: TrainConfig, trained: ShardSet) -> Outside | None:
    """The shards of `test`, None where there are none; `trained` are those that are trained on.

    Photographs that both seem to hold are warned about and counted. Raises ValueError where they
    are the same records, or were prepared differently.
    """
    if config.test is None:
        return None
    cache = RemoteCache.within(config.cache, config.remote_cache_gb)
    shards = open_entries(config.test, cache=cache, key="test")
    sources = list(parts_of(trained).values())
    shared = sum(_check_outside(part, sources) for part in parts_of(shards).values())
    return Outside(shards, shared)


def _check_outside(outside: ShardSet, sources: Sequence[ShardSet]) -> int:
    """How many records seem to be in `sources` too."""
    same = [source for source in sources if source.digest == outside.digest]
    if same:
        raise ValueError(
            f"test={outside.place}: holds the same records as shards={same[0].place}, which are "
            "trained on; a test set holds other patients"
        )
    differences = [preparation_differences(source, outside) for source in sources]
    if all(differences):
        raise ValueError(
            f"test={outside.place}: was prepared differently from shards={sources[0].place} "
            f"({', '.join(differences[0].values())}); prepare it alike"
        )
    if outside.manifest is None or any(source.manifest is None for source in sources):
        _log.warning("test=%s: whether it was prepared as the training is not known", outside.place)
    _log.info("test=%s: looking for its photographs in what is trained on", outside.place)
    shared = [_check_overlap(outside, source) for source in sources]
    return len(np.unique(np.concatenate(shared)))


def _check_overlap(outside: ShardSet, source: ShardSet) -> NDArray[np.int64]:
    """The records that seem to be in `source` too."""
    overlap = find_overlap(outside, source)
    if len(overlap.same):
        raise ValueError(
            f"test={outside.place}: {len(overlap.same)} of its {len(outside)} photographs are in "
            f"shards={source.place}, which are trained on ({_named(outside, overlap.same)}); a "
            "test set holds other patients"
        )
    if len(overlap.alike):
        _log.warning(
            "test=%s: %d of its %d records have the %s of one of shards=%s (%s); if these are the "
            "same eyes, the test scores are too good",
            outside.place,
            len(overlap.alike),
            len(outside),
            "name and patient" if overlap.by_name else "look, or the name and patient,",
            source.place,
            _named(outside, overlap.alike),
        )
    return overlap.alike


def _named(shards: ShardSet, records: NDArray[np.int64]) -> str:
    names = shards.table["name"].iloc[records[:3]].tolist()
    return ", ".join(names) + (", ..." if len(records) > len(names) else "")


def _check_source(config: TrainConfig, parts: Sequence[ShardSet]) -> None:
    """`shards` beside a `data` that is not the default must be made from that very source."""
    for part in parts:
        made = part.manifest
        if made is not None and config.preparation not in (PreparationConfig(), made.preparation):
            raise ValueError(
                f"preparation: differs from the one that shards={part.place} were made with; "
                "leave it out, or prepare other shards"
            )
    data = config.data
    named = isinstance(data, TableData | FoldersData | MedMNISTData) and data.images
    if not named and not (isinstance(data, SyntheticData) and data.folder):
        return
    source = read_label_source(data, cache=Path(config.cache), on_error=config.on_error)
    if [part.manifest and part.manifest.source for part in parts] != [source.digest()]:
        raise ValueError(
            f"shards={config.shards}: was not made from the photographs and labels of data=...; "
            "give one of the two"
        )
