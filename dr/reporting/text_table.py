"""A comparison as text for a terminal, as wide as that is."""

import io
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial

from rich.box import Box
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from dr.reporting.comparison import Comparison, p_value, verdict
from dr.reporting.runs import RunSummary
from dr.reporting.setting_groups import Setting
from dr.reporting.values import printable, setting_texts

_RULE = Box("    \n    \n -- \n    \n    \n    \n    \n    \n", ascii=True)
_UNLIMITED = 100_000
_NARROWEST = 60
_NARROWEST_STATE = 24
_GAP = 2
_SPACE = " " * _GAP


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
    settings = _setting_columns(comparison)
    for number, row in enumerate(comparison.rows):
        pairs = zip(comparison.labels, (texts[number] for texts in settings), strict=True)
        chosen = " ".join(f"{label}={text}" for label, text in pairs if text)
        title, below = (
            Text(_encodable(line, encoding), overflow="fold")
            for line in (f"{_name(row)}{_SPACE}{_state_of(row)}", chosen)
        )
        cells = _table(scores, rows=slice(number + 1, number + 2), head=False)
        said = Text(_encodable(_judged_in_words(row, comparison), encoding), overflow="fold")
        parts += [title, *([_indented(below)] if chosen else []), _indented(cells)]
        parts += [_indented(said)] if row.judgement else []
    return parts


def _indented(part: RenderableType) -> Padding:
    return Padding(part, (0, 0, 0, _GAP))


def _notes_below(comparison: Comparison, limit: int, encoding: str) -> str:
    notes = [Text(_encodable(note, encoding), overflow="fold") for note in comparison.notes]
    return f"\n{_draw(notes, limit)}" if notes else ""


def _wide(comparison: Comparison) -> list[_Column]:
    folds = [
        _column(f"fold {fold}", comparison, partial(_fold, fold=fold, digits=4))
        for fold in comparison.folds
    ]
    sources = [
        _column(f"QWK {printable(source)}", comparison, partial(_source, source=source))
        for source in _sources(comparison)
    ]
    return _around(comparison, sources, folds)


def _compact(comparison: Comparison) -> list[_Column]:
    together = partial(_folds, folds=comparison.folds)
    folds = [_column("QWK by fold", comparison, together)]
    return _around(comparison, _sources_together(comparison), folds)


def _around(comparison: Comparison, sources: list[_Column], folds: list[_Column]) -> list[_Column]:
    texts = zip(comparison.labels, _setting_columns(comparison), strict=True)
    settings = [_Column((label, *cells)) for label, cells in texts]
    return [
        _of_rows("run", comparison, _name),
        *settings,
        *_seed_columns(comparison),
        _column("pooled QWK", comparison, _pooled),
        *_judged_columns(comparison),
        _column("mean ± sd", comparison, _mean),
        *sources,
        *_test_column(comparison),
        *folds,
        _of_rows("state", comparison, _state_of),
    ]


def _setting_columns(comparison: Comparison) -> list[list[str]]:
    rows = [row.summary.settings for row in comparison.rows]
    return [setting_texts(rows, key) for key in comparison.columns]


def _seed_columns(comparison: Comparison) -> list[_Column]:
    if all(len(row.runs) == 1 for row in comparison.rows):
        return []
    return [_of_rows("runs", comparison, _runs), _of_rows("sd of runs", comparison, _spread)]


def _judged_columns(comparison: Comparison) -> list[_Column]:
    """Intervals, where there are some; differences and verdicts, where two rows are judged."""
    judged = [row.judgement for row in comparison.rows if row.judgement is not None]
    columns = [_of_rows("95% interval", comparison, _interval)] if judged else []
    if any(one.versus is not None for one in judged):
        columns.append(_of_rows(f"vs {comparison.reference}", comparison, _versus))
        if any(not math.isnan(p_value(row, comparison)) for row in comparison.rows):
            head = "p (Holm)" if comparison.baseline else "p"
            columns.append(_of_rows(head, comparison, partial(_p_value, comparison=comparison)))
        columns.append(_of_rows("verdict", comparison, partial(verdict, comparison=comparison)))
    return columns


def _scores_alone(comparison: Comparison) -> list[_Column]:
    return [
        _column("pooled QWK", comparison, _pooled),
        _column("mean ± sd", comparison, _mean),
        *_sources_together(comparison),
        *_test_column(comparison),
        _column("QWK by fold", comparison, partial(_folds, folds=comparison.folds)),
    ]


def _judged_in_words(row: Setting, comparison: Comparison) -> str:
    parts = [f"95% {_interval(row)}"]
    if row.judgement is not None and row.judgement.versus is not None:
        parts.append(f"vs {comparison.reference} {_versus(row)}")
    word = verdict(row, comparison=comparison)
    return "; ".join([*parts, *([word] if word != "-" else [])])


def _sources(comparison: Comparison) -> list[str]:
    rows = comparison.rows
    return list(dict.fromkeys(source for row in rows for source in row.summary.sources))


def _sources_together(comparison: Comparison) -> list[_Column]:
    return [_column("QWK by source", comparison, _by_source)] if _sources(comparison) else []


def _test_column(comparison: Comparison) -> list[_Column]:
    tested = any(row.summary.test is not None for row in comparison.rows)
    return [_column("test QWK", comparison, _test)] if tested else []


def _column(header: str, comparison: Comparison, cell: Callable[[RunSummary], str]) -> _Column:
    return _of_rows(header, comparison, lambda row: cell(row.summary))


def _of_rows(header: str, comparison: Comparison, cell: Callable[[Setting], str]) -> _Column:
    return _Column((header, *(cell(row) for row in comparison.rows)))


def _name(row: Setting) -> str:
    more = len(row.runs) - 1
    return printable(row.name) + (f" and {more} more" if more else "")


def _runs(row: Setting) -> str:
    found, asked = len(row.complete), len(row.runs)
    return str(found) if found == asked else f"{found} of {asked}"


def _state_of(row: Setting) -> str:
    if len(row.runs) == 1 or row.summary.state == "complete":
        return _state(row.summary)
    open_runs = [run for run in row.runs if run.state != "complete"]
    return printable(
        ", ".join(f"seed {run.settings.get('seed')}: {_state(run)}" for run in open_runs)
    )


def _interval(row: Setting) -> str:
    judged = row.judgement
    if judged is None or math.isnan(judged.score.low):
        return "-"
    return f"{judged.score.low:.3f} to {judged.score.high:.3f}"


def _spread(row: Setting) -> str:
    judged = row.judgement
    return "-" if judged is None or math.isnan(judged.seed_sd) else f"{judged.seed_sd:.4f}"


def _versus(row: Setting) -> str:
    judged = row.judgement
    if judged is None or judged.versus is None:
        return "-"
    found = judged.versus
    bounds = "" if math.isnan(found.low) else f" ({found.low:+.3f} to {found.high:+.3f})"
    return f"{found.value:+.4f}{bounds}"


def _p_value(row: Setting, *, comparison: Comparison) -> str:
    found = p_value(row, comparison)
    return "-" if math.isnan(found) else f"{found:.3f}" if found >= 0.001 else "<0.001"


def _state(run: RunSummary) -> str:
    if run.state == "unreadable":
        return printable(f"unreadable: {run.problem}")
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
        f"{printable(source)} {_source(run, source=source, digits=2)}" for source in run.sources
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
