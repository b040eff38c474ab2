"""Pages of framed pictures with heat and arrows; see :mod:`rstg_pyg.train.drawing.overlay`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from torch import Tensor

from rstg_pyg.graphs.plot import COLORS, LISTENS, SENDS, TIMES, TINT, plot_attention, show_picture

_DPI = 100
_GAP = 6
_TOP = 62  # title
_BOTTOM = 58  # legend
_BAND = 22  # between bands
_LINE = 18  # a line of small text
_LEAST_SIDE = 224  # smaller frames are enlarged
_LEAST_WIDTH = 640  # for the legend
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
_SECONDS = 3.2  # of an animation


@dataclass(frozen=True)
class Tile:
    """A picture of a page.

    Attributes:
        picture: ``[H, W, C]`` uint8, one or three channels.
        grid: The graph whose attention is drawn on it; ``None``: only the picture.
        alpha: The coefficients of its edges.
        scale: Which of its scales is drawn.
    """

    picture: Tensor
    grid: Any = None
    alpha: Tensor | None = None
    scale: int = 0


def tile_side(frames: Tensor) -> tuple[int, int]:
    """Height and width at which frames ``[C, T, H, W]`` are drawn: enlarged by a whole number."""
    height, width = frames.shape[-2:]
    factor = max(1, -(-_LEAST_SIDE // max(height, width)))
    return height * factor, width * factor


class Page:
    """Tiles in rows and columns, with a title above and a legend below. Its unit is the pixel.

    Args:
        side: Height and width of a tile.
        bands: Bands of rows, a little apart.
        rows: Rows of tiles in a band.
        columns: Columns of tiles.
        title: The title.
        subtitle: A smaller line below it.
        most: The value at which the colors end; they begin at 0.
    """

    def __init__(
        self,
        side: tuple[int, int],
        bands: int,
        rows: int,
        columns: int,
        title: str,
        subtitle: str,
        most: float,
    ):
        self.side, self.rows, self.most = side, rows, most
        self.height = _TOP + bands * rows * (side[0] + _GAP + _LINE) + (bands - 1) * _BAND + _BOTTOM
        self.left = _GAP + _LINE
        needed = self.left + columns * (side[1] + _GAP)
        self.width = max(needed, _LEAST_WIDTH)
        self.left += (self.width - needed) // 2
        self.figure = Figure((self.width / _DPI, self.height / _DPI), dpi=_DPI, facecolor="white")
        self.axes = self.figure.add_axes((0, 0, 1, 1), xlim=(0, self.width), ylim=(self.height, 0))
        self.axes.set_axis_off()
        self.canvas = np.full((self.height, self.width, 3), 255, np.uint8)
        self.colors = matplotlib.colormaps[COLORS]
        size = min(14.0, 1.32 * self.width / max(len(title), 1))  # long names get a smaller font
        self._text(self.width / 2, 20, title, size, weight="bold")
        self._text(self.width / 2, 43, subtitle, 9.5, color=_FAINT)
        self._legend()

    def add(self, tile: Tile, row: int, column: int, caption: str = "") -> None:
        """Puts a tile at its place."""
        height, width = self.side
        x, y = self._corner(row, column)
        self._text(x + width / 2, y - 9, caption, 8.5, color=_FAINT)
        place = (x, self.height - y - height, width, height)
        axes = self.figure.add_axes(tuple(a / b for a, b in zip(place, 2 * (self.width, self.height))))
        if tile.grid is None:
            show_picture(axes, tile.picture)
        else:
            plot_attention(tile.grid, tile.alpha, tile.picture, axes, scale=tile.scale, most=self.most)

    def add_labels(self, labels: Sequence[str], above: bool) -> None:
        """Names the columns (``above``) or the rows."""
        height, width = self.side
        for i, label in enumerate(labels):
            x, y = self._corner(0, i) if above else self._corner(i, 0)
            if above:
                self._text(x + width / 2, y - 9, label, 9.5)
            else:
                self._text(x - 12, y + height / 2, label, 9.5, rotation=90)

    def add_progress(self, share: float) -> None:
        """Draws how far the clip has run."""
        x, y = self._corner(0, 0)
        y += self.side[0] + 8
        for width, color in ((1.0, "#e4e4e4"), (share, "#d1495b")):
            length = width * (self.width - 2 * x)
            self.axes.add_patch(Rectangle((x, y), length, 5, facecolor=color, linewidth=0))

    def render(self) -> Image.Image:
        """The page as an image."""
        self.axes.imshow(
            self.canvas, extent=(0, self.width, self.height, 0), interpolation="nearest", zorder=0
        )
        canvas = FigureCanvasAgg(self.figure)
        canvas.draw()
        return Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3].copy())

    def save(self, path: Path) -> None:
        """Writes the page as PNG."""
        self.render().save(path, format="PNG")

    def _corner(self, row: int, column: int) -> tuple[int, int]:
        height, width = self.side
        top = _TOP + _LINE + row // self.rows * _BAND
        return self.left + column * (width + _GAP), top + row * (height + _GAP + _LINE)

    def _legend(self) -> None:
        """What colors and arrows mean."""
        y, x = self.height - 40, self.width / 2 - 310
        ramp = np.linspace(0, 1, 180)
        colors = 255 * ((1 - TINT) * 0.45 + TINT * self.colors(ramp)[:, :3])
        left = round(x)
        self.canvas[y : y + 12, left : left + 180] = colors.round().astype(np.uint8)
        for share in (0.0, 1 / self.most, 1.0):
            self._text(left + 180 * share, y + 23, f"{share * self.most:.3g}{TIMES}", 8.5)
        self._text(left + 200, y + 5, "attention received", 9, ha="left")
        self._text(left + 200, y + 21, f"1{TIMES}: an even share", 8.5, ha="left", color=_FAINT)
        for i, (color, text) in enumerate(
            ((SENDS, "outlined region → those that listen to it most"),
             (LISTENS, "those that it listens to most → outlined region"))
        ):  # fmt: skip
            at = y + 4 + 17 * i
            line = FancyArrowPatch(
                (left + 326, at), (left + 354, at), arrowstyle="-|>,head_width=3,head_length=5",
                linewidth=2, color=color, mutation_scale=1,
            )  # fmt: skip
            line.set_path_effects([Stroke(linewidth=3.6, foreground=_INK), Normal()])
            self.axes.add_patch(line)
            self._text(left + 362, at + 1, text, 9, ha="left")

    def _text(self, x: float, y: float, text: str, size: float, **style):
        style = {"ha": "center", "color": _INK, **style}
        return self.axes.text(x, y, text, fontsize=size * 72 / _DPI * 1.25, va="center", **style)


def animation(pages: Sequence[Page]) -> Callable[[Path], None]:
    """A function that writes pages, one after the other, as GIF; the last one stays a while."""
    images = [_dithered(page.render()) for page in pages]
    step = int(min(400, max(80, 1000 * _SECONDS / len(images))))

    def save(path: Path) -> None:
        images[0].save(
            path,
            format="GIF",
            save_all=True,
            append_images=images[1:],
            duration=[step] * (len(images) - 1) + [step + 800],
            loop=0,
        )

    return save


def _dithered(image: Image.Image) -> Image.Image:
    """An image in 256 colors of its own."""
    return image.quantize(palette=image.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
