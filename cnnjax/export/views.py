"""Views of the images in an ONNX graph: all of them as one batch, and the mean over them; see `models.VIEWS`."""

import numpy as np

from cnnjax.export.graph import Graph, Value
from cnnjax.models import VIEWS

ROWS, COLUMNS = 1, 2  # axes of images [n, height, width, 3]


def stacked(graph: Graph, images: Value, views: str) -> Value:
    """Adds the views of images, those of the first view first: [views * n, height, width, 3]."""
    found = [_view(graph, images, *how) for how in VIEWS[views]]
    return found[0] if len(found) == 1 else graph.add("Concat", *found, axis=0)


def mean(graph: Graph, x: Value, views: str) -> Value:
    """Adds the mean over the views of numbers [views * n, numbers]."""
    count = len(VIEWS[views])
    if count == 1:
        return x
    parts = graph.add("Reshape", x, np.array([count, -1, *x.shape]), shape=x.shape)
    return graph.add("ReduceMean", parts, axes=[0], keepdims=0)


def _view(graph: Graph, x: Value, quarters: int, mirrored: bool) -> Value:
    if quarters:  # as numpy.rot90
        x = _flipped(graph, x, COLUMNS) if quarters < 3 else x
        x = _flipped(graph, x, ROWS) if quarters == 2 else graph.add("Transpose", x, perm=[0, 2, 1, 3])
        x = _flipped(graph, x, COLUMNS) if quarters == 3 else x
    return _flipped(graph, x, COLUMNS) if mirrored else x


def _flipped(graph: Graph, x: Value, axis: int) -> Value:
    return graph.add("Slice", x, np.array([-1]), np.array([-(2**31)]), np.array([axis]), np.array([-1]))
