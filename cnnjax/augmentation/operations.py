"""Augmentation of a batch on the device, a pure function of the key: draw numbers for each image, then apply them.

Every number of every image is drawn in one call and in a fixed place, so that switching an operation on changes the draws
of no other. Geometry becomes one matrix and one sampling per image; colour follows in the order of `NUMBERS`, then
erasing.
"""

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp

from cnnjax.augmentation import colour, geometry
from cnnjax.kernels import PLAIN, Ops
from cnnjax.streams import AugmentationStream

Custom = Callable[[jax.Array, jax.Array], jax.Array]  # key, float32 images in [0, 255] -> the same
Numbers = dict[str, jax.Array]  # name in NUMBERS -> float32 [b], or [b, size]


@dataclasses.dataclass(frozen=True)
class Number:
    """Numbers drawn for each image.

    Attributes:
        key: of the `augment` section, which switches it on and gives its range.
        identity: the value that changes nothing.
        low, high: of the range, from the value of `key`.
        kind: uniform; log: uniform in the logarithm; whole: whole numbers; chance: 1 with probability `high`, else 0.
        size: how many per image.
        unit: as it is written behind a value.
    """

    key: str
    identity: float
    low: Callable[[float], float]
    high: Callable[[float], float]
    kind: str = "uniform"
    size: int = 1
    unit: str = ""


def _around(key: str, centre: float, **options) -> Number:
    return Number(key, centre, lambda v: centre - v, lambda v: centre + v, **options)


def _chance(key: str, probability: Callable[[float], float] = float) -> Number:
    return Number(key, 0.0, lambda v: 0.0, probability, "chance")


NUMBERS: dict[str, Number] = {
    "mirror_y": _chance("flip_vertical", lambda v: 0.5),
    "mirror_x": _chance("flip_horizontal", lambda v: 0.5),
    "turns": Number("turns", 0.0, lambda v: 0.0, lambda v: 3.0, "whole", unit=" × 90°"),
    "zoom": _around("zoom", 1.0, unit=" of the side seen"),
    "stretch_y": _around("stretch", 1.0, unit=" of the height"),
    "stretch_x": _around("stretch", 1.0, unit=" of the width"),
    "shear": _around("shear", 0.0, unit="°"),
    "rotation": _around("rotation", 0.0, unit="°"),
    "shift_y": _around("shift", 0.0, unit=" of the height"),
    "shift_x": _around("shift", 0.0, unit=" of the width"),
    "crop_area": Number("crop_area", 1.0, lambda v: v, lambda v: 1.0),
    # -1 to 1: of the most oblong window that fits, and of the room that the window has; see `_crop`.
    "crop_ratio": Number("crop_area", 0.0, lambda v: -1.0, lambda v: 1.0),
    "crop_y": Number("crop_area", 0.0, lambda v: -1.0, lambda v: 1.0),
    "crop_x": Number("crop_area", 0.0, lambda v: -1.0, lambda v: 1.0),
    "pad_y": _around("pad_crop", 0.0, kind="whole", unit=" px"),
    "pad_x": _around("pad_crop", 0.0, kind="whole", unit=" px"),
    "brightness": _around("brightness", 1.0),
    "contrast": _around("contrast", 1.0),
    "saturation": _around("saturation", 1.0),
    "grey": _chance("grey"),
    "hue": _around("hue", 0.0, unit=" turns"),
    "gamma": Number("gamma", 1.0, lambda v: 1 / (1 + v), lambda v: 1 + v, "log"),
    "stain": _around("stain", 0.0, size=6),  # see colour.stain
    "channel_shift": _around("channel_shift", 0.0, size=3),
    "blur": Number("blur", 0.0, lambda v: 0.0, float, unit=" px"),
    "noise": Number("noise", 0.0, lambda v: 0.0, float, unit=" levels"),
    "erase": _chance("erase"),
    "cutout": Number("cutout", 0.0, float, float, unit=" of the side"),
}

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
    "blur": 1.5,
}
GEOMETRY = tuple(NUMBERS)[: tuple(NUMBERS).index("brightness")]
# Random erasing, Zhong et al. 2020, AAAI 34:13001: fractions of the area, and height / width.
ERASED_AREA, ERASED_RATIO = (0.02, 0.33), 3.3


def active(config) -> tuple[str, ...]:
    """Names of `NUMBERS` that the `augment` section draws, in order of application."""
    policy = POLICY if config.rand_augment or config.trivial_augment else ()
    return tuple(name for name, number in NUMBERS.items() if _is_on(number, config) or name in policy)


def _is_on(number: Number, config) -> bool:
    return config[number.key] != (1 if number.key == "crop_area" else 0)


def draw(key: jax.Array, count: int, config) -> Numbers:
    """Numbers for `count` images, those of `active(config)` only; the row of an image depends on its position and the key.

    Args:
        key: random key.
        count: images.
        config: the `augment` section.
    """
    columns = sum(number.size for number in NUMBERS.values())
    uniform = jax.random.uniform(jax.random.fold_in(key, AugmentationStream.DRAWS), (count, columns + _ERASE_COLUMNS))
    numbers, column = {}, 0
    names = active(config)
    for name, number in NUMBERS.items():
        u = uniform[:, column : column + number.size]
        column += number.size
        if name in names:
            value = _value(number, u, config[number.key])
            numbers[name] = value[:, 0] if number.size == 1 else value
    if "erase" in numbers or "cutout" in numbers:
        numbers["place"] = uniform[:, column:]
    if config.rand_augment or config.trivial_augment:
        numbers = _policy(jax.random.fold_in(key, AugmentationStream.POLICY), count, numbers, config)
    return numbers


