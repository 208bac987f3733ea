"""Random access to the records of shards, by number."""

import os
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dr.shards.manifest import Manifest
from dr.shards.records import CorruptRecord, Record, decode_example, open_frame

if TYPE_CHECKING:
    import pandas as pd


@dataclass(frozen=True, kw_only=True)
class ShardSet:
    """Labelled shards and where each record lies in them.

    `table` has a row a record: name, patient, side, label, then further columns of the label
    table. `shard`, `offset` and `length` are int64 `[records]`. `image_size` is the side of the
    prepared pictures in pixels. `digest` names the content. `fetch`, where it is
    given, brings the shard of a number here before its first record is read, and says where it
    lies then.
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
    fetch: Callable[[int], Path] | None = None
    _open: dict[tuple[int, int], int] = field(default_factory=dict, repr=False)
    _lock: Any = field(default_factory=threading.Lock, repr=False)

    def __len__(self) -> int:
        return len(self.shard)

    def read(self, record: int) -> Record:
        """One record, by its number, its CRCs checked. Safe to call from many threads.

        Raises CorruptRecord naming shard, record and offset.
        """
        shard, offset = int(self.shard[record]), int(self.offset[record])
        frame = os.pread(self._descriptor(shard), int(self.length[record]), offset)
        try:
            return decode_example(open_frame(frame))
        except CorruptRecord as error:
            path = self.files[shard]
            raise CorruptRecord(f"{path}: record {record}, at byte {offset}: {error}") from error

    def _descriptor(self, shard: int) -> int:
        key = (os.getpid(), shard)
        with self._lock:
            if key not in self._open:
                path = self.files[shard] if self.fetch is None else self.fetch(shard)
                self._open[key] = os.open(path, os.O_RDONLY)
            return self._open[key]

    def close(self) -> None:
        """Close the files; reading opens them again."""
        with self._lock:
            for (process, _), descriptor in self._open.items():
                if process == os.getpid():
                    os.close(descriptor)
            self._open.clear()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_lock": None}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update({**state, "_lock": threading.Lock()})
