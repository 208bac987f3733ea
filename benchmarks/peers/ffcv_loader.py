"""FFCV: its .beton file with the very JPEGs of the others, or with their raw pixels."""

from pathlib import Path
from typing import Any

import numpy as np
import simplejpeg

from benchmarks.peers.contract import Batches, Epoch, Run
from benchmarks.peers.pictures import Pictures

PACKAGES = ("ffcv", "numba")


class _Decoded:
    """What FFCV's writer indexes: pixels and label."""

    def __init__(self, pictures: Pictures) -> None:
        self._rows = [(jpeg, label) for _, jpeg, label in pictures]

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, row: int) -> tuple[Any, int]:
        jpeg, label = self._rows[row]
        return simplejpeg.decode_jpeg(jpeg), label


class _AsStored(_Decoded):
    """JPEG bytes and label."""

    def __getitem__(self, row: int) -> tuple[Any, int]:
        return self._rows[row]


def write(pictures: Pictures, folder: Path, *, mode: str) -> None:
    from ffcv.fields import IntField, RGBImageField
    from ffcv.fields.rgb_image import IMAGE_MODES
    from ffcv.writer import DatasetWriter

    class StoredJPEG(RGBImageField):  # type: ignore[misc]
        """FFCV's own field would compress the pixels anew, to other bytes than the others read."""

        def encode(self, destination: Any, image: bytes, malloc: Any) -> None:
            data = np.frombuffer(image, np.uint8)
            destination["mode"] = IMAGE_MODES["jpg"]
            header = simplejpeg.decode_jpeg_header(image)
            destination["height"], destination["width"] = header[:2]
            destination["data_ptr"], storage = malloc(data.nbytes)
            storage[:] = data

    field = StoredJPEG() if mode == "jpg" else RGBImageField(write_mode="raw")
    rows = _AsStored(pictures) if mode == "jpg" else _Decoded(pictures)
    writer = DatasetWriter(
        str(folder / "data.beton"), {"image": field, "label": IntField()}, num_workers=1
    )
    writer.from_indexed_dataset(rows)


def open_epochs(run: Run, *, mode: str) -> Epoch:
    from ffcv.fields import RGBImageField
    from ffcv.fields.decoders import IntDecoder, SimpleRGBImageDecoder
    from ffcv.loader import Loader, OrderOption

    loader = Loader(
        str(run.folder / f"ffcv_{mode}" / "data.beton"),
        batch_size=run.batch_size,
        num_workers=run.threads,
        os_cache=True,
        order=OrderOption.RANDOM,
        drop_last=True,
        custom_fields={"image": RGBImageField} if mode == "jpg" else {},
        pipelines={"image": [SimpleRGBImageDecoder()], "label": [IntDecoder()]},
    )

    def epoch(number: int) -> Batches:
        del number
        yield from loader

    return epoch
