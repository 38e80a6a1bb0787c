"""ONNX's own tests of its operators, computed by the translations."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")

import torch

from onnx_expand.errors import OnnxExpandError
from onnx_expand.train import to_torch
from tests.support.onnx_nodes import array_of, cases

# What the names of tests or the messages contain, and why there is no translation.
REFUSED = {
    "bernoulli": "random",
    "bitcast": "the bits of a number",
    "cast": "a type that torch lacks",
    "dropout_default_mask": "the mask is asked for",
    "convinteger": "integers as weights",
    "eyelike": "made once, not trained",
    "if": "a branch",
    "image_decoder": "a file",
    "isinf": "no gradient",
    "loop": "a loop",
    "matmulinteger": "integers as weights",
    "nonmaxsuppression": "no gradient",
    "nonzero": "no gradient",
    "qlinear": "integers as weights",
    "quantizelinear": "rounding, which has no gradient",
    "regex": "no numbers",
    "sequence_": "no tensor",
    "strnormalizer": "no numbers",
    "tfidf": "no numbers",
    "with UINT": "torch moves these types, and computes hardly anything with them",
    "melweightmatrix": "made once, not trained",
    "optional": "no tensor",
    "scan": "a loop",
    "string": "no numbers",
}

# ONNX divides by the length before rounding down, torch and onnxruntime by the rounded one.
KNOWN = {
    "test_resize_downsample_scales_linear_align_corners",
    "test_resize_downsample_scales_cubic_align_corners",
}


def outcome(case: Any) -> str:
    """Return `match`, `refused`, or the error."""
    try:
        module = to_torch(case.model)
    except OnnxExpandError as error:
        return f"refused: {error}"
    inputs, expected = case.data_sets[0]
    with torch.no_grad():
        found = module(*(torch.from_numpy(array_of(x)) for x in inputs))
    results = found if isinstance(found, tuple) else (found,)
    for result, want in zip(results, map(array_of, expected), strict=True):
        own = result.numpy()
        if own.dtype != want.dtype or own.shape != want.shape:
            return f"{own.dtype}{own.shape} for {want.dtype}{want.shape}"
        slack = 1e-2 if want.dtype == np.float16 else 1e-5
        if not np.allclose(own, want, rtol=1e-3, atol=slack, equal_nan=True):
            return "other numbers"
    return "match"


def test_onnx_tests_of_operators_match() -> None:
    """Loadable tests match, and the others are listed with the reason."""
    matched = refused = 0
    wrong = []
    for case in cases():
        if case.name in KNOWN:
            continue
        try:
            result = outcome(case)
        except Exception as error:
            result = repr(error)
        if result == "match":
            matched += 1
        elif result.startswith("refused") and any(p in f"{case.name}, {result}" for p in REFUSED):
            refused += 1
        else:
            wrong.append(f"{case.name}: {result[:100]}")
    assert not wrong, "\n".join(wrong)
    assert matched >= 1095, f"{matched} match, {refused} are refused"
