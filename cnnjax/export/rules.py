"""A network as an ONNX graph, layer by layer: a rule for each class of block, in one table.

A network or a layer of the user's own that has no rule is refused: its graph could not be told to be right.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
from flax import nnx

from cnnjax import models
from cnnjax.errors import ConfigError
from cnnjax.export.graph import Graph, Value
from cnnjax.kernels import Padding, same_padding
from cnnjax.models import Layer, Layered


class NoRuleError(ConfigError):
    """A layer that the writer does not know."""


def numbers(variable: nnx.Variable) -> np.ndarray:
    """Returns an array of the network in float64."""
    return np.asarray(variable[...], np.float64)


def _affine(norm: models.Norm) -> tuple[np.ndarray, np.ndarray]:
    """Scale and shift of a batch normalisation by its running averages, float64 [channels]."""
    scale = numbers(norm.scale) / np.sqrt(numbers(norm.var) + norm.epsilon)
    return scale, numbers(norm.bias) - numbers(norm.mean) * scale


def _padding(conv: nnx.Conv, size: tuple[int, ...]) -> Padding:
    """The zeros around a map of height and width."""
    if hasattr(conv, "zeros"):
        return conv.zeros(size)
    chosen, strides, dilation = conv.padding, _pair(conv.strides), _pair(conv.kernel_dilation)
    if chosen == "VALID":
        return 0
    if chosen == "SAME":
        wide = [(side - 1) * step + 1 for side, step in zip(conv.kernel_size, dilation, strict=True)]
        return tuple(same_padding((pixels,), side, step)[0] for pixels, side, step in zip(size, wide, strides, strict=True))
    if isinstance(chosen, int):
        return chosen
    if isinstance(chosen, str):
        raise NoRuleError(f"padding={chosen}")
    return tuple((side, side) if isinstance(side, int) else tuple(side) for side in chosen)


def _pair(value: Any) -> tuple[int, int]:
    return (value or 1,) * 2 if value is None or isinstance(value, int) else tuple(value) * (2 // len(value))


def convolved(graph: Graph, x: Value, conv: nnx.Conv, norm: models.Norm | None = None, *, relu: bool = False, more: Value | None = None
              ) -> Value:  # fmt: skip
    """Adds a convolution, with the batch normalisation that follows inside its weights, then `more` and the activation."""
    kernel = numbers(conv.kernel)
    if (
        kernel.ndim != 4
        or len(x.shape) != 3
        or conv.input_dilation not in (1, (1, 1))
        or getattr(conv, "mask", None) is not None
    ):
        raise NoRuleError("a convolution that is not of two axes, dilates its input or has a mask")
    bias = np.zeros(kernel.shape[-1]) if conv.bias is None else numbers(conv.bias)
    if norm is not None:
        scale, shift = _affine(norm)
        kernel, bias = kernel * scale, bias * scale + shift
    y = graph.conv(x, kernel, bias, stride=_pair(conv.strides), padding=_padding(conv, x.shape[1:]), dilation=_pair(conv.kernel_dilation),
                   groups=conv.feature_group_count)  # fmt: skip
    y = y if more is None else graph.add("Add", y, more)
    return graph.activated(y, "relu" if relu else "none" if norm is None else norm.activation)


def dense(graph: Graph, x: Value, layer: nnx.Linear, factor: np.ndarray | float = 1.0) -> Value:
    """Adds a dense layer on the last axis, its result times a factor of each unit."""
    bias = np.zeros(layer.kernel.shape[1]) if layer.bias is None else numbers(layer.bias)
    return graph.dense(x, numbers(layer.kernel) * factor, bias * factor)


def layer_norm(graph: Graph, x: Value, norm: models.LayerNorm) -> Value:
    """Adds a layer normalisation over the channels of a map, or over the last axis of others."""
    is_map = len(x.shape) == 3
    y = graph.layer_norm(graph.channels_last(x) if is_map else x, numbers(norm.scale), numbers(norm.bias), norm.epsilon)
    return graph.channels_first(y) if is_map else y


def batch_norm(graph: Graph, x: Value, norm: models.Norm, relu: bool = False) -> Value:
    """Adds a batch normalisation of a map that no convolution is before."""
    return graph.activated(graph.affine(x, *_affine(norm)), "relu" if relu else norm.activation)


def _resnet(graph: Graph, x: Value, block: models.ResNetBlock) -> Value:
    y, last = x, len(block.strides)
    for i in range(1, last):
        y = convolved(graph, y, getattr(block, f"conv{i}"), getattr(block, f"norm{i}"), relu=True)
    if block.projects:
        x = convolved(graph, x, block.projection, block.norm_projection)
    return convolved(graph, y, getattr(block, f"conv{last}"), getattr(block, f"norm{last}"), relu=True, more=x)


def _inverted(graph: Graph, x: Value, block: models.InvertedBlock) -> Value:
    y, count = x, block.count
    for i in range(1, count):
        y = convolved(graph, y, getattr(block, f"conv{i}"), getattr(block, f"norm{i}"))
    if hasattr(block, "squeeze"):
        y = _squeeze(graph, y, block.squeeze)
    conv, norm = getattr(block, f"conv{count}"), getattr(block, f"norm{count}")
    if count > 1:
        return convolved(graph, y, conv, norm, more=x if block.adds else None)
    y = convolved(graph, y, conv, norm)
    return graph.add("Add", x, y) if block.adds else y


def _squeeze(graph: Graph, x: Value, block: models.Squeeze) -> Value:
    y = graph.add("GlobalAveragePool", x, shape=(x.shape[0], 1, 1))
    for conv, activation in zip((block.reduce, block.expand), block.style.squeeze, strict=True):
        y = graph.activated(convolved(graph, y, conv), activation)
    return graph.add("Mul", x, y)


def _convnext(graph: Graph, x: Value, block: models.ConvNeXtBlock) -> Value:
    y = graph.channels_last(convolved(graph, x, block.conv))
    y = graph.layer_norm(y, numbers(block.norm.scale), numbers(block.norm.bias), block.norm.epsilon)
    y = dense(graph, graph.activated(dense(graph, y, block.dense1), "gelu"), block.dense2, numbers(block.gamma))
    return graph.add("Add", x, graph.channels_first(y))


def _halving(graph: Graph, x: Value, block: models.Downsample) -> Value:
    return convolved(graph, layer_norm(graph, x, block.norm), block.conv)


def _densenet(graph: Graph, x: Value, block: models.DenseNetBlock) -> Value:
    y = convolved(graph, batch_norm(graph, x, block.norm1, relu=True), block.conv1, block.norm2, relu=True)
    y = convolved(graph, y, block.conv2)
    return graph.add("Concat", x, y, shape=(x.shape[0] + y.shape[0], *x.shape[1:]), axis=1)


def _transition(graph: Graph, x: Value, block: models.Transition) -> Value:
    y = convolved(graph, batch_norm(graph, x, block.norm, relu=True), block.conv)
    shape = (y.shape[0], *(side // 2 for side in y.shape[1:]))
    return graph.add("AveragePool", y, shape=shape, kernel_shape=[2, 2], strides=[2, 2])


def _embed(graph: Graph, x: Value, embed: models.Embed) -> Value:
    """Tokens with their positions: a token of zeros is put before the patches, and the class token added with its position."""
    width, rows, columns = x.shape
    tokens = graph.transposed(graph.reshaped(x, width, rows * columns), (1, 0))
    shape = (1 + rows * columns, width)
    tokens = graph.add("Pad", tokens, np.array([0, 1, 0, 0, 0, 0]), shape=shape)
    added = numbers(embed.pos_embed)
    added[:, :1] += numbers(embed.cls_token)
    return graph.add("Add", tokens, added)


def _vit(graph: Graph, x: Value, block: models.ViTBlock) -> Value:
    scales = [numbers(of.gamma) for of in (block.ls1, block.ls2)] if block.scaled else [1.0, 1.0]
    y = _attended(graph, layer_norm(graph, x, block.norm1), block, scales[0])
    x = graph.add("Add", x, y)
    y = graph.activated(dense(graph, layer_norm(graph, x, block.norm2), block.fc1), "gelu")
    return graph.add("Add", x, dense(graph, y, block.fc2, scales[1]))


def _attended(graph: Graph, x: Value, block: models.ViTBlock, factor: np.ndarray | float) -> Value:
    """Attention between all tokens; 1 / sqrt(numbers of a head) is in the queries' weights."""
    tokens, width = x.shape
    each = width // block.heads
    queries = np.concatenate([np.full(width, each**-0.5), np.ones(2 * width)])
    y = dense(graph, x, block.qkv, queries)
    parts = []
    for i, order in enumerate(((1, 0, 2), (1, 2, 0), (1, 0, 2))):
        part = graph.add("Slice", y, np.array([i * width]), np.array([(i + 1) * width]), np.array([2]), shape=x.shape)
        parts.append(graph.transposed(graph.reshaped(part, tokens, block.heads, each), order))
    weights = graph.add("Softmax", graph.add("MatMul", parts[0], parts[1], shape=(block.heads, tokens, tokens)), axis=-1)
    y = graph.transposed(graph.add("MatMul", weights, parts[2], shape=(block.heads, tokens, each)), (1, 0, 2))
    return dense(graph, graph.reshaped(y, tokens, width), block.proj, factor)


