"""The pure steps, and the one place that compiles them."""

import dataclasses
import functools
from collections.abc import Callable, Collection, Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import lax

from cnnjax import runtime
from cnnjax.augmentation import Custom, Targets, augment, mix, of_partners
from cnnjax.config import load_own
from cnnjax.errors import ConfigError
from cnnjax.inference import compile_features, compile_logits, compile_plain, compile_stored
from cnnjax.kernels import PLAIN, Ops
from cnnjax.models import Network, averages, shardings, with_shardings
from cnnjax.streams import Stream
from cnnjax.training.finetuning import PartlyFrozen, joined, split, still
from cnnjax.training.losses import Loss, cross_entropy, cross_entropy_of_labels, find_loss, predicted
from cnnjax.training.optimizers import Optimizer
from cnnjax.training.phases import Phase, find_phases, resized
from cnnjax.training.state import TrainState, initial


def training_images(step: jax.Array, batch: dict, *, augment_config, seed: int, ops: Ops = PLAIN, custom: Custom | None = None,
                    shape: tuple[int, int] | None = None) -> tuple[jax.Array, Targets]:  # fmt: skip
    """Returns the images of the update after `step` updates; a pure function of the seed, the step and the batch.

    Args:
        step: int32, updates done.
        batch: {"image": uint8 [b, size, size, 3], "label": int32 [b]}.
        augment_config: the `augment` section.
        seed: of the run.
        ops: what samples the images.
        custom: the user's own operation.
        shape: height and width in pixels that the images get before they are mixed; None: they keep theirs.

    Returns:
        Images [b, *shape, 3] in [0, 255], float32, or uint8 where nothing is switched on; and their targets.
    """
    key = jax.random.split(_step_key(step, seed))[0]
    images = augment(key, batch["image"], augment_config, ops=ops, custom=custom)
    return mix(key, resized(images, shape) if shape else images, batch["label"], augment_config)


def _step_key(step: jax.Array, seed: int) -> jax.Array:
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), Stream.STEPS), step)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a step trains.

    Attributes:
        augment: the `augment` section.
        seed: with the step, the source of all randomness of an update.
        smoothing: fraction of each label that is spread over all classes.
        accumulate: parts into which a batch is divided, one after the other, to save memory; the update is the same, but
            batch normalisation sees one part at a time.
        ema_decay: of the moving average of the parameters; 0: none.
        ema_statistics: whether it is of the statistics too.
        loss: of logits and probabilities, as `losses.cross_entropy`.
        custom: the user's own operation of augmentation.
        settle: running averages begin here; see `Network.settled`.
    """

    augment: object
    seed: int
    smoothing: float = 0.0
    accumulate: int = 1
    ema_decay: float = 0.0
    ema_statistics: bool = True
    loss: Loss = cross_entropy
    custom: Custom | None = None
    settle: bool = True


def recipe(config) -> Recipe:
    """Returns the recipe of a whole config. Raises ConfigError where code of the user's own cannot be imported."""
    train = config.train
    augment = config.augment
    if config.data.cache == "encoded":  # its images are cropped where they are decoded
        augment = dataclasses.replace(augment, crop_area=1.0)
    return Recipe(augment, config.seed, train.label_smoothing, train.accumulate, train.ema_decay, train.ema_statistics,
                  loss=find_loss(train), custom=find_custom(config.augment.custom), settle=not config.model.weights)  # fmt: skip


def find_custom(text: str) -> Custom | None:
    """Returns the augmentation that "FILE.py:NAME" names; None for "".

    Raises:
        ConfigError: no such file or name, or it is not a function.
    """
    if not text:
        return None
    found = load_own(text)
    if not callable(found):
        raise ConfigError(f"augment.custom={text}: this is not a function; write one of (key, images), which returns images")
    return found


