"""Fine-tuning: parameters that are frozen, always or up to an epoch, and learning rates that fall towards the first layer."""

import dataclasses
import math
import re
from collections.abc import Collection

import jax
import optax
from flax import traverse_util

from cnnjax.errors import ConfigError
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models import Layered, Network
from cnnjax.training.optimizers import Optimizer, make_optimizer, no_optimizer

Path = tuple[str | int, ...]
BACKBONE = "backbone"  # everything but the last layer


def split(tree: dict, paths: Collection[Path]) -> tuple[dict, dict]:
    """Divides nested dicts: without the leaves at `paths`, and these alone."""
    if not paths:
        return tree, {}
    flat = traverse_util.flatten_dict(tree)
    inside = {path: leaf for path, leaf in flat.items() if path in paths}
    outside = {path: leaf for path, leaf in flat.items() if path not in paths}
    return traverse_util.unflatten_dict(outside), traverse_util.unflatten_dict(inside)


def joined(tree: dict, more: dict) -> dict:
    """Reverses `split`."""
    if not more:
        return tree
    return traverse_util.unflatten_dict(traverse_util.flatten_dict(tree) | traverse_util.flatten_dict(more))


def frozen_paths(text: str, network: Network) -> frozenset[Path]:
    """Returns the paths of the parameters that `train.freeze` names.

    Args:
        text: of the key. A regular expression names a parameter where it is the whole of its dotted name, or of the name of a
            module that it is part of.
        network: whose parameters.

    Raises:
        ConfigError: it names no parameter, or all.
    """
    if not text:
        return frozenset()
    paths = [*traverse_util.flatten_dict(network.shapes[0])]
    if text == BACKBONE:
        last = [layer.module for layer in network.model.layers if layer.module][-1]
        found = frozenset(path for path in paths if path[0] != last)
    else:
        pattern = re.compile(text)
        found = frozenset(path for path in paths if any(map(pattern.fullmatch, _names(path))))
    if len(found) in (0, len(paths)):
        wrong = "matches every parameter" if found else "matches no parameter"
        names = [layer.module for layer in network.model.layers if layer.module]
        raise ConfigError(f"train.freeze={text}: {wrong}; use {BACKBONE}, or a regular expression that matches the whole of some of {', '.join(names[:3])}, ..., "
                          f"{names[-1]}, or of the names in them, such as {_names(paths[0])[-1]}")  # fmt: skip
    return found


def _names(path: Path) -> list[str]:
    """Returns the dotted names of a parameter and of the modules that it is part of, the outermost first."""
    return [".".join(map(str, path[:length])) for length in range(1, len(path) + 1)]


def layer_factors(decay: float, network: Network) -> dict[Path, float]:
    """Returns the factor on the learning rate of each parameter: decay ** (L - l) in layer l of L (BEiT, arXiv:2106.08254).

    Layers with parameters count. A norm is part of the layer before it, and parameters outside of all layers of the first.
    A decay of 1 gives {}.
    """
    if decay == 1:
        return {}
    depths = _depths(network.model)
    last = max(depths.values())
    return {path: decay ** (last - depths.get(path[0], 0)) for path in traverse_util.flatten_dict(network.shapes[0])}


def _depths(model: Layered) -> dict[str, int]:
    """Returns module -> number of its layer, from 0."""
    depths: dict[str, int] = {}
    for layer in model.layers:
        if layer.module and layer.kind not in ("whiten", "dropout") and layer.module not in depths:
            depths[layer.module] = max(depths.values(), default=0) + (bool(depths) and layer.kind != "norm")
    return depths


