"""Shards go both ways between this project and TensorFlow.

Where TensorFlow is installed it reads and writes here, in a process of its own: it and the
`tfrecord` package give protobuf the same names, and one process has room for one of them.
Everywhere else `tensorflow.json` stands in: what TensorFlow wrote and read, made by
`python tests/shards/test_tensorflow.py facts`.
"""

import base64
import hashlib
import importlib.util
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import simplejpeg

from dr.shards.index import index_path, write_index
from dr.shards.opening import open_shards
from dr.shards.records import Record, decode_example, encode_example, open_frame, write_frame

FACTS = Path(__file__).with_name("tensorflow.json")
SEED_ROWS = ((10, 0, 2), (10, 1, 3), (13, 0, 4))
NUMBERS = ("patient_id", "side", "label")


def picture() -> np.ndarray:
    """uint8 [16, 16, 3]: red grows to the right, green downwards."""
    red, green = np.meshgrid(np.arange(16) * 16, np.arange(16) * 16)
    return np.stack([red, green, np.full_like(red, 90)], axis=2).astype(np.uint8)


def our_records() -> list[Record]:
    _, jpeg = cv2.imencode(".jpg", picture()[..., ::-1])
    image = bytes(jpeg)
    return [
        Record(image, 10, 0, 2, "10_left", "10"),
        Record(image, 10, 1, 0, "10_right", "10"),
        Record(image, 2**40, -1, 4, "Ünïcode (é)", "Ü"),
    ]


def ours(records: list[Record]) -> bytes:
    file = io.BytesIO()
    for record in records:
        write_frame(file, encode_example(record))
    return file.getvalue()


def as_fields(record: Record) -> dict[str, Any]:
    """A record as `read_with_tensorflow` gives it."""
    fields = {name: getattr(record, name) for name in (*NUMBERS, "name", "patient")}
    return {"image": hashlib.sha256(record.image).hexdigest(), **fields}


def read_with_tensorflow(path: Path) -> list[dict[str, Any]]:
    import tensorflow as tf

    text = {key: tf.io.FixedLenFeature([], tf.string) for key in ("image", "name", "patient")}
    numbers = {key: tf.io.FixedLenFeature([], tf.int64) for key in NUMBERS}
    data = tf.data.TFRecordDataset(str(path))
    read = []
    for entry in data.map(lambda example: tf.io.parse_single_example(example, {**text, **numbers})):
        fields = {key: int(entry[key].numpy()) for key in NUMBERS}
        names = {key: entry[key].numpy().decode() for key in ("name", "patient")}
        image = hashlib.sha256(entry["image"].numpy()).hexdigest()
        read.append({"image": image, **fields, **names})
    return read


def write_with_tensorflow(path: Path, *, compression: str = "") -> None:
    """A shard of the seed's schema, as its notebook wrote it."""
    import tensorflow as tf

    image = tf.io.encode_jpeg(picture(), quality=94).numpy()
    with tf.io.TFRecordWriter(str(path), compression) as writer:
        for row in SEED_ROWS:
            numbers = {
                key: tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))
                for key, value in zip(NUMBERS, row, strict=True)
            }
            jpeg = tf.train.Feature(bytes_list=tf.train.BytesList(value=[image]))
            features = tf.train.Features(feature={"image": jpeg, **numbers})
            writer.write(tf.train.Example(features=features).SerializeToString())


def check_seed_shard(folder: Path) -> None:
    """A folder with what `write_with_tensorflow` wrote opens as the seed's shards do."""
    shards = open_shards(folder)
    assert shards.table.to_dict("list") == {
        "name": ["10_left", "10_right", "13_left"],
        "patient": ["10", "10", "13"],
        "side": [0, 1, 0],
        "label": [2, 3, 4],
    }
    assert shards.image_size == 16
    for number, (patient_id, side, label) in enumerate(SEED_ROWS):
        record = shards.read(number)
        assert (record.patient_id, record.side, record.label) == (patient_id, side, label)
        decoded = simplejpeg.decode_jpeg(record.image)
        assert np.abs(decoded.astype(int) - picture()).mean() < 4


@pytest.fixture(scope="module")
def facts() -> dict[str, Any]:
    stored: dict[str, Any] = json.loads(FACTS.read_text())
    return stored


def test_a_shard_that_tensorflow_wrote_is_read(tmp_path: Path, facts: dict[str, Any]) -> None:
    (tmp_path / "train00-3.tfrec").write_bytes(base64.b64decode(facts["theirs"]))
    check_seed_shard(tmp_path)


