import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version

import pytest
import torch

from dr.accel.base import Accelerator
from dr.accel.choice import choose_accelerator
from dr.config import AccelConfig


def asked(**changes: object) -> AccelConfig:
    return AccelConfig(**{"name": "tpu", **changes})  # type: ignore[arg-type]


def test_all_devices_make_one_mesh_in_one_process(tpu: Accelerator, devices: int) -> None:
    assert (tpu.rank, tpu.world_size, tpu.devices) == (0, 1, devices)
    assert (tpu.static_batch, tpu.precision, tpu.channels_last) == (True, "float32", False)
    many = "" if devices == 1 else f"{devices} x "
    assert tpu.describe() == f"{many}tpu (CPU, torch-xla {version('torch-xla')})"


def test_the_number_of_devices_may_be_said_but_not_chosen(tpu: Accelerator, devices: int) -> None:
    assert choose_accelerator(asked(devices=devices)).devices == devices
    with pytest.raises(ValueError, match=rf"accel.devices=3: there are {devices}, and all"):
        choose_accelerator(asked(devices=3))


def test_without_a_tpu_precision_is_float32(tpu: Accelerator) -> None:
    assert choose_accelerator(asked()).precision == "float32"
    assert choose_accelerator(asked(precision="bfloat16")).precision == "bfloat16"


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("precision", "float16", "accel.precision=float16: is for CUDA"),
        ("threads", 2, "accel.threads=2: has an effect on accel=cpu only"),
        ("channels_last", True, "accel.channels_last=True: the compiler chooses"),
    ],
)
def test_settings_of_other_accelerators_are_refused(
    setting: str, value: object, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        choose_accelerator(asked(**{setting: value}))


def test_each_device_is_given_its_share_of_the_pictures(tpu: Accelerator, devices: int) -> None:
    import torch_xla

    found = []
    for count in (4 * devices, 4 * devices + 1):
        images = torch.arange(count * 12, dtype=torch.uint8).reshape(count, 2, 2, 3)
        pictures = tpu.pictures(images)
        tpu.flush()
        found.append(torch_xla._XLAC._get_xla_sharding_spec(pictures))
        assert torch.equal(pictures.cpu(), images.permute(0, 3, 1, 2) / 255)
    if devices > 1:
        assert found[0].startswith(f"{{devices=[{devices},1,1,1]")
        assert found[1] == "{replicated}"


def test_a_batch_must_split_evenly(tpu: Accelerator, devices: int) -> None:
    tpu.check_batch(4 * devices, accumulate=4)
    with pytest.raises(ValueError, match=rf"multiple of {3 * devices}, .*; set {6 * devices}$"):
        tpu.check_batch(4 * devices, accumulate=3)


def test_the_processes_of_torchrun_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    place = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1"}
    for name, value in place.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="torchrun started 2 processes, but one process uses all"):
        choose_accelerator(asked())


def test_the_processes_of_torch_xla_launch_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PJRT_LOCAL_PROCESS_COUNT", "4")
    with pytest.raises(ValueError, match=r"torch_xla.launch started several processes"):
        choose_accelerator(asked())


def test_several_hosts_are_refused(tpu: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_xla import runtime

    monkeypatch.setattr(runtime, "process_count", lambda: 2)
    with pytest.raises(ValueError, match="2 hosts share this TPU"):
        choose_accelerator(asked())


def test_a_device_out_of_reach_is_named(tpu: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    from torch_xla import runtime

    def busy() -> int:
        raise RuntimeError("the TPU is in use")

    monkeypatch.setattr(runtime, "global_runtime_device_count", busy)
    with pytest.raises(ValueError, match=r"PJRT_DEVICE=CPU cannot be reached \(the TPU is in use"):
        choose_accelerator(asked())


def test_the_door_says_what_to_set_where_there_is_no_tpu(devices: int) -> None:
    if devices > 1:
        pytest.skip("once is enough")
    environment = {name: value for name, value in os.environ.items() if name != "PJRT_DEVICE"}
    command = [sys.executable, "-m", "dr.train", "model=effnet_b4", "accel=tpu"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "torch-xla finds no TPU here" in done.stderr
    assert "set PJRT_DEVICE=CPU" in done.stderr
    assert "Traceback" not in done.stderr


def test_only_one_file_imports_torch_xla() -> None:
    spec = importlib.util.find_spec("dr")
    assert spec is not None and spec.submodule_search_locations
    root = next(iter(spec.submodule_search_locations))
    found = subprocess.run(
        ["grep", "-rlE", r"(import|from) torch_xla", "--include=*.py", root],
        capture_output=True,
        text=True,
        check=True,
    )
    assert [os.path.basename(line) for line in found.stdout.split()] == ["tpu.py"]
