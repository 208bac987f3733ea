"""A folder of bounded size for shards fetched from elsewhere, shared by all processes here."""

import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

GB = 1_000_000_000
DEFAULT_GB = 20.0
_WAIT = 0.1
_TOUCH = 1.0
_PART = ".part"


@dataclass(frozen=True, kw_only=True)
class RemoteCache:
    """Fetched shards in the folders of `folder`, together at most `limit` bytes.

    What counts is the size of every shard that is there, and of every one being fetched from the
    moment its fetching begins. The files beside them (manifests, tables, indexes) come on top, and
    so does a dropped shard for as long as a reader still has it open. The shards used longest ago
    are dropped first. Threads and processes can share a cache; each applies its own limit.
    `claims` are the bytes of each set of shards opened through this object, by its folder's name.
    """

    folder: Path
    limit: int
    claims: dict[str, int] = field(default_factory=dict, compare=False)

    @classmethod
    def within(cls, cache: str | Path, gigabytes: float | None) -> "RemoteCache":
        """The one in the folder `cache`, of 10^9 bytes times `gigabytes`, null being 20."""
        limit = DEFAULT_GB if gigabytes is None else gigabytes
        return cls(folder=Path(cache).expanduser() / "remote", limit=round(limit * GB))

    def find(self, path: Path, size: int) -> bool:
        """Whether the shard `path` is here with its `size`; it then counts as just used.

        When it was used is known to the second.
        """
        try:
            status = path.stat()
        except FileNotFoundError:
            return False
        if status.st_size != size:
            path.unlink(missing_ok=True)
            return False
        if abs(time.time() - status.st_mtime) > _TOUCH:
            with suppress(FileNotFoundError):
                os.utime(path)
        return True

    def fill(self, path: Path, size: int, fetch: Callable[[Path], None]) -> None:
        """Have `fetch` write the shard `path`, unless another thread or process just did.

        `fetch` is given a file of `size` bytes to overwrite, and raises where it cannot. The shard
        appears under its name when it is whole, or not at all.
        """
        assert size <= self.limit, "refused when the shards were opened"
        with locked(path):
            if self.find(path, size):
                return
            part = path.with_name(f".{path.name}{_PART}")
            try:
                while not self._reserve(part, size):
                    time.sleep(_WAIT)
                fetch(part)
                _publish(part, path)
            finally:
                part.unlink(missing_ok=True)

    def _reserve(self, part: Path, size: int) -> bool:
        """Make `part` a file of `size` bytes if there is room once the oldest shards are gone."""
        with locked(self.folder / "room"):
            part.unlink(missing_ok=True)
            shards = sorted(_sized(self.folder.glob("*/[!.]*.tfrec")), key=lambda file: file[2])
            parts = _sized(self.folder.glob(f"*/.*{_PART}"))
            filling = sum(taken for path, taken, _ in parts if not _abandoned(path))
            room = self.limit - filling - sum(taken for _, taken, _ in shards)
            for path, taken, _ in shards:
                if room >= size:
                    break
                path.unlink(missing_ok=True)
                room += taken
            if room < size:
                return False
            with part.open("wb") as file:
                file.truncate(size)
            return True


def _sized(paths: Iterator[Path]) -> list[tuple[Path, int, int]]:
    """Path, size in bytes and time of last use of those that are still there."""
    found = []
    for path in paths:
        with suppress(FileNotFoundError):
            status = path.stat()
            found.append((path, status.st_size, status.st_mtime_ns))
    return found


def _abandoned(part: Path) -> bool:
    """Remove what a process left that died while fetching: nobody holds its lock."""
    from filelock import Timeout

    try:
        with locked(part.with_name(part.name[1:].removesuffix(_PART)), timeout=0):
            part.unlink(missing_ok=True)
    except Timeout:
        return False
    return True


def _publish(part: Path, path: Path) -> None:
    with part.open("rb") as file:
        os.fsync(file.fileno())
    os.utime(part)
    part.replace(path)


@contextmanager
def locked(path: Path, *, timeout: float = -1) -> Iterator[None]:
    """Hold the lock of `path` against other threads and processes; a dead one holds none."""
    from filelock import FileLock

    with FileLock(path.with_name(f".{path.name}.lock"), timeout=timeout):
        yield
