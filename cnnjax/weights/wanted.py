"""The images that weights were trained on, as far as the weights, or the network that they are of, say."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cnnjax.config import KEYS, Config, Origin, Preprocessing
from cnnjax.errors import ConfigError
from cnnjax.inside import read_small
from cnnjax.models import Expected, find_network
from cnnjax.weights import files, hub

CARD = "config.json"  # of a repository, beside model.safetensors
RESIZES = ("bilinear", "bicubic", "nearest")  # of those that timm names, what `image.resize` has too


def wanted(config: Config, *, fetch: bool = True) -> Preprocessing:
    """Returns the images that `model.weights` want, a file or a repository of the hub.

    They are those of the run that a file was exported from, those of `config.json` beside a model.safetensors, as timm writes it, else those that the network says of published
    weights.

    Args:
        config: with weights.
        fetch: get `config.json` of a repository where the hub's cache has not got it.

    Raises:
        ConfigError: the repository cannot be read, or its `config.json` says what cannot be.
    """
    made = find_network(config.model)
    family = getattr(made, "func", made)
    expects: Expected = family.expects
    usual = Preprocessing(size=expects.size, resize=expects.resize, mean=expects.mean, deviation=expects.deviation)
    origin = Origin.of(config.model.weights)
    if origin.kind == "file" and (own := files.exported_preprocessing(origin.path)):
        return own
    card = _card(origin, fetch)
    if not card:
        return usual
    tree = _tree(card)
    if (theirs := tree.get("architecture")) in family.lookalikes:
        raise ConfigError(f"model.weights={config.model.weights} are of timm's {theirs}, which pads images otherwise than model.name={config.model.name} "
                          "and would be a little wrong in it; use those that docs/networks.md names")  # fmt: skip
    return _of_card(card, tree, usual)


def _card(origin: Origin, fetch: bool) -> Path | None:
    """The `config.json` that belongs to the weights; None without one."""
    if origin.kind == "hub":
        try:
            return hub.download(origin, CARD) if fetch else hub.cached(origin, CARD)
        except FileNotFoundError:
            return None
    path = origin.path
    return path.with_name(CARD) if path.name == "model.safetensors" and path.with_name(CARD).is_file() else None


def _tree(path: Path) -> Mapping[str, Any]:
    """Returns the content of a `config.json`."""
    try:
        tree = json.loads(read_small(path))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, error) from None
    return tree if isinstance(tree, Mapping) else {}


def _of_card(path: Path, tree: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
    """Returns the images that a `config.json` names; where it says nothing, the usual ones."""
    said = tree.get("pretrained_cfg", tree)
    try:
        return _said(said, usual) if isinstance(said, Mapping) else usual
    except (ValueError, TypeError, ArithmeticError, ConfigError) as error:
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> ConfigError:
    return ConfigError(f"model.weights: {path} is damaged ({' '.join(str(error).split())[:120]}); get it again, or put model.safetensors in a "
                       "folder without it")  # fmt: skip


def _said(card: Mapping[str, Any], usual: Preprocessing) -> Preprocessing:
    channels, height, width = card.get("input_size", (3, *usual.shape))
    fields = {
        "size": height,
        "width": 0 if width == height else width,
        "resize": card["interpolation"] if card.get("interpolation") in RESIZES else usual.resize,
        "mean": [float(value) for value in card.get("mean", usual.mean)],
        "deviation": [float(value) for value in card.get("std", usual.deviation)],
    }
    made = Preprocessing.from_dict(fields)
    size = KEYS["image.size"]
    if (
        channels != 3
        or not all(size.least <= side <= size.most for side in made.shape)
        or max(map(math.fabs, made.mean)) > 1
    ):
        raise ValueError(f"input_size {card.get('input_size')}, mean {card.get('mean')}")
    return made
