"""From a label source to a folder of TFRecord shards.

A shard is a fixed slice of the label table; the count in its name is what survived. Each finished
slice leaves a note of its rows, so that a preparation that was cut off goes on with the next slice;
when all are there the notes become `records.csv`, `rejected.csv` and `manifest.json`.
"""

import fcntl
import json
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dr.config import GRADES, PreparationConfig
from dr.digests import digest_of, digest_of_file
from dr.files import make_writable_folder, write_csv, write_json
from dr.fundus.preparation import PreparedPhotograph
from dr.fundus.quality import flags
from dr.shards.index import write_index
from dr.shards.labels import LabelSource
from dr.shards.manifest import (
    MANIFEST,
    RECORDS,
    REJECTED,
    Manifest,
    ShardFile,
    read_manifest,
    recipe_digest,
    write_manifest,
)
from dr.shards.preparing import prepared_photographs
from dr.shards.records import Record, encode_example, write_frame

ROWS_A_SHARD = 2000
_MARK = ".preparing.json"
_MEASURED = ("row", "brightness", "sharpness", "field_share", "flags")
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A preparation to be done: what, how, and where to."""

    source: LabelSource
    preparation: PreparationConfig
    image_size: int
    folder: Path
    on_error: str = "fail"
    workers: int | None = None
    rows_a_shard: int = ROWS_A_SHARD

    @property
    def threads(self) -> int:
        """Photographs prepared at a time."""
        return self.workers or len(os.sched_getaffinity(0))

    @property
    def identity(self) -> dict[str, Any]:
        """What decides the bytes of the shards."""
        return {
            "source": self.source.digest(),
            "recipe": recipe_digest(self.preparation, self.image_size),
            "rows_a_shard": self.rows_a_shard,
        }


def pack(packing: Packing, *, progress: Callable[[int], None] | None = None) -> Manifest:
    """Prepare every photograph of a source and pack it into shards; return the manifest.

    A folder that already holds the same shards is left as it is; one that another process is
    preparing is waited for. `progress` is called with the number of rows done since its last call.

    Raises ValueError where the folder holds something else, a photograph cannot be read
    (`on_error=fail`), a label is not known, a column is named like one of `records.csv`, or
    nothing survives.
    """
    identity = packing.identity
    _check_table(packing.source)
    done = _finished(packing, identity)
    if done is not None:
        return done
    make_writable_folder(packing.folder, key="shards")
    with _alone(packing.folder):
        return _finished(packing, identity) or _prepare(packing, identity, progress or _ignore)


def _ignore(count: int) -> None:
    """Nobody watches the progress."""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process prepares into `folder`; the system forgets a dead one's lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems lock no folders: there two preparations must not meet.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _prepare(
    packing: Packing, identity: dict[str, Any], progress: Callable[[int], None]
) -> Manifest:
    _claim(packing.folder, identity)
    slices = _slices(len(packing.source.table), packing.rows_a_shard)
    patient_ids = _patient_ids(packing.source.table["patient"].tolist())
    for number, rows in enumerate(slices):
        if _note_path(packing.folder, number).is_file():
            progress(len(rows))
        else:
            _pack_slice(packing, number, rows, patient_ids, progress)
    return _finish(packing, identity, len(slices))


def _check_table(source: LabelSource) -> None:
    table = source.table
    unlabelled = table["name"][table["label"] < 0].tolist()
    if unlabelled:
        raise ValueError(f"{unlabelled[0]}: has no label; shards for training need one")
    clash = [column for column in table.columns if column in _MEASURED]
    if clash:
        raise ValueError(
            f"data: the label table's column {clash[0]!r} is one that {RECORDS} has of its own; "
            "rename it"
        )


def _finished(packing: Packing, identity: dict[str, Any]) -> Manifest | None:
    folder = packing.folder
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if (manifest.source, manifest.recipe) == (identity["source"], identity["recipe"]):
        if manifest.rejected and packing.on_error == "fail":
            raise ValueError(_left_out(folder, manifest.rejected))
        _log.info("%s: already prepared, %d records", folder, manifest.records)
        return manifest
    what = "photographs or labels" if manifest.source != identity["source"] else "settings"
    raise ValueError(
        f"shards={folder}: holds shards of other {what}; choose another folder, or delete this one"
    )


def _left_out(folder: Path, count: int) -> str:
    return (
        f"shards={folder}: was prepared without {count} photographs that could not be read; add "
        "on_error=skip to take it as it is, or mend them and prepare anew"
    )


def _claim(folder: Path, identity: dict[str, Any]) -> None:
    mark = folder / _MARK
    if mark.is_file():
        if _read_json(mark) != identity:
            raise ValueError(
                f"shards={folder}: holds an unfinished preparation of other photographs or "
                "settings; choose another folder, or delete this one"
            )
        _log.info("%s: going on with an unfinished preparation", folder)
        return
    if any(not _is_aside(path) for path in folder.iterdir()):
        raise ValueError(
            f"shards={folder}: is not empty and holds no {MANIFEST}; choose an empty folder"
        )
    write_json(mark, identity)


def _is_aside(path: Path) -> bool:
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _slices(rows: int, size: int) -> list[range]:
    return [range(start, min(start + size, rows)) for start in range(0, rows, size)]


def _patient_ids(patients: Sequence[str]) -> dict[str, int]:
    """The number in a patient's name where each has one of its own, else its rank."""
    names = sorted(set(patients))
    numbers = [re.findall(r"\d+", name) for name in names]
    if all(len(found) == 1 for found in numbers):
        values = [int(found[0]) for found in numbers]
        if len(set(values)) == len(values) and max(values, default=0) < 2**63:
            return dict(zip(names, values, strict=True))
    return {name: rank for rank, name in enumerate(names)}


