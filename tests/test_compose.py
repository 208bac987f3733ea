import dataclasses
import pickle
from pathlib import Path

import pytest
import yaml
from hypothesis import example, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from dr import config as settings
from dr.checks import check_train
from dr.compose import (
    build,
    compose,
    compose_rerun,
    conf_folder,
    hydra_arguments,
    quote_path,
)
from dr.config import ConfigError, Problem, TrainConfig

GROUPS = {
    "data": settings.DataConfig,
    "preparation": settings.PreparationConfig,
    "loader": settings.LoaderConfig,
    "augment": settings.AugmentConfig,
    "model": settings.ModelConfig,
    "objective": settings.ObjectiveConfig,
    "optimizer": settings.OptimizerConfig,
    "schedule": settings.ScheduleConfig,
    "accel": settings.AccelConfig,
    "logger": settings.LoggerConfig,
}
CHOICES = [
    (group, path.stem)
    for group in GROUPS
    for path in sorted((conf_folder() / group).glob("*.yaml"))
]
DOORS = {
    "train": settings.TrainConfig,
    "prepare": settings.PrepareConfig,
    "predict": settings.PredictConfig,
    "compare": settings.CompareConfig,
}


def variant(schema: type, values: dict[str, object]) -> type:
    if schema not in settings.VARIANTS:
        return schema
    tag, classes = settings.VARIANTS[schema]
    return classes[str(values[tag])]


def test_every_folder_of_the_configuration_is_a_known_group() -> None:
    folders = {path.name for path in conf_folder().iterdir() if path.is_dir()}
    assert folders == {*GROUPS, "experiment", "space", "sweep"}
    assert len(CHOICES) > len(GROUPS)


@pytest.mark.parametrize(("group", "choice"), CHOICES)
def test_a_choice_has_exactly_the_keys_of_its_dataclass(group: str, choice: str) -> None:
    values = yaml.safe_load((conf_folder() / group / f"{choice}.yaml").read_text())
    expected = variant(GROUPS[group], values)
    assert set(values) == {field.name for field in dataclasses.fields(expected)}
    composed = getattr(compose("train", TrainConfig, [f"{group}={choice}"]), group)
    assert type(composed) is expected
    stored = dataclasses.asdict(composed)
    for key, value in values.items():
        assert stored[key] == (float(value) if isinstance(stored[key], float) else value)


@pytest.mark.parametrize("door", DOORS)
def test_a_door_has_exactly_the_keys_of_its_dataclass(door: str) -> None:
    values = yaml.safe_load((conf_folder() / f"{door}.yaml").read_text())
    groups = {key for entry in values["defaults"] if isinstance(entry, dict) for key in entry}
    own = (set(values) - {"defaults", "hydra"}) | {key for key in groups if key in GROUPS}
    assert own == {field.name for field in dataclasses.fields(DOORS[door])}
    assert isinstance(compose(door, DOORS[door]), DOORS[door])


def test_the_defaults_of_training_have_no_problem() -> None:
    assert check_train(compose("train", TrainConfig)) == []


def test_network_and_accelerator_are_chosen_by_name() -> None:
    config = compose("train", TrainConfig, ["model=effnet_b4", "accel=tpu"])
    assert (config.model.name, config.accel.name) == ("tf_efficientnet_b4", "tpu")
    assert check_train(config) == []


def test_all_problems_are_reported_at_once_with_key_value_and_fix() -> None:
    with pytest.raises(ConfigError) as caught:
        compose("train", TrainConfig, ["epochz=3", "batch_size=many", "model.nmae=x", "seed=1.5"])
    found = {problem.key: problem for problem in caught.value.problems}
    assert set(found) == {"epochz", "batch_size", "model.nmae", "seed"}
    assert "did you mean epochs?" in str(found["epochz"])
    assert str(found["batch_size"]) == "batch_size='many': must be a whole number"
    assert "did you mean name?" in str(found["model.nmae"])
    assert found["seed"].value == 1.5


def test_a_learning_rate_of_an_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"optimizer\.lr=0\.1"):
        compose("train", TrainConfig, ["optimizer.lr=0.1"])


def test_a_group_that_is_not_chosen_is_reported() -> None:
    with pytest.raises(ConfigError, match="model"):
        build(TrainConfig, {"model": None})


@pytest.mark.parametrize("key", ["outputs", "cache", "data.folder", "model.weights", "rerun"])
def test_each_path_key_takes_awkward_characters(key: str) -> None:
    path = "/data/a=b (1) & ~c, 'd' \"é\" ${x}"
    config: object = compose("train", TrainConfig, [f"{key}={path}"])
    for part in key.split("."):
        config = getattr(config, part)
    assert config == path


AWKWARD = st.text(
    st.sampled_from(list("ab/.=()&~'\"\\,${}[]:#%*@!?;<>| -+éß東")), min_size=1, max_size=20
).filter(lambda text: text[0] + text[-1] not in ("''", '""', "[]"))


