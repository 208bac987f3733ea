"""`python -m dr.report`: the HTML report of a run."""

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dr.checks import check_report_door
from dr.compose import run_door
from dr.config import ReportConfig, ReportDoorConfig
from dr.urls import masked

if TYPE_CHECKING:
    from dr.reporting.html.gallery import Mistake, Pictures
    from dr.reporting.html.run_files import RunFiles
    from dr.shards.remote_cache import RemoteCache
    from dr.shards.shard_set import ShardSet

_log = logging.getLogger(__name__)
REPORT = "report.html"


def main(config: ReportDoorConfig) -> None:
    """Write the report, and say to stdout where it lies."""
    from dr.shards.remote_cache import RemoteCache

    run = Path(str(config.run))
    out = _out(config, run)
    cache = RemoteCache.within(config.cache, config.remote_cache_gb)
    write_report(run, out, config.report, shards=config.shards, cache=cache)
    print(out)


def _out(config: ReportDoorConfig, run: Path) -> Path:
    if config.out is None:
        return run / REPORT
    out = Path(config.out)
    if out.exists() and not config.overwrite:
        raise ValueError(f"out={out}: is there already; choose another, or add overwrite=true")
    if not out.parent.is_dir():
        raise ValueError(f"out={out}: there is no folder {out.parent}; make it first")
    return out


def write_report(
    run: Path, out: Path, report: ReportConfig, *, shards: Any, cache: "RemoteCache"
) -> None:
    """Write the page of a run to `out`, whole or not at all.

    `shards` are a folder or URL or a list of them, None being where the run says they are; what
    lies behind a URL is fetched into `cache`. Pictures that cannot be had are left out, with a
    warning. Raises ValueError where the run cannot be read.
    """
    from dr.files import write_whole
    from dr.reporting.html.gallery import worst_mistakes
    from dr.reporting.html.run_files import read_run_files
    from dr.reporting.html.run_page import run_page

    files = read_run_files(run)
    found = files.predictions
    mistakes = [] if found is None else worst_mistakes(found, report.mistakes)
    pictures = {}
    if mistakes and report.images:
        pictures = _pictures(files, mistakes, shards=shards, cache=cache)
    write_whole(out, run_page(files, mistakes=mistakes, pictures=pictures))


def _pictures(
    files: "RunFiles", mistakes: "Sequence[Mistake]", *, shards: Any, cache: "RemoteCache"
) -> "dict[str, Pictures]":
    """The pictures of mistakes as far as they can be had: no failure of theirs costs the report."""
    try:
        opened = _open_shards(files, shards, cache)
    except Exception as error:
        _log.warning("report without pictures: %s", masked(str(error) or type(error).__name__))
        return {}
    for maps in (True, False):
        try:
            return _explained(files, mistakes, opened, maps=maps)
        except Exception as error:
            what = "heat maps" if maps else "pictures"
            _log.warning("report without %s: %s", what, masked(str(error) or type(error).__name__))
    return {}


def _open_shards(files: "RunFiles", shards: Any, cache: "RemoteCache") -> "ShardSet":
    """The shards of a run, looked for where its config and its result say they are.

    Raises ValueError or OSError where they are not there or hold something else.
    """
    places = [shards] if shards else [files.settings.get("shards"), files.data.get("shards")]
    failure: Exception = ValueError(f"{files.summary.folder}: does not say where its shards are")
    for place in filter(None, places):
        try:
            return _opened(files, place, cache)
        except (ValueError, OSError) as error:
            failure = error
    raise failure


def _opened(files: "RunFiles", place: Any, cache: "RemoteCache") -> "ShardSet":
    from dr.shards.joining import open_entries

    opened = open_entries(place, cache=cache, key="shards")
    if opened.digest != files.data.get("digest"):
        raise ValueError(f"shards={opened.place}: are not those that the run was trained on")
    return opened


def _explained(
    files: "RunFiles", mistakes: "Sequence[Mistake]", shards: "ShardSet", *, maps: bool
) -> "dict[str, Pictures]":
    from dr.compose import build
    from dr.config import TrainConfig
    from dr.reporting.html.gallery import Pictures
    from dr.reporting.runs import read_config
    from dr.shipping.heat_maps import explain

    folder = files.summary.folder
    found = explain(
        folder,
        config=build(TrainConfig, read_config(folder / "config.yaml")),
        image_size=files.data["image_size"],
        shards=shards,
        fold_of={mistake.name: mistake.fold for mistake in mistakes},
        maps=maps,
    )
    return {name: Pictures(one.photograph, one.heat_map) for name, one in found.items()}


if __name__ == "__main__":
    run_door("report", schema=ReportDoorConfig, check=check_report_door, main=main)
