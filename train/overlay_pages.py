"""Pages of framed pictures with heat and arrows; see :mod:`rstg_pyg.train.overlay`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle, FancyArrowPatch, Rectangle
from matplotlib.patheffects import Normal, Stroke
from PIL import Image
from torch import Tensor

_DPI = 100
_GAP = 6
_TOP = 62  # title
_BOTTOM = 58  # legend
_BAND = 22  # between bands
_LINE = 18  # a line of small text
_LEAST_SIDE = 224  # smaller frames are enlarged
_LEAST_WIDTH = 640  # for the legend
_TINT = 0.5  # share of the heat's colour in a tile
_SENDS, _LISTENS = "#ffffff", "#2fe6ff"
TIMES = "\N{MULTIPLICATION SIGN}"
_INK, _FAINT = "#1a1a1a", "#6b6b6b"
_SECONDS = 3.2  # of an animation


@dataclass(frozen=True)
class Tile:
    """A picture of a page.

    Attributes:
        picture: ``[H, W, C]`` uint8, one or three channels.
        regions: Regions that are coloured, corners in 0..1, ``[n, 4]``; ``None``: only the picture.
        heat: Their values, ``[n]``.
        best: The region that is outlined, ``[4]``.
        arrows: Pairs of regions that are joined, the arrow's weight in 0..1, and its kind.
    """

    picture: Tensor
    regions: Tensor | None = None
    heat: Tensor | None = None
    best: Tensor | None = None
    arrows: Sequence[tuple[Tensor, Tensor, float, bool]] = ()


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
        most: The value at which the colours end; they begin at 0.
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
        self.colours = matplotlib.colormaps["inferno"]
        size = min(14.0, 1.32 * self.width / max(len(title), 1))  # long names get a smaller font
        self._text(self.width / 2, 20, title, size, weight="bold")
        self._text(self.width / 2, 43, subtitle, 9.5, color=_FAINT)
        self._legend()

    def add(self, tile: Tile, row: int, column: int, caption: str = "") -> None:
        """Puts a tile at its place."""
        height, width = self.side
        x, y = self._corner(row, column)
        self.canvas[y : y + height, x : x + width] = self._pixels(tile)
        self._text(x + width / 2, y - 9, caption, 8.5, color=_FAINT)
        if tile.regions is None:
            return
        for region in tile.regions.tolist():
            self._rectangle(region, x, y, edgecolor="white", linewidth=0.7, alpha=0.6)
        inner = self._rectangle(tile.best.tolist(), x, y, edgecolor="white", linewidth=2.0, inset=3)
        inner.set_path_effects([Stroke(linewidth=3.8, foreground="black"), Normal()])
        for source, target, weight, outgoing in tile.arrows:
            self._arrow(source.tolist(), target.tolist(), weight, outgoing, x, y)
        value = f"{float(tile.heat.max()):.1f}{TIMES}"
        corner = tile.best.tolist()
        label = self._text(
            x + corner[0] * width + 8, y + corner[1] * height + 15, value, 8.5, ha="left", color="white"
        )
        label.set_path_effects([Stroke(linewidth=2, foreground="black"), Normal()])

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
        for width, colour in ((1.0, "#e4e4e4"), (share, "#d1495b")):
            length = width * (self.width - 2 * x)
            self.axes.add_patch(Rectangle((x, y), length, 5, facecolor=colour, linewidth=0))

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

    def _pixels(self, tile: Tile) -> np.ndarray:
        """The tile's picture, enlarged, and under its heat if it has one, ``[H, W, 3]`` uint8."""
        height, width = self.side
        picture = tile.picture.cpu().numpy()
        picture = np.repeat(picture, 3, axis=-1) if picture.shape[-1] == 1 else picture
        image = Image.fromarray(picture).resize((width, height), Image.BICUBIC)
        if tile.regions is None:
            return np.asarray(image)
        grey = np.asarray(image.convert("L"), np.float32)[..., None]
        tint = np.zeros((height, width, 3), np.float32)
        for region, heat in zip(tile.regions.tolist(), tile.heat.tolist()):
            x0, y0, x1, y1 = (round(c * n) for c, n in zip(region, (width, height, width, height)))
            tint[y0:y1, x0:x1] = 255 * np.array(self.colours(heat / self.most)[:3])
        return ((1 - _TINT) * grey + _TINT * tint).round().astype(np.uint8)

    def _rectangle(self, region: Sequence[float], x: int, y: int, inset: float = 0.0, **style):
        height, width = self.side
        x0, x1 = (x + c * width for c in region[::2])
        y0, y1 = (y + c * height for c in region[1::2])
        size = x1 - x0 - 2 * inset, y1 - y0 - 2 * inset
        return self.axes.add_patch(Rectangle((x0 + inset, y0 + inset), *size, fill=False, **style))

    def _arrow(
        self, source: list[float], target: list[float], weight: float, outgoing: bool, x: int, y: int
    ) -> None:
        height, width = self.side
        ends = [(x + (a + c) / 2 * width, y + (b + d) / 2 * height) for a, b, c, d in (source, target)]
        colour = _SENDS if outgoing else _LISTENS
        size = 0.9 + 2.2 * weight
        other = target if outgoing else source
        radius = 2.5 + 5.5 * (other[2] - other[0])  # a larger region has a larger dot
        dot = Circle(ends[outgoing], radius, facecolor="none", edgecolor=colour, linewidth=1.3)
        arrow = FancyArrowPatch(
            *ends,
            connectionstyle="arc3,rad=0.22",
            arrowstyle=f"-|>,head_width={1.4 + 0.8 * size:.2f},head_length={3 + 1.2 * size:.2f}",
            linewidth=size,
            color=colour,
            shrinkA=2,
            shrinkB=radius * 72 / _DPI if outgoing else 2,
            mutation_scale=1,
        )
        outline = [Stroke(linewidth=size + 1.3, foreground=(0, 0, 0, 0.75)), Normal()]
        for patch in (arrow, dot) if ends[0] != ends[1] else (dot,):
            patch.set_path_effects(outline if patch is arrow else [])
            self.axes.add_patch(patch)

    def _legend(self) -> None:
        """What colours and arrows mean."""
        y, x = self.height - 40, self.width / 2 - 310
        ramp = np.linspace(0, 1, 180)
        colours = 255 * ((1 - _TINT) * 0.45 + _TINT * self.colours(ramp)[:, :3])
        left = round(x)
        self.canvas[y : y + 12, left : left + 180] = colours.round().astype(np.uint8)
        for share in (0.0, 1 / self.most, 1.0):
            self._text(left + 180 * share, y + 23, f"{share * self.most:.3g}{TIMES}", 8.5)
        self._text(left + 200, y + 5, "attention received", 9, ha="left")
        self._text(left + 200, y + 21, f"1{TIMES}: an even share", 8.5, ha="left", color=_FAINT)
        for i, (colour, text) in enumerate(
            ((_SENDS, "outlined region → those that listen to it most"),
             (_LISTENS, "those that it listens to most → outlined region"))
        ):  # fmt: skip
            at = y + 4 + 17 * i
            line = FancyArrowPatch(
                (left + 326, at), (left + 354, at), arrowstyle="-|>,head_width=3,head_length=5",
                linewidth=2, color=colour, mutation_scale=1,
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
    """An image in 256 colours of its own."""
    return image.quantize(palette=image.quantize(256), dither=Image.Dither.FLOYDSTEINBERG)
