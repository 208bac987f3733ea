"""Decoded pictures on disk: built once from the shards, then read as memory.

A cache is a folder in `decoded/` of the cache, named by the shards' digest, the size and the
decoder: `pictures.u8`, uint8 `[records, size, size, 3]`; `checksums.npy`, int64 `[records]`, the
CRC-32C of each picture, or -1 where its record could not be read; and `cache.json`, written last.
"""

import errno
import json
import logging
import os
import shutil
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from crc32c import crc32c
from numpy.typing import NDArray

from dr.digests import digest_of, digest_of_file
from dr.files import write_json
from dr.loading.decoding import RECIPE, Pixels
from dr.loading.resources import single_threaded_opencv
from dr.shards.records import CorruptRecord

PICTURES = "pictures.u8"
CHECKSUMS = "checksums.npy"
SUMMARY = "cache.json"
_BLOCK = 32
_UNREADABLE = -1
_NOT_DONE = -2
_log = logging.getLogger(__name__)

Picture = Callable[[int, Pixels], Pixels]


@dataclass(frozen=True, kw_only=True)
class CachePlan:
    """What is cached: `records` pictures of `size` px, and the digest of the shards they are of.

    `picture` decodes a record's picture to the array it is given, by the transform `dct`, and
    raises CorruptRecord where it cannot; with `skip` such records are left out, else the first ends
    the building.
    """

    digest: str
    records: int
    size: int
    picture: Picture
    dct: str = "exact"
    skip: bool = False

    @property
    def name(self) -> str:
        """The name of the cache's folder."""
        import cv2
        import simplejpeg

        decoder = [RECIPE, self.dct, simplejpeg.__version__, cv2.__version__]
        key = digest_of([self.digest, self.records, self.size, decoder])
        return f"{self.size}px-{key[:16]}"

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """The shape of all pictures."""
        return self.records, self.size, self.size, 3

    @property
    def picture_bytes(self) -> int:
        """Bytes of one picture."""
        return self.size * self.size * 3


class DecodedCache:
    """The pictures of a finished cache. Safe to use from many threads; can be pickled.

    Each picture is checked when it is first read. A damaged one is named in the log, decoded anew
    and written back where the folder can be written.
    """

    def __init__(self, folder: Path, plan: CachePlan) -> None:
        """Raises ValueError naming what is missing or damaged as a whole."""
        self.folder, self._plan = folder, plan
        self._checksums = _finished_checksums(folder, plan)
        mapped = np.memmap(folder / PICTURES, np.uint8, "r", shape=plan.shape)
        self._pictures: Pixels = np.asarray(mapped)
        self._good = np.zeros(plan.records, bool)

    def __call__(self, record: int, out: Pixels) -> Pixels:
        """A record's picture: a read-only view of the cache, or `out` where it is made anew.

        `out`: uint8 `[size, size, 3]`. Raises CorruptRecord where the record cannot be read.
        """
        picture: Pixels = self._pictures[record]
        if self._good[record]:
            return picture
        if checksum_of(picture) == self._checksums[record]:
            self._good[record] = True
            return picture
        return self._mended(record, out)

    def _mended(self, record: int, out: Pixels) -> Pixels:
        made = self._plan.picture(record, out)
        if self._checksums[record] != _UNREADABLE:
            path = self.folder / PICTURES
            _log.warning("%s: the picture of record %d is damaged; made anew", path, record)
            self._write_back(record, made)
        return made

    def _write_back(self, record: int, picture: Pixels) -> None:
        if checksum_of(picture) != self._checksums[record]:
            return
        with suppress(OSError), (self.folder / PICTURES).open("r+b") as file:
            os.pwrite(file.fileno(), picture.data, record * self._plan.picture_bytes)

    def __reduce__(self) -> tuple[Any, ...]:
        return DecodedCache, (self.folder, self._plan)


def _finished_checksums(folder: Path, plan: CachePlan) -> NDArray[np.int64]:
    try:
        summary = json.loads((folder / SUMMARY).read_text())
        digest = digest_of_file(folder / CHECKSUMS)
        found = (folder / PICTURES).stat().st_size
    except (OSError, ValueError) as error:
        raise ValueError(f"{folder}: is no finished cache ({error})") from error
    if digest != summary.get("checksums_sha256"):
        raise ValueError(f"{folder / CHECKSUMS}: is damaged")
    if found != plan.records * plan.picture_bytes:
        expected = plan.records * plan.picture_bytes
        raise ValueError(f"{folder / PICTURES}: has {found} bytes, where {expected} are expected")
    checksums: NDArray[np.int64] = np.load(folder / CHECKSUMS)
    return checksums


def open_decoded_cache(
    cache: Path,
    plan: CachePlan,
    *,
    threads: int,
    done: Callable[[int], None] = lambda count: None,
) -> DecodedCache:
    """The cache of `plan` below `cache`, built first where it is not there, or damaged as a whole.

    Building goes on where an earlier one was killed; a second process waits for the first. `done`
    is told how many pictures were added. Raises ValueError naming the sizes where the disk is too
    full, and CorruptRecord for a record that cannot be read, unless `plan.skip`.
    """
    from filelock import FileLock

    folder = cache / "decoded" / plan.name
    with suppress(ValueError):
        return DecodedCache(folder, plan)
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.with_name(f".{folder.name}.lock")):
        if folder.exists():
            try:
                return DecodedCache(folder, plan)
            except ValueError as error:
                _log.warning("%s; what is damaged is made anew", error)
                folder.rename(_aside(folder))
        _build(folder, plan, threads=threads, done=done)
    return DecodedCache(folder, plan)


