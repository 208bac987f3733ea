"""The decoded cache: what it holds, and what a kill, damage or a full disk do to it."""

import errno
import os
import pickle
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from dr.loading.decoded_cache import (
    CHECKSUMS,
    PICTURES,
    CachePlan,
    DecodedCache,
    open_decoded_cache,
)
from dr.loading.decoding import JpegPictures, Pixels, decode_at
from dr.shards.records import CorruptRecord

COUNT, SIZE = 70, 16


def jpeg(record: int) -> bytes:
    coarse = np.random.default_rng(record).integers(0, 256, (4, 4, 3), dtype=np.uint8)
    encoded, data = cv2.imencode(".jpg", cv2.resize(coarse, (32, 32)))
    assert encoded
    return bytes(data)


JPEGS = [jpeg(record) for record in range(COUNT)]


class Decoder:
    """Decodes `JPEGS`, counts what it decoded, and fails at the records in `bad`."""

    def __init__(self, bad: dict[int, BaseException] | None = None) -> None:
        self.bad = bad or {}
        self.decoded: list[int] = []
        self._pictures = JpegPictures(JPEGS.__getitem__)

    def __call__(self, record: int, out: Pixels) -> Pixels:
        if record in self.bad:
            raise self.bad[record]
        self.decoded.append(record)
        return self._pictures(record, out)


def plan(decoder: Callable[[int, Pixels], Pixels], *, skip: bool = False) -> CachePlan:
    return CachePlan(digest="abc", records=COUNT, size=SIZE, picture=decoder, skip=skip)


def opened(cache: Path, decoder: Decoder | None = None, *, skip: bool = False) -> DecodedCache:
    return open_decoded_cache(cache, plan(decoder or Decoder(), skip=skip), threads=2)


def read(cache: DecodedCache, record: int) -> Pixels:
    return np.array(cache(record, np.empty((SIZE, SIZE, 3), np.uint8)))


def assert_holds_all(cache: DecodedCache) -> None:
    for record in range(COUNT):
        assert np.array_equal(read(cache, record), decode_at(JPEGS[record], size=SIZE))


def content(cache: DecodedCache) -> tuple[bytes, bytes]:
    return (cache.folder / PICTURES).read_bytes(), (cache.folder / CHECKSUMS).read_bytes()


def test_it_holds_what_decoding_gives_and_is_built_once(tmp_path: Path) -> None:
    told: list[int] = []
    first = open_decoded_cache(tmp_path, plan(Decoder()), threads=2, done=told.append)
    assert sum(told) == COUNT
    assert_holds_all(first)
    again = Decoder()
    assert_holds_all(opened(tmp_path, again))
    assert not again.decoded


def test_pictures_are_views_that_cannot_be_written_to(tmp_path: Path) -> None:
    picture = opened(tmp_path)(3, np.empty((SIZE, SIZE, 3), np.uint8))
    assert not picture.flags.writeable
    assert not picture.flags.owndata


def test_it_can_be_pickled(tmp_path: Path) -> None:
    cache = open_decoded_cache(tmp_path, plan(JpegPictures(JPEGS.__getitem__)), threads=1)
    assert_holds_all(pickle.loads(pickle.dumps(cache)))


@pytest.mark.parametrize("change", [{"size": 8}, {"digest": "abd"}, {"records": COUNT - 1}])
def test_other_shards_or_sizes_have_a_cache_of_their_own(change: dict[str, object]) -> None:
    own = {"digest": "abc", "records": COUNT, "size": SIZE, "picture": Decoder()}
    assert CachePlan(**own | change).name != CachePlan(**own).name  # type: ignore[arg-type]


@pytest.mark.parametrize("stopped_at", [0, 33, COUNT - 1])
def test_a_killed_building_goes_on_and_ends_with_the_same_bytes(
    tmp_path: Path, stopped_at: int
) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_decoded_cache(
            tmp_path / "a", plan(Decoder({stopped_at: KeyboardInterrupt()})), threads=1
        )
    assert not list((tmp_path / "a" / "decoded").glob("[!.]*"))
    second = Decoder()
    resumed = opened(tmp_path / "a", second)
    assert min(second.decoded) == stopped_at
    assert content(resumed) == content(opened(tmp_path / "b"))


