"""Kernels for the CPU: blocks of a 3x3 convolution, ReLU and a max-pool, and wide dense layers, called through XLA's FFI; the
sampling of augmentation is in sampling.py.

They are compiled when the package is installed, once for each instruction set; the best that this CPU has is loaded by the
first question or call. Where `available` or the `supports_` functions say no, JAX itself does the work. How the kernels
compute, and what they return where a number is infinite or none, is in docs/kernels.md.
"""

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.custom_batching import sequential_vmap
from jax.experimental.custom_partitioning import custom_partitioning
from jax.sharding import NamedSharding, PartitionSpec

from cnnjax.kernels.library import available, instruction_set, why_not

BLOCK = 16  # channels that are computed together
LARGEST = 2**24  # of a dimension
MOST_ELEMENTS = 2**40


class Block(NamedTuple):
    """A 3x3 convolution, ReLU, and a 2x2 max-pool."""

    w: jax.Array  # float32 [3, 3, ci, co], co a multiple of 16
    b: jax.Array  # float32 [co]
    padding: int  # zeros on all four sides: 1, as in SAME, or 0, as in VALID
    pool_stride: int  # 1 or 2; 0: no pool


def block_output(x_shape: tuple[int, ...], w_shape: tuple[int, ...], padding: int, pool_stride: int) -> tuple[int, ...]:
    """The shape of what a block gives."""
    size = [pixels + 2 * padding - 2 for pixels in x_shape[1:3]]
    if pool_stride:
        size = [(pixels - 2) // pool_stride + 1 for pixels in size]
    return x_shape[0], *size, w_shape[3]


def supports_block(x_shape: tuple[int, ...], w_shape: tuple[int, ...], padding: int, pool_stride: int) -> bool:
    """Whether `conv_block` takes these; the output channels must be a multiple of 16."""
    return not _block_problem(x_shape, w_shape, padding, pool_stride)


def supports_dense(x_shape: tuple[int, ...], w_shape: tuple[int, ...]) -> bool:
    """Whether `dense` takes these; both dimensions of the weights must be multiples of 16."""
    return not _dense_problem(x_shape, w_shape)


def conv_block(
    x: jax.Array,
    w: jax.Array,
    b: jax.Array,
    *,
    padding: int,
    pool_stride: int,
    input_grad: bool = True,
    scale: float = 1.0,
    bfloat16: bool = False,
) -> jax.Array:
    """relu(convolution(scale * x, w) + b), then a 2x2 max-pool without padding: `conv_blocks` of one."""
    return conv_blocks(x, [Block(w, b, padding, pool_stride)], input_grad=input_grad, scale=scale, bfloat16=bfloat16)


def conv_blocks(
    x: jax.Array,
    blocks: Sequence[Block],
    *,
    input_grad: bool = True,
    scale: float = 1.0,
    bfloat16: bool = False,
    rounded: bool = False,
) -> jax.Array:
    """relu(convolution(scale * x, w) + b), then a 2x2 max-pool without padding; and so on, without the scale.

    Each image goes through all blocks while it is in the caches. Has gradients in reverse mode, of second order none. A
    batch that is divided among devices stays divided.

    Args:
        x: float32 or uint8 [n, h, w, ci].
        blocks: at least one.
        input_grad: False: the gradient of x is not needed; it is zero then.
        scale: of x.
        bfloat16: round the factors of products to bfloat16, in the gradients too, where the instruction set is
            avx512bf16; sums are float32 all the same.
        rounded: return bfloat16 there, for `dense`, which would round it anyway.

    Returns:
        float32 [n, h', w', co], or bfloat16.

    Raises:
        ValueError: `supports_block` is False, or another type.
    """
    shape = x.shape
    for i, block in enumerate(blocks):
        w, b = block.w, block.b
        problem = _block_problem(shape, w.shape, block.padding, block.pool_stride)
        if not problem and b.shape != w.shape[3:]:
            problem = f"b is {list(b.shape)}; make it {list(w.shape[3:])}"
        if not problem:
            problem = type_problem({"x": x, "w": w, "b": b}, bytes_in=("x",))
        if problem:
            raise ValueError(f"conv_block{f' {i + 1}' if len(blocks) > 1 else ''}: {problem}")
        shape = block_output(shape, w.shape, block.padding, block.pool_stride)
    options = _Blocks(usable("conv_block"), tuple(int(block.padding) for block in blocks),
                      tuple(block.pool_stride for block in blocks), input_grad and x.dtype != jnp.uint8, float(scale),
                      bfloat16, rounded)  # fmt: skip
    return _blocks(options, x, tuple(block.w for block in blocks), tuple(block.b for block in blocks))


def dense(x: jax.Array, w: jax.Array, *, bfloat16: bool = False) -> jax.Array:
    """x @ w where w is long and a batch has few rows, as after a flatten: float32 [n, k], [k, units] -> [n, units].

    Gradients, and `bfloat16`, as those of `conv_block`; where that rounds, x may be bfloat16.

    Raises:
        ValueError: `supports_dense` is False, or another type.
    """
    instructions = usable("dense")
    ready = x.dtype == jnp.bfloat16 and rounds(bfloat16, instructions)
    problem = _dense_problem(x.shape, w.shape) or type_problem({"w": w} if ready else {"x": x, "w": w})
    if problem:
        raise ValueError(f"dense: {problem}")
    return _dense(_Dense(instructions, bfloat16), x, w)


def rounds(bfloat16: bool, instructions: str) -> bool:
    """Whether factors of products are rounded to bfloat16."""
    return bfloat16 and instructions == "avx512bf16"


def usable(name: str) -> str:
    if not available():
        raise ValueError(f"{name}: {why_not()}; ask kernels.available() first")
    return instruction_set()


def type_problem(arrays: dict[str, jax.Array], bytes_in: tuple[str, ...] = ()) -> str:
    for name, array in arrays.items():
        if array.dtype != jnp.float32 and not (name in bytes_in and array.dtype == jnp.uint8):
            return f"{name} is {array.dtype}; give float32{' or uint8' if name in bytes_in else ''}"
    return ""


def size_problem(*shapes: tuple[int, ...]) -> str:
    for shape in shapes:
        if min(shape) < 1 or max(shape) > LARGEST or np.prod(shape, dtype=object) > MOST_ELEMENTS:
            return f"a shape of {list(shape)}; dimensions go from 1 to {LARGEST}"
    return ""


def _block_problem(x: tuple[int, ...], w: tuple[int, ...], padding: int, pool_stride: int) -> str:
    if padding not in (0, 1) or pool_stride not in (0, 1, 2):
        return f"padding={padding}, pool_stride={pool_stride}; padding is 0 or 1, pool_stride 0, 1 or 2"
    if len(x) != 4 or len(w) != 4 or tuple(w[:2]) != (3, 3) or x[3] != w[2]:
        return f"x is {list(x)} and w is {list(w)}; give [n, h, w, ci] and [3, 3, ci, co]"
    if w[3] % BLOCK:
        return f"{w[3]} output channels; give a multiple of {BLOCK}, or let JAX compute this layer"
    if min(x[1:3]) + 2 * padding - 2 < (2 if pool_stride else 1):
        return f"nothing is left of images of {x[1]}x{x[2]} pixels; give larger ones"
    return size_problem(x, w)


def _dense_problem(x: tuple[int, ...], w: tuple[int, ...]) -> str:
    if len(x) != 2 or len(w) != 2 or x[1] != w[0]:
        return f"x is {list(x)} and w is {list(w)}; give [n, k] and [k, units]"
    if w[0] % BLOCK or w[1] % BLOCK:
        return f"w is {list(w)}; give multiples of {BLOCK}, or let JAX compute this layer"
    return size_problem(x, w, (x[0], w[1]))


@dataclasses.dataclass(frozen=True)
class _Blocks:
    """Facts about blocks that are known when they are traced."""

    instructions: str
    paddings: tuple[int, ...]
    pool_strides: tuple[int, ...]
    input_grad: bool
    scale: float
    bfloat16: bool
    rounded: bool

    def outputs(self, x: jax.Array, ws: Sequence[jax.Array]) -> list[jax.ShapeDtypeStruct]:
        """Returns, for each block, the arrays that are kept for the gradients, and at last the result."""
        rounding = rounds(self.bfloat16, self.instructions)
        between, last = (jnp.bfloat16 if yes else jnp.float32 for yes in (rounding, rounding and self.rounded))
        shapes = [x.shape]
        for w, padding, stride in zip(ws, self.paddings, self.pool_strides, strict=True):
            shapes.append(block_output(shapes[-1], w.shape, padding, stride))
        return [jax.ShapeDtypeStruct(shape, between) for shape in shapes[1:-1]] + [jax.ShapeDtypeStruct(shapes[-1], last)]

    def name(self, what: str) -> str:
        values = "_".join(f"{key}_{value}" for key, value in dataclasses.asdict(self).items())
        return re.sub(r"\W+", "_", f"conv_{what}_{values}")

    def attributes(self) -> dict[str, np.generic | np.ndarray]:
        return {"paddings": np.array(self.paddings, np.int64), "pool_strides": np.array(self.pool_strides, np.int64),
                "scale": np.float32(self.scale), "bfloat16": np.bool_(self.bfloat16)}  # fmt: skip


def float32(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def divisible(name: str, call: Callable, operands: tuple[bool, ...], results: tuple[bool, ...]) -> Callable:
    """`call` for batches that are divided among devices, and within vmap.

    Args:
        name: with all that tells this call from others on the same shapes: for several devices, XLA's program and so the key
            of JAX's compilation cache says nothing else about it.
        call: arrays -> tuple of arrays.
        operands, results: which of them have the batch as their first dimension. A result without it is a sum over the
            batch, so it is summed over the devices.
    """
    whole = custom_partitioning(call)

    def partition(mesh, arguments, outcome):
        spec = getattr(arguments[operands.index(True)].sharding, "spec", PartitionSpec())
        axes = spec[0] if len(spec) else None

        def place(divided):
            return NamedSharding(mesh, PartitionSpec(axes) if divided else PartitionSpec())

        def part(*arrays):
            done = call(*arrays)
            if axes is None:
                return done
            return tuple(y if divided else lax.psum(y, axes) for y, divided in zip(done, results, strict=True))

        return mesh, part, tuple(map(place, results)), tuple(map(place, operands))

    def rule(mesh, operand_types, result_types):
        counter = iter(range(1000))

        def letters(kinds, divided):
            names = [[f"d{next(counter)}" for _ in kind.shape] for kind in kinds]
            return [["batch", *own[1:]] if first else own for own, first in zip(names, divided, strict=True)]

        left, right = letters(operand_types, operands), letters(result_types, results)
        text = " -> ".join(", ".join(" ".join(own) for own in side) for side in (left, right))
        whole_factors = tuple(name for side in (left, right) for own in side for name in own if name != "batch")
        return text, {"need_replication_factors": whole_factors}

    whole.def_partition(partition, sharding_rule=rule)
    one_by_one = sequential_vmap(whole)

    def named(*arrays):
        return one_by_one(*arrays)

    named.__name__ = named.__qualname__ = name
    return jax.jit(named)


@functools.cache
def _blocks_forward(options: _Blocks, keep: bool) -> Callable:
    """x, w and b of each block -> the last y; with `keep` all of them, and of each pool where the largest were."""
    target = f"cnnjax_{options.instructions}_conv_forward"
    blocks, pools = len(options.paddings), sum(stride > 0 for stride in options.pool_strides)

    def call(x, *weights):
        ys = options.outputs(x, weights[::2])
        codes = [
            jax.ShapeDtypeStruct(y.shape, jnp.uint8) for y, stride in zip(ys, options.pool_strides, strict=True) if stride
        ]
        result = (*ys, *codes) if keep else ys[-1:]
        return tuple(jax.ffi.ffi_call(target, tuple(result))(x, *weights, **options.attributes()))

    name = options.name("forward_keep" if keep else "forward")
    return divisible(name, call, (True, *(False,) * 2 * blocks), (True,) * (blocks + pools if keep else 1))


@functools.cache
def _blocks_backward(options: _Blocks) -> Callable:
    """x, w of each block, what was kept, g -> dw and db of each block; and dx, where it is wanted."""
    target = f"cnnjax_{options.instructions}_conv_backward"
    blocks = len(options.paddings)
    dx = (True,) if options.input_grad else ()

    def call(x, *rest):
        result = [float32(*shape) for w in rest[:blocks] for shape in (w.shape, w.shape[3:])]
        result += [float32(*x.shape)] * len(dx)
        return tuple(jax.ffi.ffi_call(target, tuple(result))(x, *rest, **options.attributes()))

    pools = sum(stride > 0 for stride in options.pool_strides)
    kept = blocks - (options.pool_strides[-1] > 0) + pools
    operands = (True, *(False,) * blocks, *(True,) * kept, True)
    return divisible(options.name("backward"), call, operands, (*(False,) * 2 * blocks, *dx))


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _blocks(options, x, ws, bs):
    return _blocks_forward(options, keep=False)(x, *itertools.chain(*zip(ws, bs, strict=True)))[0]


def _blocks_fwd(options, x, ws, bs):
    found = _blocks_forward(options, keep=True)(x, *itertools.chain(*zip(ws, bs, strict=True)))
    ys, codes = found[: len(ws)], found[len(ws) :]
    kept = ys[:-1] if options.pool_strides[-1] else ys
    return ys[-1], (x, ws, (*kept, *codes))


def _blocks_bwd(options, saved, g):
    x, ws, kept = saved
    found = _blocks_backward(options)(x, *ws, *kept, g)
    gradients, dx = found[: 2 * len(ws)], found[2 * len(ws) :]
    return dx[0] if dx else None, gradients[::2], gradients[1::2]


_blocks.defvjp(_blocks_fwd, _blocks_bwd)


@dataclasses.dataclass(frozen=True)
class _Dense:
    instructions: str
    bfloat16: bool


@functools.cache
def _dense_call(options: _Dense, what: str) -> Callable:
    """forward: x, w -> y. backward: x, w, g -> dx, dw."""
    target, attributes = f"cnnjax_{options.instructions}_dense_{what}", {"bfloat16": np.bool_(options.bfloat16)}

    def call(x, w, *g):
        result = (jax.ShapeDtypeStruct(x.shape, x.dtype), float32(*w.shape)) if g else (float32(x.shape[0], w.shape[1]),)
        return tuple(jax.ffi.ffi_call(target, result)(x, w, *g, **attributes))

    operands, results = ((True, False), (True,)) if what == "forward" else ((True, False, True), (True, False))
    return divisible(f"dense_{what}_{options.instructions}_{options.bfloat16}", call, operands, results)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _dense(options, x, w):
    return _dense_call(options, "forward")(x, w)[0]


_dense.defvjp(lambda options, x, w: (_dense(options, x, w), (x, w)),
              lambda options, saved, g: _dense_call(options, "backward")(*saved, g))  # fmt: skip
