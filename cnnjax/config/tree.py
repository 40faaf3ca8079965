"""The complete default tree, and the ways to load, change, check and store it.

Every config file starts from `default()`, which is locked: a key that does not exist fails in a file as it does on
the command line. Types are fixed too; what means "not set" is an empty string, 0 or ().
"""

import ast
import difflib
import importlib.util
import inspect
import json
import re
import traceback
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict, FrozenConfigDict

from cnnjax.config import validation
from cnnjax.errors import ConfigError

START = "configs/folder.py"  # what a config file of one's own may begin as


def default() -> ConfigDict:
    """The default tree, locked: keys cannot be added and types cannot change."""
    c = ConfigDict()
    c.name = ""  # of the run; set from the config file's name and variant; names the default workdir runs/<name>
    c.seed = 0  # integer; initial weights, order of the training images, augmentation and dropout

    c.data = ConfigDict()
    c.data.source = "files"  # files: folder or archive; demo: drawn cells; digits: scikit-learn's; tfds: by name
    c.data.path = ""  # folder, .zip, .tar or .tgz with one folder per class, here or at gs://, s3://; "": download data.url
    c.data.url = ""  # archive to download when data.path is empty
    c.data.sha256 = ""  # of that archive, 64 hex digits
    c.data.tfds = ""  # name in TensorFlow Datasets, such as cifar10 or cifar10:3.0.2
    c.data.cache_dir = "~/.cache/cnnjax"  # downloads and decoded images, shared between runs
    c.data.classes = ()  # names in label order; (): the folders' names, sorted
    c.data.positive = ""  # the positive class of a two-class task; "": the second class
    c.data.group = ""  # regular expression; what it matches in a file's name is the group (patient); "": no groups
    c.data.max_bad_fraction = 0.01  # fraction of unreadable files above which a run is refused
    c.data.batch_size = 32  # images per training step, over all devices together
    c.data.placement = "auto"  # of the training images while training: host, device, or auto: on an accelerator if they fit
    c.data.demo_cells = 3000  # images that the demo source draws
    c.data.demo_patients = 40  # patients among whom they are divided

    c.image = ConfigDict()
    c.image.size = 64  # pixels, height and width that the network sees
    c.image.resize = "bilinear"  # bilinear: antialiased; nearest; pad: bilinear, aspect kept, black margins
    c.image.zca = False  # ZCA whitening, fitted on the training images, stored with the network; up to 48 pixels
    c.image.zca_epsilon = 1e-6  # added to the variances, of pixels in [0, 1], before their root is divided by (Keras')

    c.split = ConfigDict()
    c.split.method = "stratified"  # stratified by class; grouped: no group on two sides; tutorial: first names of
    # each class are validation; tutorial_shuffled: all names shuffled; official: what the data set brings
    c.split.train = 0.70  # fraction of the images
    c.split.val = 0.15  # fraction; chooses the best epoch
    c.split.test = 0.15  # fraction; only read at the end
    c.split.seed = 0  # integer; kept apart from `seed`, so that runs of several seeds share one split

    c.model = ConfigDict()
    c.model.name = "convnet"  # blocks of 3x3 convolutions + ReLU, each closed by a 2x2 max-pool, then dense layers; or
    # a residual network, resnet18, resnet34 or resnet50, of which dropout_dense alone can be set
    c.model.channels = (16, 32, 64)  # filters in each block
    c.model.convs = (1,)  # convolutions in each block; one entry holds for all blocks
    c.model.padding = ("same",)  # same or valid, in each block; one entry holds for all blocks
    c.model.pool_stride = 2  # pixels, stride of the 2x2 max-pools: 1 or 2
    c.model.norm = "none"  # none, or batch: batch normalisation after each convolution
    c.model.dropout_features = 0.0  # fraction dropped before the flatten
    c.model.dense = (128,)  # units of the hidden dense layers
    c.model.dropout_dense = 0.0  # fraction dropped after each hidden dense layer; of a resnet, before the last one

    c.augment = ConfigDict()  # on training images only; a whole preset is set with --config.augment=NAME
    # Geometry: one matrix and one sampling per image. Numbers are drawn uniformly for each image.
    c.augment.flip_horizontal = False  # mirror left-right with probability 1/2
    c.augment.flip_vertical = False  # mirror top-bottom with probability 1/2
    c.augment.turns = False  # turn by 0, 90, 180 or 270 degrees
    c.augment.rotation = 0.0  # degrees; drawn from [-rotation, rotation]
    c.augment.zoom = 0.0  # fraction; the side of the visible window is scaled by a factor from [1 - zoom, 1 + zoom]
    c.augment.stretch = 0.0  # fraction; as zoom, height and width each by a factor of its own
    c.augment.shear = 0.0  # degrees; rows slide sideways, drawn from [-shear, shear]
    c.augment.shift = 0.0  # fraction of the side; drawn from [-shift, shift] in both directions
    c.augment.crop_area = 1.0  # fraction; a window of an area from [crop_area, 1] is enlarged to the whole; 1: off
    c.augment.crop_ratio = 4 / 3  # largest width / height of that window, and height / width
    c.augment.pad_crop = 0  # pixels; padded on every side, then cut back at random: whole-pixel shifts
    c.augment.interpolation = "bilinear"  # bilinear or nearest
    c.augment.fill = "reflect"  # what lies outside the image: reflect, nearest, constant (black) or wrap
    # Pixels, in this order.
    c.augment.brightness = 0.0  # fraction; values times a factor from [1 - brightness, 1 + brightness]
    c.augment.contrast = 0.0  # fraction; distances from the image's mean grey, times such a factor
    c.augment.saturation = 0.0  # fraction; distances from each pixel's grey, times such a factor
    c.augment.grey = 0.0  # probability of losing all colour
    c.augment.hue = 0.0  # turns of the colour circle, at most 0.5; drawn from [-hue, hue]
    c.augment.gamma = 0.0  # fraction; exponent from [1 / (1 + gamma), 1 + gamma], uniform in its logarithm
    c.augment.stain = 0.0  # density of haematoxylin, eosin and DAB: each times [1 - stain, 1 + stain], plus [-stain, stain]
    c.augment.channel_shift = 0.0  # levels of 255; added to each channel, from [-channel_shift, channel_shift]
    c.augment.blur = 0.0  # pixels; standard deviation of a Gaussian, drawn from [0, blur]
    c.augment.noise = 0.0  # levels of 255; standard deviation of normal noise, drawn from [0, noise]
    # Parts and pairs of images.
    c.augment.erase = 0.0  # probability of losing a box of 2 to 33 % of the area (random erasing)
    c.augment.cutout = 0.0  # fraction of the side; one square hole, its centre anywhere
    c.augment.mixup = 0.0  # alpha of Beta(alpha, alpha), the share of the image in a blend with another; 0: off
    c.augment.cutmix = 0.0  # alpha likewise; the share is given up to a box of another image; 0: off
    # Policies over rotation, shear, shift, zoom, brightness, contrast, saturation, hue, gamma and blur.
    c.augment.rand_augment = 0  # operations drawn for each image (RandAugment's N); 0: off
    c.augment.rand_augment_magnitude = 0.3  # fraction of their widest range (RandAugment's M / 30)
    c.augment.trivial_augment = False  # one operation for each image, of any magnitude

    c.train = ConfigDict()
    c.train.epochs = 30  # at most; one epoch is ceil(training images / batch size) steps
    c.train.patience = 10  # epochs without a lower val_loss before stopping early; 0: never stop early
    c.train.label_smoothing = 0.0  # fraction of each training label that is spread evenly over all classes
    c.train.ema_decay = 0.0  # of a moving average of the weights, which then is what is evaluated; 0.999, say; 0: none
    c.train.accumulate = 1  # parts into which each batch is divided, one after the other, where memory is short
    c.train.checkpoint_every = "10 min"  # "500 steps", "600 s" or "10 min", beside each epoch and each stop; "": only these
    c.train.precision = "float32"  # of the computation: float32 or bfloat16; weights are float32 always, and so is all
    # of a network with normalisation where cnnjax's own kernels compute

    c.optimizer = ConfigDict()
    c.optimizer.name = "adam"  # adam, adamw or sgd
    c.optimizer.learning_rate = 1e-3  # per step, at its highest
    c.optimizer.beta1 = 0.9  # decay of adam's first moment; sgd: Nesterov momentum
    c.optimizer.beta2 = 0.999  # decay of adam's second moment
    c.optimizer.epsilon = 1e-7  # added to adam's denominator (Keras' default)
    c.optimizer.weight_decay = 0.0  # adamw: per step, times the learning rate; kernels only
    c.optimizer.clip_norm = 0.0  # largest global gradient norm; 0: no clipping
    c.optimizer.schedule = "constant"  # constant, cosine, step or plateau
    c.optimizer.warmup_epochs = 0.0  # epochs of linear rise from 0 to learning_rate, with any schedule
    c.optimizer.decay_epochs = 10.0  # step: epochs between drops
    c.optimizer.decay_factor = 0.1  # step, plateau: factor of each drop
    c.optimizer.plateau_patience = 3  # plateau: epochs without a lower val_loss that are tolerated; the next one drops

    c.log = ConfigDict()
    c.log.every = 20  # steps between rows of metrics.jsonl
    c.log.tensorboard = False  # also write TensorBoard event files to <workdir>/tensorboard

    c.mesh = ConfigDict()
    c.mesh.fsdp = 1  # devices among which weights and optimizer state are divided; 1: every device holds all of them

    c.runtime = ConfigDict()
    c.runtime.devices = 0  # devices to use of each process; 0: all
    c.runtime.kernels = "auto"  # native: cnnjax's own for CPUs; xla: XLA's; auto: native on a CPU where they are compiled
    c.runtime.keep_memory = True  # keep freed memory for the next step, on huge pages: faster on a CPU (Linux, glibc)
    c.runtime.workers = 0  # threads that decode images; 0: one per core
    return c.lock()


