import dataclasses
import functools
import itertools
import math
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from dr.checks import check_search
from dr.compose import compose, conf_folder
from dr.config import SCHEDULES, SearchConfig, TrainConfig
from dr.searching.space import (
    Dimension,
    corners,
    parse_space,
    training_config,
    with_values,
)


def make(*arguments: str) -> SearchConfig:
    return compose("search", SearchConfig, arguments)


@functools.cache
def without_space() -> SearchConfig:
    return make("space=none")


def made(space: Any) -> SearchConfig:
    return dataclasses.replace(without_space(), space=space)


def problems(config: SearchConfig) -> dict[str, str]:
    return {problem.key: str(problem) for problem in check_search(config)}


def test_the_door_has_exactly_the_keys_of_its_dataclass() -> None:
    values = yaml.safe_load((conf_folder() / "search.yaml").read_text())
    own = {field.name for field in dataclasses.fields(SearchConfig)}
    own -= {field.name for field in dataclasses.fields(TrainConfig)}
    assert {*values, "space"} - {"defaults", "hydra"} == own


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_each_schedule_has_a_space_of_its_own_without_a_problem(schedule: str) -> None:
    config = make(f"schedule={schedule}")
    dimensions, wrong = parse_space(config)
    assert (wrong, problems(config)) == ([], {})
    assert "schedule.max_lr" in {one.key for one in dimensions}
    for values in corners(dimensions):
        training = with_values(training_config(config), values)
        assert type(training.schedule) is SCHEDULES[schedule]
        assert all(getattr(training.schedule, key[9:]) == values[key] for key in values)


def test_the_ready_spaces_are_those_of_the_schedules() -> None:
    assert {path.stem for path in (conf_folder() / "space").iterdir()} == {*SCHEDULES, "none"}


def test_a_space_follows_the_schedule_of_an_experiment() -> None:
    keys = {one.key for one in parse_space(make("experiment=retinamnist", "schedule=step"))[0]}
    assert keys == {"schedule.max_lr", "schedule.decay", "schedule.decay_percent"}


def test_a_space_is_changed_and_extended_on_the_command_line() -> None:
    config = make(
        "schedule=cosine",
        "space.schedule.max_lr.high=0.5",
        "space.optimizer.weight_decay={low: 1e-4, high: 0.1, log: true}",
        "space.batch_size={choices: [16, 32]}",
        "space.epochs={low: 4, high: 10, step: 3}",
    )
    dimensions, wrong = parse_space(config)
    assert not wrong
    assert dimensions == (
        Dimension(key="schedule.max_lr", low=1e-4, high=0.5, log=True),
        Dimension(key="schedule.warmup_percent", low=0, high=30),
        Dimension(key="optimizer.weight_decay", low=1e-4, high=0.1, log=True),
        Dimension(key="batch_size", choices=(16, 32)),
        Dimension(key="epochs", low=4, high=10, step=3, whole=True),
    )
    assert [one.grid for one in dimensions[2:]] == [(), (16, 32), (4, 7, 10)]


@pytest.mark.parametrize(
    ("key", "given", "message"),
    [
        ("epohcs", {"low": 1, "high": 2}, "is no key of this training; did you mean epochs?"),
        ("schedule.warmup_percent", {"low": 1, "high": 2}, "did you mean schedule.ramp_percent"),
        ("schedule.max_lr.x", {"low": 1, "high": 2}, "is no key of this training"),
        ("schedule", {"choices": ["step", "cosine"]}, "is a group"),
        ("outputs", {"choices": ["a", "b"]}, "does not decide the result"),
        ("loader.threads", {"low": 1, "high": 2}, "does not decide the result"),
        ("seed", {"low": 0, "high": 9}, "or its luck"),
        ("folds", {"low": 3, "high": 5}, "decides how a setting is scored"),
        ("epochs", {"low": 3, "hgih": 5}, "knows no hgih"),
        ("epochs", {"low": 3}, "give {low, high}"),
        ("epochs", 3, "give {low, high}"),
        ("epochs", {}, "give {low, high}"),
        ("epochs", {"low": 3.5, "high": 5}, "is a whole number"),
        ("epochs", {"low": 3, "high": "many"}, "must be numbers"),
        ("epochs", {"low": 3, "high": 3}, "low must be below high"),
        ("epochs", {"low": True, "high": 3}, "must be numbers"),
        ("epochs", {"low": 0, "high": 3, "log": True}, "low must be above 0"),
        ("epochs", {"low": 1, "high": 3, "log": "yes"}, "log is true or false"),
        ("epochs", {"low": 1, "high": 4, "step": 2}, "a whole number of steps"),
        ("epochs", {"low": 1, "high": 4, "step": 0}, "step must be above 0"),
        ("epochs", {"low": 1, "high": 4, "step": 1, "log": True}, "not both"),
        ("epochs", {"choices": [1, 2], "low": 1}, "nothing else can be given beside them"),
        ("epochs", {"choices": [1]}, "at least 2 choices"),
        ("epochs", {"choices": "12"}, "at least 2 choices"),
        ("epochs", {"choices": [1, 2.5]}, "epochs cannot be 2.5"),
        ("epochs", {"choices": [1, True]}, "epochs cannot be True"),
        ("schedule.decay", {"choices": [1, 1.0]}, "names a choice twice"),
        ("optimizer.betas", {"choices": [[0.9, 0.99], [0.8, 0.9]]}, "a single value"),
        ("model.name", {"low": 0, "high": 1}, "is no number"),
    ],
)
def test_what_cannot_be_searched_is_refused_by_key(key: str, given: Any, message: str) -> None:
    found = problems(made({key: given}))
    assert list(found) == [f"space.{key}"]
    assert message in found[f"space.{key}"]


