"""Recurrent layers, step by step: RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch

from onnx_expand.train.registry import Attributes, op

State: TypeAlias = "tuple[torch.Tensor, ...]"
Activation: TypeAlias = "Callable[[torch.Tensor], torch.Tensor]"
Step: TypeAlias = "Callable[[_Cell, torch.Tensor, State], State]"

_FUNCTIONS: dict[str, Activation] = {
    "Sigmoid": torch.sigmoid,
    "Tanh": torch.tanh,
    "Relu": torch.relu,
}


def _check(attributes: Attributes) -> str:
    unknown = set(attributes.get("activations") or ()) - set(_FUNCTIONS)
    if unknown:
        return f"activation '{sorted(unknown)[0]}'"
    if attributes.get("activation_alpha") or attributes.get("activation_beta"):
        return "activation_alpha and activation_beta"
    return ""


def _unroll(
    x: torch.Tensor,
    states: list[State],
    cells: Sequence[_Cell],
    step: Step,
    lengths: torch.Tensor | None,
    direction: str,
) -> tuple[torch.Tensor, list[State]]:
    """Run all directions over [T, N, m]; return the outputs [T, D, N, h] and the last states.

    After the end of a sequence the output is zero and the state does not change.
    """
    count, results, last = x.shape[0], [], []
    backwards = [direction == "reverse"] if len(states) == 1 else [False, True]
    for cell, state, reverse in zip(cells, states, backwards, strict=True):
        outputs: list[torch.Tensor] = [torch.empty(0)] * count
        for place in range(count):
            t = count - 1 - place if reverse else place
            new = step(cell, x[t], state)
            if lengths is not None:
                runs = (lengths > t).reshape(-1, 1)
                new = tuple(torch.where(runs, a, b) for a, b in zip(new, state, strict=True))
                outputs[t] = torch.where(runs, new[0], torch.zeros_like(new[0]))
            else:
                outputs[t] = new[0]
            state = new
        results.append(torch.stack(outputs))
        last.append(state)
    return torch.stack(results, 1), last


@dataclass(frozen=True)
class _Cell:
    """One direction of a layer with h units and g gates.

    Attributes:
        w: The weight of the input, [g h, m].
        r: The weight of the state, [g h, h].
        bias: The biases of the input and of the state, [2, g h].
        peepholes: The weights of an LSTM's cell state in its gates i, o and f, [3 h], or None.
        functions: The activations.
        clip: The limit of what the activations get, or None.
        resets_late: Whether a GRU applies its reset gate after the weight of the state.
    """

    w: torch.Tensor
    r: torch.Tensor
    bias: torch.Tensor
    peepholes: torch.Tensor | None
    functions: Sequence[Activation]
    clip: float | None
    resets_late: bool

    def activate(self, number: int, x: torch.Tensor) -> torch.Tensor:
        """Apply one of the activations."""
        return self.functions[number](x if self.clip is None else x.clamp(-self.clip, self.clip))


def _rnn(cell: _Cell, x: torch.Tensor, state: State) -> State:
    """Compute h = f(W x + R h + b)."""
    return (cell.activate(0, x @ cell.w.t() + state[0] @ cell.r.t() + cell.bias.sum(0)),)


def _gru(cell: _Cell, x: torch.Tensor, state: State) -> State:
    """Compute a GRU with gates z (update), r (reset) and h, in ONNX's order."""
    h = state[0]
    wz, wr, wh = (x @ cell.w.t() + cell.bias[0]).chunk(3, -1)
    rz, rr, rh = cell.r.chunk(3)
    bz, br, bh = cell.bias[1].chunk(3)
    z = cell.activate(0, wz + h @ rz.t() + bz)
    reset = cell.activate(0, wr + h @ rr.t() + br)
    inner = reset * (h @ rh.t() + bh) if cell.resets_late else (reset * h) @ rh.t() + bh
    return ((1 - z) * cell.activate(1, wh + inner) + z * h,)


def _lstm(cell: _Cell, x: torch.Tensor, state: State) -> State:
    """Compute an LSTM with gates i, o, f, c, in this order."""
    h, c = state
    i, o, f, g = (x @ cell.w.t() + h @ cell.r.t() + cell.bias.sum(0)).chunk(4, -1)
    p = None if cell.peepholes is None else cell.peepholes.chunk(3)
    if p is not None:
        i, f = i + p[0] * c, f + p[2] * c
    new = cell.activate(0, f) * c + cell.activate(0, i) * cell.activate(1, g)
    o = o if p is None else o + p[1] * new
    return cell.activate(0, o) * cell.functions[2](new), new


# The step of each layer, and its usual activations.
_LAYERS: dict[str, tuple[Step, tuple[str, ...]]] = {
    "RNN": (_rnn, ("Tanh",)),
    "GRU": (_gru, ("Sigmoid", "Tanh")),
    "LSTM": (_lstm, ("Sigmoid", "Tanh", "Tanh")),
}


@op("RNN", weights=(1, 2, 3), check=_check, layer="RNN")
@op("GRU", weights=(1, 2, 3), check=_check, layer="GRU")
@op("LSTM", weights=(1, 2, 3, 7), check=_check, allowed={"input_forget": {0}}, layer="LSTM")
def recurrent(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    h: torch.Tensor | None = None,
    c: torch.Tensor | None = None,
    p: torch.Tensor | None = None,
    *,
    hidden_size: int = 0,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    input_forget: int = 0,
    layout: int = 0,
    linear_before_reset: int = 0,
    layer: str,
    outputs: int,
) -> tuple[torch.Tensor, ...]:
    """Run a layer over time, in all its directions; return outputs and last states."""
    step, usual = _LAYERS[layer]
    parts = [h, c] if layer == "LSTM" else [h]
    if layout:  # the time axis, and the direction axis of states, belong to the front
        x, parts = x.transpose(0, 1), [None if s is None else s.transpose(0, 1) for s in parts]
    zeros = x.new_zeros(r.shape[0], x.shape[1], r.shape[2])
    states = list(zip(*(zeros if part is None else part for part in parts), strict=True))
    biases = w.new_zeros(len(r), 2, r.shape[1]) if b is None else b.reshape(len(b), 2, -1)
    functions = [_FUNCTIONS[name] for name in activations or [*usual] * len(states)]
    cells = [
        _Cell(
            w[d], r[d], biases[d], None if p is None else p[d],
            functions[d * len(usual) : (d + 1) * len(usual)], clip, bool(linear_before_reset),
        )
        for d in range(len(states))
    ]  # fmt: skip
    y, last = _unroll(x, states, cells, step, lengths, direction)
    ends = [torch.stack(part) for part in zip(*last, strict=True)]
    if layout:
        y, ends = y.permute(2, 0, 1, 3), [end.transpose(0, 1) for end in ends]
    return (y, *ends)[:outputs]
