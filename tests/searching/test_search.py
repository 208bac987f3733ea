import dataclasses
import itertools
import json
import math
import os
import signal
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

from dr import search as door
from dr.checks import check_search
from dr.compose import compose, compose_rerun
from dr.config import ConfigError, SearchConfig, TrainConfig
from dr.reporting.runs import read_runs
from dr.searching.results import DROPPED, FAILED, FINISHED, RUNNING, SearchResult, describe
from dr.searching.search import MOST_FAILURES, search
from dr.training.cross_validation import Outcome, cross_validate
from dr.training.interruption import Interrupted

Make = Callable[..., SearchConfig]
Fake = Callable[..., Any]


def distance(config: TrainConfig, fold: int = 0) -> float:
    """0 at a rate of 1e-3 with a drop rate of 0.2, worse around it; the same in every fold."""
    rate = math.log10(config.schedule.max_lr) + 3
    return -(rate**2) - (4 * (config.model.drop_rate - 0.2)) ** 2


def values(result: SearchResult) -> list[dict[str, Any]]:
    return [row.values for row in result.rows]


def test_a_trial_is_the_mean_of_its_folds(make: Make, fake: Fake) -> None:
    trainer = fake(lambda config, fold: distance(config) + fold)
    config = make("trials=2", "pruner=none", "folds=3")
    result = search(config, train=trainer)
    assert [fold for _, fold in trainer.asked] == [0, 1, 2, 0, 1, 2]
    for row, (training, _) in zip(result.rows, trainer.asked[::3], strict=True):
        assert row.state == FINISHED
        assert row.values["schedule.max_lr"] == training.schedule.max_lr
        assert row.score == pytest.approx(distance(training) + 1)
        assert row.scores == {fold: pytest.approx(distance(training) + fold) for fold in range(3)}
    assert result.best == max(result.rows, key=lambda row: row.score or 0)


def test_a_trial_is_the_training_that_was_asked_for(make: Make, fake: Fake) -> None:
    trainer = fake(distance)
    config = make("trials=1", "pruner=none", "folds=2", "epochs=7", "optimizer=sgd")
    result = search(config, train=trainer)
    base = compose("train", TrainConfig, ["folds=2", "epochs=7", "optimizer=sgd"])
    ((first, _), (second, _)) = trainer.asked
    assert type(first) is TrainConfig
    expected = dataclasses.replace(
        base,
        data=config.data,
        outputs=config.outputs,
        cache=config.cache,
        fold=[0],
        schedule=dataclasses.replace(
            base.schedule, max_lr=result.rows[0].values["schedule.max_lr"]
        ),
        model=dataclasses.replace(base.model, drop_rate=result.rows[0].values["model.drop_rate"]),
    )
    assert first == expected
    assert second == dataclasses.replace(expected, fold=[1])


@pytest.mark.parametrize(("fold", "asked"), [("[2,0]", [2, 0]), ("1", [1]), ("all", [0, 1, 2])])
def test_only_the_folds_that_are_asked_for_are_trained(
    make: Make, fake: Fake, fold: str, asked: list[int]
) -> None:
    trainer = fake(distance)
    search(make("trials=1", "folds=3", f"fold={fold}"), train=trainer)
    assert [number for _, number in trainer.asked] == asked


def test_the_loss_is_made_small(make: Make, fake: Fake) -> None:
    trainer = fake(distance)

    def with_loss(config: TrainConfig) -> Outcome:
        outcome = trainer(config)
        for entry in outcome.result["folds"].values():
            entry["loss"] = -distance(config)
        return outcome

    result = search(make("metric=loss", "trials=8", "pruner=none"), train=with_loss)
    assert result.best is not None
    assert result.best.score == min(row.score for row in result.rows if row.score is not None)


