"""The settings of training as frozen dataclasses: one declaration for Python and command line."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from onnx_expand.errors import UsageError
from onnx_expand.options import option, require
from onnx_expand.recipes import rates

__all__ = [
    "Amp",
    "DataOptions",
    "Decay",
    "DistillOptions",
    "Execution",
    "Keep",
    "Layout",
    "Method",
    "Optimizer",
    "RunOptions",
    "Schedule",
    "TaskName",
    "TrainOptions",
]

Schedule = Literal["constant", "step", "cosine", "poly", "restarts", "one-cycle"]
Optimizer = Literal["sgd", "adamw"]
Decay = Literal["layer", "product"]
Execution = Literal["auto", "layerwise", "composed"]
Amp = Literal["off", "bf16", "fp16"]
Keep = Literal["last", "best"]
TaskName = Literal["auto", "classify", "segment", "detect"]
Method = Literal["kd", "hint", "pkt"]
Layout = Literal["auto", "classes", "cifar", "npz", "masks", "voc"]

_HUGE = 1e300
_TINY = 1e-300
_POSITIVE = (_TINY, _HUGE, "above 0")
_NOT_NEGATIVE = (0.0, _HUGE, "at least 0")
_COUNT = (1.0, _HUGE, "at least 1")
_SHARE = (0.0, 1.0, "between 0 and 1")


@dataclass(frozen=True)
class TrainOptions:
    """How a module is trained.

    The documentation of each field is its help text.

    Raises:
        UsageError: A value makes no sense.
    """

    epochs: int = option(10, "Passes over the training data.")
    lr: float = option(0.01, "Learning rate at the start.")
    batch: int = option(128, "Samples in a step, over all processes.")
    seed: int = option(0, "Of the order of samples, augmentation and dropout.")
    momentum: float = option(0.9, "Share of the last step that the next one keeps (sgd).")
    weight_decay: float = option(
        0.0, "L2 penalty: half the squared norm is weighed by it (adamw: decoupled)."
    )
    schedule: Schedule = option(
        "constant",
        "step: times --gamma at each of --milestones. cosine, poly: down to zero. restarts: a "
        "cosine in each --period. one-cycle: up in 30 % of the steps, then down.",
    )
    optimizer: Optimizer = option("sgd", "How gradients become steps.")
    nesterov: bool = option(False, "Nesterov's momentum (sgd).")
    betas: tuple[float, ...] = option((0.9, 0.999), "Averaging of adamw.", metavar="B1,B2")
    milestones: tuple[int, ...] = option(
        (), "Epochs at which `step` lowers the rate. [default: each third]", metavar="E,..."
    )
    gamma: float = option(0.1, "Factor of the rate at a milestone.")
    power: float = option(1.0, "Exponent of `poly`: rate (1 - t/epochs)^power.")
    period: float | None = option(
        None, "Epochs between the restarts of `restarts`. [default: a quarter of all]"
    )
    warmup: float = option(0.0, "Epochs in which the rate grows linearly from nearly zero.")
    decay: Decay = option(
        "layer",
        "What --weight-decay penalises. layer: every weight. product: of an expanded chain the "
        "one kernel that it folds to, of others every weight.",
    )
    execution: Execution = option(
        "auto",
        "How chains of linear layers run. layerwise: one by one. composed: as the one layer that "
        "they are, composed in each step. auto: whichever takes fewer products.",
    )
    freeze: str | None = option(
        None, "Do not train initializers in whose name this is found.", metavar="REGEX"
    )
    reset_momentum: bool = option(
        False, "Forget the momentum at the start of each epoch, as the paper's CIFAR code does."
    )
    label_smoothing: float = option(0.0, "Share of the target spread over all classes.")
    ema: float = option(
        0.0, "Decay of a running average of the weights, which is tested and written; 0: none."
    )
    amp: Amp = option("off", "Run forward and backward in a shorter floating-point type.")
    clip: float | None = option(None, "Largest norm of all gradients together.")
    accumulate: int = option(
        1, "Run each batch in so many parts and add their gradients: less memory, same step."
    )
    task: TaskName = option(
        "auto", "What is learnt. auto: what the data is labelled for: classes, masks or boxes."
    )
    loss: str | None = option(
        None,
        "Your own loss: a function of the outputs and the targets that returns its mean.",
        metavar="PACKAGE:FUNCTION",
    )
    patience: int = option(
        0, "End a run after so many epochs without a better test score; 0: never early."
    )
    keep: Keep = option("last", "Which epoch's weights stay: the last, or the best by test score.")
    workers: int = option(0, "Processes that read and augment images besides the main one.")
    sync_bn: bool = option(False, "Batch statistics over all processes, not over each one's part.")
    deterministic: bool = option(False, "Only algorithms that repeat to the bit, also on a GPU.")

    def __post_init__(self) -> None:
        require(
            self,
            epochs=_COUNT,
            batch=_COUNT,
            lr=_POSITIVE,
            momentum=(0.0, 1.0 - 2.0**-53, "at least 0 and below 1"),
            weight_decay=_NOT_NEGATIVE,
            seed=(0.0, 2.0**63 - 1, "from 0 to 2^63 - 1"),
            gamma=_POSITIVE,
            power=_POSITIVE,
            warmup=_NOT_NEGATIVE,
            label_smoothing=(0.0, 1.0 - 2.0**-53, "at least 0 and below 1"),
            ema=(0.0, 1.0 - 2.0**-53, "at least 0 and below 1"),
            clip=_POSITIVE,
            accumulate=_COUNT,
            workers=_NOT_NEGATIVE,
            period=_POSITIVE,
            patience=_NOT_NEGATIVE,
        )
        if len(self.betas) != 2 or not all(0 <= beta < 1 for beta in self.betas):
            raise UsageError(f"betas is {self.betas}; it must be two numbers from 0 to below 1")
        if any(epoch < 1 for epoch in self.milestones):
            raise UsageError(f"milestones is {self.milestones}; epochs count from 1")
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov needs a momentum above 0")
        if self.accumulate > self.batch:
            raise UsageError(f"accumulate is {self.accumulate}, more than the batch {self.batch}")

    def rate(self, epoch: float, steps: int = 0) -> float:
        """The learning rate at a time.

        Args:
            epoch: Epochs that are done, with a fraction for steps.
            steps: Steps in an epoch, by which a warm-up begins above zero.
        """
        warm = 1.0
        if self.warmup > 0:
            warm = min(1.0, (epoch + (1 / steps if steps else 0.0)) / self.warmup)
        return self.lr * warm * self._factor(epoch, steps)

    def _factor(self, epoch: float, steps: int) -> float:
        share = min(1.0, epoch / self.epochs)
        if self.schedule == "step":
            return rates.step(epoch, self.epochs, self.milestones, self.gamma)
        if self.schedule == "cosine":
            return rates.cosine(share)
        if self.schedule == "poly":
            return rates.poly(share, self.power)
        if self.schedule == "restarts":
            return rates.restarts(epoch, self.period or self.epochs / 4)
        if self.schedule == "one-cycle":
            return rates.one_cycle(epoch, self.epochs, steps)
        return 1.0


@dataclass(frozen=True)
class DataOptions:
    """How data becomes what the model takes.

    Raises:
        UsageError: A value makes no sense.
    """

    layout: Layout = option(
        "auto",
        "How --data is laid out. auto: found out. classes: a directory of images for each class. "
        "cifar: CIFAR-10 or -100, Python or binary version. npz: arrays. masks: images/ and "
        "masks/, or Cityscapes. voc: JPEGImages/ and Annotations/.",
    )
    augment: tuple[str, ...] = option(
        (),
        "Random changes of training images. flip: left and right. crop:P: shift by up to P "
        "pixels. resized-crop[:A]: a part of at least A (0.08) of the area. zoom:A:B: enlarge by "
        "A to B. jitter:S: brightness, contrast and saturation by up to S.",
        metavar="NAME,...",
    )
    transform: str | None = option(
        None,
        "Your own random change of a training image, after --augment: a function of a tensor "
        "[C, H, W], brightnesses from 0 to 1, that returns another of that shape, such as a "
        "transform of torchvision. Masks and boxes stay.",
        metavar="PACKAGE:FUNCTION",
    )
    mean: tuple[float, ...] = option(
        (),
        "Mean of each channel to subtract, of brightnesses from 0 to 1. [default: measured]",
        metavar="M,...",
    )
    std: tuple[float, ...] = option(
        (), "Deviation of each channel to divide by. [default: measured]", metavar="S,..."
    )
    image_size: tuple[int, ...] = option(
        (), "Height and width, where the model takes any. [default: the data's]", metavar="H,W"
    )
    center_crop: float | None = option(
        None,
        "Test on the middle: the largest window of the model's shape, times this. [default: "
        "the whole image, squeezed]",
    )
    ignore_label: int = option(255, "Pixels of masks with this value count for nothing.")
    anchors: tuple[float, ...] = option(
        (),
        "Widths and heights of anchor boxes as shares of the image. [default: k-means of the "
        "training boxes]",
        metavar="W,H,...",
    )
    strict: bool = option(
        False, "Refuse data with unreadable images, instead of leaving those out and saying so."
    )
    cache: float = option(
        1.0, "Images are kept in memory where all together take at most so many GiB."
    )

    def __post_init__(self) -> None:
        require(self, ignore_label=(-1, 65535, "from -1 to 65535"), cache=_NOT_NEGATIVE)
        if self.center_crop is not None and not 0 < self.center_crop <= 1:
            raise UsageError(f"center_crop is {self.center_crop}; it must be above 0, at most 1")
        if any(not math.isfinite(m) for m in self.mean):
            raise UsageError(f"mean is {self.mean}; it must be numbers")
        if any(not (s > 0 and math.isfinite(s)) for s in self.std):
            raise UsageError(f"std is {self.std}; it must be numbers above 0")
        if bool(self.mean) != bool(self.std):
            raise UsageError("mean and std go together; give both")
        if self.image_size and (len(self.image_size) != 2 or min(self.image_size) < 1):
            raise UsageError(f"image_size is {self.image_size}; it must be a height and a width")
        if len(self.anchors) % 2 or any(not a > 0 for a in self.anchors):
            raise UsageError(f"anchors is {self.anchors}; it must be pairs of numbers above 0")


@dataclass(frozen=True)
class DistillOptions:
    """How a teacher is followed.

    Raises:
        UsageError: A value makes no sense.
    """

    teacher: str | None = option(
        None, "A model whose knowledge is distilled into this one.", metavar="T.onnx"
    )
    distill: Method = option(
        "kd",
        "kd: Hinton's, its outputs at a temperature. hint: one inner tensor, through a learnt "
        "1x1 map. pkt: how alike samples are in one inner tensor.",
    )
    temperature: float = option(4.0, "Of the softmax of kd.")
    teacher_weight: float = option(
        0.9, "Share of the teacher in the loss; the labels have the rest (hint, pkt: added)."
    )
    student_layer: str | None = option(None, "Name of the inner tensor of IN.", metavar="NAME")
    teacher_layer: str | None = option(
        None, "Name of the inner tensor of the teacher.", metavar="NAME"
    )

    def __post_init__(self) -> None:
        require(self, temperature=_POSITIVE)
        high = 1.0 if self.distill == "kd" else _HUGE
        words = "between 0 and 1" if self.distill == "kd" else "at least 0"
        require(self, teacher_weight=(0.0, high, words))
        if self.distill == "hint" and self.teacher and not self.teacher_layer:
            raise UsageError("hint needs the names of two tensors: student_layer, teacher_layer")
        if bool(self.student_layer) != bool(self.teacher_layer):
            raise UsageError("student_layer and teacher_layer go together; give both")


@dataclass(frozen=True)
class RunOptions:
    """What is written, and how often the whole is done.

    Raises:
        UsageError: A value makes no sense.
    """

    folder: str | None = option(
        None,
        "Folder for history.csv, curves.png and checkpoints. [default: OUT's name with .run]",
        metavar="DIR",
    )
    resume: bool = option(False, "Go on from the folder's checkpoint, where there is one.")
    checkpoint_every: int | None = option(
        None, "Steps between checkpoints. [default: one at the end of each epoch]"
    )
    weights: str | None = option(
        None,
        "Begin with the tensors of this file, under the names of IN's initializers; those that it "
        "has not stay.",
        metavar="W.safetensors",
    )
    save_weights: str | None = option(
        None, "Also write OUT's initializers to this file.", metavar="W.safetensors"
    )
    tensorboard: bool = option(False, "Also write events for TensorBoard.")
    device: str = option("auto", "cpu, cuda or cuda:N. auto: cuda where there is one.")
    then_fold: str | None = option(
        None, "Fold OUT into this file when training has ended, and check it.", metavar="FILE"
    )
    fold_check: bool = option(
        True, "After the first epoch see that the model folds to one that computes the same."
    )
    compare_baseline: str | None = option(
        None,
        "Train this compact model too, with the same data and seeds, and say which is better. "
        "`fold`: the one that IN folds to.",
        metavar="COMPACT.onnx|fold",
    )
    repeat: int | None = option(
        None, "Seeds, counted up from --seed. [default: 1; 3 with --compare-baseline]"
    )
    reinit: bool = option(
        False,
        "Draw all weights anew for each seed, as torch would, so that repeats differ in them.",
    )

    def __post_init__(self) -> None:
        require(self, checkpoint_every=_COUNT, repeat=_COUNT)
        if self.weights is not None and self.reinit:
            raise UsageError("weights says where to begin, and reinit draws it; give one")
        if not (self.device in {"auto", "cpu", "cuda"} or self.device.startswith("cuda:")):
            raise UsageError(f"device '{self.device}' is none of auto, cpu, cuda, cuda:N")

    @property
    def seeds(self) -> int:
        """How many seeds are run."""
        return self.repeat or (3 if self.compare_baseline else 1)
