"""Run folders as reports read them: settings, scores and state, from files alone."""

import csv
import hashlib
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import yaml

from dr.config import OPERATIONAL_KEYS
from dr.scoring.metrics import from_json

SCHEMA_VERSION = 1
State = Literal["complete", "unfinished", "unreadable"]
Scores = dict[str, float]


@dataclass(frozen=True, kw_only=True)
class RunSummary:
    """One run folder: what was asked for, and what came out.

    `settings` maps dotted keys to values, without those that do not decide a result, and with
    `data`: the data's name and a short digest, once the run has a result. `folds` holds each
    finished fold's scores; `mean`, `sd` and `pooled` (out-of-fold) sum them up, `sources` each
    of several sources; `test` are those of all folds together on the outside test set `test_name`
    (its name and a short digest), of which `test_shared` records seem to be among those trained on;
    an undefined score is `nan`. `skipped` counts the records that could not be read and so were
    not scored. `problem` says why a run is `unreadable`. `folds_digest` names the folds' contents,
    whatever the order of their rows.
    """

    folder: Path
    name: str
    state: State
    settings: dict[str, object] = field(default_factory=dict)
    folds: dict[int, Scores] = field(default_factory=dict)
    planned_folds: tuple[int, ...] = ()
    mean: Scores = field(default_factory=dict)
    sd: Scores = field(default_factory=dict)
    pooled: Scores | None = None
    optimistic: bool = False
    sources: dict[str, Scores] = field(default_factory=dict)
    test: Scores | None = None
    test_name: str | None = None
    test_shared: int = 0
    skipped: int = 0
    data_digest: str | None = None
    folds_digest: str | None = None
    problem: str | None = None


def read_runs(outputs: Path) -> list[RunSummary]:
    """Read all run folders in `outputs`, sorted by name.

    A run folder is a visible directory that holds a `config.yaml`. One that cannot be read comes
    back as `unreadable`. Raises `ValueError` where `outputs` is no folder or holds no run.
    """
    fix = "`python -m dr.train` makes the first run; `outputs=DIR` looks elsewhere"
    if not outputs.is_dir():
        raise ValueError(f"outputs={outputs}: there is no such folder; {fix}")
    visible = sorted(path for path in outputs.iterdir() if not path.name.startswith("."))
    runs = [read_run(path) for path in visible if (path / "config.yaml").is_file()]
    if not runs:
        raise ValueError(f"outputs={outputs}: holds no run; {fix}")
    return runs


def read_run(folder: Path) -> RunSummary:
    """Read one run folder; what is wrong with it is told in `problem`, never raised."""
    name = folder.name or folder.resolve().name
    run = RunSummary(folder=folder, name=name, state="unfinished")
    try:
        run = _with_settings(run)
        run = replace(run, folds_digest=_folds_digest(folder / "folds.csv"))
        return _with_result(run)
    except (ValueError, OSError) as error:
        return replace(run, state="unreadable", problem=str(error))


def _with_settings(run: RunSummary) -> RunSummary:
    settings = flatten(read_config(run.folder / "config.yaml"))
    kept = {key: value for key, value in settings.items() if not _is_operational(key)}
    folds = settings.get("folds")
    counted = isinstance(folds, int) and settings.get("fold_column") is None
    planned = tuple(range(folds)) if isinstance(folds, int) and counted else ()
    return replace(run, settings=kept, planned_folds=planned)


def read_config(path: Path) -> Mapping[str, object]:
    """The mapping in a run's `config.yaml`; `ValueError` where it holds another thing."""
    try:
        document = yaml.load(path.read_bytes(), Loader=yaml.CSafeLoader)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        raise ValueError(f"{path.name} is no YAML{where}") from error
    if not isinstance(document, dict):
        raise ValueError(f"{path.name} holds no mapping")
    return document


def flatten(tree: Mapping[str, object], prefix: str = "") -> dict[str, object]:
    """Nested settings by dotted keys."""
    flat: dict[str, object] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


@lru_cache(maxsize=4096)
def _is_operational(key: str) -> bool:
    return any(key == name or key.startswith(f"{name}.") for name in OPERATIONAL_KEYS)


def _folds_digest(path: Path) -> str | None:
    return _digest_of_rows(path.read_bytes()) if path.is_file() else None


@lru_cache(maxsize=64)
def _digest_of_rows(content: bytes) -> str:
    try:
        rows = sorted(csv.reader(io.StringIO(content.decode(), newline="")))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"folds.csv is no CSV in UTF-8 ({error})") from error
    return hashlib.sha256(json.dumps(rows).encode()).hexdigest()


