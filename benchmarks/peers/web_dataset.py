"""WebDataset: tar files, shuffled by file and in a buffer."""

from pathlib import Path

from benchmarks.peers.contract import Epoch, Run
from benchmarks.peers.decoding import DECODERS
from benchmarks.peers.pictures import Pictures
from benchmarks.peers.torch_loader import epochs_of

PACKAGES = ("webdataset", "torch", "pillow", "simplejpeg")
FILES = 8
BUFFER = 1000


def write(pictures: Pictures, folder: Path) -> None:
    import webdataset

    writers = [webdataset.TarWriter(str(folder / f"{number:02d}.tar")) for number in range(FILES)]
    for number, jpeg, label in pictures:
        sample = {"__key__": f"{number:06d}", "jpg": jpeg, "cls": str(label)}
        writers[number % FILES].write(sample)
    for writer in writers:
        writer.close()


def open_epochs(run: Run, *, decoder: str) -> Epoch:
    import webdataset

    files = sorted(str(path) for path in (run.folder / "web_dataset").glob("*.tar"))
    data = webdataset.WebDataset(files, shardshuffle=FILES)
    data = data.shuffle(BUFFER // run.threads).to_tuple("jpg", "cls")
    data = data.map_tuple(DECODERS[decoder], int)
    return epochs_of(data, run, loader=webdataset.WebLoader)
