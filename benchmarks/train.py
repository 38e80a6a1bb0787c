"""What a training step of an expanded network costs: `python -m benchmarks.train`.

Each network is trained compact, and expanded layer by layer, composed, and with `auto`, in turns
within one run, so that what else the machine does falls on all of them alike. Times are the least
of all rounds, as ratios to the compact network's: of both passes, and of the step with what the
optimizer does. Memory is what a forward pass keeps for the backward pass besides parameters; on a
GPU it is the peak of a whole step.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
import torch
from onnx import helper, numpy_helper

import onnx_expand
from models import mobilenet, mobilenetv2, smallnet, unet
from onnx_expand.train import to_torch
from onnx_expand.train.composed import composed

WAYS = ("compact", "layerwise", "composed", "auto")


@dataclass(frozen=True)
class Case:
    """A network and what it is trained on.

    Attributes:
        name: What the table calls it.
        build: Makes the compact model.
        shape: Of a batch.
        expand: Options of `onnx_expand.expand`.
        rounds: Turns: many of short steps, few of long ones.
    """

    name: str
    build: Callable[[], onnx.ModelProto]
    shape: tuple[int, ...]
    expand: dict[str, Any] = field(default_factory=lambda: {"strategy": "cl", "rate": 4})
    rounds: int = 15

    @property
    def title(self) -> str:
        """The row's name."""
        size = "x".join(map(str, self.shape[1:]))
        rate = f"{self.expand['strategy']} rate {self.expand['rate']}"
        return f"{self.name}, {rate}, batch {self.shape[0]} of {size}"


