"""One CUDA device to each training on a machine, whatever started the trainings."""

import logging
import os
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from filelock import BaseFileLock, FileLock, Timeout

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Device:
    """A visible CUDA device: its number for torch, and what identifies it on the machine."""

    index: int
    uuid: str
    name: str


@dataclass
class HeldDevices:
    """Devices in use by this process, until `release` or its end."""

    devices: tuple[Device, ...]
    locks: list[BaseFileLock]

    def release(self) -> None:
        """Let others take the devices."""
        while self.locks:
            self.locks.pop().release()


def visible_devices() -> list[Device]:
    """The devices that CUDA_VISIBLE_DEVICES leaves, in its order."""
    import torch

    properties = [
        torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count())
    ]
    return [Device(index, str(one.uuid), one.name) for index, one in enumerate(properties)]


def hold_devices(
    devices: Sequence[Device],
    count: int,
    *,
    exclusive: bool = True,
    folder: Path | None = None,
    poll_s: float = 1.0,
) -> HeldDevices:
    """Take `count` of `devices`, the first that no other process of this user holds.

    Where too few are free, wait until they are; without `exclusive`, share the first ones. A
    device is held by a file lock, which ends with the process however that ends; what this
    process holds already it may take again. `folder` null is in the machine's temporary folder.
    """
    assert 1 <= count <= len(devices)
    folder = folder or _lock_folder()
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    held = _take(devices, count, folder, sharing=not exclusive)
    if held is None:
        _log.warning(
            "waiting: of %d CUDA device(s) fewer than %d are free of other trainings; "
            "accel.exclusive=false shares one instead",
            len(devices),
            count,
        )
    while held is None:
        time.sleep(poll_s)
        held = _take(devices, count, folder, sharing=False)
    return held


def _lock_folder() -> Path:
    return Path(tempfile.gettempdir()) / f"dr-{os.getuid()}" / "devices"


def _take(
    devices: Sequence[Device], count: int, folder: Path, *, sharing: bool
) -> HeldDevices | None:
    """All `count` or none: who waits holds nothing that another one waits for."""
    held = HeldDevices((), [])
    with FileLock(folder / "choice.lock"):
        for device in devices:
            if len(held.devices) < count and (lock := _lock(device, folder)) is not None:
                held.devices += (device,)
                held.locks.append(lock)
    if len(held.devices) == count:
        return held
    if not sharing:
        held.release()
        return None
    busy = [device for device in devices if device not in held.devices]
    held.devices += tuple(busy[: count - len(held.devices)])
    return held


def _lock(device: Device, folder: Path) -> BaseFileLock | None:
    lock = FileLock(folder / f"{device.uuid}.lock", is_singleton=True, thread_local=False)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock
