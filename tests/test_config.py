import dataclasses

import pytest

from dr.checks import check_find_lr, check_predict, check_prepare, check_train
from dr.compose import compose
from dr.config import ConfigError, FindLrConfig, PredictConfig, PrepareConfig, TrainConfig


def problems(*overrides: str) -> list[str]:
    return [str(problem) for problem in check_train(compose("train", TrainConfig, overrides))]


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        (["batch_size=0"], "batch_size", "at least 1"),
        (["epochs=0"], "epochs", "at least 1"),
        (["folds=0"], "folds", "at least 1"),
        (["seed=-1"], "seed", "at least 0"),
        (["image_size=4"], "image_size", "at least 8"),
        (["workers=0"], "workers", "at least 1"),
        (["loader.threads=0"], "loader.threads", "at least 1"),
        (["loader.prefetch=0"], "loader.prefetch", "at least 1"),
        (["loader.cache=ram"], "loader.cache", "none, decoded"),
        (["loader.on_corrupt=warn"], "loader.on_corrupt", "fail, skip"),
        (["on_error=ignore"], "on_error", "fail, skip"),
        (["resume=yes"], "resume", "auto, never"),
        (["select=worst"], "select", "last, best, cross"),
        (["select=best", "select_metric=f1"], "select_metric", "qwk, loss"),
        (["select_metric=loss"], "select_metric", "no effect with select=last"),
        (["folds=1", "select=best"], "select", "needs a validation fold"),
        (["folds=2", "select=cross"], "select", "at least 3 folds"),
        (["fold=5"], "fold", "from 0 to 4"),
        (["fold=[0,0]"], "fold", "from 0 to 4"),
        (["fold=some"], "fold", "from 0 to 4"),
        (["shards=[/a,/a]"], "shards", "a folder twice"),
        (["shards=[]"], "shards", "a list of them"),
        (["shards=[/a,'']"], "shards", "a list of them"),
        (["test=[/a,/a]"], "test", "a folder twice"),
        (["test=''"], "test", "a list of them"),
        (["shards=[/a,/b]", "test=/b"], "test", "/b is trained on"),
        (["shards=/a", "source_weights=[1]"], "source_weights", "a single source"),
        (["source_weights=[1]"], "source_weights", "a single source"),
        (["shards=[/a,/b]", "source_weights=[1]"], "source_weights", "2 numbers"),
        (["shards=[/a,/b]", "source_weights=3"], "source_weights", "2 numbers"),
        (["shards=[/a,/b]", "source_weights=[1,-1]"], "source_weights", "at least 0"),
        (["shards=[/a,/b]", "source_weights=[1,.nan]"], "source_weights", "at least 0"),
        (["shards=[/a,/b]", "source_weights=[1,true]"], "source_weights", "at least 0"),
        (["shards=[/a,/b]", "source_weights=[0,0]"], "source_weights", "above 0"),
        (["shards=[/a,/b]", "source_weights={a:1,c:1}"], "source_weights", "each of a, b"),
        (["objective.class_weights=1.5"], "objective.class_weights", "from 0 to 1"),
        (["objective.class_weights=nan"], "objective.class_weights", "from 0 to 1"),
        (["objective.label_smoothing=1"], "objective.label_smoothing", "below 1"),
        (["objective=focal", "objective.gamma=-1"], "objective.gamma", "at least 0"),
        (["objective=huber", "objective.delta=0"], "objective.delta", "above 0"),
        (["objective=soft_ordinal", "objective.scale=0"], "objective.scale", "above 0"),
        (["objective=soft_ordinal", "objective.distance=cubic"], "objective.distance", "squared"),
        (["accel.name=gpu"], "accel.name", "auto, cpu, cuda, tpu"),
        (["accel=cpu", "accel.precision=float16"], "accel.precision", "is for CUDA"),
        (["accel.devices=0"], "accel.devices", "at least 1"),
        (["schedule=constant", "schedule.max_lr=0"], "schedule.max_lr", "above 0"),
        (["schedule=constant", "schedule.max_lr=nan"], "schedule.max_lr", "above 0"),
        (["schedule.min_lr=1"], "schedule.min_lr", "must not exceed schedule.max_lr"),
        (["schedule.by=hour"], "schedule.by", "step, epoch"),
        (["schedule.ramp_percent=120"], "schedule.ramp_percent", "at most 100"),
        (["schedule.ramp_epochs=1", "schedule.ramp_steps=3"], "schedule.ramp_epochs and", "one of"),
        (["schedule.decay_epochs=0"], "schedule.decay_epochs", "above 0"),
        (["schedule.decay=1.5"], "schedule.decay", "at most 1"),
        (["optimizer.betas=[0.9]"], "optimizer.betas", "two numbers"),
        (["optimizer.eps=0"], "optimizer.eps", "above 0"),
        (["optimizer=sgd", "optimizer.momentum=0"], "optimizer.nesterov", "momentum above 0"),
        (["optimizer=by_name"], "optimizer.algorithm", "name an optimizer"),
        (["optimizer.layer_decay=0"], "optimizer.layer_decay", "at most 1"),
        (["optimizer.backbone_lr_scale=2"], "optimizer.backbone_lr_scale", "at most 1"),
        (
            ["optimizer.backbone_lr_scale=0.1", "optimizer.layer_decay=0.8"],
            "optimizer.backbone_lr_scale",
            "give one of them",
        ),
        (["optimizer.freeze_epochs=-1"], "optimizer.freeze_epochs", "at least 0"),
        (["epochs=2", "optimizer.freeze_epochs=3"], "optimizer.freeze_epochs", "at most epochs=2"),
        (
            ["epochs=2", "optimizer.freeze_epochs=2", "optimizer.layer_decay=0.8"],
            "optimizer.layer_decay",
            "has no effect",
        ),
        (["optimizer.clip_norm=0"], "optimizer.clip_norm", "above 0"),
        (
            ["optimizer.weight_decay=0", "optimizer.decay_norms_and_biases=true"],
            "optimizer.decay_norms_and_biases",
            "has no effect",
        ),
        (["model.drop_rate=1"], "model.drop_rate", "below 1"),
        (["augment.transforms=[{p: 1}]"], "augment.transforms[0]", "`name`"),
        (["augment.where=gpu"], "augment.where", "workers, device"),
        (["augment=none", "augment.where=device"], "augment.where", "has no effect"),
        (["accel=tpu", "augment.where=device"], "augment.where", "set workers"),
        (["augment.mixup=-1"], "augment.mixup", "at least 0"),
        (["augment.cutmix=nan"], "augment.cutmix", "at least 0"),
        (["augment.mixup=0.2", "batch_size=1"], "augment.mixup", "to 2 at least"),
        (
            ["augment.cutmix=1", "batch_size=7", "accel.devices=2", "accel.accumulate=2"],
            "augment.cutmix",
            "raise batch_size to 8",
        ),
        (["accel.devices=4", "batch_size=3"], "batch_size", "set at least 4"),
        (["accel.devices=2", "accel.accumulate=3", "batch_size=5"], "batch_size", "at least 6"),
        (["accel.devices=2", "loader.on_corrupt=skip"], "loader.on_corrupt", "others waiting"),
        (["accel=cpu", "accel.exclusive=false"], "accel.exclusive", "has no effect"),
        (["balance=-0.1"], "balance", "from 0 to 1"),
        (["balance=nan"], "balance", "from 0 to 1"),
        (["balance=1", "objective.class_weights=0.5"], "balance", "add up to 1"),
        (["grow_percent=50"], "grow_percent", "without start_image_size"),
        (["start_image_size=4"], "start_image_size", "at least 8"),
        (["start_image_size=64", "grow_percent=0"], "grow_percent", "above 0"),
        (["start_image_size=64", "grow_percent=101"], "grow_percent", "at most 100"),
        (["image_size=64", "start_image_size=64"], "start_image_size", "below image_size=64"),
        (["start_image_size=64", "epochs=1"], "start_image_size", "no effect with epochs=1"),
        (["data=eyepacs", "data.labels=/l.csv"], "data.images", "folder of photographs"),
        (["data.patients=0"], "data.patients", "at least 1"),
        (["data.grade_shares=[1]"], "data.grade_shares", "5 shares"),
        (["data=medmnist", "data.images=/a.npz"], "preparation.crop", "add preparation=none"),
        (["group_duplicates=true", "folds=1"], "group_duplicates", "leave it out"),
        (["preparation.jpeg_quality=0"], "preparation.jpeg_quality", "1 to 100"),
        (["preparation.crop_threshold=255"], "preparation.crop_threshold", "0 to 254"),
    ],
)
def test_a_bad_value_is_one_problem_with_its_fix(overrides: list[str], key: str, fix: str) -> None:
    found = problems(*overrides)
    assert len(found) == 1
    assert found[0].startswith(key)
    assert fix in found[0]