# Values of the `augment` section; what a preset does not name is off.
PRESETS: dict[str, dict[str, Any]] = {
    "none": {},
    # The three layers of the TensorFlow image classification tutorial.
    "tutorial": {"flip_horizontal": True, "rotation": 36.0, "zoom": 0.1},
    # What the malaria exercise names of Keras' ImageDataGenerator; its ZCA whitening is image.zca, because it holds for
    # every image and not for training only.
    "keras_generator": {"flip_horizontal": True, "flip_vertical": True, "rotation": 20.0, "shift": 0.05, "stretch": 0.05,
                        "shear": 5.0, "brightness": 0.1, "channel_shift": 10.0, "fill": "nearest"},
    "light": {"flip_horizontal": True, "rotation": 15.0, "zoom": 0.15, "shift": 0.08, "brightness": 0.15, "contrast": 0.15,
              "saturation": 0.15},
    "strong": {"flip_horizontal": True, "crop_area": 0.4, "rotation": 20.0, "shear": 8.0, "brightness": 0.3, "contrast": 0.3,
               "saturation": 0.3, "hue": 0.03, "grey": 0.05, "erase": 0.25, "cutmix": 1.0, "mixup": 0.2},
    # Cells have no upright side, stains vary from smear to smear, and around a cell there is black.
    "cells": {"flip_horizontal": True, "flip_vertical": True, "turns": True, "rotation": 45.0, "zoom": 0.1, "shift": 0.03,
              "brightness": 0.1, "contrast": 0.1, "stain": 0.03, "fill": "constant"},
}  # fmt: skip


