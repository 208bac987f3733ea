"""The index beside a shard, against `tfrecord2idx` and the frames themselves."""

import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dr.shards.index import index_path, parse_index, read_index, scan_frames, write_index
from dr.shards.records import MAX_RECORD, CorruptRecord, masked_crc, write_frame

EXAMPLES = (b"", b"one", b"another" * 9, b"x" * 1000)


def header(length: int) -> bytes:
    """How a frame of a record of `length` bytes begins."""
    packed = struct.pack("<Q", length)
    return packed + struct.pack("<I", masked_crc(packed))


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "train03-4.tfrec"
    with path.open("wb") as file:
        for example in EXAMPLES:
            write_frame(file, example)
    return path


def expected() -> np.ndarray:
    lengths = np.array([len(example) + 16 for example in EXAMPLES])
    return np.stack([np.cumsum(lengths) - lengths, lengths], axis=1)


def test_the_index_is_tfrecord2idx_s(shard: Path, tmp_path: Path) -> None:
    from tfrecord.tools.tfrecord2idx import create_index

    create_index(str(shard), str(tmp_path / "theirs"))
    assert write_index(shard) == index_path(shard) == tmp_path / "train03-4.tfindex"
    assert index_path(shard).read_bytes() == (tmp_path / "theirs").read_bytes()


def test_writing_leaves_nothing_else_behind(shard: Path) -> None:
    write_index(shard)
    assert sorted(path.name for path in shard.parent.iterdir()) == [
        "train03-4.tfindex",
        "train03-4.tfrec",
    ]


def test_index_and_frames_tell_the_same(shard: Path) -> None:
    write_index(shard)
    assert np.array_equal(read_index(shard), expected())
    assert np.array_equal(scan_frames(shard), expected())
    assert read_index(shard).dtype == scan_frames(shard).dtype == np.int64


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0 16\n",
        "0 16\n16 19\n",
        "0 16\n16 19\n36 78\n114 1016\n",
        "16 19\n35 79\n114 1016\n",
        "0 16\n16 19\n35 79\n114 1017\n",
        "0 16 16\n",
        "no index",
        "0 99999999999999999999999",
        "\x00\x01",
    ],
)
def test_a_missing_or_stale_index_is_made_up_for(shard: Path, text: str | None) -> None:
    if text is not None:
        index_path(shard).write_text(text)
    assert np.array_equal(read_index(shard), expected())
    lines = [f"{start} {length}\n" for start, length in expected()]
    assert index_path(shard).read_text() == "".join(lines)


def test_a_folder_that_cannot_be_written_to_is_read_all_the_same(
    shard: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(path: Path, content: str) -> None:
        raise PermissionError(path)

    monkeypatch.setattr("dr.shards.index.write_whole", refuse)
    assert np.array_equal(read_index(shard), expected())
    assert not index_path(shard).exists()


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"\x1f\x8b\x08\x00" + bytes(60), "compressed with gzip; unpack it with gunzip"),
        (b"name,label\n10_left,0\n", "the CRC of its length does not match"),
        (b"\x00", "cut off after 1 bytes"),
        (header(MAX_RECORD + 1), "it says 67108865 bytes, over the limit of 64 MiB"),
        (header(2**63), "it says 9223372036854775808 bytes, over the limit"),
        (header(MAX_RECORD), "cut off: 12 of 67108880 bytes are there"),
    ],
)
def test_a_file_that_is_no_shard_says_why(tmp_path: Path, content: bytes, reason: str) -> None:
    shard = tmp_path / "train00-1.tfrec"
    shard.write_bytes(content)
    index_path(shard).write_text("no index")
    with pytest.raises(CorruptRecord, match=f"{shard}: record 0, at byte 0: .*{reason}"):
        read_index(shard)
    assert index_path(shard).read_text() == "no index"


def test_an_index_of_frames_that_cannot_be_is_not_believed() -> None:
    assert parse_index(b"0 16\n16 20\n", size=36) is not None
    assert parse_index(b"0 15\n15 21\n", size=36) is None
    size = MAX_RECORD + 17
    assert parse_index(f"0 {size}\n".encode(), size=size) is None
    assert parse_index(b"0 9223372036854775807\n", size=16) is None


def test_an_index_of_other_bytes_than_text_is_made_up_for(shard: Path) -> None:
    index_path(shard).write_bytes(bytes(range(128, 256)))
    assert np.array_equal(read_index(shard), expected())


@given(st.data())
def test_a_cut_shard_is_refused_unless_cut_between_frames(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    shard = tmp_path_factory.mktemp("cut") / "train00-4.tfrec"
    with shard.open("wb") as file:
        for example in EXAMPLES:
            write_frame(file, example)
    ends = expected().sum(axis=1).tolist()
    size = data.draw(st.integers(0, ends[-1]) | st.sampled_from([0, *ends]))
    write_index(shard)
    with shard.open("r+b") as file:
        file.truncate(size)
    whole = sum(end <= size for end in ends)
    if size in (0, *ends):
        assert np.array_equal(read_index(shard), expected()[:whole])
        return
    with pytest.raises(CorruptRecord, match="cut off") as error:
        read_index(shard)
    place = f"record {whole}, at byte {ends[whole - 1] if whole else 0}"
    assert str(error.value).startswith(f"{shard}: {place}: ")


def test_an_empty_shard_has_an_empty_index(tmp_path: Path) -> None:
    shard = tmp_path / "train00-0.tfrec"
    shard.touch()
    write_index(shard)
    assert read_index(shard).shape == (0, 2)
