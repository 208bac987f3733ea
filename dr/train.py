"""`python -m dr.train`: train every fold of an experiment and score them."""

import logging
from pathlib import Path
from typing import Any

from dr.checks import check_train
from dr.compose import run_door
from dr.config import TrainConfig
from dr.report import REPORT, write_report

_log = logging.getLogger(__name__)


def main(config: TrainConfig) -> float | None:
    """Train, print the result to stdout, and return the pooled QWK (a sweeper's objective).

    With `debug` nothing is trained: what was found is printed, and raised as ValueError where
    something is wrong.
    """
    if config.debug is not None:
        _debug(config)
        return None
    from dr.training.cross_validation import cross_validate

    outcome = cross_validate(config)
    if outcome is None:
        return None
    print(describe(str(outcome.folder), outcome.result), flush=True)
    if config.report.enabled and outcome.result["complete"]:
        _report(config, outcome.folder)
    pooled = outcome.result["pooled"]
    return None if pooled is None else pooled["qwk"]


def _report(config: TrainConfig, run: Path) -> None:
    """Write a run's report, unless it has one that is newer than its result; never fail."""
    page, result = run / REPORT, run / "result.json"
    if page.is_file() and page.stat().st_mtime >= result.stat().st_mtime:
        return
    from dr.shards.remote_cache import RemoteCache

    cache = RemoteCache.within(config.cache, config.remote_cache_gb)
    try:
        write_report(run, page, config.report, shards=config.shards, cache=cache)
    except Exception as error:
        _log.warning("%s could not be written: %s: %s", page, type(error).__name__, error)
    else:
        _log.info("report: %s", page)


def _debug(config: TrainConfig) -> None:
    from dr.training.debugging import debug

    finding = debug(config)
    if finding.text:
        print(finding.text, flush=True)
    if finding.problem is not None:
        raise ValueError(finding.problem)


def describe(folder: str, result: dict[str, Any]) -> str:
    """A finished or unfinished run in a few lines."""
    folds, planned = result["folds"], result["planned_folds"]
    lines = [folder]
    scores = [(fold, entry["qwk"]) for fold, entry in folds.items() if entry["records"]]
    star = "*" if result["optimistic"] else ""
    lines += [f"  fold {fold}: QWK {_number(qwk)}{star}" for fold, qwk in scores]
    if result["mean"]:
        mean, sd = result["mean"]["qwk"], result["sd"]["qwk"]
        lines.append(f"  mean of folds: QWK {_number(mean)}{star}, sd {_number(sd)}")
        pooled = result["pooled"]
        lines.append(f"  pooled out-of-fold: {_scores(pooled, star)}")
    lines += [
        f"    source {name}: {_scores(scores, star)}"
        for name, scores in result.get("sources", {}).items()
    ]
    lines += _test_lines(result.get("test"))
    if result.get("skipped"):
        lines.append(f"  {result['skipped']} records could not be read and are not scored")
    if star:
        lines.append("  * epoch picked on the fold it is scored on: optimistic")
    if not result["complete"]:
        lines.append(f"  unfinished: {len(folds)} of {len(planned)} folds are scored")
    elif not result["mean"]:
        what = "no score but the test set's" if "test" in result else "no score"
        lines.append(f"  trained on everything: no fold is held out, so there is {what}")
    return "\n".join(lines)


def _scores(scores: dict[str, Any], star: str = "") -> str:
    qwk, accuracy = _number(scores["qwk"]), _number(scores["accuracy"])
    return f"QWK {qwk}{star}, accuracy {accuracy}, {scores['records']} records"


def _test_lines(test: dict[str, Any] | None) -> list[str]:
    if test is None:
        return []
    shared = f", {test['shared']} of its records seem to be among those trained on: too good"
    lines = [f"  test set {test['name']}{shared if test.get('shared') else ''}:"]
    lines += [f"    fold {scores['fold']}: {_scores(scores)}" for scores in test["folds"]]
    if test["ensemble"] is not None:
        lines.append(f"    mean of all folds: {_scores(test['ensemble'])}")
    return lines


def _number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    run_door("train", schema=TrainConfig, check=check_train, main=main)