# Class of a module -> its rule. By the class itself: a subclass may compute something else.
RULES: dict[type, Callable[[Graph, Value, Any], Value]] = {
    **dict.fromkeys((nnx.Conv, models.ResNetConv, models.InvertedConv, models.Depthwise, models.Patches), convolved),
    nnx.Linear: dense,
    models.Norm: batch_norm,
    models.LayerNorm: layer_norm,
    models.ResNetBlock: _resnet,
    models.InvertedBlock: _inverted,
    models.ConvNeXtBlock: _convnext,
    models.Downsample: _halving,
    models.DenseNetBlock: _densenet,
    models.Transition: _transition,
    models.Embed: _embed,
    models.ViTBlock: _vit,
}
# Networks that apply layers in a way of their own which is known here.
KNOWN = (Layered, models.MobileNetV3, models.ViT)
APPLIED = ("__call__", "apply", "_entered", "_through", "_prepared")


def logits(graph: Graph, model: Layered, x: Value) -> Value:
    """Adds all layers of a network.

    Args:
        graph: to add to.
        model: in evaluation.
        x: float32 images of (height, width, 3) in [0, 255].

    Returns:
        The logits, (outputs,).

    Raises:
        NoRuleError: the network, or a layer of it, has no rule here.
    """
    for name in APPLIED:
        owner = next(base for base in type(model).__mro__ if name in vars(base))
        if owner not in KNOWN:
            raise NoRuleError(f"{type(model).__name__} has a {name} of its own")
    x, layers = _entered(graph, model, x), list(model.layers)
    if layers[0].kind == "whiten":
        layers.pop(0)
    x = graph.channels_first(x)
    while layers:
        layer = layers.pop(0)
        norm = layers.pop(0) if layer.kind == "conv" and layers and layers[0].kind == "norm" and not layer.relu and type(
            getattr(model, layers[0].module)) is models.Norm else None  # fmt: skip
        x = _applied(graph, model, layer, norm, x)
    return x


