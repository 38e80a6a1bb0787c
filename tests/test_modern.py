"""The networks of the benchmark of today's networks are those that it names."""

from __future__ import annotations

import onnx
import pytest

pytest.importorskip("torch")

import onnx_expand
from benchmarks.modern import NETWORKS

# As torchvision (the first) and timm count them, the last one in millions; MobileViT's blocks are
# only like the published ones.
_PUBLISHED = {"MobileNetV3-Small": 2_542_856, "EfficientNet-Lite0": 4_652_008}
_MILLIONS = {"ConvNeXt-Atto": 3.70}


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_has_the_published_parameters(name: str) -> None:
    """It is a valid model of that size."""
    model = NETWORKS[name](64)
    onnx.checker.check_model(model, full_check=True)
    found = onnx_expand.inspect(model).parameters
    assert found == _PUBLISHED.get(name, found)
    assert round(found / 1e6, 2) == _MILLIONS.get(name, round(found / 1e6, 2))
