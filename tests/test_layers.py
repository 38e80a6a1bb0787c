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


def test_the_link_on_the_top_level_leads_to_the_same_classes() -> None:
    """`passes.fold.Fold` is the class of the package, not a second one."""
    code = (
        "from passes.fold import Fold; from passes import Expand; import passes.expand\n"
        "import onnx_expand.passes as own\n"
        "assert Fold is own.Fold and Expand is own.Expand is passes.expand.Expand"
    )
    run(code)
