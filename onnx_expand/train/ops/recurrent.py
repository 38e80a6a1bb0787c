"""Recurrent layers, step by step: RNN, GRU and LSTM."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeAlias

import torch

from onnx_expand.train.registry import Attributes, op

State: TypeAlias = "tuple[torch.Tensor, ...]"
Step: TypeAlias = "Callable[[torch.Tensor, State, int], State]"

_FUNCTIONS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
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
    return "input_forget=1" if attributes.get("input_forget") else ""


def _activations(
    given: Sequence[str] | None, usual: Sequence[str], directions: int
) -> list[Callable[[torch.Tensor], torch.Tensor]]:
    return [_FUNCTIONS[name] for name in (given or [*usual] * directions)]


def _unroll(
    x: torch.Tensor,
    states: list[State],
    step: Step,
    lengths: torch.Tensor | None,
    direction: str,
) -> tuple[torch.Tensor, list[State]]:
    """Run all directions over [T, N, m]; return the outputs [T, D, N, h] and the last states.

    After the end of a sequence the output is zero and the state does not change.
    """
    count, results, last = x.shape[0], [], []
    backwards = [direction == "reverse"] if len(states) == 1 else [False, True]
    for number, (state, reverse) in enumerate(zip(states, backwards, strict=True)):
        outputs: list[torch.Tensor] = [torch.empty(0)] * count
        for place in range(count):
            t = count - 1 - place if reverse else place
            new = step(x[t], state, number)
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


def _clipped(x: torch.Tensor, clip: float | None) -> torch.Tensor:
    return x if clip is None else x.clamp(-clip, clip)


def _begin(
    given: torch.Tensor | None, like: torch.Tensor, directions: int, hidden: int
) -> list[torch.Tensor]:
    """Return the initial state of each direction."""
    if given is None:
        return [like.new_zeros(like.shape[1], hidden)] * directions
    return list(given)


def _finish(
    y: torch.Tensor, last: list[State], layout: int, parts: int
) -> tuple[torch.Tensor, ...]:
    ends = [torch.stack([state[part] for state in last]) for part in range(parts)]
    if layout:
        return y.permute(2, 0, 1, 3), *(end.transpose(0, 1) for end in ends)
    return y, *ends


def _turned(
    x: torch.Tensor, states: Sequence[torch.Tensor | None], layout: int
) -> tuple[torch.Tensor, list[torch.Tensor | None]]:
    """Move the time axis, and the direction axis of states, to the front."""
    if not layout:
        return x, list(states)
    turned = [None if state is None else state.transpose(0, 1) for state in states]
    return x.transpose(0, 1), turned


@op("RNN", weights=(1, 2, 3), check=_check)
def rnn(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    h: torch.Tensor | None = None,
    *,
    hidden_size: int = 0,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    layout: int = 0,
    outputs: int = 2,
) -> tuple[torch.Tensor, ...]:
    """Compute h = f(W x + R h + b) over time."""
    x, (h,) = _turned(x, (h,), layout)
    count, hidden = r.shape[0], r.shape[2]
    functions = _activations(activations, ["Tanh"], count)

    def step(now: torch.Tensor, state: State, d: int) -> State:
        total = now @ w[d].t() + state[0] @ r[d].t()
        if b is not None:
            total = total + b[d, :hidden] + b[d, hidden:]
        return (functions[d](_clipped(total, clip)),)

    first: list[State] = [(state,) for state in _begin(h, x, count, hidden)]
    y, last = _unroll(x, first, step, lengths, direction)
    return _finish(y, last, layout, 1)[:outputs]


@op("GRU", weights=(1, 2, 3), check=_check)
def gru(
    x: torch.Tensor,
    w: torch.Tensor,
    r: torch.Tensor,
    b: torch.Tensor | None = None,
    lengths: torch.Tensor | None = None,
    h: torch.Tensor | None = None,
    *,
    hidden_size: int = 0,
    direction: str = "forward",
    activations: Sequence[str] | None = None,
    activation_alpha: Sequence[float] | None = None,
    activation_beta: Sequence[float] | None = None,
    clip: float | None = None,
    layout: int = 0,
    linear_before_reset: int = 0,
    outputs: int = 2,
) -> tuple[torch.Tensor, ...]:
    """Compute a GRU with gates z (update), r (reset) and h, in ONNX's order."""
    x, (h,) = _turned(x, (h,), layout)
    count, hidden = r.shape[0], r.shape[2]
    functions = _activations(activations, ["Sigmoid", "Tanh"], count)

    def step(now: torch.Tensor, state: State, d: int) -> State:
        before = state[0]
        gate, squash = functions[2 * d : 2 * d + 2]
        bias = w.new_zeros(6 * hidden) if b is None else b[d]
        wz, wr, wh = (now @ w[d].t() + bias[: 3 * hidden]).chunk(3, -1)
        rz, rr, rh = r[d].chunk(3)
        bz, br, bh = bias[3 * hidden :].chunk(3)
        z = gate(_clipped(wz + before @ rz.t() + bz, clip))
        reset = gate(_clipped(wr + before @ rr.t() + br, clip))
        if linear_before_reset:
            inner = reset * (before @ rh.t() + bh)
        else:
            inner = (reset * before) @ rh.t() + bh
        new = squash(_clipped(wh + inner, clip))
        return ((1 - z) * new + z * before,)

    first: list[State] = [(state,) for state in _begin(h, x, count, hidden)]
    y, last = _unroll(x, first, step, lengths, direction)
    return _finish(y, last, layout, 1)[:outputs]


@op("LSTM", weights=(1, 2, 3, 7), check=_check)
def lstm(
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
    outputs: int = 3,
) -> tuple[torch.Tensor, ...]:
    """Compute an LSTM with gates i, o, f, c, in this order, and peepholes p to the first three."""
    x, (h, c) = _turned(x, (h, c), layout)
    count, hidden = r.shape[0], r.shape[2]
    functions = _activations(activations, ["Sigmoid", "Tanh", "Tanh"], count)

    def step(now: torch.Tensor, state: State, d: int) -> State:
        before, cell = state
        gate, squash, out = functions[3 * d : 3 * d + 3]
        total = now @ w[d].t() + before @ r[d].t()
        if b is not None:
            total = total + b[d, : 4 * hidden] + b[d, 4 * hidden :]
        i, o, f, g = total.chunk(4, -1)
        if p is not None:
            pi, po, pf = p[d].chunk(3)
            i, f = i + pi * cell, f + pf * cell
        new = gate(_clipped(f, clip)) * cell + gate(_clipped(i, clip)) * squash(_clipped(g, clip))
        if p is not None:
            o = o + po * new
        return gate(_clipped(o, clip)) * out(new), new

    pairs = zip(_begin(h, x, count, hidden), _begin(c, x, count, hidden), strict=True)
    y, last = _unroll(x, list(pairs), step, lengths, direction)
    return _finish(y, last, layout, 2)[:outputs]
