"""The one file that knows Hydra and OmegaConf: from a command line to a checked dataclass.

Hydra composes the YAML groups; what comes out is converted leaf by leaf, so that unknown keys and
wrong types are all reported together, each with its key, its value and what to do.
"""

import dataclasses
import difflib
import faulthandler
import logging
import os
import re
import signal
import sys
import time
import traceback
import types
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from hydra.experimental.callback import Callback

from dr.config import VARIANTS, ConfigError, Problem
from dr.sweeps import (
    Failure,
    check_parameters,
    describe_failures,
    note_failure,
    noted_failures,
    sweep_parameters,
)
from dr.training.interruption import Interrupted, count_from, die_with_parent
from dr.urls import masked

T = TypeVar("T")

PATH_KEYS = frozenset(
    {
        "shards",
        "test",
        "outputs",
        "cache",
        "resume",
        "rerun",
        "run",
        "images",
        "out",
        "sheet",
        "data.images",
        "data.labels",
        "data.folder",
        "model.weights",
    }
)
"""Keys whose values are paths: quoted before Hydra parses them."""

_OVERRIDE = re.compile(r"(?P<prefix>\+{0,2})(?P<key>[A-Za-z_][\w.]*)=(?P<value>.*)", re.DOTALL)
_MULTIRUN = ("-m", "--multirun")
_LITERAL = re.compile(r"null|'.*'|\".*\"", re.DOTALL)
_LIST = re.compile(r"\[.*\]", re.DOTALL)
_ELEMENT = re.compile(
    r"""\s*(?:(?P<quoted>'(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|(?P<plain>[^,]*?))\s*(?:,|$)""",
    re.DOTALL,
)

_SAVING_S = 5.0
"""How long a stopped job of a sweep gives the other jobs to save."""

_BAD = object()
"""Stands for what could not be built; its problem is reported."""

_SPELLINGS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
    list[float]: "a list of numbers",
    list[str]: "a list of texts",
    list[Any]: "a list",
}


def conf_folder() -> Path:
    """The folder of YAML groups: inside the package when installed, beside it in a clone."""
    package = Path(__file__).resolve().parent
    inside = package / "conf"
    return inside if inside.is_dir() else package.parent / "conf"


def quote_path(value: str) -> str:
    """A path as a quoted string of Hydra's grammar, whatever characters it holds."""
    literal = re.sub(r"(\\*)\$\{", lambda match: match[1] * 2 + r"\${", value)
    literal = re.sub(r"(\\*)'", lambda match: match[1] * 2 + r"\'", literal)
    literal = re.sub(r"(\\+)$", lambda match: match[1] * 2, literal)
    return f"'{literal}'"


def hydra_arguments(
    arguments: Sequence[str], groups: frozenset[str], *, swept: Collection[str] = ()
) -> list[str]:
    """Arguments as Hydra is given them.

    Values of path keys are quoted. Keys that name no group are forced (`++`), so that a misspelt
    one arrives at our own check and is reported with all other problems; but not those that are
    `swept` by `hydra.sweeper.params`, which only the same spelling of a key takes the place of.
    """
    multirun = any(argument in _MULTIRUN for argument in arguments)
    # argparse takes overrides in one row only, so the flag may not stand amidst them.
    ordered = sorted(arguments, key=lambda argument: argument not in _MULTIRUN)
    plain = groups.union(swept)
    return [_hydra_argument(argument, plain, multirun=multirun) for argument in ordered]


def _hydra_argument(argument: str, plain: Collection[str], *, multirun: bool) -> str:
    match = _OVERRIDE.fullmatch(argument)
    if match is None or match["key"].split(".")[0] == "hydra":
        return argument
    value = match["value"]
    if match["key"] in PATH_KEYS and value:
        value = _quote_paths(value, multirun=multirun)
    prefix = match["prefix"] or ("" if match["key"] in plain else "++")
    return f"{prefix}{match['key']}={value}"


def _quote_paths(value: str, *, multirun: bool = False) -> str:
    """A path, a list `[A,B]` of paths, or with `multirun` several of either, quoted for Hydra."""
    if _LITERAL.fullmatch(value):
        return value
    if _LIST.fullmatch(value):
        lists = re.split(r"(?<=\]),(?=\[)", value) if multirun else [value]
        return ",".join(_quote_list(text) for text in lists)
    one = Path(value.removeprefix("run:")).exists()
    paths = value.split(",") if multirun and not one else [value]
    return ",".join(quote_path(path) for path in paths)


