from collections.abc import Iterator

import cv2
import numpy as np
import pytest
import torch
from torch import nn

from dr.accel.cpu import CPU
from dr.config import AccelConfig, AugmentConfig, LoaderConfig, ObjectiveConfig
from dr.loading.augmentation import Augmentation
from dr.loading.batches import BatchLoader, Drawing
from dr.loading.sampler import evaluation_batches, training_batches
from dr.modeling.objectives import build_objective
from dr.training.learner import Learner
from dr.training.loop import evaluate, train_epoch

RECORDS = 23
LABELS = np.arange(RECORDS) % 5


def jpeg(record: int) -> bytes:
    picture = np.full((8, 8, 3), 10 * record, np.uint8)
    return cv2.imencode(".jpg", picture)[1].tobytes()


@pytest.fixture
def loader() -> Iterator[BatchLoader]:
    with BatchLoader(jpeg, image_size=8, config=LoaderConfig(threads=2)) as made:
        yield made


def learner(objective: str = "cross_entropy") -> Learner:
    torch.manual_seed(0)
    goal = build_objective(ObjectiveConfig(name=objective))
    model = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(192, goal.outputs))
    return Learner(
        model=model,
        objective=goal,
        optimizer=torch.optim.SGD(model.parameters(), lr=99.0),
        accelerator=CPU(AccelConfig(name="cpu", precision="float32", channels_last=False)),
        mean=torch.full((1, 3, 1, 1), 0.5),
        std=torch.full((1, 3, 1, 1), 0.25),
    )


@pytest.mark.parametrize("objective", ["cross_entropy", "regression"])
@pytest.mark.parametrize("batch_size", [1, 5, 23, 64])
def test_evaluation_counts_each_record_once_whatever_the_batch(
    loader: BatchLoader, objective: str, batch_size: int
) -> None:
    records = np.arange(RECORDS)[::-1].copy()
    counts: list[int] = []
    found = evaluate(
        learner(objective),
        loader,
        plan=evaluation_batches(records, batch_size=batch_size),
        labels=LABELS,
        done=counts.append,
    )
    assert found.records.tolist() == records.tolist()
    assert sum(counts) == RECORDS
    one = evaluate(learner(objective), loader, plan=[records], labels=LABELS, done=lambda _: None)
    np.testing.assert_allclose(found.scores, one.scores, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.losses, one.losses, rtol=1e-4, atol=1e-5)
    assert found.probabilities.shape == (RECORDS, 5)


def test_evaluation_is_the_models_own_answer(loader: BatchLoader) -> None:
    own = learner()
    found = evaluate(own, loader, plan=[np.array([7])], labels=LABELS, done=lambda _: None)
    picture = torch.full((1, 3, 8, 8), (70 / 255 - 0.5) / 0.25)
    logits = own.model.eval()(picture)
    chances = logits.softmax(dim=1)
    np.testing.assert_allclose(found.probabilities, chances.detach().numpy(), atol=0.01)
    assert found.losses[0] == pytest.approx(-float(chances[0, LABELS[7]].log().detach()), abs=0.02)


def drawing(epoch: int = 0) -> Drawing:
    return Drawing(augmentation=Augmentation(AugmentConfig()), seed=0, epoch=epoch)


def test_an_epoch_asks_the_rate_of_each_step_and_uses_it(loader: BatchLoader) -> None:
    own = learner()
    asked: list[int] = []

    def rate(step: int) -> float:
        asked.append(step)
        return 0.0

    before = [value.clone() for value in own.model.parameters()]
    plan = training_batches(np.arange(RECORDS), batch_size=4, seed=0, epoch=0)
    figures = train_epoch(
        own,
        loader,
        plan=plan,
        labels=LABELS,
        drawing=drawing(),
        learning_rate=rate,
        done=lambda _: None,
    )
    assert asked == [0, 1, 2, 3, 4]
    assert figures.images == 20
    assert 0 <= figures.data_wait <= 1
    assert all(torch.equal(*pair) for pair in zip(before, own.model.parameters(), strict=True))


def test_a_loss_that_is_not_finite_is_refused(loader: BatchLoader) -> None:
    own = learner()
    with torch.no_grad():
        next(own.model.parameters()).fill_(float("inf"))
    with pytest.raises(ValueError, match=r"loss became nan, .* lower schedule\.max_lr"):
        train_epoch(
            own,
            loader,
            plan=[np.arange(4)],
            labels=LABELS,
            drawing=drawing(epoch=2),
            learning_rate=lambda _: 0.1,
            done=lambda _: None,
        )


def test_augmentation_reaches_training_once_wherever_it_runs() -> None:
    """A flip of pictures with one bright half changes the loss, alike in either place."""
    halves = np.zeros((8, 8, 3), np.uint8)
    halves[:, :4] = 255
    data = cv2.imencode(".jpg", halves, [cv2.IMWRITE_JPEG_QUALITY, 100])[1].tobytes()
    losses = {}
    for where in ("workers", "device"):
        for chance in (0, 1):
            transforms = [{"name": "HorizontalFlip", "p": chance}]
            augmentation = Augmentation(AugmentConfig(transforms=transforms, where=where))
            own = learner()
            own.model[1].p = 0.0
            config = LoaderConfig(threads=1)
            with BatchLoader(lambda _: data, image_size=8, config=config) as loader:
                figures = train_epoch(
                    own,
                    loader,
                    plan=[np.arange(4)],
                    labels=LABELS,
                    drawing=Drawing(augmentation=augmentation, seed=0, epoch=0),
                    learning_rate=lambda _: 0.0,
                    done=lambda _: None,
                )
            losses[where, chance] = figures.loss
    assert losses["workers", 0] == pytest.approx(losses["device", 0], abs=1e-5)
    assert losses["workers", 1] == pytest.approx(losses["device", 1], abs=1e-5)
    assert abs(losses["workers", 0] - losses["workers", 1]) > 1e-3
