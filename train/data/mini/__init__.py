"""*mini-something*: a small stand-in for Something-Something, rendered when the data is not there."""

from rstg_pyg.train.data.mini.clips import VERSION, MiniSomething
from rstg_pyg.train.data.mini.files import write_mini_boxes, write_mini_something
from rstg_pyg.train.data.mini.scenes import EVENTS

__all__ = ["EVENTS", "VERSION", "MiniSomething", "write_mini_boxes", "write_mini_something"]
