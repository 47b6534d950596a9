"""The shape of a recipe: one dataclass a section, and for every key its documentation and the step it belongs to.

A key's step says which work becomes stale when it changes: mine, fit, calibrate, evaluate, or none.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any, Optional

from cascade_det.core.types import MAX_PIXELS

# ruff: noqa: RUF009 - key() is dataclasses.field with metadata

STEPS = ("mine", "fit", "calibrate", "evaluate", "none")


def key(
    help_text: str,
    step: str,
    default: Any = dataclasses.MISSING,
    factory: Any = dataclasses.MISSING,
    *,
    later: bool = False,
) -> Any:
    """Return a dataclass field of the recipe with its documentation and step.

    A key that came `later` than the first runs counts for its step only where it differs from its default, which is
    how those runs were made: they stay done.
    """
    metadata = {"help": help_text, "step": step, "later": later}
    if factory is not dataclasses.MISSING:
        return field(default_factory=factory, metadata=metadata)
    return field(default=default, metadata=metadata)


@dataclass
class Part:
    """A named part with its parameters."""

    kind: str = key("registered name of the part", "fit", "???")
    params: dict[str, Any] = key("parameters of its constructor", "fit", factory=dict)


@dataclass
class HeadPart:
    """A head of a stage."""

    kind: str = key("registered name of the head", "fit", "???")
    params: dict[str, Any] = key("parameters of its constructor", "fit", factory=dict)
    weight: float = key("alpha_j: weight of its loss in the sum", "fit", 1.0)
    reduction: Optional[str] = key("mean or hardest; the head's own default where absent", "fit", None)
    hardest_share: float = key("for hardest: share of the taught rows that counts", "fit", 0.7)


@dataclass
class SourcePart:
    """A source of annotated pictures."""

    kind: str = key("registered name of the source", "mine", "???")
    params: dict[str, Any] = key("parameters of its constructor", "mine", factory=dict)
    teaches: Optional[list[str]] = key("names of the heads it teaches; all where absent", "mine", None)
    teaches_points: Optional[list[str]] = key(
        "which of object.points it marks at the same places as the other sources, and so teaches; all where absent",
        "mine",
        None,
        later=True,
    )


@dataclass
class View:
    """A share of the training pictures is mined a second time in a changed form."""

    share: float = key("share of the training pictures that is also mined in this view", "mine", 1.0)
    object_px: Optional[list[float]] = key(
        "[low, high]: first scale the picture down so that its median object gets a height drawn from this range",
        "mine",
        None,
    )
    transform: Optional[Part] = key("an albumentations transform by class name", "mine", None)


@dataclass
class Keep:
    """What a stage lets through."""

    score: Any = key("'auto' takes the calibrated threshold, a number pins it", "calibrate", "auto")
    nms: Optional[float] = key(
        "IoU above which the lower score goes, per level or per stage; null: no NMS", "calibrate", 0.5
    )
    nms_mode: str = key("union or minimum (of the two areas)", "calibrate", "union")
    nms_across_levels: Optional[float] = key("a proposer's second NMS, over all levels; null: none", "calibrate", 0.7)
    max_per_image: int = key("cap of what one picture passes on, by score", "calibrate", 4000)


@dataclass
class Calibrate:
    """How a stage's thresholds are found."""

    detect_recall: float = key(
        "share of the objects still held that this stage keeps when detecting", "calibrate", 0.98
    )
    mine_recall: float = key("the laxer share that decides what the next stage is mined from", "calibrate", 0.99)
    max_fppi: float = key("last stage: false positives per picture that set its threshold", "calibrate", 0.1)


@dataclass
class StageTrain:
    """How a stage is fitted; a key that is null takes the value of the recipe's `train` section."""

    samples: Optional[int] = key("length of the fit in samples seen", "fit", None)
    batch_size: Optional[int] = key("rows of a batch", "fit", None)
    lr: Optional[float] = key("peak learning rate", "fit", None)
    batch_mix: Any = key("rows of each role in a batch, as proportions, or 'natural': the pool as it is", "fit", None)
    optimizer: Optional[Part] = key("class of torch.optim and its parameters", "fit", None)
    schedule: Optional[Part] = key("class of torch.optim.lr_scheduler and its parameters", "fit", None)
    ema: Optional[float] = key("decay of the moving average of the weights; 0 switches it off", "fit", None)