def _with_result(run: RunSummary) -> RunSummary:
    path = run.folder / "result.json"
    if not path.is_file():
        return run
    result = _Result(_read_json(path))
    data = result.mapping("data")
    name, digest = data.text("name"), data.text("digest")
    short = digest.rpartition(":")[2][:8]
    return replace(
        run,
        state="complete" if result.flag("complete") else "unfinished",
        settings=run.settings | {"data": f"{name} {short}"},
        folds=result.folds(),
        planned_folds=result.planned_folds(),
        mean=result.summary("mean"),
        sd=result.summary("sd"),
        pooled=result.pooled(),
        optimistic=result.flag("optimistic"),
        sources=result.sources(),
        skipped=result.count("skipped"),
        **result.test(),
        data_digest=digest,
    )


def _read_json(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        raise ValueError(f"{path.name} is no JSON: {error.msg}, line {error.lineno}") from error
    except UnicodeDecodeError as error:
        raise ValueError(f"{path.name} is no JSON in UTF-8") from error
    result: dict[str, Any] = document if isinstance(document, dict) else {}
    version = result.get("schema_version")
    if type(version) is not int or version < 1:
        raise ValueError(f"{path.name} has no schema_version: it is no result of dr.train")
    if version > SCHEMA_VERSION:
        own = f"this dr reads up to {SCHEMA_VERSION}: update dr"
        raise ValueError(f"{path.name} has schema_version {version}, {own}")
    return result


@dataclass(frozen=True)
class _Result:
    """Typed access to `result.json`: what has another form than promised raises `ValueError`."""

    document: dict[str, Any]
    key: str = ""

    def value(self, key: str, kind: type | tuple[type, ...], form: str) -> Any:
        found = self.document.get(key)
        if isinstance(found, kind):
            return found
        raise ValueError(f"result.json: {self.key}{key} is {found!r}, not {form}")

    def flag(self, key: str) -> bool:
        return bool(self.value(key, bool, "true or false"))

    def text(self, key: str) -> str:
        return str(self.value(key, str, "a text"))

    def mapping(self, key: str) -> "_Result":
        return _Result(self.value(key, dict, "a mapping"), f"{self.key}{key}.")

    def scores(self, key: str) -> Scores:
        """Scores by name; null is `nan`."""
        inner = self.mapping(key)
        for name, found in inner.document.items():
            if isinstance(found, bool) or not isinstance(found, int | float | None):
                raise ValueError(f"result.json: {inner.key}{name} is {found!r}, not a number")
        return from_json(inner.document)

    def summary(self, key: str) -> Scores:
        """Scores by name; none where no fold is scored."""
        return {} if self.document.get(key) is None else self.scores(key)

    def count(self, key: str) -> int:
        """A number of records, 0 where the key is not there."""
        return int(self.value(key, int, "a number")) if key in self.document else 0

    def scores_with_qwk(self, key: str) -> Scores:
        scores = self.scores(key)
        if "qwk" not in scores:
            raise ValueError(f"result.json: {self.key}{key} has no qwk")
        return scores

    def folds(self) -> dict[int, Scores]:
        folds = self.mapping("folds")
        strange = [key for key in folds.document if not key.isdecimal()]
        if strange:
            raise ValueError(f"result.json: folds has the key {strange[0]!r}, not a number")
        return {int(key): folds.scores_with_qwk(key) for key in sorted(folds.document, key=int)}

    def planned_folds(self) -> tuple[int, ...]:
        planned = self.value("planned_folds", list, "a list of folds")
        if not all(type(fold) is int for fold in planned):
            raise ValueError(f"result.json: planned_folds is {planned!r}, not a list of folds")
        return tuple(planned)

    def sources(self) -> dict[str, Scores]:
        """The scores of each source, none where there is a single one."""
        if "sources" not in self.document:
            return {}
        sources = self.mapping("sources")
        return {name: sources.scores_with_qwk(name) for name in sources.document}

    def test(self) -> dict[str, Any]:
        """`test`, `test_name` and `test_shared`, as far as the run has them."""
        if "test" not in self.document:
            return {}
        test = self.mapping("test")
        ensemble = test.document.get("ensemble")
        return {
            "test": None if ensemble is None else test.scores_with_qwk("ensemble"),
            "test_name": f"{test.text('name')} {test.text('digest')[:8]}",
            "test_shared": test.count("shared"),
        }

    def pooled(self) -> Scores | None:
        if self.document.get("pooled") is None:
            return None
        return self.scores_with_qwk("pooled")
