"""Where each record of a shard lies: an index beside it, in `tfrecord2idx`'s format."""

import logging
import os
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dr.files import write_whole
from dr.shards.records import FRAME_OVERHEAD, MAX_RECORD, CorruptRecord, frame_length

_log = logging.getLogger(__name__)
_GZIP = b"\x1f\x8b"


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
    found in the shard itself and the index is written anew if the folder allows it. Raises
    CorruptRecord where the shard is cut off or no TFRecord file.
    """
    index = stored_index(shard)
    if index is None:
        index = scan_frames(shard)
        keep_index(shard, index)
    return index


def stored_index(shard: Path) -> NDArray[np.int64] | None:
    """The index beside a shard, int64 `[records, 2]`; None where there is none that can be."""
    path = index_path(shard)
    if not path.is_file():
        return None
    return parse_index(path.read_bytes(), size=shard.stat().st_size)


def keep_index(shard: Path, frames: NDArray[np.int64]) -> None:
    """Write `frames`, int64 `[records, 2]`, as the shard's index if the folder allows it."""
    try:
        text = "".join(f"{offset} {length}\n" for offset, length in frames.tolist())
        write_whole(index_path(shard), text)
    except OSError as error:
        _log.debug("%s: its index cannot be written (%s)", shard, error)


def parse_index(text: bytes, *, size: int) -> NDArray[np.int64] | None:
    """The index that `text` holds, int64 `[records, 2]`, if it covers `size` bytes of frames.

    None where it does not, or is no index.
    """
    values = _numbers(text)
    if len(values) % 2:
        return None
    index = values.reshape(-1, 2)
    return index if _covers(index, size) else None


def named_starts(shard: Path) -> NDArray[np.int64]:
    """The offsets that the index beside a shard names, in order, whether they are right or not."""
    path = index_path(shard)
    return np.unique(_numbers(path.read_bytes())[::2] if path.is_file() else _numbers(b""))


def _numbers(text: bytes) -> NDArray[np.int64]:
    """Whole numbers parted by blanks and line ends; none where the text holds anything else."""
    other = text.translate(None, b"0123456789 \n")
    return np.fromstring(b"" if other else text, dtype=np.int64, sep=" ")


def _covers(index: NDArray[np.int64], size: int) -> bool:
    if not len(index):
        return size == 0
    starts, lengths = index[:, 0], index[:, 1]
    ends = starts + lengths
    fits = lengths.min() >= FRAME_OVERHEAD and lengths.max() <= MAX_RECORD + FRAME_OVERHEAD
    whole = starts[0] == 0 and ends[-1] == size
    return bool(fits and whole and np.array_equal(ends[:-1], starts[1:]))


def scan_frames(shard: Path) -> NDArray[np.int64]:
    """Offset and length of each frame, read from the frames themselves, int64 `[records, 2]`.

    The data's own CRCs are left to reading. Raises CorruptRecord naming the shard, the record and
    the offset where it is cut off, where a length does not match its CRC, or exceeds
    `MAX_RECORD`.
    """
    size = shard.stat().st_size
    frames: list[tuple[int, int]] = []
    offset = 0
    with shard.open("rb", buffering=0) as file:
        while offset < size:
            header = os.pread(file.fileno(), 12, offset)
            try:
                length = _length_within(header, size - offset)
            except CorruptRecord as error:
                place = f"record {len(frames)}, at byte {offset}"
                raise CorruptRecord(f"{shard}: {place}: {error}") from error
            frames.append((offset, length))
            offset += length
    return np.array(frames, dtype=np.int64).reshape(-1, 2)


def _length_within(header: bytes, left: int) -> int:
    try:
        length = FRAME_OVERHEAD + frame_length(header)
    except CorruptRecord:
        if header.startswith(_GZIP):
            raise CorruptRecord("the file is compressed with gzip; unpack it with gunzip") from None
        raise
    if length > left:
        raise CorruptRecord(f"the frame is cut off: {left} of {length} bytes are there")
    return length
