"""The bounded cache of fetched shards: order of dropping, locks, and processes that die."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dr.shards.remote_cache import RemoteCache, locked


class Filler:
    """Writes a shard and remembers how often it was asked to."""

    def __init__(self, content: bytes = b"x") -> None:
        self.content, self.times = content, 0

    def __call__(self, part: Path) -> None:
        self.times += 1
        with part.open("r+b") as file:
            file.write(self.content * part.stat().st_size)


@pytest.fixture
def cache(tmp_path: Path) -> RemoteCache:
    (tmp_path / "set").mkdir()
    return RemoteCache(folder=tmp_path, limit=100)


def shard(cache: RemoteCache, number: int) -> Path:
    return cache.folder / "set" / f"train{number:02d}-1.tfrec"


def put(cache: RemoteCache, number: int, size: int, *, age: float = 0) -> Path:
    """Fill a shard, last used `age` seconds ago."""
    path = shard(cache, number)
    cache.fill(path, size, Filler())
    then = time.time() - age
    os.utime(path, (then, then))
    return path


def here(cache: RemoteCache) -> list[int]:
    return sorted(int(path.name[5:7]) for path in cache.folder.glob("set/train*.tfrec"))


def test_a_filled_shard_is_found_whole(cache: RemoteCache) -> None:
    path, fill = shard(cache, 0), Filler(b"a")
    assert not cache.find(path, 40)
    cache.fill(path, 40, fill)
    assert cache.find(path, 40)
    assert path.read_bytes() == b"a" * 40
    cache.fill(path, 40, fill)
    assert fill.times == 1


def test_the_shard_used_longest_ago_is_dropped_first(cache: RemoteCache) -> None:
    for number, age in ((0, 30), (1, 50), (2, 40)):
        put(cache, number, 30, age=age)
    cache.find(shard(cache, 1), 30)
    put(cache, 3, 30)
    assert here(cache) == [0, 1, 3]
    put(cache, 4, 70)
    assert here(cache) == [3, 4]


def test_only_as_many_are_dropped_as_room_is_needed(cache: RemoteCache) -> None:
    for number in range(10):
        put(cache, number, 10, age=100 - number)
    put(cache, 10, 25)
    assert here(cache) == [3, 4, 5, 6, 7, 8, 9, 10]


@settings(max_examples=30)
@given(steps=st.lists(st.tuples(st.integers(0, 9), st.integers(1, 100)), max_size=20))
def test_the_limit_holds_and_the_newest_is_there(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[int, int]]
) -> None:
    cache = RemoteCache(folder=tmp_path_factory.mktemp("cache"), limit=100)
    (cache.folder / "set").mkdir()
    for number, size in steps:
        path = shard(cache, number)
        cache.fill(path, size, Filler())
        assert path.stat().st_size == size
        held = [file.stat().st_size for file in cache.folder.glob("set/*.tfrec")]
        assert sum(held) <= 100


def test_a_limit_counts_every_set_of_the_cache(cache: RemoteCache) -> None:
    (cache.folder / "other").mkdir()
    foreign = cache.folder / "other" / "train00-1.tfrec"
    cache.fill(foreign, 60, Filler())
    os.utime(foreign, (0, 0))
    put(cache, 0, 60)
    assert not foreign.exists()
    assert here(cache) == [0]


def test_a_dropped_shard_stays_readable_where_it_is_open(cache: RemoteCache) -> None:
    with put(cache, 0, 80, age=60).open("rb") as reader:
        put(cache, 1, 80)
        assert here(cache) == [1]
        assert reader.read() == b"x" * 80


def test_a_shard_of_another_size_is_not_found_and_filled_anew(cache: RemoteCache) -> None:
    path = shard(cache, 0)
    path.write_bytes(b"cut off")
    assert not cache.find(path, 40)
    put(cache, 0, 40)
    assert path.stat().st_size == 40


def test_a_failed_fetch_leaves_nothing_and_takes_no_room(cache: RemoteCache) -> None:
    def fail(part: Path) -> None:
        assert part.stat().st_size == 90
        raise ConnectionError("gone")

    with pytest.raises(ConnectionError, match="gone"):
        cache.fill(shard(cache, 0), 90, fail)
    assert [path.name for path in cache.folder.glob("set/*") if ".lock" not in path.name] == []
    put(cache, 1, 90)
    assert here(cache) == [1]


def test_threads_that_want_one_shard_fetch_it_once(cache: RemoteCache) -> None:
    started, go = threading.Event(), threading.Event()
    times: list[int] = []

    def slowly(part: Path) -> None:
        times.append(1)
        started.set()
        assert go.wait(20)

    threads = [
        threading.Thread(target=cache.fill, args=(shard(cache, 0), 10, slowly)) for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    assert started.wait(20)
    assert not shard(cache, 0).exists()
    go.set()
    for thread in threads:
        thread.join(20)
    assert times == [1]
    assert here(cache) == [0]


def test_a_shard_being_fetched_keeps_its_room_and_others_wait(cache: RemoteCache) -> None:
    started, go = threading.Event(), threading.Event()

    def slowly(part: Path) -> None:
        started.set()
        assert go.wait(20)

    first = threading.Thread(target=cache.fill, args=(shard(cache, 0), 80, slowly))
    second = threading.Thread(target=put, args=(cache, 1, 80))
    first.start()
    assert started.wait(20)
    second.start()
    second.join(0.3)
    assert second.is_alive()
    assert here(cache) == []
    go.set()
    first.join(20)
    second.join(20)
    assert here(cache) == [1]


DYING = """
import sys, time
from pathlib import Path
from dr.shards.remote_cache import RemoteCache

