"""This project: shards through `BatchLoader`, decoded each epoch or from the decoded cache."""

import numpy as np

from benchmarks.peers.contract import Batches, Epoch, Run
from dr.config import LoaderConfig
from dr.loading.batches import BatchLoader
from dr.loading.decoded_cache import CachePlan, Picture, open_decoded_cache
from dr.loading.decoding import JpegPictures
from dr.loading.sampler import training_batches
from dr.shards.opening import open_shards
from dr.shards.shard_set import ShardSet

PACKAGES = ("simplejpeg", "crc32c", "numpy")


def open_epochs(run: Run, *, cache: str = "none") -> Epoch:
    shards = open_shards(run.folder / "dr")
    config = LoaderConfig(threads=run.threads, cache=cache)
    pictures = _pictures(shards, run, config)
    loader = BatchLoader(image_size=run.image_size, config=config, pictures=pictures)
    labels = shards.table["label"].to_numpy()
    records = np.arange(len(shards))

    def epoch(number: int) -> Batches:
        plan = training_batches(records, batch_size=run.batch_size, seed=0, epoch=number)
        for batch in loader.batches(plan):
            yield batch.images, labels[batch.records]

    return epoch


def _pictures(shards: ShardSet, run: Run, config: LoaderConfig) -> Picture:
    decoded = JpegPictures(shards.read_image, shards.spell)
    if config.cache == "none":
        return decoded
    plan = CachePlan(
        digest=shards.digest, records=len(shards), size=run.image_size, picture=decoded
    )
    return open_decoded_cache(run.folder / "cache", plan, threads=run.threads)
