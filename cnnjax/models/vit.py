"""Vision transformers (Dosovitskiy et al. 2020, arXiv:2010.11929), parameter by parameter those of timm."""

import math
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from cnnjax.config import Model, Preprocessing
from cnnjax.errors import ConfigError
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models.layers import Dropout, Layer, Layered
from cnnjax.models.norms import LayerNorm
from cnnjax.models.patches import DRAWN, OPTIONS, Dense, Patches, mlp
from cnnjax.models.references import Expected, References, Rules

NAMES: Rules = (
    (r"^patches$", "patch_embed.proj"),
    (r"^embed$", ""),
    (r"^outputs$", "head"),
    (r"^(block\d+)\.(qkv|proj)$", r"\1.attn.\2"),
    (r"^(block\d+)\.(fc\d)$", r"\1.mlp.\2"),
    (r"^block(\d+)", lambda found: f"blocks.{int(found[1]) - 1}"),
)


class Embed(nnx.Module):
    """Tokens of an image: a class token, then the patches row by row, each plus the embedding of its position.

    [b, rows, columns, width] -> [b, 1 + rows * columns, width].
    """

    def __init__(self, grid: tuple[int, int], width: int, dtype, rngs: nnx.Rngs):
        self.cls_token = nnx.Param(DRAWN(rngs.params(), (1, 1, width)))
        self.pos_embed = nnx.Param(DRAWN(rngs.params(), (1, 1 + math.prod(grid), width)))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        first = jnp.broadcast_to(self.cls_token[...].astype(self.dtype), (x.shape[0], 1, x.shape[-1]))
        tokens = jnp.concatenate([first, x.reshape(x.shape[0], -1, x.shape[-1])], 1)
        return tokens + self.pos_embed[...].astype(self.dtype)


class LayerScale(nnx.Module):
    """A trained factor of each channel (Touvron et al. 2021, arXiv:2103.17239): [..., width] -> the same shape."""

    def __init__(self, width: int, first: float, dtype):
        self.gamma = nnx.Param(jnp.full(width, first, jnp.float32))
        self.dtype = dtype

    def __call__(self, x: jax.Array) -> jax.Array:
        return x * self.gamma[...].astype(self.dtype).reshape((1,) * (x.ndim - 1) + (-1,))


