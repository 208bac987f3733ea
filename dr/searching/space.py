"""The space of a search: which keys of a training, and which values of each."""

import dataclasses
import itertools
import math
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from dr.config import OPERATIONAL_KEYS, Problem, SearchConfig, TrainConfig
from dr.sweeps import near_names

T = TypeVar("T")

_WORDS = frozenset({"low", "high", "log", "step", "choices"})
_FORM = "give {low, high}, with log: true or a step where wanted, or {choices: [...]}"
_SCORING = frozenset(
    {"fold_column", "fold_seed", "folds", "group_duplicates", "seed", "select", "select_metric"}
)
"""Keys that decide how a setting is scored, or its luck: their best value is no better setting."""


@dataclass(frozen=True, kw_only=True)
class Dimension:
    """The values that a training key is searched over: `choices`, or numbers `low` to `high`.

    Both ends count. `log`: drawn evenly in the logarithm. `step`: only `low`, `low + step`, ...
    `whole`: the numbers are whole.
    """

    key: str
    low: float = 0.0
    high: float = 0.0
    log: bool = False
    step: float | None = None
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The choices, or the lowest and the highest number."""
        return self.choices or tuple(map(self._number, (self.low, self.high)))

    @property
    def grid(self) -> tuple[Any, ...]:
        """Every value, where they can be counted; else none."""
        step = 1.0 if self.whole and self.step is None and not self.log else self.step
        if self.choices or step is None:
            return self.choices
        steps = round((self.high - self.low) / step)
        below = [self.low + number * step for number in range(steps)]
        return tuple(map(self._number, [*below, self.high]))

    def _number(self, value: float) -> float | int:
        return int(value) if self.whole else float(value)


def training_config(config: SearchConfig) -> TrainConfig:
    """The training that a search was given, as each of its trials has it but for the space."""
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return TrainConfig(**{name: getattr(config, name) for name in names})


def with_values(config: T, values: Mapping[str, Any]) -> T:
    """A copy of a config with other values of some dotted keys, which it must have."""
    for key, value in values.items():
        config = _with_value(config, key.split("."), value)
    return config


def _with_value(config: T, path: Sequence[str], value: Any) -> T:
    name, *rest = path
    inner = _with_value(getattr(config, name), rest, value) if rest else value
    return dataclasses.replace(config, **{name: inner})  # type: ignore[type-var]


def parse_space(config: SearchConfig) -> tuple[tuple[Dimension, ...], list[Problem]]:
    """The dimensions of `config.space`, and all that is wrong with it."""
    problems: list[Problem] = []
    ranges: dict[str, dict[str, Any]] = {}
    for key, value in _leaves(config.space or {}, ""):
        if isinstance(value, Mapping):
            ranges.setdefault(key, {}).update(value)
        else:
            problems.append(Problem(f"space.{key}", value, _FORM))
    if not ranges and not problems:
        fix = "is empty: choose one, as in space=cosine, or add space.KEY={low: ..., high: ...}"
        return (), [Problem("space", config.space, fix)]
    training = training_config(config)
    found = [_dimension(training, key, given, problems) for key, given in ranges.items()]
    return tuple(one for one in found if one is not None), problems


def corners(dimensions: Sequence[Dimension], *, most: int = 256) -> Iterator[dict[str, Any]]:
    """The settings at the space's corners, at most so many of them."""
    ends = itertools.product(*(dimension.ends for dimension in dimensions))
    for values in itertools.islice(ends, most):
        yield {one.key: value for one, value in zip(dimensions, values, strict=True)}


def _leaves(values: Any, prefix: str) -> Iterator[tuple[str, Any]]:
    """Dotted keys and what is given for them; keys may come dotted or nested."""
    for name, value in values.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and value and not _WORDS & set(value):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _dimension(
    config: TrainConfig, key: str, given: Mapping[str, Any], problems: list[Problem]
) -> Dimension | None:
    hint = _hint(config, key)
    fix = _refusal(config, key, hint) or _form(given)
    if not fix:
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        made = _choices(key, given, options) if "choices" in given else _range(key, given, options)
        if isinstance(made, Dimension):
            return made
        fix = made
    problems.append(Problem(f"space.{key}", dict(given), fix))
    return None


