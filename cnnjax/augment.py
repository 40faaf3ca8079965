"""Augmentation of a batch on the device: `(key, images) -> images`, a pure function of the key.

All geometry of an image is one matrix, and the image is sampled once.
"""

import jax
import jax.numpy as jnp


def draw_matrices(key: jax.Array, count: int, config) -> jax.Array:
    """Random maps from output to input positions, about the centre of the image.

    Args:
        key: random key.
        count: images.
        config: the `augment` section.

    Returns:
        float32 [count, 2, 3], for (y, x, 1) in units of the side, centre at 0. Flip, then zoom, then rotation, then
        shift. Ranges are those of Keras' RandomFlip, RandomRotation, RandomZoom and RandomTranslation.
    """
    keys = jax.random.split(key, 5)
    angle = jax.random.uniform(keys[0], (count,), minval=-1.0, maxval=1.0) * jnp.deg2rad(config.rotation)
    scale = 1.0 + config.zoom * jax.random.uniform(keys[1], (count,), minval=-1.0, maxval=1.0)
    shift = config.shift * jax.random.uniform(keys[2], (count, 2), minval=-1.0, maxval=1.0)
    mirror_y = jnp.where(jax.random.bernoulli(keys[3], 0.5 * config.flip_vertical, (count,)), -1.0, 1.0)
    mirror_x = jnp.where(jax.random.bernoulli(keys[4], 0.5 * config.flip_horizontal, (count,)), -1.0, 1.0)
    cos, sin = scale * jnp.cos(angle), scale * jnp.sin(angle)
    top = jnp.stack([cos * mirror_y, -sin * mirror_x, shift[:, 0]], -1)
    bottom = jnp.stack([sin * mirror_y, cos * mirror_x, shift[:, 1]], -1)
    return jnp.stack([top, bottom], -2)


def _inside(index: jax.Array, size: int, fill: str) -> jax.Array:
    """Integer positions on an endless line -> positions in [0, size)."""
    if fill == "reflect":
        index = jnp.mod(index, 2 * size)
        return jnp.where(index >= size, 2 * size - 1 - index, index)
    return jnp.mod(index, size) if fill == "wrap" else jnp.clip(index, 0, size - 1)


def sample(images: jax.Array, matrices: jax.Array, *, interpolation: str, fill: str) -> jax.Array:
    """Each image at the positions that its matrix gives.

    Args:
        images: uint8 or float32 [b, h, w, c].
        matrices: float32 [b, 2, 3] as from `draw_matrices`.
        interpolation: bilinear or nearest.
        fill: outside the image: reflect (edge pixel repeated), nearest, constant (0) or wrap.

    Returns:
        float32 [b, h, w, c] in the range of the input.
    """
    count, height, width, channels = images.shape
    # float32 throughout: bfloat16 positions would be off by whole pixels.
    y = (jnp.arange(height, dtype=jnp.float32) + 0.5) / height - 0.5
    x = (jnp.arange(width, dtype=jnp.float32) + 0.5) / width - 0.5
    m = matrices[:, :, :, None, None]
    position = m[:, :, 0] * y[None, None, :, None] + m[:, :, 1] * x[None, None, None, :] + m[:, :, 2]
    y = (position[:, 0] + 0.5) * height - 0.5
    x = (position[:, 1] + 0.5) * width - 0.5
    flat = images.reshape(count, height * width, channels)

    def at(row, column):
        index = _inside(row, height, fill) * width + _inside(column, width, fill)
        values = jax.vmap(lambda image, i: image[i])(flat, index.reshape(count, -1)).astype(jnp.float32)
        values = values.reshape(count, height, width, channels)
        if fill == "constant":
            inside = (row >= 0) & (row < height) & (column >= 0) & (column < width)
            values = jnp.where(inside[..., None], values, 0.0)
        return values

    if interpolation == "nearest":
        return at(jnp.round(y).astype(jnp.int32), jnp.round(x).astype(jnp.int32))
    top, left = jnp.floor(y), jnp.floor(x)
    down, right = (y - top)[..., None], (x - left)[..., None]
    top, left = top.astype(jnp.int32), left.astype(jnp.int32)
    upper = at(top, left) * (1 - right) + at(top, left + 1) * right
    lower = at(top + 1, left) * (1 - right) + at(top + 1, left + 1) * right
    return upper * (1 - down) + lower * down


def augment(key: jax.Array, images: jax.Array, config) -> jax.Array:
    """Augments uint8 [b, h, w, 3] by the `augment` section: float32 in [0, 255], or the input where all is off."""
    if not any((config.flip_horizontal, config.flip_vertical, config.rotation, config.zoom, config.shift)):
        return images
    matrices = draw_matrices(key, images.shape[0], config)
    return sample(images, matrices, interpolation=config.interpolation, fill=config.fill)
