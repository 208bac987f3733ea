"""Comparison of runs: the settings that differ, the scores, and what can be said of them."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from dr.reporting.cohorts import cohorts
from dr.reporting.judging import Judgement, judge
from dr.reporting.runs import RunSummary
from dr.reporting.selecting import find_run, find_setting
from dr.reporting.setting_groups import Setting, group_by, group_settings
from dr.reporting.values import canonical, printable
from dr.scoring.resampling import DRAWS

_OPTIMISTIC = "* epoch picked on the fold it is scored on: optimistic"
_SHARED = "! its records seem to be among those trained on, all or some: too good"
_MODELS = (
    "With one seed each, the differences are between these trained models, not between their "
    "settings: another seed alone moves QWK by about 0.01, and by far more on little data or few "
    "epochs. Two or more seeds of each setting tell about settings (seed=0,1 with --multirun)."
)
_SETTINGS = (
    "Intervals and tests of settings with two or more seeds hold for new patients and new seeds; "
    "the noise of seeds is pooled over them ({freedom} degrees of freedom)."
)
_BEST = (
    "'{word}': with 95% confidence the best {what} is among those so marked and the first (all "
    "comparisons with the best are taken together)."
)
_BASELINE = "p (Holm): corrected for the number of comparisons with the baseline."
_CONDITION = (
    "All of it is conditional on these folds, and counts the records of a patient together."
)
ALPHA = 0.05


@dataclass(frozen=True, kw_only=True)
class Asked:
    """What a comparison is asked for: see `CompareConfig`."""

    baseline: str | None = None
    by: str | None = None
    sort: str = "qwk"
    draws: int = DRAWS


@dataclass(frozen=True)
class Comparison:
    """Settings side by side; one whose runs differ in their seed alone is one row.

    `columns` are the dotted keys of the settings that differ, `labels` their short names; `rows`
    go best first by pooled QWK (or as asked), then complete ones without one, unfinished ones, and
    unreadable ones; `folds` are all planned folds; `notes` are what a reader must know.
    `baseline` says whether differences are from a baseline, not from the best.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    rows: tuple[Setting, ...]
    folds: tuple[int, ...]
    notes: tuple[str, ...]
    baseline: bool = False

    @property
    def reference(self) -> str:
        """What differences are from."""
        return "baseline" if self.baseline else "best"


def p_value(row: Setting, comparison: Comparison) -> float:
    """That of a row's difference, `nan` where there is none.

    From a baseline it is corrected. From the best of many there is none, since the best was
    picked by these very scores; of two rows alone it is the test of their difference.
    """
    judged = row.judgement
    if judged is None or judged.versus is None:
        return math.nan
    if comparison.baseline:
        return judged.p_adjusted
    beside = [other for other in comparison.rows if other.judgement and other.cohort == row.cohort]
    return judged.versus.p_value if len(beside) == 2 else math.nan


def verdict(row: Setting, *, comparison: Comparison) -> str:
    """What can be said of a row beside its reference, in a few words; "-" for nothing."""
    judged = row.judgement
    if judged is None:
        return "-"
    if judged.reference:
        return comparison.reference if judged.about_settings else f"{comparison.reference} model"
    if comparison.baseline:
        return _against_baseline(judged)
    if judged.may_be_best is None:
        return "one seed"
    if judged.about_settings:
        return "may be best" if judged.may_be_best else "below best"
    return "not told apart" if judged.may_be_best else "models differ"


def _against_baseline(judged: Judgement) -> str:
    if judged.versus is None or not judged.p_adjusted < ALPHA:
        return "not told apart"
    if not judged.about_settings:
        return "models differ"
    return "better" if judged.versus.value > 0 else "worse"


def compare(runs: Sequence[RunSummary], asked: Asked | None = None) -> Comparison:
    """Set runs side by side, and judge those that can be compared.

    Raises ValueError without runs, and for a baseline, key or order that is none of theirs.
    """
    if not runs:
        raise ValueError("no runs to compare: give one at least")
    asked = asked or Asked()
    rows, problems = _judged(runs, asked)
    rows.sort(key=lambda row: _rank(row, asked.sort))
    columns = differing_settings([row.summary for row in rows])
    return Comparison(
        columns=columns,
        labels=short_labels(columns),
        rows=tuple(rows),
        folds=tuple(sorted({fold for run in runs for fold in (*run.planned_folds, *run.folds)})),
        notes=tuple(_notes(rows, problems, asked)),
        baseline=asked.baseline is not None,
    )


def _judged(runs: Sequence[RunSummary], asked: Asked) -> tuple[list[Setting], dict[str, str]]:
    """The rows, and why runs could not be judged, by their names."""
    if asked.by is not None:
        return group_by(runs, find_setting(runs, asked.by)), {}
    baseline = None if asked.baseline is None else find_run(runs, asked.baseline)
    settings = group_settings(runs)
    names = [[run.name for run in setting.complete] for setting in settings]
    found, problems = cohorts(runs)
    judgements: dict[int, tuple[int, Judgement]] = {}
    for number, cohort in enumerate(found, start=1):
        inside = None if baseline is None or baseline not in cohort.names else baseline
        own = judge(cohort, names, baseline=inside, draws=asked.draws)
        judgements |= {place: (number, judgement) for place, judgement in own.items()}
    return [_with(one, judgements.get(place)) for place, one in enumerate(settings)], problems