def train_step(state: TrainState, batch: dict, *, network: Network, tx: Optimizer | PartlyFrozen, recipe: Recipe,
               alone: bool = False, frozen: Collection[tuple] = (), shape: tuple[int, int] | None = None
               ) -> tuple[TrainState, dict]:  # fmt: skip
    """One update.

    Args:
        state: before the update.
        batch: {"image": uint8 [b, size, size, 3], "label": int32 [b]}, and "weight", float32 [b] of their losses, where classes
            have weights.
        network, tx: what is trained and how.
        recipe: the rest of how.
        alone: this is compiled for one device.
        frozen: paths of parameters that stay as they are; below the first layer with others there is no backward pass.
        shape: height and width that the images get; None: they keep theirs.

    Returns:
        The state after it, and {"loss", "accuracy"} of this batch (augmented, with dropout; a mixed image counts as the
        class that most of it shows).
    """
    dropout_key = jax.random.split(_step_key(state.step, recipe.seed))[1]
    images, targets = training_images(
        state.step,
        batch,
        augment_config=recipe.augment,
        seed=recipe.seed,
        ops=network.ops,
        custom=recipe.custom,
        shape=shape,
    )
    plain = not (recipe.augment.mixup or recipe.augment.cutmix or recipe.smoothing)
    shown = batch["label"] if plain else jnp.where(targets.weight >= 0.5, targets.labels, targets.partners)
    weights = batch.get("weight")  # of the classes that an image shows, in their shares
    if weights is not None and not plain:
        weights = targets.weight * weights + (1 - targets.weight) * of_partners(weights)

    trained, held = split(state.params, frozen)

    def loss_fn(trained, stats, images, targets, shown, weights, key):
        model = nnx.merge(network.train_def, joined(trained, held), stats)
        logits = model(images, nnx.Rngs(dropout=key))
        if plain and recipe.loss is cross_entropy:
            each = cross_entropy_of_labels(logits, shown)
        else:
            each = recipe.loss(logits, targets.probabilities(network.classes, recipe.smoothing))
        if weights is not None:
            each = each * weights
        correct = (predicted(logits) == shown).sum().astype(jnp.float32)
        return each.mean(), (correct, nnx.to_pure_dict(nnx.state(model, nnx.Not(nnx.Param))))

    stats, parts = state.stats, recipe.accumulate
    loss = correct = jnp.float32(0)
    grads = None
    # Unrolled: inside a loop the backward pass of a convolution is many times slower on a CPU.
    for i in range(parts):
        # Every parts-th image, so that each device takes from its own images.
        part = (images, targets, shown, weights)
        if parts > 1:
            part = jax.tree.map(lambda x, i=i: x.reshape(-1, parts, *x.shape[1:])[:, i], part)
        key = jax.random.fold_in(dropout_key, i) if parts > 1 else dropout_key
        (part_loss, (part_correct, found)), part_grads = jax.value_and_grad(loss_fn, has_aux=True)(
            trained, stats, *part, key)  # fmt: skip
        stats = network.settled(stats, found, state.step * parts + i) if recipe.settle else found
        loss, correct = loss + part_loss / parts, correct + part_correct
        grads = part_grads if grads is None else jax.tree.map(jnp.add, grads, part_grads)
    if parts > 1:
        grads = jax.tree.map(lambda g: g / parts, grads)
    new, opt_state = tx.update(grads, state.opt_state, trained, state.scale, ops=network.ops if alone else PLAIN)
    params, ema = joined(new, held), state.ema
    if recipe.ema_decay:
        ema = averaged(ema, averages(params, stats, recipe.ema_statistics), recipe.ema_decay, state.step)
    count = jnp.float32(batch["label"].shape[0])
    sums = {
        "loss": state.sums["loss"] + loss * count,
        "correct": state.sums["correct"] + correct,
        "count": state.sums["count"] + count,
    }
    values = {"loss": loss, "accuracy": correct / count}
    return TrainState(state.step + 1, params, stats, opt_state, sums, state.scale, ema), values


def averaged(average: dict, values: dict, decay: float, step: jax.Array) -> dict:
    """Returns a moving average after `step` earlier updates; its memory is short at first, so that the initial weights do not linger."""
    step = step.astype(jnp.float32)
    decay = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda e, x: e + (1 - decay) * (x - e), average, values)