def _entered(graph: Graph, model: Layered, x: Value) -> Value:
    """Scales, standardizes and whitens images."""
    chosen = model.preprocessing
    scale = chosen.scale / np.asarray(chosen.deviation, np.float64)
    x = graph.add("Mul", x, scale if chosen.is_standardized else np.full(1, chosen.scale))
    if chosen.is_standardized:
        x = graph.add("Add", x, -np.asarray(chosen.mean, np.float64) / np.asarray(chosen.deviation, np.float64))
    if model.layers[0].kind != "whiten":
        return x
    whiten, shape = model.whiten, x.shape
    if type(whiten) is not models.Whiten:
        raise NoRuleError(f"whiten is of {type(whiten).__name__}")
    x = graph.reshaped(graph.add("Sub", x, numbers(whiten.mean)), -1)
    size = int(np.prod(shape))
    return graph.reshaped(graph.add("MatMul", Value(x.name, (size,)), numbers(whiten.matrix)), *shape)


def _applied(graph: Graph, model: Layered, layer: Layer, norm: Layer | None, x: Value) -> Value:
    """Adds one layer, and of a convolution the norm after it."""
    module = getattr(model, layer.module) if layer.module else None
    if norm is not None and type(module) in RULES and RULES[type(module)] is convolved:
        return convolved(graph, x, module, getattr(model, norm.module), relu=norm.relu)
    if layer.kind == "dropout":
        return x
    if layer.kind == "pool":
        y = graph.max_pool(x, *layer.window)
    elif layer.kind == "average":
        y = graph.averaged(x)
    elif layer.kind == "flatten":
        y = graph.add("Flatten", graph.channels_last(x) if len(x.shape) == 3 else x, shape=(int(np.prod(x.shape)),))
    elif layer.kind == "token" and isinstance(model, models.ViT):
        y = graph.add("Gather", x, np.array(0), shape=x.shape[1:], axis=1)
    elif type(module) in RULES:
        y = RULES[type(module)](graph, x, module)
    else:
        raise NoRuleError(f"{layer.name} is a layer {layer.kind} of {type(module).__name__}")
    hidden = isinstance(model, models.MobileNetV3) and layer.name == "hidden"
    return graph.activated(y, "relu" if layer.relu else "hard_swish" if hidden else "none")
