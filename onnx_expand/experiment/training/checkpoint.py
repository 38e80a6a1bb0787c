"""Checkpoints, with which a killed run resumes with the same results as an uninterrupted one."""

from __future__ import annotations

import hashlib
import pickle
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from onnx_expand.errors import ModelError, UsageError, first_line
from onnx_expand.model import replacing
from onnx_expand.recipes import TrainOptions

__all__ = ["Checkpoints", "digest"]

_FORMAT = 2
# Options that may change on resuming, since they do not affect the results.
_FREE = {"workers", "deterministic"}


class Checkpoints:
    """The file with the state of a run.

    Args:
        path: The file.
        every: The number of steps between checkpoints; None for one after each epoch.
        resume: Whether to resume from the file, if it exists.
        settings: Other settings that affect the results, by name: those of data and teacher.
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
        """Return whether a checkpoint is due after this number of steps of an epoch."""
        return self.every is not None and steps % self.every == 0

    def save(self, state: Mapping[str, Any], options: TrainOptions, identity: str) -> None:
        """Write a checkpoint atomically.

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
                # torch raises this if a file could not be written completely.
                raise OSError("not all of it could be written; is the disk full?") from error

    def load(self, options: TrainOptions, identity: str) -> Mapping[str, Any] | None:
        """Return the state to resume from; None if the run starts anew.

        Raises:
            ModelError: The file is not a checkpoint, or is damaged.
            UsageError: It belongs to a run of another model, other data or other options.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            # Only tensors and plain values are read, so that no file can run code.
            content = torch.load(self.path, map_location="cpu", weights_only=True)
        except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError) as error:
            reason = first_line(error)
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
        # More epochs only extend the run, unless the learning rate depends on their number.
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
    """Return a hash that identifies a run: its initial weights, and facts of its data."""
    found = hashlib.sha256(repr(sorted(facts.items())).encode())
    for name, tensor in module.state_dict().items():
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        plain = tensor.detach().cpu().contiguous()
        found.update(memoryview(plain.flatten().view(torch.uint8).numpy()))
    return found.hexdigest()
