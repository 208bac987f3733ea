"""The pictures of shards at the training size: decoded each time, or from a decoded cache."""

from collections.abc import Callable
from pathlib import Path

from dr.config import LoaderConfig
from dr.loading.decoded_cache import CachePlan, Picture, open_decoded_cache
from dr.loading.decoding import JpegPictures
from dr.loading.resources import resources_here
from dr.shards.shard_set import ShardSet


def open_pictures(
    shards: ShardSet,
    *,
    image_size: int,
    config: LoaderConfig,
    cache: Path,
    done: Callable[[int], None] = lambda count: None,
) -> Picture:
    """What fills an array uint8 `[image_size, image_size, 3]` with a record's picture.

    With `loader.cache=decoded` the cache is built below `cache` first, where it is not there;
    `done` is told how many pictures were added. Raises as `open_decoded_cache` does.
    """
    decoded = JpegPictures(shards.read_image, shards.spell, fast_dct=config.dct == "fast")
    if config.cache == "none":
        return decoded
    plan = CachePlan(
        digest=shards.digest,
        records=len(shards),
        size=image_size,
        picture=decoded,
        dct=config.dct,
        skip=config.on_corrupt == "skip",
    )
    return open_decoded_cache(cache, plan, threads=resources_here().threads(config), done=done)
