"""Importing and rewriting is light: no runtime, no torch."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "onnxruntime", "onnx_graphsurgeon", "sklearn", "matplotlib", "PIL")


def run(code: str) -> str:
    """What a fresh interpreter prints."""
    result = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return result.stdout.strip()


def test_import_is_light() -> None:
    """`import onnx_expand` loads no runtime, no torch and no graphsurgeon."""
    code = "import sys, onnx_expand, onnx_expand.passes, onnx_expand.model\n"
    assert run(code + f"print(*[m for m in {HEAVY!r} if m in sys.modules])") == ""


def test_rewriting_needs_neither_torch_nor_a_runtime() -> None:
    """Expand, fold and inspect work where neither torch nor onnxruntime is installed."""
    blocked = [name for name in HEAVY if name != "onnx_graphsurgeon"]
    code = f"""
import sys
sys.modules.update(dict.fromkeys({blocked!r}))
from models import smallnet
import onnx_expand
model = smallnet.build()
expanded = onnx_expand.expand(model, rate=1)
folded = onnx_expand.fold(expanded)
print(len(folded.graph.node) == len(model.graph.node), onnx_expand.inspect(folded).parameters)
"""
    assert run(code) == "True 66186"
