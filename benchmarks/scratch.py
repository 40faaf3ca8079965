"""Training from drawn weights for a given time by other trainers, on the files and the split of a run; prints accuracies.

    PYTHON -m benchmarks.scratch --trainer=keras --run=runs/flowers --data=flower_photos --minutes=10
    PYTHON -m benchmarks.scratch --trainer=timm --run=runs/flowers --data=flower_photos --minutes=10 --seed=1

PYTHON has what the trainer needs, not cnnjax: `pip install tensorflow`, `torch timm` or `ultralytics`. `--run` is a run of cnnjax, of which
splits.csv is read; `--data` the folder of its images. The time is that of training, with the judging of validation after each epoch; the
weights that were best on validation are judged on test.

- keras: the second network of TensorFlow's tutorial of image classification, at 180 pixels, with flips, rotation, zoom and dropout; Adam.
- timm: resnet18 without weights, augmented as timm's documentation trains (RandomResizedCrop, RandAugment m6, mixup 0.1, CutMix 1.0, label
  smoothing 0.1), AdamW of 1e-3 and 0.05 with a warm-up of 5 % and a cosine that ends when the time does, batches of 32, float32.
- ultralytics: yolo11n-cls.yaml with its own defaults and its argument `time`.
"""

import argparse
import csv
import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path

SPLITS = ("train", "val", "test")


def link_images(data: Path, splits: Path, into: Path) -> dict[str, int]:
    """Links the images of a split file as into/SPLIT/CLASS/NAME; returns how many each split has. Raises OSError where one is not there."""
    counts = dict.fromkeys(SPLITS, 0)
    with open(splits, newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    for row in rows:
        source = (data / row["id"]).resolve(strict=True)
        target = into / row["split"] / row["label"] / row["id"].replace("/", "_")
        target.parent.mkdir(parents=True, exist_ok=True)
        os.symlink(source, target)
        counts[row["split"]] += 1
    return counts


def train_keras(folder: Path, options) -> dict:
    """The tutorial's code with a clock; returns epochs, and the accuracies of validation and test."""
    import keras
    import tensorflow as tf

    class Clock(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            self.start = time.perf_counter()

        def on_epoch_end(self, epoch, logs=None):
            print(f"epoch {epoch + 1}: {logs}", file=sys.stderr, flush=True)
            if time.perf_counter() - self.start > 60 * options.minutes:
                self.model.stop_training = True

    keras.utils.set_random_seed(options.seed)
    side = options.size or 180
    train, val, test = (
        keras.utils.image_dataset_from_directory(folder / name, image_size=(side, side), batch_size=32, shuffle=name == "train").cache()
        for name in SPLITS
    )  # fmt: skip
    ready = lambda images: images.prefetch(tf.data.AUTOTUNE)  # noqa: E731
    classes = len(list((folder / "train").iterdir()))
    layers = keras.layers
    blocks = [
        layer
        for width in (16, 32, 64)
        for layer in (layers.Conv2D(width, 3, padding="same", activation="relu"), layers.MaxPooling2D())
    ]
    model = keras.Sequential([
        layers.Input((side, side, 3)), layers.RandomFlip("horizontal"), layers.RandomRotation(0.1), layers.RandomZoom(0.1), layers.Rescaling(1 / 255),
        *blocks, layers.Dropout(0.2), layers.Flatten(), layers.Dense(128, activation="relu"), layers.Dense(classes),
    ])  # fmt: skip
    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True), metrics=["accuracy"])
    best = keras.callbacks.EarlyStopping("val_accuracy", patience=10_000, restore_best_weights=True)
    history = model.fit(
        ready(train.shuffle(1000)), validation_data=ready(val), epochs=10_000, callbacks=[Clock(), best], verbose=0
    )
    accuracy = [model.evaluate(images, verbose=0)[1] for images in (val, test)]
    return {"epochs": len(history.epoch), "val": accuracy[0], "test": accuracy[1]}


def timm_loaders(folder: Path, side: int) -> dict:
    """Loaders of the three splits in batches of 32 squares of `side` pixels; those of training are augmented."""
    from timm.data import create_loader, create_transform
    from torchvision.datasets import ImageFolder

    options = {"use_prefetcher": False, "num_workers": 0, "pin_memory": False}
    loaders = {
        name: create_loader(ImageFolder(folder / name), (3, side, side), 32, is_training=name == "train", **options) for name in SPLITS
    }  # fmt: skip
    loaders["train"].dataset.transform = create_transform(
        (3, side, side), is_training=True, auto_augment="rand-m6-mstd0.5-inc1", interpolation="bicubic"
    )
    return loaders


