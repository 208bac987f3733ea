"""This project: shards through `BatchLoader`, decoded each epoch or from the decoded cache."""

import numpy as np

from benchmarks.peers.contract import Batches, Epoch, Run
from dr.config import LoaderConfig
from dr.loading.batches import BatchLoader
from dr.loading.pictures import open_pictures
from dr.loading.sampler import training_batches
from dr.shards.opening import open_shards

PACKAGES = ("simplejpeg", "crc32c", "numpy")


def open_epochs(run: Run, *, cache: str = "none", dct: str = "exact") -> Epoch:
    shards = open_shards(run.folder / "dr")
    config = LoaderConfig(threads=run.threads, cache=cache, dct=dct)
    pictures = open_pictures(
        shards, image_size=run.image_size, config=config, cache=run.folder / "cache"
    )
    loader = BatchLoader(image_size=run.image_size, config=config, pictures=pictures)
    labels = shards.table["label"].to_numpy()
    records = np.arange(len(shards))

    def epoch(number: int) -> Batches:
        plan = training_batches(records, batch_size=run.batch_size, seed=0, epoch=number)
        for batch in loader.batches(plan):
            yield batch.images, labels[batch.records]

    return epoch
