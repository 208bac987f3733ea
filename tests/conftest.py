"""A tiny data set whose mean colour tells the grade, and trainings of it at 32 px."""

import json
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest
import yaml
from hypothesis import settings

from dr.compose import compose
from dr.config import PreparationConfig, TableData, TrainConfig
from dr.shards.labels import read_label_source
from dr.shards.packing import Packing, pack

settings.register_profile("dr", deadline=None)
settings.load_profile("dr")

PATIENTS = 30
SIZE = 32
NAME_PATTERN = r"(?P<patient>\d+)_(?P<side>left|right)"


def tiny_picture(grade: int, random: np.random.Generator) -> np.ndarray:
    """uint8 [32, 32, 3]: brighter and less red for a higher grade, with some noise."""
    colour = np.array([40 + 45 * grade, 120, 220 - 45 * grade])
    noise = random.normal(0, 12, (SIZE, SIZE, 3))
    return np.clip(colour + noise, 0, 255).astype(np.uint8)


def write_tiny_photographs(folder: Path, *, patients: int = PATIENTS, seed: int = 0) -> Path:
    """Photographs `<patient>_left.png`, `_right.png` and labels.csv with a given split."""
    random = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for patient in range(patients):
        grade = patient % 5
        for side in ("left", "right"):
            name = f"{patient}_{side}"
            cv2.imwrite(str(folder / f"{name}.png"), tiny_picture(grade, random))
            part = "train" if patient < patients * 2 // 3 else "val"
            rows.append({"image": name, "level": grade, "split": part})
    labels = folder / "labels.csv"
    pd.DataFrame(rows).to_csv(labels, index=False)
    return labels


@pytest.fixture(scope="session")
def tiny_photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of 60 pictures of 30 patients, 12 of each grade, and labels.csv."""
    folder = tmp_path_factory.mktemp("photographs")
    write_tiny_photographs(folder)
    return folder


def tiny_data(folder: Path) -> TableData:
    return TableData(
        images=str(folder),
        labels=str(folder / "labels.csv"),
        name_pattern=NAME_PATTERN,
        image_size=SIZE,
    )


@pytest.fixture(scope="session")
def tiny_source(tiny_photographs: Path) -> TableData:
    """The label source of `tiny_photographs`."""
    return tiny_data(tiny_photographs)


@pytest.fixture(scope="session")
def tiny_shards(tiny_source: TableData, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`tiny_photographs` packed into shards as they are."""
    folder = tmp_path_factory.mktemp("shards") / "tiny"
    source = read_label_source(tiny_source, cache=folder.parent)
    preparation = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")
    pack(Packing(source=source, preparation=preparation, image_size=SIZE, folder=folder, workers=1))
    return folder


PLAIN = PreparationConfig(decode="full", crop="none", fit="stretch", filter="none")


def write_tiny_shards(
    folder: Path,
    *,
    seed: int,
    patients: int = PATIENTS,
    image_size: int = SIZE,
    preparation: PreparationConfig = PLAIN,
) -> Path:
    """Shards of other tiny photographs, whose names and patients are those of the first."""
    photographs = folder.with_name(f"{folder.name}-photographs")
    write_tiny_photographs(photographs, patients=patients, seed=seed)
    source = read_label_source(tiny_data(photographs), cache=folder.parent)
    packing = Packing(
        source=source, preparation=preparation, image_size=image_size, folder=folder, workers=1
    )
    pack(packing)
    return folder


@pytest.fixture(scope="session")
def other_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """40 records of 20 patients at 24 px, of another source than `tiny_shards`."""
    folder = tmp_path_factory.mktemp("other") / "other"
    return write_tiny_shards(folder, seed=1, patients=20, image_size=24)


