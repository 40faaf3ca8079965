"""Operations that networks, augmentation and optimizers call, in plain JAX: what every platform compiles.

`cnnjax.kernels.cpu.CpuOps` replaces each by a kernel for CPUs where shapes and types allow it.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import ClassVar

import jax
import jax.numpy as jnp
from jax import lax

from cnnjax.kernels import orthogonal, positions
from cnnjax.kernels.blocks import Block
from cnnjax.kernels.linked import Gate, Link

NHWC = ("NHWC", "HWIO", "NHWC")
Padding = int | tuple[tuple[int, int], tuple[int, int]]

# By name; of ReLU6 the gradient is 0 at both bounds, as in torch.
ACTIVATIONS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "none": lambda x: x, "relu": jax.nn.relu, "relu6": lambda x: lax.clamp(jnp.zeros((), x.dtype), x, jnp.full((), 6, x.dtype)),
    "silu": jax.nn.silu, "hard_swish": jax.nn.hard_swish, "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "sigmoid": jax.nn.sigmoid, "hard_sigmoid": jax.nn.hard_sigmoid,
}  # fmt: skip


def sides(padding: Padding) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns ((top, bottom), (left, right)) of a padding that may be one number for all sides."""
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


def gated(x: jax.Array, gate: Gate) -> jax.Array:
    """Multiplies images by what `gate` makes of their means: [n, h, w, channels] -> the same shape."""
    return x * gate(x.mean((1, 2))).astype(x.dtype)[:, None, None]


