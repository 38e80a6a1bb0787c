"""Knowledge distillation: train a student with the outputs of a teacher besides the labels."""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
import torch
import torch.nn.functional as F  # noqa: N812

from onnx_expand.errors import UnsupportedError, UsageError, first_line
from onnx_expand.experiment.training.parallel import gather_rows
from onnx_expand.experiment.training.tasks.base import first_output
from onnx_expand.model import ModelLike, read
from onnx_expand.recipes import DistillOptions
from onnx_expand.train.head import log_probabilities
from onnx_expand.train.importer import to_torch

__all__ = ["Distiller", "with_output"]


def with_output(model: ModelLike, name: str) -> ir.Model:
    """Return a copy of a model with an inner tensor as an additional last output.

    Raises:
        UsageError: There is no tensor of that name.
    """
    copy = read(model)
    values = {value.name: value for node in copy.graph for value in node.outputs}
    if name not in values:
        near = [n for n in values if n and name.lower() in n.lower()][:3]
        hint = f"; there are {', '.join(map(str, near))}" if near else ""
        raise UsageError(f"{copy.graph.name or 'the model'} has no inner tensor '{name}'{hint}")
    value = values[name]
    if value.type is None:
        value.type = ir.TensorType(ir.DataType.FLOAT)
    if value.is_graph_output():
        node = ir.node("Identity", [value])
        node.outputs[0].name = f"{name}.distilled"
        node.outputs[0].type, node.outputs[0].shape = value.type, value.shape
        copy.graph.append(node)
        value = node.outputs[0]
    copy.graph.outputs.append(value)
    return copy


