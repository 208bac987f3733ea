"""`manifest.json`: what a folder of shards holds and how it was made."""

import dataclasses
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dr.config import PreparationConfig
from dr.digests import digest_of
from dr.files import write_json

MANIFEST = "manifest.json"
RECORDS = "records.csv"
REJECTED = "rejected.csv"
SIGNATURES = "signatures.npy"
DUPLICATES = "duplicates.csv"
SCHEMA_VERSION = 1


@dataclass(frozen=True, kw_only=True)
class ShardFile:
    """One shard: its file name, how many records it holds, and the SHA-256 of its bytes."""

    file: str
    records: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """`source` and `recipe` are digests of the labelled photographs and of the preparation.

    `digest` names the content: the shards' bytes and the table of records. `flagged` counts the
    records kept for each doubt about their quality; `duplicates` the pairs of photographs of
    different patients that are the same `bytes` or the same `picture`, and the `patients` they
    link. `signatures_sha256` and `duplicates_sha256` are empty where there is no such file: shards
    without signatures were never searched for duplicates.
    """

    kind: str
    source: str
    recipe: str
    preparation: PreparationConfig
    image_size: int
    records: int
    rejected: int
    label_counts: list[int]
    flagged: dict[str, int]
    shards: list[ShardFile]
    records_sha256: str
    digest: str
    duplicates: dict[str, int] = field(default_factory=dict)
    signatures_sha256: str = ""
    duplicates_sha256: str = ""
    schema_version: int = SCHEMA_VERSION


def recipe_digest(preparation: PreparationConfig, image_size: int) -> str:
    """What the preparation of a photograph depends on, as a digest; 10 and 10.0 are the same."""
    defaults = dataclasses.asdict(PreparationConfig())
    settings = {key: type(value)(getattr(preparation, key)) for key, value in defaults.items()}
    return digest_of({"version": SCHEMA_VERSION, "image_size": image_size, **settings})


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write `manifest.json`: the last thing a preparation does."""
    write_json(folder / MANIFEST, dataclasses.asdict(manifest))


def read_manifest(folder: Path) -> Manifest | None:
    """The manifest of a folder, None where there is none.

    Raises ValueError where it cannot be understood.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None
    try:
        values: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if values.get("schema_version") != SCHEMA_VERSION:
            found = values.get("schema_version")
            raise ValueError(f"schema_version is {found}, this version reads {SCHEMA_VERSION}")
        values["preparation"] = PreparationConfig(**values["preparation"])
        values["shards"] = [ShardFile(**shard) for shard in values["shards"]]
        return Manifest(**values)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ValueError(f"{path}: cannot be read ({error}); prepare the shards anew") from error