def test_a_picture_lost_with_the_power_is_made_again(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        open_decoded_cache(tmp_path, plan(Decoder({50: KeyboardInterrupt()})), threads=1)
    (building,) = (tmp_path / "decoded").glob(".building-*")
    _flip(building / PICTURES, 5 * SIZE * SIZE * 3 + 7)
    second = Decoder()
    assert_holds_all(opened(tmp_path, second))
    assert sorted(second.decoded)[:2] == [5, 50]


def _flip(path: Path, place: int) -> None:
    with path.open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 1]))


@pytest.mark.parametrize("place", [0, SIZE * SIZE * 3 - 1])
def test_a_damaged_picture_is_named_and_mended(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, place: int
) -> None:
    cache = opened(tmp_path)
    before = content(cache)
    _flip(cache.folder / PICTURES, 9 * SIZE * SIZE * 3 + place)
    decoder = Decoder()
    assert_holds_all(opened(tmp_path, decoder))
    assert decoder.decoded == [9]
    assert f"{cache.folder / PICTURES}: the picture of record 9 is damaged" in caplog.text
    assert content(cache) == before


@pytest.mark.parametrize("damage", ["cut", "checksums", "summary"])
def test_a_cache_damaged_as_a_whole_is_made_anew(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, damage: str
) -> None:
    cache = opened(tmp_path)
    before = content(cache)
    if damage == "cut":
        os.truncate(cache.folder / PICTURES, 40 * SIZE * SIZE * 3 + 5)
    elif damage == "checksums":
        _flip(cache.folder / CHECKSUMS, 128 + 8 * 11)
    else:
        (cache.folder / "cache.json").unlink()
    decoder = Decoder()
    assert content(opened(tmp_path, decoder)) == before
    expected = {"cut": list(range(40, COUNT)), "checksums": [11], "summary": []}
    assert sorted(decoder.decoded) == expected[damage]
    assert str(cache.folder) in caplog.text


def test_two_builders_do_the_work_once(tmp_path: Path) -> None:
    decoder, caches = Decoder(), []
    builders = [
        threading.Thread(target=lambda: caches.append(opened(tmp_path, decoder))) for _ in range(3)
    ]
    for builder in builders:
        builder.start()
    for builder in builders:
        builder.join()
    assert sorted(decoder.decoded) == list(range(COUNT))
    assert len(caches) == 3
    for cache in caches:
        assert_holds_all(cache)


def test_too_full_a_disk_is_refused_beforehand(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    needed = COUNT * SIZE * SIZE * 3
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed - 1))
    decoder = Decoder()
    with pytest.raises(ValueError, match=r"70 pictures of 16 px need 0\.1 MB more .* are free"):
        opened(tmp_path, decoder)
    assert not decoder.decoded
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=needed))
    assert_holds_all(opened(tmp_path))


def test_a_disk_that_fills_up_meanwhile_is_named_and_the_rest_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, written = os.pwrite, 0

    def full(file: int, data: bytes, place: int) -> int:
        nonlocal written
        written += 1
        if written > 40:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return write(file, data, place)

    with monkeypatch.context() as patched:
        patched.setattr(os, "pwrite", full)
        with pytest.raises(ValueError, match=r"cannot be written .*No space left"):
            open_decoded_cache(tmp_path, plan(Decoder()), threads=1)
    second = Decoder()
    assert_holds_all(opened(tmp_path, second))
    assert sorted(second.decoded) == list(range(40, COUNT))


def test_a_record_that_cannot_be_read_ends_the_building(tmp_path: Path) -> None:
    with pytest.raises(CorruptRecord, match="shard 1"):
        opened(tmp_path, Decoder({12: CorruptRecord("shard 1: record 12")}))


def test_with_skip_it_is_left_out_and_still_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cache = opened(tmp_path, Decoder({12: CorruptRecord("shard 1: record 12")}), skip=True)
    with pytest.raises(CorruptRecord, match="shard 1"):
        read(cache, 12)
    assert np.array_equal(read(cache, 13), decode_at(JPEGS[13], size=SIZE))
    assert "damaged" not in caplog.text