def _quote_list(text: str) -> str:
    """The paths of a list, each quoted; one that holds a comma has to come in quotes itself."""
    inside = text[1:-1]
    found = [match for match in _ELEMENT.finditer(inside) if inside and match.group()]
    paths = [match["quoted"] or quote_path(match["plain"]) for match in found]
    return f"[{','.join(paths)}]"


def group_names(folders: Sequence[Path]) -> frozenset[str]:
    """Names of the groups: the folders that lie in the configuration folders."""
    return frozenset(
        entry.name
        for folder in folders
        if folder.is_dir()
        for entry in folder.iterdir()
        if entry.is_dir()
    )


def _user_folders(arguments: Sequence[str]) -> list[Path]:
    folders = []
    for number, argument in enumerate(arguments):
        if argument in ("--config-dir", "-cd") and number + 1 < len(arguments):
            folders.append(Path(arguments[number + 1]))
        elif argument.startswith("--config-dir="):
            folders.append(Path(argument.partition("=")[2]))
    return folders


def build(
    schema: type[T],
    values: Mapping[str, Any],
    check: Callable[[T], list[Problem]] | None = None,
) -> T:
    """An instance of the dataclass `schema` from nested plain values.

    Raises ConfigError with every unknown key, every value of a wrong type, and what `check` finds
    wrong with the rest, defaults standing in for values of a wrong type.
    """
    problems: list[Problem] = []
    built = _build(schema, values, "", problems)
    if check is not None and built is not _BAD:
        known = {problem.key for problem in problems}
        problems += [problem for problem in check(built) if problem.key not in known]
    if problems:
        raise ConfigError(problems)
    return typing.cast(T, built)


def _build(schema: type, values: Any, path: str, problems: list[Problem]) -> Any:
    if not isinstance(values, Mapping):
        problems.append(Problem(path, values, f"is a group; choose one, as in {path}=..."))
        return _BAD
    chosen = _variant(schema, values, path, problems)
    if chosen is None:
        return _BAD
    fields = {field.name: field for field in dataclasses.fields(chosen)}
    problems += _unknown(values, fields, path)
    hints = typing.get_type_hints(chosen)
    arguments = {}
    for name in fields:
        if name in values:
            key = f"{path}.{name}" if path else name
            arguments[name] = _field(name, hints[name], values[name], key, problems)
        elif _is_required(fields[name]):
            problems.append(Problem(name, None, f"is missing; choose one, as in {name}=..."))
    good = {name: value for name, value in arguments.items() if value is not _BAD}
    lacking = any(_is_required(field) for name, field in fields.items() if name not in good)
    return _BAD if lacking else chosen(**good)


def _is_required(field: "dataclasses.Field[Any]") -> bool:
    missing = dataclasses.MISSING
    return field.default is missing and field.default_factory is missing


def _variant(
    schema: type, values: Mapping[str, Any], path: str, problems: list[Problem]
) -> type | None:
    if schema not in VARIANTS:
        return schema
    tag, classes = VARIANTS[schema]
    chosen = classes.get(str(values.get(tag)))
    if chosen is None:
        fix = f"choose one of {', '.join(classes)}"
        problems.append(Problem(f"{path}.{tag}", values.get(tag), fix))
    return chosen


def _unknown(values: Mapping[str, Any], fields: Mapping[str, Any], path: str) -> list[Problem]:
    problems = []
    for name in values:
        if name not in fields:
            close = difflib.get_close_matches(str(name), list(fields), n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(fields)}"
            key = f"{path}.{name}" if path else str(name)
            where = f"no key of {path}" if path else "no key"
            problems.append(Problem(key, values[name], f"is {where}; {hint}"))
    return problems


def _field(name: str, hint: Any, value: Any, key: str, problems: list[Problem]) -> Any:
    if hint is Any:
        return value
    options = _options(hint)
    group = next((option for option in options if dataclasses.is_dataclass(option)), None)
    if group is not None:
        if value is None and type(None) in options:
            return None
        return _build(typing.cast(type, group), value, key, problems)
    return _leaf(name, hint, value, key, problems)


def _leaf(name: str, hint: Any, value: Any, key: str, problems: list[Problem]) -> Any:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    if isinstance(value, str) and str in _options(hint):
        return value  # OmegaConf would read `${` in it as an interpolation
    holder = dataclasses.make_dataclass("Holder", [(name, hint)])
    try:
        node = OmegaConf.structured(holder(**{name: None if value is None else value}))
        plain: dict[str, Any] = typing.cast(dict[str, Any], OmegaConf.to_container(node))
        return plain[name]
    except OmegaConfBaseException:
        problems.append(Problem(key, value, f"must be {_spell(hint)}"))
        return _BAD