def hang(part):
    part.write_bytes(b"half")
    with part.open("r+b") as file:
        file.truncate(80)
    print("hanging", flush=True)
    time.sleep(60)

folder = Path(sys.argv[1])
RemoteCache(folder=folder, limit=100).fill(folder / "set" / "train00-1.tfrec", 80, hang)
"""


@pytest.mark.parametrize("number", [0, 1])
def test_a_killed_fetch_leaves_nothing_that_is_seen_or_takes_room(
    cache: RemoteCache, number: int
) -> None:
    command = [sys.executable, "-c", DYING, str(cache.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "hanging\n"
        assert here(cache) == []
        process.send_signal(signal.SIGKILL)
    assert list(cache.folder.glob("set/.*.part"))
    put(cache, number, 80)
    assert shard(cache, number).read_bytes() == b"x" * 80
    assert not list(cache.folder.glob("set/.*.part"))


USING = """
import sys
from pathlib import Path
from dr.shards.remote_cache import RemoteCache

path = Path(sys.argv[1])
assert RemoteCache(folder=path.parent.parent, limit=100).find(path, 40)
"""


def test_what_another_process_just_used_is_kept(cache: RemoteCache) -> None:
    used, _ = put(cache, 0, 40, age=60), put(cache, 1, 40, age=30)
    subprocess.run([sys.executable, "-c", USING, str(used)], check=True)
    put(cache, 2, 40)
    assert here(cache) == [0, 2]


HOLDING = """
import sys
from pathlib import Path
from dr.shards.remote_cache import locked

with locked(Path(sys.argv[1])):
    print("held", flush=True)
    sys.stdin.readline()
"""


def test_a_lock_holds_against_another_process_and_dies_with_it(tmp_path: Path) -> None:
    from filelock import Timeout

    command = [sys.executable, "-c", HOLDING, str(tmp_path / "it")]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "held\n"
        with pytest.raises(Timeout), locked(tmp_path / "it", timeout=0):
            pass
        process.send_signal(signal.SIGKILL)
    with locked(tmp_path / "it", timeout=20):
        pass
