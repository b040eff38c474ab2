"""Makes docs/attention.gif (or .html, .png): ``python docs/scripts/attention.py docs/attention.gif``.

The network that comes with the package predicts a rendered clip of mini-something's test split.
"""

import sys
import tempfile
from pathlib import Path

from PIL import Image

from rstg_pyg.train import Predictor
from rstg_pyg.train.data.mini import MiniSomething

ITEM = 2  # "Pushing something from left to right"

clips = MiniSomething(size=208, num_frames=24, noise=0)
predictor = Predictor.load("smt_demo")
with tempfile.TemporaryDirectory() as folder:
    for t, frame in enumerate(clips.render("test", ITEM)):
        Image.fromarray(frame).save(Path(folder, f"{t:03d}.png"))
    best = predictor(folder, 1)[0]
    predictor.draw_attention(folder, Path(sys.argv[1]), f"{best.name}  {best.probability:.0%}")
print(f"{best.name} {best.probability:.1%}, in truth: {clips.label(ITEM)}")