def set_preset(config: ConfigDict, name: str) -> ConfigDict:
    """Sets the whole `augment` section in place to a preset. Raises ConfigError for a name that is not one."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, 1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"augment={name!r}: use one of {', '.join(PRESETS)}{hint}")
    config.augment.update({**default().augment, **PRESETS[name]})
    return config


# Where a run may differ from the one it continues: places and appearances, nothing that changes a number.
FREE_TO_CHANGE = ("data.path", "data.url", "data.cache_dir", "data.placement", "log.every", "log.tensorboard",
                  "runtime.devices", "runtime.keep_memory", "runtime.kernels", "runtime.workers",
                  "train.checkpoint_every", "mesh.fsdp", "name")  # fmt: skip


def notes() -> dict[str, str]:
    """What each key means: the comments of `default`, by dotted key."""
    found: dict[str, str] = {}
    last = ""
    for line in inspect.getsource(default).splitlines():
        key = re.match(r"\s+c\.([\w.]+) = .*?  # (.*)", line)
        more = re.match(r"\s+# (.*)", line)
        if key:
            last = key[1]
            found[last] = key[2]
        elif more and last and more[1][0].islower():  # what begins a part of a section is upper case
            found[last] += " " + more[1]
    return {key: note for key, note in found.items() if key in dict(flatten(default()))}


def flatten(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yields ("section.key", value) of every leaf, sorted by name."""
    for key in config:
        value = config[key]
        if isinstance(value, (ConfigDict, Mapping)):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def differences(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Lines "key: old -> new" of the values that matter to a run's numbers and differ; a key that is missing has its default."""
    standard = dict(flatten(json.loads(to_json(default()))))
    old, new = {**standard, **dict(flatten(old))}, {**standard, **dict(flatten(new))}
    return [
        f"{key}: {old.get(key)!r} -> {new.get(key)!r}"
        for key in {**old, **new}
        if old.get(key) != new.get(key) and key not in FREE_TO_CHANGE
    ]


def unknown_key(key: str) -> ConfigError:
    """The error for a key that does not exist: the nearest valid ones, and how to see all."""
    keys = [name for name, _ in flatten(default())]
    near = [name for name in keys if name.startswith(f"{key}.")]
    if near:
        return ConfigError(f"{key!r} is a section of the config; set one of its keys: {', '.join(near)}")
    last = key.rpartition(".")[2]
    for name in keys:
        *_, leaf = name.split(".")
        if last in (leaf, "".join(word[0] for word in leaf.split("_"))):
            near.append(name)  # the right name in the wrong section, or its initials, as in "lr"
    near = list(dict.fromkeys(near + difflib.get_close_matches(key, keys, 3, 0.6)))[:3]
    hint = f"; did you mean {' or '.join(map(repr, near))}?" if near else ";"
    return ConfigError(f"unknown config key {key!r}{hint} python launch.py --help lists all {len(keys)}")


def unknown_variant(file: str, given: str, allowed: tuple[str, ...]) -> ConfigError:
    """The error of `get_config(arg)` for a variant that does not exist."""
    forms = ", ".join([f"configs/{file}.py", *(f"configs/{file}.py:{name}" for name in allowed)])
    return ConfigError(f"unknown variant {given!r} of configs/{file}.py; use one of: {forms}")


def _parse(key: str, text: str, current: Any) -> Any:
    """`text` from a command line as the type of `current`."""
    kind = type(current)
    try:
        if kind is bool:
            return {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}[text.lower()]
        if kind is tuple:
            return _parse_tuple(text, _element(dict(flatten(default()))[key]))
        return int(text.replace("_", "")) if kind is int else kind(text)
    except (KeyError, ValueError, SyntaxError):
        raise TypeError from None


def _allowed(key: str, current: Any) -> str:
    """What may be written for a key, with its value as the example."""
    if isinstance(current, tuple):
        standard = dict(flatten(default()))[key]
        kind = "whole numbers" if _element(standard) is int else "names"
        example = ",".join(map(str, current or standard)) or "cat,dog"
        return f"{kind} with commas between them, such as {example}"
    kind = {bool: "true or false", int: "a whole number", float: "a number"}.get(type(current), "text")
    return kind if isinstance(current, bool) else f"{kind}, such as {current!r}"


def _element(current: tuple) -> type:
    """The type of a tuple's entries; the default that is empty, data.classes, holds names."""
    return type(current[0]) if current else str


def _parse_tuple(text: str, element: type) -> tuple:
    """'(16, 32)', '16,32' or 'cat,dog'."""
    if text.lstrip().startswith(("(", "[")):
        return tuple(ast.literal_eval(text))
    return tuple(element(part.strip()) for part in text.split(",") if part.strip())


def override(config: ConfigDict, overrides: Mapping[str, Any]) -> ConfigDict:
    """Sets `{"section.key": value}` in place; strings are parsed as the key's type. Raises ConfigError.

    {"augment": name} sets that whole section to a preset first.
    """
    overrides, problems = dict(overrides), []
    if "augment" in overrides:  # before single keys, wherever it stands among them
        try:
            set_preset(config, str(overrides.pop("augment")))
        except ConfigError as error:
            problems.append(str(error))
    valid = dict(flatten(config))
    for key, value in overrides.items():
        if key not in valid:
            problems.append(str(unknown_key(key)))
            continue
        current = valid[key]
        try:
            if isinstance(value, str) and not isinstance(current, str):
                value = _parse(key, value, current)
            elif isinstance(value, (list, Path)):
                value = tuple(value) if isinstance(value, list) else str(value)
            elif isinstance(value, bool) != isinstance(current, bool):
                raise TypeError
            if isinstance(current, tuple) and not all(type(v) is _element(dict(flatten(default()))[key]) for v in value):
                raise TypeError
            section, _, name = key.rpartition(".")
            (config[section] if section else config)[name] = value
        except TypeError:
            problems.append(f"{key}={value!r}: must be {_allowed(key, current)}")
    if problems:
        raise ConfigError("\n".join(problems))
    return config


def load_config(path: str | Path, overrides: Mapping[str, Any] | None = None) -> FrozenConfigDict:
    """The config of a file such as "configs/malaria.py" or, with a variant, "configs/malaria.py:demo".

    Args:
        path: a Python file with `get_config(arg)`, and after a colon the variant passed as `arg`.
        overrides: values by dotted key, such as {"train.epochs": 5}; strings are parsed as on the command line.

    Returns:
        The checked and frozen tree.

    Raises:
        ConfigError: every problem found, one line each.
    """
    file, _, variant = str(path).partition(".py:")
    file = Path(file + ".py" if variant or str(path).endswith(".py:") else file)
    if not file.is_file():
        folders = (file.parent / "configs", file.parent)
        beside = next((names for folder in folders if (names := sorted(map(str, folder.glob("*.py"))))), [])
        near = [name for name in beside if Path(name).stem == file.stem] or difflib.get_close_matches(str(file), beside, 1)
        hint = f"did you mean {near[0]}?" if near else f"there are: {', '.join(beside) or 'none'}"
        raise ConfigError(f"no config file {str(file)!r}; {hint}")
    if file.suffix != ".py":
        raise ConfigError(f"{str(file)!r} is no config file: that is Python, NAME.py, with get_config(variant); start from "
                          f"{START}")  # fmt: skip
    spec = importlib.util.spec_from_file_location(f"cnnjax_config_{file.stem}", file)
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        if not hasattr(module, "get_config"):
            raise ConfigError(f"{file} has no function get_config(variant), which returns the config; start from {START}")
        config = module.get_config(variant)
    except ConfigError:
        raise
    except Exception as error:  # of the file's own code
        raise ConfigError(_own_error(file, error)) from None
    if nothing := [key for key, value in flatten(config) if value is None]:
        allowed = _allowed(nothing[0], dict(flatten(default()))[nothing[0]])
        raise ConfigError(f"{file}: {nothing[0]}=None: must be {allowed}")
    config.name = f"{file.stem}-{variant}" if variant else file.stem
    return finish(override(config, overrides or {}), overrides or {})


def _own_error(file: Path, error: Exception) -> str:
    """What is wrong with a config file whose code has raised `error`, and in which line."""
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if Path(frame.filename) == file]
    line = error.lineno if isinstance(error, SyntaxError) and error.filename == str(file) else lines[-1] if lines else None
    place = f"{file}, line {line}" if line else str(file)
    missing = isinstance(error, (AttributeError, KeyError)) and re.search(r'Key "(\w+)" does not exist', str(error))
    if missing:
        return f"{place}: {unknown_key(missing[1])}"
    said = " ".join(str(error).split())
    return f"{place}: {_wrong_type(error) or f'{type(error).__name__}: {said}; mend it, or start from {START}'}"


