"""`python -m dr.predict`: grades of photographs by the mean of a run's folds."""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from dr.checks import check_predict
from dr.compose import run_door
from dr.config import PredictConfig

if TYPE_CHECKING:
    from dr.prediction.folds import Graded
    from dr.shards.labels import LabelSource

_log = logging.getLogger(__name__)


def main(config: PredictConfig) -> None:
    """Grade, write the CSV, and say to stdout what was written."""
    from dr.scoring.metrics import grade_of

    out = Path(str(config.out))
    _check_out(out, overwrite=config.overwrite)
    graded = _grade(config, _source(config))
    grades = [int(grade) for grade in grade_of(graded.probabilities)]
    _write(config, out, dict(zip(graded.names, grades, strict=True)))
    for name, reason in graded.unreadable:
        _log.warning("left out: %s: %s", name, reason)
    counts = ", ".join(f"grade {grade}: {grades.count(grade)}" for grade in range(5))
    print(f"{out}: {len(grades)} photographs ({counts}), {len(graded.unreadable)} left out")


def _check_out(out: Path, *, overwrite: bool) -> None:
    if out.exists() and not overwrite:
        raise ValueError(f"out={out}: is there already; choose another, or add overwrite=true")
    if out.is_dir():
        raise ValueError(f"out={out}: is a folder; name a CSV to write")
    if not out.parent.is_dir():
        raise ValueError(f"out={out}: there is no folder {out.parent}; make it first")


def _source(config: PredictConfig) -> "LabelSource":
    from dr.shards.labels import read_label_source, read_photograph_folder

    if config.images is not None:
        return read_photograph_folder(Path(config.images))
    assert config.data is not None
    source = read_label_source(config.data, cache=Path(config.cache), on_error=config.on_error)
    for note in source.notes:
        _log.warning("%s", note)
    return source


def _grade(config: PredictConfig, source: "LabelSource") -> "Graded":
    from dr.accel.choice import choose_accelerator
    from dr.loading.resources import resources_here
    from dr.prediction.folds import grade_source, load_run
    from dr.progress import JobProgress

    with choose_accelerator(config.accel) as accelerator:
        run = load_run(Path(str(config.run)), accelerator)
        with JobProgress(len(source.table), description="grading") as progress:
            return grade_source(
                run,
                source,
                batch_size=config.batch_size,
                threads=resources_here().threads(config.loader),
                on_error=config.on_error,
                progress=progress,
            )


def _write(config: PredictConfig, out: Path, grades: dict[str, int]) -> None:
    from dr.files import write_csv

    header = (config.image_column, config.label_column)
    rows = [dict(zip(header, entry, strict=True)) for entry in grades.items()]
    write_csv(out, header, rows)


if __name__ == "__main__":
    run_door("predict", schema=PredictConfig, check=check_predict, main=main)
