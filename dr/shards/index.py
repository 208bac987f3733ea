"""Where each record of a shard lies: an index beside it, in `tfrecord2idx`'s format."""

import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


def index_path(shard: Path) -> Path:
    """The index that belongs to a shard: the same name, ending in `.tfindex`."""
    return shard.with_suffix(".tfindex")


def write_index(shard: Path) -> Path:
    """Write a shard's index with the `tfrecord` package's tool, whole or not at all."""
    from tfrecord.tools.tfrecord2idx import create_index

    path = index_path(shard)
    aside = path.with_name(f".{path.name}.tmp")
    try:
        create_index(str(shard), str(aside))
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    return path


def read_index(shard: Path) -> NDArray[np.int64]:
    """Offset and length in bytes of each frame of a shard, int64 `[records, 2]`.

    Where the index is missing, is none, or does not cover the shard to its end, the frames are
    found in the shard itself. Raises ValueError where the shard is cut off.
    """
    path = index_path(shard)
    if path.is_file():
        index = _parse(path.read_bytes())
        if index is not None and _covers(index, shard.stat().st_size):
            return index
    return scan_frames(shard)


def _parse(text: bytes) -> NDArray[np.int64] | None:
    try:
        return np.array(text.split(), dtype=np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        return None


def _covers(index: NDArray[np.int64], size: int) -> bool:
    starts, lengths = index[:, 0], index[:, 1]
    ends = starts + lengths
    whole = bool(len(index)) and starts[0] == 0 and ends[-1] == size
    return bool(whole and np.array_equal(ends[:-1], starts[1:]))


def scan_frames(shard: Path) -> NDArray[np.int64]:
    """Offset and length of each frame, read from the frames themselves, int64 `[records, 2]`.

    Raises ValueError naming the shard and the offset where it is cut off.
    """
    size = shard.stat().st_size
    frames: list[tuple[int, int]] = []
    offset = 0
    with shard.open("rb") as file:
        while offset < size:
            file.seek(offset)
            header = file.read(8)
            length = struct.unpack("<Q", header)[0] + 16 if len(header) == 8 else size + 1
            if offset + length > size:
                raise ValueError(f"{shard}: cut off in record {len(frames)}, at byte {offset}")
            frames.append((offset, length))
            offset += length
    return np.array(frames, dtype=np.int64).reshape(-1, 2)
