"""cnnjax, through its own functions; nothing here computes what the package computes."""

import importlib.metadata
import itertools
import shutil
import tempfile
import time
from pathlib import Path

from benchmarks import tasks
from benchmarks.measures import images_per_second, paced
from benchmarks.peers.epochs import Epochs
from cnnjax import config as config_lib
from cnnjax.progress import Progress

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
GEOMETRY = {"flip_horizontal": True, "flip_vertical": True, "rotation": 36.0, "zoom": 0.1, "shift": 0.1, "shear": 5.7}


def open_peer(settings: tasks.Settings, name: str) -> "Ours":
    return Ours(settings, "xla" if name == "cnnjax-xla" else "auto")


def load_config(settings: tasks.Settings, *, dropout: bool = True, augment: str = "none", **more):
    """The task's config file with what this comparison changes."""
    values = {
        "data.path": settings.data or "unused",
        "data.cache_dir": str(Path(settings.scratch) / "cache"),
        "data.batch_size": settings.batch,
        "data.classes": (),
        "data.positive": "",
        "image.size": settings.size,
        "image.resize": "bilinear",
        "split.method": "stratified",
        "split.train": 0.8,
        "split.val": 0.2,
        "split.test": 0.0,
        "optimizer.schedule": "constant",
        "train.precision": settings.precision,
        "train.patience": 0,
        "seed": settings.seed,
        "augment": augment,
        "runtime.workers": settings.threads,
    }
    if settings.spec.depths:
        values["model.name"] = settings.task
    elif not dropout:
        values |= {"model.dropout_features": 0.0, "model.dropout_dense": 0.0}
    values |= {key.replace("__", "."): value for key, value in more.items()}
    return config_lib.load_config(CONFIGS / settings.spec.config, values)


def nested(flat: dict) -> dict:
    """{"block1_1/conv1/kernel": x} -> nested dicts."""
    tree: dict = {}
    for name, value in flat.items():
        *path, leaf = name.split("/")
        node = tree
        for part in path:
            node = node.setdefault(part, {})
        node[leaf] = value
    return tree