class Block(nnx.Module):
    """Attention between all tokens, then two dense layers for each token; a norm before both, and their input added to both.

    [b, tokens, width] -> the same shape. Norms and the softmax are computed in float32, GELU is exact.

    Args:
        width: of a token.
        heads: of attention; they divide the width.
        scale: initial factor of what is added; 0: it is added as it is, without a `LayerScale`.
        dtype: of the computation.
        ops: what computes the dense layers.
        rngs: initial weights.
    """

    def __init__(self, width: int, heads: int, scale: float, dtype, ops: Ops, rngs: nnx.Rngs):
        options = {"dtype": dtype, "ops": ops, "rngs": rngs}
        self.norm1, self.norm2 = (LayerNorm(width, dtype=dtype, rngs=rngs) for _ in range(2))
        self.qkv = Dense(width, 3 * width, **options)
        self.proj = Dense(width, width, **options)
        self.fc1 = Dense(width, 4 * width, **options)
        self.fc2 = Dense(4 * width, width, **options)
        self.heads, self.scaled = heads, bool(scale)
        if scale:
            self.ls1, self.ls2 = (LayerScale(width, scale, dtype) for _ in range(2))

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.after_norm(x, self.norm1(x))

    def after_norm(self, x: jax.Array, normed: jax.Array) -> jax.Array:
        """Computes the output of an input and of the same input after the first norm."""
        y = self._attended(normed)
        x = x + (self.ls1(y) if self.scaled else y)
        y = mlp(self.fc1, self.fc2, self.norm2(x))
        return x + (self.ls2(y) if self.scaled else y)

    def _attended(self, x: jax.Array) -> jax.Array:
        b, tokens, width = x.shape
        parts = self.qkv(x).reshape(b, tokens, 3, self.heads, width // self.heads)
        y = jax.nn.dot_product_attention(parts[:, :, 0], parts[:, :, 1], parts[:, :, 2])
        return self.proj(y.reshape(b, tokens, width))

    def operations(self, shape: tuple[int, int]) -> int:
        """Multiplications and additions of dense layers and attention, for one image of tokens and width."""
        tokens, width = shape
        kernels = (self.qkv, self.proj, self.fc1, self.fc2)
        return 2 * tokens * sum(math.prod(layer.kernel.shape) for layer in kernels) + 4 * tokens**2 * width


class ViT(Layered):
    """A vision transformer: patches as tokens, a class token, blocks, a norm, one dense layer on the class token.

    Any image whose sides are multiples of the patch will do. Weights begin as in timm and Touvron et al. 2020
    (arXiv:2012.12877): kernels and embeddings normal of deviation 0.02, biases zero.

    Args:
        outputs: logits per image.
        section: the `model` section; `dropout_dense` acts before the last layer.
        preprocessing: of the images.
        patch: pixels, height and width.
        width: numbers of a token.
        heads: of attention.
        depth: blocks.
        scale: initial factor of what a block adds; 0: none.
        dtype: of the computation; parameters are float32.
        ops: what computes the dense layers.
        rngs: initial weights.

    Raises:
        ConfigError: a side is not a multiple of the patch.
    """

    reads = ("dropout_dense",)
    references: ClassVar[References] = {"timm": NAMES}
    expects: ClassVar[Expected] = Expected(mean=(0.5, 0.5, 0.5), deviation=(0.5, 0.5, 0.5), resize="bicubic")

    def __init__(self, outputs: int, section: Model, *, width: int, heads: int, patch: int = 16, depth: int = 12,
                 scale: float = 0.0, preprocessing: Preprocessing, dtype=jnp.float32, ops: Ops = PLAIN, rngs: nnx.Rngs):  # fmt: skip
        _check(section.name, preprocessing.shape, patch)
        super().__init__(preprocessing, dtype, ops)
        self.grid = tuple(side // patch for side in preprocessing.shape)
        self.patches = Patches(3, width, patch, dtype, ops, rngs)
        self.embed = Embed(self.grid, width, dtype, rngs)
        layers = [*self.layers, Layer("patches", "conv", "patches"), Layer("embed", "embed", "embed")]
        for i in range(depth):
            setattr(self, name := f"block{i + 1}", Block(width, heads, scale, dtype, ops, rngs))
            layers.append(Layer(name, "block", name))
        self.norm = LayerNorm(width, dtype=dtype, rngs=rngs)
        layers += [Layer("norm", "norm", "norm"), Layer("token", "token")]
        self.drop_dense = Dropout(section.dropout_dense)
        if section.dropout_dense:
            layers.append(Layer("dropout", "dropout", "drop_dense"))
        self.outputs = nnx.Linear(width, outputs, dtype=dtype, rngs=rngs, **OPTIONS)
        self.layers = (*layers, Layer("outputs", "dense", "outputs"))

    def apply(self, layer: Layer, x: jax.Array, rngs: nnx.Rngs | None = None) -> jax.Array:
        """Applies one layer; of the kind "token" the first token is the result."""
        if layer.kind == "token":
            return x[:, 0]
        return self.norm(x) if layer.kind == "norm" else super().apply(layer, x, rngs)

    @property
    def seen(self) -> int:
        """Number of layers up to the last block, behind which only the class token counts."""
        return max(i for i, layer in enumerate(self.layers, 1) if layer.kind == "block")

    def features(self, images: jax.Array) -> jax.Array:
        """Computes what the last block's attention looks at: images as in `__call__` -> [b, rows, columns, 2 * width].

        The first half of the channels are the patches after the block's first norm. Before that norm the product of a patch and
        its gradient is zero, for its length has no effect. The second half is the class token, the same at all places.
        """
        x = self._up_to(self.seen - 1, images)
        block = getattr(self, self.layers[self.seen - 1].module)
        patches = block.norm1(x[:, 1:]).reshape(x.shape[0], *self.grid, x.shape[2])
        return jnp.concatenate([patches, jnp.broadcast_to(x[:, :1, None], patches.shape)], -1)

    def head(self, features: jax.Array) -> jax.Array:
        """Computes the logits of `features`: float32 [b, outputs]. The class token counts as a constant for gradients."""
        block = getattr(self, self.layers[self.seen - 1].module)
        flat = features.reshape(features.shape[0], -1, features.shape[-1])
        patches, token = jnp.split(flat, 2, -1)
        token = jax.lax.stop_gradient(token[:, :1])
        x = block.after_norm(jnp.concatenate([token, patches], 1), jnp.concatenate([block.norm1(token), patches], 1))
        return self._through(x, list(self.layers[self.seen :])).astype(jnp.float32)

    def refitted(self, path: tuple[str, ...], array: np.ndarray, shape: tuple[int, ...]) -> np.ndarray | None:
        """Returns position embeddings of a square image for this network's grid of patches, by bicubic interpolation.

        Numbers are those of timm's `resample_abs_pos_embed`: cubic with a = -0.5, smoothed where the grid is smaller. The
        class token keeps its own.

        Args:
            path: of the array in the network.
            array: float [1, 1 + side ** 2, width].
            shape: that it has here, [1, 1 + rows * columns, width].

        Returns:
            The array of that shape; None where it is not a position embedding of a square of patches and of this width.
        """
        side = math.isqrt(max(array.shape[1] - 1, 0)) if array.ndim == 3 else 0
        if path[-1] != "pos_embed" or array.shape != (1, 1 + side**2, shape[-1]):
            return None
        patches = array[:, 1:].astype(np.float32).reshape(1, side, side, -1)
        patches = jax.image.resize(patches, (1, *self.grid, shape[-1]), "cubic")
        return np.concatenate([array[:, :1], np.asarray(patches).reshape(1, -1, shape[-1])], 1)


class DINOv2(ViT):
    """A vision transformer as DINOv2 has it (Oquab et al. 2023, arXiv:2304.07193): patches of 14 pixels, `LayerScale`.

    Published weights have no last layer. Their position embeddings are for 518 pixels, an image of which takes 93 GFLOP; most of
    their training was at 224, at which the paper judges them by a linear layer and an image takes 12.
    """

    references: ClassVar[References] = {"timm": NAMES, "facebookresearch": NAMES}
    expects: ClassVar[Expected] = Expected(size=518, resize="bicubic")


def _check(name: str, shape: tuple[int, int], patch: int) -> None:
    for key, side in zip(("size", "width"), shape, strict=True):
        if side % patch:
            near = [size for size in (side // patch * patch, -(-side // patch) * patch) if size]
            raise ConfigError(f"image.{key}={side}: {name} divides images into patches of {patch} pixels; use "
                              f"{' or '.join(f'--config.image.{key}={size}' for size in near)}")  # fmt: skip