@pytest.mark.parametrize("sampler", ["random", "tpe"])
def test_a_search_is_its_seed_and_does_not_depend_on_how_it_was_begun(
    make: Make, fake: Fake, tmp_path: Path, sampler: str
) -> None:
    chosen = [f"sampler={sampler}", "pruner=none", "folds=2"]
    whole = search(make(*chosen, "trials=14"), train=fake(distance))
    for trials in (3, 11, 14):
        rest = [*chosen, f"trials={trials}", f"outputs={tmp_path / 'parts'}"]
        parts = search(make(*rest), train=fake(distance))
    assert values(parts) == values(whole)
    other = search(make(*chosen, "trials=3", "seed=1"), train=fake(distance))
    assert not set(map(str, values(other))) & set(map(str, values(whole)))
    assert len({row.values["model.drop_rate"] for row in whole.rows}) == 14


def test_a_trials_values_do_not_move_together(make: Make, fake: Fake) -> None:
    result = search(make("sampler=random", "trials=30", "pruner=none"), train=fake(distance))
    rates = [(math.log10(row["schedule.max_lr"]) + 4) / 2 for row in values(result)]
    drops = [row["model.drop_rate"] / 0.5 for row in values(result)]
    together = sum(abs(one - other) < 0.02 for one, other in zip(rates, drops, strict=True))
    assert together < 5
    assert max(rates) - min(rates) > 0.7


def test_tpe_draws_near_what_was_good(make: Make, fake: Fake) -> None:
    result = search(make("trials=40", "pruner=none", "folds=2"), train=fake(distance))
    scores = [row.score or 0.0 for row in result.rows]
    assert sum(scores[-10:]) / 10 > sum(scores[:10]) / 10 / 2
    assert result.best is not None
    assert result.best.score == pytest.approx(0, abs=0.05)


def test_a_grid_is_every_combination_once(make: Make, fake: Fake) -> None:
    grid = [
        "space=none",
        "space.model.drop_rate={low: 0, high: 0.3, step: 0.1}",
        "space.schedule.max_lr={choices: [1e-4, 1e-3]}",
    ]
    config = make(*grid, "sampler=grid", "trials=50", "pruner=none")
    found: Counter[tuple[float, float]] = Counter(
        (round(row["model.drop_rate"], 6), row["schedule.max_lr"])
        for row in values(search(config, train=fake(distance)))
    )
    assert found == Counter(itertools.product([0.0, 0.1, 0.2, 0.3], [1e-4, 1e-3]))
    part = dataclasses.replace(config, trials=3, search="part")
    assert len(search(part, train=fake(distance)).rows) == 3