def test_our_frame_of_tensorflows_example_is_tensorflows_frame(facts: dict[str, Any]) -> None:
    shard = base64.b64decode(facts["theirs"])
    length = int.from_bytes(shard[:8], "little")
    example = shard[12 : 12 + length]
    file = io.BytesIO()
    write_frame(file, example)
    assert shard[: length + 16] == file.getvalue()
    assert decode_example(open_frame(file.getvalue())).patient_id == 10


def test_our_bytes_are_those_that_tensorflow_read_rightly(facts: dict[str, Any]) -> None:
    shard = base64.b64decode(facts["ours"])
    images = [fields["image"] for fields in facts["read"]]
    records = [decode_example(open_frame(frame)) for frame in frames(shard)]
    assert ours(records) == shard
    assert [as_fields(record) for record in records] == facts["read"]
    assert len(set(images)) == 1


def frames(shard: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(shard):
        length = int.from_bytes(shard[at : at + 8], "little") + 16
        found.append(shard[at : at + length])
        at += length
    return found


def by_tensorflow(task: str, *arguments: str | Path) -> str:
    """What a task of this file prints in a process that has TensorFlow."""
    if importlib.util.find_spec("tensorflow") is None:
        pytest.skip("TensorFlow is not installed")
    command = [sys.executable, __file__, task, *map(str, arguments)]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def our_shard(folder: Path) -> Path:
    path = folder / "train00-3.tfrec"
    path.write_bytes(ours(our_records()))
    write_index(path)
    return path


def test_tensorflow_reads_our_shards(tmp_path: Path) -> None:
    read = by_tensorflow("read", our_shard(tmp_path))
    assert json.loads(read) == [as_fields(record) for record in our_records()]


def test_the_seeds_way_of_reading_reads_our_shards(tmp_path: Path) -> None:
    read = json.loads(by_tensorflow("read_as_seed", our_shard(tmp_path)))
    for (pixels, label), record in zip(read, our_records(), strict=True):
        decoded = simplejpeg.decode_jpeg(record.image)
        assert pixels == hashlib.sha256(decoded.tobytes()).hexdigest()
        assert label == record.label


def test_we_read_what_tensorflow_writes(tmp_path: Path) -> None:
    path = tmp_path / "train00-3.tfrec"
    by_tensorflow("write", path)
    check_seed_shard(tmp_path)
    assert index_path(path).is_file()


def test_a_shard_that_tensorflow_compressed_says_what_to_do(tmp_path: Path) -> None:
    by_tensorflow("write", tmp_path / "train00-3.tfrec", "GZIP")
    with pytest.raises(ValueError, match=r"train00-3\.tfrec: record 0, .*gzip; unpack it"):
        open_shards(tmp_path)


def read_as_seed(path: Path) -> list[tuple[str, int]]:
    """A digest of the pixels and the label of each record, read as the seed's notebook did."""
    import tensorflow as tf

    spec = {"image": tf.io.FixedLenFeature([], tf.string)}
    spec |= {key: tf.io.FixedLenFeature([], tf.int64) for key in NUMBERS}
    read = []
    for example in tf.data.TFRecordDataset([str(path)], num_parallel_reads=2):
        entry = tf.io.parse_single_example(example, spec)
        pixels = tf.io.decode_jpeg(entry["image"], channels=3, dct_method="INTEGER_ACCURATE")
        digest = hashlib.sha256(pixels.numpy().tobytes()).hexdigest()
        read.append((digest, int(entry["label"])))
    return read


def make_facts() -> None:
    """Write `tensorflow.json` with the TensorFlow that is installed."""
    with tempfile.TemporaryDirectory() as folder:
        theirs, own = Path(folder) / "theirs", Path(folder) / "own"
        version = by_tensorflow("write", theirs).strip()
        own.write_bytes(ours(our_records()))
        facts = {
            "made": f"tensorflow {version}, by python tests/shards/test_tensorflow.py facts",
            "theirs": base64.b64encode(theirs.read_bytes()).decode(),
            "ours": base64.b64encode(own.read_bytes()).decode(),
            "read": json.loads(by_tensorflow("read", own)),
        }
    FACTS.write_text(json.dumps(facts, indent=1, ensure_ascii=False) + "\n")


def main(task: str, *arguments: str) -> None:
    if task == "facts":
        make_facts()
    elif task == "write":
        import tensorflow as tf

        path, compression = [*arguments, ""][:2]
        write_with_tensorflow(Path(path), compression=compression)
        print(tf.__version__)
    else:
        read = {"read": read_with_tensorflow, "read_as_seed": read_as_seed}[task]
        print(json.dumps(read(Path(arguments[0]))))


if __name__ == "__main__":
    main(*sys.argv[1:])