@dataclass
class StageSection:
    """One stage of the cascade."""

    kind: str = key("proposer, refiner or a stage of a plug-in", "mine", "???")
    params: dict[str, Any] = key("parameters of the stage's constructor", "calibrate", factory=dict)
    window_hw: list[int] = key("height and width of the window in pixels", "mine", factory=lambda: [12, 12])
    rho: float = key(
        "resolution multiplier in (0, 1]: the window is window_hw times rho, in whole pixels", "mine", 1.0, later=True
    )
    context: float = key(
        "side of what a stage's crops show, as a multiple of their windows' side: above 1 it sees what is around",
        "mine",
        1.0,
        later=True,
    )
    net: Part = key("the trunk; a stage without heads has none", "fit", factory=lambda: Part(""))
    heads: dict[str, HeadPart] = key("heads by name", "fit", factory=dict)
    keep: Keep = key("what the stage lets through", "calibrate", factory=Keep)
    calibrate: Calibrate = key("how its thresholds are found", "calibrate", factory=Calibrate)
    samplers: dict[str, Part] = key("samplers by name", "mine", factory=dict)
    train: StageTrain = key("how it is fitted", "fit", factory=StageTrain)
    rounds: int = key("how often mine and fit are repeated on the stage's own mistakes", "fit", 1)


def window_of(section: StageSection) -> tuple[int, int]:
    """Return the window of a stage as (height, width) in whole pixels, its resolution multiplier applied."""
    height, width = (round(side * section.rho) for side in section.window_hw)
    return height, width


@dataclass
class ObjectSection:
    """The class of object."""

    category: str = key("name of the category", "mine", "object")
    points: list[str] = key("names of the points, in order", "mine", factory=list)
    flip_points: Optional[list[int]] = key("which point each becomes in a mirror; identity where absent", "mine", None)
    align_template: Optional[list[list[float]]] = key(
        "where aligned crops have the points: [x, y] of each as shares of the crop's width and height",
        "evaluate",  # which writes the model that carries it
        None,
        later=True,
    )


@dataclass
class ImageSection:
    """Pixels to network input, and boxes to the caller."""

    clip_boxes: bool = key("clip final boxes to the picture", "calibrate", True)
    inclusive_boxes: bool = key(
        "report a box by its first and last pixel counted from 1, as MATLAB code does, not by its edges",
        "calibrate",
        False,
        later=True,
    )

    mean: float = key("subtracted from every channel", "fit", 127.5)
    scale: float = key("factor after the subtraction", "fit", 0.0078125)
    resample: str = key(
        "linear, area (no aliasing of large objects) or pooled (as ports of MTCNN do)", "mine", "linear"
    )
    lift_to: float = key(
        "a darker picture is multiplied until its brightest hundredth reaches this level of 255, at most eightfold; "
        "0: never",
        "mine",
        0.0,
        later=True,
    )
    max_pixels: int = key(
        "a picture file of more pixels is refused before it is decoded", "mine", MAX_PIXELS, later=True
    )


@dataclass
class BorderSection:
    """What a window sees beyond the picture."""

    mode: str = key("pad (a constant) or clip (the part inside, stretched)", "mine", "pad")
    value: int = key("the constant of pad, 0 to 255", "mine", 0)


@dataclass
class PyramidSection:
    """The image pyramid of a proposer."""

    min_object_px: float = key("height of the smallest object to find", "calibrate", 20)
    max_object_px: Optional[float] = key("height of the largest; null: as large as the picture", "calibrate", None)
    factor: float = key(
        "ratio of one level to the next, in (0, 1); closer to 1 is denser and slower", "calibrate", 0.709
    )


@dataclass
class JitterSection:
    """Batched changes of crops while fitting; each is the share of crops or the strength."""

    mirror: float = key("share of crops flipped left to right, truth with them", "fit", 0.5)
    brightness: float = key("largest shift, as a share of 255", "fit", 0.2)
    contrast: float = key("largest relative change of contrast", "fit", 0.2)
    colour: float = key("largest relative change of each channel", "fit", 0.0)
    grey: float = key("share of crops without colour", "fit", 0.0)
    blur: float = key("share of crops smoothed by a 3x3 binomial filter", "fit", 0.0)
    cover: float = key("share of crops with a rectangle of another crop pasted over", "fit", 0.0)
    dark: float = key(
        "share of crops at a tenth to six tenths of their light, with the noise of a sensor", "fit", 0.0, later=True
    )


@dataclass
class DataSection:
    """Where pictures come from and how they vary."""

    train: dict[str, SourcePart] = key("sources to learn from, by name", "mine", factory=dict)
    val: dict[str, SourcePart] = key(
        "sources to validate and evaluate on, by name; the first is the main one", "evaluate", factory=dict
    )
    views: dict[str, View] = key("whole-picture views for mining, by name", "mine", factory=dict)
    jitter: JitterSection = key("batched jitter of crops", "fit", factory=JitterSection)


