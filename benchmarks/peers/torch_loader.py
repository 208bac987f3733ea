"""torch's DataLoader as the loaders built on it use it."""

from typing import Any

from benchmarks.peers.contract import Batches, Epoch, Run


def epochs_of(dataset: Any, run: Run, *, loader: Any = None, **arguments: Any) -> Epoch:
    """Batches of `dataset` from processes that stay alive between epochs.

    `loader` is the DataLoader class; `arguments` go to it.
    """
    from torch.utils.data import DataLoader

    made = (loader or DataLoader)(
        dataset,
        batch_size=run.batch_size,
        num_workers=run.threads,
        persistent_workers=True,
        **arguments,
    )

    def epoch(number: int) -> Batches:
        del number
        for images, labels in made:
            yield images.numpy(), labels.numpy()

    return epoch
