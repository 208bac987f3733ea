"""A folder of shards behind a URL: small files at opening, each shard when it is first read."""

import errno
import hashlib
import logging
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dr.digests import digest_of, digest_of_file
from dr.files import make_writable_folder, write_whole
from dr.shards.index import index_path, parse_index, read_index
from dr.shards.manifest import (
    DUPLICATES,
    MANIFEST,
    RECORDS,
    SIGNATURES,
    Manifest,
    read_manifest,
)
from dr.shards.remote_cache import GB, RemoteCache, locked
from dr.shards.remote_store import RemoteStore
from dr.urls import masked

_AT_ONCE = 16
_log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class RemoteShards:
    """Shards behind a URL, and the local folder that stands for theirs.

    `folder` holds the manifest, the tables it names and the indexes, and those of the `files` that
    the cache keeps at the moment. `sizes` are in bytes; `digests` are SHA-256 (hex), None
    for shards that came without a manifest.
    """

    store: RemoteStore
    cache: RemoteCache
    folder: Path
    files: tuple[str, ...]
    sizes: tuple[int, ...]
    digests: tuple[str | None, ...]

    @property
    def url(self) -> str:
        """The URL of the folder, without credentials."""
        return masked(self.store.url)

    @cached_property
    def _paths(self) -> tuple[Path, ...]:
        return tuple(self.folder / file for file in self.files)

    def fetch(self, shard: int) -> Path:
        """Where the shard of a number lies, fetched whole and verified if it is not here.

        It may be dropped again for others as soon as this returns. Raises ValueError naming the
        URL where it does not have its digest, cannot be had, or the disk is full, and
        ConnectionError where the connection fails at every try.
        """
        path, size = self._paths[shard], self.sizes[shard]
        if self.cache.find(path, size):
            return path
        try:
            self.cache.fill(path, size, partial(self._fetch_verified, shard))
        except FileNotFoundError as error:
            raise ValueError(f"{error}; it was there when the shards were opened") from error
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise ValueError(
                f"cache={self.cache.folder.parent}: no space is left there for "
                f"{self.store.spell(self.files[shard])}; set a smaller remote_cache_gb, or choose "
                "another cache=..."
            ) from error
        return path

    def _fetch_verified(self, shard: int, part: Path) -> None:
        name, expected = self.files[shard], self.digests[shard]
        for again in (True, False):
            self.store.download(name, self.sizes[shard], part)
            found = digest_of_file(part)
            if expected in (None, found):
                return
            _check_digest(self.store.spell(name), expected, found, again=again)

    def index(self, shard: int) -> NDArray[np.int64]:
        """Offset and length in bytes of each frame of a shard, int64 `[records, 2]`.

        Where the index beside it is missing or does not fit, the shard is fetched and searched.
        """
        path = index_path(self._paths[shard])
        known = path.read_bytes() if path.is_file() else b""
        index = parse_index(known, size=self.sizes[shard])
        return read_index(self.fetch(shard)) if index is None else index


def find_remote_shards(url: str, cache: RemoteCache, *, key: str = "shards") -> RemoteShards:
    """What lies behind `url`; its small files are fetched, shards only when they are read.

    Too small a cache is warned about. Raises ValueError, naming `key` and URL, where there are no
    shards, one is missing or larger than the cache, or access is denied; ConnectionError where
    the connection fails at every try.
    """
    make_writable_folder(cache.folder, key="cache")
    if masked(url) != url:
        _log.warning(
            "%s=%s: a password in a URL ends up in the shell's history; better give it through "
            "fsspec's configuration or the environment",
            key,
            masked(url),
        )
    found = _find(RemoteStore(url.rstrip("/")), cache, key=key)
    _check_room(found, key=key)
    _log.info(
        "%s=%s: %d shards, %s GB; what is read is kept in %s",
        key,
        found.url,
        len(found.files),
        _gigabytes(sum(found.sizes)),
        found.folder,
    )
    return found


def _find(store: RemoteStore, cache: RemoteCache, *, key: str) -> RemoteShards:
    try:
        content = store.read(MANIFEST)
    except FileNotFoundError:
        return _find_bare(store, cache, key=key)
    return _find_described(store, cache, content, key=key)


def fetch_all(url: str, cache: RemoteCache) -> Path:
    """The local folder that stands for `url`, with all its shards in it.

    Raises as `find_remote_shards` and `RemoteShards.fetch` do, and ValueError where the cache has
    no room for all.
    """
    shards = find_remote_shards(url, cache)
    if sum(shards.sizes) > cache.limit:
        raise ValueError(
            f"remote_cache_gb={cache.limit / GB:g}: less than the {_gigabytes(sum(shards.sizes))} "
            f"GB of shards={shards.url}, and all are needed at once; set at least that"
        )
    for shard in range(len(shards.files)):
        shards.fetch(shard)
    return shards.folder


def _find_described(
    store: RemoteStore, cache: RemoteCache, content: bytes, *, key: str
) -> RemoteShards:
    folder = _folder_for(store, cache, hashlib.sha256(content).hexdigest())
    with locked(folder):
        write_whole(folder / MANIFEST, content)
        manifest = _read_manifest(folder, store, key=key)
        files = [shard.file for shard in manifest.shards]
        sizes = [size for size, _ in _look_up(store, files)]
        _mirror_tables(store, folder, manifest)
        _mirror_indexes(store, folder, files)
    return RemoteShards(
        store=store,
        cache=cache,
        folder=folder,
        files=tuple(files),
        sizes=tuple(sizes),
        digests=tuple(shard.sha256 for shard in manifest.shards),
    )


