"""MosaicML Streaming, from a local folder."""

from pathlib import Path

from benchmarks.peers.contract import Epoch, Run
from benchmarks.peers.decoding import DECODERS
from benchmarks.peers.pictures import Pictures
from benchmarks.peers.torch_loader import epochs_of

PACKAGES = ("mosaicml-streaming", "torch", "pillow", "simplejpeg")


def write(pictures: Pictures, folder: Path) -> None:
    from streaming import MDSWriter

    with MDSWriter(out=str(folder), columns={"image": "bytes", "label": "int"}) as writer:
        for _, jpeg, label in pictures:
            writer.write({"image": jpeg, "label": label})


def open_epochs(run: Run, *, decoder: str) -> Epoch:
    from streaming import StreamingDataset
    from streaming.base.util import clean_stale_shared_memory

    decode = DECODERS[decoder]

    class Decoded(StreamingDataset):  # type: ignore[misc]
        def __getitem__(self, record):  # type: ignore[no-untyped-def]
            sample = super().__getitem__(record)
            return decode(sample["image"]), sample["label"]

    clean_stale_shared_memory()
    data = Decoded(local=str(run.folder / "mosaic"), shuffle=True, batch_size=run.batch_size)
    return epochs_of(data, run)
