"""What to change where training waits for its pictures."""

from dr.config import LoaderConfig
from dr.loading.resources import Resources

NOTABLE_WAIT = 0.1


def advice(
    config: LoaderConfig,
    resources: Resources,
    *,
    image_size: int,
    shard_size: int,
    transforms: int,
) -> str:
    """What would make pictures come faster, the most effective first, in one line.

    `image_size` is that of training, `shard_size` that of the pictures in the shards, both in
    pixels; `transforms` counts those that the loader's threads apply.
    """
    changes = []
    if config.threads is not None and config.threads < resources.cores:
        changes.append(f"loader.threads={resources.cores} (now {config.threads})")
    if config.cache == "none":
        changes.append("loader.cache=decoded")
        if shard_size > image_size:
            changes.append(f"shards of {image_size} px instead of {shard_size}")
    if transforms:
        changes.append("fewer of augment.transforms (on a GPU, augment.where=device)")
    return " or ".join(changes) or "more cores for each device, or a larger model"
