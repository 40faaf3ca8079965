"""Operations on pixel values: float32 images [b, h, w, 3] in [0, 255] and a number per image -> the same, clipped.

At the number that is named as the identity every operation returns its input.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.augmentation.numbers import Change, Number, Numbers, Setting, around, chance, up_to

# ITU-R BT.601 luma, as in Pillow and torchvision.
LUMA = (0.299, 0.587, 0.114)
# Rows: haematoxylin, eosin and DAB as optical densities of red, green and blue.
# Ruifrok and Johnston 2001, Anal Quant Cytol Histol 23:291; the values are scikit-image's.
RGB_FROM_HED = ((0.65, 0.70, 0.29), (0.07, 0.99, 0.11), (0.27, 0.57, 0.78))
WIDEST_BLUR = 1.5  # pixels; what a policy adds at magnitude 1
# Random erasing, Zhong et al. 2020, AAAI 34:13001: fractions of the area, and height / width.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), 3.3
PLACE = 6  # uniform numbers that place what is erased: area, ratio, y, x of a box; y, x of a hole's centre


def _each(values: jax.Array) -> jax.Array:
    """[b] or [b, 3] -> an array that broadcasts against images, of their rank."""
    return values.reshape(values.shape[0], 1, 1, -1)


def _clip(images: jax.Array) -> jax.Array:
    return jnp.clip(images, 0.0, 255.0)


def grey(images: jax.Array) -> jax.Array:
    """Luma: [b, h, w, 3] -> [b, h, w, 1]."""
    red, green, blue = (images[..., i : i + 1] for i in range(3))
    return LUMA[0] * red + LUMA[1] * green + LUMA[2] * blue


def mean_colour(images: jax.Array) -> jax.Array:
    """[b, h, w, 3] -> [b, 1, 1, 3]."""
    # Row sums first: in one reduction over pixels of three numbers XLA takes twenty times as long on a CPU.
    return images.mean(1, keepdims=True).mean(2, keepdims=True)


def brightness(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Multiplies; identity 1."""
    return _clip(images * _each(factors))


