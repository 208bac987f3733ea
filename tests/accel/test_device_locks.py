import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from filelock import FileLock

from dr.accel import device_locks
from dr.accel.device_locks import Device, hold_devices

DEVICES = [Device(index, f"GPU-{index}", "Tesla") for index in range(3)]

HOLDER = """
import sys, time
from pathlib import Path
from dr.accel.device_locks import Device, hold_devices
devices = [Device(i, f"GPU-{i}", "Tesla") for i in range(3)]
held = hold_devices(devices, int(sys.argv[2]), folder=Path(sys.argv[1]))
print(*[device.index for device in held.devices], flush=True)
time.sleep(600)
"""


def other_process(folder: Path, count: int = 1) -> tuple["subprocess.Popen[str]", list[int]]:
    """A process that holds devices, and which."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(folder), str(count)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    return process, [int(word) for word in process.stdout.readline().split()]


def test_each_process_gets_devices_of_its_own_until_it_dies(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    one, first = other_process(tmp_path)
    other, second = other_process(tmp_path)
    assert (first, second) == ([0], [1])
    mine = hold_devices(DEVICES, 1, folder=tmp_path)
    assert [device.index for device in mine.devices] == [2]
    assert not caplog.text
    mine.release()

    timer = threading.Timer(0.5, one.kill)
    timer.start()
    both = hold_devices(DEVICES, 2, folder=tmp_path, poll_s=0.05)
    assert one.wait() < 0
    assert [device.index for device in both.devices] == [0, 2]
    assert caplog.text.count("waiting") == 1
    assert "accel.exclusive=false" in caplog.text
    both.release()
    other.kill()
    for process in (one, other):
        process.communicate()


def test_without_exclusive_a_free_device_comes_first_then_a_busy_one(tmp_path: Path) -> None:
    locks = [FileLock(tmp_path / f"GPU-{number}.lock") for number in (0, 1)]
    for lock in locks:
        lock.acquire()
    held = hold_devices(DEVICES, 2, exclusive=False, folder=tmp_path)
    assert [device.index for device in held.devices] == [2, 0]
    held.release()
    for lock in locks:
        lock.release()


def test_who_waits_for_two_holds_none(tmp_path: Path) -> None:
    locks = [FileLock(tmp_path / f"GPU-{number}.lock") for number in (0, 1)]
    for lock in locks:
        lock.acquire()
    found: list[list[int]] = []

    def wait_for_two() -> None:
        held = hold_devices(DEVICES, 2, folder=tmp_path, poll_s=0.05)
        found.append([device.index for device in held.devices])
        held.release()

    waiter = threading.Thread(target=wait_for_two)
    waiter.start()
    time.sleep(0.3)
    last = FileLock(tmp_path / "GPU-2.lock")
    last.acquire(timeout=5)
    last.release()
    locks[1].release()
    waiter.join(10)
    assert found == [[1, 2]]
    locks[0].release()


def test_a_process_may_take_again_what_it_holds(tmp_path: Path) -> None:
    one, again = (hold_devices(DEVICES, 1, folder=tmp_path) for _ in range(2))
    assert one.devices == again.devices
    again.release()
    other, taken = other_process(tmp_path)
    assert taken == [1]
    one.release()
    other.kill()
    other.communicate()


def test_locks_lie_in_a_folder_of_the_users_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(device_locks.tempfile, "gettempdir", lambda: str(tmp_path))
    held = hold_devices(DEVICES, 1)
    folder = tmp_path / f"dr-{os.getuid()}" / "devices"
    assert (folder / "GPU-0.lock").exists()
    assert folder.stat().st_mode & 0o777 == 0o700
    held.release()