class Distiller(torch.nn.Module):
    """A teacher, and the method of distillation.

    - `kd` (Hinton, Vinyals, Dean 2015): the divergence of the output distributions at a
      temperature T, times T^2.
    - `hint` (Romero et al. 2015): the mean squared error of an inner tensor, after a learned 1x1
      map if the channels differ.
    - `pkt` (Passalis, Tefas 2018): the divergence of the distributions of cosine similarities
      between the samples of a batch.
    """

    def __init__(self, teacher: ModelLike, options: DistillOptions) -> None:
        super().__init__()
        self.options = options
        self.inner = options.teacher_layer is not None
        if options.teacher_layer is not None:
            teacher = with_output(teacher, options.teacher_layer)
        module = to_torch(teacher)
        module.requires_grad_(False)
        kinds = {p.dtype for p in module.parameters() if p.is_floating_point()}
        self.kind = kinds.pop() if len(kinds) == 1 else None
        self.teacher = module if self.inner else log_probabilities(module)
        self.regressor: torch.nn.Module | None = None

    @property
    def extras(self) -> int:
        """The number of additional outputs that the student must have."""
        return int(self.inner)

    def student(self, model: ModelLike, *, freeze: str | None = None) -> torch.nn.Module:
        """Convert a student to a module, with the outputs that the method needs."""
        if self.options.student_layer is None:
            return to_torch(model, freeze=freeze)
        return to_torch(with_output(model, self.options.student_layer), freeze=freeze)

    def train(self, mode: bool = True) -> Distiller:
        """Set the mode, except for the teacher, which stays in evaluation mode."""
        super().train(mode)
        self.teacher.eval()
        return self

    def prepare(self, inputs: torch.Tensor, student: Any, *, distributions: bool) -> None:
        """Check that teacher and student fit, and create the learned map if needed.

        Args:
            inputs: A few samples.
            student: The student's outputs for them.
            distributions: Whether the student's first output is log probabilities.

        Raises:
            UnsupportedError: They do not fit.
        """
        self.to(inputs.device)
        if self.options.distill == "kd" and not distributions:
            raise UnsupportedError("kd needs classes; for other tasks use hint or pkt")
        try:
            taught = self._teach(inputs)
        except (RuntimeError, TypeError, IndexError) as error:
            reason = first_line(error)
            raise UnsupportedError(
                f"the teacher does not run on a batch of {list(inputs.shape)}: {reason}"
            ) from error
        own, other = self._pair(student, taught)
        if self.options.distill == "kd" and own.shape != other.shape:
            raise UnsupportedError(
                f"the teacher returns {list(other.shape)}, the student {list(own.shape)}; kd "
                "needs the same classes"
            )
        if self.options.distill == "hint":
            if own.ndim != other.ndim or own.ndim < 2:
                raise UnsupportedError(
                    f"the hint is {list(other.shape)}, the student's tensor {list(own.shape)}"
                )
            self._make_regressor(own.shape[1], other.shape[1], own)

    def _make_regressor(self, channels: int, wanted: int, own: torch.Tensor) -> None:
        if channels == wanted:
            return
        # Initialized without affecting the generator of the training.
        with torch.random.fork_rng([]):
            torch.manual_seed(0)
            self.regressor = torch.nn.Linear(channels, wanted, bias=False)
        self.regressor.to(own.device, own.dtype)

    def forward(
        self, inputs: torch.Tensor, student: Any, count: int | None = None
    ) -> torch.Tensor:
        """Return the distillation loss, summed over a batch.

        Args:
            inputs: The samples of this process.
            student: The student's outputs for them.
            count: The number of samples that count; all by default. With several processes, `pkt`
                compares the samples of all.
        """
        own, other = self._pair(student, self._teach(inputs))
        if self.options.distill == "kd":
            return _hinton(own, other, self.options.temperature)
        if self.options.distill == "hint":
            return self._hint(own, other)
        kept = slice(count)
        features, mine = gather_rows(own.flatten(1)[kept])
        return _pkt(features, gather_rows(other.flatten(1)[kept])[0], mine)

    def _teach(self, inputs: torch.Tensor) -> Any:
        """Return the teacher's outputs, whose float type may differ from the student's."""
        if self.kind is not None and inputs.is_floating_point():
            inputs = inputs.to(self.kind)
        with torch.no_grad():
            return self.teacher(inputs)

    def combine(self, loss: torch.Tensor, taught: torch.Tensor) -> torch.Tensor:
        """Combine the loss of the labels with that of the teacher."""
        weight = self.options.teacher_weight
        if self.options.distill == "kd":
            return (1 - weight) * loss + weight * taught
        return loss + weight * taught

    def _pair(self, student: Any, taught: Any) -> tuple[torch.Tensor, torch.Tensor]:
        if self.inner:
            return student[-1], taught[-1].to(student[-1].dtype)
        own, other = first_output(student), first_output(taught)
        other = other.to(own.dtype)
        if own.ndim > 2 and own.shape[2:].numel() == 1:
            own = own.flatten(1)
        if other.ndim > 2 and other.shape[2:].numel() == 1:
            other = other.flatten(1)
        return own, other

    def _hint(self, own: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
        if own.shape[2:] != other.shape[2:] and own.ndim == 4:
            own = F.interpolate(own, size=other.shape[2:], mode="bilinear", align_corners=False)
        if self.regressor is not None:
            own = self.regressor(own.movedim(1, -1)).movedim(-1, 1)
        return F.mse_loss(own, other) * len(own)


def _hinton(own: torch.Tensor, other: torch.Tensor, temperature: float) -> torch.Tensor:
    """Compute T^2 KL(teacher at T || student at T), summed over samples (and pixels).

    Both inputs are log probabilities, which differ from logits by a constant for each sample;
    softmax is invariant to it.
    """
    soft = F.log_softmax(own / temperature, dim=1)
    goal = F.log_softmax(other / temperature, dim=1)
    return F.kl_div(soft, goal, reduction="sum", log_target=True) * temperature**2


def _pkt(own: torch.Tensor, other: torch.Tensor, mine: slice) -> torch.Tensor:
    """Compute the mean of p log(p / q) over a batch's pairs, times the number of samples.

    p and q are the normalized similarities of the teacher and the student.

    Args:
        own: The student's features, [N, D].
        other: The teacher's features, [N, E].
        mine: The samples whose terms are summed.
    """
    tiny = torch.finfo(torch.float32).eps
    rows = []
    for features in (_wide(own), _wide(other)):
        unit = F.normalize(features, dim=1, eps=tiny)
        alike = (unit @ unit.T + 1) / 2
        rows.append(alike / alike.sum(dim=1, keepdim=True))
    q, p = rows
    return (p * ((p + tiny) / (q + tiny)).log())[mine].sum() / len(own)


def _wide(features: torch.Tensor) -> torch.Tensor:
    short = features.dtype in {torch.float16, torch.bfloat16}
    return features.float() if short else features