def _options(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)


def _spell(hint: Any) -> str:
    return " or ".join(_SPELLINGS.get(option, str(option)) for option in _options(hint))


def compose(name: str, schema: type[T], overrides: Sequence[str] = ()) -> T:
    """The configuration of the door `name` with `overrides`, for notebooks and tests.

    Raises ConfigError for unknown keys and wrong types.
    """
    import hydra

    groups = group_names([conf_folder()])
    with hydra.initialize_config_dir(str(conf_folder()), version_base="1.3"):
        config = hydra.compose(name, hydra_arguments(overrides, groups))
    return build(schema, _plain(config))


def _plain(config: Any) -> dict[str, Any]:
    from omegaconf import OmegaConf
    from omegaconf.errors import OmegaConfBaseException

    try:
        return typing.cast(dict[str, Any], OmegaConf.to_container(config, resolve=True))
    except OmegaConfBaseException as error:
        fix = str(error.msg).partition("\n")[0]
        raise ConfigError([Problem(str(error.full_key), "", fix)]) from error


def compose_rerun(folder: Path, schema: type[T], overrides: Sequence[str]) -> T:
    """The configuration stored in a run folder, with `key=value` overrides on top.

    Raises ValueError where the folder holds no config.yaml, or an override names a group.
    """
    import yaml

    path = folder / "config.yaml"
    if not path.is_file():
        raise ValueError(f"rerun={folder}: holds no config.yaml; name a run folder")
    values: dict[str, Any] = yaml.safe_load(path.read_text(encoding="utf-8"))
    values |= {"resume": "never", "rerun": str(folder)}
    groups = group_names([conf_folder()])
    for override in overrides:
        match = _OVERRIDE.fullmatch(override)
        if match is None or match["key"] in groups:
            raise ValueError(f"{override}: beside rerun=DIR only key=value can be given")
        _put(values, match["key"], _override_value(override, match))
    return build(schema, values)


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    *groups, last = key.split(".")
    for group in groups:
        inner = values.setdefault(group, {})
        if not isinstance(inner, dict):
            raise ValueError(f"{key}={value}: {group} is no group")
        values = inner
    values[last] = value


def _override_value(override: str, match: re.Match[str]) -> Any:
    from omegaconf import OmegaConf

    key, value = match["key"], match["value"]
    if key not in PATH_KEYS or value == "null":
        return _parsed(override)
    if not _LIST.fullmatch(value):
        return value
    quoted = _parsed(f"{key}={_quote_paths(value)}")
    return _plain(OmegaConf.create({key: quoted}))[key]  # takes the escapes of `${` away again


def _parsed(override: str) -> Any:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        return OverridesParser.create().parse_override(override).value()
    except HydraException as error:
        raise ValueError(f"{override}: cannot be read; quote the value") from error


def run_door(
    name: str,
    *,
    schema: type[T],
    check: Callable[[T], list[Problem]],
    main: Callable[[T], float | None],
) -> None:
    """Compose the command line, check it, and call `main` with the configuration.

    Exits with 2 after problems of the configuration, 1 after any other refusal, 130 after an
    interrupt, 128 plus its number after a signal whose training was saved, 75 after a time limit.
    `HYDRA_FULL_ERROR=1` shows where an error came from.
    """
    count_from(time.time())
    faulthandler.enable(file=2)
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    arguments = sys.argv[1:]
    rerun = [text for text in arguments if text.startswith("rerun=") and text != "rerun=null"]
    try:
        if rerun and name == "train":
            rest = [text for text in arguments if text not in rerun]
            folder = Path(rerun[-1].partition("=")[2])
            _checked(compose_rerun(folder, schema, rest), check, main)
            return
        _run_hydra(name, schema=schema, check=check, main=main)
    except KeyboardInterrupt:
        print(f"dr.{name}: interrupted; the same command goes on with it", file=sys.stderr)
        sys.exit(130)
    except Interrupted as stop:
        print(f"dr.{name}: {stop}", file=sys.stderr)
        sys.exit(stop.exit_code)
    except (ValueError, OSError) as error:
        sys.exit(_report(name, error))


def _checked(
    config: T, check: Callable[[T], list[Problem]], main: Callable[[T], float | None]
) -> float | None:
    problems = check(config)
    if problems:
        raise ConfigError(problems)
    return main(config)