def test_the_median_drops_what_is_worse_after_a_fold(make: Make, fake: Fake) -> None:
    trainer = fake(distance)
    result = search(make("trials=20", "sampler=random", "startup_trials=4"), train=trainer)
    assert [row.state for row in result.rows[:4]] == [FINISHED] * 4
    finished = [row.score or 0.0 for row in result.rows[:4]]
    for row in result.rows[4:]:
        middle = sorted(finished)[len(finished) // 2 - 1 : len(finished) // 2 + 1]
        median = sum(middle) / 2 if len(finished) % 2 == 0 else sorted(finished)[len(finished) // 2]
        assert row.score is not None
        assert row.state == (DROPPED if row.score < median else FINISHED)
        assert len(row.scores) == (1 if row.state == DROPPED else 5)
        finished += [row.score] if row.state == FINISHED else []
    assert len(trainer.asked) == sum(len(row.scores) for row in result.rows)
    assert result.of(DROPPED) and len(result.of(FINISHED)) > 4


def test_a_setting_that_falls_behind_later_is_dropped_later(make: Make, fake: Fake) -> None:
    trainer = fake(lambda config, fold: 0.5 if fold == 0 else 0.9)
    search(make("trials=3", "startup_trials=3"), train=trainer)
    trainer.score = lambda config, fold: 0.5
    result = search(make("trials=4", "startup_trials=3"), train=trainer)
    assert (result.rows[3].state, len(result.rows[3].scores)) == (DROPPED, 2)


def test_percentile_keeps_more_than_the_median(make: Make, fake: Fake) -> None:
    chosen = ["trials=20", "sampler=random"]
    counts = {}
    for pruner in ("percentile", "median", "none"):
        config = make(*chosen, f"pruner={pruner}")
        counts[pruner] = len(search(config, train=fake(distance)).of(DROPPED))
    assert 0 == counts["none"] < counts["percentile"] < counts["median"]


def test_hyperband_drops_some_after_one_fold_or_three(make: Make, fake: Fake) -> None:
    result = search(make("pruner=hyperband", "trials=30"), train=fake(distance))
    assert {len(row.scores) for row in result.of(DROPPED)} == {1, 3}
    assert result.of(FINISHED)


def test_a_trial_that_fails_is_told_and_spares_the_others(make: Make, fake: Fake) -> None:
    def score(config: TrainConfig, fold: int) -> float | None:
        if config.model.drop_rate > 0.4:
            raise RuntimeError("out of memory")
        return None if config.model.drop_rate > 0.35 else distance(config)

    result = search(make("trials=15", "sampler=random", "pruner=none"), train=fake(score))
    for row in result.rows:
        drop = row.values["model.drop_rate"]
        assert row.state == (FAILED if drop > 0.35 else FINISHED)
        if drop > 0.4:
            assert row.error == "out of memory"
        elif drop > 0.35:
            assert "has no qwk to judge the trial by" in (row.error or "")
    assert len(result.of(FAILED)) > 1
    assert f"trial {result.of(FAILED)[0].number} failed: " in describe(result)


def test_trials_that_all_fail_end_the_search(make: Make, fake: Fake) -> None:
    def score(config: TrainConfig, fold: int) -> float:
        raise ValueError("no such shards")

    trainer = fake(score)
    with pytest.raises(ValueError, match=r"3 trials failed one after the other.*no such shards"):
        search(make(), train=trainer)
    assert len(trainer.asked) == MOST_FAILURES


@pytest.mark.parametrize("stop", [Interrupted("why", 143), KeyboardInterrupt(), OSError("full")])
def test_a_stopped_search_goes_on_with_its_trial(
    make: Make, fake: Fake, stop: BaseException
) -> None:
    trainer = fake(distance)

    def stopped(config: TrainConfig) -> Outcome:
        if len(trainer.asked) == 7:
            raise stop
        outcome: Outcome = trainer(config)
        return outcome

    config = make("trials=3", "pruner=none")
    with pytest.raises(type(stop)):
        search(config, train=stopped)
    result = search(config, train=trainer)
    assert [row.state for row in result.rows] == [FINISHED] * 3
    # The taken-up trial asks for its folds again: the run folder knows which are trained.
    asked = [fold for _, fold in trainer.asked]
    assert asked == [*range(5), 0, 1, *range(5), *range(5)]
    assert values(result) == values(search(config, train=trainer))
    assert len(trainer.asked) == 17


def test_another_search_of_the_same_name_is_refused(make: Make, fake: Fake) -> None:
    search(make("search=mine", "trials=1"), train=fake(distance))
    search(make("search=mine", "trials=2", "loader.threads=1"), train=fake(distance))
    with pytest.raises(ValueError, match=r"mine: is another search.*\n  epochs: 4 before, 9 now"):
        search(make("search=mine", "epochs=9"), train=fake(distance))
    with pytest.raises(ValueError, match=r"space\.model\.drop_rate\.high: 0\.5 before, 0\.3 now"):
        other = make("search=mine")
        space = json.loads(json.dumps(other.space))
        space["model"]["drop_rate"]["high"] = 0.3
        search(dataclasses.replace(other, space=space), train=fake(distance))


def test_searches_without_a_name_are_told_apart(make: Make, fake: Fake) -> None:
    changes = ([], ["trials=2"], ["epochs=9"], ["data.seed=3"], ["seed=1"], ["workers=3"])
    folders = [search(make("trials=1", *one), train=fake(distance)).folder for one in changes]
    assert folders[0] == folders[1] == folders[5]
    assert len(set(folders)) == 4
    assert all(folder.parent.name == ".search" for folder in folders)


def test_a_space_that_is_none_is_refused(make: Make, fake: Fake) -> None:
    with pytest.raises(ConfigError, match="is no key of this training"):
        search(make("space=none", "space.epohcs={low: 1, high: 2}"), train=fake(distance))


def test_a_line_that_a_power_cut_left_is_taken_away(make: Make, fake: Fake) -> None:
    config = make("trials=2", "pruner=none")
    first = search(config, train=fake(distance))
    journal = first.folder / "journal.log"
    with journal.open("ab") as file:
        file.write(b'{"op_code":4,"worker')
    more = search(dataclasses.replace(config, trials=3), train=fake(distance))
    assert values(more)[:2] == values(first)
    assert len(more.of(FINISHED)) == 3


def in_child(work: Callable[[], None]) -> int:
    """The number of a process that does some work and ends."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return child


def test_the_trial_of_a_killed_process_is_taken_up(make: Make, fake: Fake, tmp_path: Path) -> None:
    config = make("trials=2", "pruner=none")
    trainer = fake(distance)

    def hanging(training: TrainConfig) -> Outcome:
        if training.fold == [2]:
            (tmp_path / "hangs").touch()
            time.sleep(300)
        outcome: Outcome = trainer(training)
        return outcome

    child = in_child(lambda: search(config, train=hanging) and None)
    while not (tmp_path / "hangs").exists():
        time.sleep(0.01)
    meanwhile = search(dataclasses.replace(config, trials=1), train=fake(distance))
    assert [row.state for row in meanwhile.rows] == [RUNNING]
    assert "the same command tells the end" in describe(meanwhile)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    result = search(config, train=trainer)
    assert [row.state for row in result.rows] == [FINISHED] * 2
    assert result.rows[0].values == meanwhile.rows[0].values
    assert len(result.rows[0].scores) == 5


def test_workers_side_by_side_train_each_trial_once(make: Make, fake: Fake, tmp_path: Path) -> None:
    config = make("trials=12", "sampler=random", "pruner=none", "folds=3")
    log = tmp_path / "log"
    log.touch()

    def score(training: TrainConfig, fold: int) -> float:
        time.sleep(0.02)
        with log.open("a") as file:
            file.write(f"{os.getpid()} {training.schedule.max_lr} {fold}\n")
        return distance(training)

    children = [in_child(lambda: search(config, train=fake(score)) and None) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children] == [0] * 3
    lines = [line.split() for line in log.read_text().splitlines()]
    assert len(lines) == len({(rate, fold) for _, rate, fold in lines}) == 36
    assert len({process for process, _, _ in lines}) > 1
    result = search(config, train=fake(distance))
    assert [row.state for row in result.rows] == [FINISHED] * 12
    alone = dataclasses.replace(config, outputs=str(tmp_path / "alone"))
    assert values(result) == values(search(alone, train=fake(distance)))


def test_the_same_setting_is_trained_by_one_process_at_a_time(
    make: Make, fake: Fake, tmp_path: Path
) -> None:
    space = ["space=none", "space.model.drop_rate={choices: [0.1, 0.2]}"]
    config = make(*space, "trials=8", "sampler=random", "pruner=none", "folds=2")

    def score(training: TrainConfig, fold: int) -> float:
        mark = tmp_path / f"at-work-{training.model.drop_rate}"
        mark.touch(exist_ok=False)
        time.sleep(0.02)
        mark.unlink()
        return distance(training)

    children = [in_child(lambda: search(config, train=fake(score)) and None) for _ in range(3)]
    assert [os.waitstatus_to_exitcode(os.waitpid(one, 0)[1]) for one in children] == [0] * 3
    result = search(config, train=fake(distance))
    assert [row.state for row in result.rows] == [FINISHED] * 8


TINY_SPACE = ("space=none", "space.schedule.max_lr={low: 1e-3, high: 3e-2, log: true}")


@pytest.fixture
def tiny_search(tiny_overrides: list[str]) -> Make:
    def make(*changes: str) -> SearchConfig:
        rest = [*tiny_overrides, *TINY_SPACE, "folds=2", "epochs=1", "trials=3", "pruner=none"]
        return compose("search", SearchConfig, [*rest, *changes])

    return make


def untimed(folder: Path) -> dict[str, Any]:
    """Weights and scores of the runs under a folder of outputs, by their files' names."""
    names = ("model.safetensors", "predictions.csv")
    paths = [path for name in names for path in sorted(folder.glob(f"test_*/fold-*/{name}"))]
    return {str(path.relative_to(folder)): path.read_bytes() for path in paths}


def test_trained_trials_are_ordinary_runs(
    tiny_search: Make, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny_search()
    assert check_search(config) == []
    assert door.main(config) is not None
    said = capsys.readouterr().out
    result = search(config, train=lambda training: pytest.fail("everything is trained"))
    outputs = tmp_path / "outputs"
    runs = {run.folder.name: run for run in read_runs(outputs)}
    assert set(runs) == {row.run for row in result.rows}
    assert {path.name for path in outputs.iterdir() if path.name[0] != "."} == set(runs)
    for row in result.rows:
        stored = json.loads((outputs / str(row.run) / "result.json").read_text())
        assert stored["complete"]
        assert row.score == pytest.approx(stored["mean"]["qwk"])
    best = result.best
    assert best is not None
    assert f"rerun={outputs / str(best.run)} fold=all resume=auto seed=$seed" in said
    again = compose_rerun(
        outputs / str(best.run), TrainConfig, ["fold=all", "resume=auto", "rerun=null"]
    )
    outcome = cross_validate(again)
    assert outcome is not None
    assert outcome.folder == outputs / str(best.run)


def test_a_search_that_is_interrupted_ends_as_if_it_had_not_been(
    tiny_search: Make,
    tmp_path: Path,
    interrupted_in_epoch: Callable[[int], AbstractContextManager[None]],
) -> None:
    changes = ["epochs=2", "trials=2", "save_minutes=0"]
    whole = search(tiny_search(*changes, f"outputs={tmp_path / 'whole'}"))
    with interrupted_in_epoch(1):
        search(tiny_search(*changes))
    result = search(tiny_search(*changes))
    assert [(row.values, row.scores, row.run) for row in result.rows] == [
        (row.values, row.scores, row.run) for row in whole.rows
    ]
    assert untimed(tmp_path / "outputs") == untimed(tmp_path / "whole")
    assert len(untimed(tmp_path / "whole")) == 8


def test_a_dropped_trial_is_an_unfinished_run(tiny_search: Make, tmp_path: Path) -> None:
    def train(training: TrainConfig) -> Outcome | None:
        outcome = cross_validate(training)
        assert outcome is not None
        for entry in outcome.result["folds"].values():  # no training scores like the first
            entry["qwk"] -= 3 * len(list((tmp_path / "outputs").glob("test_*")))
        return outcome

    config = tiny_search("pruner=median", "startup_trials=1", "trials=2")
    result = search(config, train=train)
    assert [row.state for row in result.rows] == [FINISHED, DROPPED]
    stored = json.loads(
        (tmp_path / "outputs" / str(result.rows[1].run) / "result.json").read_text()
    )
    assert (stored["complete"], list(stored["folds"])) == (False, ["0"])
    assert "dropped after 1 fold: 1. Their runs stay unfinished" in describe(result)
    assert "2 trials: 1 finished, 1 dropped, 0 failed, 0 under way" in describe(result)


def test_a_search_without_a_finished_trial_fails(
    make: Make, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from dr.searching import search as room

    def failing(training: TrainConfig) -> Outcome:
        raise ValueError("no luck")

    monkeypatch.setattr(room.search, "__kwdefaults__", {"train": failing})
    with pytest.raises(ValueError, match="no trial came to its end"):
        door.main(make("trials=2"))
    said = capsys.readouterr().out
    assert "2 trials: 0 finished, 0 dropped, 2 failed" in said
    assert "trial 1 failed: no luck" in said
