"""The ready choices of a preparation, and settings that would do nothing."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from dr.checks.groups import check_preparation
from dr.compose import conf_folder
from dr.config import PreparationConfig
from dr.shards.manifest import recipe_digest

CHOICES = sorted((conf_folder() / "preparation").glob("*.yaml"))


def ready(name: str) -> PreparationConfig:
    text = (conf_folder() / "preparation" / f"{name}.yaml").read_text()
    return PreparationConfig(**yaml.safe_load(text))


@pytest.mark.parametrize("path", CHOICES, ids=lambda path: path.stem)
def test_a_ready_choice_has_no_problem_and_the_types_of_its_keys(path: Path) -> None:
    choice = ready(path.stem)
    assert check_preparation(choice) == []
    for key, value in vars(PreparationConfig()).items():
        assert type(getattr(choice, key)) is type(value)


def test_the_default_is_the_choice_named_fundus() -> None:
    assert ready("fundus") == PreparationConfig()


def test_the_ready_choices_differ_in_what_they_make() -> None:
    assert len({recipe_digest(ready(path.stem), 512) for path in CHOICES}) == len(CHOICES) == 6


def test_grahams_own_choice_is_his() -> None:
    graham = ready("graham")
    assert (graham.filter, graham.graham_sigma, graham.graham_radius) == ("graham", 1 / 30, 0.9)


@pytest.mark.parametrize(
    ("values", "key", "fix"),
    [
        ({"filter": "none", "filter_sigma": 5.0}, "filter_sigma", "filter=none"),
        ({"filter": "graham", "filter_sigma": 5.0}, "filter_sigma", "filter=graham"),
        ({"graham_sigma": 0.1}, "graham_sigma", "filter=unsharp"),
        ({"filter": "clahe", "graham_radius": 0.8}, "graham_radius", "filter=clahe"),
        ({"clahe_clip": 3.0}, "clahe_clip", "filter=unsharp"),
        ({"filter": "none", "clahe_tiles": 4}, "clahe_tiles", "filter=none"),
        ({"crop_threshold": 9}, "crop_threshold", "crop=field"),
        ({"crop": "none", "crop_threshold": 9}, "crop_threshold", "crop=none"),
    ],
)
def test_a_setting_without_effect_is_refused(values: dict[str, Any], key: str, fix: str) -> None:
    (problem,) = check_preparation(PreparationConfig(**values))
    assert problem.key == f"preparation.{key}"
    assert fix in problem.fix


@pytest.mark.parametrize(
    "values",
    [
        {"crop": "gray", "crop_threshold": 9},
        {"filter_sigma": 5.0},
        {"filter": "graham", "graham_sigma": 0.1, "graham_radius": 0.8},
        {"filter": "clahe", "clahe_clip": 3.0, "clahe_tiles": 4},
        {"filter": "none", "filter_relative": False},
        {"jpeg_chroma": "444", "jpeg_quality": 100},
    ],
)
def test_a_setting_with_an_effect_is_taken(values: dict[str, Any]) -> None:
    assert check_preparation(PreparationConfig(**values)) == []


@pytest.mark.parametrize(
    ("values", "key"),
    [
        ({"filter": "sharpen"}, "filter"),
        ({"jpeg_chroma": "422"}, "jpeg_chroma"),
        ({"filter": "graham", "graham_sigma": 0.0}, "graham_sigma"),
        ({"filter": "graham", "graham_radius": 1.5}, "graham_radius"),
        ({"filter": "clahe", "clahe_clip": float("nan")}, "clahe_clip"),
        ({"filter": "clahe", "clahe_tiles": 0}, "clahe_tiles"),
        ({"graham_radius": 1.5}, "graham_radius"),
    ],
)
def test_a_value_out_of_range_is_one_problem(values: dict[str, Any], key: str) -> None:
    assert [p.key for p in check_preparation(PreparationConfig(**values))] == [f"preparation.{key}"]


def test_ten_and_ten_point_nought_are_the_same_recipe() -> None:
    whole, point = PreparationConfig(filter_sigma=10), PreparationConfig(filter_sigma=10.0)
    assert recipe_digest(whole, 512) == recipe_digest(point, 512)
    assert recipe_digest(whole, 512) != recipe_digest(PreparationConfig(filter_sigma=9), 512)
