"""Which runs and settings are meant by what a person types."""

import difflib
from collections.abc import Iterator, Mapping, Sequence

from dr.reporting.runs import RunSummary
from dr.reporting.setting_groups import is_complete
from dr.reporting.values import brief, canonical


def keep_runs(runs: Sequence[RunSummary], where: Mapping[str, object]) -> list[RunSummary]:
    """The runs whose settings are those of `where`, as nested as the keys are dotted.

    A list means any of its values. Raises ValueError for a key that no run has, and where no run
    is left.
    """
    kept = list(runs)
    for key, value in _flat(where):
        own = find_setting(runs, key)
        held = {brief(run.settings[own]) for run in kept if own in run.settings}
        kept = [run for run in kept if own in run.settings and _is(run.settings[own], value)]
        if not kept:
            found = ", ".join(sorted(held)[:8])
            raise ValueError(f"where.{key}={brief(value)}: no such run; {own} is {found}")
    return kept


def _flat(where: Mapping[str, object], prefix: str = "") -> Iterator[tuple[str, object]]:
    for key, value in where.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _is(held: object, asked: object) -> bool:
    if canonical(held) == canonical(asked) or brief(held) == brief(asked):
        return True
    return isinstance(asked, list) and any(_is(held, one) for one in asked)


def find_run(runs: Sequence[RunSummary], name: str) -> str:
    """The complete run of a name, or of the only name that ends so (as in its id).

    Raises ValueError where there is none, or several.
    """
    found = [run.name for run in runs if is_complete(run) and run.name == name]
    found = found or [run.name for run in runs if is_complete(run) and run.name.endswith(name)]
    if len(found) != 1:
        what = f"{len(found)} finished runs have names that end so" if found else "no finished run"
        raise ValueError(f"baseline={name}: {what}; give a run's whole name, as in its folder")
    return found[0]


def find_setting(runs: Sequence[RunSummary], key: str) -> str:
    """The dotted key of a setting that `key` means: itself, a group's name, or its last part.

    Raises ValueError where no run has it, or several are meant.
    """
    keys = list(dict.fromkeys(key for run in runs for key in run.settings))
    for candidates in ([key], [f"{key}.name"], [own for own in keys if own.endswith(f".{key}")]):
        found = [own for own in candidates if own in keys]
        if len(found) == 1:
            return found[0]
        if found:
            raise ValueError(f"{key}: may be {' or '.join(found)}; give the whole key")
    near = difflib.get_close_matches(key, keys, n=3)
    hint = f"; near are {', '.join(near)}" if near else ""
    raise ValueError(f"{key}: is no setting of these runs{hint}")
