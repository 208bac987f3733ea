"""tf.data over TFRecord files: interleaved, shuffled, parsed and decoded in parallel."""

import os
from pathlib import Path

from benchmarks.peers.contract import Batches, Epoch, Run
from benchmarks.peers.pictures import Pictures
from benchmarks.peers.records import write_records
from benchmarks.peers.tf_augment import augmented_batches

PACKAGES = ("tensorflow-cpu", "tensorflow")
FILES = 8
BUFFER = 1000


def write(pictures: Pictures, folder: Path) -> None:
    write_records(pictures, folder, files=FILES)


def open_epochs(run: Run, *, fast: bool, augment: str = "none") -> Epoch:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(run.threads)
    tf.config.threading.set_inter_op_parallelism_threads(run.threads)
    schema = {
        "image": tf.io.FixedLenFeature([], tf.string),
        "label": tf.io.FixedLenFeature([], tf.int64),
    }

    method = "INTEGER_FAST" if fast else "INTEGER_ACCURATE"

    def decode(example):  # type: ignore[no-untyped-def]
        features = tf.io.parse_single_example(example, schema)
        image = tf.io.decode_jpeg(features["image"], channels=3, dct_method=method)
        return tf.ensure_shape(image, (run.image_size, run.image_size, 3)), features["label"]

    files = sorted(str(path) for path in (run.folder / "tf_data").glob("*.tfrec"))
    data = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files))
    data = data.interleave(
        tf.data.TFRecordDataset, cycle_length=FILES, num_parallel_calls=1, deterministic=False
    )
    data = data.shuffle(BUFFER)
    data = data.map(decode, num_parallel_calls=tf.data.AUTOTUNE, deterministic=False)
    if augment == "none":
        data = data.batch(run.batch_size, drop_remainder=True)
    else:
        data = augmented_batches(data, augment=augment, batch_size=run.batch_size)
    data = data.prefetch(tf.data.AUTOTUNE)
    options = tf.data.Options()
    options.threading.private_threadpool_size = run.threads
    data = data.with_options(options)

    def epoch(number: int) -> Batches:
        del number
        yield from data.as_numpy_iterator()

    return epoch
