"""Hypothesis draws the same examples in every run, so that a change is what turns a test red.

`make fuzz` draws new ones. Torch computes on one thread: the tests run side by side.
"""

import contextlib
import os

from hypothesis import settings

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)

settings.register_profile("repeatable", derandomize=True, print_blob=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))
