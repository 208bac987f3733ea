"""Comparison of runs as one table: the settings that differ, and the scores, best first."""

import io
import json
import math
import textwrap
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dr.reporting.runs import RunSummary

_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_UNLIMITED = 100_000
_NARROWEST = 60
_NARROWEST_STATE = 24
_GAP = 2
_SPACE = " " * _GAP
_OPTIMISTIC = "* epoch picked on the fold it is scored on: optimistic"
_SHARED = "! its records seem to be among those trained on, all or some: too good"
_NOISE = (
    "A difference between runs of a single seed each shows nothing by itself: another seed alone "
    "moves QWK by about 0.01, and by far more on little data or few epochs."
)


@dataclass(frozen=True)
class Comparison:
    """Runs side by side.

    `columns` are the dotted keys of the settings that differ, `labels` their short names;
    `rows` go best first by pooled QWK, then complete runs without one, unfinished runs, and
    unreadable ones; `folds` are all planned folds; `notes` are what a reader must know.
    """

    columns: tuple[str, ...]
    labels: tuple[str, ...]
    rows: tuple[RunSummary, ...]
    folds: tuple[int, ...]
    notes: tuple[str, ...]


def compare(runs: Sequence[RunSummary]) -> Comparison:
    """Set runs side by side. Raises `ValueError` without runs."""
    if not runs:
        raise ValueError("no runs to compare: give one at least")
    columns = differing_settings(runs)
    rows = tuple(sorted(runs, key=_rank))
    folds = {fold for run in runs for fold in (*run.planned_folds, *run.folds)}
    return Comparison(
        columns=columns,
        labels=short_labels(columns),
        rows=rows,
        folds=tuple(sorted(folds)),
        notes=tuple(_notes(rows)),
    )


def _rank(run: RunSummary) -> tuple[int, float, str]:
    order = ("complete", "unfinished", "unreadable").index(run.state)
    pooled = math.nan if run.pooled is None else run.pooled["qwk"]
    if math.isnan(pooled):
        return (order, math.inf, run.name)
    return (order, -pooled, run.name)


def differing_settings(runs: Sequence[RunSummary]) -> tuple[str, ...]:
    """Keys whose values differ, in the order of the configurations.

    A key that a run lacks because it chose another variant of the key's group (`schedule.decay`
    beside a cosine schedule) is no difference: the variant's name tells it.
    """
    known = [run.settings for run in runs if run.settings]
    keys = list(dict.fromkeys(key for settings in known for key in settings))
    return tuple(key for key in keys if _differs(key, known))


def _differs(key: str, known: Sequence[dict[str, object]]) -> bool:
    held = {_canonical(settings[key]) for settings in known if key in settings}
    if len(held) > 1 or key == "data":
        return len(held) > 1
    group = key.partition(".")[0]
    by_variant: dict[str, set[str]] = defaultdict(set)
    for settings in known:
        variant = _canonical(settings.get(f"{group}.name"))
        by_variant[variant].add(_canonical(settings.get(key)))
    return any(len(values) > 1 for values in by_variant.values())


def _canonical(value: object) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def short_labels(columns: Sequence[str]) -> tuple[str, ...]:
    """Short names of dotted keys, where unambiguous: the last part, or the group of a `name`."""
    short = [_last_part(key) for key in columns]
    return tuple(
        name if short.count(name) == 1 else key for key, name in zip(columns, short, strict=True)
    )


def _last_part(key: str) -> str:
    parts = key.split(".")
    return parts[-2] if parts[-1] == "name" and len(parts) > 1 else parts[-1]


def _notes(rows: Sequence[RunSummary]) -> list[str]:
    scored = [run for run in rows if _is_scored(run)]
    notes = []
    if any(run.optimistic for run in scored):
        notes.append(_OPTIMISTIC)
    notes += _incomparable(scored) + _tests(rows)
    if any(run.test is not None and run.test_shared for run in rows):
        notes.append(_SHARED)
    if len(scored) > 1:
        notes.append(_NOISE)
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
        lines.append(_printable(f"({number}) {data}, folds {part}: {names}"))
    return lines


def _tests(rows: Sequence[RunSummary]) -> list[str]:
    """On which set each test score was made; different ones are not comparable."""
    names = dict.fromkeys(run.test_name for run in rows if run.test is not None)
    if not names:
        return []
    what = "test QWK: all folds of a run together on an outside set: "
    if len(names) == 1:
        return [_printable(f"{what}{next(iter(names))}")]
    lines = ["Not comparable: these runs have different test sets."]
    for name in names:
        runs = ", ".join(run.name for run in rows if run.test is not None and run.test_name == name)
        lines.append(_printable(f"test QWK on {name}: {runs}"))
    return lines


