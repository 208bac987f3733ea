"""The shards that a training reads: those it was given, or those it prepares into the cache."""

from pathlib import Path

from dr.config import (
    FoldersData,
    MedMNISTData,
    PreparationConfig,
    SyntheticData,
    TableData,
    TrainConfig,
)
from dr.shards.labels import read_label_source
from dr.shards.manifest import recipe_digest
from dr.shards.opening import open_shards
from dr.shards.prepare import prepare_source, read_source
from dr.shards.shard_set import ShardSet


def training_shards(config: TrainConfig) -> ShardSet:
    """Open `shards`, or prepare `data` into the cache, in a folder named by its digest.

    Raises ValueError where `shards` and `data` contradict each other.
    """
    if config.shards is not None:
        given = config.shards[0] if isinstance(config.shards, list) else config.shards
        shards = open_shards(Path(given))
        _check_source(config, shards)
        return shards
    source = read_source(config)
    recipe = recipe_digest(config.preparation, config.image_size or config.data.image_size)
    folder = Path(config.cache) / f"shards-{source.digest()[:8]}-{recipe[:8]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    prepare_source(config, source, folder=folder)
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