class Ours:
    def __init__(self, settings: tasks.Settings, kernels: str):
        self.settings, self._kernels = settings, kernels
        self.config = self._config()
        from cnnjax import runtime  # as the command line does: the config first, and a CPU is divided before JAX is used

        runtime.keep_compiled(self.config.data.cache_dir)
        runtime.keep_memory(self.config)
        runtime.divide_cpu(self.config)
        self.mesh = runtime.mesh(divides=settings.batch)
        self.platform = self.mesh.devices.flat[0].platform

    def _config(self, **more):
        return load_config(self.settings, runtime__kernels=self._kernels, **more)

    def about(self) -> dict:
        from cnnjax import __version__, checkpoints, runtime

        versions = checkpoints.versions() | {name: importlib.metadata.version(name) for name in ("jaxlib", "numpy")}
        versions["cnnjax"] = __version__  # it need not be installed
        return {"platform": self.platform, "device": runtime.describe(self.mesh), "versions": versions}

    def device_memory(self) -> int:
        return (self.mesh.devices.flat[0].memory_stats() or {}).get("peak_bytes_in_use", 0)

    def _start(self, config, most: int = 1):
        """Compiled steps, and a state with the weights of the package's own initialisation."""
        from cnnjax import models, runtime
        from cnnjax.training import optimizers, steps

        ops = runtime.ops(config.runtime, runtime.platform_of(self.mesh))
        network = models.network(config, self.settings.classes, ops)
        tx = optimizers.make_optimizer(
            config.optimizer, optimizers.make_schedule(config.optimizer, 100, config.train.epochs)
        )
        compiled = steps.compile_steps(network, tx, self.mesh, config, most)
        return compiled, compiled.first()

    def _with_weights(self, fresh):
        """A state with the weights that all sides share."""
        import jax

        flat = tasks.weights(self.settings)
        parts = [{k: v for k, v in flat.items() if k.endswith(("/mean", "/var")) == stats} for stats in (False, True)]
        for have, given in zip((fresh.params, fresh.stats), map(nested, parts), strict=True):
            if jax.tree.map(lambda x: x.shape, have) != jax.tree.map(lambda x: x.shape, given):
                raise ValueError("the network of cnnjax and that of benchmarks/tasks.py are not the same")
        params, stats = (
            jax.tree.map(lambda x, v: jax.device_put(v, x.sharding), have, given)
            for have, given in zip((fresh.params, fresh.stats), map(nested, parts), strict=True)
        )
        return fresh.replace(params=params, stats=stats)

    def _batch(self) -> dict:
        from cnnjax import runtime
        from cnnjax.training import feeds as pipeline

        images, labels = tasks.batch(self.settings)
        return pipeline.put({"image": images, "label": labels}, runtime.batched(self.mesh))

    def losses(self, steps: int) -> dict:
        from cnnjax import inference, metrics

        images, labels = tasks.batch(self.settings)
        compiled, fresh = self._start(self._config(dropout=False))
        state = self._with_weights(fresh)
        engine = inference.Engine(compiled.logits, {"params": state.params, "stats": state.stats}, self.mesh)
        loss = metrics.headline(engine.logits(images), labels, 1)["loss"]
        training, batch = [], self._batch()
        for _ in range(steps):
            state, values = compiled.train(state, batch, None)
            training.append(float(values["loss"]))
        return {"inference": loss, "training": training}

    def _stepper(self):
        """(one dispatch, wait, updates of a dispatch)."""
        import jax
        import numpy as np

        from cnnjax import runtime
        from cnnjax.training import feeds as pipeline

        most = runtime.steps_at_once(self.mesh)
        steps, state = self._start(self.config, most)
        carried = [state, None]
        if most == 1:
            batch = self._batch()

            def call():
                # Waits for the step before, as training does: in a long queue the devices of one CPU lock each other out.
                before = carried[1]
                carried[0], carried[1] = steps.train(carried[0], batch, None)
                jax.block_until_ready(before)
        else:  # an accelerator stores the images, and one dispatch makes many updates
            images, labels = tasks.batch(self.settings)
            batches = pipeline.TrainBatches(images, labels, np.arange(len(labels)), batch_size=len(labels), seed=0)
            feed = pipeline.DeviceFeed(batches, self.mesh, most)

            def call():
                carried[0], carried[1] = steps.train(carried[0], feed.take(most), feed.resident)

        return call, lambda: jax.block_until_ready(carried), most

    def first_step(self) -> None:
        call, finish, _ = self._stepper()
        call()
        finish()

    def make_step(self):
        call, finish, most = self._stepper()
        turn = paced(call, finish, self.settings.seconds)
        return lambda: {"step": turn() / most}

    def make_feeds(self):
        """Steps on images that are stored on the device, then on images that the host sends, as training places them."""
        call, finish, most = self._stepper()
        resident, fed = paced(call, finish, self.settings.seconds), paced(*self._fed_stepper(), self.settings.seconds)
        return lambda: {"step": resident() / most, "step, images from the host": fed()}

    def _fed_stepper(self):
        """(one dispatch, wait) on batches from the host; eight different ones, so that they are not in the processor's cache."""
        import jax
        import numpy as np

        from cnnjax.training import feeds as pipeline

        images, labels = (np.concatenate([x] * 8) for x in tasks.batch(self.settings))
        batches = pipeline.TrainBatches(
            images, labels, np.arange(len(labels)), batch_size=self.settings.batch, seed=self.settings.seed
        )
        feed, (compiled, state) = pipeline.HostFeed(batches, self.mesh), self._start(self.config)
        carried = [state, None]

        def call():  # the numbers of the step before are read while this one is under way, as in training
            before = carried[1]
            carried[0], carried[1] = compiled.train(carried[0], feed.take(1), None)
            jax.device_get(before)

        return call, lambda: jax.block_until_ready(carried)

    def make_epoch(self):
        run = Epochs(self._config(augment="tutorial", train__epochs=100_000), Path(self.settings.scratch))
        run.epoch()  # compiles and decodes
        return run.epoch

    def make_run(self):
        from cnnjax.commands.train import train
        from cnnjax.data import dataset

        scratch, seeds = Path(self.settings.scratch), itertools.count()
        dataset.prepare(self.config, scratch / "prepared", Progress(), freeze=True)

        def turn():
            seed = next(seeds)
            config = self._config(train__epochs=tasks.RUN["epochs"], train__patience=tasks.RUN["patience"], seed=seed)
            start = time.perf_counter()
            summary = train(config, scratch / f"run-{seed}")
            seconds, auc = time.perf_counter() - start, summary["val"].get("auc", float("nan"))
            return {"run to early stop": seconds, "epochs of the run": summary["epochs"], "validation AUC of the run": auc}

        return turn

    def make_decode(self):
        from cnnjax.data import cache, sources

        def work() -> int:
            source = sources.open_source(self.config.data, Progress())
            cache.build(
                source, config_lib.Preprocessing.of(self.config.image), place, Progress(), workers=self.settings.threads
            )
            return len(source.examples)

        def turn():
            nonlocal place
            place = tempfile.mkdtemp(dir=self.settings.scratch)
            speed = images_per_second(work)
            shutil.rmtree(place)
            return {"decode a folder": speed}

        place = ""
        turn()
        return turn

    def make_predict(self):
        from cnnjax import inference
        from cnnjax.commands.predict import expand
        from cnnjax.commands.train import train

        workdir = Path(self.settings.scratch) / "run"
        train(self._config(train__epochs=1), workdir)
        classifier = inference.load(workdir)
        paths = expand([self.settings.data])
        names = itertools.cycle(paths)
        one = paced(lambda: classifier.predict(next(names)), lambda: None, self.settings.seconds / 2)
        classifier.predict(paths)
        return lambda: {
            "predict one file": one(),
            "predict a folder": images_per_second(lambda: len(classifier.predict(paths))),
        }

    def make_augment(self):
        import jax

        from cnnjax import runtime
        from cnnjax.training import steps

        more = {f"augment__{key}": value for key, value in GEOMETRY.items()}
        augment, batch, count = (
            steps.compile_augmentation(self._config(**more), runtime.ops(self.config.runtime, "cpu")),
            self._batch(),
            itertools.count(),
        )
        last = [None]

        def call():
            last[0] = augment(next(count), batch)

        turn = paced(call, lambda: jax.block_until_ready(last), self.settings.seconds)
        return lambda: {"augment": turn()}

    def make_listing(self):
        from cnnjax.data import dataset

        def turn():
            values, workdir = {}, Path(self.settings.scratch) / "prepared"
            for name in ("list, decode and split", "list, open what is decoded and split"):
                start = time.perf_counter()
                dataset.prepare(self.config, workdir, Progress(), freeze=True)
                values[name] = time.perf_counter() - start
            return values

        return turn

    def make_growth(self):
        def turn():
            run = Epochs(self._config(train__epochs=100_000), Path(self.settings.scratch))
            names = ("first epoch with evaluation, compiled anew", "later epoch with evaluation")
            return {name: run.epoch()["epoch with evaluation"] for name in names}

        return turn
