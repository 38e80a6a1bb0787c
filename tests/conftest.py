"""Hypothesis draws the same examples in every run, so that a change is what turns a test red.

`make fuzz` draws new ones. Torch and NumPy compute on one thread, in child processes as well: the
tests run side by side, and threads that wait for each other take several times as long.

The garbage collector leaves alone what is imported and collected, which no test frees: going
through the modules of torch and thousands of tests again and again took a tenth of the time.
"""

import contextlib
import gc
import os

from hypothesis import settings

gc.disable()
os.environ.setdefault("OMP_NUM_THREADS", "1")  # before NumPy is imported

with contextlib.suppress(ImportError):
    import torch

    torch.set_num_threads(1)

settings.register_profile("repeatable", derandomize=True, print_blob=True)
settings.register_profile("explore", print_blob=True)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "repeatable"))


def pytest_collection_finish() -> None:
    """Exempt from garbage collection what lives as long as the process."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)
    gc.enable()
