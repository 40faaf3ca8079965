"""Changes of images that happen in practice, each at fixed strengths, to see what they cost.

After Hendrycks and Dietterich 2019, arXiv:1903.12261, whose fog, frost, snow and glass are left out. All are of the network's input.
"""

import dataclasses
import functools
import io
from collections.abc import Callable, Iterator

import jax
import jax.numpy as jnp
import numpy as np
from PIL import Image

from cnnjax import augmentation, config
from cnnjax.inference.engine import Engine

AT_ONCE = 2**25  # bytes of images that are changed at once

Images = np.ndarray  # uint8 [n, height, width, 3]


def _augmented(name: str) -> Callable[[Images, float, int], Images]:
    """Returns the operation of augmentation of a name: images, its number and a seed -> images."""
    return functools.partial(_apply, name)


@functools.partial(jax.jit, static_argnums=0)
def _changed(name: str, images: jax.Array, strength: jax.Array, key: jax.Array) -> jax.Array:
    numbers = {name: jnp.broadcast_to(strength, images.shape[:1])}
    changed = augmentation.apply(images, numbers, config.default().augment, key)
    return jnp.clip(jnp.round(changed), 0, 255).astype(jnp.uint8)


def _apply(name: str, images: Images, strength: float, seed: int) -> Images:
    return np.asarray(_changed(name, images, np.float32(strength), jax.random.key(seed)))


@jax.jit
def _coarse(images: jax.Array) -> jax.Array:
    """Half of the pixels on each side, and enlarged again."""
    count, height, width, channels = images.shape
    small = jax.image.resize(images.astype(jnp.float32), (count, -(-height // 2), -(-width // 2), channels), "linear")
    large = jax.image.resize(jnp.round(small), images.shape, "linear")
    return jnp.clip(jnp.round(large), 0, 255).astype(jnp.uint8)


def _jpeg(images: Images, quality: float, seed: int) -> Images:
    def again(image: np.ndarray) -> np.ndarray:
        file = io.BytesIO()
        Image.fromarray(image).save(file, "jpeg", quality=int(quality))
        return np.asarray(Image.open(file))

    return np.stack([again(image) for image in images])


@dataclasses.dataclass(frozen=True)
class Corruption:
    """A change and its strengths.

    Attributes:
        change: (uint8 [n, h, w, 3], strength, seed) -> the same.
        text: of a strength, for `str.format`.
        strengths: that are tried.
    """

    change: Callable[[Images, float, int], Images]
    text: str
    strengths: tuple[float, ...]


# Name -> change. A row more is a line here.
CORRUPTIONS: dict[str, Corruption] = {
    "blur": Corruption(_augmented("blur"), "blur of {:g} px", (0.5, 1.0)),
    "noise": Corruption(_augmented("noise"), "noise of {:g} levels", (5.0, 10.0)),
    "brightness": Corruption(_augmented("brightness"), "brightness times {:g}", (0.7, 1.3)),
    "contrast": Corruption(_augmented("contrast"), "contrast times {:g}", (0.7, 1.3)),
    "hue": Corruption(lambda images, degrees, seed: _apply("hue", images, degrees / 360, seed), "hue turned by {:+g} degrees", (-15.0, 15.0)),
    "resolution": Corruption(lambda images, strength, seed: np.asarray(_coarse(images)), "half of the resolution", (0.5,)),
    "jpeg": Corruption(_jpeg, "JPEG of quality {:g}", (50.0, 20.0)),
}  # fmt: skip
CHANGES = sum(len(corruption.strengths) for corruption in CORRUPTIONS.values())


def corrupted(images: Images, rows: np.ndarray, engine: Engine, batch_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Yields each change in words, and the logits of the changed images, float32 [rows, outputs].

    Args:
        images: uint8 [all, h, w, 3].
        rows: int64, those that are changed.
        engine: network and weights; on several processes each of them changes the same images alike.
        batch_size: that of training.
    """
    step = max(AT_ONCE // images[0].size, 1)
    for corruption in CORRUPTIONS.values():
        for strength in corruption.strengths:
            parts = []
            for at in range(0, len(rows), step):
                changed = corruption.change(np.asarray(images[rows[at : at + step]]), strength, at)
                parts.append(engine.logits_of_rows(changed, np.arange(len(changed)), batch_size))
            yield corruption.text.format(strength), np.concatenate(parts)
