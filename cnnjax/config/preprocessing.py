"""The steps from an image file to the first trained layer, as one value that a run keeps with its weights."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from cnnjax.errors import ConfigError
from cnnjax.typed import typed

if TYPE_CHECKING:
    from cnnjax.config.sections import Image


@dataclasses.dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How a file becomes the network's input: the same in training, evaluation and prediction.

    Attributes:
        size: pixels, height and width.
        width: pixels, where it differs from the height; 0: it does not.
        resize: bilinear, bicubic, nearest or pad; see `image.resize`.
        range: of grey files with more than 8 bits, the level that becomes black and the one that becomes white; (): the high byte
            is taken.
        colour: order of the channels, "RGB".
        scale: factor of the 8-bit levels; 1 / 255 maps them to [0, 1].
        mean: subtracted from each scaled channel.
        deviation: divides each channel after the subtraction.
        zca: whether ZCA whitening follows, fitted on the training images.
        views: of an image, over whose logits the network averages; see `image.views`.
        library: what made the pixels, such as "Pillow"; "" in checkpoints that do not say it.
        version: of that library.
    """

    size: int
    resize: str
    range: tuple[float, ...] = ()
    colour: str = "RGB"
    scale: float = 1 / 255
    mean: tuple[float, ...] = (0.0, 0.0, 0.0)
    deviation: tuple[float, ...] = (1.0, 1.0, 1.0)
    zca: bool = False
    library: str = ""
    version: str = ""
    width: int = 0
    views: str = "plain"

    @classmethod
    def of(cls, image: Image, *, library: str = "", version: str = "") -> Preprocessing:
        """Returns the preprocessing of an `image` section, whose pixels a library of a version makes."""
        return cls(
            size=image.size,
            width=image.width,
            resize=image.resize,
            range=image.range,
            mean=image.mean or cls.mean,
            deviation=image.deviation or cls.deviation,
            zca=image.zca,
            views=image.views,
            library=library,
            version=version,
        )

    @property
    def pixels(self) -> dict[str, Any]:
        """The part that decides the decoded uint8 pixels, for the key of a cache; the rest happens in the network."""
        return {name: getattr(self, name) for name in ("size", "width", "resize", "range", "colour", "library", "version")}

    @property
    def shape(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.size, self.width or self.size

    @property
    def is_standardized(self) -> bool:
        """Whether a mean or a deviation changes the scaled pixels."""
        return any(self.mean) or any(value != 1 for value in self.deviation)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON holds them; tuples become lists."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in dataclasses.asdict(self).items()}

    @classmethod
    def from_dict(cls, fields: Mapping[str, Any]) -> Preprocessing:
        """Reverses `to_dict`. A field that is missing, as in older checkpoints, has its default.

        Raises:
            ConfigError: a field of a newer version, a wrong value, or a colour that this version cannot make.
        """
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := sorted(fields.keys() - known):
            raise ConfigError(f"the checkpoint's preprocessing has {', '.join(unknown)}, which this version does not know; "
                              "use the version of cnnjax that wrote it")  # fmt: skip
        try:
            made = typed(fields, cls, "preprocessing")
        except (TypeError, KeyError) as error:
            raise ConfigError(f"the checkpoint's preprocessing is damaged ({error}); take another checkpoint") from None
        numbers = (made.scale, *made.mean, *made.deviation, *made.range)
        if not (
            all(map(math.isfinite, numbers))
            and len(made.mean) == len(made.deviation) == 3
            and len(made.range) in (0, 2)
            and min(made.deviation) > 0
            and made.size > 0
        ):
            raise ConfigError("the checkpoint's preprocessing is damaged (its numbers); take another checkpoint")
        if made.colour != "RGB":
            raise ConfigError(f"the checkpoint's preprocessing has colour={made.colour!r}; this version makes RGB only")
        return made

    def maker_differs(self, other: Preprocessing) -> str:
        """Returns a warning where other libraries made the pixels of the two; "" where they agree or one is not known."""
        ours, theirs = (f"{p.library} {p.version}".strip() for p in (self, other))
        if not ours or not theirs or ours == theirs:
            return ""
        return f"the network was trained on pixels of {ours}, these are of {theirs}; probabilities may differ slightly"
