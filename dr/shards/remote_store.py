"""Reading files behind a URL through fsspec, with patience for a bad connection."""

import logging
import os
import random
import re
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from dr.urls import masked

T = TypeVar("T")

PAUSES = (0.5, 1.0, 2.0, 4.0)
"""Seconds before each further try, a quarter more or less."""

BLOCK = 16 << 20
"""Bytes of a shard asked for at once."""

_AT_ONCE = 4
_DENIED = ("NoCredentialsError", "PartialCredentialsError", "TokenRetrievalError", "RefreshError")
_WRONG = ("ParamValidationError", "InvalidURL")
_PASSING = (408, 425, 429)
_VERSIONS = ("ETag", "md5Hash", "mtime", "LastModified", "last_modified", "created")
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteStore:
    """The files directly in the folder behind `url`, which ends without a slash.

    Every method raises ValueError where access is denied or the request cannot be right, and
    ConnectionError where the connection fails at every try; both name the URL. A file that is not
    there raises FileNotFoundError.
    """

    url: str

    def spell(self, name: str) -> str:
        """The URL of a file, without credentials."""
        return masked(f"{self.url}/{name}")

    def names(self) -> list[str]:
        """The names of the files, sorted."""
        system, root = self._system()
        system.invalidate_cache()
        entries = self._patiently("", lambda: system.ls(root, detail=False))
        return sorted({str(entry).rstrip("/").rpartition("/")[2] for entry in entries})

    def read(self, name: str) -> bytes:
        """The whole content of a small file."""
        system, root = self._system()
        return bytes(self._patiently(name, lambda: system.cat_file(f"{root}/{name}")))

    def size_and_version(self, name: str) -> tuple[int, str]:
        """Bytes of a file, and text that changes when the file does, where the server has one."""
        system, root = self._system()
        info = self._patiently(name, lambda: system.info(f"{root}/{name}"))
        if info.get("size") is None:
            raise ValueError(f"{self.spell(name)}: the server does not tell its size")
        return int(info["size"]), next((str(info[key]) for key in _VERSIONS if key in info), "")

    def download(self, name: str, size: int, path: Path) -> None:
        """Overwrite the file `path` with the `size` bytes of a file, some blocks at a time."""
        with path.open("r+b") as file:

            def copy(start: int) -> int:
                data = self._read_block(name, start, size)
                _write(file.fileno(), data, start)
                return len(data)

            if copy(0) == size:
                return
            with ThreadPoolExecutor(_AT_ONCE) as pool:
                for _ in pool.map(copy, range(BLOCK, size, BLOCK)):
                    pass

    def _read_block(self, name: str, start: int, size: int) -> bytes:
        """The block at `start`; all of the file where a server knows nothing of ranges."""
        system, root = self._system()
        end = min(start + BLOCK, size)

        def read() -> bytes:
            data = bytes(system.cat_file(f"{root}/{name}", start=start, end=end))
            if len(data) == end - start or (start == 0 and len(data) == size):
                return data
            raise ConnectionError(f"{len(data)} of {end - start} bytes came, at byte {start}")

        return self._patiently(name, read)

    def _system(self) -> tuple[Any, str]:
        return _file_system(self.url, os.getpid())

    def _patiently(self, name: str, action: Callable[[], T]) -> T:
        where = self.spell(name).rstrip("/")
        for pause in (*PAUSES, None):
            try:
                return action()
            except Exception as error:
                cause = _cause(error)
                if _is_missing(cause):
                    raise FileNotFoundError(f"{where}: there is no such file") from error
                if refusal := _refusal(cause):
                    raise ValueError(f"{where}: {refusal} ({_in_words(cause)})") from error
                if pause is None:
                    tries = len(PAUSES) + 1
                    raise ConnectionError(
                        f"{where}: cannot be fetched, the last of {tries} tries failed with "
                        f"{_in_words(cause)}; check the connection and the endpoint, then run the "
                        "same command again"
                    ) from error
                _log.warning("%s: %s; trying again", where, _in_words(cause))
                time.sleep(pause * random.uniform(0.75, 1.25))
        raise AssertionError("the last try returns or raises")


@lru_cache(maxsize=16)
def _file_system(url: str, process: int) -> tuple[Any, str]:
    """One file system for all threads of a process, and the path of `url` in it."""
    from fsspec.core import url_to_fs

    try:
        system, root = url_to_fs(url)
    except ImportError as error:
        raise ValueError(
            f"{masked(url)}: {error}, or dr's extra `remote` for s3:// and gs://"
        ) from error
    except ValueError as error:
        known = "check the URL; s3://, gs://, https:// and file:// are some that are known"
        raise ValueError(f"{masked(url)}: {masked(str(error))}; {known}") from error
    for name in ("botocore", "aiobotocore"):
        logging.getLogger(name).setLevel(logging.WARNING)
    return system, str(root).rstrip("/")


def _cause(error: Exception) -> Exception:
    """What lies under a FileNotFoundError that fsspec makes of any failure over HTTP."""
    inner = error.__cause__
    hidden = isinstance(inner, OSError) or type(inner).__module__.startswith("aiohttp")
    if isinstance(error, FileNotFoundError) and isinstance(inner, Exception) and hidden:
        return inner
    return error


def _status(error: Exception) -> int | None:
    found = str(getattr(error, "status", None) or getattr(error, "code", None))
    return int(found) if re.fullmatch(r"[1-5]\d\d", found) else None


def _is_missing(error: Exception) -> bool:
    return isinstance(error, FileNotFoundError) or _status(error) in (404, 410)


def _refusal(error: Exception) -> str | None:
    """Why another try would end the same, None where it might not."""
    status = _status(error)
    denied = isinstance(error, PermissionError) or type(error).__name__ in _DENIED
    if denied or status in (401, 403):
        return (
            "access is denied; check the credentials and the endpoint: AWS_PROFILE or "
            "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, FSSPEC_S3_ENDPOINT_URL, "
            "GOOGLE_APPLICATION_CREDENTIALS, or fsspec's own configuration"
        )
    if status is not None and 400 <= status < 500 and status not in _PASSING:
        return "the server refuses the request; check the URL"
    wrong = isinstance(error, ValueError | TypeError | NotImplementedError | IsADirectoryError)
    if wrong or type(error).__name__ in _WRONG:
        return "cannot be read; check the URL"
    return None


def _in_words(error: Exception) -> str:
    text = masked(" ".join(str(error).split()))
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def _write(descriptor: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(descriptor, view, offset)
        view, offset = view[written:], offset + written
