"""Olive: fold as a pass of a workflow.

Olive finds passes in a package configuration, not by entry points. `run` passes Olive's own
configuration with this pass added:

    from onnx_expand.integrations.olive import run
    run("workflow.json")

or, for Olive's command line, `python -m onnx_expand.integrations.olive > package.json` and
`olive run --config workflow.json --package-config package.json`.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from olive.hardware.accelerator import AcceleratorSpec
from olive.model import ONNXModelHandler
from olive.model.utils import resolve_onnx_path
from olive.package_config import OlivePackageConfig
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from olive.resource_path import LocalFile, LocalFolder

import onnx_expand
from onnx_expand.linear.policy import Policy
from onnx_expand.linear.rules.bridges import Border

__all__ = ["OnnxExpandFold", "package_config", "run"]


class OnnxExpandFold(Pass):  # type: ignore[misc]  # olive has no types
    """Merge linear nodes into the fewest, cheapest ones that compute the same."""

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        return {
            "policy": PassConfigParam(
                type_=str,
                default_value=str(Policy.AUTO),
                description=f"What to merge: {', '.join(Policy)}.",
            ),
            "border": PassConfigParam(
                type_=str,
                default_value=str(Border.EXACT),
                description=f"How to merge a bias before a padded border: {', '.join(Border)}.",
            ),
            "verify": PassConfigParam(
                type_=bool,
                default_value=True,
                description="Compare the folded model with the model before returning it.",
            ),
        }

    def _run_for_config(
        self, model: ONNXModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> ONNXModelHandler:
        target = Path(resolve_onnx_path(output_model_path, Path(model.model_path).name))
        target.parent.mkdir(parents=True, exist_ok=True)
        onnx_expand.fold(
            model.model_path,
            target,
            policy=config.policy,
            border=config.border,
            verify=config.verify,
        )
        if target.with_name(f"{target.name}.data").exists():
            folder = LocalFolder({"path": target.parent})
            return ONNXModelHandler(model_path=folder, onnx_file_name=target.name)
        return ONNXModelHandler(model_path=LocalFile({"path": target}))


def package_config() -> dict[str, Any]:
    """Return Olive's own package configuration with the pass `OnnxExpandFold` added."""
    path = Path(OlivePackageConfig.get_default_config_path())
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    config["passes"]["OnnxExpandFold"] = {
        "module_path": f"{__name__}.OnnxExpandFold",
        "supported_providers": ["*"],
        "supported_accelerators": ["*"],
        "supported_precisions": ["*"],
    }
    return config


def run(workflow: str | os.PathLike[str] | dict[str, Any], **options: Any) -> Any:
    """Run a workflow of Olive whose passes may have the type `OnnxExpandFold`.

    Args:
        workflow: The file of the workflow, or its content.
        options: Further options of `olive.workflows.run`.

    Returns:
        The result of `olive.workflows.run`.
    """
    from olive.workflows import run as run_workflow

    return run_workflow(workflow, package_config=package_config(), **options)


if __name__ == "__main__":
    # Workflows import the class by name, so it must not belong to `__main__`.
    from onnx_expand.integrations import olive

    sys.stdout.write(json.dumps(olive.package_config(), indent=2) + "\n")