_ERASE_COLUMNS = 6  # area, ratio, y, x of the box to erase; y, x of the hole's centre


def _value(number: Number, u: jax.Array, setting: float) -> jax.Array:
    """Uniform numbers in [0, 1) -> the number's distribution."""
    low, high = number.low(setting), number.high(setting)
    if number.kind == "chance":
        return (u < high).astype(jnp.float32)
    if number.kind == "whole":
        return jnp.floor(low + u * (high - low + 1))
    if number.kind == "log":
        return jnp.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    return low + u * (high - low)


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
    if numbers.keys() & set(GEOMETRY):
        matrices = compose(numbers, images.shape[1:3], config)
        images = geometry.sample(images, matrices, interpolation=config.interpolation, fill=config.fill, ops=ops)
    images = images.astype(jnp.float32)
    for name in ("brightness", "contrast"):
        if name in numbers:
            images = getattr(colour, name)(images, numbers[name])
    if "saturation" in numbers or "grey" in numbers:
        factors = numbers.get("saturation", 1.0)
        images = colour.saturation(images, factors * (1 - numbers["grey"]) if "grey" in numbers else factors)
    for name in ("hue", "gamma", "stain", "channel_shift"):
        if name in numbers:
            images = getattr(colour, name)(images, numbers[name])
    if "blur" in numbers:
        most = config.blur + POLICY["blur"] * (config.rand_augment * config.rand_augment_magnitude or config.trivial_augment)
        images = colour.blur(images, numbers["blur"], max(1, math.ceil(3 * most)))
    if "noise" in numbers:
        images = colour.noise(images, numbers["noise"], key)
    for name in ("erase", "cutout"):
        if name in numbers:
            images = colour.erase(images, _boxes(name, numbers, *images.shape[1:3]))
    return images


def compose(numbers: Numbers, shape: tuple[int, int], config) -> jax.Array:
    """All geometry of each image as one matrix: float32 [b, 2, 3], for `geometry.sample`.

    A position of the output is mirrored, turned, scaled, sheared, rotated and moved, and lands in the window that was
    cropped. Ranges are those of Keras' RandomFlip, RandomZoom, RandomShear, RandomRotation and RandomTranslation and of
    torchvision's RandomResizedCrop.
    """
    get = numbers.get
    height, width = shape
    steps = []
    if "mirror_y" in numbers or "mirror_x" in numbers:
        steps.append(geometry.mirror(1 - 2 * get("mirror_y", 0.0), 1 - 2 * get("mirror_x", 0.0)))
    if "turns" in numbers:
        steps.append(geometry.turn(numbers["turns"]))
    if "zoom" in numbers or "stretch_y" in numbers or "stretch_x" in numbers:
        zoom = get("zoom", 1.0)
        steps.append(geometry.scale(zoom * get("stretch_y", 1.0), zoom * get("stretch_x", 1.0)))
    if "shear" in numbers:
        steps.append(geometry.shear(numbers["shear"]))
    if "rotation" in numbers:
        steps.append(geometry.rotate(numbers["rotation"]))
    if "shift_y" in numbers or "shift_x" in numbers:
        steps.append(geometry.move(get("shift_y", 0.0), get("shift_x", 0.0)))
    if "crop_area" in numbers:
        steps.append(_crop(numbers, config))
    if "pad_y" in numbers or "pad_x" in numbers:
        steps.append(geometry.move(get("pad_y", 0.0) / height, get("pad_x", 0.0) / width))
    total = steps[0]
    for step in steps[1:]:
        total = geometry.then(total, step)
    return total


def _crop(numbers: Numbers, config) -> jax.Array:
    """A window of a part of the area, oblong up to `crop_ratio` as far as it fits in the image, anywhere in it."""
    area = numbers["crop_area"]
    oblong = jnp.minimum(math.log(config.crop_ratio), -jnp.log(area)) * numbers.get("crop_ratio", 0.0)
    height, width = jnp.sqrt(area * jnp.exp(-oblong)), jnp.sqrt(area * jnp.exp(oblong))
    y = numbers.get("crop_y", 0.0) * (1 - height) / 2
    x = numbers.get("crop_x", 0.0) * (1 - width) / 2
    return geometry.matrix([[height, 0, y], [0, width, x]])


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
        if _is_on(number, config) and name not in ("crop_ratio", "crop_y", "crop_x"):
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
    place = {"place": jnp.full((1, _ERASE_COLUMNS), 0.5)}
    if name == "crop_area":
        corners = {"most upright": (-1, 0), "most oblong": (1, 0), "first corner": (0, -1), "last corner": (0, 1)}
        return [
            (f"{low:g} of the area, {label}",
             {name: jnp.array([low]), "crop_ratio": jnp.array([ratio]), "crop_y": jnp.array([at]), "crop_x": jnp.array([at])})
            for label, (ratio, at) in corners.items()
        ]  # fmt: skip
    if number.size > 1:
        parts = ("red", "green", "blue") if name == "channel_shift" else ("haematoxylin", "eosin", "DAB")
        tile = number.size // len(parts)
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
