"""Checkpoints: a run that was killed goes on as if it had not been."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from onnx_expand.errors import ModelError, UsageError
from onnx_expand.model import replacing
from onnx_expand.recipes import TrainOptions

__all__ = ["Checkpoints", "digest"]

_FORMAT = 2
# What may change when a run goes on, since it changes no number.
_FREE = {"workers", "deterministic"}


class Checkpoints:
    """Where the state of a run is kept.

    Args:
        path: The file.
        every: Steps between checkpoints; None for one at the end of each epoch.
        resume: Whether to go on from the file, if it is there.
        settings: What else decides the numbers of the run, by name: of data and teacher.
    """

    def __init__(
        self,
        path: Path,
        every: int | None = None,
        *,
        resume: bool = False,
        settings: Mapping[str, Any] | None = None,
    ) -> None:
        self.path = path
        self.every = every
        self.resume = resume
        self.settings = dict(settings or {})

    def due(self, steps: int) -> bool:
        """Whether one is to be written after so many steps of an epoch."""
        return self.every is not None and steps % self.every == 0

    def save(self, state: Mapping[str, Any], options: TrainOptions, identity: str) -> None:
        """Write a checkpoint, whole or not at all.

        Raises:
            UsageError: It cannot be written.
        """
        content = {
            "format": _FORMAT,
            "options": {**asdict(options), **self.settings},
            "identity": identity,
            "state": dict(state),
        }
        with replacing(self.path) as partial:
            try:
                torch.save(content, partial)
            except RuntimeError as error:
                # How torch says that a file could not be written to its end.
                raise OSError("not all of it could be written; is the disk full?") from error

    def load(self, options: TrainOptions, identity: str) -> Mapping[str, Any] | None:
        """The state to go on from; None where the run begins.

        Raises:
            ModelError: The file is no checkpoint, or a damaged one.
            UsageError: It is of a run of another model, other data or other options.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            # Nothing but tensors and plain values is read, so that no file can run code.
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
            reason = str(error).split("\n")[0]
            raise ModelError(
                f"{self.path}: not a checkpoint, or a damaged one: {reason}"
            ) from None
        if not isinstance(content, dict) or content.get("format") != _FORMAT:
            raise ModelError(f"{self.path}: not a checkpoint of this version")
        self._compare(content["options"], options)
        if content["identity"] != identity:
            raise UsageError(
                f"{self.path}: is of a run of another model or other data; remove it, or give "
                "another folder"
            )
        state: Mapping[str, Any] = content["state"]
        return state

    def _compare(self, old: Mapping[str, Any], options: TrainOptions) -> None:
        new = {**asdict(options), **self.settings}
        # More epochs are more of the same, unless the rate depends on how many there are.
        fixed = options.schedule == "constant" or (
            options.schedule == "step" and options.milestones
        )
        free = _FREE | ({"epochs"} if fixed else set())
        for name, value in new.items():
            was = old.get(name)
            was = tuple(was) if isinstance(was, list) else was
            if name not in free and was != value:
                raise UsageError(
                    f"{self.path}: is of a run with {name} {was}, not {value}; give the same "
                    "options to go on with it"
                )


def digest(module: torch.nn.Module, facts: Mapping[str, Any]) -> str:
    """What tells one run from another: the weights that it starts from, and facts of its data."""
    found = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().contiguous()
        found.update(memoryview(plain.flatten().view(torch.uint8).numpy()))
    return found.hexdigest()
