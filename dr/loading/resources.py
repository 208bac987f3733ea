"""What this machine lets a loader have: threads, memory, OpenCV's own threads."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dr.config import LoaderConfig

_READY = 4
_MEMORY_SHARE = 8
_lock = threading.Lock()
_inside = 0
_outside_threads = 0


@dataclass(frozen=True)
class Resources:
    """`cores` and `memory` in bytes that one of the ranks on this machine may use."""

    cores: int
    memory: int

    def threads(self, config: LoaderConfig) -> int:
        """Threads that decode and augment."""
        return config.threads or self.cores

    def prefetch(self, config: LoaderConfig, *, batch_bytes: int) -> int:
        """Batches kept ready: four, fewer where they would take an eighth of the memory."""
        fitting = self.memory // _MEMORY_SHARE // max(1, batch_bytes)
        return config.prefetch or max(1, min(_READY, fitting))


def resources_here(local_ranks: int | None = None) -> Resources:
    """This process's share of the machine's cores and available memory.

    Cores are those that affinity and a container's CPU quota leave. `local_ranks` processes
    share them; None takes what torchrun says in LOCAL_WORLD_SIZE, else 1.
    """
    from joblib import cpu_count

    ranks = local_ranks or int(os.environ.get("LOCAL_WORLD_SIZE") or 1)
    return Resources(max(1, cpu_count() // ranks), available_memory() // ranks)


def describe_loader(config: LoaderConfig, *, image_size: int, batch_size: int) -> dict[str, Any]:
    """What the loader chose for this process, for the record of a run."""
    resources = resources_here()
    batch_bytes = batch_size * image_size * image_size * 3
    return {
        "cores": resources.cores,
        "threads": resources.threads(config),
        "prefetch": resources.prefetch(config, batch_bytes=batch_bytes),
        "cache": config.cache,
    }


def available_memory(system: Path = Path("/")) -> int:
    """Bytes of memory that can be used without swapping, within a container's limit.

    `system` is the root that `proc` and `sys` lie under.
    """
    limit = _whole_memory()
    for line in _lines(system / "proc/meminfo"):
        if line.startswith("MemAvailable:"):
            limit = int(line.split()[1]) * 1024
    group = system / "sys/fs/cgroup"
    most, used = _lines(group / "memory.max"), _lines(group / "memory.current")
    if most and used and most[0].isdigit():
        limit = min(limit, max(0, int(most[0]) - int(used[0])))
    return limit


def _whole_memory() -> int:
    return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text().splitlines()
    except OSError:
        return []


@contextmanager
def single_threaded_opencv() -> Iterator[None]:
    """Keep OpenCV to the calling thread: several loader threads would each call on all cores.

    The setting is the whole process's; it is put back when the last such block ends.
    """
    global _inside, _outside_threads
    import cv2

    with _lock:
        if _inside == 0:
            _outside_threads = cv2.getNumThreads()
            cv2.setNumThreads(1)
        _inside += 1
    try:
        yield
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                cv2.setNumThreads(_outside_threads)
