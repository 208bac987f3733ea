"""Checks of the doors that do not train."""

from dr.checks.groups import (
    check_accel,
    check_cropped,
    check_data,
    check_loader,
    check_preparation,
    check_remote_cache,
    check_report,
    one_device,
)
from dr.checks.values import above, at_least, one_of, required
from dr.config import (
    FORMATS,
    SORTS,
    CompareConfig,
    InspectConfig,
    LoaderConfig,
    PredictConfig,
    PrepareConfig,
    Problem,
    ReportDoorConfig,
)
from dr.urls import is_url


def check_prepare(config: PrepareConfig) -> list[Problem]:
    """All problems of a preparation that its values show."""
    problems = check_data(config.data) + check_preparation(config.preparation)
    problems += check_cropped(config.data, config.preparation)
    problems += required("shards", config.shards, "name the folder to write, shards=DIR")
    if is_url(config.shards):
        fix = "prepare into a folder here, then copy it there with the tool of that storage"
        problems.append(Problem("shards", config.shards, fix))
    problems += at_least("image_size", config.image_size, 8)
    problems += one_of("on_error", config.on_error, ("fail", "skip"))
    return problems + at_least("workers", config.workers, 1) + _check_parts(config)


def _check_parts(config: PrepareConfig) -> list[Problem]:
    parts, part = config.parts, config.part
    problems = at_least("parts", parts, 1)
    if problems or (parts is None and part is None):
        return problems
    if parts is None:
        return [Problem("part", part, "says nothing without the number of parts; add parts=...")]
    if part is None:
        fix = "has no effect without part=...; give one, --multirun part=0,1,... or leave parts out"
        return [Problem("parts", parts, fix)]
    if not 0 <= part < parts:
        return [Problem("part", part, f"give a number from 0 to {parts - 1}: there are {parts}")]
    return []


def check_compare(config: CompareConfig) -> list[Problem]:
    """All problems of a comparison that its values show."""
    problems = one_of("format", config.format, FORMATS)
    problems += one_of("sort", config.sort, SORTS)
    problems += at_least("draws", config.draws, 100)
    if config.where is not None and not isinstance(config.where, dict):
        fix = "name a setting, as in where.schedule=cosine"
        problems.append(Problem("where", config.where, fix))
    if config.by is not None and config.baseline is not None:
        fix = f"has no effect with by={config.by}; leave one of them out"
        problems.append(Problem("baseline", config.baseline, fix))
    return problems


def check_inspect(config: InspectConfig) -> list[Problem]:
    """All problems of an inspection that its values show."""
    problems = required("shards", config.shards, "name a folder of shards, shards=DIR")
    problems += check_remote_cache(config.remote_cache_gb, [config.shards])
    problems += at_least("sheet_records", config.sheet_records, 0)
    problems += at_least("seed", config.seed, 0) + at_least("workers", config.workers, 1)
    if config.sheet is not None and not config.sheet.lower().endswith(".png"):
        problems.append(Problem("sheet", config.sheet, "must end in .png"))
    if config.sheet is not None and config.sheet_records == 0:
        fix = "has no effect with sheet_records=0; leave one of them out"
        problems.append(Problem("sheet", config.sheet, fix))
    if config.overwrite and config.sheet is None:
        problems.append(Problem("overwrite", True, "has no effect without sheet=FILE"))
    return problems


def _check_predict_loader(loader: LoaderConfig) -> list[Problem]:
    fix = "has no effect on photographs, which are prepared as the run's were; leave it out"
    unused = {"prefetch": None, "cache": "none", "on_corrupt": "fail", "dct": "exact"}
    return [
        Problem(f"loader.{name}", getattr(loader, name), fix)
        for name, without in unused.items()
        if getattr(loader, name) != without
    ]


def check_predict(config: PredictConfig) -> list[Problem]:
    """All problems of a prediction that its values show."""
    problems = required("run", config.run, "name a run folder, run=DIR")
    problems += required("out", config.out, "name the CSV to write, out=FILE")
    if config.images is None and config.data is None:
        problems.append(Problem("images", None, "name a folder of photographs, or a data=..."))
    if config.images is not None and config.data is not None:
        fix = "contradicts data=...: give one of them (data.images=... belongs to data)"
        problems.append(Problem("images", config.images, fix))
    if config.image_column == config.label_column:
        fix = "must differ from image_column"
        problems.append(Problem("label_column", config.label_column, fix))
    problems += check_loader(config.loader) + check_accel(config.accel)
    problems += one_device(config.accel, "a prediction runs on one device")
    problems += _check_predict_loader(config.loader)
    problems += at_least("batch_size", config.batch_size, 1)
    return problems + one_of("on_error", config.on_error, ("fail", "skip"))


def check_report_door(config: ReportDoorConfig) -> list[Problem]:
    """All problems of a report that its values show."""
    problems = required("run", config.run, "name a run folder, run=DIR")
    problems += check_report(config.report)
    if config.out is not None and not config.out.lower().endswith((".html", ".htm")):
        problems.append(Problem("out", config.out, "must end in .html"))
    if config.overwrite and config.out is None:
        problems.append(Problem("overwrite", True, "has no effect without out=FILE"))
    if config.shards is not None and not (config.report.images and config.report.mistakes):
        fix = "has no effect without pictures; leave it out, or set report.images and mistakes"
        problems.append(Problem("shards", config.shards, fix))
    if config.shards is None:
        return problems + above("remote_cache_gb", config.remote_cache_gb, 0)
    listed = config.shards if isinstance(config.shards, list) else [config.shards]
    return problems + check_remote_cache(config.remote_cache_gb, listed)
