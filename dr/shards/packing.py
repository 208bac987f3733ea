"""From a label source to a folder of TFRecord shards.

A shard is a fixed slice of the label table; the count in its name is what survived. Each finished
slice leaves a note of its rows, so that a preparation that was cut off goes on with the next slice,
and several processes or machines share the slices of one folder; when all are there the notes
become `records.csv`, `rejected.csv`, `signatures.npy`, `duplicates.csv` and `manifest.json`.
"""

import fcntl
import json
import logging
import os
import re
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

from dr.config import PreparationConfig
from dr.digests import digest_of_file
from dr.files import make_writable_folder, write_json
from dr.fundus.preparation import PreparedPhotograph
from dr.fundus.quality import flags
from dr.shards.finishing import (
    finish,
    note_path,
    read_note,
    signatures_path,
    write_signatures,
)
from dr.shards.index import write_index
from dr.shards.labels import LabelSource
from dr.shards.manifest import (
    MANIFEST,
    RECORDS,
    Manifest,
    ShardFile,
    read_manifest,
    recipe_digest,
)
from dr.shards.preparing import prepared_photographs
from dr.shards.records import Record, encode_example, write_frame

ROWS_A_SHARD = 2000
_MARK = ".preparing.json"
_MEASURED = ("row", "brightness", "sharpness", "field_share", "flags")
_BUSY, _FREE, _UNGUARDED = "busy", "free", "unguarded"
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Packing:
    """A preparation to be done: what, how, and where to.

    With `parts`, only every `parts`-th slice is done, from slice `part` on.
    """

    source: LabelSource
    preparation: PreparationConfig
    image_size: int
    folder: Path
    on_error: str = "fail"
    workers: int | None = None
    rows_a_shard: int = ROWS_A_SHARD
    parts: int | None = None
    part: int | None = None

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

    @property
    def slices(self) -> list[range]:
        """The rows of each shard."""
        rows, size = len(self.source.table), self.rows_a_shard
        return [range(start, min(start + size, rows)) for start in range(0, rows, size)]

    def own_slices(self) -> dict[int, range]:
        """The rows of the slices to be done here, by the slice's number.

        Raises ValueError where there are more parts than slices.
        """
        slices = dict(enumerate(self.slices))
        if self.parts is None or self.part is None:
            return slices
        if self.parts > len(slices):
            raise ValueError(
                f"parts={self.parts}: {len(self.source.table)} rows make {len(slices)} shards of "
                f"{self.rows_a_shard}, so some parts would be empty; set parts={len(slices)} or "
                "fewer"
            )
        return {number: slices[number] for number in range(self.part, len(slices), self.parts)}


def pack(packing: Packing, *, progress: Callable[[int], None] | None = None) -> Manifest | None:
    """Prepare the photographs of a source and pack them into shards; return the manifest.

    None where only a part was to be done and others are not done yet: whoever finds all slices
    there writes the manifest. A folder that already holds the same shards is left as it is; a
    slice that another process is preparing is waited for. `progress` is called with the number of
    rows done since its last call.

    Raises ValueError where the folder holds something else, a photograph cannot be read
    (`on_error=fail`), a label is not known, a column is named like one of `records.csv`, there
    are more parts than slices, or nothing survives.
    """
    own = packing.own_slices()
    identity = packing.identity
    _check_table(packing.source)
    done = _finished(packing, identity)
    if done is None:
        make_writable_folder(packing.folder, key="shards")
        with _alone(packing.folder):
            if _finished(packing, identity) is None:
                _claim(packing, identity)
        _pack_slices(packing, own, progress or _ignore)
    else:
        _log.info("%s: already prepared, %d records", packing.folder, done.records)
    with _alone(packing.folder):
        return _finish(packing, identity)


def _ignore(count: int) -> None:
    """Nobody watches the progress."""


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Wait until no other process holds `folder`; the system forgets a dead one's lock."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        # Some network file systems lock no folders: every step is safe there too, if done twice.
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _guarded(folder: Path, number: int, *, wait: bool) -> Iterator[str]:
    """Hold a slice, if it is `free`; it stays `unguarded` where the file system has no locks."""
    # Network file systems lock files that are open for writing, if any.
    descriptor = os.open(folder / f".slice{number:02d}.lock", os.O_RDWR | os.O_CREAT, 0o666)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        state = _FREE
    except BlockingIOError:
        state = _BUSY
    except OSError:
        state = _UNGUARDED
    try:
        yield state
    finally:
        os.close(descriptor)


def _pack_slices(
    packing: Packing, slices: Mapping[int, range], progress: Callable[[int], None]
) -> None:
    """First the slices that nobody holds, then those that were held, once they are let go."""
    patient_ids = _patient_ids(packing.source.table["patient"].tolist())
    left = list(slices)
    for wait in (False, True):
        left = [
            number
            for number in left
            if not _pack_free(packing, number, slices[number], patient_ids, progress, wait=wait)
        ]


def _pack_free(
    packing: Packing,
    number: int,
    rows: range,
    patient_ids: dict[str, int],
    progress: Callable[[int], None],
    *,
    wait: bool,
) -> bool:
    """Whether the slice is done; without `wait` one that another process holds is left alone."""
    with _guarded(packing.folder, number, wait=wait) as state:
        if state == _BUSY:
            return False
        if _is_done(packing.folder, number):
            progress(len(rows))
            return True
        if state == _FREE:
            _clear(packing.folder, number)
        _pack_slice(packing, number, rows, patient_ids, progress)
        return True


def _is_done(folder: Path, number: int) -> bool:
    if (folder / MANIFEST).is_file():
        return True
    if not note_path(folder, number).is_file():
        return False
    shard = read_note(folder, number)["shard"]
    return shard is None or (folder / shard["file"]).is_file()


