"""How fast photos come to a training: read, decoded, a random part cut out and resized; beside torchvision, timm and tf.data.

    python -m benchmarks.loaders --data=FOLDER
    python -m benchmarks.loaders --data=FOLDER --python=/path/to/python --size=224 --images=2000 --rounds=7

FOLDER has a folder of JPEG files for each class. The other Python, this one by default, has torch, torchvision, timm and tensorflow; a side
that is missing there is left out, in one line. Every side gives batches of 64 images, uint8 or float32, of windows of 0.08 to 1 of the area and
ratios of 3/4 to 4/3, resized bilinearly: ours from data.cache=encoded; torchvision and timm by their RandomResizedCrop on Pillow's
images, without worker processes; tf.data by `decode_and_crop_jpeg`, which decodes the window alone, and a resize without antialiasing, as
tf.data is used mostly, and with it. No side flips or normalises. Files are in the system's cache.

With `--step=0.1` a device is simulated that works 0.1 s on each batch, during which the next ones are read; printed is the share of the time
that it waits for images.

The sides work in turns, in changing order, each a process with `--threads` threads on as many cores, while the others wait. Prints medians of
images per second over the rounds, and how many times as fast ours is.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path

from benchmarks.measures import in_turns

ROOT = Path(__file__).resolve().parents[1]
BATCH, AREA = 64, 0.08
Epoch = Callable[[], Iterable]  # batches of an epoch


def ours(folder: str, size: int, threads: int, cache: str) -> Epoch:
    """Batches of data.cache=encoded, from the training's own source of batches."""
    import numpy as np

    from cnnjax import config as config_lib
    from cnnjax.data import Crop, open_source, preprocessing
    from cnnjax.data.cache import build
    from cnnjax.inference import iterate
    from cnnjax.progress import Progress
    from cnnjax.training.feeds import TrainBatches

    config = config_lib.from_dict({}, {"data.path": folder, "image.size": size})
    source = open_source(config.data, Progress())
    images = build(source, preprocessing(config.image), cache, Progress(), kind="encoded", workers=threads).images
    rows, labels = np.arange(len(images)), source.labels()

    def epoch() -> Iterable:
        batches = TrainBatches(images, labels, rows, batch_size=BATCH, seed=0, crop=Crop(AREA, 4 / 3))
        follow = iterate(batches)
        return (next(follow)["image"] for _ in range(len(rows) // BATCH))

    return epoch


def _torch(dataset, threads: int) -> Epoch:
    import torch

    # One thread is this process itself; more are worker processes, as people use the loader.
    workers = threads if threads > 1 else 0
    loader = torch.utils.data.DataLoader(
        dataset, BATCH, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0
    )
    return lambda: (images for images, _ in loader)


def torchvision(folder: str, size: int, threads: int, cache: str) -> Epoch:
    """Its ImageFolder and transforms, as in its reference of classification."""
    from torchvision import datasets, transforms

    crop = transforms.RandomResizedCrop(size, (AREA, 1.0))
    return _torch(datasets.ImageFolder(folder, transforms.Compose([crop, transforms.PILToTensor()])), threads)


def timm(folder: str, size: int, threads: int, cache: str) -> Epoch:
    """Its data set and its crop."""
    from timm.data import create_dataset
    from timm.data.transforms import RandomResizedCropAndInterpolation
    from torchvision import transforms

    crop = RandomResizedCropAndInterpolation(size, (AREA, 1.0), interpolation="bilinear")
    dataset = create_dataset("", root=folder, split="train")
    dataset.transform = transforms.Compose([crop, transforms.PILToTensor()])
    return _torch(dataset, threads)


def _tf_data(folder: str, size: int, threads: int, antialias: bool) -> Epoch:
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
    files = sorted(map(str, Path(folder).glob("*/*.jp*g")))

    def load(path):
        data = tf.io.read_file(path)
        shape = tf.image.extract_jpeg_shape(data)
        begin, extent, _ = tf.image.sample_distorted_bounding_box(
            shape, tf.zeros([0, 0, 4]), min_object_covered=0.0, area_range=(AREA, 1.0), aspect_ratio_range=(3 / 4, 4 / 3),
            max_attempts=10, use_image_if_no_bounding_boxes=True)  # fmt: skip
        window = tf.stack([begin[0], begin[1], extent[0], extent[1]])
        return tf.image.resize(tf.image.decode_and_crop_jpeg(data, window, channels=3), (size, size), antialias=antialias)

    options = tf.data.Options()
    options.threading.private_threadpool_size = threads
    batches = tf.data.Dataset.from_tensor_slices(files).shuffle(len(files)).map(load, num_parallel_calls=threads)
    return lambda: batches.batch(BATCH, drop_remainder=True).prefetch(1).with_options(options)


def tf_data(folder: str, size: int, threads: int, cache: str) -> Epoch:
    """The window is decoded alone."""
    return _tf_data(folder, size, threads, antialias=False)


def tf_data_antialiased(folder: str, size: int, threads: int, cache: str) -> Epoch:
    """The same with the resize that the others have."""
    return _tf_data(folder, size, threads, antialias=True)


SIDES = {side.__name__: side for side in (ours, torchvision, timm, tf_data, tf_data_antialiased)}


def work(options) -> None:
    """Is one side: writes images per second for each line that it reads."""
    os.sched_setaffinity(0, set(sorted(os.sched_getaffinity(0))[: options.threads]))
    answers, sys.stdout = sys.stdout, sys.stderr  # libraries print
    with tempfile.TemporaryDirectory() as cache:
        try:
            epoch = SIDES[options.side](options.data, options.size, options.threads, cache)
        except ImportError as error:
            print(json.dumps(str(error)), file=answers, flush=True)
            return
        shapes = {tuple(batch.shape) for batch, _ in zip(epoch(), range(3), strict=False)}
        print(json.dumps([list(shape) for shape in shapes]), file=answers, flush=True)
        for _ in sys.stdin:
            print(json.dumps(turn(epoch, options.images, options.step)), file=answers, flush=True)


def turn(epoch: Epoch, images: int, step: float) -> tuple[float, float]:
    """Images per second of a round, and the share of the time in which a device that works `step` seconds on a batch waits."""
    start, waited, count, batches = time.perf_counter(), 0.0, 0, iter(())
    while count < images:
        asked = time.perf_counter()
        batch = next(batches, None)
        if batch is None:
            batches = iter(epoch())
            batch = next(batches)
        if count:  # before the first batch of a run a device waits in any case
            waited += time.perf_counter() - asked
        count += len(batch)
        time.sleep(step)
    seconds = time.perf_counter() - start
    return count / seconds, waited / seconds


def compare(options) -> None:
    """Starts all sides and measures them in turns."""
    processes = {}
    for side in SIDES:
        command = [sys.executable if side == "ours" else options.python, __file__, f"--side={side}", f"--data={options.data}",
                   f"--size={options.size}", f"--images={options.images}", f"--threads={options.threads}",
                   f"--step={options.step}"]  # fmt: skip
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                   env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)})  # fmt: skip
        said = json.loads(process.stdout.readline() or '"it ended with an error"')
        if isinstance(said, str):
            print(f"{side} is left out: {said}")
            continue
        assert sorted(said[0])[-1] in (options.size, BATCH) and len(said) == 1, said
        processes[side] = process
    if "ours" not in processes:
        sys.exit("there is nothing to compare with; python -m benchmarks.loaders --side=ours with the same flags shows why")
    speeds = in_turns(processes, options.rounds, "go")
    for process in processes.values():
        process.stdin.close()
        process.wait()
    print(f"{options.images} images of {options.size} pixels, {options.threads} threads, medians of {options.rounds} rounds")
    middle = {side: [statistics.median(values) for values in zip(*rounds, strict=True)] for side, rounds in speeds.items()}
    for side, (speed, waits) in middle.items():
        told = f"waits {waits:.1%} of the time" if options.step else f"ours is {middle['ours'][0] / speed:.2f} times as fast"
        print(f"{side:20} {speed:8,.0f} images/s   {told}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", required=True)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--step", type=float, default=0.0, metavar="SECONDS")
    parser.add_argument("--side", choices=SIDES)
    given = parser.parse_args()
    if not any(Path(given.data).glob("*/*.jp*g")):
        parser.error(f"--data={given.data}: no JPEG files in class folders; name a folder such as flower_photos")
    work(given) if given.side else compare(given)