def test_null_is_a_choice_where_the_key_has_it() -> None:
    (dimension,), wrong = parse_space(made({"ema_decay": {"choices": [None, 0.99, 0]}}))
    assert (wrong, dimension.choices) == ([], (None, 0.99, 0.0))
    assert type(dimension.choices[-1]) is float
    assert (
        "epochs cannot be None"
        in problems(made({"epochs": {"choices": [None, 1]}}))["space.epochs"]
    )


@pytest.mark.parametrize(
    ("arguments", "key", "message"),
    [
        (["space=none"], "space", "is empty"),
        (["trials=0"], "trials", "at least 1"),
        (["metric=auc"], "metric", "choose one of qwk, loss"),
        (["sampler=best"], "sampler", "choose one of tpe, random, grid"),
        (["pruner=all"], "pruner", "choose one of none, median, percentile, hyperband"),
        (["pruner=none", "startup_trials=9"], "startup_trials", "no effect with pruner=none"),
        (["keep_percent=50"], "keep_percent", "no effect with pruner=median"),
        (["pruner=percentile", "keep_percent=100"], "keep_percent", "between 0 and 100"),
        (["search=a/b"], "search", "name a folder"),
        (["search=.a"], "search", "name a folder"),
        (["sampler=grid"], "space.schedule.max_lr", "give a step, or choices"),
        (["rerun=x"], "rerun", "is for dr.train"),
        (["debug=overfit"], "debug", "is for dr.train"),
        (["resume=never"], "resume", "name another search"),
        (["select=cross"], "select", "scores no fold before all are trained"),
        (["folds=1"], "folds", "holds nothing out"),
        (["epochs=0"], "epochs", "at least 1"),
        (["schedule.start_lr=1e-3"], "schedule.start_lr", "the space reaches it"),
        (["space.schedule.ramp_percent.high=200"], "schedule.ramp_percent", "reaches it"),
        (
            ["metric=loss", "objective=focal", "space.objective.gamma={low: 0, high: 3}"],
            "metric",
            "cannot be compared",
        ),
    ],
)
def test_a_search_that_cannot_be_made_is_refused(
    arguments: list[str], key: str, message: str
) -> None:
    found = problems(make(*arguments))
    assert message in found[key]


def test_torchrun_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_PORT")
    for name in names:
        monkeypatch.setenv(name, "1")
    monkeypatch.setenv("MASTER_ADDR", "localhost")
    assert "start it without torchrun" in problems(make())["accel.devices"]


@given(st.floats(-1e3, 1e3), st.integers(1, 40), st.floats(1e-3, 10))
def test_a_grid_of_steps_has_both_ends_and_even_steps(low: float, steps: int, step: float) -> None:
    given_ = {"low": low, "high": low + steps * step, "step": step}
    (dimension,), wrong = parse_space(made({"model.drop_rate": given_}))
    assert not wrong
    grid = dimension.grid
    assert len(grid) == steps + 1
    assert (grid[0], grid[-1]) == (low, pytest.approx(given_["high"]))
    gaps = [after - before for before, after in itertools.pairwise(grid)]
    assert all(math.isclose(gap, step, rel_tol=1e-4, abs_tol=1e-9) for gap in gaps)


def test_values_are_put_into_a_copy() -> None:
    config = training_config(make())
    changed = with_values(config, {"schedule.max_lr": 0.5, "epochs": 9})
    assert (changed.schedule.max_lr, changed.epochs) == (0.5, 9)
    assert (config.schedule.max_lr, config.epochs) == (1e-3, 4)
    assert changed.optimizer is config.optimizer
