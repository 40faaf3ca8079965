"""What values a config may have: all problems at once, one line each, without reading data."""

import difflib
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

CHOICES = {
    "data.source": ("files", "demo", "digits", "tfds"),
    "data.placement": ("auto", "host", "device"),
    "image.resize": ("bilinear", "nearest", "pad"),
    "split.method": ("stratified", "grouped", "tutorial", "tutorial_shuffled", "official"),
    "model.name": ("convnet", "resnet18", "resnet34", "resnet50"),
    "model.norm": ("none", "batch"),
    "augment.interpolation": ("bilinear", "nearest"),
    "augment.fill": ("reflect", "nearest", "constant", "wrap"),
    "train.precision": ("float32", "bfloat16"),
    "runtime.kernels": ("auto", "native", "xla"),
    "optimizer.name": ("adam", "adamw", "sgd"),
    "optimizer.schedule": ("constant", "cosine", "step", "plateau"),
}


def interval(text: str) -> tuple[int, float] | None:
    """ "500 steps" -> (500, inf); "600 s" or "10 min" -> (0, 600.0); None for anything else."""
    found = re.fullmatch(r"(\d+) ?(steps?|s|min)", text.strip())
    if not found or int(found[1]) == 0:
        return None
    number = int(found[1])
    return (number, math.inf) if found[2].startswith("step") else (0, number * {"s": 1.0, "min": 60.0}[found[2]])


def without_effect(network: str) -> tuple[str, ...]:
    """Keys that say nothing to the network of that name."""
    if not network.startswith("resnet"):
        return ()
    names = ("channels", "convs", "padding", "pool_stride", "norm", "dropout_features", "dense")
    return tuple(f"model.{name}" for name in names)


