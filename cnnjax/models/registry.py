"""Networks as Flax NNX modules: uint8 or float images in, float32 logits out.

A network is a list of named layers that are applied in turn; the same list gives the table and the picture of
`describe`, so these cannot disagree with what is trained. `MODELS` is the registry: `model.name` is one of its keys.
"""

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from cnnjax.models.layers import Dropout, Layer, Layered, Norm, Whiten
from cnnjax.models.resnet import ResNet, basic, bottleneck


class ConvNet(Layered):
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
                    setattr(self, f"norm_{name}", Norm(channels, dtype=dtype, rngs=rngs))
                    layers.append(Layer(f"norm_{name}", "norm", f"norm_{name}", relu=True))
                if padding[block] == "valid":
                    size -= 2
            layers.append(Layer(f"pool{block + 1}", "pool", window=(2, config.pool_stride)))
            size = (size - 2) // config.pool_stride + 1
            if size < 1:
                raise ValueError(f"nothing is left of the image after block {block + 1}")
        self.drop_features = Dropout(config.dropout_features)
        self.drop_dense = Dropout(config.dropout_dense)
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


MODELS: dict[str, Callable[..., Layered]] = {
    "convnet": ConvNet,
    "resnet18": functools.partial(ResNet, block=basic, depths=(2, 2, 2, 2)),
    "resnet34": functools.partial(ResNet, block=basic, depths=(3, 4, 6, 3)),
    "resnet50": functools.partial(ResNet, block=bottleneck, depths=(3, 4, 6, 3)),
}


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


def table(model: Layered, size: int) -> list[Row]:
    """The network layer by layer, for images of `size` pixels; nothing is computed."""
    x = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    model = nnx.view(model, deterministic=True, use_running_average=True, raise_if_not_found=False)
    graphdef, state = nnx.split(model)
    rows = []
    for layer in model.layers:
        before = x.shape
        x = jax.eval_shape(lambda state, x, layer=layer: nnx.merge(graphdef, state).apply(layer, x), state, x)
        module = getattr(model, layer.module) if layer.kind in ("conv", "norm", "block", "dense") else None
        parameters = 0 if module is None else sum(p.size for p in jax.tree.leaves(nnx.state(module, nnx.Param)))
        flops = 0
        if layer.kind == "whiten":
            flops = 2 * math.prod(x.shape) ** 2
        elif layer.kind in ("conv", "dense"):
            kernel = module.kernel.shape
            places = x.shape[1] * x.shape[2] if layer.kind == "conv" else 1
            flops = 2 * places * math.prod(kernel)
        elif layer.kind == "block":
            flops = module.operations(before[1])
        rows.append(Row(layer.name, layer.kind, x.shape[1:], parameters, flops / 1e6))
    return rows
