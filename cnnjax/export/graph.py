"""An ONNX graph as it is built: nodes, constants and the shapes between them."""

import dataclasses
from collections.abc import Sequence

import numpy as np

from cnnjax.kernels import Padding, sides

OPSET, IR = 17, 8  # of 2022: what ONNX Runtime reads from 1.13 on


@dataclasses.dataclass(frozen=True)
class Value:
    """A result of the graph.

    Attributes:
        name: in the graph.
        shape: without the number of images: (channels, height, width) of a map, (tokens, width) of tokens, (numbers,) else.
    """

    name: str
    shape: tuple[int, ...]


class Graph:
    """Nodes and constants; each method adds nodes and returns their result. `onnx` makes the file of them."""

    def __init__(self):
        from onnx import helper, numpy_helper

        self._node, self._tensor = helper.make_node, numpy_helper.from_array
        self.nodes, self.constants = [], []

    def constant(self, array: np.ndarray) -> str:
        """Adds a constant; numbers become float32, whole numbers int64."""
        array = np.asarray(array)
        kind = np.int64 if np.issubdtype(array.dtype, np.integer) else np.float32
        name = f"w{len(self.constants)}"
        self.constants.append(self._tensor(np.ascontiguousarray(array, kind).reshape(array.shape), name))
        return name

    def add(
        self, operator: str, *inputs: str | Value | np.ndarray, shape: Sequence[int] = (), name: str = "", **attributes
    ) -> Value:
        """Adds a node.

        Args:
            operator: of ONNX.
            inputs: results, names, or arrays that become constants.
            shape: of the result; (): that of the first input.
            name: of the result; "": one is made.
            attributes: of the operator.
        """
        names = [self.constant(x) if isinstance(x, np.ndarray) else getattr(x, "name", x) for x in inputs]
        out = name or f"t{len(self.nodes)}"
        self.nodes.append(self._node(operator, names, [out], name=out, **attributes))
        return Value(out, tuple(shape) or inputs[0].shape)

    def activated(self, x: Value, activation: str) -> Value:
        """Applies one of `kernels.ACTIVATIONS`."""
        return ACTIVATED[activation](self, x)

    def affine(self, x: Value, scale: np.ndarray, shift: np.ndarray) -> Value:
        """Multiplies and shifts each channel of a map."""
        return self.add("Add", self.add("Mul", x, _of_channels(scale)), _of_channels(shift))

    def conv(self, x: Value, kernel: np.ndarray, bias: np.ndarray, *, stride: Sequence[int], padding: Padding,
             dilation: Sequence[int] = (1, 1), groups: int = 1) -> Value:  # fmt: skip
        """Convolves a map.

        Args:
            x: the map.
            kernel: float64 [kernel, kernel, channels / groups, out].
            bias: float64 [out].
            stride, dilation: pixels, along rows and columns.
            padding: zeros on all four sides, or ((top, bottom), (left, right)).
            groups: of channels.
        """
        (top, bottom), (left, right) = sides(padding)
        added = (top + bottom, left + right)
        places = [(size + more - (side - 1) * wide - 1) // step + 1 for size, more, side, wide, step in
                  zip(x.shape[1:], added, kernel.shape, dilation, stride, strict=False)]  # fmt: skip
        return self.add(
            "Conv", x, kernel.transpose(3, 2, 0, 1), bias, shape=(kernel.shape[3], *places), strides=list(stride),
            pads=[top, left, bottom, right], dilations=list(dilation), group=groups, kernel_shape=list(kernel.shape[:2]),
        )  # fmt: skip

    def max_pool(self, x: Value, window: int, stride: int, padding: int = 0) -> Value:
        """Takes the largest of each window of a map."""
        places = [(size + 2 * padding - window) // stride + 1 for size in x.shape[1:]]
        return self.add(
            "MaxPool", x, shape=(x.shape[0], *places), kernel_shape=[window] * 2, strides=[stride] * 2, pads=[padding] * 4
        )

    def averaged(self, x: Value) -> Value:
        """Takes the mean over all places of a map."""
        return self.add("Flatten", self.add("GlobalAveragePool", x), shape=x.shape[:1])

    def dense(self, x: Value, kernel: np.ndarray, bias: np.ndarray) -> Value:
        """Multiplies the last axis by a kernel [inputs, units] and adds a bias."""
        shape = (*x.shape[:-1], kernel.shape[1])
        if len(x.shape) == 1:
            return self.add("Gemm", x, kernel, bias, shape=shape)
        return self.add("Add", self.add("MatMul", x, kernel, shape=shape), bias)

    def layer_norm(self, x: Value, scale: np.ndarray, bias: np.ndarray, epsilon: float) -> Value:
        """Normalises the last axis."""
        return self.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=epsilon)

    def transposed(self, x: Value, order: Sequence[int]) -> Value:
        """Reorders the axes behind the number of images; `order` counts from 0."""
        return self.add("Transpose", x, shape=[x.shape[i] for i in order], perm=[0, *(i + 1 for i in order)])

    def channels_last(self, x: Value) -> Value:
        """(channels, height, width) -> (height, width, channels)."""
        return self.transposed(x, (1, 2, 0))

    def channels_first(self, x: Value) -> Value:
        """(height, width, channels) -> (channels, height, width)."""
        return self.transposed(x, (2, 0, 1))

    def reshaped(self, x: Value, *shape: int) -> Value:
        """Reshapes the axes behind the number of images."""
        return self.add("Reshape", x, np.array([0, *shape]), shape=shape)


def _of_channels(values: np.ndarray) -> np.ndarray:
    return np.asarray(values).reshape(-1, 1, 1)


def _gelu(graph: Graph, x: Value) -> Value:
    """x / 2 * (1 + erf(x / sqrt 2)), in the order of nodes in which ONNX Runtime sees a GELU."""
    inner = graph.add("Add", graph.add("Erf", graph.add("Div", x, np.full((), 2**0.5))), np.ones(()))
    return graph.add("Mul", graph.add("Mul", x, inner), np.full((), 0.5))


ACTIVATED = {
    "none": lambda graph, x: x,
    "relu": lambda graph, x: graph.add("Relu", x),
    "relu6": lambda graph, x: graph.add("Clip", x, np.zeros(()), np.full((), 6.0)),
    "silu": lambda graph, x: graph.add("Mul", x, graph.add("Sigmoid", x)),
    "sigmoid": lambda graph, x: graph.add("Sigmoid", x),
    "hard_sigmoid": lambda graph, x: graph.add("HardSigmoid", x, alpha=1 / 6, beta=0.5),
    "hard_swish": lambda graph, x: graph.add("HardSwish", x),
    "gelu": _gelu,
}