def render_table(
    comparison: Comparison, *, width: int | None = None, encoding: str = "utf-8"
) -> str:
    """Draw a comparison as text, its notes below.

    `width` is the terminal's, in columns; None (no terminal) takes all the width it needs. Where
    a column a fold does not fit, the folds share one; where that does not fit either, a run's
    name, state and settings go above its scores. Numbers are never broken: below 60 columns the
    lines are longer than the terminal. What a stream of `encoding` cannot hold is escaped.
    """
    limit = _UNLIMITED if width is None else max(width, _NARROWEST)
    for layout in (_wide, _compact):
        columns = [column.encoded(encoding) for column in layout(comparison)]
        columns[-1] = replace(columns[-1], limit=limit - _total(columns[:-1]) - _GAP)
        if columns[-1].width >= min(columns[-1].natural, _NARROWEST_STATE):
            table = _draw([_table(columns)], _total(columns))
            break
    else:
        table = _draw(_blocks(comparison, limit, encoding), limit)
    return table + _notes_below(comparison, limit, encoding)


@dataclass(frozen=True)
class _Column:
    """One column's texts, the header first; no line gets wider than `limit`."""

    texts: tuple[str, ...]
    limit: int = _UNLIMITED

    @property
    def natural(self) -> int:
        return max(map(cell_len, self.texts))

    @property
    def width(self) -> int:
        return min(self.natural, self.limit)

    def encoded(self, encoding: str) -> "_Column":
        return replace(self, texts=tuple(_encodable(text, encoding) for text in self.texts))


def _encodable(text: str, encoding: str) -> str:
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        plain = text.replace("±", "+-")
        return plain.encode(encoding, "backslashreplace").decode(encoding)
    return text


def _total(columns: Sequence[_Column]) -> int:
    return sum(column.width for column in columns) + _GAP * (len(columns) - 1)


def _draw(parts: Sequence[RenderableType], width: int) -> str:
    stream = io.StringIO()
    console = Console(file=stream, width=width, color_system=None)
    for part in parts:
        console.print(part)
    return "".join(line.rstrip() + "\n" for line in stream.getvalue().splitlines())


def _table(columns: Sequence[_Column], *, rows: slice = slice(1, None), head: bool = True) -> Table:
    table = Table(box=_RULE, show_edge=False, pad_edge=False, padding=(0, 1, 0, 0))
    table.show_header = head
    for column in columns:
        table.add_column(Text(column.texts[0]), width=column.width, overflow="fold")
    for row in zip(*(column.texts[rows] for column in columns), strict=True):
        table.add_row(*(Text(text) for text in row))
    return table


def _blocks(comparison: Comparison, limit: int, encoding: str) -> list[RenderableType]:
    """For a narrow terminal: a header, then name and state, settings, and scores of each run."""
    scores = [column.encoded(encoding) for column in _scores_alone(comparison)]
    scores[-1] = replace(scores[-1], limit=limit - _total(scores[:-1]) - 2 * _GAP)
    head = _table(scores, rows=slice(0))
    parts: list[RenderableType] = [Text(f"run{_SPACE}state, settings"), _indented(head)]
    settings = [_setting_texts(comparison.rows, key) for key in comparison.columns]
    for number, run in enumerate(comparison.rows):
        pairs = zip(comparison.labels, (texts[number] for texts in settings), strict=True)
        chosen = " ".join(f"{label}={text}" for label, text in pairs if text)
        title, below = (
            Text(_encodable(line, encoding), overflow="fold")
            for line in (f"{_name(run)}{_SPACE}{_state(run)}", chosen)
        )
        row = _table(scores, rows=slice(number + 1, number + 2), head=False)
        parts += [title, *([_indented(below)] if chosen else []), _indented(row)]
    return parts


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, _GAP))


def _notes_below(comparison: Comparison, limit: int, encoding: str) -> str:
    wrap = textwrap.TextWrapper(limit, break_on_hyphens=False)
    notes = [wrap.fill(_encodable(note, encoding)) for note in comparison.notes]
    return "".join(f"\n{note}" for note in notes) + ("\n" if notes else "")


def _wide(comparison: Comparison) -> list[_Column]:
    folds = [
        _column(f"fold {fold}", comparison, partial(_fold, fold=fold, digits=4))
        for fold in comparison.folds
    ]
    sources = [
        _column(f"QWK {_printable(source)}", comparison, partial(_source, source=source))
        for source in _sources(comparison)
    ]
    return _around(comparison, sources, folds)


def _compact(comparison: Comparison) -> list[_Column]:
    together = partial(_folds, folds=comparison.folds)
    folds = [_column("QWK by fold", comparison, together)]
    return _around(comparison, _sources_together(comparison), folds)


