"""Sweeps through Hydra's own sweeper and launchers, in this process where they allow it."""

import itertools
import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from dr import train
from dr.checks import check_search, check_train
from dr.compose import conf_folder, run_door
from dr.config import OBJECTIVES, SCHEDULES, ConfigError, SearchConfig, TrainConfig, keys_of
from dr.sweeps import check_parameters, sweep_parameters
from dr.training import interruption
from dr.training.interruption import Interrupted

READY = sorted(path.stem for path in (conf_folder() / "sweep").glob("*.yaml"))
RATES = [1e-4, 2e-4, 5e-4, 1e-3, 2e-3]
Run = Callable[..., list[TrainConfig]]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """`command(main, "key=value", ...)`: a sweep of `python -m dr.train` with another `main`."""

    def run(main: Callable[[TrainConfig], Any], *arguments: str) -> None:
        monkeypatch.setattr(interruption, "_started", None)
        outputs = f"outputs={tmp_path / 'outputs'}"
        monkeypatch.setattr(sys, "argv", ["dr.train", "--multirun", outputs, *arguments])
        run_door("train", schema=TrainConfig, check=check_train, main=main)

    return run


@pytest.fixture
def jobs(command: Callable[..., None]) -> Run:
    """`jobs("sweep=seeds", ...)`: the configs of a sweep's jobs, in their order."""

    def run(*arguments: str) -> list[TrainConfig]:
        found: list[TrainConfig] = []
        command(found.append, *arguments)
        return found

    return run


PROMISED: dict[str, tuple[Callable[[TrainConfig], Any], list[Any]]] = {
    "schedules": (lambda config: config.schedule.name, list(SCHEDULES)),
    "learning_rates": (lambda config: config.schedule.max_lr, RATES),
    "image_sizes": (lambda config: config.image_size, [128, 256, 512]),
    "objectives": (lambda config: config.objective.name, list(OBJECTIVES)),
    "seeds": (lambda config: config.seed, [0, 1, 2]),
}


def test_every_ready_sweep_has_its_promise_here() -> None:
    assert sorted(PROMISED) == READY


@pytest.mark.parametrize("name", READY)
def test_a_ready_sweep_is_the_jobs_it_promises(jobs: Run, name: str) -> None:
    of, promised = PROMISED[name]
    configs = jobs(f"sweep={name}")
    assert [of(config) for config in configs] == promised
    assert [problem for config in configs for problem in check_train(config)] == []


def test_several_sweeps_are_every_combination(jobs: Run) -> None:
    configs = jobs("sweep=[schedules,seeds]", "schedule=step,cosine")
    found = [(config.schedule.name, config.seed) for config in configs]
    assert sorted(found) == sorted(itertools.product(["step", "cosine"], [0, 1, 2]))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["schedule.max_lr=1e-2,1e-3"], [1e-2, 1e-3]),
        (["schedule.max_lr=3e-3"], [3e-3]),
        (["schedule=cosine"], RATES),
        (["experiment=retinamnist", "data.images=x.npz"], RATES),
        (["seed=2,3"], [rate for rate in RATES for _ in range(2)]),
    ],
    ids=["own list", "own value", "other group", "experiment", "own sweep beside"],
)
def test_what_the_command_line_says_itself_wins(
    jobs: Run, arguments: list[str], expected: list[float]
) -> None:
    found = [config.schedule.max_lr for config in jobs(*arguments, "sweep=learning_rates")]
    assert found == expected


