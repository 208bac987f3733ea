"""Shards behind a URL: what arrives, what goes wrong on the way, and what is said then."""

import hashlib
import json
import logging
import os
import pickle
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import cv2
import fsspec
import numpy as np
import pandas as pd
import pytest
import yaml
from fsspec.implementations.memory import MemoryFileSystem

from dr.checks import check_inspect, check_prepare, check_train
from dr.compose import compose, hydra_arguments
from dr.config import InspectConfig, PrepareConfig, Problem, TrainConfig
from dr.shards import remote_store
from dr.shards.index import index_path, write_index
from dr.shards.joining import open_entries, open_entry
from dr.shards.opening import open_shards
from dr.shards.records import Record, encode_example, write_frame
from dr.shards.remote import RemoteShards, find_remote_shards
from dr.shards.remote_cache import RemoteCache
from dr.shards.remote_store import RemoteStore
from dr.shards.shard_set import ShardSet

A_SHARD = "train01-25.tfrec"
Spoil = Callable[[str, bytes], bytes]


class Wire:
    """What lies between `memory://` and its reader: counts what is asked, and may spoil it."""

    def __init__(self) -> None:
        self.asked: Counter[str] = Counter()
        self.spoil: Spoil = lambda name, data: data

    def drop(self, name: str, times: int, error: Exception | None = None) -> None:
        """Break the next `times` answers about a file."""
        left = [error or ConnectionResetError("reset by peer")] * times

        def spoil(asked: str, data: bytes) -> bytes:
            if asked == name and left:
                raise left.pop()
            return data

        self.spoil = spoil

    def change(self, name: str, times: int, by: Callable[[bytes], bytes]) -> None:
        """Change the next `times` answers about a file."""
        left = [by] * times
        self.spoil = lambda asked, data: left.pop()(data) if asked == name and left else data


@pytest.fixture
def wire(monkeypatch: pytest.MonkeyPatch) -> Wire:
    wire, ask = Wire(), MemoryFileSystem.cat_file

    def cat_file(self: Any, path: str, start: Any = None, end: Any = None, **rest: Any) -> bytes:
        name = str(path).rpartition("/")[2]
        wire.asked[name] += 1
        return wire.spoil(name, ask(self, path, start=start, end=end, **rest))

    monkeypatch.setattr(MemoryFileSystem, "cat_file", cat_file)
    monkeypatch.setattr(remote_store, "PAUSES", (0.0, 0.0, 0.0))
    return wire


@pytest.fixture
def cache(tmp_path: Path) -> RemoteCache:
    return RemoteCache.within(tmp_path / "cache", None)


def upload(folder: Path, url: str) -> str:
    system, root = fsspec.core.url_to_fs(url)
    for path in folder.iterdir():
        system.pipe(f"{root}/{path.name}", path.read_bytes())
    return url


@pytest.fixture
def url(packed: Path, tmp_path: Path) -> Iterator[str]:
    yield upload(packed, f"memory://bucket/{tmp_path.name}")
    fsspec.filesystem("memory").rm(f"/bucket/{tmp_path.name}", recursive=True)


def assert_same(shards: ShardSet, local: ShardSet) -> None:
    assert shards.table.equals(local.table)
    assert shards.digest == local.digest
    assert shards.image_size == local.image_size
    records = range(len(local))
    assert [shards.read(record) for record in records] == [local.read(n) for n in records]
    images = [local.read(record).image for record in records]
    assert [bytes(shards.read_image(record)) for record in records] == images


def open_url(url: str, cache: RemoteCache) -> ShardSet:
    return open_entry(url, cache=cache, key="shards")


def cached(cache: RemoteCache) -> list[str]:
    return sorted(path.name for path in cache.folder.glob("*/*.tfrec"))


