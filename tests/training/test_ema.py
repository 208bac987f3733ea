from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from dr.checks import check_train
from dr.config import TrainConfig
from dr.training import fold as fold_module
from dr.training.checkpoint import load_checkpoint
from dr.training.cross_validation import cross_validate
from dr.training.ema import EMA
from dr.training.loop import StepFigures, train_step

Make = Callable[..., TrainConfig]


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4))


def moved(model: nn.Module, random: torch.Generator) -> None:
    """Other weights, as a step would leave them."""
    with torch.no_grad():
        for value in model.state_dict().values():
            value.add_(torch.randint(1, 5, value.shape, generator=random).to(value.dtype))


@pytest.mark.parametrize("decay", [0.3, 0.999])
def test_the_average_follows_its_formula(decay: float) -> None:
    model, random = network(), torch.Generator().manual_seed(1)
    ema = EMA(model, decay)
    expected = {name: value.double() for name, value in model.state_dict().items()}
    for n in range(12):
        moved(model, random)
        ema.update(model)
        keep = min(decay, (1 + n) / (10 + n))
        for name, value in model.state_dict().items():
            expected[name] = keep * expected[name] + (1 - keep) * value.double()
    averaged = ema.model.state_dict()
    count = "1.num_batches_tracked"
    assert averaged[count] == model.state_dict()[count]
    for name in expected.keys() - {count}:
        torch.testing.assert_close(averaged[name].double(), expected[name], rtol=1e-5, atol=1e-5)
    assert not any(one.requires_grad for one in ema.model.parameters())


def test_what_does_not_move_keeps_its_bits() -> None:
    model, random = network(), torch.Generator().manual_seed(1)
    ema = EMA(model, 0.9)
    frozen = model[0].weight.clone()
    for _ in range(20):
        moved(model, random)
        model[0].weight.data.copy_(frozen)
        ema.update(model)
    assert torch.equal(ema.model[0].weight, frozen)


def test_an_average_goes_on_to_the_bit() -> None:
    def run(cut: bool) -> dict[str, torch.Tensor]:
        model, random = network(), torch.Generator().manual_seed(1)
        ema = EMA(model, 0.97)
        for n in range(8):
            moved(model, random)
            ema.update(model)
            if cut and n == 3:
                state = {**ema.state(), "model": dict(ema.state()["model"])}
                ema = EMA(network(), 0.97)
                ema.load_state(state)
        return ema.model.state_dict()

    whole, resumed = run(cut=False), run(cut=True)
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def weights_of(config: TrainConfig) -> dict[str, torch.Tensor]:
    outcome = cross_validate(config)
    assert outcome is not None
    return load_file(outcome.folder / "fold-0" / "model.safetensors")


def test_a_run_keeps_and_scores_the_average(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The same steps are taken; what is kept is their average, followed here step by step."""
    steps: list[dict[str, torch.Tensor]] = []
    scored: list[nn.Module] = []
    evaluate = fold_module.evaluate

    def followed(learner: Any, *given: Any, **named: Any) -> Any:
        scored.append(learner.scored)
        return evaluate(learner, *given, **named)

    def stepped(learner: Any, *given: Any, **named: Any) -> StepFigures:
        if not steps:
            steps.append({k: v.clone() for k, v in learner.model.state_dict().items()})
        figures = train_step(learner, *given, **named)
        steps.append({k: v.clone() for k, v in learner.model.state_dict().items()})
        return figures

    monkeypatch.setattr("dr.training.loop.train_step", stepped)
    monkeypatch.setattr(fold_module, "evaluate", followed)
    short = ("folds=2", "fold=0", "epochs=1", "select=last")
    plain = weights_of(tiny_config(*short, f"outputs={tmp_path / 'plain'}"))
    last = steps[-1]
    assert all(torch.equal(plain[name], last[name]) for name in plain)
    steps.clear()
    kept = weights_of(tiny_config(*short, "ema_decay=0.5"))
    assert all(torch.equal(steps[-1][name], last[name]) for name in last)
    average = {name: value.double() for name, value in steps[0].items()}
    for n, state in enumerate(steps[1:]):
        keep = min(0.5, (1 + n) / (10 + n))
        average = {k: keep * v + (1 - keep) * state[k].double() for k, v in average.items()}
    for name, value in kept.items():
        if value.is_floating_point():
            torch.testing.assert_close(value.double(), average[name], rtol=1e-4, atol=1e-6)
    assert any(not torch.equal(kept[name], plain[name]) for name in kept)
    assert all(torch.equal(kept[k], v) for k, v in scored[-1].state_dict().items())


@pytest.mark.parametrize("change", ["optimizer.freeze_epochs=1", "model.drop_rate=0.2"])
def test_an_averaged_run_resumes_to_the_bit(
    tiny_config: Make, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, change: str
) -> None:
    settings = ("folds=2", "fold=0", "epochs=2", "ema_decay=0.9", "save_minutes=0", change)
    whole = weights_of(tiny_config(*settings, f"outputs={tmp_path / 'whole'}"))
    save = fold_module.save_checkpoint
    saved = 0

    def cut(folder: Path, state: dict[str, Any]) -> None:
        nonlocal saved
        save(folder, state)
        saved += 1
        if saved == 2:
            found = load_checkpoint(folder)
            assert found is not None
            assert found["ema"]["updates"] == 2
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(fold_module, "save_checkpoint", cut)
        cross_validate(tiny_config(*settings))
    resumed = weights_of(tiny_config(*settings))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


@pytest.mark.parametrize("decay", [0.0, 1.0, -0.5, float("nan")])
def test_a_decay_that_does_not_average_is_refused(tiny_config: Make, decay: float) -> None:
    config = tiny_config()
    config.ema_decay = decay
    assert [problem.key for problem in check_train(config)] == ["ema_decay"]