def same_padding(size: tuple[int, int], kernel: int, stride: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """Returns ((top, bottom), (left, right)) of TensorFlow's "SAME": ceil(size / stride) outputs, an odd zero at the end.

    Args:
        size: height and width of the images, pixels.
        kernel, stride: pixels, along rows and columns.
    """
    total = [max((-(-pixels // stride) - 1) * stride + kernel - pixels, 0) for pixels in size]
    return tuple((zeros // 2, zeros - zeros // 2) for zeros in total)


@dataclasses.dataclass(frozen=True)
class Ops:
    """Operations in plain JAX. Equal values compute the same, so that a network can hold one as part of its structure."""

    name: ClassVar[str] = "xla"  # how a run's summary calls it
    has_adam: ClassVar[bool] = False  # whether `adam_update` is there; optax does the work where it is not

    def scaled(self, images: jax.Array, scale: float, dtype) -> jax.Array:
        """Returns scale * images, computed in float32 and then rounded once to `dtype`."""
        return (images.astype(jnp.float32) / (1 / scale)).astype(dtype)

    def conv_blocks(self, x: jax.Array, blocks: Sequence[Block], *, dtype, scale: float = 1.0, input_grad: bool = True
                    ) -> jax.Array:  # fmt: skip
        """Applies relu(convolution(x, w) + b), then a 2x2 max-pool, for each block in turn.

        Args:
            x: [n, h, w, ci], floating point; uint8 with a scale.
            blocks: at least one.
            dtype: of the computation, float32 or bfloat16.
            scale: of x.
            input_grad: False: the caller does not need the gradient of x.

        Returns:
            [n, h', w', co] in `dtype`, or in float32 where a kernel keeps its sums.
        """
        x = x if scale == 1 else self.scaled(x, scale, dtype)
        for block in blocks:
            edge = (block.padding, block.padding)
            x = lax.conv_general_dilated(
                x.astype(dtype), block.w.astype(dtype), (1, 1), (edge, edge), dimension_numbers=NHWC
            )
            x = jax.nn.relu(x + block.b.astype(dtype).reshape(1, 1, 1, -1))
            x = self.max_pool(x, 2, block.pool_stride) if block.pool_stride else x
        return x

    def conv(self, x: jax.Array, w: jax.Array, *, stride: int, dtype, padding: Padding | None = None) -> jax.Array:
        """Convolves all channels, without a bias.

        Args:
            x: [n, h, w, ci].
            w: float32 [kernel, kernel, ci, co], of an odd kernel.
            stride: pixels, along rows and columns.
            dtype: of the computation and of the result, [n, (h + top + bottom - kernel) // stride + 1, the same of w, co].
            padding: zeros on all four sides, or ((top, bottom), (left, right)); kernel // 2 where none is given.
        """
        kernel, zeros = w.shape[0], sides(w.shape[0] // 2 if padding is None else padding)
        x, w = x.astype(dtype), w.astype(dtype)
        height, width = ((size + sum(side) - kernel) // stride + 1 for size, side in zip(x.shape[1:3], zeros, strict=True))
        if kernel == 1 or min(height, width) > kernel:
            return lax.conv_general_dilated(x, w, (stride,) * 2, zeros, dimension_numbers=NHWC)
        # A product of matrices: where the image is smaller than the kernel XLA exchanges the two, and a CPU then needs
        # a hundred times as long; of images as small as the kernel a product is no slower.
        rows, columns = ((size - 1) * stride + 1 for size in (height, width))
        x = jnp.pad(x, ((0, 0), *zeros, (0, 0)))
        parts = [x[:, i : i + rows : stride, j : j + columns : stride] for i in range(kernel) for j in range(kernel)]
        return jnp.dot(jnp.concatenate(parts, -1), w.reshape(-1, w.shape[3]))

    def depthwise(self, x: jax.Array, w: jax.Array, *, stride: int, padding: Padding, dtype) -> jax.Array:
        """Convolves each channel with a kernel of its own, without a bias.

        Args:
            x: [n, h, w, channels].
            w: float32 [kernel, kernel, 1, channels].
            stride: pixels, along rows and columns.
            padding: zeros on all four sides, or ((top, bottom), (left, right)), as `same_padding` gives it.
            dtype: of the computation and of the result, [n, (h + top + bottom - kernel) // stride + 1, the same of w, channels].
        """
        options = {"stride": stride, "zeros": sides(padding)}
        return lax.platform_dependent(x.astype(dtype), w.astype(dtype), cpu=functools.partial(_shifted, **options),
                                   default=functools.partial(_grouped, **options))  # fmt: skip

    def conv_normalize(self, x: jax.Array, w: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array,
                       more: jax.Array | None = None, *, stride: int, padding: Padding, epsilon: float, activation: str,
                       dtype, out_dtype, conv_dtype) -> jax.Array:  # fmt: skip
        """Convolves as `conv`, or as `depthwise` where w has one input channel and x several, then normalises: as in evaluation.

        Arguments are those of `conv`, whose type is `conv_dtype`, and of `normalize`. A kernel has the norm in its weights, and one pass for all.
        """
        convolve = self.depthwise if w.shape[2] == 1 < x.shape[3] else self.conv
        y = convolve(x, w, stride=stride, padding=padding, dtype=conv_dtype)
        return self.normalize(y, mean, var, scale, bias, more, epsilon=epsilon, activation=activation, dtype=dtype,
                              out_dtype=out_dtype)  # fmt: skip

    def chain(self, x: jax.Array, links: Sequence[Link], more: jax.Array | None = None, gate: Gate | None = None, *, dtype, out_dtype,
              conv_dtype) -> tuple[jax.Array, list[tuple[jax.Array, jax.Array]]]:  # fmt: skip
        """Applies convolutions, as `conv` or `depthwise`, each normalised as by `batch_norm`; `more` belongs to the last.

        Types are those of `conv_normalize`. With `gate` the last convolution's input is multiplied by what it makes of the means of each image.

        Returns:
            The result; and for each link the float32 mean and variance, [channels]. No gradient may be taken through these.
        """
        found = []
        for i, link in enumerate(links, 1):
            if gate and i == len(links):
                x = gated(x, gate)
            convolve = self.depthwise if link.is_depthwise and x.shape[3] > 1 else self.conv
            y = convolve(x, link.w, stride=link.stride, padding=link.padding, dtype=conv_dtype)
            x, *statistics = self.batch_norm(
                y, link.scale, link.bias, more if i == len(links) else None, epsilon=link.epsilon, activation=link.activation,
                dtype=dtype, out_dtype=out_dtype,
            )  # fmt: skip
            found.append(tuple(statistics))
        return x, found

    def batch_norm(self, x: jax.Array, scale: jax.Array, bias: jax.Array, more: jax.Array | None = None, *, epsilon: float,
                   activation: str, dtype, out_dtype) -> tuple[jax.Array, jax.Array, jax.Array]:  # fmt: skip
        """Normalises x by the statistics of this batch; see `normalize`.

        Returns:
            The result, and the float32 mean and variance [channels]. No gradient may be taken through these two.
        """
        x = x.astype(dtype)
        wide = x.astype(jnp.promote_types(dtype, jnp.float32))
        axes = tuple(range(x.ndim - 1))
        mean, square = wide.mean(axes), lax.square(wide).mean(axes)
        var = jnp.maximum(0.0, square - lax.square(mean))
        y = self.normalize(x, mean, var, scale, bias, more, epsilon=epsilon, activation=activation, dtype=dtype,
                           out_dtype=out_dtype)  # fmt: skip
        return y, mean, var

    def normalize(self, x: jax.Array, mean: jax.Array, var: jax.Array, scale: jax.Array, bias: jax.Array,
                  more: jax.Array | None = None, *, epsilon: float, activation: str, dtype, out_dtype) -> jax.Array:  # fmt: skip
        """Returns (x - mean) / sqrt(var + epsilon) * scale + bias, plus `more`, activated.

        Args:
            x: [n, ..., channels].
            mean, var: [channels], in the type that they are to be subtracted and rooted in.
            scale, bias: [channels].
            more: of the shape of x, or nothing.
            epsilon: keeps the root away from zero.
            activation: one of `ACTIVATIONS`.
            dtype, out_dtype: of the computation, and of the result.
        """
        mean, var, scale, bias = (
            a.reshape((1,) * (x.ndim - 1) + (-1,)) for a in (mean, var, scale.astype(dtype), bias.astype(dtype))
        )
        y = (x.astype(dtype) - mean) * (lax.rsqrt(var + epsilon) * scale) + bias
        y = y.astype(dtype).astype(out_dtype)
        y = y if more is None else y + more
        return ACTIVATIONS[activation](y)

    def max_pool(self, x: jax.Array, window: int, stride: int, padding: int = 0) -> jax.Array:
        """Returns the largest of each window: [b, h, w, c] -> [b, (h + 2 padding - window) // stride + 1, the same of w, c].

        A maximum of shifted slices: on a CPU the whole training step takes a half to a third of the time that it takes
        with `lax.reduce_window`, whose gradient is a scatter.

        Args:
            x: floating point.
            window: pixels, height and width.
            stride: pixels.
            padding: pixels of the lowest value on all four sides.
        """
        if padding:
            edge = (padding, padding, 0)
            x = lax.pad(x, jnp.array(-jnp.inf, x.dtype), ((0, 0, 0), edge, edge, (0, 0, 0)))
        for axis in (1, 2):
            last = (x.shape[axis] - window) // stride * stride
            parts = [lax.slice_in_dim(x, i, i + last + 1, stride, axis) for i in range(window)]
            x = functools.reduce(_larger, parts)
        return x

    def dense(self, x: jax.Array, w: jax.Array, b: jax.Array, *, dtype, activation: str = "none") -> jax.Array:
        """Returns activation(x @ w + b), the activation one of `ACTIVATIONS`.

        [n, ..., k], float32 [k, units] and [units] -> [n, ..., units] in `dtype`, or float32 where a kernel sums.
        """
        x, w, b = (a.astype(dtype) for a in (x, w, b))
        y = lax.dot_general(x, w, (((x.ndim - 1,), (0,)), ((), ()))) + b.reshape((1,) * (x.ndim - 1) + (-1,))
        return ACTIVATIONS[activation](y)

    def mlp(
        self, x: jax.Array, w1: jax.Array, b1: jax.Array, w2: jax.Array, b2: jax.Array, *, dtype, activation: str
    ) -> jax.Array:
        """Returns activation(x @ w1 + b1) @ w2 + b2: two layers as `dense`, for x [n, ..., k]."""
        return self.dense(self.dense(x, w1, b1, dtype=dtype, activation=activation), w2, b2, dtype=dtype)

    def sample(self, images: jax.Array, factors: jax.Array, *, fraction: int, interpolation: str, fill: str) -> jax.Array:
        """Samples each image at the positions of its matrix in whole numbers; see `positions.sampled`."""
        return positions.sampled(images, factors, fraction, interpolation, fill)

    def orthogonal(self, x: jax.Array) -> jax.Array:
        """Returns a matrix with the singular vectors of x, float32 [m, n], and singular values near 1; see `orthogonal.plain`."""
        return self.tall_orthogonal(x.T).T if x.shape[0] < x.shape[1] else self.tall_orthogonal(x)

    def tall_orthogonal(self, x: jax.Array) -> jax.Array:
        """Returns `orthogonal` of a matrix with no more columns than rows."""
        return orthogonal.plain(x)

    def adam_update(self, factors: jax.Array, g: jax.Array, p: jax.Array, m: jax.Array, v: jax.Array, *, beta1: float,
                    beta2: float, epsilon: float, decay: float) -> tuple[jax.Array, jax.Array, jax.Array] | None:  # fmt: skip
        """Returns the new p, m and v as `adam.update` does; None where optax is to do the work."""
        return None


PLAIN = Ops()


def _grouped(x: jax.Array, w: jax.Array, stride: int, zeros) -> jax.Array:
    return lax.conv_general_dilated(x, w, (stride,) * 2, zeros, dimension_numbers=NHWC, feature_group_count=x.shape[3])


def _shifted(x: jax.Array, w: jax.Array, stride: int, zeros) -> jax.Array:
    """The same as a sum of shifted images times weights: with XLA on a CPU ten to a hundred times as fast."""
    kernel, dtype = w.shape[0], x.dtype
    x = jnp.pad(x, ((0, 0), *zeros, (0, 0))).astype(jnp.promote_types(dtype, jnp.float32))
    rows, columns = ((size - kernel) // stride * stride + 1 for size in x.shape[1:3])
    return sum(
        x[:, i : i + rows : stride, j : j + columns : stride] * w[i, j].reshape(1, 1, 1, -1)
        for i in range(kernel) for j in range(kernel)
    ).astype(dtype)  # fmt: skip


@jax.custom_vjp
def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """Elementwise maximum whose whole gradient goes to one side; at a tie to the first."""
    return jnp.maximum(a, b)


_larger.defvjp(
    lambda a, b: (jnp.maximum(a, b), a >= b),
    lambda first, g: (jnp.where(first, g, 0), jnp.where(first, 0, g)),
)
