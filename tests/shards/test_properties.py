"""What holds for every byte, every length and every index: nothing is read as what it is not."""

import io
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import google_crc32c
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr.shards.index import index_path, parse_index, read_index, scan_frames
from dr.shards.opening import open_shards
from dr.shards.records import CorruptRecord, Record, encode_example, open_frame, write_frame
from dr.shards.shard_set import ShardSet

SECOND = "train01-25.tfrec"
FIRST_OF_SECOND = 25
READS: list[Callable[[ShardSet, int], bytes]] = [
    lambda shards, number: shards.read(number).image,
    lambda shards, number: bytes(shards.read_image(number)),
]
LENGTHS = st.lists(st.integers(0, 5000) | st.sampled_from([0, 1, 2, 15, 16, 17]), max_size=12)


@pytest.fixture(scope="module")
def records(packed: Path) -> list[Record]:
    shards = open_shards(packed)
    return [shards.read(number) for number in range(60)]


@pytest.fixture(scope="module")
def damaged(packed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of `packed` that each example damages and puts right again."""
    return Path(shutil.copytree(packed, tmp_path_factory.mktemp("damaged") / "copy"))


def restore(damaged: Path, packed: Path) -> None:
    for name in (SECOND, index_path(Path(SECOND)).name):
        shutil.copy(packed / name, damaged / name)


def check_all(shards: ShardSet, records: list[Record], read: int) -> list[int]:
    """Every record is itself or refused with its place; the numbers of those refused."""
    refused = []
    for number, record in enumerate(records):
        try:
            assert READS[read](shards, number) == record.image
        except CorruptRecord as error:
            refused.append(number)
            shard = shards.files[int(shards.shard[number])]
            assert str(error).startswith(f"{shard}: record {number % 25}")
            assert f", at byte {int(shards.offset[number])}: " in str(error)
    shards.close()
    return refused


@given(data=st.data(), read=st.sampled_from([0, 1]), indexed=st.booleans())
@settings(max_examples=150)
def test_any_byte_changed_in_a_shard_spoils_its_record_and_no_other(
    damaged: Path,
    packed: Path,
    records: list[Record],
    data: st.DataObject,
    read: int,
    indexed: bool,
) -> None:
    restore(damaged, packed)
    content = bytearray((packed / SECOND).read_bytes())
    place = data.draw(st.integers(0, len(content) - 1), label="place")
    content[place] ^= data.draw(st.integers(1, 255), label="change")
    (damaged / SECOND).write_bytes(content)
    starts = scan_frames(packed / SECOND)[:, 0]
    spoilt = int(np.searchsorted(starts, place, side="right")) - 1
    if not indexed:
        index_path(damaged / SECOND).unlink()
        if place - starts[spoilt] < 12:
            with pytest.raises(CorruptRecord, match=f"record {spoilt}, at byte {starts[spoilt]}"):
                open_shards(damaged)
            return
    assert check_all(open_shards(damaged), records, read) == [FIRST_OF_SECOND + spoilt]


@given(data=st.data())
@settings(max_examples=60)
def test_any_truncation_is_refused_at_opening(
    damaged: Path, packed: Path, data: st.DataObject
) -> None:
    restore(damaged, packed)
    ends = scan_frames(packed / SECOND).sum(axis=1).tolist()
    size = data.draw(st.integers(0, ends[-1] - 1) | st.sampled_from([0, *ends[:-1]]), label="size")
    os.truncate(damaged / SECOND, size)
    with pytest.raises(ValueError, match=rf"{SECOND}: .*(cut off|holds \d+ records, and 25 are)"):
        open_shards(damaged)


@given(data=st.data(), read=st.sampled_from([0, 1]))
@settings(max_examples=60)
def test_any_truncation_after_opening_is_refused_in_reading(
    damaged: Path, packed: Path, records: list[Record], data: st.DataObject, read: int
) -> None:
    restore(damaged, packed)
    shards = open_shards(damaged)
    ends = scan_frames(packed / SECOND).sum(axis=1)
    size = data.draw(st.integers(0, int(ends[-1]) - 1), label="size")
    os.truncate(damaged / SECOND, size)
    lost = range(FIRST_OF_SECOND + int((ends <= size).sum()), FIRST_OF_SECOND + 25)
    assert check_all(shards, records, read) == list(lost)


def lines(frames: np.ndarray) -> bytes:
    return "".join(f"{start} {length}\n" for start, length in frames.tolist()).encode()


@st.composite
def coverings(draw: st.DrawFn, size: int) -> bytes:
    """An index of 25 frames that covers `size` bytes without a gap, rightly or not."""
    inner = draw(st.lists(st.integers(1, size - 1), min_size=24, max_size=24, unique=True))
    bounds = np.array([0, *sorted(inner), size])
    return lines(np.stack([bounds[:-1], np.diff(bounds)], axis=1))


@given(data=st.data(), read=st.sampled_from([0, 1]))
@settings(max_examples=150)
def test_any_index_at_all_yields_the_right_records(
    damaged: Path, packed: Path, records: list[Record], data: st.DataObject, read: int
) -> None:
    restore(damaged, packed)
    right = read_index(packed / SECOND)
    size = int(right[-1].sum())
    bounds = st.sets(st.integers(0, 24), min_size=2).map(sorted)
    text = data.draw(
        st.binary(max_size=300)
        | st.text("0123456789 \n", max_size=300).map(str.encode)
        | coverings(size)
        | bounds.map(lambda rows: merged_and_split(right, rows[0], rows[-1])),
        label="index",
    )
    index_path(damaged / SECOND).write_bytes(text)
    shards = open_shards(damaged)
    order = data.draw(st.permutations(range(60)), label="order")
    found = {number: READS[read](shards, number) for number in order}
    shards.close()
    assert all(found[number] == record.image for number, record in enumerate(records))


@given(rows=st.sets(st.integers(0, 24), min_size=2).map(sorted))
@settings(max_examples=30)
def test_any_misnumbering_index_of_the_seeds_shards_is_found_out(
    tmp_path_factory: pytest.TempPathFactory, records: list[Record], rows: list[int]
) -> None:
    """Their records hold no names, so opening reads them in order."""
    folder = tmp_path_factory.mktemp("seed")
    bare = [Record(records[n].image, n // 2, n % 2, n % 5) for n in range(25)]
    with (folder / "train00-25.tfrec").open("wb") as file:
        for record in bare:
            write_frame(file, encode_example(record))
    right = read_index(folder / "train00-25.tfrec")
    (folder / "train00-25.tfindex").write_bytes(merged_and_split(right, rows[0], rows[-1]))
    shards = open_shards(folder)
    assert shards.table["label"].tolist() == [n % 5 for n in range(25)]
    assert [shards.read(number) for number in range(25)] == bare
    shards.close()


def merged_and_split(index: np.ndarray, split: int, merge: int) -> bytes:
    """Frame `split` in two and `merge` joined to the one before: those between are misnumbered."""
    start, length = index[split].tolist()
    parts = [[start, length // 2], [start + length // 2, length - length // 2]]
    frames = [*index[:split].tolist(), *parts, *index[split + 1 :].tolist()]
    joined = [*frames[:merge], [frames[merge][0], frames[merge][1] + frames[merge + 1][1]]]
    return lines(np.array([*joined, *frames[merge + 2 :]]))


@given(st.binary(max_size=200) | st.text("0123456789 \n", max_size=100).map(str.encode))
def test_any_bytes_are_an_index_that_covers_the_size_or_none(text: bytes) -> None:
    index = parse_index(text, size=100)
    if index is not None:
        assert (index[0, 0], index[-1].sum()) == (0, 100)
        assert np.array_equal(index[1:, 0], index[:-1].sum(axis=1))
        assert index[:, 1].min() >= 16


@given(lengths=LENGTHS, seed=st.integers(0, 2**32 - 1))
def test_any_lengths_come_back_for_us_and_for_others(
    tmp_path_factory: pytest.TempPathFactory, lengths: list[int], seed: int
) -> None:
    from tfrecord.reader import tfrecord_iterator
    from tfrecord.tools.tfrecord2idx import create_index

    examples = [np.random.default_rng([seed, n]).bytes(n) for n in lengths]
    shard = tmp_path_factory.mktemp("lengths") / f"train00-{len(lengths)}.tfrec"
    with shard.open("wb") as file:
        for example in examples:
            write_frame(file, example)
    index = read_index(shard)
    create_index(str(shard), str(shard.with_suffix(".theirs")))
    assert index_path(shard).read_bytes() == shard.with_suffix(".theirs").read_bytes()
    content = shard.read_bytes()
    frames = [content[start : start + length] for start, length in index.tolist()]
    assert [bytes(open_frame(frame)) for frame in frames] == examples
    assert [bytes(view) for view in tfrecord_iterator(str(shard))] == examples
    for frame, example in zip(frames, examples, strict=True):
        assert frame[8:12] == google_masked(frame[:8])
        assert frame[12:-4] == example
        assert frame[-4:] == google_masked(example)


def google_masked(data: bytes) -> bytes:
    crc = google_crc32c.value(data)
    masked = (((crc >> 15) | (crc << 17)) + 0xA282EAD8) % 2**32
    return masked.to_bytes(4, "little")


@given(st.lists(st.binary(max_size=60), max_size=5), st.binary(max_size=40))
def test_any_bytes_are_frames_or_refused(
    tmp_path_factory: pytest.TempPathFactory, examples: list[bytes], tail: bytes
) -> None:
    file = io.BytesIO()
    for example in examples:
        write_frame(file, example)
    shard = tmp_path_factory.mktemp("tails") / "train00-1.tfrec"
    shard.write_bytes(file.getvalue() + tail)
    if not tail:
        assert len(scan_frames(shard)) == len(examples)
        return
    place = f"{shard}: record {len(examples)}, at byte {len(file.getvalue())}: "
    with pytest.raises(CorruptRecord) as error:
        scan_frames(shard)
    assert str(error.value).startswith(place)
