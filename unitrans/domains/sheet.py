"""Pictures and words at given places of one PNG. A matplotlib axis for each picture takes seconds for fifty of them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

_SMOOTHED = 128  # sides of pictures that are smoothed; smaller ones are enlarged pixel by pixel
GAP = 0.08  # inches between pictures


class Sheet:
    """A sheet of ``width`` x ``height`` inches. Places are inches from its left upper corner."""

    def __init__(self, width: float, height: float, dpi: int) -> None:
        self.figure = Figure(figsize=(width, height), dpi=dpi)
        FigureCanvasAgg(self.figure)
        self.axis = self.figure.add_axes((0, 0, 1, 1))
        self.axis.set_axis_off()
        self.axis.set(xlim=(0, width), ylim=(height, 0), autoscale_on=False)

    def picture(self, pixels: np.ndarray, left: float, top: float, width: float, height: float) -> None:
        """Draws [H, W, 3 or 4] (floats in [0, 1] or uint8) in the middle of a box, as large as it fits."""
        rows, columns = pixels.shape[:2]
        scale = min(width / columns, height / rows)
        wide, high = columns * scale, rows * scale
        left, top = left + (width - wide) / 2, top + (height - high) / 2
        smooth = "nearest" if max(rows, columns) < _SMOOTHED else "antialiased"
        self.axis.imshow(
            pixels, extent=(left, left + wide, top + high, top), aspect="auto", interpolation=smooth
        )

    def text(self, x: float, y: float, words: str, size: float, below: bool, **style: Any) -> None:
        """Words in the middle of x, hanging below y or standing on it; ``size`` in points."""
        self.axis.text(x, y, words, ha="center", va="top" if below else "bottom", fontsize=size, **style)

    def save(self, path: Path) -> None:
        """Writes the PNG."""
        self.figure.savefig(path)


def draw_tiles(
    path: Path,
    pictures: Sequence[np.ndarray],
    captions: Sequence[str],
    *,
    columns: int,
    box: tuple[float, float],
    size: float,
    dpi: int,
    colours: Sequence[str] | None = None,
) -> None:
    """Writes a PNG of pictures in rows of ``columns`` at most, each below its caption.

    box: width and height of a picture in inches; size: of the captions, in points; colours: of the captions.
    """
    columns = min(columns, len(pictures))
    rows = -(-len(pictures) // columns)
    lines = max(caption.count("\n") + 1 for caption in captions)
    above = (lines * 1.25 * size + 4) / 72
    width, height = box[0] + GAP, box[1] + above + GAP
    sheet = Sheet(columns * width + GAP, rows * height + GAP, dpi)
    for index, (pixels, caption) in enumerate(zip(pictures, captions, strict=True)):
        row, column = divmod(index, columns)
        left, top = GAP + column * width, GAP + row * height
        colour = "black" if colours is None else colours[index]
        sheet.text(left + box[0] / 2, top + above - 2 / 72, caption, size, below=False, color=colour)
        sheet.picture(pixels, left, top + above, *box)
    sheet.save(path)