def _note_path(folder: Path, number: int) -> Path:
    return folder / f".slice{number:02d}.json"


def _pack_slice(
    packing: Packing,
    number: int,
    rows: range,
    patient_ids: dict[str, int],
    progress: Callable[[int], None],
) -> None:
    aside = packing.folder / f".train{number:02d}.tmp"
    kept: list[dict[str, Any]] = []
    rejected: list[dict[str, Any]] = []
    try:
        with aside.open("wb") as file:
            for row, outcome in _prepared(packing, rows):
                if isinstance(outcome, PreparedPhotograph):
                    record = _record(packing.source, row, outcome, patient_ids)
                    write_frame(file, encode_example(record))
                    kept.append(_kept(row, record, outcome))
                else:
                    rejected.append(_rejected(packing, row, outcome))
                progress(1)
            file.flush()
            os.fsync(file.fileno())
        _publish(packing.folder, number, aside, kept, rejected)
    finally:
        with suppress(FileNotFoundError):
            aside.unlink()


def _publish(
    folder: Path,
    number: int,
    aside: Path,
    kept: list[dict[str, Any]],
    rejected: list[dict[str, Any]],
) -> None:
    shard = None
    if kept:
        path = folder / f"train{number:02d}-{len(kept)}.tfrec"
        aside.replace(path)
        write_index(path)
        digest = digest_of_file(path)
        shard = asdict(ShardFile(file=path.name, records=len(kept), sha256=digest))
    note = {"shard": shard, "kept": kept, "rejected": rejected}
    write_json(_note_path(folder, number), note)


def _prepared(
    packing: Packing, rows: range
) -> Iterator[tuple[int, PreparedPhotograph | Exception]]:
    return prepared_photographs(
        packing.source,
        rows,
        settings=packing.preparation,
        image_size=packing.image_size,
        threads=packing.threads,
    )


def _record(
    source: LabelSource, row: int, prepared: PreparedPhotograph, patient_ids: dict[str, int]
) -> Record:
    entry = source.table.iloc[row]
    return Record(
        image=prepared.jpeg,
        patient_id=patient_ids[str(entry["patient"])],
        side=int(entry["side"]),
        label=int(entry["label"]),
        name=str(entry["name"]),
        patient=str(entry["patient"]),
    )


def _kept(row: int, record: Record, prepared: PreparedPhotograph) -> dict[str, Any]:
    quality = prepared.quality
    return {
        "row": row,
        "name": record.name,
        "patient": record.patient,
        "side": record.side,
        "label": record.label,
        "brightness": round(quality.brightness, 2),
        "sharpness": round(quality.sharpness, 2),
        "field_share": round(quality.field_share, 4),
        "flags": " ".join(flags(quality)),
    }


def _rejected(packing: Packing, row: int, error: Exception) -> dict[str, Any]:
    name = str(packing.source.table["name"].iloc[row])
    if packing.on_error == "fail":
        raise ValueError(
            f"{name}: {error}; mend or remove it, or add on_error=skip to leave such out"
        ) from error
    return {"row": row, "name": name, "reason": str(error)}


def _finish(packing: Packing, identity: dict[str, Any], slices: int) -> Manifest:
    folder = packing.folder
    notes = [_read_json(_note_path(folder, number)) for number in range(slices)]
    kept = [entry for note in notes for entry in note["kept"]]
    rejected = [entry for note in notes for entry in note["rejected"]]
    if not kept:
        raise ValueError(f"shards={folder}: none of {len(rejected)} photographs could be read")
    if rejected and packing.on_error == "fail":
        raise ValueError(_left_out(folder, len(rejected)))
    _write_tables(packing, kept, rejected)
    shards = [ShardFile(**note["shard"]) for note in notes if note["shard"]]
    records_sha256 = digest_of_file(folder / RECORDS)
    manifest = Manifest(
        kind=packing.source.kind,
        source=identity["source"],
        recipe=identity["recipe"],
        preparation=packing.preparation,
        image_size=packing.image_size,
        records=len(kept),
        rejected=len(rejected),
        label_counts=[sum(e["label"] == grade for e in kept) for grade in range(GRADES)],
        flagged=dict(Counter(flag for entry in kept for flag in entry["flags"].split())),
        shards=shards,
        records_sha256=records_sha256,
        digest=digest_of([records_sha256, *(shard.sha256 for shard in shards)]),
    )
    write_manifest(folder, manifest)
    _sweep(folder)
    return manifest


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        note = re.fullmatch(r"\.slice\d+\.json", path.name)
        if note or path.name == _MARK or _is_aside(path):
            path.unlink()


def _write_tables(
    packing: Packing, kept: list[dict[str, Any]], rejected: list[dict[str, Any]]
) -> None:
    own = ("name", "patient", "side", "label")
    extra = [column for column in packing.source.table.columns if column not in own]
    table = packing.source.table[extra].to_dict("records") if extra else []
    rows = [{**(table[entry["row"]] if extra else {}), **entry} for entry in kept]
    write_csv(packing.folder / RECORDS, [*kept[0], *extra], rows)
    if rejected:
        write_csv(packing.folder / REJECTED, list(rejected[0]), rejected)


def shard_files(folder: Path) -> list[Path]:
    """The labelled shards of a folder, `train%02d-%d.tfrec`, by number."""
    found = [path for path in folder.iterdir() if re.fullmatch(r"train\d+-\d+\.tfrec", path.name)]
    return sorted(found, key=lambda path: [int(part) for part in path.stem[5:].split("-")])
