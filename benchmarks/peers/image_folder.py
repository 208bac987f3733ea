"""torchvision's ImageFolder: a file a picture, in class folders."""

from pathlib import Path

from benchmarks.peers.contract import Epoch, Run
from benchmarks.peers.decoding import DECODERS
from benchmarks.peers.torch_loader import epochs_of

PACKAGES = ("torch", "torchvision", "pillow", "simplejpeg")


def open_epochs(run: Run, *, decoder: str) -> Epoch:
    from torchvision.datasets import ImageFolder

    decode = DECODERS[decoder]
    folder = ImageFolder(
        str(run.folder / "pictures"), loader=lambda path: decode(Path(path).read_bytes())
    )
    return epochs_of(folder, run, shuffle=True, drop_last=True)