def _wrong_type(error: Exception) -> str:
    """What ml_collections says of a value of another type, as `override` says it; "" for other errors."""
    form = r"override field '(\w+)'.*?\. (.*) is of original type <class '(.*?)'> and cannot .* type <class '(.*?)'>"
    found = re.search(form, str(error), re.DOTALL)
    if not found:
        return ""
    name, value, kind, wanted = found.groups()
    if wanted.endswith("ConfigDict"):
        return str(unknown_key(name))
    keys = [(key, current) for key, current in flatten(default()) if key.rpartition(".")[2] == name]
    given = repr(value) if kind == "str" else value
    return f"{' or '.join(key for key, _ in keys)}={given}: must be {_allowed(*keys[0])}"


def finish(config: ConfigDict, given: Collection[str] = ()) -> FrozenConfigDict:
    """Checks the tree and freezes it; see `validate`."""
    validate(config, given)
    return FrozenConfigDict(config)


def to_json(config: Mapping[str, Any]) -> str:
    """The tree as indented JSON; tuples become lists."""
    return json.dumps(config.to_dict(), indent=2)


def from_dict(tree: Mapping[str, Any], overrides: Mapping[str, Any] | None = None) -> FrozenConfigDict:
    """The inverse of `to_json` (after `json.loads`), with overrides."""
    return finish(override(override(default(), dict(flatten(tree))), overrides or {}), overrides or {})


def idle(config: Mapping[str, Any]) -> list[str]:
    """Keys that a config has set and that say nothing to its network."""
    standard, chosen = dict(flatten(default())), dict(flatten(config))
    return [key for key in validation.without_effect(config["model"]["name"]) if chosen[key] != standard[key]]


def validate(config: ConfigDict, given: Collection[str] = ()) -> None:
    """Raises one ConfigError with a line for every problem; reads no data.

    Settings of another network than the chosen one are let pass, because a config file may have them for its own, but not
    among the keys `given` by hand.
    """
    problems = validation.find_problems(dict(flatten(config)), given)
    if problems:
        raise ConfigError("\n".join(problems))