def contrast(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Distances from the image's mean luma are multiplied; identity 1."""
    mean = grey(mean_colour(images))
    return _clip(mean + (images - mean) * _each(factors))


def saturation(images: jax.Array, factors: jax.Array) -> jax.Array:
    """Distances from each pixel's luma are multiplied; 0 gives grey, identity 1."""
    luma = grey(images)
    return _clip(luma + (images - luma) * _each(factors))


def hue(images: jax.Array, turns: jax.Array) -> jax.Array:
    """Turns the colour circle of HSV by fractions of a turn; identity 0."""
    red, green, blue = images[..., 0], images[..., 1], images[..., 2]
    value = jnp.maximum(jnp.maximum(red, green), blue)
    chroma = value - jnp.minimum(jnp.minimum(red, green), blue)
    one = 1.0 / jnp.where(chroma > 0, chroma, 1.0)
    # Sixths of a turn from red. Not `value == red`: the compiler may compute the two anew, with different rounding.
    angle = jnp.where((red >= green) & (red >= blue), (green - blue) * one,
                      jnp.where(green >= blue, 2 + (blue - red) * one, 4 + (red - green) * one))  # fmt: skip
    angle = angle + 6 * turns[:, None, None]
    channels = []
    for offset in (5.0, 3.0, 1.0):
        k = angle + offset
        k = k - 6 * jnp.floor(k * (1 / 6))
        channels.append(value - chroma * jnp.clip(jnp.minimum(k, 4 - k), 0, 1))
    return _clip(jnp.stack(channels, -1))


def gamma(images: jax.Array, exponents: jax.Array) -> jax.Array:
    """255 * (x / 255) ** exponent: above 1 darkens; identity 1."""
    # By exp and log: XLA's power calls the C library for every number on a CPU.
    return _clip(255 * jnp.exp(_each(exponents) * jnp.log(jnp.maximum(images, 1e-30) / 255)))


def channel_shift(images: jax.Array, levels: jax.Array) -> jax.Array:
    """Adds levels [b, 3], one for each channel; identity 0."""
    return _clip(images + _each(levels))


def stain(images: jax.Array, jitter: jax.Array) -> jax.Array:
    """Stains of a histological section, each scaled and shifted as a density; identity 0.

    Tellez et al. 2018, IEEE TMI 37:2126, on optical densities -ln(x / 255).

    Args:
        images: as in the module.
        jitter: [b, 6]; density of stain i -> (1 + jitter[i]) * density + jitter[3 + i].
    """
    rgb_from_hed = jnp.asarray(RGB_FROM_HED, jnp.float32)
    hed_from_rgb = jnp.linalg.inv(rgb_from_hed)
    # density' = density @ hed_from_rgb * (1 + alpha) @ rgb_from_hed + beta @ rgb_from_hed: one 3x3 matrix per image.
    alpha, beta = jitter[:, :3], jitter[:, 3:]
    mixed = jnp.einsum("ij,bj,jk->bik", hed_from_rgb, 1 + alpha, rgb_from_hed, precision="highest")
    offset = jnp.einsum("bj,jk->bk", beta, rgb_from_hed, precision="highest")
    density = -jnp.log(jnp.maximum(images, 255e-6) / 255)
    channels = [
        sum(density[..., i] * mixed[:, i, j, None, None] for i in range(3)) + offset[:, j, None, None] for j in range(3)
    ]
    return _clip(255 * jnp.exp(-jnp.stack(channels, -1)))


def blur(images: jax.Array, sigmas: jax.Array, radius: int) -> jax.Array:
    """Gaussian of standard deviation `sigmas` [b] pixels, cut at `radius`; edge pixels repeat; identity 0."""
    offsets = jnp.arange(-radius, radius + 1, dtype=jnp.float32)
    weights = jnp.exp(-0.5 * jnp.square(offsets[None] / jnp.maximum(sigmas, 1e-3)[:, None]))
    weights = weights / weights.sum(1, keepdims=True)
    for axis in (1, 2):
        size = images.shape[axis]
        widths = [(0, 0)] * 4
        widths[axis] = (radius, radius)
        padded = jnp.pad(images, widths, mode="symmetric")
        images = sum(
            jax.lax.slice_in_dim(padded, i, i + size, axis=axis) * weights[:, i, None, None, None]
            for i in range(2 * radius + 1)
        )
    return images


def noise(images: jax.Array, sigmas: jax.Array, key: jax.Array) -> jax.Array:
    """Adds normal noise of standard deviation `sigmas` [b] levels, its own for each channel; identity 0."""
    # Two numbers of 16 bits from each random word: the generator is most of the cost on a CPU.
    words = jax.random.bits(key, (images.shape[0], -(-images[0].size // 2)), jnp.uint32)
    halves = jnp.concatenate([words & 0xFFFF, words >> 16], 1)[:, : images[0].size].reshape(images.shape)
    uniform = (halves.astype(jnp.float32) + 0.5) / 65536
    return _clip(images + _each(sigmas) * jax.scipy.special.ndtri(uniform))


def erase(images: jax.Array, boxes: jax.Array) -> jax.Array:
    """Fills a box of each image with the image's mean colour: boxes int32 [b, 4], top, left, bottom, right."""
    inside = in_boxes(boxes, images.shape[1], images.shape[2])
    return jnp.where(inside, mean_colour(images), images)


def in_boxes(boxes: jax.Array, height: int, width: int) -> jax.Array:
    """int32 [b, 4] -> bool [b, height, width, 1]; bottom and right are the first pixel outside."""
    top, left, bottom, right = (boxes[:, i, None, None, None] for i in range(4))
    y, x = jnp.arange(height)[None, :, None, None], jnp.arange(width)[None, None, :, None]
    return (y >= top) & (y < bottom) & (x >= left) & (x < right)


def _boxes(name: str, numbers: Numbers, height: int, width: int) -> jax.Array:
    """int32 [b, 4]: what `erase` (whole inside the image) or `cutout` (its centre inside) covers."""
    u = numbers["place"]
    if name == "cutout":  # DeVries and Taylor 2017, arXiv:1708.04552
        tall, wide = jnp.round(numbers["cutout"] * height), jnp.round(numbers["cutout"] * width)
        top, left = jnp.floor(u[:, 4] * height) - tall // 2, jnp.floor(u[:, 5] * width) - wide // 2
    else:
        area = ERASED_AREA[0] + u[:, 0] * (ERASED_AREA[1] - ERASED_AREA[0])
        most = jnp.minimum(math.log(ERASED_RATIO), -jnp.log(area))
        ratio = jnp.exp((2 * u[:, 1] - 1) * most)
        tall = jnp.round(jnp.sqrt(area * ratio) * height) * numbers["erase"]
        wide = jnp.round(jnp.sqrt(area / ratio) * width) * numbers["erase"]
        top, left = jnp.floor(u[:, 2] * (height - tall + 1)), jnp.floor(u[:, 3] * (width - wide + 1))
    return jnp.stack([top, left, top + tall, left + wide], -1).astype(jnp.int32)


def _alone(function: Callable[[jax.Array, jax.Array], jax.Array], name: str) -> Change:
    """A function of images and the number of that name."""
    return lambda images, numbers, setting: function(images, numbers[name])


def _saturation(images: jax.Array, numbers: Numbers, setting: Setting) -> jax.Array:
    factors = numbers.get("saturation", 1.0)
    return saturation(images, factors * (1 - numbers["grey"]) if "grey" in numbers else factors)


def _blur(images: jax.Array, numbers: Numbers, setting: Setting) -> jax.Array:
    config = setting.config
    most = config.blur + WIDEST_BLUR * (config.rand_augment * config.rand_augment_magnitude or config.trivial_augment)
    return blur(images, numbers["blur"], max(1, math.ceil(3 * most)))


def _noise(images: jax.Array, numbers: Numbers, setting: Setting) -> jax.Array:
    return noise(images, numbers["noise"], setting.key)


def _erasing(name: str) -> Change:
    return lambda images, numbers, setting: erase(images, _boxes(name, numbers, *images.shape[1:3]))


# In the order of their draws, and of their changes.
PIXELS: dict[str, Number] = {
    "brightness": around("brightness", 1.0, change=_alone(brightness, "brightness")),
    "contrast": around("contrast", 1.0, change=_alone(contrast, "contrast")),
    "saturation": around("saturation", 1.0, change=_saturation),
    "grey": chance("grey", change=_saturation),
    "hue": around("hue", 0.0, unit=" turns", change=_alone(hue, "hue")),
    "gamma": Number("gamma", 1.0, lambda v: 1 / (1 + v), lambda v: 1 + v, "log", change=_alone(gamma, "gamma")),
    "stain": around("stain", 0.0, size=6, parts=("haematoxylin", "eosin", "DAB"), change=_alone(stain, "stain")),
    "channel_shift": around(
        "channel_shift", 0.0, size=3, parts=("red", "green", "blue"), change=_alone(channel_shift, "channel_shift")
    ),
    "blur": up_to("blur", unit=" px", change=_blur),
    "noise": up_to("noise", unit=" levels", change=_noise),
    "erase": chance("erase", change=_erasing("erase")),
    "cutout": Number("cutout", 0.0, float, float, unit=" of the side", change=_erasing("cutout")),
}