@pytest.mark.parametrize(
    ("overrides", "key", "fix"),
    [
        (["parts=0", "part=0"], "parts", "at least 1"),
        (["part=1"], "part", "add parts="),
        (["parts=4"], "parts", "has no effect without part="),
        (["parts=4", "part=4"], "part", "from 0 to 3"),
        (["parts=4", "part=-1"], "part", "from 0 to 3"),
    ],
)
def test_a_part_needs_its_number_and_that_of_all(overrides: list[str], key: str, fix: str) -> None:
    config = compose("prepare", PrepareConfig, ["shards=/s", *overrides])
    found = check_prepare(config)
    assert [problem.key for problem in found] == [key]
    assert fix in found[0].fix
    assert check_prepare(dataclasses.replace(config, parts=2, part=1)) == []


@pytest.mark.parametrize("started_by", ["accel.devices=2", "torchrun"])
def test_a_prediction_and_a_range_test_take_one_device(
    started_by: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    changes = [started_by]
    if started_by == "torchrun":
        for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "host")):
            monkeypatch.setenv(name, value)
        changes = []
    predicting = compose("predict", PredictConfig, ["run=/r", "out=/o.csv", "images=/i", *changes])
    trying = compose("find_lr", FindLrConfig, changes)
    for found in (check_predict(predicting), check_find_lr(trying)):
        assert [problem.key for problem in found] == ["accel.devices"]
        assert "one device" in found[0].fix


