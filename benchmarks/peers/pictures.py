"""The pictures every contender's data is made of, and the proof that each arrived."""

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from benchmarks.peers.contract import Batches

Signatures = NDArray[np.float64]
TOLERANCE = 0.02
"""How far, in gray levels, a delivered picture's signature may be from the truth."""


class Pictures:
    """Prepared JPEGs as a tree of class folders: `<label>/<number>.jpeg`."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.paths = sorted(folder.glob("*/*.jpeg"), key=lambda path: int(path.stem))
        self.labels = np.array([int(path.parent.name) for path in self.paths])

    def __len__(self) -> int:
        return len(self.paths)

    def __iter__(self) -> Iterator[tuple[int, bytes, int]]:
        for number, (path, label) in enumerate(zip(self.paths, self.labels, strict=True)):
            yield number, path.read_bytes(), int(label)


def signatures(images: NDArray[np.uint8]) -> Signatures:
    """The mean of each channel over each quarter of each picture, float64 `[B, 12]`."""
    batch, side = images.shape[:2]
    quarters = images.reshape(batch, 2, side // 2, 2, side // 2, 3)
    means: Signatures = quarters.mean(axis=(2, 4), dtype=np.float64)
    return means.reshape(batch, 12)


def decoded_signatures(pictures: Pictures, *, fast: bool) -> Signatures:
    """What the pictures' signatures are, decoded one by one with the exact or the fast DCT."""
    decoded = (simplejpeg.decode_jpeg(jpeg, fastdct=fast)[None] for _, jpeg, _ in pictures)
    return np.concatenate([signatures(image) for image in decoded])


def check_epoch(batches: Batches, pictures: Pictures, truth: Signatures) -> None:
    """Raise ValueError unless an epoch delivers every picture once, whole, shuffled, labelled."""
    found: list[Signatures] = []
    labels: list[int] = []
    for images, batch_labels in batches:
        if images.dtype != np.uint8 or images.shape[1] != images.shape[2]:
            raise ValueError(f"a batch is {images.dtype} {images.shape}")
        found.append(signatures(images))
        labels += batch_labels.ravel().tolist()
    nearest, distance = _match(np.concatenate(found), np.array(labels), pictures.labels, truth)
    if distance.max() > TOLERANCE:
        raise ValueError(f"a picture is off by {distance.max():.2f} gray levels from its JPEG")
    identity = _identities(pictures.labels, truth)
    if Counter(identity[nearest]) != Counter(identity):
        raise ValueError(f"of {len(pictures)} pictures not each was delivered once")
    if np.mean(identity[nearest] == identity) > 0.1:
        raise ValueError("the pictures come in the order in which they are stored")


def _match(
    found: Signatures, labels: NDArray[np.int64], own: NDArray[np.int64], truth: Signatures
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """For each delivered picture the nearest of its label, and how far that is."""
    gaps = np.abs(found[:, None] - truth[None]).max(axis=2)
    gaps[labels[:, None] != own[None]] = np.inf
    nearest = gaps.argmin(axis=1)
    return nearest, gaps[np.arange(len(found)), nearest]


def _identities(labels: NDArray[np.int64], truth: Signatures) -> NDArray[np.int64]:
    """One number for pictures that are the same and have the same label."""
    rows = np.column_stack([labels, truth])
    return np.unique(rows, axis=0, return_inverse=True)[1].ravel()