@hypothesis_settings(max_examples=30)
@given(AWKWARD)
@example("/a=b(c)&~d,e${f}'g\"h\\")
@example("\\'")
@example("${")
@example("\\${x}")
@example("ends with \\")
@example(" spaced ")
def test_a_path_arrives_as_it_was_given(text: str) -> None:
    assert compose("train", TrainConfig, ["shards=" + text]).shards == text


def test_null_and_lists_of_paths_keep_their_meaning() -> None:
    assert compose("train", TrainConfig, ["shards=null"]).shards is None
    assert compose("train", TrainConfig, ["shards=[/a,/b]"]).shards == ["/a", "/b"]


@pytest.mark.parametrize(
    ("text", "paths"),
    [
        ("[]", []),
        ("[/a=b (1) & ~c, /é ${x} #1]", ["/a=b (1) & ~c", "/é ${x} #1"]),
        ("['/a,b',\"/c d\",s3://e/f]", ["/a,b", "/c d", "s3://e/f"]),
        ('[/it\'s,/"d"]', ["/it's", '/"d"']),
        ("[/a]", ["/a"]),
    ],
)
@pytest.mark.parametrize("key", ["shards", "test"])
def test_a_list_of_paths_takes_awkward_characters(
    key: str, text: str, paths: list[str], tmp_path: Path
) -> None:
    assert getattr(compose("train", TrainConfig, [f"{key}={text}"]), key) == paths
    store(tmp_path, compose("train", TrainConfig))
    assert getattr(compose_rerun(tmp_path, TrainConfig, [f"{key}={text}"]), key) == paths


@hypothesis_settings(max_examples=20)
@given(
    st.lists(AWKWARD.filter(lambda text: "," not in text and text.strip()[:1] not in {"'", '"'}))
)
def test_any_list_of_paths_without_commas_arrives_as_it_was_given(paths: list[str]) -> None:
    paths = [path.strip() or "x" for path in paths]
    assert compose("train", TrainConfig, [f"shards=[{','.join(paths)}]"]).shards == paths


def test_a_sweep_over_lists_of_paths_stays_a_sweep() -> None:
    swept = hydra_arguments(["-m", "shards=[/a=1,/b],[/c d]"], frozenset())
    assert swept == ["-m", "++shards=['/a=1','/b'],['/c d']"]


def test_only_paths_are_quoted_and_a_sweep_over_paths_stays_a_sweep(tmp_path: Path) -> None:
    groups = frozenset({"schedule"})
    given_ = ["schedule=cosine", "epochs=3", "shards=a b"]
    expected = ["schedule=cosine", "++epochs=3", "++shards='a b'"]
    assert hydra_arguments(given_, groups) == expected
    assert hydra_arguments(["-m", "shards=a,b"], groups) == ["-m", "++shards='a','b'"]
    comma = tmp_path / "a,b"
    comma.mkdir()
    assert (
        hydra_arguments(["-m", f"shards={comma}"], groups)[1]
        == f"++shards={quote_path(str(comma))}"
    )


def store(folder: Path, config: TrainConfig) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(dataclasses.asdict(config)))


@pytest.mark.parametrize("flag", ["-m", "--multirun"])
def test_the_flag_of_a_sweep_may_stand_anywhere(flag: str) -> None:
    arguments = ["parts=2", flag, "part=0,1", "--config-dir", "/c"]
    found = hydra_arguments(arguments, frozenset())
    assert found == [flag, "++parts=2", "++part=0,1", "--config-dir", "/c"]


def test_problems_of_a_job_survive_the_way_from_its_process() -> None:
    error = ConfigError([Problem("part", 9, "give less"), Problem("parts", 0, "give more")])
    again = pickle.loads(pickle.dumps(error))
    assert (again.problems, str(again)) == (error.problems, str(error))


def test_a_stored_config_is_composed_again_with_changes(tmp_path: Path) -> None:
    config = compose(
        "train", TrainConfig, ["schedule=cosine", "schedule.max_lr=1e-4", "cache=a${b"]
    )
    store(tmp_path, config)
    again = compose_rerun(tmp_path, TrainConfig, ["epochs=7", "outputs=o=(1)", "fold=[0,2]"])
    expected = dataclasses.replace(
        config, epochs=7, outputs="o=(1)", fold=[0, 2], resume="never", rerun=str(tmp_path)
    )
    assert again == expected


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("model=effnet_b4", "only key=value"),
        ("--multirun", "only key=value"),
        ("epochs=a: b(", "cannot be read"),
        ("epochs.x=1", "epochs is no group"),
    ],
)
def test_what_cannot_stand_beside_rerun_is_refused(
    tmp_path: Path, override: str, message: str
) -> None:
    store(tmp_path, compose("train", TrainConfig))
    with pytest.raises(ValueError, match=message):
        compose_rerun(tmp_path, TrainConfig, [override])


def test_rerun_of_a_folder_without_a_config_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"rerun=.*holds no config\.yaml"):
        compose_rerun(tmp_path, TrainConfig, [])