@dataclasses.dataclass(frozen=True)
class PartlyFrozen:
    """An optimizer of parameters of which some are frozen, with nothing of its own for those that stay so.

    Attributes:
        frozen: paths of the parameters.
        until: updates before the first that trains them too; 0: they stay frozen.
        trained: optimizer of the others.
        later: optimizer of the frozen, from `until` on.
        clip_norm: of the gradients of all that an update trains; 0: `trained` clips.
    """

    frozen: frozenset[Path]
    until: int
    trained: Optimizer
    later: Optimizer
    clip_norm: float

    def init(self, params: dict) -> optax.OptState:
        """Returns the state before the first update: the same arrays before and after `until`."""
        trained, frozen = split(params, self.frozen)
        if not self.until:
            return self.trained.init(trained)
        return {"trained": self.trained.init(trained), "frozen": self.later.init(frozen)}

    def update(self, grads: dict, opt_state: optax.OptState, params: dict, scale: jax.Array, *, ops: Ops = PLAIN
               ) -> tuple[dict, optax.OptState]:  # fmt: skip
        """Returns new parameters and the new state, as `Optimizer.update`; `grads` and `params` are of those that are trained now."""
        if not self.until:
            return self.trained.update(grads, opt_state, params, scale, ops=ops)
        if self.clip_norm:
            grads, _ = optax.clip_by_global_norm(self.clip_norm).update(grads, optax.EmptyState())
        (grads, late_grads), (params, late) = split(grads, self.frozen), split(params, self.frozen)
        new, state = self.trained.update(grads, opt_state["trained"], params, scale, ops=ops)
        if not late:
            return new, {**opt_state, "trained": state}
        late, late_state = self.later.update(late_grads, opt_state["frozen"], late, scale, ops=ops)
        return joined(new, late), {"trained": state, "frozen": late_state}


def tuned_optimizer(config, network: Network, rate: optax.Schedule, steps_per_epoch: int) -> Optimizer | PartlyFrozen:
    """Returns the optimizer of a whole config for a network.

    Args:
        config: of a run.
        network: what is trained.
        rate: step -> learning rate of the last layer.
        steps_per_epoch: for `train.unfreeze_epoch`.

    Raises:
        ConfigError: `train.freeze` names no parameter of the network, or all.
    """
    section, train = config.optimizer, config.train
    if train.method == "probe":
        return no_optimizer(section, rate)
    factors, frozen = layer_factors(section.layer_decay, network), frozen_paths(train.freeze, network)
    if not frozen:
        return make_optimizer(section, rate, factors)
    until = max(train.unfreeze_epoch - 1, 0) * steps_per_epoch
    if not until:
        return PartlyFrozen(frozen, 0, made := make_optimizer(section, rate, factors), made, 0.0)
    part = dataclasses.replace(section, clip_norm=0.0)
    # Its own count of updates, from which Adam's averages begin; the learning rate is that of all.
    later = make_optimizer(part, lambda count: rate(count + until), factors)
    return PartlyFrozen(frozen, until, make_optimizer(part, rate, factors), later, section.clip_norm)


def frozen_at(tx: Optimizer | PartlyFrozen, step: int) -> frozenset[Path]:
    """Returns the paths of the parameters that the update after `step` updates leaves as they are."""
    return frozenset() if tx.until and step >= tx.until else tx.frozen


def trained_of(params: dict, tx: Optimizer | PartlyFrozen) -> dict:
    """Returns the parameters, or shapes, that are trained at last, if not from the start."""
    return split(params, frozen_at(tx, tx.until))[0]


def still(network: Network, frozen: Collection[Path], *, statistics: bool) -> Network:
    """Returns the network as it is trained while some parameters are frozen.

    Args:
        network: as made.
        frozen: paths of parameters. Batch normalisation all of whose parameters are among them uses its running averages.
        statistics: all batch normalisation does.
    """
    norms = network.norms()
    held = {
        path for path, names in norms.items() if statistics or (names and all((*path, name) in frozen for name in names))
    }
    return network.holding(held) if held else network


def tuning_lines(config, network: Network, tx: Optimizer | PartlyFrozen) -> list[str]:
    """Returns lines for the screen: the parameters that are frozen, and a setting without effect."""
    lines, train = [], config.train
    if tx.frozen:
        sizes = {path: math.prod(x.shape) for path, x in traverse_util.flatten_dict(network.shapes[0]).items()}
        up_to = f" up to epoch {train.unfreeze_epoch - 1}" if tx.until else ""
        lines.append(f"{sum(sizes[path] for path in tx.frozen):,} of {sum(sizes.values()):,} parameters are frozen{up_to} "
                     f"(train.freeze={train.freeze})")  # fmt: skip
    if (tx.frozen or train.method == "probe") and not config.model.weights:
        lines.append(
            "what is not trained is drawn at random; --config.model.weights names published weights, or those of a run"
        )
    if train.frozen_statistics and not network.norms():
        lines.append(f"train.frozen_statistics has no effect: {config.model.name} has no batch normalisation")
    return lines