def _around(comparison: Comparison, sources: list[_Column], folds: list[_Column]) -> list[_Column]:
    settings = [
        _Column((label, *_setting_texts(comparison.rows, key)))
        for key, label in zip(comparison.columns, comparison.labels, strict=True)
    ]
    return [
        _column("run", comparison, _name),
        *settings,
        _column("pooled QWK", comparison, _pooled),
        _column("mean ± sd", comparison, _mean),
        *sources,
        *_test_column(comparison),
        *folds,
        _column("state", comparison, _state),
    ]


def _scores_alone(comparison: Comparison) -> list[_Column]:
    return [
        _column("pooled QWK", comparison, _pooled),
        _column("mean ± sd", comparison, _mean),
        *_sources_together(comparison),
        *_test_column(comparison),
        _column("QWK by fold", comparison, partial(_folds, folds=comparison.folds)),
    ]


def _sources(comparison: Comparison) -> list[str]:
    return list(dict.fromkeys(source for run in comparison.rows for source in run.sources))


def _sources_together(comparison: Comparison) -> list[_Column]:
    return [_column("QWK by source", comparison, _by_source)] if _sources(comparison) else []


def _test_column(comparison: Comparison) -> list[_Column]:
    tested = any(run.test is not None for run in comparison.rows)
    return [_column("test QWK", comparison, _test)] if tested else []


def _column(header: str, comparison: Comparison, cell: Callable[[RunSummary], str]) -> _Column:
    return _Column((header, *(cell(run) for run in comparison.rows)))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def _name(run: RunSummary) -> str:
    return _printable(run.name)


def _state(run: RunSummary) -> str:
    if run.state == "unreadable":
        return _printable(f"unreadable: {run.problem}")
    if run.state == "unfinished" and run.planned_folds:
        return f"{len(run.folds)} of {len(run.planned_folds)} folds{_left_out(run)}"
    return f"{run.state}{_left_out(run)}"


def _left_out(run: RunSummary) -> str:
    return f", {run.skipped} unreadable records left out" if run.skipped else ""


def _pooled(run: RunSummary) -> str:
    return "-" if run.pooled is None else _score(run, run.pooled["qwk"], digits=4)


def _mean(run: RunSummary) -> str:
    mean, sd = (scores.get("qwk", math.nan) for scores in (run.mean, run.sd))
    if math.isnan(mean):
        return "-"
    spread = "" if math.isnan(sd) else f" ± {sd:.4f}"
    return f"{mean:.4f}{spread}{_mark(run)}"


def _source(run: RunSummary, *, source: str, digits: int = 4) -> str:
    scores = run.sources.get(source)
    return "-" if scores is None else _score(run, scores["qwk"], digits=digits)


def _by_source(run: RunSummary) -> str:
    parts = [
        f"{_printable(source)} {_source(run, source=source, digits=2)}" for source in run.sources
    ]
    return " ".join(parts) or "-"


def _test(run: RunSummary) -> str:
    # No star: the epoch was not picked on the test set.
    qwk = math.nan if run.test is None else run.test["qwk"]
    return "-" if math.isnan(qwk) else f"{qwk:.4f}{'!' if run.test_shared else ''}"


def _fold(run: RunSummary, *, fold: int, digits: int) -> str:
    scores = run.folds.get(fold)
    return "-" if scores is None else _score(run, scores["qwk"], digits=digits)


def _folds(run: RunSummary, *, folds: Sequence[int]) -> str:
    return " ".join(f"{_fold(run, fold=fold, digits=2):<4}" for fold in folds).rstrip()


def _score(run: RunSummary, score: float, *, digits: int) -> str:
    return "-" if math.isnan(score) else f"{score:.{digits}f}{_mark(run)}"


def _mark(run: RunSummary) -> str:
    return "*" if run.optimistic else ""


def _setting_texts(rows: Sequence[RunSummary], key: str) -> list[str]:
    """The column's cells: short, unless two different values would then look the same."""
    held = [run.settings[key] for run in rows if key in run.settings]
    brief = {_canonical(value): _brief(value) for value in held}
    form = _brief if len(set(brief.values())) == len(brief) else _canonical
    return [_printable(form(run.settings[key])) if key in run.settings else "" for run in rows]


def _brief(value: object) -> str:
    """A value as one types it in a command; of a list of named transforms, the names."""
    if isinstance(value, list):
        names = [item.get("name") if isinstance(item, dict) else item for item in value]
        return f"[{','.join(map(_brief, names))}]"
    if isinstance(value, str):
        return value
    return _canonical(value)
