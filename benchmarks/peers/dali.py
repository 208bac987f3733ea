"""NVIDIA DALI on the CPU: its TFRecord reader and image decoder."""

import numpy as np

from benchmarks.peers.contract import Batches, Epoch, Run
from benchmarks.peers.tf_data import BUFFER, write

PACKAGES = ("nvidia-dali-cuda120",)
__all__ = ["PACKAGES", "open_epochs", "write"]


def open_epochs(run: Run, *, fast: bool) -> Epoch:
    from nvidia.dali import fn, pipeline_def, tfrecord, types

    folder = run.folder / "tf_data"
    files = sorted(folder.glob("*.tfrec"))

    @pipeline_def(batch_size=run.batch_size, num_threads=run.threads, device_id=None, seed=1)
    def pipeline():  # type: ignore[no-untyped-def]
        features = fn.readers.tfrecord(
            path=[str(path) for path in files],
            index_path=[str(path.with_suffix(".tfindex")) for path in files],
            features={
                "image": tfrecord.FixedLenFeature((), tfrecord.string, ""),
                "label": tfrecord.FixedLenFeature([1], tfrecord.int64, -1),
            },
            random_shuffle=True,
            initial_fill=BUFFER,
            name="reader",
        )
        images = fn.decoders.image(
            features["image"], device="cpu", output_type=types.RGB, use_fast_idct=fast
        )
        return images, features["label"]

    pipe = pipeline()
    pipe.build()
    steps = pipe.epoch_size("reader") // run.batch_size

    def epoch(number: int) -> Batches:
        del number
        for _ in range(steps):
            images, labels = pipe.run()
            yield np.asarray(images.as_tensor()), np.asarray(labels.as_tensor())

    return epoch
