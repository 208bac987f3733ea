"""A label source prepared into a folder of shards, watched by a progress line."""

import logging
from dataclasses import dataclass
from pathlib import Path

from dr.config import PrepareConfig, TrainConfig
from dr.progress import JobProgress
from dr.shards.labels import LabelSource, read_label_source
from dr.shards.manifest import Manifest
from dr.shards.packing import Packing, pack, slices_left

_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PartDone:
    """A part of a preparation that is done while `left` shards wait for other parts."""

    left: int


def prepare(config: PrepareConfig) -> Manifest | PartDone:
    """Prepare a label source, or a part of it, into a folder of shards; progress goes to stderr.

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
) -> Manifest | PartDone:
    """Prepare `source` into `folder` with the settings of `config`, with progress on stderr.

    Raises ValueError where photographs or the folder do not allow it.
    """
    parts, part = None, None
    if isinstance(config, PrepareConfig):
        parts, part = config.parts, config.part
    packing = Packing(
        source=source,
        preparation=config.preparation,
        image_size=config.image_size or config.data.image_size,
        folder=folder,
        on_error=config.on_error,
        workers=config.workers,
        parts=parts,
        part=part,
    )
    rows = sum(len(rows) for rows in packing.own_slices().values())
    what = "preparing" if part is None else f"preparing part {part}"
    with JobProgress(rows, description=what, bar=part is None) as progress:
        manifest = pack(packing, progress=progress.advance)
    return PartDone(left=slices_left(packing)) if manifest is None else manifest
