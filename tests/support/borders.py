"""Draw the error of a merge across a padded border, computed from actual values.

`python -m tests.support.borders docs/guide/border.svg`
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import numpy.typing as npt

__all__ = ["difference", "picture"]

_SIZE, _CELL, _GAP = 9, 34, 60


def difference(size: int = _SIZE) -> npt.NDArray[np.float64]:
    """Return the error of a merged convolution: a shift of 1 before a 3x3 mean that pads by 1."""
    shifted = np.pad(np.ones((size, size)), 1)  # zeros are padded after the shift
    rows = [shifted[i : i + size, j : j + size] for i in range(3) for j in range(3)]
    found: npt.NDArray[np.float64] = 1 - np.mean(rows, axis=0)
    return found


def picture() -> str:
    """Return the difference as a map of cells with their values."""
    errors = difference()
    side = _SIZE * _CELL
    cells = []
    for (row, column), error in np.ndenumerate(errors):
        x, y = _GAP + column * _CELL, 44 + row * _CELL
        shade = f"rgba(181,103,44,{error / errors.max():.2f})"
        cells.append(
            f'<rect x="{x}" y="{y}" width="{_CELL - 2}" height="{_CELL - 2}" rx="3" '
            f'fill="{shade}" stroke="#c9d1da"/>'
        )
        text = f"{round(9 * error)}/9" if error > 1e-9 else "0"
        cells.append(
            f'<text x="{x + _CELL / 2 - 1}" y="{y + 21}" text-anchor="middle">{text}</text>'
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {side + 2 * _GAP} {side + 60}" '
        f'width="{side + 2 * _GAP}" height="{side + 60}" '
        'font-family="system-ui, sans-serif" font-size="11" fill="#1c2430" role="img">'
        f'<rect width="100%" height="100%" fill="#ffffff"/>'
        f'<text x="{_GAP}" y="26" font-size="13">error of one convolution, as a share of the '
        f"shift</text>{''.join(cells)}</svg>\n"
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(picture(), encoding="utf-8")
