"""Networks as Flax NNX modules: uint8 or float images in, float32 logits out.

A network is a list of named layers that are applied in turn; the same list gives the table and the picture of
`describe`, so these cannot disagree with what is trained. `MODELS` is the registry: `model.name` is one of its keys.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx


@jax.custom_vjp
def _larger(a: jax.Array, b: jax.Array) -> jax.Array:
    """Elementwise maximum whose whole gradient goes to one side; at a tie to the first."""
    return jnp.maximum(a, b)


_larger.defvjp(
    lambda a, b: (jnp.maximum(a, b), a >= b),
    lambda first, g: (jnp.where(first, g, 0), jnp.where(first, 0, g)),
)


def max_pool(images: jax.Array, stride: int) -> jax.Array:
    """2x2 max-pool without padding: [b, h, w, c] -> [b, (h - 2) // stride + 1, (w - 2) // stride + 1, c].

    A maximum of shifted slices: on a CPU the whole training step takes a half to a third of the time that it takes
    with `lax.reduce_window`, whose gradient is a scatter.
    """
    height, width = ((size - 2) // stride + 1 for size in images.shape[1:3])
    rows = _larger(*(images[:, i : i + (height - 1) * stride + 1 : stride] for i in (0, 1)))
    return _larger(*(rows[:, :, i : i + (width - 1) * stride + 1 : stride] for i in (0, 1)))


class Fitted(nnx.Variable):
    """What was computed from the training images and is not trained."""


class Whiten(nnx.Module):
    """ZCA whitening: [b, size, size, 3] in [0, 1] -> the same shape; the identity until it is fitted."""

    def __init__(self, size: int, dtype):
        self.mean = Fitted(jnp.zeros((size, size, 3), jnp.float32))
        self.matrix = Fitted(jnp.eye(size * size * 3, dtype=jnp.float32))
        self.dtype = dtype

    def __call__(self, images: jax.Array) -> jax.Array:
        x = (images - self.mean[...][None]).reshape(images.shape[0], -1)
        return jnp.dot(x, self.matrix[...], precision="highest").reshape(images.shape).astype(self.dtype)


@dataclasses.dataclass(frozen=True)
class Layer:
    """One row of the table. `module` is the attribute that holds its parameters; "" where there are none."""

    name: str
    kind: str  # whiten, conv, norm, pool, dropout, flatten, dense
    module: str = ""
    relu: bool = False


class ConvNet(nnx.Module):
    """Blocks of 3x3 convolutions + ReLU, each closed by a 2x2 max-pool; then dense layers.

    With the settings of configs/flowers.py and configs/malaria.py these are the two networks of the TensorFlow
    image classification tutorial and of the malaria exercise, layer by layer.

    Args:
        outputs: logits per image.
        size: height and width of the images, in pixels.
        config: the `model` section.
        zca: start with ZCA whitening, which is fitted before training.
        dtype: of the computation; parameters are float32.
        rngs: initial weights; Glorot uniform and zeros, as in Keras.
    """

    def __init__(self, outputs: int, size: int, config, *, zca: bool = False, dtype=jnp.float32, rngs: nnx.Rngs):
        self.dtype = dtype
        self.pool_stride = config.pool_stride
        layers: list[Layer] = []
        if zca:
            self.whiten = Whiten(size, dtype)
            layers.append(Layer("whiten", "whiten", "whiten"))
        options = {
            "dtype": dtype,
            "param_dtype": jnp.float32,
            "kernel_init": nnx.initializers.glorot_uniform(),
            "rngs": rngs,
        }
        blocks = len(config.channels)
        convs, padding = (t * blocks if len(t) == 1 else t for t in (config.convs, config.padding))
        channels = 3
        for block in range(blocks):
            for i in range(convs[block]):
                name = f"conv{block + 1}" + (f"_{i + 1}" if convs[block] > 1 else "")
                normed = config.norm == "batch"
                conv = nnx.Conv(channels, config.channels[block], (3, 3), padding=padding[block].upper(),
                                use_bias=not normed, **options)  # fmt: skip
                setattr(self, name, conv)
                channels = config.channels[block]
                layers.append(Layer(name, "conv", name, relu=not normed))
                if normed:
                    setattr(self, f"norm_{name}", nnx.BatchNorm(channels, momentum=0.9, dtype=dtype, rngs=rngs))
                    layers.append(Layer(f"norm_{name}", "norm", f"norm_{name}", relu=True))
                if padding[block] == "valid":
                    size -= 2
            layers.append(Layer(f"pool{block + 1}", "pool"))
            size = (size - 2) // self.pool_stride + 1
            if size < 1:
                raise ValueError(f"nothing is left of the image after block {block + 1}")
        self.drop_features = nnx.Dropout(config.dropout_features)
        self.drop_dense = nnx.Dropout(config.dropout_dense)
        if config.dropout_features:
            layers.append(Layer("dropout", "dropout", "drop_features"))
        layers.append(Layer("flatten", "flatten"))
        width = size * size * channels
        for i, units in enumerate(config.dense):
            setattr(self, f"dense{i + 1}", nnx.Linear(width, units, **options))
            layers.append(Layer(f"dense{i + 1}", "dense", f"dense{i + 1}", relu=True))
            if config.dropout_dense:
                layers.append(Layer(f"dropout{i + 1}", "dropout", "drop_dense"))
            width = units
        self.outputs = nnx.Linear(width, outputs, **options)
        layers.append(Layer("outputs", "dense", "outputs"))
        self.layers = tuple(layers)

    def apply(self, layer: Layer, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """One layer."""
        module = getattr(self, layer.module) if layer.module else None
        if layer.kind == "pool":
            x = max_pool(x, self.pool_stride)
        elif layer.kind == "flatten":
            x = x.reshape(x.shape[0], -1)
        elif layer.kind == "dropout":
            x = module(x, rngs=rngs)
        else:
            x = module(x)
        return nnx.relu(x) if layer.relu else x

    def __call__(self, images: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Images [b, size, size, 3] in [0, 255], uint8 or float32 -> float32 logits [b, outputs].

        `rngs` feeds dropout in training and comes with each call.
        """
        # Scaled, and whitened, in float32, then rounded once to the computation's type.
        x = images.astype(jnp.float32) / 255
        if self.layers[0].kind != "whiten":
            x = x.astype(self.dtype)
        for layer in self.layers:
            x = self.apply(layer, x, rngs)
        return x.astype(jnp.float32)


MODELS: dict[str, Callable[..., nnx.Module]] = {"convnet": ConvNet}


def outputs_for(classes: int) -> int:
    """Logits of a task: one for two classes (of the second class, sigmoid), else one per class (softmax)."""
    return 1 if classes == 2 else classes


@dataclasses.dataclass(frozen=True)
class Row:
    """A layer as `describe` shows it."""

    name: str
    kind: str
    shape: tuple[int, ...]  # of the output for one image
    parameters: int
    mflops: float  # millions of multiplications and additions for one image, forward


def table(model: ConvNet, size: int) -> list[Row]:
    """The network layer by layer, for images of `size` pixels; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(model)
    rows = []
    for layer in model.layers:
        x = jax.eval_shape(lambda state, x, layer=layer: nnx.merge(graphdef, state).apply(layer, x), state, x)
        module = getattr(model, layer.module) if layer.kind in ("conv", "norm", "dense") else None
        parameters = 0 if module is None else sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
        flops = 0
        if layer.kind == "whiten":
            flops = 2 * math.prod(x.shape) ** 2
        elif layer.kind in ("conv", "dense"):
            kernel = module.kernel.shape
            places = x.shape[1] * x.shape[2] if layer.kind == "conv" else 1
            flops = 2 * places * math.prod(kernel)
        rows.append(Row(layer.name, layer.kind, x.shape[1:], parameters, flops / 1e6))
    return rows
