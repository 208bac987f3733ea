"""Shards in S3, as a local server plays it: `s3://` from the first request to the result."""

import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

import fsspec
import fsspec.config
import pytest
import s3fs
import yaml
from moto.server import ThreadedMotoServer

from dr.config import TrainConfig
from dr.shards import remote_store
from dr.shards.joining import open_entry
from dr.shards.opening import open_shards
from dr.shards.remote_cache import RemoteCache
from dr.shards.shard_set import ShardSet

URL = "s3://eyes/prepared/tiny"


@pytest.fixture(scope="module")
def server() -> Iterator[tuple[str, int]]:
    """Host and port of an S3 server."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    moto = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    moto.start()
    yield moto.get_host_and_port()
    moto.stop()


@pytest.fixture
def use_endpoint(monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """`use_endpoint(url)`: what `FSSPEC_S3_ENDPOINT_URL` does when it is set from the start."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setattr(remote_store, "PAUSES", (0.0, 0.0))
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)

    def use(url: str) -> None:
        options = {
            "endpoint_url": url,
            "skip_instance_cache": True,
            "config_kwargs": {"retries": {"max_attempts": 0}},
        }
        monkeypatch.setitem(fsspec.config.conf, "s3", options)
        remote_store._file_system.cache_clear()

    return use


@pytest.fixture
def bucket(server: tuple[str, int], use_endpoint: Callable[[str], None], packed: Path) -> str:
    """The URL of the three shards."""
    use_endpoint(f"http://{server[0]}:{server[1]}")
    system, root = fsspec.core.url_to_fs(URL)
    if not system.exists("eyes"):
        system.mkdir("eyes")
    for path in packed.iterdir():
        system.pipe(f"{root}/{path.name}", path.read_bytes())
    return URL


class CuttingProxy:
    """Passes connections on to a server, and cuts some answers off after a number of bytes."""

    def __init__(self, server: tuple[str, int]) -> None:
        self.server, self.cuts, self.after = server, 0, 0
        self.cut = 0
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self.listener.accept()
            except OSError:
                return
            behind = socket.create_connection(self.server)
            for source, target, answers in ((client, behind, False), (behind, client, True)):
                arguments = (source, target, answers)
                threading.Thread(target=self._pass, args=arguments, daemon=True).start()

    def _pass(self, source: socket.socket, target: socket.socket, answers: bool) -> None:
        passed = 0
        with suppress(OSError):
            while data := source.recv(1024):
                if answers and self.cuts and passed + len(data) > self.after:
                    self.cuts, self.cut = self.cuts - 1, self.cut + 1
                    break
                target.sendall(data)
                passed += len(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)


@pytest.fixture
def proxy(server: tuple[str, int]) -> Iterator[CuttingProxy]:
    proxy = CuttingProxy(server)
    yield proxy
    proxy.listener.close()


@pytest.fixture
def cache(tmp_path: Path) -> RemoteCache:
    return RemoteCache.within(tmp_path / "cache", None)


def open_url(cache: RemoteCache, url: str = URL) -> ShardSet:
    return open_entry(url, cache=cache, key="shards")


def test_shards_in_a_bucket_read_as_those_in_a_folder(
    bucket: str, cache: RemoteCache, packed: Path
) -> None:
    shards, local = open_url(cache), open_shards(packed)
    assert not list(cache.folder.glob("*/*.tfrec"))
    assert shards.table.equals(local.table)
    assert (shards.digest, shards.place) == (local.digest, bucket)
    assert [shards.read(n) for n in range(60)] == [local.read(n) for n in range(60)]
    assert len(list(cache.folder.glob("*/*.tfrec"))) == 3


def test_shards_in_a_bucket_need_no_manifest(
    bucket: str, cache: RemoteCache, packed: Path, tmp_path: Path
) -> None:
    system, root = fsspec.core.url_to_fs("s3://eyes/bare")
    bare = tmp_path / "bare"
    bare.mkdir()
    for path in packed.glob("*.tf*"):
        system.pipe(f"{root}/{path.name}", path.read_bytes())
        (bare / path.name).write_bytes(path.read_bytes())
    shards, local = open_url(cache, "s3://eyes/bare"), open_shards(bare)
    assert shards.digest == local.digest
    assert [shards.read(n) for n in range(60)] == [local.read(n) for n in range(60)]


@pytest.mark.parametrize("after", [0, 200, 5000])
def test_a_connection_cut_in_the_middle_is_tried_again(
    bucket: str,
    cache: RemoteCache,
    packed: Path,
    proxy: CuttingProxy,
    use_endpoint: Callable[[str], None],
    after: int,
) -> None:
    use_endpoint(f"http://127.0.0.1:{proxy.port}")
    shards = open_url(cache)
    proxy.cuts, proxy.after = 2, after
    assert shards.read(25) == open_shards(packed).read(25)
    assert proxy.cut == 2


def test_a_server_that_went_away_is_named(
    bucket: str,
    cache: RemoteCache,
    proxy: CuttingProxy,
    use_endpoint: Callable[[str], None],
) -> None:
    use_endpoint(f"http://127.0.0.1:{proxy.port}")
    shards = open_url(cache)
    proxy.cuts, proxy.after = 1000, 0
    with pytest.raises(ConnectionError, match=rf"{bucket}/train01-25\.tfrec: .* 3 tries"):
        shards.read(25)
    assert not list(cache.folder.glob("*/*.tfrec"))


def test_a_bucket_or_folder_that_is_not_there(bucket: str, cache: RemoteCache) -> None:
    for url in ("s3://nobody/prepared", "s3://eyes/elsewhere"):
        with pytest.raises(ValueError, match=f"shards={url}: holds no manifest"):
            open_url(cache, url)


def test_without_credentials_they_are_asked_for(
    bucket: str,
    cache: RemoteCache,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "none"))
    remote_store._file_system.cache_clear()
    with pytest.raises(ValueError, match=r"access is denied; check the credentials.*AWS_PROFILE"):
        open_url(cache)


def test_with_wrong_credentials_access_is_denied(
    bucket: str, cache: RemoteCache, server: tuple[str, int]
) -> None:
    import requests

    reset = f"http://{server[0]}:{server[1]}/moto-api/reset-auth"
    requests.post(reset, data=b"0", timeout=20)
    try:
        with pytest.raises(ValueError, match="access is denied") as raised:
            open_url(cache)
    finally:
        requests.post(reset, data=b"inf", timeout=20)
    assert "secret" not in str(raised.value)


def test_a_training_from_a_bucket_is_the_run_of_its_folder(
    bucket: str,
    packed: Path,
    tiny_config: Callable[..., TrainConfig],
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    from dr.training.cross_validation import cross_validate

    changes = ("folds=1", "epochs=1", f"cache={tmp_path / 'cache'}")
    remote = cross_validate(tiny_config(*changes, f"shards={bucket}", "remote_cache_gb=0.5"))
    assert remote.result["complete"]
    assert remote.result["data"]["shards"] == bucket
    assert yaml.safe_load((remote.folder / "config.yaml").read_text())["shards"] == bucket
    local = cross_validate(tiny_config(*changes, f"shards={packed}"))
    assert local.folder == remote.folder
    assert "THIS RUN IS FINISHED" in caplog.text