def test_searches_can_be_swept_each_with_the_space_of_its_schedule(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found: list[SearchConfig] = []
    arguments = ["--multirun", "sweep=schedules", "schedule=step,constant", f"outputs={tmp_path}"]
    monkeypatch.setattr(sys, "argv", ["dr.search", *arguments])
    run_door("search", schema=SearchConfig, check=check_search, main=found.append)
    assert [config.schedule.name for config in found] == ["step", "constant"]
    assert ["schedule.decay" in config.space for config in found] == [True, False]


def test_a_group_that_is_given_is_not_swept(jobs: Run) -> None:
    assert [config.schedule.name for config in jobs("sweep=schedules", "schedule=step,cosine")] == [
        "step",
        "cosine",
    ]


def test_a_users_own_sweep_is_found_and_misspelt_keys_of_it_are_named(
    jobs: Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "own" / "sweep"
    folder.mkdir(parents=True)
    text = "# @package _global_\nhydra: {sweeper: {params: {%s: '0.1,0.2'}}}\n"
    (folder / "drops.yaml").write_text(text % "model.drop_rate")
    own = ["sweep=drops", f"--config-dir={folder.parent}"]
    assert [config.model.drop_rate for config in jobs(*own)] == [0.1, 0.2]
    assert [config.model.drop_rate for config in jobs("model.drop_rate=0.3", *own)] == [0.3]
    (folder / "drops.yaml").write_text(text % "model.drop_rat")
    with pytest.raises(SystemExit) as caught:
        jobs(*own)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert "sweep='model.drop_rat': is no key; did you mean model.drop_rate" in said


@pytest.mark.parametrize(
    ("arguments", "multirun", "message"),
    [
        (["sweep=seeds"], False, "has no effect without --multirun; add it"),
        (["sweep=seeds,schedules"], True, r"write 'sweep=\[seeds,schedules\]'"),
    ],
)
def test_a_sweep_without_effect_is_refused(
    arguments: list[str], multirun: bool, message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        sweep_parameters(arguments, [conf_folder()], multirun=multirun)


def test_a_sweep_that_is_not_there_is_left_to_hydra(tmp_path: Path) -> None:
    assert sweep_parameters(["sweep=null"], [conf_folder()], multirun=False) == {}
    assert sweep_parameters(["sweep=none_such"], [conf_folder()], multirun=True) == {}
    (tmp_path / "sweep").mkdir()
    (tmp_path / "sweep" / "bad.yaml").write_text("hydra: {}\n")
    with pytest.raises(ConfigError, match=r"bad\.yaml has no hydra\.sweeper\.params"):
        sweep_parameters(["sweep=bad"], [tmp_path], multirun=True)


def test_the_keys_of_a_training_are_those_of_every_choice() -> None:
    keys = keys_of(TrainConfig)
    assert {"epochs", "schedule.warmup_percent", "optimizer.betas", "objective.gamma"} < set(keys)
    assert not {"schedule", "optimizer"} & set(keys)
    assert (keys["epochs"], keys["model.drop_rate"]) == (int, float)
    check_parameters(["source_weights.a", "schedule", "epochs"], TrainConfig, {"schedule"})


def failing(folder: Path) -> Callable[[TrainConfig], None]:
    """A training that leaves a file named by its seed, where it does not fail by its seed."""

    def main(config: TrainConfig) -> None:
        if config.seed == 0:
            raise ValueError("no luck today")
        if config.seed == 2:
            raise RuntimeError("out of memory")
        folder.mkdir(exist_ok=True)
        (folder / str(config.seed)).touch()

    return main


@pytest.mark.parametrize(
    "launcher",
    [
        (),
        ("hydra.sweeper.max_batch_size=1",),
        ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2"),
        pytest.param(("hydra/launcher=ray",), marks=pytest.mark.slow),
        pytest.param(("hydra/launcher=submitit_local",), marks=pytest.mark.slow),
    ],
    ids=["basic", "one by one", "joblib", "ray", "submitit"],
)
def test_jobs_that_fail_spare_the_others_and_are_told_at_the_end(
    command: Callable[..., None],
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    launcher: tuple[str, ...],
) -> None:
    seeds = ["seed=0,1,2,3", "epochs=07", "accel.channels_last=false"]
    with pytest.raises(SystemExit) as caught:
        command(failing(tmp_path / "done"), *seeds, *launcher)
    assert caught.value.code == 1
    assert sorted(path.name for path in (tmp_path / "done").iterdir()) == ["1", "3"]
    said = capfd.readouterr().err
    if launcher:
        said = said[said.rindex("dr.train: 2 jobs failed") :]
    assert said.splitlines()[-5:] == [
        "dr.train: 2 jobs failed, the others went on; the same command tries what failed again",
        "  seed=0",
        "    no luck today",
        "  seed=2",
        "    RuntimeError: out of memory",
    ]


def test_a_sweep_without_a_failure_says_nothing(
    jobs: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    assert len(jobs("seed=0,1")) == 2
    assert "failed" not in capfd.readouterr().err


def test_a_stopped_job_still_ends_the_sweep(
    command: Callable[..., None], capfd: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def main(config: TrainConfig) -> None:
        asked.append(config.seed)
        raise Interrupted("why", 128 + signal.SIGTERM)

    with pytest.raises(SystemExit) as caught:
        command(main, "seed=0,1")
    assert (caught.value.code, asked) == (143, [0])


def test_a_sweep_in_another_order_or_extended_trains_only_what_is_missing(
    command: Callable[..., None],
    tiny_overrides: list[str],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    def runs() -> dict[str, int]:
        found = (tmp_path / "outputs").glob("test_*")
        return {path.name: (path / "result.json").stat().st_mtime_ns for path in found}

    tiny = [*tiny_overrides, "folds=2", "epochs=1"]
    command(train.main, *tiny, "seed=1,0")
    first = runs()
    assert len(first) == 2
    with caplog.at_level(logging.WARNING):
        command(train.main, *tiny, "fold=all", "seed=2,0,1")
    assert caplog.text.count("THIS RUN IS FINISHED") == 2
    assert len(runs()) == 3
    assert {name: runs()[name] for name in first} == first