def _with(setting: Setting, judged: tuple[int, Judgement] | None) -> Setting:
    return setting if judged is None else replace(setting, cohort=judged[0], judgement=judged[1])


def _rank(row: Setting, sort: str) -> tuple[int, float, str]:
    order = ("complete", "unfinished", "unreadable").index(row.summary.state)
    if sort == "name":
        return (0, 0.0, row.name)
    scores = (row.summary.mean if sort == "mean" else row.summary.pooled) or {}
    score = scores.get("qwk" if sort == "mean" else sort, math.nan)
    ranked = math.inf if math.isnan(score) else score if sort == "loss" else -score
    return (order, ranked, row.name)


def differing_settings(runs: Sequence[RunSummary]) -> tuple[str, ...]:
    """Keys whose values differ, in the order of the configurations.

    A key that a run lacks because it chose another variant of the key's group (`schedule.decay`
    beside a cosine schedule) is no difference: the variant's name tells it.
    """
    known = [run.settings for run in runs if run.settings]
    keys = list(dict.fromkeys(key for settings in known for key in settings))
    return tuple(key for key in keys if _differs(key, known))


def _differs(key: str, known: Sequence[dict[str, object]]) -> bool:
    held = {canonical(settings[key]) for settings in known if key in settings}
    if len(held) > 1 or key == "data":
        return len(held) > 1
    group = key.partition(".")[0]
    by_variant: dict[str, set[str]] = defaultdict(set)
    for settings in known:
        variant = canonical(settings.get(f"{group}.name"))
        by_variant[variant].add(canonical(settings.get(key)))
    return any(len(values) > 1 for values in by_variant.values())


def short_labels(columns: Sequence[str]) -> tuple[str, ...]:
    """Short names of dotted keys, where unambiguous: the last part, or the group of a `name`."""
    short = [_last_part(key) for key in columns]
    return tuple(
        name if short.count(name) == 1 else key for key, name in zip(columns, short, strict=True)
    )


def _last_part(key: str) -> str:
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _notes(rows: Sequence[Setting], problems: Mapping[str, str], asked: Asked) -> list[str]:
    runs = [run for row in rows for run in row.runs]
    scored = [run for run in runs if _is_scored(run)]
    notes = [_OPTIMISTIC] if any(run.optimistic for run in scored) else []
    notes += _incomparable(scored) + _tests(runs)
    if any(run.test is not None and run.test_shared for run in runs):
        notes.append(_SHARED)
    notes += _unjudged(problems)
    return notes + _what_is_said(rows, scored, asked)


def _best_notes(judged: Sequence[Judgement]) -> list[str]:
    settings, models = (
        [one for one in judged if one.may_be_best is not None and one.about_settings == kind]
        for kind in (True, False)
    )
    notes = [_BEST.format(word="may be best", what="setting")] if len(settings) > 1 else []
    return notes + ([_BEST.format(word="not told apart", what="model")] if len(models) > 1 else [])


def _unjudged(problems: Mapping[str, str]) -> list[str]:
    names: dict[str, list[str]] = defaultdict(list)
    for name, problem in problems.items():
        names[problem].append(name)
    return [printable(f"Not judged, since {why}: {', '.join(own)}") for why, own in names.items()]


def _what_is_said(rows: Sequence[Setting], scored: Sequence[RunSummary], asked: Asked) -> list[str]:
    judged = [row.judgement for row in rows if row.judgement is not None]
    about_models = any(not one.about_settings for one in judged)
    notes = []
    if any(one.about_settings for one in judged):
        several = [len(row.complete) for row in rows if row.judgement is not None]
        notes.append(_SETTINGS.format(freedom=sum(max(0, count - 1) for count in several)))
    if len(scored) > 1 and (about_models or not judged):
        notes.append(_MODELS)
    if len(judged) > 1:
        notes += [_BASELINE] if asked.baseline else _best_notes(judged)
        notes.append(_CONDITION)
    return notes


def _is_scored(run: RunSummary) -> bool:
    return any(not math.isnan(scores["qwk"]) for scores in run.folds.values())


def _incomparable(scored: Sequence[RunSummary]) -> list[str]:
    groups: dict[tuple[str | None, str | None], list[RunSummary]] = defaultdict(list)
    for run in scored:
        groups[run.data_digest, run.folds_digest].append(run)
    if len(groups) < 2:
        return []
    what = "data" if len({data for data, _ in groups}) > 1 else "folds"
    lines = [f"Not comparable: these runs were scored on different {what}."]
    for number, ((_, folds), runs) in enumerate(groups.items(), start=1):
        data = runs[0].settings.get("data", "unknown data")
        names = ", ".join(run.name for run in runs)
        part = (folds or "unknown")[:8]
        lines.append(printable(f"({number}) {data}, folds {part}: {names}"))
    return lines


def _tests(rows: Sequence[RunSummary]) -> list[str]:
    """On which set each test score was made; different ones are not comparable."""
    names = dict.fromkeys(run.test_name for run in rows if run.test is not None)
    if not names:
        return []
    what = "test QWK: all folds of a run together on an outside set: "
    if len(names) == 1:
        return [printable(f"{what}{next(iter(names))}")]
    lines = ["Not comparable: these runs have different test sets."]
    for name in names:
        runs = ", ".join(run.name for run in rows if run.test is not None and run.test_name == name)
        lines.append(printable(f"test QWK on {name}: {runs}"))
    return lines