def _aside(folder: Path) -> Path:
    return folder.with_name(f".building-{folder.name}")


def _build(folder: Path, plan: CachePlan, *, threads: int, done: Callable[[int], None]) -> None:
    aside = _aside(folder)
    aside.mkdir(exist_ok=True)
    _check_room(aside / PICTURES, plan)
    with _checksums(aside / CHECKSUMS, plan) as checksums, _opened(aside / PICTURES) as file:
        left = _left(checksums, file, plan)
        _say_start(folder, plan, left)
        done(plan.records - len(left))
        _add_pictures(_Builder(plan, file, checksums), left, threads=threads, done=done)
        os.fsync(file)
    digest = digest_of_file(aside / CHECKSUMS)
    write_json(aside / SUMMARY, {"shape": plan.shape, "checksums_sha256": digest})
    aside.rename(folder)


def _check_room(path: Path, plan: CachePlan) -> None:
    there = path.stat().st_blocks * 512 if path.exists() else 0
    needed = plan.records * plan.picture_bytes - there
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise ValueError(
            f"loader.cache=decoded: {plan.records} pictures of {plan.size} px need "
            f"{_spell(needed)} more in {path.parent.parent}, and {_spell(free)} are free; name "
            "another cache=DIR, lower image_size, or set loader.cache=none"
        )


def _spell(count: int) -> str:
    return f"{count / 1e9:.1f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"


def _say_start(folder: Path, plan: CachePlan, left: NDArray[np.int64]) -> None:
    size = _spell(len(left) * plan.picture_bytes)
    _log.info("%s: decoding %d of %d pictures, %s", folder, len(left), plan.records, size)


@contextmanager
def _checksums(path: Path, plan: CachePlan) -> Iterator[NDArray[np.int64]]:
    """The checksums of the pictures that are there; kept on disk as they come."""
    try:
        checksums = np.load(path, mmap_mode="r+")
        fits = checksums.shape == (plan.records,) and checksums.dtype == np.int64
    except (OSError, ValueError, EOFError):
        fits = False
    if not fits:
        np.save(path, np.full(plan.records, _NOT_DONE, np.int64))
        checksums = np.load(path, mmap_mode="r+")
    yield checksums
    checksums.flush()


@contextmanager
def _opened(path: Path) -> Iterator[int]:
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def _left(checksums: NDArray[np.int64], file: int, plan: CachePlan) -> NDArray[np.int64]:
    """Records that are still to be decoded; those marked as done are checked first."""
    length = plan.picture_bytes
    for record in np.flatnonzero(checksums != _NOT_DONE).tolist():
        if crc32c(os.pread(file, length, record * length)) != checksums[record]:
            checksums[record] = _NOT_DONE
    return np.flatnonzero(checksums == _NOT_DONE)


def _add_pictures(
    builder: "_Builder",
    records: NDArray[np.int64],
    *,
    threads: int,
    done: Callable[[int], None],
) -> None:
    blocks = [records[start : start + _BLOCK] for start in range(0, len(records), _BLOCK)]
    with single_threaded_opencv():
        pool = ThreadPoolExecutor(threads, thread_name_prefix="cache")
        try:
            for count in pool.map(builder, blocks):
                done(count)
        finally:
            pool.shutdown(cancel_futures=True)


class _Builder:
    """Decodes records to their places in the file, and then notes their checksums."""

    def __init__(self, plan: CachePlan, file: int, checksums: NDArray[np.int64]) -> None:
        self._plan, self._file, self._checksums = plan, file, checksums

    def __call__(self, records: NDArray[np.int64]) -> int:
        """Add the pictures of `records`; how many they are."""
        out = np.empty(self._plan.shape[1:], np.uint8)
        for record in records.tolist():
            self._checksums[record] = self._added(record, out)
        return len(records)

    def _added(self, record: int, out: Pixels) -> int:
        try:
            picture = self._plan.picture(record, out)
        except CorruptRecord:
            if not self._plan.skip:
                raise
            self._write(record, np.zeros_like(out))
            return _UNREADABLE
        self._write(record, picture)
        return checksum_of(picture)

    def _write(self, record: int, picture: Pixels) -> None:
        try:
            if os.pwrite(self._file, picture.data, record * picture.nbytes) == picture.nbytes:
                return
            reason = os.strerror(errno.ENOSPC)
        except OSError as error:
            reason = error.strerror or str(error)
        raise ValueError(
            f"loader.cache=decoded: record {record} cannot be written to the cache ({reason}); "
            "what is there is kept: make room and start again, or set loader.cache=none"
        )


def checksum_of(picture: Pixels) -> int:
    """The CRC-32C of a picture's bytes."""
    return crc32c(picture.data)