def _find_bare(store: RemoteStore, cache: RemoteCache, *, key: str) -> RemoteShards:
    """Shards without a manifest, as the seed's are."""
    try:
        files = _labelled(store.names())
    except FileNotFoundError:
        files = []
    if not files:
        raise ValueError(
            f"{key}={masked(store.url)}: holds no {MANIFEST} and no train*.tfrec; check the URL "
            "and the endpoint, and copy a folder made by dr.prepare there"
        )
    _log.warning(
        "%s=%s: has no %s, so what is fetched is verified by its size only",
        key,
        masked(store.url),
        MANIFEST,
    )
    looks = _look_up(store, files)
    folder = _folder_for(store, cache, digest_of([files, looks]))
    with locked(folder):
        _mirror_indexes(store, folder, files)
    return RemoteShards(
        store=store,
        cache=cache,
        folder=folder,
        files=tuple(files),
        sizes=tuple(size for size, _ in looks),
        digests=(None,) * len(files),
    )


def _folder_for(store: RemoteStore, cache: RemoteCache, version: str) -> Path:
    """Named by the URL, without credentials, and by what is there: new shards, new folder."""
    folder = cache.folder / digest_of([masked(store.url), version])[:16]
    folder.mkdir(exist_ok=True)
    return folder


def _labelled(names: Sequence[str]) -> list[str]:
    found = [name for name in names if re.fullmatch(r"train\d+-\d+\.tfrec", name)]
    return sorted(found, key=lambda name: [int(part) for part in re.findall(r"\d+", name)])


def _read_manifest(folder: Path, store: RemoteStore, *, key: str) -> Manifest:
    try:
        manifest = read_manifest(folder)
        assert manifest is not None, "it was just written"
        strange = [
            shard.file
            for shard in manifest.shards
            if not re.fullmatch(r"\w[\w.-]*\.tfrec", str(shard.file))
        ]
        if strange:
            raise ValueError(f"{strange[0]!r} is no shard's name")
    except ValueError as error:
        raise ValueError(f"{key}={masked(store.url)}: {error}") from error
    return manifest


def _look_up(store: RemoteStore, files: Sequence[str]) -> list[tuple[int, str]]:
    """Size and version of each shard."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        try:
            return list(pool.map(store.size_and_version, files))
        except FileNotFoundError as error:
            raise ValueError(f"{error}, though the manifest names it; copy it there") from error


def _mirror_tables(store: RemoteStore, folder: Path, manifest: Manifest) -> None:
    try:
        _mirror_verified(store, folder / RECORDS, manifest.records_sha256)
    except FileNotFoundError as error:
        raise ValueError(f"{error}, though the manifest names it; copy it there") from error
    further = {SIGNATURES: manifest.signatures_sha256, DUPLICATES: manifest.duplicates_sha256}
    for name, sha256 in further.items():
        if sha256:
            with suppress(FileNotFoundError):
                _mirror_verified(store, folder / name, sha256)


def _mirror_verified(store: RemoteStore, path: Path, sha256: str) -> None:
    if path.is_file() and digest_of_file(path) == sha256:
        return
    for again in (True, False):
        content = store.read(path.name)
        found = hashlib.sha256(content).hexdigest()
        if found == sha256:
            write_whole(path, content)
            return
        _check_digest(store.spell(path.name), sha256, found, again=again)


def _mirror_indexes(store: RemoteStore, folder: Path, files: Sequence[str]) -> None:
    names = [index_path(Path(file)).name for file in files]

    def mirror(name: str) -> None:
        try:
            write_whole(folder / name, store.read(name))
        except FileNotFoundError:
            _log.info("%s: is missing; the shard is searched instead", store.spell(name))

    with ThreadPoolExecutor(_AT_ONCE) as pool:
        list(pool.map(mirror, [name for name in names if not (folder / name).is_file()]))


def _check_digest(where: str, expected: str | None, found: str, *, again: bool) -> None:
    if not again:
        raise ValueError(
            f"{where}: its SHA-256 is {found}, and the manifest says {expected}; it was changed "
            "or damaged there: copy the folder there anew"
        )
    _log.warning("%s: did not arrive with the digest of the manifest; fetching it again", where)


def _check_room(shards: RemoteShards, *, key: str) -> None:
    cache, largest = shards.cache, max(shards.sizes)
    if largest > cache.limit:
        raise ValueError(
            f"remote_cache_gb={cache.limit / GB:g}: {key}={shards.url} has a shard of "
            f"{_gigabytes(largest)} GB; set at least that"
        )
    cache.claims[shards.folder.name] = sum(shards.sizes)
    total = sum(cache.claims.values())
    if total > cache.limit:
        _log.warning(
            "remote_cache_gb=%g: less than the %s GB of shards that are read, so every shuffled "
            "epoch fetches them again and again; set at least %s",
            cache.limit / GB,
            _gigabytes(total),
            _gigabytes(total),
        )


def _gigabytes(size: int) -> str:
    """Rounded up in the third digit, so that what is shown is enough."""
    return f"{-(-size * 1000 // GB) / 1000:g}"