@pytest.fixture(scope="session")
def outside_shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 records of 10 patients, of a third source."""
    folder = tmp_path_factory.mktemp("outside") / "outside"
    return write_tiny_shards(folder, seed=2, patients=10)


@pytest.fixture(scope="session")
def make_shards() -> Callable[..., Path]:
    """`make_shards(folder, seed=3, patients=30, image_size=32, preparation=...)`."""
    return write_tiny_shards


TINY = (
    "augment=none",
    "accel=cpu",
    "accel.precision=float32",
    "accel.channels_last=false",
    "accel.threads=1",
    "loader.threads=1",
    "model.name=test_efficientnet",
    "model.weights=none",
    "model.drop_rate=0",
    "model.drop_path_rate=0",
    "schedule=constant",
    "schedule.max_lr=0.01",
    "batch_size=10",
    "folds=3",
    "epochs=2",
)


@pytest.fixture
def tiny_overrides(tiny_shards: Path, tmp_path: Path) -> list[str]:
    """Command-line arguments of a training that takes a second or two."""
    return [*TINY, f"shards={tiny_shards}", f"outputs={tmp_path / 'outputs'}"]


@pytest.fixture
def tiny_config(tiny_overrides: list[str]) -> Callable[..., TrainConfig]:
    """`tiny_config("epochs=3", ...)`: the config of such a training, changed."""

    def make(*changes: Any) -> TrainConfig:
        return compose("train", TrainConfig, [*tiny_overrides, *changes])

    return make


@pytest.fixture
def interrupted_in_epoch() -> Callable[[int], AbstractContextManager[None]]:
    """A training within `interrupted_in_epoch(epoch)` is lost at that epoch's second step."""

    @contextmanager
    def interrupted(epoch: int) -> Iterator[None]:
        from dr.training import fold

        original = fold.train_epoch

        def broken(learner: Any, loader: Any, **given: Any) -> Any:
            def done(count: int) -> None:
                given["done"](count)
                if given["drawing"].epoch == epoch:
                    raise KeyboardInterrupt

            return original(learner, loader, **{**given, "done": done})

        with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(fold, "train_epoch", broken)
            yield

    return interrupted


@pytest.fixture(scope="session")
def finished_run(tiny_shards: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny training of three folds. Copy it before you change it."""
    from dr.training.cross_validation import cross_validate

    outputs = tmp_path_factory.mktemp("finished")
    overrides = [*TINY, "epochs=3", f"shards={tiny_shards}", f"outputs={outputs}"]
    outcome = cross_validate(compose("train", TrainConfig, overrides))
    assert outcome is not None and outcome.result["complete"]
    return outcome.folder


HOSTILE = (
    "</script><script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "{{7*7}}{% for x in y %}",
    "'+alert(1)+'${1+1}",
    "]]>--><!--<svg onload=window.hacked=1>",
    "Ünïcode 漢字 \u202e\u2028",
)
"""What somebody may have put into names and settings; none may do anything in a page."""


@pytest.fixture
def hostile_run(finished_run: Path, tmp_path: Path) -> Path:
    """`finished_run` with hostile names of the run, its data, photographs and settings."""
    run = tmp_path / HOSTILE[1].replace("/", "")
    shutil.copytree(finished_run, run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    config["model"]["name"], config["objective"]["name"] = HOSTILE[0], HOSTILE[3]
    config["augment"]["transforms"] = [{"name": text} for text in HOSTILE]
    (run / "config.yaml").write_text(yaml.safe_dump(config, allow_unicode=True))
    result = json.loads((run / "result.json").read_text())
    result["data"] |= {"name": HOSTILE[0], "shards": HOSTILE[1]}
    (run / "result.json").write_text(json.dumps(result))
    environment = json.loads((run / "environment.json").read_text())
    environment["device"] = HOSTILE[0]
    environment["timings"] = [{"date": "", HOSTILE[0]: 3.0, HOSTILE[2]: 2.0, "total": 5.0}]
    (run / "environment.json").write_text(json.dumps(environment))
    for path in run.glob("fold-*/predictions.csv"):
        table = pd.read_csv(path, dtype={"name": str})
        table["name"] = [HOSTILE[row % len(HOSTILE)] for row in range(len(table))]
        table["label"] = 4 - table["label"]
        table.to_csv(path, index=False)
    return run