def _hint(config: Any, key: str) -> Any:
    """The type of a key's values, None where the config has no such key."""
    *groups, name = key.split(".")
    for group in groups:
        config = getattr(config, group, None)
    return typing.get_type_hints(type(config)).get(name) if _is_config(config) else None


def _is_config(value: Any) -> bool:
    return dataclasses.is_dataclass(value) and not isinstance(value, type)


def _keys(config: Any, prefix: str = "") -> Iterator[str]:
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if _is_config(value):
            yield from _keys(value, f"{prefix}{field.name}.")
        else:
            yield prefix + field.name


def _refusal(config: TrainConfig, key: str, hint: Any) -> str:
    if hint is None:
        return f"is no key of this training; {near_names(key, _keys(config))}"
    if dataclasses.is_dataclass(hint):
        return f"is a group: search keys of it, or search once for each choice, {key}=..."
    if any(key == name or key.startswith(f"{name}.") for name in OPERATIONAL_KEYS):
        return "does not decide the result, so there is nothing to search; leave it out"
    if key in _SCORING:
        return "decides how a setting is scored, or its luck, not how good it is; leave it out"
    return ""


def _form(given: Mapping[str, Any]) -> str:
    unknown = [str(word) for word in given if word not in _WORDS]
    if unknown:
        return f"knows no {', '.join(unknown)}; {_FORM}"
    if "choices" in given:
        return "has choices, so nothing else can be given beside them" if len(given) > 1 else ""
    return "" if {"low", "high"} <= set(given) else _FORM


def _choices(key: str, given: Mapping[str, Any], options: Sequence[Any]) -> Dimension | str:
    values = given["choices"]
    if not isinstance(values, list) or len(values) < 2:
        return "give a list of at least 2 choices"
    if any(isinstance(value, list | dict) for value in values):
        return "each choice must be a single value"
    wrong = [value for value in values if not _fits(value, options)]
    if wrong:
        return f"{key} cannot be {', '.join(map(repr, wrong))}"
    typed = [float(value) if _is_real(value, options) else value for value in values]
    if len(set(map(repr, typed))) < len(typed):
        return "names a choice twice; name each once"
    return Dimension(key=key, choices=tuple(typed))


def _fits(value: Any, options: Sequence[Any]) -> bool:
    if Any in options:
        return True
    return type(value) in options or _is_real(value, options)


def _is_real(value: Any, options: Sequence[Any]) -> bool:
    return float in options and type(value) in (int, float) and math.isfinite(value)


def _range(key: str, given: Mapping[str, Any], options: Sequence[Any]) -> Dimension | str:
    if not {int, float} & set(options):
        return f"{key} is no number; give {{choices: [...]}}"
    whole, log, step = float not in options, given.get("log", False), given.get("step")
    numbers = [given["low"], given["high"], *([] if step is None else [step])]
    if not all(_is_real(number, (float,)) for number in numbers):
        return "low, high and step must be numbers"
    if whole and not all(type(number) is int for number in numbers):
        return f"{key} is a whole number; so must low, high and step be"
    if not isinstance(log, bool):
        return "log is true or false"
    fix = _order(given["low"], given["high"], log=log, step=step)
    return fix or Dimension(
        key=key, low=given["low"], high=given["high"], log=log, step=step, whole=whole
    )


def _order(low: float, high: float, *, log: bool, step: float | None) -> str:
    if not low < high:
        return "low must be below high"
    if log and low <= 0:
        return "low must be above 0 with log: true"
    if log and step is not None:
        return "give log or step, not both"
    if step is None:
        return ""
    if step <= 0:
        return "step must be above 0"
    steps = (high - low) / step
    even = math.isclose(steps, round(steps), abs_tol=1e-6)
    return "" if even else "high must be low plus a whole number of steps"
