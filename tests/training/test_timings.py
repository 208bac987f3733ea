import json
import time
from collections.abc import Callable

import pytest

from dr.config import TrainConfig
from dr.training import timings as timings_module
from dr.training.cross_validation import cross_validate
from dr.training.timings import Timings

Make = Callable[..., TrainConfig]


def test_a_stage_counts_without_those_inside_it(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0, 100.0])
    monkeypatch.setattr(timings_module.time, "perf_counter", lambda: next(clock))
    timings = Timings()
    with timings.of("training"), timings.of("saving"):  # from 1 to 15, from 3 to 7
        pass
    with timings.of("training"):  # from 31 to 63
        pass
    timings.add({"saving": 0.5})
    assert timings.seconds == {"training": 2 + 8 + 32, "saving": 4.5}
    assert timings.summary() == {"training": 42, "saving": 4.5, "rest": 53.5, "total": 100}


def test_a_stage_that_fails_is_counted_and_closed() -> None:
    timings = Timings()
    with pytest.raises(KeyError), timings.of("training"):
        raise KeyError
    time.sleep(0.01)
    with timings.of("saving"):
        pass
    assert timings.summary()["rest"] >= 0.009


def test_each_process_of_a_run_leaves_its_account(tiny_config: Make) -> None:
    outcome = cross_validate(tiny_config("folds=2", "fold=0", "epochs=1"))
    assert outcome is not None
    path = outcome.folder / "environment.json"
    before = json.loads(path.read_text())
    (entry,) = before["timings"]
    stages = {"start", "building", "training", "evaluation", "saving", "gathering", "rest"}
    assert entry.keys() == {"date", "total", *stages}
    assert sum(entry[stage] for stage in stages) == pytest.approx(entry["total"], abs=0.01)
    assert all(entry[stage] >= 0 for stage in stages)
    config = tiny_config("folds=2", "fold=1", "epochs=1")
    cross_validate(config)
    cross_validate(config)  # finished: nothing is trained
    after = json.loads(path.read_text())
    assert len(after["timings"]) == 2
    assert after | {"timings": [entry]} == before
