"""Checks of a config's values: all problems at once, one line each, without reading data."""

import math
import re
from collections.abc import Collection, Iterable, Iterator

from cnnjax.config import keys, methods
from cnnjax.config.origin import origin_problem
from cnnjax.config.sections import KEYS, Config, Data, Evidence, Image, Model, Split, flatten
from cnnjax.errors import ConfigError


def validate(config: Config, given: Collection[str] = ()) -> None:
    """Raises one ConfigError with a line for every problem; reads no data.

    Keys that the chosen network does not read are allowed in a config file, which may have them for its own network, but
    not among the keys `given` by hand.
    """
    if problems := find_problems(config, given):
        raise ConfigError("\n".join(problems))


def find_problems(config: Config, given: Collection[str] = ()) -> list[str]:
    """Returns a line for every problem: of single keys, then of keys that do not fit together."""
    values = dict(flatten(config))
    found = [*_published(config.model.name), *((name, key.problem(values[name])) for name, key in KEYS.items())]
    if not any(problem for name, problem in found if name == "model.name"):
        found += _network(config.model, given)
    found += [*_data(config.data), *_split(config.split, config.data), *_training(config, given), *_augmentation(config),
              *_evidence(config.evidence), *methods.find_problems(config, given)]  # fmt: skip
    said: dict[str, str] = {}  # the first problem of each key
    for name, problem in found:
        if problem:
            said.setdefault(name, problem)
    lines = [f"{name}={values[name]!r}: {problem}" for name, problem in said.items()]
    split = config.split
    if abs((total := split.train + split.val + split.test) - 1) > 1e-6:
        lines.append(f"split.train + split.val + split.test is {total:g}; the three fractions must add up to 1")
    return lines


def interval(text: str) -> tuple[int, float] | None:
    """Parses "500 steps" to (500, inf), and "600 s" or "10 min" to (0, 600.0 seconds); None for anything else."""
    found = re.fullmatch(r"(\d+) ?(steps?|s|min)", text.strip())
    if not found or int(found[1]) == 0:
        return None
    number = int(found[1])
    return (number, math.inf) if found[2].startswith("step") else (0, number * {"s": 1.0, "min": 60.0}[found[2]])


def without_effect(network: str) -> tuple[str, ...]:
    """Returns the `model` keys that a network does not read; () for a network of the user's own.

    The default network reads the whole section, which costs no import of the networks.
    """
    if network == KEYS["model.name"].default:
        return ()
    networks = keys.registry(KEYS["model.name"].choices)
    made = networks.get(network)
    reads = getattr(made, "reads", getattr(getattr(made, "func", None), "reads", None))  # of a class, or of a partial of one
    if reads is None:
        return ()
    return tuple(
        name for name in KEYS if name.startswith("model.") and name.removeprefix("model.") not in {"name", "weights", *reads}
    )


def idle(config: Config, names: Iterable[str] | None = None) -> list[str]:
    """Returns the keys that a config sets among `names`, or among those that its network does not read."""
    values = dict(flatten(config))
    return [
        name
        for name in (without_effect(config.model.name) if names is None else names)
        if values[name] != KEYS[name].default
    ]


Problems = Iterator[tuple[str, str]]  # key and problem, "" where there is none


def _published(name: str) -> Problems:
    """Says where weights come from, to those who name them as a network, such as timm:resnet18."""
    if found := re.fullmatch("(timm|hf|torchvision):(.+)", name):
        networks = ", ".join(map(str, keys.names(KEYS["model.name"].choices)))
        name = found[2].removeprefix("timm/")
        source = "FILE.safetensors" if found[1] == "torchvision" else f"hf:timm/{name}{'' if '.' in name else '.TAG'}"
        yield (
            "model.name",
            f"not a network here; use one of {networks}; weights of {found[1]} come by --config.model.weights={source}",
        )


def _network(model: Model, given: Collection[str]) -> Problems:
    unread = without_effect(model.name)
    for name in unread:
        if name in given:
            yield name, f"has no effect with model.name={model.name}; leave it out, or use convnet"
    yield "model.weights", origin_problem(model.weights) if model.weights else ""
    blocks = len(model.channels)
    yield "model.channels", "" if blocks else "needs at least one block"
    for name in ("convs", "padding"):
        if f"model.{name}" not in unread and len(model[name]) not in (1, blocks):
            yield f"model.{name}", f"must have one entry, or one for each of the {blocks} blocks"


def _data(data: Data) -> Problems:
    if len(set(data.classes)) < len(data.classes):
        yield "data.classes", "names a class twice"
    if data.classes and data.positive and data.positive not in data.classes:
        yield "data.positive", f"use one of {', '.join(data.classes)}"
    if data.sha256 and not re.fullmatch("[0-9a-f]{64}", data.sha256):
        yield "data.sha256", "must be 64 hex digits"
    for key in ("label", "group"):
        yield f"data.{key}", _pattern_problem(data[key])
    if data.source == "tfds" and not data.tfds:
        yield "data.tfds", "name a set, as in --config=configs/tfds.py:cifar10"
    if data.cache == "encoded" and data.placement == "device":
        yield (
            "data.placement",
            "encoded images are decoded at each step, on the host; use host, or --config.data.cache=decoded",
        )
    if data.source == "files" and not data.url and not data.path:
        yield "data.path", "name a folder, .zip or .tar with one folder per class: --config.data.path=DIR"


def _pattern_problem(pattern: str) -> str:
    try:
        re.compile(pattern)
    except re.error as error:
        return f"is not a regular expression ({error})"
    return ""


