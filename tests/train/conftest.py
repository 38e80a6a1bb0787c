"""Keeps the tests of training on one thread each; without torch they are skipped."""

import contextlib

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)
