"""Folding keeps what onnxruntime fuses in a transformer, however it is written and exported."""

from __future__ import annotations

import io
import itertools
import math
import warnings
from pathlib import Path

import onnx
import pytest

import onnx_expand
from tests.support.composites import fused_ops
from tests.support.judge import Source, judge

pytest.importorskip("torch")
pytest.importorskip("onnxscript")
pytest.importorskip("onnxruntime")

import torch
from torch import Tensor, nn

TOKENS, WIDTH, HEADS = 6, 16, 2
MASKS = ("none", "where", "fill", "add", "triu", "fused")
SCRIPT = (13, 17, 20)
DYNAMO = (("where", 20), ("fused", 18))
NO_EXPORT = {("triu", 13), ("fused", 13)}
"""Masks that the old exporter does not write at an opset."""
AS_FAST = {"FusedMatMul"}
"""A product times a number: fold moves the number into the query's weight instead."""
WITHIN = {"Gelu": "BiasGelu", "LayerNormalization": "SkipLayerNormalization"}
"""Fused ops that are part of others."""


class Block(nn.Module):
    """A layer of a transformer.

    Args:
        mask: How later tokens are hidden.
        joined: Whether query, key and value are one product.
        rms: Whether the norms are RMSNorm, and the feed-forward part is gated.
    """

    def __init__(self, mask: str, *, joined: bool, rms: bool) -> None:
        super().__init__()
        self.mask, self.rms, d = mask, rms, WIDTH
        self.scales = nn.ParameterList([torch.rand(d) + 0.5 for _ in range(2)])
        self.shifts = nn.ParameterList([torch.randn(d) for _ in range(2)])
        widths = [3 * d] if joined else [d] * 3
        self.qkv = nn.ModuleList([nn.Linear(d, n, bias=not rms) for n in widths])
        self.out, self.up, self.gate, self.down = (
            nn.Linear(m, n) for m, n in ((d, d), (d, 2 * d), (d, 2 * d), (2 * d, d))
        )
        self.register_buffer("seen", torch.ones(1, 1, TOKENS, TOKENS).tril().bool())

    def norm(self, x: Tensor, i: int) -> Tensor:
        """Normalize tokens."""
        if self.rms:
            normalized: Tensor = self.scales[i] * (
                x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6)
            )
            return normalized
        return nn.functional.layer_norm(x, (WIDTH,), self.scales[i], self.shifts[i])

    def attend(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Return what the heads gather."""
        if self.mask == "fused":
            return nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True)
        scores = q @ k.transpose(-2, -1) / math.sqrt(WIDTH // HEADS)
        seen = self.seen
        assert isinstance(seen, Tensor)
        if self.mask == "where":
            scores = torch.where(seen, scores, torch.tensor(-1e4))
        elif self.mask == "fill":
            scores = scores.masked_fill(seen == 0, float("-inf"))
        elif self.mask == "add":
            scores = scores + (1 - seen.float()) * -1e4
        elif self.mask == "triu":
            scores = scores + torch.triu(torch.full((TOKENS, TOKENS), -1e4), 1)
        return scores.softmax(-1) @ v

    def forward(self, x: Tensor) -> Tensor:
        """Return the tokens after the layer."""
        b, t, d = x.shape
        y = self.norm(x, 0)
        parts = [layer(y) for layer in self.qkv]
        parts = list(parts[0].split(d, 2)) if len(parts) == 1 else parts
        q, k, v = (z.view(b, t, HEADS, d // HEADS).transpose(1, 2) for z in parts)
        x = x + self.out(self.attend(q, k, v).transpose(1, 2).reshape(b, t, d))
        y = self.norm(x, 1)
        up = self.up(y)
        hidden = nn.functional.silu(self.gate(y)) * up if self.rms else nn.functional.gelu(up)
        after: Tensor = x + self.down(hidden)
        return after


def exported(net: nn.Module, opset: int, *, dynamo: bool, dynamic: bool) -> onnx.ModelProto:
    """Export a network of tokens, with a dynamic batch or a static one."""
    x = (torch.randn(2, TOKENS, WIDTH),)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if dynamo:
            program = torch.onnx.export(
                net,
                x,
                input_names=["x"],
                opset_version=opset,
                dynamo=True,
                verbose=False,
                dynamic_shapes=({0: "N"},) if dynamic else None,
            )
            assert program is not None
            return program.model_proto
        stream = io.BytesIO()
        torch.onnx.export(
            net,
            x,
            stream,  # type: ignore[arg-type]  # this exporter does take one
            input_names=["x"],
            opset_version=opset,
            dynamic_axes={"x": {0: "N"}} if dynamic else None,
            dynamo=False,
        )
        return onnx.load_from_string(stream.getvalue())


def cases() -> list[tuple[str, int, bool]]:
    """Return masks with opsets, and whether the new exporter writes them."""
    script = [
        (m, o, False) for m, o in itertools.product(MASKS, SCRIPT) if (m, o) not in NO_EXPORT
    ]
    return script + [(mask, opset, True) for mask, opset in DYNAMO]


@pytest.mark.parametrize(("mask", "opset", "dynamo"), cases())
def test_nothing_that_is_fused_is_lost(
    mask: str, opset: int, dynamo: bool, tmp_path: Path
) -> None:
    """Every fused op of the source is in the folded model, of whose products none is added."""
    torch.manual_seed(0)
    number = MASKS.index(mask) + opset
    dynamic = bool(number % 2)
    rms = number % 3 == 0
    net = nn.Sequential(*(Block(mask, joined=joined, rms=rms) for joined in (False, True)))
    model = exported(net.eval(), opset, dynamo=dynamo, dynamic=dynamic)
    folded = onnx_expand.fold(model)
    sizes = ({"N": 1}, {"N": 3}) if dynamic else ({},)
    assert judge(Source(model, sizes), folded) == []
    for every in (False, True):
        before, after = (fused_ops(m, tmp_path, every=every) for m in (model, folded))
        lost = {op for op in before - after if op not in AS_FAST}
        for op in lost:
            assert (after - before)[WITHIN.get(op, "")] >= (before - after)[op], op
    was, now = map(onnx_expand.inspect, (model, folded))
    assert (now.macs or 0) <= (was.macs or 0)
    assert now.nodes < was.nodes