def train_timm(folder: Path, options) -> dict:
    """A loop of PyTorch around timm's parts, which ends with its schedule; the same values."""
    import copy

    import timm
    import torch
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2

    torch.manual_seed(options.seed)
    torch.set_num_threads(options.threads)
    loaders = timm_loaders(folder, options.size or 128)
    classes = len(loaders["train"].dataset.classes)
    mix = Mixup(mixup_alpha=0.1, cutmix_alpha=1.0, label_smoothing=0.1, num_classes=classes)
    model = timm.create_model("resnet18", num_classes=classes).to(memory_format=torch.channels_last)
    optimizer = create_optimizer_v2(model, "adamw", lr=1e-3, weight_decay=0.05)
    loss_of = SoftTargetCrossEntropy()

    def accuracy(name: str) -> float:
        model.eval()
        with torch.inference_mode():
            right = sum(
                (model(x.contiguous(memory_format=torch.channels_last)).argmax(1) == y).sum().item()
                for x, y in loaders[name]
            )
        return right / len(loaders[name].dataset)

    start, done, epochs, best, weights = time.perf_counter(), 0.0, 0, -1.0, None
    while done < 1:
        model.train()
        for x, y in loaders["train"]:
            done = min((time.perf_counter() - start) / (60 * options.minutes), 1)
            factor = done / 0.05 if done < 0.05 else (1 + math.cos(math.pi * (done - 0.05) / 0.95)) / 2
            for group in optimizer.param_groups:
                group["lr"] = 1e-3 * factor
            if len(x) % 2:
                x, y = x[1:], y[1:]
            if not len(x):
                continue
            x, y = mix(x, y)
            loss = loss_of(model(x.contiguous(memory_format=torch.channels_last)), y)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            if done >= 1:
                break
        epochs, found = epochs + 1, accuracy("val")
        print(f"epoch {epochs}: {found:.4f}", file=sys.stderr, flush=True)
        if found > best:
            best, weights = found, copy.deepcopy(model.state_dict())
    model.load_state_dict(weights)
    return {"epochs": epochs, "val": best, "test": accuracy("test")}


def train_ultralytics(folder: Path, options) -> dict:
    """YOLO's classifier from its description; the same values."""
    from ultralytics import YOLO

    size = {"imgsz": options.size} if options.size else {}
    model = YOLO("yolo11n-cls.yaml")
    model.train(data=str(folder), time=options.minutes / 60, device="cpu", seed=options.seed, workers=0, plots=False, verbose=False,
                project=str(folder), name="run", pretrained=False, **size)  # fmt: skip
    best = YOLO(folder / "run" / "weights" / "best.pt")
    found = [
        best.val(data=str(folder), split=name, plots=False, project=str(folder), **size).top1 for name in ("val", "test")
    ]
    epochs = len((folder / "run" / "results.csv").read_text().splitlines()) - 1
    return {"epochs": epochs, "val": float(found[0]), "test": float(found[1])}


TRAINERS = {"keras": train_keras, "timm": train_timm, "ultralytics": train_ultralytics}


def main() -> int:
    """Trains by the command line; prints a line of JSON. Returns an exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.scratch", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--trainer", required=True, choices=TRAINERS)
    parser.add_argument("--run", required=True, type=Path, help="a run of cnnjax, of which splits.csv is read")
    parser.add_argument("--data", required=True, type=Path, help="folder of its images")
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--size", type=int, default=0, help="pixels; 0: 180 for keras, 128 for timm, the own default of ultralytics"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        try:
            counts = link_images(options.data.resolve(), options.run / "splits.csv", folder)
        except OSError as error:
            print(
                f"{error.filename or options.run}: {error.strerror or error}; --run is a run of cnnjax, --data the folder of its images",
                file=sys.stderr,
            )
            return 2
        start = time.perf_counter()
        try:
            found = TRAINERS[options.trainer](folder, options)
        except ImportError as error:
            print(f"--trainer={options.trainer}: {error}; install it beside this Python, as `pip install tensorflow`, `torch timm` or `ultralytics`",
                  file=sys.stderr)  # fmt: skip
            return 2
    print(
        json.dumps(
            {
                "trainer": options.trainer,
                "seed": options.seed,
                **counts,
                **found,
                "seconds": round(time.perf_counter() - start),
            }
        )
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
