"""Random access to the records of shards, by number."""

import errno
import logging
import os
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dr.shards.index import keep_index, scan_frames
from dr.shards.manifest import Manifest
from dr.shards.quick import MappedFile, image_and_name
from dr.shards.records import CorruptRecord, Record, decode_example, open_frame

if TYPE_CHECKING:
    import pandas as pd

_log = logging.getLogger(__name__)
_TRIES = 100


class _Place(NamedTuple):
    """Where a record lies: the number of its shard, and its frame's offset and length there."""

    shard: int
    offset: int
    length: int


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Labelled shards and where each record lies in them.

    `table` has a row a record: name, patient, side, label, then further columns of the label
    table. `shard`, `offset` and `length` are int64 `[records]`. `image_size` is the side of the
    prepared pictures in pixels. `digest` names the content. Of shards behind a
    `url` (without credentials), `folder` is what stands for it here, and `fetch` says where the
    shard of a number lies, brought here if need be; it may be gone again soon after.
    """

    folder: Path
    files: tuple[Path, ...]
    shard: NDArray[np.int64]
    offset: NDArray[np.int64]
    length: NDArray[np.int64]
    table: "pd.DataFrame"
    image_size: int
    digest: str
    manifest: Manifest | None
    url: str | None = None
    fetch: Callable[[int], Path] | None = None
    _open: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)
    _scanned: set[int] = field(init=False, default_factory=set, repr=False)
    _maps: dict[int, MappedFile] = field(init=False, default_factory=dict, repr=False)

    @property
    def place(self) -> str:
        """The folder or URL that the shards were opened from, as text."""
        return str(self.folder) if self.url is None else self.url

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, record: int) -> Record:
        """One record, by its number, its CRCs checked. Safe to call from many threads.

        Where it does not fit the index, its shard is searched for frames once, and the index is
        mended if that was at fault. Raises CorruptRecord naming shard, record and offset; OSError
        naming the shard where the system cannot read.
        """
        place = self._place(record)
        try:
            return self._read(record, place)
        except CorruptRecord:
            self._mend(place.shard)
            if self._place(record) == place:
                raise
        return self._read(record, self._place(record))

    def read_image(self, record: int) -> bytes | memoryview:
        """A record's JPEG, checked as `read` does, and not copied where that can be avoided.

        Raises as `read` does.
        """
        place = self._place(record)
        fetched = None if self.fetch is None else self._frame_of(record, place)
        try:
            frame = self._mapped(place) if fetched is None else fetched
            found = image_and_name(open_frame(frame))
            if found is not None:
                self._check_name(record, found[1])
                return found[0]
        except (ValueError, OSError):
            pass  # `read` mends what can be mended, and says what cannot.
        return self.read(record).image

    def _mapped(self, place: _Place) -> memoryview:
        if place.shard not in self._maps:
            self._maps[place.shard] = MappedFile(self._descriptor(place.shard))
        return self._maps[place.shard].part(place.offset, place.length)

    def _place(self, record: int) -> _Place:
        return _Place(int(self.shard[record]), int(self.offset[record]), int(self.length[record]))

    def _read(self, record: int, place: _Place) -> Record:
        frame = self._frame_of(record, place)
        try:
            found = decode_example(open_frame(frame))
            self._check_name(record, found.name)
        except CorruptRecord as error:
            raise CorruptRecord(f"{self.spell(record)}: {error}") from error
        return found

    def _frame_of(self, record: int, place: _Place) -> bytes:
        try:
            return self._frame(place)
        except ConnectionError:
            raise
        except OSError as error:
            raise OSError(error.errno, error.strerror, self.spell(record)) from error

    def _frame(self, place: _Place) -> bytes:
        if self.fetch is None:
            return os.pread(self._descriptor(place.shard), place.length, place.offset)
        # A shard that the cache drops must not live on in a descriptor or map, so none is kept.
        for _ in range(_TRIES):
            with suppress(FileNotFoundError):
                descriptor = os.open(self.path(place.shard), os.O_RDONLY)
                try:
                    return os.pread(descriptor, place.length, place.offset)
                finally:
                    os.close(descriptor)
        raise FileNotFoundError(errno.ENOENT, "the cache of remote shards drops it at once")

    def _check_name(self, record: int, name: str) -> None:
        if not name or self._names is None:
            return
        expected = self._names[record]
        # Sets joined from several put the source before a name that two of them have.
        if name != expected and not expected.endswith(f"/{name}"):
            raise CorruptRecord(f"it is {name}, where {expected} is expected")

    @cached_property
    def _names(self) -> NDArray[np.object_] | None:
        return self.table["name"].to_numpy(dtype=object) if "name" in self.table else None

    def spell(self, record: int) -> str:
        """Where a record lies, in words: its shard, its number in it, and the byte offset."""
        place = self._place(record)
        within = record - int(np.searchsorted(self.shard, place.shard))
        several = "" if within == record else f" ({record} of all)"
        return f"{self.files[place.shard]}: record {within}{several}, at byte {place.offset}"

    def _mend(self, shard: int) -> None:
        """Take the places of a shard's records from its frames, if they tell as many records."""
        path = self.path(shard)
        start, end = np.searchsorted(self.shard, [shard, shard + 1])
        with self._lock:
            if shard in self._scanned:
                return
            self._scanned.add(shard)
            try:
                frames = scan_frames(path)
            except (CorruptRecord, OSError):
                return
            found = np.stack([self.offset[start:end], self.length[start:end]], axis=1)
            if len(frames) != len(found) or np.array_equal(frames, found):
                return
            _log.warning("%s: its index did not fit its records and is made anew", path)
            self.offset[start:end], self.length[start:end] = frames.T
            keep_index(path, frames)

    def path(self, shard: int) -> Path:
        """Where the shard of a number lies; one behind a URL is fetched if it is not here."""
        return self.files[shard] if self.fetch is None else self.fetch(shard)

    def _descriptor(self, shard: int) -> int:
        key = (os.getpid(), shard)
        with self._lock:
            if key not in self._open:
                self._open[key] = os.open(self.path(shard), os.O_RDONLY)
            return self._open[key]

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            for (process, _), descriptor in self._open.items():
                if process == os.getpid():
                    os.close(descriptor)
            self._open.clear()
            self._maps.clear()

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "_names"}
        return {**kept, "_open": {}, "_lock": None, "_scanned": set(), "_maps": {}}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_lock": threading.Lock()})
