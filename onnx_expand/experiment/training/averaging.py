"""Moving averages of weights."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch

__all__ = ["ExponentialAverage"]


class ExponentialAverage:
    """An exponential moving average of all floating-point tensors of a module.

    After t steps the decay is at most (1 + t) / (10 + t), so that the initial weights are
    forgotten quickly.

    Args:
        module: The module whose tensors are averaged.
        decay: The weight of the old average in an update; 0 disables averaging.
    """

    def __init__(self, module: torch.nn.Module, decay: float) -> None:
        self.decay = decay
        self.steps = 0
        state = module.state_dict(keep_vars=True) if decay else {}
        self.live = {k: t for k, t in state.items() if t.is_floating_point()}
        self.shadow = {k: t.detach().clone() for k, t in self.live.items()}

    def update(self) -> None:
        """Update the averages after a step."""
        if not self.decay:
            return
        decay = min(self.decay, (1 + self.steps) / (10 + self.steps))
        self.steps += 1
        with torch.no_grad():
            for key, tensor in self.shadow.items():
                tensor.lerp_(self.live[key].detach(), 1 - decay)

    @contextlib.contextmanager
    def swapped(self) -> Iterator[None]:
        """Use the averages in the module during the block."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    def apply(self) -> None:
        """Replace the module's tensors by the averages."""
        self._swap()

    def _swap(self) -> None:
        with torch.no_grad():
            for key, tensor in self.shadow.items():
                live = self.live[key].detach()
                held = live.clone()
                live.copy_(tensor)
                tensor.copy_(held)

    def state_dict(self) -> dict[str, object]:
        """Return the state for a checkpoint."""
        return {"steps": self.steps, "shadow": self.shadow}

    def load_state_dict(self, state: dict[str, object]) -> None:
        """Restore the state from a checkpoint."""
        steps, shadow = state["steps"], state["shadow"]
        assert isinstance(steps, int)
        assert isinstance(shadow, dict)
        self.steps = steps
        for key, tensor in self.shadow.items():
            tensor.copy_(shadow[key])
