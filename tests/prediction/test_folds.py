import dataclasses
import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from dr.accel.choice import choose_accelerator
from dr.compose import compose
from dr.config import AccelConfig, PredictConfig, TrainConfig
from dr.loading.decoding import decode_at
from dr.predict import main as predict
from dr.prediction.folds import load_run
from dr.shards.opening import open_shards
from dr.training.cross_validation import cross_validate


@pytest.fixture(scope="module")
def photographs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """20 patients' eyes: a disc on black whose redness tells the grade."""
    folder = tmp_path_factory.mktemp("photographs")
    rng = np.random.default_rng(0)
    lines = ["image,level"]
    for patient in range(20):
        for side in ("left", "right"):
            grade = patient % 5
            image = np.zeros((90, 120, 3), np.uint8)
            colour = (40, 60, 60 + 40 * grade)
            cv2.circle(image, (60, 45), 40, colour, -1)
            noise = rng.integers(0, 12, image.shape, dtype=np.uint8)
            cv2.imwrite(str(folder / f"{patient}_{side}.jpeg"), image + noise * (image > 0))
            lines.append(f"{patient}_{side},{grade}")
    (folder / "labels.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def run(photographs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    outputs = tmp_path_factory.mktemp("outputs")
    config = compose(
        "train",
        TrainConfig,
        [
            "data=eyepacs",
            f"data.images={photographs}",
            f"data.labels={photographs / 'labels.csv'}",
            f"outputs={outputs}",
            "model.name=test_efficientnet",
            "model.weights=none",
            "data.image_size=48",
            "image_size=32",
            "batch_size=8",
            "epochs=1",
            "folds=2",
        ],
    )
    return cross_validate(config).folder


def _predict(run: Path, photographs: Path, out: Path, *more: str) -> None:
    overrides = [f"run={run}", f"images={photographs}", f"out={out}", *more]
    predict(compose("predict", PredictConfig, overrides))


def test_a_photograph_is_graded_as_its_record_was(run: Path, photographs: Path) -> None:
    trained = load_run(run, choose_accelerator(AccelConfig(name="cpu")))
    shards = open_shards(Path(json.loads((run / "result.json").read_text())["data"]["shards"]))
    names = shards.table["name"].tolist()
    prepared = np.stack([trained.picture((photographs / f"{n}.jpeg").read_bytes()) for n in names])
    packed = np.stack([decode_at(shards.read(r).image, size=32) for r in range(len(names))])
    np.testing.assert_array_equal(prepared, packed)


def test_folds_reproduce_their_own_out_of_fold_predictions(run: Path, photographs: Path) -> None:
    import pandas as pd

    trained = load_run(run, choose_accelerator(AccelConfig(name="cpu")))
    table = pd.read_csv(run / "fold-1" / "predictions.csv")
    pictures = np.stack(
        [trained.picture((photographs / f"{name}.jpeg").read_bytes()) for name in table["name"]]
    )
    alone = dataclasses.replace(trained, models=trained.models[1:])
    scores, probabilities = alone.grade(pictures)
    np.testing.assert_allclose(scores, table["score"], atol=1e-5)
    np.testing.assert_allclose(probabilities, table[["p0", "p1", "p2", "p3", "p4"]], atol=1e-5)


def test_submission_names_every_photograph_once(
    run: Path, photographs: Path, tmp_path: Path
) -> None:
    import pandas as pd

    out = tmp_path / "submission.csv"
    _predict(run, photographs, out)
    table = pd.read_csv(out)
    assert list(table.columns) == ["image", "level"]
    assert sorted(table["image"]) == sorted(path.stem for path in photographs.glob("*.jpeg"))
    assert table["level"].between(0, 4).all()


def test_batch_size_changes_no_grade(run: Path, photographs: Path, tmp_path: Path) -> None:
    _predict(run, photographs, tmp_path / "a.csv", "batch_size=7")
    _predict(run, photographs, tmp_path / "b.csv", "batch_size=40", "loader.threads=3")
    assert (tmp_path / "a.csv").read_bytes() == (tmp_path / "b.csv").read_bytes()


def test_npz_split_is_graded(run: Path, tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 255, (6, 28, 28, 3), dtype=np.uint8)
    np.savez(tmp_path / "tiny.npz", test_images=images)
    out = tmp_path / "out.csv"
    overrides = ["data=medmnist", f"data.images={tmp_path / 'tiny.npz'}", "data.split=test"]
    predict(compose("predict", PredictConfig, [f"run={run}", f"out={out}", *overrides]))
    assert len(out.read_text().splitlines()) == 7


@pytest.mark.parametrize("on_error", ["fail", "skip"])
def test_unreadable_photograph(run: Path, photographs: Path, tmp_path: Path, on_error: str) -> None:
    images = tmp_path / "images"
    images.mkdir()
    (images / "bad.jpeg").write_text("no photograph")
    (images / "good.jpeg").write_bytes((photographs / "3_left.jpeg").read_bytes())
    out = tmp_path / "out.csv"
    if on_error == "fail":
        with pytest.raises(ValueError, match=r"bad.*on_error=skip"):
            _predict(run, images, out)
        assert not out.exists()
    else:
        _predict(run, images, out, "on_error=skip")
        assert [line.split(",")[0] for line in out.read_text().splitlines()] == ["image", "good"]


def test_an_existing_submission_is_kept(run: Path, photographs: Path, tmp_path: Path) -> None:
    out = tmp_path / "submission.csv"
    out.write_text("mine")
    with pytest.raises(ValueError, match="overwrite=true"):
        _predict(run, photographs, out)
    assert out.read_text() == "mine"


def test_an_unfinished_run_is_refused(run: Path, tmp_path: Path) -> None:
    other = tmp_path / "run"
    other.mkdir()
    (other / "config.yaml").write_text((run / "config.yaml").read_text())
    result = json.loads((run / "result.json").read_text()) | {"complete": False, "folds": {}}
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(ValueError, match="0 of 2 folds"):
        load_run(other, choose_accelerator(AccelConfig(name="cpu")))


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"config\.yaml"):
        load_run(tmp_path, choose_accelerator(AccelConfig(name="cpu")))
