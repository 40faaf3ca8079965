"""Keras 3 on TensorFlow or on JAX, compiled with its defaults and fed by tf.data, as its guides say."""

import functools
import importlib.metadata
import itertools
import os
import time

from benchmarks import folders, tasks
from benchmarks.measures import images_per_second, paced

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def open_peer(settings: tasks.Settings, name: str) -> "Keras":
    os.environ["KERAS_BACKEND"] = name.removeprefix("keras-")
    return Keras(settings)


def convnet(settings: tasks.Settings, dropout: bool, L) -> list:
    """Layers of a Sequential model, after the rescaling."""
    made = []
    for layer in tasks.layers(settings):
        activation = "relu" if layer.relu else None
        if layer.kind == "conv":
            made.append(L.Conv2D(layer.shape[-1], 3, padding=layer.padding, activation=activation, name=layer.name))
        elif layer.kind == "pool":
            made.append(L.MaxPooling2D(2, settings.spec.pool_stride))
        elif layer.kind == "flatten":
            made.append(L.Flatten())
        elif layer.kind == "dense":
            made.append(L.Dense(layer.shape[-1], activation=activation, name=layer.name))
        elif dropout:
            made.append(L.Dropout(layer.rate))
    return made


def residual(x, blocks: list[tasks.Block], outputs: int, L):
    """Networks of torchvision, layer by layer. The pool may pad with zeros, for it follows a ReLU."""

    def conv(x, width, kernel, stride, name, norm):
        if kernel > 1:
            x = L.ZeroPadding2D(kernel // 2)(x) if stride > 1 else x
        x = L.Conv2D(width, kernel, stride, "same" if stride == 1 else "valid", use_bias=False, name=name.replace("/", "_"))(
            x
        )
        return L.BatchNormalization(momentum=tasks.NORM_MOMENTUM, epsilon=tasks.NORM_EPSILON, name=norm.replace("/", "_"))(x)

    x = L.ReLU()(conv(x, 64, 7, 2, "conv1", "norm1"))
    x = L.MaxPooling2D(3, 2)(L.ZeroPadding2D(1)(x))
    for name, convs, projects in blocks:
        y = x
        for i, (width, kernel, stride) in enumerate(convs, 1):
            y = conv(y, width, kernel, stride, f"{name}/conv{i}", f"{name}/norm{i}")
            y = L.ReLU()(y) if i < len(convs) else y
        if projects:
            x = conv(x, convs[-1][0], 1, projects, f"{name}/projection", f"{name}/norm_projection")
        x = L.ReLU()(L.Add()([x, y]))
    return L.Dense(outputs, name="outputs")(L.GlobalAveragePooling2D()(x))


class Keras:
    def __init__(self, settings: tasks.Settings):
        self.settings = settings
        self.on_jax = os.environ["KERAS_BACKEND"] == "jax"
        if not self.on_jax:
            self.tf.config.threading.set_intra_op_parallelism_threads(settings.threads)
        import keras

        self.keras = keras
        if settings.precision != "float32":
            keras.mixed_precision.set_global_policy(f"mixed_{settings.precision}")
        keras.utils.set_random_seed(settings.seed)

    @functools.cached_property
    def tf(self):
        """TensorFlow; on JAX only `tf.data` is, for reading files."""
        import tensorflow as tf

        if self.on_jax:
            tf.config.threading.set_intra_op_parallelism_threads(self.settings.threads)
            tf.config.set_visible_devices([], "GPU")
        return tf

    def about(self) -> dict:
        versions = {"keras": self.keras.__version__}
        if self.on_jax:
            import jax

            versions["jax"], device = jax.__version__, jax.devices()[0]
            platform, kind = device.platform, device.device_kind
        else:
            versions["tensorflow"] = self.tf.__version__
            gpus = self.tf.config.list_physical_devices("GPU")
            platform = "gpu" if gpus else "cpu"
            kind = self.tf.config.experimental.get_device_details(gpus[0]).get("device_name", "gpu") if gpus else "cpu"
        return {"platform": platform, "device": kind, "versions": versions | {"numpy": importlib.metadata.version("numpy")}}

    def device_memory(self) -> int:
        if self.on_jax:
            import jax

            return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use", 0)
        gpu = bool(self.tf.config.list_physical_devices("GPU"))
        return self.tf.config.experimental.get_memory_info("GPU:0")["peak"] if gpu else 0

    def _model(self, dropout: bool = True, augment: bool = False, weights: bool = True, at_once: int = 1):
        keras, L, settings = self.keras, self.keras.layers, self.settings
        outputs = tasks.outputs(settings.classes)
        first = [L.RandomFlip("horizontal"), L.RandomRotation(0.1), L.RandomZoom(0.1)] if augment else []
        inputs = keras.Input((settings.size, settings.size, 3), dtype="float32" if augment else "uint8")
        x = inputs
        for layer in [*first, L.Rescaling(1 / 255)]:
            x = layer(x)
        if settings.spec.depths:
            x = residual(x, tasks.blocks(settings.spec), outputs, L)
        else:
            for layer in convnet(settings, dropout, L):
                x = layer(x)
        model = keras.Model(inputs, x)
        binary = outputs == 1
        loss = keras.losses.BinaryCrossentropy(True) if binary else keras.losses.SparseCategoricalCrossentropy(True)
        accuracy = keras.metrics.BinaryAccuracy(threshold=0.0, name="accuracy") if binary else "accuracy"
        model.compile(
            keras.optimizers.Adam(tasks.RATE, epsilon=tasks.EPSILON), loss, metrics=[accuracy], steps_per_execution=at_once
        )
        if weights:
            flat = tasks.weights(settings)
            for name in {name.rpartition("/")[0] for name in flat}:
                leaves = ("kernel", "bias", "scale", "bias", "mean", "var")
                leaves = leaves[2:] if f"{name}/scale" in flat else [leaf for leaf in leaves[:2] if f"{name}/{leaf}" in flat]
                model.get_layer(name.replace("/", "_")).set_weights([flat[f"{name}/{leaf}"] for leaf in leaves])
        return model

    def losses(self, steps: int) -> dict:
        images, labels = tasks.batch(self.settings)
        model = self._model(dropout=False)
        loss, training = float(model.test_on_batch(images, labels)[0]), []
        for _ in range(steps):
            model.reset_metrics()
            training.append(float(model.train_on_batch(images, labels)[0]))
        return {"inference": loss, "training": training}

    def _stepper(self, weights: bool = True):
        """Returns (one dispatch, wait, updates of a dispatch): the calls of `fit` for every batch, without its callbacks."""
        images, labels = tasks.batch(self.settings)
        at_once = 1 if self.about()["platform"] == "cpu" or self.on_jax else 32
        model = self._model(weights=weights, at_once=at_once)
        last = [None]
        if not self.on_jax:
            batch = self.tf.constant(images), self.tf.constant(labels)
            model.make_train_function()
            iterator = iter(self.tf.data.Dataset.from_tensors(batch).repeat())

            def call():
                last[0] = model.train_function(iterator)

            return call, lambda: float(last[0]["loss"]), at_once
        import jax

        batch = jax.device_put((images, labels))
        model._symbolic_build(data_batch=batch)
        model.make_train_function()
        names = ("trainable_variables", "non_trainable_variables", "optimizer_variables", "metrics_variables")
        state = [model._get_jax_state(**dict.fromkeys(names, True), purge_model_variables=True)]

        def call():
            last[0], state[0] = model.train_function(state[0], iter([batch]))

        return call, lambda: jax.block_until_ready((last, state)), 1

    def first_step(self) -> None:
        call, finish, _ = self._stepper(weights=False)
        call()
        finish()

    def make_step(self):
        call, finish, at_once = self._stepper()
        turn = paced(call, finish, self.settings.seconds)
        return lambda: {"step": turn() / at_once}

    def _folder(self, **more):
        size = (self.settings.size, self.settings.size)
        more = {"image_size": size, "batch_size": self.settings.batch, "verbose": False} | more
        return self.keras.utils.image_dataset_from_directory(self.settings.data, **more)

    def make_epoch(self):
        auto = self.tf.data.AUTOTUNE
        train, val = (self._folder(validation_split=0.2, subset=part, seed=123) for part in ("training", "validation"))
        train, val = train.cache().shuffle(1000).prefetch(auto), val.cache().prefetch(auto)
        model = self._model(augment=True)

        def epoch():
            start = time.perf_counter()
            model.fit(train, validation_data=val, epochs=1, verbose=0)
            return {"epoch with evaluation": time.perf_counter() - start}

        epoch()
        return epoch

    def make_run(self):
        import numpy as np
        from sklearn.metrics import roc_auc_score

        keras, seeds = self.keras, itertools.count()
        train, val = (
            self._folder(validation_split=0.2, subset=part, seed=123).cache() for part in ("training", "validation")
        )
        labels = np.concatenate([labels for part in (train, val) for _, labels in part][-len(val) :])  # fills both caches
        batches, val = train.shuffle(1000).prefetch(self.tf.data.AUTOTUNE), val.prefetch(self.tf.data.AUTOTUNE)

        def turn():
            keras.utils.set_random_seed(next(seeds))
            start = time.perf_counter()
            model = self._model(weights=False)
            stop = keras.callbacks.EarlyStopping(patience=tasks.RUN["patience"], restore_best_weights=True)
            history = model.fit(batches, validation_data=val, epochs=tasks.RUN["epochs"], callbacks=[stop], verbose=0)
            scores = model.predict(val, verbose=0)
            seconds = time.perf_counter() - start
            auc = roc_auc_score(labels, scores[:, 0]) if scores.shape[1] == 1 else float("nan")
            return {"run to early stop": seconds, "epochs of the run": len(history.epoch), "validation AUC of the run": auc}

        return turn

    def make_decode(self):
        def dataset() -> int:
            return sum(len(images) for images, _ in self._folder(shuffle=False).prefetch(self.tf.data.AUTOTUNE))

        def generator() -> int:
            from tensorflow.keras.preprocessing.image import ImageDataGenerator

            size = (self.settings.size, self.settings.size)
            batches = ImageDataGenerator().flow_from_directory(self.settings.data, size, batch_size=self.settings.batch)
            return sum(len(batches[i][0]) for i in range(len(batches)))

        def turn():
            values = {"decode a folder": images_per_second(dataset)}
            if self.settings.task == "malaria" and not self.on_jax:
                values["decode a folder, ImageDataGenerator"] = images_per_second(generator)
            return values

        turn()
        return turn

    def make_predict(self):
        import numpy as np

        model, utils = self._model(), self.keras.utils
        paths = folders.listed(self.settings.data)[0]
        names, size = itertools.cycle(paths), (self.settings.size, self.settings.size)

        def one():
            image = utils.img_to_array(utils.load_img(next(names), target_size=size), dtype="uint8")
            return model.predict_on_batch(image[None])

        def folder() -> int:
            files = self._folder(labels=None, shuffle=False, batch_size=64).prefetch(self.tf.data.AUTOTUNE)
            return len(model.predict(files.map(lambda x: self.tf.cast(x, "uint8")), verbose=0))

        assert np.isfinite(one()).all()
        turn = paced(one, lambda: None, self.settings.seconds / 2)
        folder()
        return lambda: {"predict one file": turn(), "predict a folder": images_per_second(folder)}

    def make_augment(self):
        L, last = self.keras.layers, [None]
        stack = [L.RandomFlip("horizontal_and_vertical"), L.RandomRotation(0.1), L.RandomZoom(0.1),
                 L.RandomTranslation(0.1, 0.1), L.RandomShear(x_factor=0.1)]  # fmt: skip
        images = tasks.batch(self.settings)[0].astype("float32")

        def run(images):
            for layer in stack:
                images = layer(images, training=True)
            return images

        if not self.on_jax:
            images, function = self.tf.constant(images), self.tf.function(run)

            def call():
                last[0] = function(images)

            turn = paced(call, lambda: last[0].numpy(), self.settings.seconds)
            return lambda: {"augment": turn()}
        import jax

        inputs = self.keras.Input(images.shape[1:])
        model, images = self.keras.Model(inputs, run(inputs)), jax.device_put(images)
        state = [[v.value for v in model.non_trainable_variables]]
        function = jax.jit(lambda state, images: model.stateless_call([], state, images, training=True))

        def call():
            last[0], state[0] = function(state[0], images)

        turn = paced(call, lambda: jax.block_until_ready(last), self.settings.seconds)
        return lambda: {"augment": turn()}