def find_problems(values: Mapping[str, Any], given: Collection[str] = ()) -> list[str]:
    """A line for every problem of a complete tree, by dotted key; `given` are keys set by hand, which must have an effect."""
    problems = []

    def check(ok: bool, key: str, allowed: str) -> None:
        if not ok:
            problems.append(f"{key}={values[key]!r}: {allowed}")

    for key, allowed in CHOICES.items():
        if values[key] not in allowed:
            near = difflib.get_close_matches(str(values[key]), allowed, 1)
            check(False, key, f"use one of {', '.join(allowed)}" + (f"; did you mean {near[0]!r}?" if near else ""))
    for key, low in {"data.batch_size": 1, "image.size": 4, "train.epochs": 1, "train.patience": 0, "log.every": 1,
                     "runtime.devices": 0, "runtime.workers": 0, "optimizer.plateau_patience": 0, "seed": 0,
                     "data.demo_patients": 3, "split.seed": 0, "augment.pad_crop": 0, "augment.rand_augment": 0,
                     "train.accumulate": 1, "mesh.fsdp": 1}.items():  # fmt: skip
        check(values[key] >= low, key, f"must be at least {low}")
    for key in ("data.max_bad_fraction", "split.train", "split.val", "split.test", "augment.grey", "augment.erase",
                "augment.cutout", "augment.rand_augment_magnitude"):  # fmt: skip
        check(0 <= values[key] <= 1, key, "must be between 0 and 1")
    for key in ("model.dropout_features", "model.dropout_dense", "augment.zoom", "augment.stretch", "augment.shift",
                "augment.brightness", "augment.contrast", "augment.saturation", "augment.stain", "train.label_smoothing",
                "train.ema_decay", "optimizer.beta1", "optimizer.beta2"):  # fmt: skip
        check(0 <= values[key] < 1, key, "must be at least 0 and below 1")
    for key in ("optimizer.weight_decay", "optimizer.clip_norm", "optimizer.warmup_epochs", "augment.rotation", "augment.gamma",
                "augment.channel_shift", "augment.blur", "augment.noise", "augment.mixup", "augment.cutmix"):  # fmt: skip
        check(0 <= values[key] < math.inf, key, "must be 0 or more")
    for key in (
        "image.zca_epsilon",
        "optimizer.learning_rate",
        "optimizer.epsilon",
        "optimizer.decay_epochs",
        "optimizer.decay_factor",
    ):
        check(0 < values[key] < math.inf, key, "must be above 0")
    check(values["data.batch_size"] % max(values["train.accumulate"], 1) == 0, "train.accumulate",
          f"must divide data.batch_size={values['data.batch_size']}")  # fmt: skip
    if values["train.checkpoint_every"]:
        check(interval(values["train.checkpoint_every"]) is not None, "train.checkpoint_every",
              'write "500 steps", "600 s" or "10 min", or "" for epochs and stops only')  # fmt: skip
    check(0 <= values["augment.hue"] <= 0.5, "augment.hue", "must be between 0 and 0.5 turns")
    check(0 <= values["augment.shear"] <= 60, "augment.shear", "must be between 0 and 60 degrees")
    check(0 < values["augment.crop_area"] <= 1, "augment.crop_area", "must be above 0 and at most 1, which is off")
    check(1 <= values["augment.crop_ratio"] < math.inf, "augment.crop_ratio", "must be at least 1")
    check(values["augment.pad_crop"] < max(values["image.size"], 4), "augment.pad_crop", "must be less than image.size")
    check(values["augment.blur"] <= values["image.size"] / 8, "augment.blur",
          f"must be at most an eighth of image.size, {values['image.size'] / 8:g}")  # fmt: skip
    if values["augment.trivial_augment"]:
        check(not values["augment.rand_augment"], "augment.rand_augment", "cannot be used together with trivial_augment")
    if values["image.zca"]:
        check(values["image.size"] <= 48, "image.size", "ZCA whitening (image.zca) needs images of at most 48 pixels")
    total = values["split.train"] + values["split.val"] + values["split.test"]
    if abs(total - 1) > 1e-6:
        problems.append(f"split.train + split.val + split.test is {total:g}; the three fractions must add up to 1")
    check(values["split.train"] > 0, "split.train", "training needs images; use 0.7, say")
    check(values["split.val"] > 0, "split.val", "early stopping needs validation images; use 0.15, say")
    if values["split.method"].startswith("tutorial"):
        check(values["split.test"] == 0, "split.test", f"{values['split.method']} has no test part; set it to 0")
    check(values["image.size"] <= 4096, "image.size", "must be at most 4096 pixels")
    idle = without_effect(values["model.name"])
    for key in idle:
        check(key not in given, key, f"has no effect with model.name={values['model.name']}; leave it out, or use convnet")
    check(values["model.pool_stride"] in (1, 2), "model.pool_stride", "must be 1 or 2")
    blocks = len(values["model.channels"])
    check(blocks >= 1, "model.channels", "needs at least one block")
    for key in ("model.channels", "model.convs", "model.dense"):
        check(all(isinstance(n, int) and n > 0 for n in values[key]), key, "must hold whole numbers above 0")
    for key in ("model.convs", "model.padding"):
        check(
            key in idle or len(values[key]) in (1, blocks),
            key,
            f"must have one entry, or one for each of the {blocks} blocks",
        )
    check(set(values["model.padding"]) <= {"same", "valid"}, "model.padding", "entries must be same or valid")
    check(all(isinstance(name, str) for name in values["data.classes"]), "data.classes", "must hold folder names as text")
    check(len(set(values["data.classes"])) == len(values["data.classes"]), "data.classes", "names a class twice")
    if values["data.classes"] and values["data.positive"]:
        check(values["data.positive"] in values["data.classes"], "data.positive",
              f"use one of {', '.join(values['data.classes'])}")  # fmt: skip
    if values["data.sha256"]:
        check(bool(re.fullmatch("[0-9a-f]{64}", values["data.sha256"])), "data.sha256", "must be 64 hex digits")
    try:
        re.compile(values["data.group"])
    except re.error as error:
        check(False, "data.group", f"is not a regular expression ({error})")
    if values["split.method"] == "grouped" and values["data.source"] in ("files", "demo"):
        check(values["data.group"] != "", "data.group", "split.method=grouped needs it, such as '^C[0-9]+'")
    if values["data.source"] == "tfds":
        check(values["data.tfds"] != "", "data.tfds", "name a set, as in --config=configs/tfds.py:cifar10")
    if values["data.source"] == "files" and not values["data.url"]:
        check(values["data.path"] != "", "data.path", "name a folder, .zip or .tar with one folder per class: "
              "--config.data.path=DIR")  # fmt: skip
    return problems