@dataclass
class MineSection:
    """How windows are mined."""

    workers: Optional[int] = key("processes; null: one a core. The shards are equal for any number", "none", None)
    shard_images: int = key("consecutive pictures whose windows form one shard", "mine", 64)
    val_images: int = key("pictures of each val source that give windows for validation while fitting", "mine", 400)
    min_positives: int = key("floor of positive rows under which a fit is refused", "mine", 200)
    min_negatives: int = key("floor of negative rows under which a fit is refused", "mine", 200)
    backfill: float = key(
        "negatives wanted per positive; what is missing is cut from earlier pools, 0: nothing", "mine", 2.0
    )


@dataclass
class TrainSection:
    """Defaults of every stage's fit, and the trainer."""

    samples: int = key("length of the fit in samples seen", "fit", 1_000_000)
    batch_size: int = key("rows of a batch", "fit", 512)
    lr: float = key("peak learning rate", "fit", 2.0e-3)
    batch_mix: Any = key(
        "rows of each role in a batch, as proportions, or 'natural'; null: 3:1:1:2 (negative, positive, part, points)",
        "fit",
        None,
    )
    optimizer: Part = key("class of torch.optim and its parameters", "fit", factory=lambda: Part("AdamW"))
    schedule: Part = key(
        "class of torch.optim.lr_scheduler and its parameters", "fit", factory=lambda: Part("OneCycleLR")
    )
    ema: float = key("decay of the moving average of the weights; 0 switches it off", "fit", 0.999)
    early_stopping: Optional[int] = key("validations without gain after which a fit ends; null: never", "fit", None)
    validations: int = key("validations and checkpoints during a fit", "fit", 8)
    logger: str = key("csv, tensorboard, both or none", "none", "csv")
    trainer: dict[str, Any] = key(
        "arguments of Lightning's Trainer; accelerator, devices, num_nodes and strategy redo nothing",
        "fit",
        factory=lambda: {"accelerator": "auto", "devices": 1, "precision": "32-true"},
        later=True,
    )


@dataclass
class CalibrateSection:
    """The pictures that thresholds are measured on."""

    share: float = key("share of the training pictures, by content hash, kept from mining for calibration", "mine", 0.1)
    max_images: int = key("at most this many of them are run", "calibrate", 1000)


@dataclass
class Recipe:
    """A whole cascade: its parts, its data and how it is trained."""

    format: int = key("version of the recipe format", "none", 1)
    name: str = key("name of the recipe and of its run directory", "none", "cascade")
    description: str = key("one line for humans", "none", "")
    seed: int = key("the seed of all chance", "mine", 0)
    plugins: list[str] = key("modules, .py files or entry points to import", "none", factory=list)
    run_dir: str = key("where a run is kept, against the current folder", "none", "runs/${name}")
    base_dir: Optional[str] = key(
        "folder that data paths resolve against; absent: the recipe file's own, a shipped recipe's: the current one",
        "none",
        None,
    )
    init: Optional[str] = key("model file whose weights the stages start from", "fit", None)
    object: ObjectSection = key("the class of object", "mine", factory=ObjectSection)
    image: ImageSection = key("pixels to network input", "mine", factory=ImageSection)
    border: BorderSection = key("beyond the picture", "mine", factory=BorderSection)
    pyramid: PyramidSection = key("the image pyramid", "calibrate", factory=PyramidSection)
    presets: dict[str, Any] = key("named sets of overrides, chosen by --preset", "evaluate", factory=dict, later=True)
    stages: dict[str, StageSection] = key("stages by name, in order", "mine", factory=dict)
    data: DataSection = key("pictures", "mine", factory=DataSection)
    mine: MineSection = key("mining", "mine", factory=MineSection)
    train: TrainSection = key("fitting", "fit", factory=TrainSection)
    calibrate: CalibrateSection = key("calibration", "calibrate", factory=CalibrateSection)
    evaluate: dict[str, Part] = key("evaluators by name", "evaluate", factory=lambda: {"coco": Part("coco")})


def document_keys(section: type = Recipe, prefix: str = "") -> list[tuple[str, str, str]]:
    """Return (full key, step, help) of every key of the recipe, mappings by name shown as NAME."""
    rows: list[tuple[str, str, str]] = []
    for item in dataclasses.fields(section):
        full = f"{prefix}{item.name}"
        rows.append((full, item.metadata["step"], item.metadata["help"]))
        nested = _nested_section(str(item.type))
        if nested is not None:
            suffix = ".NAME." if str(item.type).startswith("dict") else "."
            rows += document_keys(nested, full + suffix)
    return rows


def _nested_section(annotation: str) -> type | None:
    names = {c.__name__: c for c in globals().values() if isinstance(c, type) and dataclasses.is_dataclass(c)}
    inner = annotation.removeprefix("dict[str, ").removeprefix("Optional[").rstrip("]")
    return names.get(inner)
