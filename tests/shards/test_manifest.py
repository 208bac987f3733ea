"""The manifest: written, read back, and refused where it is not understood."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.config import PreparationConfig
from dr.shards.manifest import (
    MANIFEST,
    SCHEMA_VERSION,
    Manifest,
    ShardFile,
    read_manifest,
    recipe_digest,
    write_manifest,
)

SMALL = Manifest(
    kind="table",
    source="a" * 64,
    recipe="b" * 64,
    preparation=PreparationConfig(filter="none", filter_sigma=2.5),
    image_size=32,
    records=3,
    rejected=1,
    label_counts=[1, 1, 0, 1, 0],
    flagged={},
    shards=[ShardFile(file="train00-3.tfrec", records=3, sha256="c" * 64)],
    records_sha256="d" * 64,
    digest="e" * 64,
)


def test_what_is_written_is_read_back(tmp_path: Path) -> None:
    write_manifest(tmp_path, SMALL)
    assert read_manifest(tmp_path) == SMALL
    assert json.loads((tmp_path / MANIFEST).read_text())["schema_version"] == SCHEMA_VERSION


def test_a_folder_without_manifest_has_none(tmp_path: Path) -> None:
    assert read_manifest(tmp_path) is None


def without(key: str) -> Any:
    return lambda values: {name: value for name, value in values.items() if name != key}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda values: {**values, "schema_version": 2}, "schema_version is 2, .* reads 1"),
        (without("schema_version"), "schema_version is None"),
        (without("digest"), "digest"),
        (without("shards"), "shards"),
        (lambda values: {**values, "later": 1}, "later"),
        (lambda values: {**values, "preparation": {"sharpen": 1}}, "sharpen"),
        (lambda values: {**values, "shards": [{"file": "x"}]}, "records"),
        (lambda values: [values], "list"),
    ],
)
def test_one_that_is_not_understood_is_refused(tmp_path: Path, change: Any, reason: str) -> None:
    write_manifest(tmp_path, SMALL)
    path = tmp_path / MANIFEST
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=reason) as error:
        read_manifest(tmp_path)
    assert str(path) in str(error.value)
    assert "prepare the shards anew" in str(error.value)


@pytest.mark.parametrize("content", [b"", b"{", b"\xff\xfe"])
def test_half_a_manifest_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / MANIFEST).write_bytes(content)
    with pytest.raises(ValueError, match=r"manifest\.json: cannot be read"):
        read_manifest(tmp_path)


@given(
    st.sampled_from(
        [
            {"decode": "full"},
            {"crop": "gray"},
            {"crop_threshold": 8},
            {"fit": "stretch"},
            {"filter": "none"},
            {"filter_sigma": 10.5},
            {"filter_relative": False},
            {"jpeg_quality": 95},
        ]
    )
)
def test_every_setting_changes_the_recipe(change: dict[str, Any]) -> None:
    settings = PreparationConfig()
    digest = recipe_digest(settings, 32)
    assert digest == recipe_digest(PreparationConfig(), 32)
    assert digest != recipe_digest(replace(settings, **change), 32)
    assert digest != recipe_digest(settings, 33)
