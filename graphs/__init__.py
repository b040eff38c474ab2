"""Multi-scale grid graphs: regions, edges, positions, pooling, frames as PyG data, sequences, boxes."""

from rstg_pyg.graphs.boxes import has_area, overlap_edges
from rstg_pyg.graphs.frames import frames_to_data
from rstg_pyg.graphs.grid import complete_graph, multiscale_grid
from rstg_pyg.graphs.page import attention_page
from rstg_pyg.graphs.plot import plot_attention, plot_grid, relative_attention
from rstg_pyg.graphs.pooling import AreaPool, AreaUnpool
from rstg_pyg.graphs.skeleton_transforms import (
    DropJoints,
    FaceForward,
    JitterJoints,
    RandomBones,
    RandomSize,
    RandomTurn,
    ResampleFrames,
    SameBones,
    SkeletonFeatures,
    Smooth,
)
from rstg_pyg.graphs.skeletons import joint_names, skeleton_graph
from rstg_pyg.graphs.space_time import space_time_edges
from rstg_pyg.graphs.temporal import join_sequences

__all__ = [
    "AreaPool",
    "AreaUnpool",
    "DropJoints",
    "FaceForward",
    "JitterJoints",
    "RandomBones",
    "RandomSize",
    "RandomTurn",
    "ResampleFrames",
    "SameBones",
    "SkeletonFeatures",
    "Smooth",
    "attention_page",
    "complete_graph",
    "frames_to_data",
    "has_area",
    "join_sequences",
    "joint_names",
    "multiscale_grid",
    "overlap_edges",
    "plot_attention",
    "plot_grid",
    "relative_attention",
    "skeleton_graph",
    "space_time_edges",
]
