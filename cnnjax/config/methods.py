"""Ways of training (`train.method`), and the keys that each of them does not read."""

from collections.abc import Collection, Iterator

from cnnjax.config.keys import LAST
from cnnjax.config.sections import KEYS, Config

READ = ("train.method", "train.monitor", "train.class_weights", "train.precision")  # by all
MIXING = ("augment.mixup", "augment.cutmix")  # give images the labels of two


def unread(config: Config) -> tuple[str, ...]:
    """Returns the keys that the way of training has no use for."""
    if config.train.method == "gradient":
        return tuple(name for name in KEYS if name.startswith("probe."))
    sections = ("train.", "optimizer.") if config.probe.views > 1 else ("train.", "optimizer.", "augment.")
    idle = [name for name in KEYS if name.startswith(sections) and name not in READ]
    return tuple(idle + [name for name in ("data.placement", *MIXING) if name not in idle])


def find_problems(config: Config, given: Collection[str]) -> Iterator[tuple[str, str]]:
    """Yields key and problem of what does not fit together."""
    method, probe = config.train.method, config.probe
    for name in unread(config):
        if name in given:
            yield name, f"has no effect with train.method={method}{_why(name, probe.views)}; leave it out"
    if method != "probe":
        return
    if config.train.monitor == LAST:
        yield "train.monitor", "chooses the penalty of train.method=probe; use --config.train.monitor=val_loss"
    yield "probe.penalties", "" if probe.penalties else "needs at least one, such as 1000"
    if config.image.views != "plain":
        yield "image.views", "train.method=probe fits the last layer on each image as it is; use plain"
    if config.data.sampling != "shuffled":
        yield "data.sampling", "train.method=probe takes every image once; use --config.train.class_weights=balanced"
    if probe.views > 1 and all(value == KEYS[f"augment.{name}"].default for name, value in config.augment.items()):
        yield "probe.views", "there is no augmentation to make views by; set some, as --config.augment=light, or use 1"


def _why(name: str, views: int) -> str:
    """Says more of a key that a probe does not read; "" where there is no more."""
    if not name.startswith("augment."):
        return ""
    return " and probe.views=1" if views == 1 else ", which takes no images of two labels"
