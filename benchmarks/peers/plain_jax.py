"""JAX as most people write it: `lax` convolutions, `reduce_window`, `value_and_grad`, optax, `jit`."""

import functools
import importlib.metadata
import itertools
import math
from concurrent.futures import ThreadPoolExecutor

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import lax

from benchmarks import folders, tasks
from benchmarks.measures import images_per_second, paced


def open_peer(settings: tasks.Settings, name: str) -> "PlainJax":
    return PlainJax(settings)


def conv(x, kernel, stride=1, padding="SAME"):
    return lax.conv_general_dilated(x, kernel.astype(x.dtype), (stride, stride), padding,
                                    dimension_numbers=("NHWC", "HWIO", "NHWC"))  # fmt: skip


def pool(x, window, stride, padding="VALID"):
    return lax.reduce_window(x, -jnp.inf, lax.max, (1, window, window, 1), (1, stride, stride, 1), padding)


def convnet(p, x, key, *, layers, pool_stride, dropout):
    for layer in layers:
        if layer.kind == "conv":
            x = conv(x, p[f"{layer.name}/kernel"], padding=layer.padding.upper()) + p[f"{layer.name}/bias"].astype(x.dtype)
        elif layer.kind == "pool":
            x = pool(x, 2, pool_stride)
        elif layer.kind == "flatten":
            x = x.reshape(x.shape[0], -1)
        elif layer.kind == "dense":
            x = x @ p[f"{layer.name}/kernel"].astype(x.dtype) + p[f"{layer.name}/bias"].astype(x.dtype)
        elif dropout:
            key, mine = jax.random.split(key)
            x = jnp.where(jax.random.bernoulli(mine, 1 - layer.rate, x.shape), x / (1 - layer.rate), 0)
        if layer.kind in ("conv", "dense") and layer.relu:
            x = jax.nn.relu(x)
    return x, {}


