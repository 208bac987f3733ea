"""The `tfrecord` package: one file with its index, a share of it for each worker."""

from pathlib import Path
from typing import Any

from benchmarks.peers.contract import Epoch, Run
from benchmarks.peers.decoding import DECODERS
from benchmarks.peers.pictures import Pictures
from benchmarks.peers.records import write_records
from benchmarks.peers.torch_loader import epochs_of

PACKAGES = ("tfrecord", "torch", "pillow", "simplejpeg")
BUFFER = 1000


def write(pictures: Pictures, folder: Path) -> None:
    write_records(pictures, folder, files=1)


def open_epochs(run: Run, *, decoder: str) -> Epoch:
    from tfrecord.torch.dataset import TFRecordDataset

    decode = DECODERS[decoder]

    def transform(features: dict[str, Any]) -> tuple[Any, int]:
        return decode(bytes(features["image"])), int(features["label"][0])

    path = run.folder / "tfrecord_package" / "00.tfrec"
    data = TFRecordDataset(
        str(path),
        str(path.with_suffix(".tfindex")),
        {"image": "byte", "label": "int"},
        shuffle_queue_size=BUFFER // run.threads,
        transform=transform,
    )
    return epochs_of(data, run)