class TestFetching:
    def test_shards_behind_a_url_read_as_those_in_a_folder(
        self, url: str, cache: RemoteCache, packed: Path
    ) -> None:
        assert_same(open_url(url + "/", cache), open_shards(packed))

    def test_a_shard_is_fetched_when_it_is_first_read_and_only_then(
        self, url: str, cache: RemoteCache, wire: Wire
    ) -> None:
        shards = open_url(url, cache)
        assert cached(cache) == []
        for record in (25, 39, 49):
            shards.read(record)
        assert cached(cache) == [A_SHARD]
        assert wire.asked[A_SHARD] == 1

    def test_the_next_opening_asks_for_the_manifest_only(
        self, url: str, cache: RemoteCache, wire: Wire
    ) -> None:
        open_url(url, cache).read(25)
        wire.asked.clear()
        open_url(url, cache).read(25)
        assert wire.asked == {"manifest.json": 1}

    def test_a_shard_comes_in_blocks_of_any_size(
        self, url: str, cache: RemoteCache, packed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        for block in (1000, 4096, 1 << 20):
            monkeypatch.setattr(remote_store, "BLOCK", block)
            shutil.rmtree(cache.folder, ignore_errors=True)
            open_url(url, cache).read(25)
            fetched = next(cache.folder.glob(f"*/{A_SHARD}"))
            assert fetched.read_bytes() == (packed / A_SHARD).read_bytes()

    def test_new_shards_at_the_same_url_are_noticed(
        self, url: str, cache: RemoteCache, tiny_shards: Path
    ) -> None:
        open_url(url, cache).read(25)
        upload(tiny_shards, url)
        assert_same(open_url(url, cache), open_shards(tiny_shards))

    def test_a_copy_in_another_process_fetches_for_itself(
        self, packed: Path, cache: RemoteCache
    ) -> None:
        shards = pickle.loads(pickle.dumps(open_url(f"file://{packed}", cache)))
        assert shards.read(25) == open_shards(packed).read(25)
        assert cached(cache) == [A_SHARD]

    def test_a_folder_behind_a_file_url_reads_too(self, packed: Path, cache: RemoteCache) -> None:
        assert_same(open_url(f"file://{packed}", cache), open_shards(packed))

    def test_threads_fetch_each_shard_once(
        self, url: str, cache: RemoteCache, wire: Wire, packed: Path
    ) -> None:
        shards, local = open_url(url, cache), open_shards(packed)
        order = np.random.default_rng(0).permutation(np.repeat(np.arange(60), 3)).tolist()
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(shards.read, order))
        assert found == [local.read(record) for record in order]
        assert {name: times for name, times in wire.asked.items() if "tfrec" in name} == {
            path.name: 1 for path in shards.files
        }

    def test_urls_and_folders_are_joined(
        self, url: str, cache: RemoteCache, tiny_shards: Path, packed: Path, tmp_path: Path
    ) -> None:
        other = tmp_path / "other"
        shutil.copytree(packed, other)
        records = other / "records.csv"
        records.write_text(records.read_text().replace("train", "TRAIN"))
        manifest = json.loads((other / "manifest.json").read_text())
        manifest["records_sha256"] = hashlib.sha256(records.read_bytes()).hexdigest()
        manifest["digest"] = "another"
        (other / "manifest.json").write_text(json.dumps(manifest))
        joined = open_entries([url, str(other)], cache=cache, key="shards")
        local = open_shards(packed)
        assert [joined.read(n).image for n in range(120)] == [
            local.read(n % 60).image for n in range(120)
        ]


class TestIndexes:
    @pytest.mark.parametrize("text", [None, b"", b"0 1\n", b"no index", b"0 99999999\n"])
    def test_a_missing_or_stale_index_is_made_from_the_shard(
        self,
        url: str,
        cache: RemoteCache,
        wire: Wire,
        packed: Path,
        text: bytes | None,
    ) -> None:
        system, root = fsspec.core.url_to_fs(url)
        name = index_path(Path(A_SHARD)).name
        system.rm(f"{root}/{name}") if text is None else system.pipe(f"{root}/{name}", text)
        assert_same(open_url(url, cache), open_shards(packed))
        open_url(url, cache)
        assert wire.asked[A_SHARD] == 1

    def test_an_index_that_misplaces_the_records_is_mended_when_they_are_read(
        self, url: str, cache: RemoteCache, packed: Path
    ) -> None:
        system, root = fsspec.core.url_to_fs(url)
        path = index_path(packed / A_SHARD)
        (a, b, c, d, *rest) = path.read_text().split()
        moved = [a, str(int(b) + 8), str(int(c) + 8), str(int(d) - 8), *rest]
        lines = [" ".join(pair) for pair in zip(moved[::2], moved[1::2], strict=True)]
        system.pipe(f"{root}/{path.name}", "\n".join(lines).encode())
        assert_same(open_url(url, cache), open_shards(packed))


