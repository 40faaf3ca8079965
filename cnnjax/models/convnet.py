"""Blocks of 3x3 convolutions, ReLU and max-pools, then dense layers."""

import math

import jax.numpy as jnp
from flax import nnx

from cnnjax.config import Model, Preprocessing
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models.layers import Dropout, Layer, Layered, Norm


class ConvNet(Layered):
    """Blocks of 3x3 convolutions + ReLU, each closed by a 2x2 max-pool; then dense layers.

    The settings of configs/flowers.py and configs/malaria.py give the two networks of the TensorFlow image classification
    tutorial and of the malaria exercise, layer by layer. It reads the whole `model` section.

    Args:
        outputs: logits per image.
        section: the `model` section.
        preprocessing: of the images.
        dtype: of the computation; parameters are float32.
        ops: what computes the layers.
        rngs: initial weights; Glorot uniform and zeros, as in Keras.

    Raises:
        ValueError: nothing is left of the image after a block.
    """

    def __init__(self, outputs: int, section: Model, *, preprocessing: Preprocessing, dtype=jnp.float32, ops: Ops = PLAIN,
                 rngs: nnx.Rngs):  # fmt: skip
        super().__init__(preprocessing, dtype, ops)
        layers, sides = list(self.layers), preprocessing.shape
        options = {
            "dtype": dtype,
            "param_dtype": jnp.float32,
            "kernel_init": nnx.initializers.glorot_uniform(),
            "rngs": rngs,
        }
        blocks = len(section.channels)
        convs, padding = (t * blocks if len(t) == 1 else t for t in (section.convs, section.padding))
        channels = 3
        for block in range(blocks):
            for i in range(convs[block]):
                name = f"conv{block + 1}" + (f"_{i + 1}" if convs[block] > 1 else "")
                normed = section.norm == "batch"
                conv = nnx.Conv(channels, section.channels[block], (3, 3), padding=padding[block].upper(),
                                use_bias=not normed, **options)  # fmt: skip
                setattr(self, name, conv)
                channels = section.channels[block]
                layers.append(Layer(name, "conv", name, relu=not normed))
                if normed:
                    setattr(self, f"norm_{name}", Norm(channels, dtype=dtype, ops=ops, rngs=rngs))
                    layers.append(Layer(f"norm_{name}", "norm", f"norm_{name}", relu=True))
                if padding[block] == "valid":
                    sides = tuple(side - 2 for side in sides)
            layers.append(Layer(f"pool{block + 1}", "pool", window=(2, section.pool_stride)))
            sides = tuple((side - 2) // section.pool_stride + 1 for side in sides)
            if min(sides) < 1:
                raise ValueError(f"nothing is left of the image after block {block + 1}")
        self.drop_features = Dropout(section.dropout_features)
        self.drop_dense = Dropout(section.dropout_dense)
        if section.dropout_features:
            layers.append(Layer("dropout", "dropout", "drop_features"))
        layers.append(Layer("flatten", "flatten"))
        width = math.prod(sides) * channels
        for i, units in enumerate(section.dense):
            setattr(self, f"dense{i + 1}", nnx.Linear(width, units, **options))
            layers.append(Layer(f"dense{i + 1}", "dense", f"dense{i + 1}", relu=True))
            if section.dropout_dense:
                layers.append(Layer(f"dropout{i + 1}", "dropout", "drop_dense"))
            width = units
        self.outputs = nnx.Linear(width, outputs, **options)
        layers.append(Layer("outputs", "dense", "outputs"))
        self.layers = tuple(layers)

    @staticmethod
    def has_norm(section: Model) -> bool:
        return section.norm == "batch"
