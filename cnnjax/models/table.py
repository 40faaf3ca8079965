"""A network as a table: its layers, their shapes, parameters and operations."""

import dataclasses
import math
from collections.abc import Collection, Sequence

import jax
import jax.numpy as jnp
from flax import nnx, traverse_util

from cnnjax.models.layers import Layered


@dataclasses.dataclass(frozen=True)
class Row:
    """One layer, as `describe` shows it."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of the output for one image
    parameters: int
    mflops: float  # millions of multiplications and additions for one image, forward
    frozen: int = 0  # of the parameters, those that training leaves as they are, at first or always


def table(model: Layered, frozen: Collection[tuple] = ()) -> list[Row]:
    """Returns a row for each layer; computes nothing. `frozen` are the paths of frozen parameters."""
    x = jax.ShapeDtypeStruct((1, *model.preprocessing.shape, 3), jnp.float32)
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(model)
    sizes = {path: x.shape for path, x in traverse_util.flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param))).items()}

    def maps(state, x):
        network = nnx.merge(graphdef, state)
        return [x := network.apply(layer, x) for layer in network.layers]

    rows = []
    for layer, after in zip(model.layers, jax.eval_shape(maps, state, x), strict=True):
        before, x = x.shape, after
        module = getattr(model, layer.module) if layer.module else None
        parameters = 0 if module is None else sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
        flops = 0
        if layer.kind == "whiten":
            flops = 2 * math.prod(after.shape) ** 2
        elif layer.kind in ("conv", "dense"):
            kernel = module.kernel.shape
            places = math.prod(after.shape[1:3]) if layer.kind == "conv" else 1
            flops = 2 * places * math.prod(kernel)
        elif hasattr(module, "operations"):
            flops = module.operations(before[1:3])
        held = sum(math.prod(sizes[path]) for path in frozen if layer.module and path[0] == layer.module)
        rows.append(Row(layer.name, layer.kind, after.shape[1:], parameters, flops / 1e6, held))
    return rows


HUGE = 20e6  # parameters of one dense layer


def oversized(rows: Sequence[Row], size: int) -> str:
    """Returns a line where one dense layer is most of a huge network, as after large images and few pools; "" elsewhere."""
    total = sum(row.parameters for row in rows)
    largest = max(rows, key=lambda row: row.parameters)
    if largest.kind != "dense" or largest.parameters < HUGE or largest.parameters < 0.8 * total:
        return ""
    return (f"{total:,} parameters, {largest.parameters / total:.0%} of them in {largest.name}, which sees every pixel that the pools leave of "
            f"image.size={size}: use a smaller --config.image.size, more --config.model.channels, or --config.model.name=resnet18")  # fmt: skip