def gemms(width: int) -> onnx.ModelProto:
    """Two wide fully connected layers."""
    rng = np.random.default_rng(0)
    nodes, constants, value = [], [], "x"
    for i in range(2):
        weight = (rng.standard_normal((width, width)) / width**0.5).astype(np.float32)
        constants.append(numpy_helper.from_array(weight, f"fc{i}.weight"))
        constants.append(numpy_helper.from_array(weight[0], f"fc{i}.bias"))
        inputs = [value, f"fc{i}.weight", f"fc{i}.bias"]
        nodes.append(helper.make_node("Gemm", inputs, [f"g{i}"], f"fc{i}", transB=1))
        nodes.append(helper.make_node("Relu", [f"g{i}"], [f"r{i}"], f"relu{i}"))
        value = f"r{i}"
    kind = onnx.TensorProto.FLOAT
    graph = helper.make_graph(
        nodes, "gemms",
        [helper.make_tensor_value_info("x", kind, ["N", width])],
        [helper.make_tensor_value_info(value, kind, ["N", width])],
        constants,
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


def _small() -> onnx.ModelProto:
    return smallnet.build()


def _mobile() -> onnx.ModelProto:
    return mobilenet.build(size=32, classes=10, stride=1)


def _mobile2() -> onnx.ModelProto:
    return mobilenetv2.build(size=64, classes=10)


def _unet() -> onnx.ModelProto:
    return unet.build(size=64, width=16)


_CK = {"strategy": "ck", "rate": 4}
_3X3 = {"strategy": "cl", "rate": 4, "kernels": "3"}
_FC = {"strategy": "fc", "rate": 4}
_DOWN = {"strategy": "cl", "rate": 4, "path": "contracting"}
CASES = {
    "smallnet-cl": Case("SmallNet", _small, (128, 3, 32, 32)),
    "smallnet-ck": Case("SmallNet", _small, (128, 3, 32, 32), _CK),
    "smallnet-cl-1": Case("SmallNet", _small, (1, 3, 32, 32), rounds=200),
    "smallnet-ck-1": Case("SmallNet", _small, (1, 3, 32, 32), _CK, 200),
    "smallnet-cl-8": Case("SmallNet", _small, (8, 3, 32, 32), rounds=100),
    "smallnet-ck-8": Case("SmallNet", _small, (8, 3, 32, 32), _CK, 100),
    "mobilenet": Case("MobileNet", _mobile, (128, 3, 32, 32), _3X3, 5),
    "mobilenet-1": Case("MobileNet", _mobile, (1, 3, 32, 32), _3X3),
    "mobilenet-8": Case("MobileNet", _mobile, (8, 3, 32, 32), _3X3),
    "mobilenetv2": Case("MobileNetV2", _mobile2, (16, 3, 64, 64), _3X3, 9),
    "gemm": Case("two Gemms of 512", lambda: gemms(512), (32, 512), _FC),
    "gemm-4096": Case("two Gemms of 512", lambda: gemms(512), (4096, 512), _FC, 5),
    "unet": Case("U-Net of width 16", _unet, (8, 3, 64, 64), _DOWN, 9),
}


class Trainee:
    """One way to train one network."""

    def __init__(self, module: torch.nn.Module, x: torch.Tensor) -> None:
        self.module = module.to(x.device).train()
        self.x = x
        parameters = [p for p in module.parameters() if p.requires_grad]
        # Weights that hardly move: neither overflow nor denormals play a part.
        self.optimizer = torch.optim.SGD(parameters, lr=1e-9, momentum=0.9)

    def passes(self) -> float:
        """Seconds of a forward and a backward pass."""
        self.optimizer.zero_grad(set_to_none=True)
        begin = self._now()
        self.module(self.x).square().mean().backward()
        return self._now() - begin

    def step(self) -> tuple[float, float]:
        """Seconds of both passes, and of the whole step with the optimizer's part."""
        passes = self.passes()
        begin = self._now()
        self.optimizer.step()
        return passes, passes + self._now() - begin

    def saved(self) -> int:
        """Bytes that a forward pass keeps for the backward pass, without parameters."""
        held = {p.untyped_storage().data_ptr() for p in self.module.parameters()}
        sizes: dict[int, int] = {}
        tensors = []

        def pack(tensor: torch.Tensor) -> torch.Tensor:
            tensors.append(tensor)  # so that no address is used twice
            storage = tensor.untyped_storage()
            if storage.data_ptr() not in held:
                sizes[storage.data_ptr()] = storage.nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            self.module(self.x)
        return sum(sizes.values())

    def peak(self) -> int:
        """The most bytes that a step has in use on a GPU."""
        torch.cuda.reset_peak_memory_stats()
        self.step()
        return torch.cuda.max_memory_allocated()

    def _now(self) -> float:
        if self.x.is_cuda:
            torch.cuda.synchronize()
        # With one thread its own time, in which what else the machine does has no part.
        alone = not self.x.is_cuda and torch.get_num_threads() == 1
        return time.process_time() if alone else time.perf_counter()


def measure(case: Case, rounds: int, device: str) -> str:
    """One row of the table."""
    model = case.build()
    expanded = onnx_expand.expand(model, **case.expand)
    x = torch.randn(case.shape, generator=torch.Generator().manual_seed(0)).to(device)
    trainees = {}
    for way in WAYS:
        module = to_torch(model if way == "compact" else expanded, execution="layerwise")
        trainees[way] = Trainee(module if way == "compact" else composed(module, way), x)
    for trainee in trainees.values():
        trainee.step()
        trainee.step()
    times: dict[str, list[tuple[float, float]]] = {way: [] for way in WAYS}
    for index in range(rounds):
        for place in range(len(WAYS)):
            # Each comes after each other one: what was run before leaves its traces in caches.
            way = WAYS[(place * (1 if index % 2 else -1) + index) % len(WAYS)]
            times[way].append(trainees[way].step())
    least = {way: [min(t[part] for t in times[way]) for part in (0, 1)] for way in WAYS}
    cells = [case.title, f"{least['compact'][1] * 1e3:.1f} ms"]
    for way in WAYS[1:]:
        pairs = zip(least[way], least["compact"], strict=True)
        cells.append(" / ".join(f"{own / base:.2f}" for own, base in pairs))
    memory = [t.peak() if x.is_cuda else t.saved() for t in trainees.values()]
    cells += [f"{memory[0] / 2**20:.1f} MiB"]
    cells += [f"{size / memory[0]:.2f}" for size in memory[1:]]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Run the measurements that are asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("cases", nargs="*", default=list(CASES), help=", ".join(CASES))
    parser.add_argument("--rounds", type=int, help="instead of as many as each case has")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{arguments.device}, threads: {arguments.threads}, torch {torch.__version__}")
    print("| network | compact step | layerwise | composed | auto "
          "| memory | layerwise | composed | auto |")  # fmt: skip
    print("|---|" + "---|" * 8)
    for name in arguments.cases:
        case = CASES[name]
        print(measure(case, arguments.rounds or case.rounds, arguments.device), flush=True)


if __name__ == "__main__":
    main()
