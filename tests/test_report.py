"""`report.html` as `dr.train` and `dr.report` write it."""

import json
import logging
import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from dr import report, train
from dr.checks import check_report_door, check_train
from dr.compose import compose
from dr.config import ReportDoorConfig, TrainConfig

Make = Callable[..., TrainConfig]
PICTURE = "data:image/jpeg;base64,"


@pytest.fixture
def run(finished_run: Path, tmp_path: Path) -> Path:
    copy = tmp_path / "run"
    shutil.copytree(finished_run, copy)
    return copy


def written(run: Path, *overrides: str) -> str:
    report.main(compose("report", ReportDoorConfig, [f"run={run}", *overrides]))
    return (run / "report.html").read_text(encoding="utf-8")


def flip_labels(run: Path) -> None:
    """Make mistakes of predictions: the tiny data is learnt almost without."""
    for path in run.glob("fold-*/predictions.csv"):
        head, *rows = path.read_text().splitlines()
        cells = [row.split(",") for row in rows]
        flipped = [[*row[:3], str(4 - int(row[3])), *row[4:]] for row in cells]
        path.write_text("\n".join([head, *map(",".join, flipped)]) + "\n")


def test_the_door_writes_the_page_with_pictures_and_maps(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flip_labels(run)
    page = written(run, "report.mistakes=5")
    assert capsys.readouterr().out == f"{run / 'report.html'}\n"
    assert page.count(PICTURE) == 10
    assert page.count("Heat map of") == 5


def test_pictures_are_left_out_on_demand(run: Path) -> None:
    flip_labels(run)
    page = written(run, "report.images=false")
    assert PICTURE not in page and "The worst mistakes" in page
    assert "The worst mistakes" not in written(run, "report.mistakes=0")


def test_a_page_goes_where_it_is_asked_to(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "page (ü).html"
    config = compose("report", ReportDoorConfig, [f"run={run}", f"out={out}"])
    report.main(config)
    assert out.read_text().startswith("<!doctype html>")
    assert not (run / "report.html").exists()
    with pytest.raises(ValueError, match="is there already"):
        report.main(config)
    config.overwrite = True
    report.main(config)


def test_shards_that_are_gone_or_others_cost_the_pictures_only(
    run: Path, other_shards: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip_labels(run)
    assert PICTURE not in written(run, "shards=/no/such/folder")
    assert "report without pictures: shards=/no/such/folder" in caplog.text
    assert PICTURE not in written(run, f"shards={other_shards}")
    assert "are not those that the run was trained on" in caplog.text


def test_shards_are_found_where_the_result_says_they_are(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative folder in the config means another one from elsewhere."""
    flip_labels(run)
    config = yaml.safe_load((run / "config.yaml").read_text())
    (run / "config.yaml").write_text(yaml.safe_dump(config | {"shards": "shards/here"}))
    monkeypatch.chdir(tmp_path)
    assert written(run, "report.mistakes=2").count(PICTURE) == 4


def test_pictures_of_several_sources_are_found(
    tiny_config: Make, tiny_shards: Path, other_shards: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train.main(tiny_config(f"shards=[{tiny_shards},{other_shards}]", "image_size=24", "epochs=1"))
    run = Path(capsys.readouterr().out.splitlines()[0])
    flip_labels(run)
    page = written(run, "report.mistakes=60")
    assert f"Photograph {tiny_shards.name}/" in page and f"Photograph {other_shards.name}/" in page
    assert f"source {other_shards.name}" in page


def test_weights_that_are_gone_cost_the_heat_maps_only(
    run: Path, caplog: pytest.LogCaptureFixture
) -> None:
    flip_labels(run)
    for path in run.glob("fold-*/model.safetensors"):
        path.unlink()
    page = written(run, "report.mistakes=3")
    assert page.count(PICTURE) == 3 and "Heat map of" not in page
    assert "report without heat maps" in caplog.text


def test_a_folder_that_is_no_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"holds no config\.yaml"):
        written(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_training_writes_its_report(
    tiny_config: Make, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    config = tiny_config("epochs=1")
    train.main(config)
    run = Path(capsys.readouterr().out.splitlines()[0])
    page = run / "report.html"
    assert run.name in page.read_text()
    before = page.stat().st_mtime_ns
    train.main(config)
    assert page.stat().st_mtime_ns == before
    page.unlink()
    train.main(config)
    assert page.is_file()
    os.utime(page, (1, 1))
    train.main(config)
    assert page.stat().st_mtime > 1


def test_an_unfinished_run_and_one_that_wants_none_get_no_report(
    tiny_config: Make, tmp_path: Path
) -> None:
    train.main(tiny_config("epochs=1", "fold=0"))
    train.main(tiny_config("epochs=1", "report.enabled=false"))
    assert not list((tmp_path / "outputs").glob("*/report.html"))
    results = [
        json.loads(path.read_text()) for path in (tmp_path / "outputs").glob("*/result.json")
    ]
    assert [result["complete"] for result in results] == [True]


def test_a_report_that_fails_only_warns(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: Any, **more: Any) -> None:
        raise RuntimeError("no room")

    monkeypatch.setattr(train, "write_report", fail)
    assert train.main(tiny_config("epochs=1")) is not None
    assert re.search(r"report.html could not be written: RuntimeError: no room", caplog.text)


def problems(found: Any) -> list[str]:
    return [problem.key for problem in found]


def test_what_a_report_cannot_be_is_refused(tiny_config: Make) -> None:
    assert problems(check_train(tiny_config("report.mistakes=-1"))) == ["report.mistakes"]
    given = tiny_config("report.enabled=false", "report.images=false")
    assert problems(check_train(given)) == ["report.images"]
    door = ReportDoorConfig(out="page.pdf", overwrite=True, remote_cache_gb=-1.0)
    assert problems(check_report_door(door)) == ["run", "out", "remote_cache_gb"]
    assert problems(check_report_door(ReportDoorConfig(run="r", overwrite=True))) == ["overwrite"]
    shards = ReportDoorConfig(run="r", shards="s", remote_cache_gb=3.0)
    assert problems(check_report_door(shards)) == ["remote_cache_gb"]
    shards.report.images, shards.remote_cache_gb = False, None
    assert problems(check_report_door(shards)) == ["shards"]


def test_the_report_does_not_decide_which_run_it_is(tiny_config: Make) -> None:
    from dr.training.identity import scientific_settings

    plain = scientific_settings(tiny_config())
    assert plain == scientific_settings(tiny_config("report.images=false", "report.mistakes=3"))
