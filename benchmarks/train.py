"""What a training step costs: `python -m benchmarks.train`.

Each expanded network is trained compact, layer by layer, composed, and as `auto` decides, in turns
within one run; times are ratios to the compact network's. The memory is that of the tensors which
a forward pass keeps for the backward pass.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import onnx
import torch

import onnx_expand
from models.registry import networks
from onnx_expand.train import to_torch
from onnx_expand.train.composed import composed

# Network, options, strategy, batch.
CASES: tuple[tuple[str, Mapping[str, Any], str, int], ...] = (
    ("smallnet", {}, "cl", 128),
    ("smallnet", {}, "ck", 128),
    ("smallnet", {}, "cl+fc", 8),
    ("smallnet", {}, "cl+fc", 1),
    ("mobilenetv2", {"size": 32}, "cl", 16),
)
ROUNDS = 7


def modules(model: onnx.ModelProto, strategy: str) -> dict[str, torch.nn.Module]:
    """The four ways of training one network."""
    big = onnx_expand.expand(model, strategy=strategy, rate=4)
    return {
        "compact": to_torch(model).train(),
        "layerwise": to_torch(big).train(),
        "composed": composed(to_torch(big), "composed").train(),
        "auto": composed(to_torch(big), "auto").train(),
    }


def step(module: torch.nn.Module, x: torch.Tensor) -> Callable[[], None]:
    """One step of SGD with momentum."""
    optimizer = torch.optim.SGD(module.parameters(), lr=1e-6, momentum=0.9)

    def run() -> None:
        optimizer.zero_grad()
        y = module(x)
        (y[0] if isinstance(y, tuple) else y).square().mean().backward()
        optimizer.step()

    return run


def kept(module: torch.nn.Module, x: torch.Tensor) -> int:
    """Bytes of the tensors that a forward pass keeps, parameters aside."""
    own = {p.untyped_storage().data_ptr() for p in module.parameters()}
    found: dict[int, int] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in own:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        y = module(x)
    del y
    return sum(found.values())


def measure(name: str, options: Mapping[str, Any], strategy: str, batch: int) -> None:
    """Print the figures of one case."""
    model = networks()[name].build(**options)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    x = torch.randn(batch, *(d.dim_value for d in dims[1:]))
    found = modules(model, strategy)
    steps = {key: step(module, x) for key, module in found.items()}
    for run in steps.values():
        run()
    times: dict[str, list[float]] = {key: [] for key in steps}
    for _ in range(ROUNDS):
        for key, run in steps.items():
            begin = time.perf_counter()
            run()
            times[key].append(time.perf_counter() - begin)
    compact = float(np.median(times["compact"]))
    memory = {key: kept(module, x) for key, module in found.items()}
    print(f"{name} {strategy}, rate 4, batch {batch}: compact {compact * 1e3:.1f} ms")
    for key in ("layerwise", "composed", "auto"):
        ratios = np.array(times[key]) / np.array(times["compact"])
        print(
            f"  {key:10} {np.median(ratios):6.2f} x the time, "
            f"{memory[key] / memory['compact']:5.2f} x the memory"
        )


def main() -> None:
    """Measure all cases, or those of one network."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("network", nargs="?", help="only this one")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    for case in CASES:
        if arguments.network in {None, case[0]}:
            measure(*case)


if __name__ == "__main__":
    main()
