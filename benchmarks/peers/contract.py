"""What every contender is given and gives."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

Batches = Iterator[tuple[NDArray[np.uint8], NDArray[np.int64]]]
"""Images `[B, S, S, 3]`, RGB, and labels `[B]`."""

Epoch = Callable[[int], Batches]


@dataclass(frozen=True, kw_only=True)
class Run:
    """`folder` holds all data; `threads` is how many threads or processes may work."""

    folder: Path
    batch_size: int
    image_size: int
    threads: int


@dataclass(frozen=True, kw_only=True)
class Contender:
    """A row of the table.

    `data` is the folder its module writes, None where it reads what is there. `cores` says how
    the cores are used. `fast`: its pixels are those of libjpeg-turbo's fast DCT, not of the exact
    one. `delivers` is False for the bare decode, which keeps no picture.
    """

    name: str
    module: str
    data: str | None
    cores: str
    options: dict[str, Any]
    fast: bool = False
    delivers: bool = True


def _torch(name: str, module: str, decoder: str) -> Contender:
    """A loader under torch's DataLoader, which lets its user choose the decoder."""
    return Contender(
        name=f"{name} ({decoder})",
        module=module,
        data=None if module == "image_folder" else module,
        cores="processes",
        options={"decoder": decoder},
    )


def _choosing(name: str, module: str, *, fast: bool) -> Contender:
    """A loader with its own decoder, which offers libjpeg-turbo's exact and its fast DCT."""
    return Contender(
        name=f"{name} (fast DCT)" if fast else name,
        module=module,
        data="tf_data",
        cores="threads",
        options={"fast": fast},
        fast=fast,
    )


CONTENDERS = (
    Contender(
        name="turbo",
        module="limit",
        data=None,
        cores="threads",
        options={},
        delivers=False,
    ),
    Contender(
        name="turbo (fast DCT)",
        module="limit",
        data=None,
        cores="threads",
        options={"fast": True},
        delivers=False,
    ),
    Contender(
        name="turbo (into batches)",
        module="limit",
        data=None,
        cores="threads",
        options={"keep": True},
    ),
    Contender(name="dr", module="ours", data=None, cores="threads", options={}),
    Contender(
        name="dr (fast DCT)",
        module="ours",
        data=None,
        cores="threads",
        options={"dct": "fast"},
        fast=True,
    ),
    *(
        _choosing(name, module, fast=fast)
        for name, module in (("tf.data", "tf_data"), ("DALI", "dali"))
        for fast in (False, True)
    ),
    Contender(
        name="FFCV jpg (fast DCT)",
        module="ffcv_loader",
        data="ffcv_jpg",
        cores="threads",
        options={"mode": "jpg"},
        fast=True,
    ),
    *(
        _torch(name, module, decoder)
        for decoder in ("turbo", "pillow")
        for name, module in (
            ("ImageFolder", "image_folder"),
            ("WebDataset", "web_dataset"),
            ("tfrecord", "tfrecord_package"),
            ("Streaming", "mosaic"),
        )
    ),
    Contender(
        name="dr cached", module="ours", data=None, cores="threads", options={"cache": "decoded"}
    ),
    Contender(
        name="FFCV raw",
        module="ffcv_loader",
        data="ffcv_raw",
        cores="threads",
        options={"mode": "raw"},
    ),
)

AUGMENTED = (
    Contender(
        name="dr, augmented",
        module="augmented",
        data=None,
        cores="threads",
        options={"augment": "seed", "where": "workers"},
        delivers=False,
    ),
    Contender(
        name="dr, augmented on the device",
        module="augmented",
        data=None,
        cores="threads",
        options={"augment": "seed", "where": "device"},
        delivers=False,
    ),
    Contender(
        name="tf.data, augmented as pictures",
        module="tf_data",
        data="tf_data",
        cores="threads",
        options={"fast": False, "augment": "picture"},
        delivers=False,
    ),
    Contender(
        name="tf.data, augmented as batches",
        module="tf_data",
        data="tf_data",
        cores="threads",
        options={"fast": False, "augment": "batch"},
        delivers=False,
    ),
)
"""What `benchmarks.augmentation` compares; their pictures are changed, so no pixel is checked."""
