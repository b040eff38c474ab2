"""Makes docs/pictures.png: ``python docs/scripts/pictures.py docs/pictures.png``."""

import sys

import torch
from matplotlib.figure import Figure

from rstg_pyg import RSTGConv
from rstg_pyg.graphs import AreaPool, multiscale_grid, plot_attention, plot_grid
from rstg_pyg.train.data.mini import MiniSomething

torch.manual_seed(0)
grid = multiscale_grid((3, 2, 1))
clip = torch.from_numpy(MiniSomething(size=96).render("test", 5).copy())  # [T, H, W, 3]
frame = clip[6]
nodes = AreaPool((3, 2, 1))(frame.permute(2, 0, 1)[None, :, None].float())[0, 0]  # [14, 3]
nodes = 3 * (nodes - nodes.mean(dim=0)) / nodes.std(dim=0)
conv = RSTGConv(3, 32, pos_channels=36)
_, (_, alpha) = conv(nodes, grid.edge_index, pos=grid.pos_map, return_attention_weights=True)

figure = Figure((10, 4.2), dpi=80, facecolor="white", layout="constrained")
left, middle, right = figure.subplots(1, 3)
plot_grid(grid, left)
plot_grid(grid, middle, node=10)
plot_attention(grid, alpha.mean(-1), frame, right)
figure.savefig(sys.argv[1])
