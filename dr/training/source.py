"""The shards that a training reads: those it was given, or those it prepares into the cache."""

import logging
from pathlib import Path

from dr.config import (
    FoldersData,
    MedMNISTData,
    PreparationConfig,
    PrepareConfig,
    SyntheticData,
    TableData,
    TrainConfig,
)
from dr.shards.labels import LabelSource, read_label_source
from dr.shards.manifest import Manifest, recipe_digest
from dr.shards.packing import Packing, pack
from dr.shards.reading import ShardSet, open_shards
from dr.training.progress import JobProgress

_log = logging.getLogger(__name__)


def prepare(config: PrepareConfig) -> Manifest:
    """Prepare a label source into a folder of shards, with progress on stderr.

    Raises ValueError for anything wrong with the source or the folder.
    """
    source = read_label_source(config.data, cache=Path(config.cache), on_error=config.on_error)
    for note in source.notes:
        _log.warning("%s", note)
    return _pack(_packing(config, source, Path(str(config.shards))))


def _packing(config: PrepareConfig, source: LabelSource, folder: Path) -> Packing:
    return Packing(
        source=source,
        preparation=config.preparation,
        image_size=config.image_size or config.data.image_size,
        folder=folder,
        on_error=config.on_error,
        workers=config.workers,
    )


def _pack(packing: Packing) -> Manifest:
    with JobProgress(len(packing.source.table), description="preparing") as progress:
        return pack(packing, progress=progress.advance)


def training_shards(config: TrainConfig) -> ShardSet:
    """Open `shards`, or prepare `data` into the cache, in a folder named by its digest.

    Raises ValueError where `shards` and `data` contradict each other.
    """
    if config.shards is not None:
        given = config.shards[0] if isinstance(config.shards, list) else config.shards
        shards = open_shards(Path(given))
        _check_source(config, shards)
        return shards
    source = read_label_source(config.data, cache=Path(config.cache), on_error=config.on_error)
    for note in source.notes:
        _log.warning("%s", note)
    size = config.image_size or config.data.image_size
    recipe = recipe_digest(config.preparation, size)
    folder = Path(config.cache) / f"shards-{source.digest()[:8]}-{recipe[:8]}"
    job = PrepareConfig(
        data=config.data,
        preparation=config.preparation,
        image_size=size,
        on_error=config.on_error,
        workers=config.workers,
        cache=config.cache,
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    _pack(_packing(job, source, folder))
    return open_shards(folder)


def _check_source(config: TrainConfig, shards: ShardSet) -> None:
    """`shards` beside a `data` that is not the default must be made from that very source."""
    made = shards.manifest
    if made is not None and config.preparation not in (PreparationConfig(), made.preparation):
        raise ValueError(
            f"preparation: differs from the one that shards={shards.folder} were made with; leave "
            "it out, or prepare other shards"
        )
    data = config.data
    named = isinstance(data, TableData | FoldersData | MedMNISTData) and data.images
    if not named and not (isinstance(data, SyntheticData) and data.folder):
        return
    source = read_label_source(data, cache=Path(config.cache), on_error=config.on_error)
    if made is None or made.source != source.digest():
        raise ValueError(
            f"shards={shards.folder}: was not made from the photographs and labels of data=...; "
            "give one of the two"
        )
