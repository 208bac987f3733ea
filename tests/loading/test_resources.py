import threading
from pathlib import Path

import cv2
import joblib
import pytest

from dr.config import LoaderConfig
from dr.loading.advice import advice
from dr.loading.resources import (
    Resources,
    available_memory,
    describe_loader,
    resources_here,
    single_threaded_opencv,
)

BIG = Resources(cores=8, memory=64 << 30)


def test_ranks_share_cores_and_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joblib, "cpu_count", lambda: 8)
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    assert resources_here().cores == 8
    assert [resources_here(ranks).cores for ranks in (1, 2, 3, 16)] == [8, 4, 2, 1]
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert resources_here().cores == 4
    assert resources_here(4).cores == 2
    alone, shared = resources_here(1).memory, resources_here(4).memory
    assert shared == pytest.approx(alone / 4, rel=0.1)


def test_what_is_set_is_taken_and_the_rest_is_chosen() -> None:
    assert BIG.threads(LoaderConfig()) == 8
    assert BIG.threads(LoaderConfig(threads=3)) == 3
    assert BIG.prefetch(LoaderConfig(), batch_bytes=25 << 20) == 4
    assert BIG.prefetch(LoaderConfig(prefetch=9), batch_bytes=25 << 20) == 9


@pytest.mark.parametrize(("memory", "expected"), [(1 << 30, 4), (640, 2), (320, 1), (0, 1)])
def test_prefetch_keeps_within_an_eighth_of_the_memory(memory: int, expected: int) -> None:
    resources = Resources(cores=2, memory=memory)
    assert resources.prefetch(LoaderConfig(), batch_bytes=40) == expected


def test_a_containers_memory_limit_counts(tmp_path: Path) -> None:
    (tmp_path / "proc").mkdir()
    (tmp_path / "sys/fs/cgroup").mkdir(parents=True)
    (tmp_path / "proc/meminfo").write_text("MemTotal: 100 kB\nMemAvailable:  60 kB\n")
    assert available_memory(tmp_path) == 60 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("max\n")
    (tmp_path / "sys/fs/cgroup/memory.current").write_text("1000\n")
    assert available_memory(tmp_path) == 60 * 1024
    (tmp_path / "sys/fs/cgroup/memory.max").write_text("21000\n")
    assert available_memory(tmp_path) == 20000


def test_the_record_of_a_run_says_what_was_chosen() -> None:
    config = LoaderConfig(threads=3, cache="decoded")
    found = describe_loader(config, image_size=64, batch_size=8)
    assert found == {
        "cores": resources_here().cores,
        "threads": 3,
        "prefetch": 4,
        "cache": "decoded",
    }


def test_opencv_keeps_to_one_thread_until_the_last_loader_ends() -> None:
    before = cv2.getNumThreads()
    inside: list[int] = []

    def other(first_ended: threading.Event, started: threading.Event) -> None:
        with single_threaded_opencv():
            started.set()
            first_ended.wait(timeout=10)
            inside.append(cv2.getNumThreads())

    ended, started = threading.Event(), threading.Event()
    thread = threading.Thread(target=other, args=(ended, started))
    with single_threaded_opencv():
        thread.start()
        started.wait(timeout=10)
        inside.append(cv2.getNumThreads())
    ended.set()
    thread.join()
    assert inside == [1, 1]
    assert cv2.getNumThreads() == before


@pytest.mark.parametrize(
    ("config", "shard_size", "transforms", "expected"),
    [
        (LoaderConfig(threads=2), 64, 0, "loader.threads=8 (now 2) or loader.cache=decoded"),
        (LoaderConfig(), 512, 0, "loader.cache=decoded or shards of 64 px instead of 512"),
        (
            LoaderConfig(cache="decoded"),
            512,
            2,
            "fewer of augment.transforms (on a GPU, augment.where=device)",
        ),
        (LoaderConfig(cache="decoded"), 64, 0, "more cores for each device, or a larger model"),
    ],
)
def test_advice_names_what_applies(
    config: LoaderConfig, shard_size: int, transforms: int, expected: str
) -> None:
    found = advice(config, BIG, image_size=64, shard_size=shard_size, transforms=transforms)
    assert found == expected