def test_balance_and_class_weights_may_add_up_to_1() -> None:
    assert problems("balance=0.7", "objective.class_weights=0.3") == []


def test_all_bad_values_are_reported_together() -> None:
    found = problems("batch_size=0", "schedule.max_lr=-1", "schedule.min_lr=0", "accel.devices=0")
    assert {text.partition("=")[0] for text in found} >= {
        "batch_size",
        "schedule.max_lr",
        "accel.devices",
    }


@pytest.mark.parametrize("pattern", ["(", "no groups"])
def test_a_name_pattern_must_name_the_patient(pattern: str) -> None:
    config = compose("train", TrainConfig, ["data=folders", "data.images=/i"])
    config.data = dataclasses.replace(config.data, name_pattern=pattern)  # type: ignore[call-arg]
    assert [problem.key for problem in check_train(config)] == ["data.name_pattern"]


def test_the_data_group_is_not_checked_beside_shards() -> None:
    assert problems("shards=/s", "data=eyepacs") == []


def test_preparing_needs_a_folder() -> None:
    found = check_prepare(compose("prepare", PrepareConfig))
    assert [problem.key for problem in found] == ["shards"]


def test_predicting_needs_a_run_a_place_and_pictures() -> None:
    found = check_predict(compose("predict", PredictConfig))
    assert [problem.key for problem in found] == ["run", "out", "images"]


@pytest.mark.parametrize("key", ["prefetch=2", "cache=decoded", "on_corrupt=skip"])
def test_predicting_refuses_what_only_training_loads_by(key: str) -> None:
    overrides = ["run=/r", "out=/o.csv", "images=/i", f"loader.{key}"]
    found = check_predict(compose("predict", PredictConfig, overrides))
    assert [problem.key for problem in found] == [f"loader.{key.partition('=')[0]}"]
    assert "has no effect" in found[0].fix


def test_an_error_tells_every_problem() -> None:
    found = check_predict(compose("predict", PredictConfig))
    assert str(ConfigError(found)).splitlines() == [str(problem) for problem in found]