def _report(name: str, error: Exception) -> int:
    if os.environ.get("HYDRA_FULL_ERROR") == "1":
        traceback.print_exception(error)
    if not isinstance(error, ConfigError):
        print(f"dr.{name}: {masked(str(error))}", file=sys.stderr)
        return 1
    count = len(error.problems)
    print(f"dr.{name}: {count} problem{'s' * (count > 1)} in the configuration", file=sys.stderr)
    for problem in error.problems:
        print(f"  {problem}", file=sys.stderr)
    return 2


def _set_up(door: int, started: float) -> bool:
    """Set up the process of a job; whether it is one that a launcher started from the door's."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if os.getpid() != door:
        die_with_parent()
    is_child = os.getppid() == door
    if is_child:
        count_from(started)
    return is_child


def _leave(name: str, stop: Interrupted, door: int, *, is_child: bool) -> typing.NoReturn:
    """End the process of a stopped job, and the sweep with it."""
    print(f"dr.{name}: {stop}", file=sys.stderr, flush=True)
    if is_child and os.getppid() != door:
        os._exit(stop.exit_code)  # joblib's workers would wait for a launcher that is gone
    if is_child:
        time.sleep(_SAVING_S)  # joblib kills all other jobs when it hears of this one
    sys.exit(stop.exit_code)


def _run_hydra(
    name: str,
    *,
    schema: type[T],
    check: Callable[[T], list[Problem]],
    main: Callable[[T], float | None],
) -> None:
    import hydra
    from hydra.core.hydra_config import HydraConfig
    from hydra.types import RunMode

    door, started = os.getpid(), time.time()

    # Launchers pickle this function and run it in other processes, which nobody set up.
    def job(config: Any) -> float | None:
        is_child = _set_up(door, started)
        multirun = HydraConfig.get().mode == RunMode.MULTIRUN
        try:
            return main(build(schema, _plain(config), check))
        except Interrupted as stop:
            if os.getpid() == door or is_child:
                _leave(name, stop, door, is_child=is_child)
            _note(stop, door)
        except (ValueError, OSError) as error:
            code = _report(name, error)
            if not multirun:
                sys.exit(code)
            _note(error, door)
        except Exception as error:
            if not multirun:
                raise
            traceback.print_exception(error)
            _note(error, door)
        return None

    before = signal.getsignal(signal.SIGINT)
    if any(argument.startswith("hydra/launcher=") for argument in sys.argv):
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # joblib would kill jobs that are saving
    sys.argv[1:] = _door_arguments(sys.argv[1:], schema)
    try:
        hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=name)(job)()
    finally:
        signal.signal(signal.SIGINT, before)


def _door_arguments(arguments: list[str], schema: type) -> list[str]:
    """The command line as Hydra is given it; raises ConfigError for a sweep that can't be made."""
    folders = [conf_folder(), *_user_folders(arguments)]
    groups = group_names(folders)
    multirun = any(argument in _MULTIRUN for argument in arguments)
    swept = sweep_parameters(arguments, folders, multirun=multirun)
    check_parameters(swept, schema, groups)
    return hydra_arguments(arguments, groups, swept=swept)


def _note(error: Exception, door: int) -> None:
    """Leave word of this job's error for the end of its sweep, which goes on."""
    from hydra.core.hydra_config import HydraConfig

    config = HydraConfig.get()
    kind = "" if isinstance(error, ValueError | OSError | Interrupted) else type(error).__name__
    reason = masked(f"{kind}: {error}" if kind else str(error))
    failure = Failure(
        number=int(config.job.num), overrides=tuple(config.overrides.task), reason=reason
    )
    note_failure(Path(config.sweep.dir), failure, door=door)


def _swept_keys(config: Any) -> set[str]:
    """The keys, spelled as in the jobs' overrides, of which a sweep's jobs have several values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    params = [f"{key}={value}" for key, value in (config.hydra.sweeper.get("params") or {}).items()]
    given = OverridesParser.create().parse_overrides([*params, *config.hydra.overrides.task])
    several = {one.get_key_element(): one.is_sweep_override() for one in given}
    return {key for key, swept in several.items() if swept}


class SweepEnd(Callback):
    """Tells at a sweep's end which jobs failed, if any did, and leaves with exit code 1."""

    def on_multirun_end(self, config: Any, **kwargs: Any) -> None:
        failures = noted_failures(Path(config.hydra.sweep.dir), door=os.getpid())
        if failures:
            text = describe_failures(failures, _swept_keys(config))
            print(f"{config.hydra.help.app_name}: {text}", file=sys.stderr, flush=True)
            sys.exit(1)