@dataclasses.dataclass(frozen=True)
class Steps:
    """Compiled for a mesh: parameters where `runtime.placed` says, batches divided."""

    abstract: TrainState  # shapes, with their places
    first: Callable[[], TrainState]  # makes the state before the first update
    train: Callable[[TrainState, dict, dict | None], tuple[TrainState, dict]]  # `train_steps`; takes the state's memory
    logits: Callable[[dict, jax.Array], jax.Array]  # over `image.views`
    plain: Callable[[dict, jax.Array], jax.Array]  # of images as they are; `logits` itself where there are no other views
    stored: Callable[[dict, jax.Array], Sequence[jax.Array]]  # the same of images that are stored on the devices
    features: Callable[[dict, jax.Array], jax.Array]  # up to the last layer
    phases: tuple[
        tuple[Phase, Callable[[TrainState, dict, dict | None], tuple[TrainState, dict]]], ...
    ]  # the last one's is `train`
    until: int  # updates that leave parameters as they are which those after train, too

    def at(self, step: int) -> tuple[Phase, Callable[[TrainState, dict, dict | None], tuple[TrainState, dict]]]:
        """Returns the phase of the update after `step` updates, and its program."""
        return next((phase, program) for phase, program in self.phases if step < phase.end)


def compile_augmentation(config, ops: Ops) -> Callable[[jax.Array, dict], tuple[jax.Array, Targets]]:
    """`training_images` of a run's config by itself, to look at and to time: (step, batch) -> images and targets."""
    chosen = recipe(config)
    return jax.jit(
        functools.partial(training_images, augment_config=chosen.augment, seed=chosen.seed, ops=ops, custom=chosen.custom)
    )


def train_steps(state: TrainState, batch: dict, resident: dict | None, *, most: int, step: Callable, mesh: jax.sharding.Mesh
                ) -> tuple[TrainState, dict]:  # fmt: skip
    """The updates of what a feed of `pipeline` has given.

    Args:
        state: before them.
        batch, resident: see `pipeline.HostFeed` and `pipeline.DeviceFeed`.
        most: of the feed.
        step: `train_step` of a state and a batch.
        mesh: where to lay batches that are picked on the device.

    Returns:
        The state after them, and what `train_step` returns, of several each: [most].
    """
    if resident is None:
        return step(state, batch)
    spread = runtime.batched(mesh)

    def one(i, state: TrainState) -> tuple[TrainState, dict]:
        picked = jax.tree.map(lambda x: lax.with_sharding_constraint(x[batch["place"][i]], spread), resident)
        return step(state, picked)

    if most == 1:
        return one(0, state)

    def body(i, carry):
        state, values = one(i, carry[0])
        return state, jax.tree.map(lambda all, x: all.at[i].set(x), carry[1], values)

    empty = jax.tree.map(lambda x: jnp.zeros((most, *x.shape), x.dtype), jax.eval_shape(lambda s: one(0, s)[1], state))
    return lax.fori_loop(0, batch["count"], body, (state, empty))


def compile_steps(
    network: Network, tx: Optimizer | PartlyFrozen, mesh: jax.sharding.Mesh, config, most: int = 1, steps_per_epoch: int = 1
) -> Steps:
    """The steps of a training run; `most` is the feed's."""
    chosen = recipe(config)
    platform = runtime.platform_of(mesh)

    def make():
        return initial(network, tx, ema=bool(chosen.ema_decay), statistics=chosen.ema_statistics)

    def train(phase, state, batch, resident=None):
        trained = still(network, phase.frozen, statistics=config.train.frozen_statistics)
        step = functools.partial(train_step, network=trained, tx=tx, recipe=chosen, alone=mesh.size == 1, frozen=phase.frozen,
                                 shape=phase.shape)  # fmt: skip
        return train_steps(state, batch, resident, most=most, step=step, mesh=mesh)

    def compiled(phase):
        return jax.jit(functools.partial(train, phase), donate_argnums=0, out_shardings=(places, runtime.replicated(mesh)),
                       compiler_options=runtime.compiler_options(platform))  # fmt: skip

    abstract = with_shardings(jax.eval_shape(make), mesh)
    places = shardings(abstract, mesh)
    first = jax.jit(make, out_shardings=places, compiler_options=runtime.compiler_options(platform, once=True))
    phases = tuple((phase, compiled(phase)) for phase in find_phases(config, tx, steps_per_epoch))
    logits = compile_logits(network, mesh)
    plain = logits if network.model.preprocessing.views == "plain" else compile_plain(network, mesh)
    return Steps(abstract, first, phases[-1][1], logits, plain, compile_stored(network, mesh), compile_features(network, mesh), phases,
                 tx.until)  # fmt: skip
