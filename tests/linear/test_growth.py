"""The work of a fold grows with the graph, not with its square.

Function calls are counted, which are the same in every run, at three sizes: from twice to four
times the nodes there come twice as many as from once to twice.
"""

from __future__ import annotations

import pytest

from benchmarks.growth import calls
from benchmarks.sites import SITES

_NODES = 135
# Quadratic work comes to 4, linear work to 2; this is as far from either, in factors.
_MOST = 2 * 2**0.5


@pytest.mark.parametrize("name", [name for name, site in SITES.items() if not site.has_spans])
def test_work_is_linear(name: str) -> None:
    build = SITES[name].build
    once, twice, four_times = (calls(build, factor * _NODES) for factor in (1, 2, 4))
    assert four_times - twice <= _MOST * max(twice - once, _NODES)