def residual(p, x, key, *, blocks, training):
    averages = {}

    def norm(x, name):
        if training:
            y = x.astype(jnp.float32)
            mean, var = y.mean((0, 1, 2)), y.var((0, 1, 2))
            for leaf, value in (("mean", mean), ("var", var)):
                old = p[f"{name}/{leaf}"]
                averages[f"{name}/{leaf}"] = old + (1 - tasks.NORM_MOMENTUM) * (value - old)
        else:
            mean, var = p[f"{name}/mean"], p[f"{name}/var"]
        scale = p[f"{name}/scale"] * lax.rsqrt(var + tasks.NORM_EPSILON)
        return (x * scale + p[f"{name}/bias"] - mean * scale).astype(x.dtype)

    edge = lambda n: ((n, n), (n, n))  # noqa: E731
    x = jax.nn.relu(norm(conv(x, p["conv1/kernel"], 2, edge(3)), "norm1"))
    x = pool(x, 3, 2, ((0, 0), (1, 1), (1, 1), (0, 0)))
    for name, convs, projects in blocks:
        y = x
        for i, (_, kernel, stride) in enumerate(convs, 1):
            y = norm(conv(y, p[f"{name}/conv{i}/kernel"], stride, edge(kernel // 2)), f"{name}/norm{i}")
            y = jax.nn.relu(y) if i < len(convs) else y
        if projects:
            x = norm(conv(x, p[f"{name}/projection/kernel"], projects, "VALID"), f"{name}/norm_projection")
        x = jax.nn.relu(x + y)
    x = x.mean((1, 2))
    return x @ p["outputs/kernel"].astype(x.dtype) + p["outputs/bias"].astype(x.dtype), averages


def warp(key, image, *, flip_vertical=False, rotation=36.0, zoom=0.1, shift=0.0, shear=0.0):
    """One image [size, size, 3], float32, by one random matrix."""
    size = image.shape[0]
    k = jax.random.split(key, 7)
    uniform = lambda key, most: jax.random.uniform(key, (), minval=-most, maxval=most)  # noqa: E731
    angle, slant, scale = uniform(k[0], math.radians(rotation)), uniform(k[1], math.radians(shear)), 1 + uniform(k[2], zoom)
    flips = jnp.where(jax.random.bernoulli(k[3], 0.5, (2,)), -1.0, 1.0)
    flips = flips if flip_vertical else flips.at[0].set(1.0)
    c, s = jnp.cos(angle), jnp.sin(angle)
    matrix = scale * jnp.array([[c, -s], [s, c]]) @ jnp.array([[1.0, 0.0], [jnp.tan(slant), 1.0]]) * flips
    centre = (size - 1) / 2
    grid = jnp.stack(jnp.meshgrid(jnp.arange(size), jnp.arange(size), indexing="ij")).reshape(2, -1) - centre
    places = (
        (matrix @ grid).reshape(2, size, size)
        + centre
        + jax.random.uniform(k[4], (2, 1, 1), minval=-shift, maxval=shift) * size
    )
    sample = lambda plane: jax.scipy.ndimage.map_coordinates(plane, places, 1, "reflect")  # noqa: E731
    return jax.vmap(sample, 2, 2)(image)


@functools.partial(jax.jit, static_argnames=("suite",))
def augment(key, images, suite=()):
    return jax.vmap(functools.partial(warp, **dict(suite)))(jax.random.split(key, len(images)), images.astype(jnp.float32))


class PlainJax:
    def __init__(self, settings: tasks.Settings):
        self.settings = settings
        self.tx = optax.adam(tasks.RATE, eps=tasks.EPSILON)

    def about(self) -> dict:
        versions = {name: importlib.metadata.version(name) for name in ("jax", "jaxlib", "optax", "numpy")}
        return {"platform": jax.devices()[0].platform, "device": jax.devices()[0].device_kind, "versions": versions}

    def device_memory(self) -> int:
        return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    def _network(self, training: bool, dropout: bool):
        dtype = jnp.dtype(self.settings.precision)
        if self.settings.spec.depths:
            apply = functools.partial(residual, blocks=tasks.blocks(self.settings.spec), training=training)
        else:
            apply = functools.partial(convnet, layers=tasks.layers(self.settings), pool_stride=self.settings.spec.pool_stride,
                                      dropout=training and dropout)  # fmt: skip

        def run(p, images, key):
            logits, averages = apply(p, (images.astype(jnp.float32) / 255).astype(dtype), key)
            return logits.astype(jnp.float32), averages

        return run

    def _loss(self, logits, labels):
        if logits.shape[-1] == 1:
            each = optax.sigmoid_binary_cross_entropy(logits[:, 0], labels)
            return each.mean(), ((logits[:, 0] > 0) == labels).mean()
        each = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
        return each.mean(), (logits.argmax(-1) == labels).mean()

    def _start(self, dropout: bool = True, images_of=lambda key, images: images):
        """(step, first carry): step(carry, images, labels) -> carry, {"loss", "accuracy"}."""
        network = self._network(True, dropout)

        def loss_fn(trained, averages, images, labels, key):
            logits, new = network(trained | averages, images, key)
            loss, accuracy = self._loss(logits, labels)
            return loss, (accuracy, new)

        def step(carry, images, labels):
            trained, averages, opt_state, key = carry
            key, mine = jax.random.split(key)
            images = images_of(mine, images)
            (loss, (accuracy, new)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
                trained, averages, images, labels, mine
            )
            updates, opt_state = self.tx.update(grads, opt_state, trained)
            return (optax.apply_updates(trained, updates), averages | new, opt_state, key), {
                "loss": loss,
                "accuracy": accuracy,
            }

        flat = {k: jnp.asarray(v) for k, v in tasks.weights(self.settings).items()}
        averages = {k: v for k, v in flat.items() if k.endswith(("/mean", "/var"))}
        trained = {k: v for k, v in flat.items() if k not in averages}
        return jax.jit(step, donate_argnums=0), (trained, averages, self.tx.init(trained), jax.random.key(0))

    def losses(self, steps: int) -> dict:
        images, labels = map(jnp.asarray, tasks.batch(self.settings))
        step, carry = self._start(dropout=False)
        logits = jax.jit(self._network(False, False))(carry[0] | carry[1], images, None)[0]
        loss, training = float(self._loss(logits, labels)[0]), []
        for _ in range(steps):
            carry, values = step(carry, images, labels)
            training.append(float(values["loss"]))
        return {"inference": loss, "training": training}

    def _stepper(self):
        images, labels = map(jnp.asarray, tasks.batch(self.settings))
        step, carry = self._start()
        carried = [carry, None]

        def call():
            carried[0], carried[1] = step(carried[0], images, labels)

        return call, lambda: jax.block_until_ready(carried)

    def first_step(self) -> None:
        call, finish = self._stepper()
        call()
        finish()

    def make_step(self):
        turn = paced(*self._stepper(), self.settings.seconds)
        return lambda: {"step": turn()}

    def make_epoch(self):
        import time

        images, labels, train, val = folders.decoded_split(self.settings)
        step, carry = self._start(images_of=lambda key, images: augment(key, images))
        logits = jax.jit(lambda p, images: self._network(False, False)(p, images, None)[0])
        rng, b = np.random.default_rng(0), self.settings.batch

        def epoch():
            nonlocal carry
            start, order = time.perf_counter(), rng.permutation(train)
            for i in range(0, len(order) - b + 1, b):
                carry, _ = step(carry, images[order[i : i + b]], labels[order[i : i + b]])
            outputs = [logits(carry[0] | carry[1], images[val[i : i + b]]) for i in range(0, len(val), b)]
            self._loss(jnp.concatenate(outputs), labels[val])[0].block_until_ready()
            return {"epoch with evaluation": time.perf_counter() - start}

        epoch()
        return epoch

    def _decode(self, paths) -> np.ndarray:
        with ThreadPoolExecutor(self.settings.threads) as pool:
            return np.stack(list(pool.map(lambda path: folders.read(path, self.settings.size), paths)))

    def make_decode(self):
        def turn():
            return {"decode a folder": images_per_second(lambda: len(self._decode(folders.listed(self.settings.data)[0])))}

        turn()
        return turn

    def make_predict(self):
        paths, b = folders.listed(self.settings.data)[0], 64
        names, flat = itertools.cycle(paths), {k: jnp.asarray(v) for k, v in tasks.weights(self.settings).items()}
        logits = jax.jit(lambda images: self._network(False, False)(flat, images, None)[0])

        def probabilities(some, count):
            padded = np.zeros((count, self.settings.size, self.settings.size, 3), np.uint8)
            padded[: len(some)] = self._decode(some) if len(some) > 1 else folders.read(some[0], self.settings.size)
            return np.asarray(logits(padded))[: len(some)]

        def folder() -> int:
            return len(np.concatenate([probabilities(paths[i : i + b], b) for i in range(0, len(paths), b)]))

        one = paced(lambda: probabilities([next(names)], 1), lambda: None, self.settings.seconds / 2)
        folder()
        return lambda: {"predict one file": one(), "predict a folder": images_per_second(folder)}

    def make_augment(self):
        images, count, last = jnp.asarray(tasks.batch(self.settings)[0]), itertools.count(), [None]
        suite = (("flip_vertical", True), ("shift", 0.1), ("shear", 5.7))

        def call():
            last[0] = augment(jax.random.key(next(count)), images, suite)

        turn = paced(call, lambda: jax.block_until_ready(last), self.settings.seconds)
        return lambda: {"augment": turn()}