def _clear(folder: Path, number: int) -> None:
    """Remove what a killed process left of a slice that nobody else holds."""
    for pattern in (f".train{number:02d}.*.tmp", f"train{number:02d}-*.tf*"):
        for path in folder.glob(pattern):
            path.unlink(missing_ok=True)


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


def _finished(packing: Packing, identity: Mapping[str, Any]) -> Manifest | None:
    folder = packing.folder
    manifest = read_manifest(folder)
    if manifest is None:
        return None
    if (manifest.source, manifest.recipe) == (identity["source"], identity["recipe"]):
        if manifest.rejected and packing.on_error == "fail":
            raise ValueError(_left_out(folder, manifest.rejected))
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


def _claim(packing: Packing, identity: Mapping[str, Any]) -> None:
    folder = packing.folder
    mark = folder / _MARK
    if mark.is_file():
        if _read_json(mark) != identity:
            raise ValueError(
                f"shards={folder}: holds an unfinished preparation of other photographs or "
                "settings; choose another folder, or delete this one"
            )
        if packing.parts is None:
            _log.info("%s: going on with an unfinished preparation", folder)
        return
    if any(not _is_aside(path) for path in folder.iterdir()):
        raise ValueError(
            f"shards={folder}: is not empty and holds no {MANIFEST}; choose an empty folder"
        )
    write_json(mark, identity)


def _is_aside(path: Path) -> bool:
    hidden, half = path.name.startswith("."), path.name.endswith(".tmp")
    return (hidden and half) or path.name.startswith(".writable-")


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _patient_ids(patients: Sequence[str]) -> dict[str, int]:
    """The number in a patient's name where each has one of its own, else its rank."""
    names = sorted(set(patients))
    numbers = [re.findall(r"\d+", name) for name in names]
    if all(len(found) == 1 for found in numbers):
        values = [int(found[0]) for found in numbers]
        if len(set(values)) == len(values) and max(values, default=0) < 2**63:
            return dict(zip(names, values, strict=True))
    return {name: rank for rank, name in enumerate(names)}


def _pack_slice(
    packing: Packing,
    number: int,
    rows: range,
    patient_ids: dict[str, int],
    progress: Callable[[int], None],
) -> None:
    process = f"{socket.gethostname()}-{os.getpid()}"
    aside = packing.folder / f".train{number:02d}.{process}.tmp"
    packed = _Packed([], [], [])
    try:
        with aside.open("wb") as file:
            for row, outcome in _prepared(packing, rows):
                if isinstance(outcome, PreparedPhotograph):
                    record = _record(packing.source, row, outcome, patient_ids)
                    write_frame(file, encode_example(record))
                    packed.kept.append(_kept(row, record, outcome))
                    packed.signatures.append(outcome.signature)
                else:
                    packed.rejected.append(_rejected(packing, row, outcome))
                progress(1)
            file.flush()
            os.fsync(file.fileno())
        _publish(packing.folder, number, aside, packed)
    finally:
        aside.unlink(missing_ok=True)


class _Packed(NamedTuple):
    """The rows of a slice that went into its shard, their signatures, and the others."""

    kept: list[dict[str, Any]]
    signatures: list[bytes]
    rejected: list[dict[str, Any]]


def _publish(folder: Path, number: int, aside: Path, packed: _Packed) -> None:
    shard = None
    if packed.kept:
        path = folder / f"train{number:02d}-{len(packed.kept)}.tfrec"
        aside.replace(path)
        write_index(path)
        digest = digest_of_file(path)
        shard = asdict(ShardFile(file=path.name, records=len(packed.kept), sha256=digest))
    write_signatures(signatures_path(folder, number), packed.signatures)
    note = {"shard": shard, "kept": packed.kept, "rejected": packed.rejected}
    write_json(note_path(folder, number), note)


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


def _finish(packing: Packing, identity: Mapping[str, Any]) -> Manifest | None:
    """The manifest, written if all slices are there and it is not yet."""
    manifest = _finished(packing, identity)
    if manifest is None:
        if slices_left(packing):
            return None
        try:
            manifest = _write_manifest(packing, identity)
        except FileNotFoundError:
            # Where there are no locks, another may have written it and swept the notes away.
            manifest = _finished(packing, identity)
            if manifest is None:
                raise
    _sweep(packing.folder)
    return manifest


def _write_manifest(packing: Packing, identity: Mapping[str, Any]) -> Manifest:
    slices = len(packing.slices)
    _check_rejected(packing, slices)
    return finish(
        packing.folder,
        packing.source,
        slices=slices,
        identity=identity,
        preparation=packing.preparation,
        image_size=packing.image_size,
    )


def _check_rejected(packing: Packing, slices: int) -> None:
    if packing.on_error == "fail":
        notes = (read_note(packing.folder, number) for number in range(slices))
        rejected = sum(len(note["rejected"]) for note in notes)
        if rejected:
            raise ValueError(_left_out(packing.folder, rejected))


def _sweep(folder: Path) -> None:
    for path in folder.iterdir():
        note = re.fullmatch(r"\.slice\d+\.(json|npy|lock)", path.name)
        if note or path.name == _MARK or _is_aside(path):
            path.unlink(missing_ok=True)


def slices_left(packing: Packing) -> int:
    """How many slices are not done yet."""
    return sum(not _is_done(packing.folder, number) for number in range(len(packing.slices)))


def shard_files(folder: Path) -> list[Path]:
    """The labelled shards of a folder, `train%02d-%d.tfrec`, by number."""
    found = [path for path in folder.iterdir() if re.fullmatch(r"train\d+-\d+\.tfrec", path.name)]
    return sorted(found, key=lambda path: [int(part) for part in path.stem[5:].split("-")])
