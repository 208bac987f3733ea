"""A label source prepared into a folder of shards, watched by a progress line."""

import logging
from pathlib import Path

from dr.config import PrepareConfig, TrainConfig
from dr.progress import JobProgress
from dr.shards.labels import LabelSource, read_label_source
from dr.shards.manifest import Manifest
from dr.shards.packing import Packing, pack

_log = logging.getLogger(__name__)


def prepare(config: PrepareConfig) -> Manifest:
    """Prepare a label source into a folder of shards, with progress on stderr.

    Raises ValueError for anything wrong with the source or the folder.
    """
    return prepare_source(config, read_source(config), folder=Path(str(config.shards)))


def read_source(config: PrepareConfig | TrainConfig) -> LabelSource:
    """The label source of `data`; what is to be known about it is said.

    Raises ValueError for anything wrong with it.
    """
    source = read_label_source(config.data, cache=Path(config.cache), on_error=config.on_error)
    for note in source.notes:
        _log.warning("%s", note)
    return source


def prepare_source(
    config: PrepareConfig | TrainConfig, source: LabelSource, *, folder: Path
) -> Manifest:
    """Prepare `source` into `folder` with the settings of `config`, with progress on stderr.

    Raises ValueError where photographs or the folder do not allow it.
    """
    packing = Packing(
        source=source,
        preparation=config.preparation,
        image_size=config.image_size or config.data.image_size,
        folder=folder,
        on_error=config.on_error,
        workers=config.workers,
    )
    with JobProgress(len(source.table), description="preparing") as progress:
        return pack(packing, progress=progress.advance)
