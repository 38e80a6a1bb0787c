"""The settings of training as frozen dataclasses, for Python and the command line."""

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
    "DistillOptions",
    "Execution",
    "Keep",
    "Layout",
    "Method",
    "Optimizer",
    "RunOptions",
    "Schedule",
    "Target",
    "TaskName",
    "TrainOptions",
]

Schedule = Literal["constant", "step", "cosine", "poly", "restarts", "one-cycle"]
Optimizer = Literal["sgd", "adamw"]
Target = Literal["layer", "product"]
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
    """Settings of the optimizer, the schedule and the loop.

    The documentation of each field is its help text.

    Raises:
        UsageError: A value is invalid.
    """

    epochs: int = option(10, "Passes over the training data.")
    lr: float = option(0.01, "Learning rate, before the schedule is applied.")
    batch: int = option(128, "Samples in a step, over all processes.")
    seed: int = option(0, "Seed of sample order, augmentation and dropout.")
    momentum: float = option(0.9, "Momentum of sgd.")
    weight_decay: float = option(
        0.0, "L2 penalty: factor of half the squared norm (adamw: decoupled)."
    )
    schedule: Schedule = option(
        "constant",
        "step: the rate times --gamma at each of --milestones. cosine, poly: down to zero. "
        "restarts: a cosine in each --period. one-cycle: up in 30 % of the steps, then down.",
    )
    optimizer: Optimizer = option("sgd", "The optimizer.")
    nesterov: bool = option(False, "Nesterov's momentum (sgd).")
    betas: tuple[float, ...] = option(
        (0.9, 0.999), "Decay rates of adamw's averages.", metavar="B1,B2"
    )
    milestones: tuple[int, ...] = option(
        (), "Epochs at which `step` lowers the rate. [default: each third]", metavar="E,..."
    )
    gamma: float = option(0.1, "Factor of the rate at a milestone.")
    power: float = option(1.0, "Exponent of `poly`: rate (1 - t/epochs)^power.")
    period: float | None = option(
        None, "Epochs between the restarts of `restarts`. [default: a quarter of all]"
    )
    warmup: float = option(0.0, "Epochs in which the rate grows linearly from nearly zero.")
    lr_on: Target = option(
        "layer",
        "What moves at the learning rate. layer: each weight. product (sgd): for an expanded "
        "chain, at its initial values, the kernel that it folds to; otherwise each weight.",
    )
    decay: Target = option(
        "layer",
        "The weights that --weight-decay penalizes. layer: each weight. product: for an expanded "
        "chain the kernel that it folds to, otherwise each weight.",
    )
    execution: Execution = option(
        "auto",
        "How chains of linear layers run. layerwise: one by one. composed: as one layer, composed "
        "in each step. auto: whichever takes fewer multiply-accumulates.",
    )
    freeze: str | None = option(
        None, "Do not train initializers whose name matches.", metavar="REGEX"
    )
    reset_momentum: bool = option(
        False, "Reset the momentum at the start of each epoch, as the paper's CIFAR code does."
    )
    label_smoothing: float = option(0.0, "Share of the target spread over all classes.")
    ema: float = option(
        0.0, "Decay of a running average of the weights, which is tested and written; 0: none."
    )
    amp: Amp = option("off", "Run forward and backward in a 16-bit floating-point type.")
    clip: float | None = option(None, "Largest norm of all gradients together.")
    accumulate: int = option(
        1, "Split each batch into this many parts and add their gradients, to save memory."
    )
    task: TaskName = option(
        "auto", "The task. auto: from the labels of the data: classes, masks or boxes."
    )
    loss: str | None = option(
        None,
        "Your own loss: a function of the outputs and the targets that returns the mean loss.",
        metavar="PACKAGE:FUNCTION",
    )
    patience: int = option(
        0, "Stop a run after this many epochs without a better test score; 0: never early."
    )
    keep: Keep = option(
        "last", "The epoch whose weights are written: the last, or the best by test score."
    )
    workers: int = option(0, "Additional processes that read and augment images.")
    sync_bn: bool = option(False, "Compute batch statistics over all processes together.")
    deterministic: bool = option(
        False, "Use only algorithms that repeat bit for bit, also on a GPU."
    )

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
        if self.lr_on == "product" and self.optimizer != "sgd":
            raise UsageError(
                f"lr-on product is for sgd; the steps of {self.optimizer} do not grow with the "
                "gradient"
            )
        if self.nesterov and not self.momentum:
            raise UsageError("nesterov needs a momentum above 0")
        if self.accumulate > self.batch:
            raise UsageError(f"accumulate is {self.accumulate}, more than the batch {self.batch}")

    def rate(self, epoch: float, steps: int = 0) -> float:
        """Return the learning rate at a time.

        Args:
            epoch: Epochs done, with a fraction for steps.
            steps: Steps in an epoch, so that a warm-up starts above zero.
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
    """Settings of how data is read, augmented and normalized.

    Raises:
        UsageError: A value is invalid.
    """

    layout: Layout = option(
        "auto",
        "Layout of --data. auto: detected. classes: a directory of images for each class. cifar: "
        "CIFAR-10 or -100, Python or binary version. npz: arrays. masks: images/ and masks/, or "
        "Cityscapes. voc: JPEGImages/ and Annotations/.",
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
        "[C, H, W] of values from 0 to 1 that returns another of that shape, such as a transform "
        "of torchvision. Masks and boxes are unchanged.",
        metavar="PACKAGE:FUNCTION",
    )
    mean: tuple[float, ...] = option(
        (),
        "Mean of each channel to subtract, of values from 0 to 1. [default: measured]",
        metavar="M,...",
    )
    std: tuple[float, ...] = option(
        (), "Standard deviation of each channel to divide by. [default: measured]", metavar="S,..."
    )
    image_size: tuple[int, ...] = option(
        (), "Height and width, if the model allows any. [default: the data's]", metavar="H,W"
    )
    center_crop: float | None = option(
        None,
        "Test on the center: the largest window of the model's aspect ratio, times this. "
        "[default: the whole image, resized]",
    )
    ignore_label: int = option(255, "Mask value of pixels to ignore.")
    anchors: tuple[float, ...] = option(
        (),
        "Widths and heights of anchor boxes as fractions of the image. [default: k-means of the "
        "training boxes]",
        metavar="W,H,...",
    )
    strict: bool = option(
        False, "Refuse data with unreadable images instead of skipping and reporting these."
    )
    cache: float = option(1.0, "Cache images in memory if all take at most this many GiB.")

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
        if len(self.anchors) % 2 or any(not 0 < a < math.inf for a in self.anchors):
            raise UsageError(f"anchors is {self.anchors}; it must be pairs of numbers above 0")


@dataclass(frozen=True)
class DistillOptions:
    """Settings of knowledge distillation.

    Raises:
        UsageError: A value is invalid.
    """

    teacher: str | None = option(
        None, "A model whose knowledge is distilled into IN.", metavar="T.onnx"
    )
    distill: Method = option(
        "kd",
        "kd: Hinton's, the outputs at a temperature. hint: one inner tensor, through a trained "
        "1x1 map. pkt: the similarities of samples in one inner tensor.",
    )
    temperature: float = option(4.0, "Temperature of the softmax of kd.")
    teacher_weight: float = option(
        0.9, "Weight of the teacher in the loss; the labels have the rest (hint, pkt: added)."
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
    """Settings of outputs, checkpoints and repetitions.

    Raises:
        UsageError: A value is invalid.
    """

    folder: str | None = option(
        None,
        "Folder for history.csv, curves.png and checkpoints. [default: OUT's name with .run]",
        metavar="DIR",
    )
    resume: bool = option(False, "Resume from the folder's checkpoint, if there is one.")
    checkpoint_every: int | None = option(
        None, "Steps between checkpoints. [default: one at the end of each epoch]"
    )
    weights: str | None = option(
        None,
        "Start from the tensors of this file, named after IN's initializers; missing ones keep "
        "their values.",
        metavar="W.safetensors",
    )
    save_weights: str | None = option(
        None, "Also write OUT's initializers to this file.", metavar="W.safetensors"
    )
    tensorboard: bool = option(False, "Also write events for TensorBoard.")
    device: str = option("auto", "cpu, cuda or cuda:N. auto: cuda if available.")
    then_fold: str | None = option(
        None, "After training, fold OUT into this file and check it.", metavar="FILE"
    )
    fold_check: bool = option(
        True, "After the first epoch, check that the folded model computes the same."
    )
    compare_baseline: str | None = option(
        None,
        "Also train this compact model, with the same data and seeds, and report which is better. "
        "`fold`: the model that IN folds to.",
        metavar="COMPACT.onnx|fold",
    )
    repeat: int | None = option(
        None, "Number of seeds, from --seed on. [default: 1; 3 with --compare-baseline]"
    )
    reinit: bool = option(
        False,
        "Initialize all weights for each seed, as torch would, so that repeats start differently.",
    )

    def __post_init__(self) -> None:
        require(self, checkpoint_every=_COUNT, repeat=_COUNT)
        if self.weights is not None and self.reinit:
            raise UsageError("weights and reinit both set the initial weights; give one")
        if not (self.device in {"auto", "cpu", "cuda"} or self.device.startswith("cuda:")):
            raise UsageError(f"device '{self.device}' is none of auto, cpu, cuda, cuda:N")

    @property
    def seeds(self) -> int:
        """The number of seeds."""
        return self.repeat or (3 if self.compare_baseline else 1)