def _split(split: Split, data: Data) -> Problems:
    yield "split.train", "" if split.train > 0 else "training needs images; use 0.7, say"
    yield "split.val", "" if split.val > 0 else "early stopping needs validation images; use 0.15, say"
    if split.method.startswith("tutorial") and split.test != 0:
        yield "split.test", f"{split.method} has no test part; set it to 0"
    if split.file and split.method != "auto":
        yield "split.file", f"divides the images, and so would split.method={split.method}; leave one out"
    if data.class_level and data.label:
        yield "data.class_level", "data.label finds the classes already; leave one out"
    if split.method == "grouped" and not data.class_level and data.source in ("files", "demo") and not data.group:
        yield "data.group", "split.method=grouped needs it, such as '^C[0-9]+'"


def _training(config: Config, given: Collection[str]) -> Problems:
    train, batch_size = config.train, config.data.batch_size
    if batch_size != keys.AUTO and batch_size % max(train.accumulate, 1):
        yield "train.accumulate", f"must divide data.batch_size={batch_size}"
    if train.monitor == keys.LAST and config.optimizer.schedule == "plateau":
        yield (
            "train.monitor",
            "there is no plateau of it; use --config.train.monitor=val_loss, or --config.optimizer.schedule=cosine",
        )
    if train.monitor == keys.LAST and train.patience and "train.patience" in given:
        yield "train.patience", "has no effect with train.monitor=last; leave it out, or use --config.train.monitor=val_loss"
    yield "train.freeze", _pattern_problem(train.freeze)
    if "train.scales" in given and train.epochs != keys.AUTO and len(train.scales) > train.epochs:
        yield (
            "train.scales",
            f"are more than train.epochs={train.epochs}; use --config.train.epochs={len(train.scales)}, or fewer scales",
        )
    if train.unfreeze_epoch and not train.freeze:
        yield (
            "train.unfreeze_epoch",
            "has no effect without train.freeze; add --config.train.freeze=backbone, or --config.train.unfreeze_epoch=0",
        )
    if train.unfreeze_epoch and not (
        train.unfreeze_epoch >= 2 and (train.epochs == keys.AUTO or train.unfreeze_epoch <= train.epochs)
    ):
        yield (
            "train.unfreeze_epoch",
            f"must be at least 2 and at most train.epochs={train.epochs}; --config.train.unfreeze_epoch=0 leaves frozen what is",
        )
    yield "train.class_weights", _weights_problem(train.class_weights)
    if train.checkpoint_every and interval(train.checkpoint_every) is None:
        yield "train.checkpoint_every", 'write "500 steps", "600 s" or "10 min", or "" for epochs and stops only'


def _weights_problem(entries: tuple[str, ...]) -> str:
    wrong = [
        entry
        for entry in entries
        if not re.fullmatch(r"[^=].*=(\d+\.?\d*|\.\d+)(e-?\d+)?", entry) or not float(entry.rpartition("=")[2])
    ]
    return (
        f"write balanced, or NAME=WEIGHT for each class, with weights above 0, not {wrong[0]!r}"
        if wrong and entries != ("balanced",)
        else ""
    )


def _augmentation(config: Config) -> Problems:
    augment, sides = config.augment, (config.image.size, config.image.width or config.image.size)
    size = KEYS["image.size"].most if config.image.size == keys.AUTO else min(sides)
    if 0 < config.image.width < 4:
        yield "image.width", "must be between 4 and 4096 pixels, or 0"
    if augment.turns and config.image.width not in (0, config.image.size):
        yield (
            "augment.turns",
            "turns by 90 degrees, which needs a height and a width that are the same; use augment.flip_vertical",
        )
    if config.image.views == "turned" and config.image.width not in (0, config.image.size):
        yield "image.views", "turns by 90 degrees, which needs a height and a width that are the same; use mirrored"
    if augment.pad_crop >= max(size, 4):
        yield "augment.pad_crop", "must be less than image.size"
    if augment.blur > size / 8:
        yield "augment.blur", f"must be at most an eighth of image.size, {size / 8:g}"
    if augment.trivial_augment and augment.rand_augment:
        yield "augment.rand_augment", "cannot be used together with trivial_augment"
    levels = config.image.range
    if levels and not (len(levels) == 2 and levels[0] < levels[1]):
        yield "image.range", "write the level of black and that of white, such as 0,4095"
    if config.image.zca and max(sides) > 48:
        yield "image.size", "ZCA whitening (image.zca) needs images of at most 48 pixels"
    yield from _standardization(config.image)


def _standardization(image: Image) -> Problems:
    if image.size == keys.AUTO and image.width:
        yield "image.width", "is part of image.size=auto; leave it out, or write --config.image.size=HEIGHT,WIDTH"
    for name, example in (("mean", "0.485,0.456,0.406"), ("deviation", "0.229,0.224,0.225")):
        if len(image[name]) not in (0, 3):
            yield f"image.{name}", f"write three numbers, of red, green and blue, such as {example}"
        if image.zca and image[name]:
            yield f"image.{name}", "image.zca makes the mean 0 and the deviation 1 by itself; leave one of them out"


def _evidence(evidence: Evidence) -> Problems:
    if evidence.threshold != KEYS["evidence.threshold"].default:
        from cnnjax.metrics import RULES, threshold_rule  # SciPy, which takes half a second

        rule = threshold_rule(evidence.threshold)
        yield "evidence.threshold", "" if rule else f"write {RULES}"
        if rule and rule.kind == "cost" and not evidence.prevalence:
            yield (
                "evidence.threshold",
                "needs the share of positives where the network will be used, as --config.evidence.prevalence=0.035",
            )
