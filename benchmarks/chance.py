"""How often are two networks called different that differ in the seed alone?

    python -m benchmarks.chance
    python -m benchmarks.chance --pairs=200

Cells of the demo at 16 pixels. Each pair has a division of its own of the patients: one half trains two networks of two strided
convolutions and a dense layer, the other half judges both. The table counts the pairs that each test calls different at 5 %: as they
were trained, where a seed may have given the better network, and with the answers for each patient exchanged by a coin, where neither
is better. McNemar's and DeLong's tests take each cell for a patient by itself, as cnnjax does only where images have no groups.
"""

import argparse
import io

import jax
import jax.numpy as jnp
import numpy as np
import optax
from PIL import Image

from cnnjax import metrics
from cnnjax.data import demo

EXCHANGES = 10  # of each pair
SIDE, WIDTH, STEPS, BATCH = 16, 16, 400, 32


def drawn(cells: int, patients: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images float32 [n, side, side, 3] of mean 0, labels int [n] (1: parasitized) and patients [n]."""
    ids = demo.ids(0, cells, patients)
    pixels = [
        Image.open(io.BytesIO(demo.draw(0, id))).convert("RGB").resize((SIDE, SIDE), Image.Resampling.BILINEAR) for id in ids
    ]
    images = np.stack([np.asarray(image, np.float32) for image in pixels]) / 255
    owners = [id.rpartition("/")[2].split("P")[0] for id in ids]
    return images - images.mean((0, 1, 2)), np.array([id.startswith("Parasitized") for id in ids], int), np.array(owners)


def patches(x: jax.Array, size: int) -> jax.Array:
    """Squares that do not overlap, [n, h, w, c] -> [n, h / size, w / size, size * size * c]: what a strided convolution multiplies."""
    n, h, w, c = x.shape
    x = x.reshape(n, h // size, size, w // size, size, c)
    return x.transpose(0, 1, 3, 2, 4, 5).reshape(n, h // size, w // size, size * size * c)


def logits(state: dict, images: jax.Array) -> jax.Array:
    """Logits of the second class, [n]."""
    x = jax.nn.relu(patches(images, 4) @ state["first"])
    x = jax.nn.relu(patches(x, 2) @ state["second"])
    return x.reshape(len(x), -1) @ state["dense"]


@jax.jit
def train(key: jax.Array, images: jax.Array, labels: jax.Array) -> dict:
    """Trains one network with Adam; the key decides the first weights and the batches."""
    keys = jax.random.split(key, 4)
    shapes = {"first": (48, WIDTH), "second": (4 * WIDTH, 2 * WIDTH), "dense": (8 * WIDTH,)}
    state = {
        name: jax.random.normal(k, shape) / shape[0] ** 0.5
        for k, (name, shape) in zip(keys[:3], shapes.items(), strict=True)
    }
    optimizer = optax.adam(optax.cosine_decay_schedule(3e-3, STEPS))

    def loss(state: dict, rows: jax.Array) -> jax.Array:
        return optax.sigmoid_binary_cross_entropy(logits(state, images[rows]), labels[rows]).mean()

    def step(held, rows):
        updates, slots = optimizer.update(jax.grad(loss)(held[0], rows), held[1])
        return (optax.apply_updates(held[0], updates), slots), None

    batches = jax.random.randint(keys[3], (STEPS, BATCH), 0, len(images))
    return jax.lax.scan(step, (state, optimizer.init(state)), batches)[0][0]


def side(z: np.ndarray) -> metrics.Side:
    """The answers of logits of the second class."""
    p = 1 / (1 + np.exp(-np.float64(z)))
    return metrics.Side((z > 0).astype(int), np.stack([1 - p, p], 1), np.float64(z))


def different(labels: np.ndarray, sides: list[metrics.Side], patients: np.ndarray) -> dict[str, bool]:
    """Returns what each test says of two networks at 5 %, by its name."""
    found = {}
    for kind, groups in (("patients", patients), ("cells", [""] * len(patients))):
        pair = metrics.compared(labels, *sides, metrics.Groups.of(groups, "patient"), 1)
        for name in ("accuracy", "auc"):
            difference = pair.metrics[name]
            found[f"{name} by {kind}, {difference.test}"] = difference.p is not None and difference.p < 0.05
    return found


def exchanged(rng: np.random.Generator, scores: list[np.ndarray], patients: np.ndarray) -> list[np.ndarray]:
    """The logits of two networks, exchanged for about half of the patients."""
    names, index = np.unique(patients, return_inverse=True)
    coin = (rng.random(len(names)) < 0.5)[index]
    return [np.where(coin, *order) for order in (scores, scores[::-1])]


def main() -> None:
    """Trains the pairs and prints the counts."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name, value in (("pairs", 40), ("cells", 1500), ("patients", 50)):
        parser.add_argument(f"--{name}", type=int, default=value)
    flags = parser.parse_args()
    images, labels, patients = drawn(flags.cells, flags.patients)
    trained, fair, accuracy, luck = [], [], [], []
    for number in range(flags.pairs):
        rng = np.random.default_rng(number)
        own = np.isin(patients, rng.permutation(np.unique(patients))[: flags.patients // 2])
        rows = rng.choice(np.flatnonzero(own), flags.cells // 2)  # as many for each pair: one compilation
        states = [train(jax.random.key(2 * number + k), images[rows], jnp.float32(labels[rows])) for k in (0, 1)]
        scores = [np.asarray(logits(state, images[~own])) for state in states]
        trained.append(different(labels[~own], [*map(side, scores)], patients[~own]))
        for _ in range(EXCHANGES):
            turned = exchanged(rng, scores, patients[~own])
            fair.append(different(labels[~own], [*map(side, turned)], patients[~own]))
        right = [((z > 0) == labels[~own]).mean() for z in scores]
        accuracy.append(right[0])
        luck.append(abs(right[1] - right[0]))
    print(f"{flags.pairs} pairs, {flags.patients - flags.patients // 2} patients judge each; accuracy {np.mean(accuracy):.3f}, "
          f"difference {np.mean(luck):.4f} on average")  # fmt: skip
    for title, found in (("as trained", trained), ("exchanged by a coin", fair)):
        print(title)
        for name in found[0]:
            hits = sum(said[name] for said in found)
            print(f"  {hits:4d} of {len(found)} ({hits / len(found):.1%})  {name}")


if __name__ == "__main__":
    main()
