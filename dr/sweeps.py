"""Sweeps: what ready ones of `conf/sweep` go over, and what is told of jobs that failed."""

import difflib
import json
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dr.config import ConfigError, Problem, keys_of
from dr.files import write_json

_CHOICE = re.compile(r"\+{0,2}sweep=(?P<value>.*)", re.DOTALL)


def sweep_parameters(
    arguments: Sequence[str], folders: Sequence[Path], *, multirun: bool
) -> dict[str, Any]:
    """What the sweeps that a command line chooses, `sweep=A` or `sweep=[A,B]`, go over by key.

    Raises ConfigError where they would have no effect. A sweep that is in none of the
    configuration `folders` is left to Hydra, which lists those that are.
    """
    match = next((found for text in arguments if (found := _CHOICE.fullmatch(text))), None)
    if match is None or match["value"] == "null":
        return {}
    value = match["value"]
    if not multirun:
        raise ConfigError([Problem("sweep", value, "has no effect without --multirun; add it")])
    names = [name.strip() for name in value.strip("[]").split(",")]
    if len(names) > 1 and not value.startswith("["):
        fix = f"to go over both, write 'sweep=[{value}]'"
        raise ConfigError([Problem("sweep", value, fix)])
    return {key: given for name in names for key, given in _read(name, folders).items()}


def _read(name: str, folders: Sequence[Path]) -> Mapping[str, Any]:
    import yaml

    path = next(
        (file for one in folders if (file := one / "sweep" / f"{name}.yaml").is_file()), None
    )
    if path is None:
        return {}
    try:
        params = yaml.safe_load(path.read_text(encoding="utf-8"))["hydra"]["sweeper"]["params"]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        fix = f"{path} has no hydra.sweeper.params that can be read"
        raise ConfigError([Problem("sweep", name, fix)]) from error
    if not isinstance(params, dict):
        fix = f"hydra.sweeper.params in {path} must be keys, each with its values"
        raise ConfigError([Problem("sweep", name, fix)])
    return params


def check_parameters(keys: Iterable[str], schema: type, groups: Collection[str]) -> None:
    """Raises ConfigError for keys of a sweep that are neither a group nor one of the config's."""
    known = keys_of(schema)
    problems = [
        Problem("sweep", key, f"is no key; {near_names(key, [*known, *groups])}")
        for key in keys
        if key not in groups and not is_known(key, known)
    ]
    if problems:
        raise ConfigError(problems)


def is_known(key: str, known: Collection[str]) -> bool:
    """Whether `key` is one of `known`, or lies within one, as `source_weights.NAME` does."""
    return key in known or any(key.startswith(f"{name}.") for name in known)


def near_names(key: str, known: Iterable[str]) -> str:
    """What a misspelt key may have been meant to be."""
    near = difflib.get_close_matches(key, list(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else "nothing is named like it"


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A job of a sweep that failed: its number, its overrides and why."""

    number: int
    overrides: tuple[str, ...]
    reason: str


def note_failure(folder: Path, failure: Failure, *, door: int) -> None:
    """Leave word of a failed job for the process `door` that launched the sweep."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / f"failed-{door}-{failure.number}.json", asdict(failure))


def noted_failures(folder: Path, *, door: int) -> list[Failure]:
    """The failures that were noted for the process `door`, by the jobs' numbers."""
    found = [json.loads(path.read_text()) for path in folder.glob(f"failed-{door}-*.json")]
    failures = [Failure(**{**one, "overrides": tuple(one["overrides"])}) for one in found]
    return sorted(failures, key=lambda failure: failure.number)


def describe_failures(failures: Sequence[Failure], swept: Collection[str]) -> str:
    """What failed, with the overrides of the `swept` keys, and why, in a few lines."""
    count = f"{len(failures)} job{'s' * (len(failures) > 1)}"
    lines = [f"{count} failed, the others went on; the same command tries what failed again"]
    for failure in failures:
        own = [text.lstrip("+") for text in failure.overrides if text.partition("=")[0] in swept]
        reason = failure.reason.replace("\n", "\n    ")
        lines.append(f"  {' '.join(own) or f'job {failure.number}'}\n    {reason}")
    return "\n".join(lines)