class TestBareShards:
    """Shards of the seed's schema, without manifest."""

    @pytest.fixture
    def bare(self, tmp_path: Path) -> Path:
        folder = tmp_path / "bare"
        folder.mkdir()
        for number, count in ((0, 4), (1, 3), (10, 2), (2, 1)):
            path = folder / f"train{number:02d}-{count}.tfrec"
            with path.open("wb") as file:
                for record in range(count):
                    picture = np.full((16, 16, 3), 20 * number + record, np.uint8)
                    image = bytes(cv2.imencode(".jpg", picture)[1])
                    write_frame(file, encode_example(Record(image, 50 * number + record, 0, 1)))
            if number != 1:
                write_index(path)
        return folder

    def test_they_read_as_those_in_a_folder_verified_by_size(
        self, bare: Path, cache: RemoteCache, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        url = upload(bare, f"memory://bare/{tmp_path.name}")
        shards = open_url(url, cache)
        assert "verified by its size only" in caplog.text
        assert_same(shards, open_shards(bare))
        assert_same(open_url(f"file://{bare}", cache), open_shards(bare))

    def test_changed_shards_are_noticed(
        self, bare: Path, cache: RemoteCache, tmp_path: Path
    ) -> None:
        url = upload(bare, f"memory://bare/{tmp_path.name}")
        before = open_url(url, cache)
        content = (bare / "train00-4.tfrec").read_bytes()
        changed = content.replace(b"\xff\xd9", b"\xff\xd8", 1)
        assert len(changed) == len(content)
        fsspec.filesystem("memory").pipe(f"/bare/{tmp_path.name}/train00-4.tfrec", changed)
        with pytest.raises(ValueError, match="CRC"):
            open_url(url, cache)
        assert before.read(0).label == 1


class TestTransfers:
    @pytest.mark.parametrize("times", [1, 3])
    @pytest.mark.parametrize(
        "error",
        [ConnectionResetError("reset"), TimeoutError(), OSError(16, "503 Slow Down"), EOFError()],
        ids=repr,
    )
    @pytest.mark.parametrize("name", [A_SHARD, "manifest.json", "records.csv"])
    def test_a_dropped_connection_is_tried_again(
        self, url: str, cache: RemoteCache, wire: Wire, name: str, times: int, error: Exception
    ) -> None:
        wire.drop(name, times, error)
        assert open_url(url, cache).read(25).image
        assert wire.asked[name] == times + 1

    def test_a_block_in_the_middle_is_tried_again_alone(
        self, url: str, cache: RemoteCache, wire: Wire, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        shards = open_url(url, cache)
        monkeypatch.setattr(remote_store, "BLOCK", 4096)
        blocks = -(-shards.path(0).stat().st_size // 4096)
        first = wire.asked[shards.files[0].name]
        assert first == blocks > 2
        wire.drop(A_SHARD, 2)
        shards.read(25)
        size = next(cache.folder.glob(f"*/{A_SHARD}")).stat().st_size
        assert wire.asked[A_SHARD] == -(-size // 4096) + 2

    def test_a_connection_that_stays_broken_is_named_with_its_cause(
        self, url: str, cache: RemoteCache, wire: Wire
    ) -> None:
        shards = open_url(url, cache)
        for read in (shards.read, shards.read_image):
            wire.asked.clear()
            wire.drop(A_SHARD, 99)
            with pytest.raises(ConnectionError) as raised:
                read(25)
            assert f"{url}/{A_SHARD}" in str(raised.value)
            assert "4 tries failed with ConnectionResetError: reset by peer" in str(raised.value)
            assert wire.asked[A_SHARD] == 4
        assert cached(cache) == []
        wire.drop(A_SHARD, 0)
        assert shards.read(25).image

    @pytest.mark.parametrize("cut", [lambda data: data[:-1], lambda data: b"", lambda d: d + b"x"])
    def test_an_answer_of_another_length_is_tried_again(
        self, url: str, cache: RemoteCache, wire: Wire, cut: Callable[[bytes], bytes]
    ) -> None:
        shards = open_url(url, cache)
        wire.change(A_SHARD, 2, cut)
        shards.read(25)
        assert wire.asked[A_SHARD] == 3

    def test_a_flipped_byte_is_fetched_once_more(
        self, url: str, cache: RemoteCache, wire: Wire, packed: Path
    ) -> None:
        shards = open_url(url, cache)
        wire.change(A_SHARD, 1, flipped)
        assert shards.read(25) == open_shards(packed).read(25)
        assert wire.asked[A_SHARD] == 2

    def test_a_byte_that_stays_flipped_names_url_and_digests(
        self, url: str, cache: RemoteCache, wire: Wire, packed: Path
    ) -> None:
        content = (packed / A_SHARD).read_bytes()
        shards = open_url(url, cache)
        wire.change(A_SHARD, 99, flipped)
        with pytest.raises(ValueError, match="SHA-256") as raised:
            shards.read(25)
        for part in (f"{url}/{A_SHARD}", digest(content), digest(flipped(content))):
            assert part in str(raised.value)
        assert wire.asked[A_SHARD] == 2
        assert cached(cache) == []

    @pytest.mark.parametrize("name", ["records.csv", "signatures.npy"])
    def test_the_tables_are_verified_too(
        self, url: str, cache: RemoteCache, wire: Wire, packed: Path, name: str
    ) -> None:
        wire.change(name, 1, flipped)
        mirror = open_url(url, cache).folder
        assert (mirror / name).read_bytes() == (packed / name).read_bytes()
        shutil.rmtree(cache.folder)
        wire.change(name, 99, flipped)
        with pytest.raises(ValueError, match=rf"/{name}: its SHA-256 is .* the manifest says"):
            open_url(url, cache)

    def test_only_the_table_of_records_has_to_be_there(self, url: str, cache: RemoteCache) -> None:
        system, root = fsspec.core.url_to_fs(url)
        system.rm(f"{root}/signatures.npy")
        assert open_url(url, cache).read(25).image
        shutil.rmtree(cache.folder)
        system.rm(f"{root}/records.csv")
        with pytest.raises(ValueError, match=r"records\.csv: there is no such file, though"):
            open_url(url, cache)

    @pytest.mark.parametrize(
        ("error", "said"),
        [
            (PermissionError("Access Denied"), "access is denied; check the credentials"),
            (type("NoCredentialsError", (Exception,), {})("none"), "access is denied"),
            (type("HttpError", (Exception,), {"code": 403})("no"), "access is denied"),
            (type("HttpError", (Exception,), {"code": 400})("bad"), "the server refuses"),
            (ValueError("Bad bucket name"), r"check the URL \(ValueError: Bad bucket name\)"),
        ],
    )
    def test_what_another_try_cannot_help_is_said_at_once(
        self, url: str, cache: RemoteCache, wire: Wire, error: Exception, said: str
    ) -> None:
        shards = open_url(url, cache)
        wire.drop(A_SHARD, 99, error)
        with pytest.raises(ValueError, match=said) as raised:
            shards.read(25)
        assert f"{url}/{A_SHARD}" in str(raised.value)
        assert wire.asked[A_SHARD] == 1

    @pytest.mark.parametrize("code", [408, 429, 500, 503])
    def test_a_server_that_asks_for_patience_is_given_it(
        self, url: str, cache: RemoteCache, wire: Wire, code: int
    ) -> None:
        wire.drop(A_SHARD, 1, type("HttpError", (Exception,), {"code": code})("later"))
        assert open_url(url, cache).read(25).image

    @pytest.mark.parametrize("times", [1, 99])
    def test_a_failure_that_is_passed_off_as_a_missing_file_is_tried_again(
        self,
        url: str,
        cache: RemoteCache,
        wire: Wire,
        monkeypatch: pytest.MonkeyPatch,
        times: int,
    ) -> None:
        ask, left = MemoryFileSystem.info, [TimeoutError("slow")] * times

        def info(self: Any, path: str, **rest: Any) -> Any:
            if left and path.endswith(A_SHARD):
                raise FileNotFoundError(path) from left.pop()
            return ask(self, path, **rest)

        monkeypatch.setattr(MemoryFileSystem, "info", info)
        if times == 1:
            assert open_url(url, cache).read(25).image
        else:
            with pytest.raises(ConnectionError, match=rf"{A_SHARD}: .* TimeoutError: slow"):
                open_url(url, cache)

    def test_a_password_in_what_a_library_says_is_not_passed_on(
        self, url: str, cache: RemoteCache, wire: Wire, caplog: pytest.LogCaptureFixture
    ) -> None:
        shards = open_url(url, cache)
        wire.drop(A_SHARD, 99, OSError("no answer from https://ann:secret@host/x"))
        with pytest.raises(ConnectionError, match=r"from https://\*\*\*@host/x") as raised:
            shards.read(25)
        assert "secret" not in str(raised.value) + caplog.text

    def test_a_shard_that_went_away_is_named(self, url: str, cache: RemoteCache) -> None:
        shards = open_url(url, cache)
        system, root = fsspec.core.url_to_fs(url)
        system.rm(f"{root}/{A_SHARD}")
        with pytest.raises(ValueError, match=f"{A_SHARD}: there is no such file; it was there"):
            shards.read(25)


def flipped(data: bytes) -> bytes:
    return data[:50] + bytes([data[50] ^ 1]) + data[51:]


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


class TestRefusals:
    def test_nothing_there(self, cache: RemoteCache) -> None:
        with pytest.raises(ValueError, match=r"shards=memory://no/where: holds no manifest\.json"):
            open_url("memory://no/where", cache)

    def test_a_shard_missing_at_opening(self, url: str, cache: RemoteCache) -> None:
        system, root = fsspec.core.url_to_fs(url)
        system.rm(f"{root}/{A_SHARD}")
        with pytest.raises(ValueError, match=f"{A_SHARD}: there is no such file, though"):
            open_url(url, cache)

    def test_a_manifest_that_is_none(self, url: str, cache: RemoteCache) -> None:
        system, root = fsspec.core.url_to_fs(url)
        system.pipe(f"{root}/manifest.json", b"<html>sign in</html>")
        with pytest.raises(ValueError, match=f"shards={url}: .*cannot be read"):
            open_url(url, cache)

    @pytest.mark.parametrize("name", ["../../train00-25.tfrec", "/etc/x.tfrec", ".tfrec", "a.csv"])
    def test_a_manifest_that_names_files_elsewhere(
        self, url: str, cache: RemoteCache, name: str
    ) -> None:
        system, root = fsspec.core.url_to_fs(url)
        manifest = json.loads(system.cat_file(f"{root}/manifest.json"))
        manifest["shards"][0]["file"] = name
        system.pipe(f"{root}/manifest.json", json.dumps(manifest).encode())
        with pytest.raises(ValueError, match="is no shard's name"):
            open_url(url, cache)

    def test_a_protocol_that_nobody_knows(self, cache: RemoteCache) -> None:
        with pytest.raises(ValueError, match="nope://a/b: Protocol not known: nope; check the URL"):
            open_url("nope://a/b", cache)

    def test_a_protocol_whose_package_is_missing(
        self, cache: RemoteCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "gcsfs", None)
        with pytest.raises(ValueError, match=r"gs://a/b: .*gcsfs.*dr's extra `remote`"):
            open_url("gs://a/b", cache)

    def test_a_disk_without_room(
        self, url: str, cache: RemoteCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def full(*_: object) -> None:
            raise OSError(28, "No space left on device")

        shards = open_url(url, cache)
        monkeypatch.setattr(remote_store, "_write", full)
        with pytest.raises(ValueError, match=r"cache=.*no space is left.*remote_cache_gb"):
            shards.read(25)
        assert cached(cache) == []


class TestLimit:
    def sizes(self, folder: Path) -> list[int]:
        return [path.stat().st_size for path in sorted(folder.glob("*.tfrec"))]

    def test_a_limit_below_a_shard_is_refused(self, url: str, packed: Path, tmp_path: Path) -> None:
        limit = max(self.sizes(packed)) - 1
        cache = RemoteCache(folder=tmp_path / "cache", limit=limit)
        with pytest.raises(ValueError, match=rf"remote_cache_gb=.*shards={url} has a shard of"):
            open_url(url, cache)

    @pytest.mark.parametrize("held", [1, 2])
    def test_a_limit_below_the_set_warns_and_works(
        self,
        url: str,
        packed: Path,
        tmp_path: Path,
        wire: Wire,
        caplog: pytest.LogCaptureFixture,
        held: int,
    ) -> None:
        limit = sum(sorted(self.sizes(packed))[-held:])
        cache = RemoteCache(folder=tmp_path / "cache", limit=limit)
        shards, local = open_url(url, cache), open_shards(packed)
        assert "every shuffled epoch fetches them again and again; set at least" in caplog.text
        order = np.random.default_rng(0).permutation(60)[:30].tolist()
        with ThreadPoolExecutor(3) as pool:
            assert list(pool.map(shards.read, order)) == [local.read(n) for n in order]
        assert len(cached(cache)) <= held
        assert sum(path.stat().st_size for path in cache.folder.glob("*/*.tfrec")) <= limit
        assert sum(wire.asked[path.name] for path in shards.files) > 3

    def test_no_descriptor_keeps_a_dropped_shard_on_the_disk(
        self, url: str, packed: Path, tmp_path: Path
    ) -> None:
        cache = RemoteCache(folder=tmp_path / "cache", limit=max(self.sizes(packed)))
        shards = open_url(url, cache)
        for record in (0, 25, 55):
            shards.read(record)
            shards.read_image(record)
        links = [os.readlink(link) for link in Path("/proc/self/fd").iterdir() if link.is_symlink()]
        assert not [link for link in links if link.startswith(str(cache.folder))]
        assert str(cache.folder) not in Path("/proc/self/maps").read_text()

    def test_several_sets_share_the_limit(
        self, url: str, packed: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        cache = RemoteCache(folder=tmp_path / "cache", limit=sum(self.sizes(packed)) + 1)
        find_remote_shards(url, cache)
        find_remote_shards(url, cache)
        assert "again and again" not in caplog.text
        find_remote_shards(f"file://{packed}", cache)
        assert "again and again" in caplog.text


FETCHING = """
import sys, time
from pathlib import Path
from fsspec.implementations.local import LocalFileSystem
from dr.shards.remote import find_remote_shards
from dr.shards.remote_cache import RemoteCache

ask, asked = LocalFileSystem.cat_file, []

def cat_file(self, path, start=None, end=None, **rest):
    if path.endswith(".tfrec"):
        asked.append(path)
        time.sleep(0.2)
    return ask(self, path, start=start, end=end, **rest)

LocalFileSystem.cat_file = cat_file
shards = find_remote_shards(sys.argv[1], RemoteCache.within(sys.argv[2], None))
print("ready", flush=True)
sys.stdin.readline()
for number in range(3):
    shards.fetch(number).read_bytes()
print(len(asked), flush=True)
"""


def test_two_processes_at_once_fetch_each_shard_once(packed: Path, cache: RemoteCache) -> None:
    command = [sys.executable, "-c", FETCHING, f"file://{packed}", str(cache.folder.parent)]
    start = partial(
        subprocess.Popen, command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with start() as first, start() as second:
        both = (first, second)
        assert [process.stdout.readline() for process in both if process.stdout] == ["ready\n"] * 2
        for process in both:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        counts = [int(process.stdout.readline()) for process in both if process.stdout]
    assert sum(counts) == 3
    for path in packed.glob("*.tfrec"):
        assert next(cache.folder.glob(f"*/{path.name}")).read_bytes() == path.read_bytes()


class Quiet(SimpleHTTPRequestHandler):
    """Serves a folder, knows nothing of ranges, and refuses what is asked with a password."""

    def do_GET(self) -> None:
        if "Authorization" in self.headers:
            self.send_error(403)
        else:
            super().do_GET()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(packed: Path) -> Iterator[str]:
    handler = partial(Quiet, directory=str(packed.parent))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"127.0.0.1:{server.server_port}/{packed.name}"
        server.shutdown()
        thread.join()


class TestWeb:
    def test_a_server_without_ranges(
        self, web: str, cache: RemoteCache, packed: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote_store, "BLOCK", 4096)
        assert_same(open_url(f"http://{web}", cache), open_shards(packed))

    def test_nothing_there(self, web: str, cache: RemoteCache) -> None:
        with pytest.raises(ValueError, match="/elsewhere: holds no manifest"):
            open_url(f"http://{web}/elsewhere", cache)

    def test_a_closed_port_is_named_after_some_tries(
        self, cache: RemoteCache, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(remote_store, "PAUSES", (0.0,))
        with pytest.raises(ConnectionError, match=r"http://127\.0\.0\.1:9/a.*2 tries"):
            open_url("http://127.0.0.1:9/a", cache)

    def test_a_password_is_never_shown(
        self, web: str, cache: RemoteCache, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        with pytest.raises(ValueError, match="access is denied") as raised:
            open_url(f"http://ann:secret@{web}", cache)
        assert f"http://***@{web}/manifest.json" in str(raised.value)
        assert "a password in a URL" in caplog.text
        assert "secret" not in caplog.text + str(raised.value)
        assert "secret" not in str(Problem("shards", [f"s3://ann:secret@{web}"], "is wrong"))


class TestSettings:
    def test_urls_reach_the_config_as_they_are_written(self) -> None:
        for given in ("s3://bucket/a=b/(ü) x", "gs://b//c"):
            assert compose("train", TrainConfig, [f"shards={given}"]).shards == given
        both = compose("train", TrainConfig, ["shards=[s3://a/b,gs://c/d e]"])
        assert both.shards == ["s3://a/b", "gs://c/d e"]
        swept = hydra_arguments(["--multirun", "shards=s3://a/b,s3://c/d"], frozenset())
        assert swept[1] == "++shards='s3://a/b','s3://c/d'"

    @pytest.mark.parametrize(
        ("changes", "keys"),
        [
            ((), set()),
            (("remote_cache_gb=2",), {"remote_cache_gb"}),
            (("remote_cache_gb=2", "shards=s3://a/b"), set()),
            (("remote_cache_gb=2", "shards=/here", "test=[s3://a/b]"), set()),
            (("remote_cache_gb=0", "shards=s3://a/b"), {"remote_cache_gb"}),
        ],
    )
    def test_the_limit_is_checked(self, changes: tuple[str, ...], keys: set[str]) -> None:
        problems = check_train(compose("train", TrainConfig, changes))
        assert {problem.key for problem in problems} == keys

    def test_a_run_folder_keeps_the_url_without_its_password(
        self, tmp_path: Path, tiny_config: Callable[..., TrainConfig]
    ) -> None:
        from dr.loading.split import Split
        from dr.training.run_folder import RunFolder, write_start

        config = tiny_config("shards=[https://ann:secret@host/a,s3://b/c]")
        table = pd.DataFrame({"name": ["1"], "patient": ["1"], "label": [0]})
        split = Split(np.zeros(1, dtype=np.int64), 1)
        write_start(
            RunFolder(tmp_path, "1"), config, environment={}, table=table, split=split, data={}
        )
        text = (tmp_path / "config.yaml").read_text()
        assert yaml.safe_load(text)["shards"] == ["https://***@host/a", "s3://b/c"]

    def test_shards_are_not_prepared_into_a_url(self) -> None:
        problems = check_prepare(compose("prepare", PrepareConfig, ["shards=s3://a/b"]))
        assert [problem.key for problem in problems] == ["shards"]


class TestInspecting:
    def inspect(self, url: str, tmp_path: Path, *changes: str) -> None:
        from dr.inspect import main

        given = [f"shards={url}", f"cache={tmp_path / 'cache'}", "sheet_records=0", *changes]
        config = compose("inspect", InspectConfig, given)
        assert check_inspect(config) == []
        main(config)

    def test_shards_behind_a_url_are_verified(
        self, url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.inspect(url, tmp_path)
        said = capsys.readouterr().out
        assert "60 records of 30 patients in 3 shards" in said
        assert "wrong" not in said
        assert "missing" not in said

    def test_what_is_wrong_there_names_the_url(self, url: str, tmp_path: Path, wire: Wire) -> None:
        wire.change(A_SHARD, 99, flipped)
        with pytest.raises(ValueError, match=f"{url}/{A_SHARD}: its SHA-256"):
            self.inspect(url, tmp_path)

    def test_all_of_it_has_to_find_room(self, url: str, tmp_path: Path, packed: Path) -> None:
        largest = max(path.stat().st_size for path in packed.glob("*.tfrec"))
        with pytest.raises(ValueError, match=r"remote_cache_gb=.* all are needed at once"):
            self.inspect(url, tmp_path, f"remote_cache_gb={largest / 1e9:.9f}")


def test_a_store_lists_what_it_has(url: str, packed: Path) -> None:
    assert RemoteStore(url).names() == sorted(path.name for path in packed.iterdir())


def test_a_remote_set_knows_sizes_and_digests(url: str, cache: RemoteCache, packed: Path) -> None:
    found: RemoteShards = find_remote_shards(url, cache)
    files = [packed / name for name in found.files]
    assert found.sizes == tuple(path.stat().st_size for path in files)
    assert found.digests == tuple(digest(path.read_bytes()) for path in files)
