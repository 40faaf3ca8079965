"""Augmentation of a batch on the device, a pure function of the key: draw numbers for each image, then apply them.

Every number of every image is drawn in one call and in a fixed place, so that switching an operation on changes the draws
of no other. Geometry becomes one matrix and one sampling per image; colour and erasing follow in the order of `PIXELS`.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.augmentation import colour, geometry
from cnnjax.augmentation.colour import PIXELS
from cnnjax.augmentation.geometry import GEOMETRY
from cnnjax.augmentation.numbers import Number, Numbers, Setting
from cnnjax.kernels import PLAIN, Ops
from cnnjax.streams import AugmentationStream

Custom = Callable[[jax.Array, jax.Array], jax.Array]  # key, float32 images in [0, 255] -> the same
NUMBERS: dict[str, Number] = {**GEOMETRY, **PIXELS}

# What RandAugment and TrivialAugment choose from, and the distance from the identity at magnitude 1, to both sides where
# there are two. The ranges of torchvision's RandAugment where it has the operation; posterize, solarize and equalize are
# left out, gamma, hue, zoom and blur stand in.
POLICY: dict[str, float] = {
    "": 0.0,  # nothing
    "rotation": 30.0,
    "shear": 16.7,
    "shift_y": 0.45,
    "shift_x": 0.45,
    "zoom": 0.5,
    "brightness": 0.9,
    "contrast": 0.9,
    "saturation": 0.9,
    "hue": 0.1,
    "gamma": 1.0,
    "blur": colour.WIDEST_BLUR,
}


def active(config) -> tuple[str, ...]:
    """Names of `NUMBERS` that the `augment` section draws, in order of application."""
    policy = POLICY if config.rand_augment or config.trivial_augment else ()
    return tuple(name for name, number in NUMBERS.items() if number.is_on(config) or name in policy)


def draw(key: jax.Array, count: int, config) -> Numbers:
    """Numbers for `count` images, those of `active(config)` only; the row of an image depends on its position and the key.

    Args:
        key: random key.
        count: images.
        config: the `augment` section.
    """
    columns = sum(number.size for number in NUMBERS.values())
    uniform = jax.random.uniform(jax.random.fold_in(key, AugmentationStream.DRAWS), (count, columns + colour.PLACE))
    numbers, column = {}, 0
    names = active(config)
    for name, number in NUMBERS.items():
        u = uniform[:, column : column + number.size]
        column += number.size
        if name in names:
            value = number.value(u, config[number.key])
            numbers[name] = value[:, 0] if number.size == 1 else value
    if "erase" in numbers or "cutout" in numbers:
        numbers["place"] = uniform[:, column:]
    if config.rand_augment or config.trivial_augment:
        numbers = _policy(jax.random.fold_in(key, AugmentationStream.POLICY), count, numbers, config)
    return numbers


def _policy(key: jax.Array, count: int, numbers: Numbers, config) -> Numbers:
    """Adds the operations that RandAugment (Cubuk et al. 2020) or TrivialAugment (Müller and Hutter 2021) choose."""
    rounds = config.rand_augment or 1
    u = jax.random.uniform(key, (count, 3 * rounds))
    numbers = dict(numbers)
    for i in range(rounds):
        chosen = jnp.floor(u[:, 3 * i] * len(POLICY))
        magnitude = u[:, 3 * i + 1] if config.trivial_augment else config.rand_augment_magnitude
        sign = jnp.where(u[:, 3 * i + 2] < 0.5, -1.0, 1.0)
        for index, (name, most) in enumerate(POLICY.items()):
            if name:
                strength = jnp.where(chosen == index, most * magnitude, 0.0)
                numbers[name] = _strengthen(name, numbers[name], strength, sign)
    return numbers


def _strengthen(name: str, value: jax.Array, strength: jax.Array, sign: jax.Array | float) -> jax.Array:
    """A number moved away from its identity by a strength of at least 0."""
    if name == "blur":
        return value + strength
    if NUMBERS[name].kind == "log":
        return value * (1 + strength) ** sign
    return value * (1 + sign * strength) if NUMBERS[name].identity else value + sign * strength


def apply(images: jax.Array, numbers: Numbers, config, key: jax.Array | None = None, *, ops: Ops = PLAIN) -> jax.Array:
    """Applies drawn, or chosen, numbers; an operation without a number is left out.

    Args:
        images: uint8 or float32 [b, h, w, 3] in [0, 255].
        numbers: from `draw`, or some of its entries; of a crop all four, or its area alone.
        config: the `augment` section; its interpolation, fill and the ranges that are the same for all images.
        key: random key of the noise; needed where "noise" is among the numbers.
        ops: what samples the images.

    Returns:
        float32 [b, h, w, 3] in [0, 255].
    """
    if numbers.keys() & GEOMETRY.keys():
        matrices = geometry.compose(numbers, images.shape[1:3], config)
        images = geometry.sample(images, matrices, interpolation=config.interpolation, fill=config.fill, ops=ops)
    images = images.astype(jnp.float32)
    setting = Setting(config, key)
    for change in dict.fromkeys(number.change for name, number in PIXELS.items() if name in numbers):
        images = change(images, numbers, setting)
    return images


def augment(key: jax.Array, images: jax.Array, config, *, ops: Ops = PLAIN, custom: Custom | None = None) -> jax.Array:
    """Augments each image by the `augment` section.

    Args:
        key: random key.
        images: uint8 [b, h, w, 3].
        config: the `augment` section.
        ops: what samples the images.
        custom: the user's own operation, (key, float32 images in [0, 255]) -> the same; it comes last.

    Returns:
        float32 [b, h, w, 3] in [0, 255], or `images` themselves where all is off.
    """
    if active(config):
        noise_key = jax.random.fold_in(key, AugmentationStream.NOISE)
        images = apply(images, draw(key, images.shape[0], config), config, noise_key, ops=ops)
    if custom is not None:
        images = custom(jax.random.fold_in(key, AugmentationStream.CUSTOM), images.astype(jnp.float32))
    return images


def extremes(config) -> dict[str, list[tuple[str, Numbers]]]:
    """Each operation that is on, alone and at the ends of its range: key -> [(label, numbers for one image)]."""
    shown: dict[str, list[tuple[str, Numbers]]] = {}
    for name, number in NUMBERS.items():
        if number.is_on(config) and name not in ("crop_ratio", "crop_y", "crop_x"):
            shown.setdefault(number.key, []).extend(_ends(name, number, config[number.key]))
    if config.rand_augment or config.trivial_augment:
        key = "trivial_augment" if config.trivial_augment else "rand_augment"
        magnitude = 1.0 if config.trivial_augment else config.rand_augment_magnitude
        shown[key] = []
        for name, most in POLICY.items():
            for sign in (-1.0, 1.0) if name not in ("", "blur") else (1.0,) * bool(name):
                value = float(_strengthen(name, NUMBERS[name].identity, most * magnitude, sign))
                shown[key].append((_label(name, value), {name: jnp.array([value])}))
    return shown


def _ends(name: str, number: Number, setting: float) -> list[tuple[str, Numbers]]:
    low, high = number.low(setting), number.high(setting)
    place = {"place": jnp.full((1, colour.PLACE), 0.5)}
    if name == "crop_area":
        corners = {"most upright": (-1, 0), "most oblong": (1, 0), "first corner": (0, -1), "last corner": (0, 1)}
        return [
            (f"{low:g} of the area, {label}",
             {name: jnp.array([low]), "crop_ratio": jnp.array([ratio]), "crop_y": jnp.array([at]), "crop_x": jnp.array([at])})
            for label, (ratio, at) in corners.items()
        ]  # fmt: skip
    if number.size > 1:
        parts, tile = number.parts, number.size // len(number.parts)
        return [
            (f"{part} {value:+g}", {name: jnp.tile(value * (jnp.arange(len(parts)) == i), tile)[None]})
            for i, part in enumerate(parts)
            for value in (low, high)
        ]
    if number.kind == "chance":
        return [(number.key.replace("_", " "), {name: jnp.ones(1), **place})]
    values = (1.0, 2.0, 3.0) if name == "turns" else sorted({low, high} - {number.identity})
    return [(_label(name, value), {name: jnp.array([value]), **place}) for value in values]


def _label(name: str, value: float) -> str:
    return f"{name.replace('_', ' ')} {value:.3g}{NUMBERS[name].unit}"
