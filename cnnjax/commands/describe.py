"""One verb: show what would be trained, and train nothing."""

import math
from pathlib import Path

import jax
import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import models, pages, runs, runtime, training, weights
from cnnjax.errors import ConfigError, DataError
from cnnjax.progress import Progress, counted


def describe(config: config_lib.Config, workdir: str | Path, *, topology: str = "", progress: Progress | None = None) -> str:
    """Returns the resolved config, the network as a table, and the data plan, as text.

    Writes `network.png` to `workdir`, where no run is. Decodes no image and downloads nothing: an archive that is not here yet is
    described by its address.

    Args:
        config: of what would be trained.
        workdir: where.
        topology: TPUs to compile the training step for, such as "v5e:2x4" or "v5e:2x4@2" for two slices, which takes libtpu and no TPU; "":
            none.
        progress: hears warnings.

    Raises:
        ConfigError: `workdir` is in the folder of the images, `topology` is none that libtpu knows, or the step does not compile for it.
        DataError: data that is named but cannot be used.
    """
    run = runs.RunDirectory(workdir)
    run.check_apart(config)
    config = training.with_weights(config, run, progress or Progress(), loads=False, fetch=False)
    config = training.with_batch_size(config, run, progress or Progress())
    standard = dict(config_lib.flatten(config_lib.default()))
    method = config.train.method
    idle = {*config_lib.without_effect(config.model.name), *config_lib.unread(config)}
    lines = [f"config (* differs from the default, - has no effect with {config.model.name} and train.method={method})"]
    for key, value in config_lib.flatten(config):
        lines.append(f"  {'-' if key in idle else '*' if value != standard[key] else ' '} {key} = {value!r}")
    ahead = runtime.topology(topology, fsdp=config.mesh.fsdp) if topology else None
    mesh = (
        ahead.mesh if ahead else runtime.mesh(config.runtime.devices, fsdp=config.mesh.fsdp, divides=config.data.batch_size)
    )
    source, data, counts = _data(config, mesh, progress or Progress())
    classes = source.classes if source else tuple(config.data.classes)
    if classes:
        network = models.network(config, len(classes), runtime.ops(config.runtime, runtime.platform_of(mesh)))
        table = models.table(network.model, training.frozen_paths(config.train.freeze, network))
        if progress and (large := models.oversized(table, config.image.size)):
            progress.warn(large)
        picture = run.network_picture
        if drawn := not run.is_run():  # a run has its own picture
            pages.save_figure(pages.network_figure(table, config.image.shape, config.name), picture, dpi=160)
        lines += [
            "",
            f"network ({picture})" if drawn else "network",
            pages.network_table(table),
            *_weights(config, network),
            "",
            "memory of each device",
            *_memory(config, network, mesh, counts),
        ]
    if ahead:
        if not classes:
            raise DataError(f"--topology={topology} needs to know the classes; name the images with --config.data.path=DIR, or "
                            "--config.data.classes=a,b")  # fmt: skip
        lines += ["", *_ahead(config, len(classes), topology, ahead)]
    return "\n".join([*lines, "", "data", *(f"  {line}" for line in data)])


def _weights(config: config_lib.Config, network: models.Network) -> list[str]:
    """Tells with which weights training would begin; nothing is fetched."""
    if not (text := config.model.weights):
        return []
    if text.startswith("run:"):
        return ["", f"weights: the best of {text.removeprefix('run:')}"]
    if weights.find(config, fetch=False) is None:
        return ["", f"weights: {text} will be downloaded from the Hugging Face Hub"]
    matched, facts = weights.load(config, network)
    total = sum(len(jax.tree.leaves(tree)) for tree in network.shapes)
    return ["", f"weights: {len(matched.arrays)} of {total} arrays are those of {facts.text}"]


def _memory(
    config: config_lib.Config, network: models.Network, mesh: jax.sharding.Mesh, counts: dict[str, int]
) -> list[str]:
    """Lists the memory that a device needs for training, as far as it is known without compiling; `counts` are the images of the splits."""
    tx = training.tuned_optimizer(config, network, lambda step: 0.0, 1)
    params, stats = network.shapes
    parts = {
        "weights": (params, stats),
        "optimizer": jax.eval_shape(tx.init, params),
        "averaged weights": params if config.train.ema_decay else {},
        "gradients": training.trained_of(params, tx) if config.train.method == "gradient" else {},
    }
    sizes = {name: training.bytes_per_device(tree, mesh) for name, tree in parts.items()}
    sizes["images"] = config.data.batch_size // mesh.size * math.prod(config.image.shape) * 3
    stored = training.stored_images(config, mesh, counts["train"], counts["val"]) if counts else {}
    sizes |= {{"train": "training images", "val": "validation images"}[name]: size for name, size in stored.items()}
    rows = [f"  {name:<17} {size / 1e6:>9,.2f} MB" for name, size in sizes.items() if size]
    divided = f", weights and optimizer over {config.mesh.fsdp}" if config.mesh.fsdp > 1 else ""
    return [*rows, f"  {runtime.describe(mesh)}: the batch is divided over {mesh.size}{divided}; activations come on top"]


def _ahead(config: config_lib.Config, classes: int, text: str, found: runtime.Topology) -> list[str]:
    """Tells what the training step takes on the chips of a topology, and what it could reach there at best; see docs/scaling.md."""
    if config.train.method == "probe":
        raise ConfigError(
            f"--topology={text} compiles the step of a training by gradients; a probe (train.method=probe) has none"
        )
    mesh, device, share = found.mesh, found.device, math.lcm(found.mesh.size, config.train.accumulate)
    if config.data.batch_size % share:
        fits = -(-config.data.batch_size // share) * share
        raise ConfigError(f"data.batch_size={config.data.batch_size} does not divide among {counted(mesh.size, 'device')}; use "
                          f"--config.data.batch_size={fits}")  # fmt: skip
    made = training.compile_ahead(config, mesh, classes, config.data.batch_size)
    work = max(made.operations / device.products, 2 * made.memory / device.bandwidth)
    between = sum(part.moved for part in made.collectives.values()) / (2 * device.link)
    lines = [
        f"compiled for {text}: {mesh.size} x {found.kind}, {device.memory / 1e9:,.1f} GB each",
        f"  memory            {made.arguments / 1e6:,.2f} MB state and images, {made.temporaries / 1e6:,.2f} MB between, of {made.batch_size:,} images",
        f"  that fits         at most about {made.fitting(device.memory, share):,} images, reckoned; --config.data.batch_size=NUMBER compiles it",
        f"  work of a step    {made.operations / 1e9:,.2f} GFLOP on each device",
    ]
    lines += [f"  {kind:<17} {part.count:,} of {part.bytes / 1e6:,.2f} MB; {part.moved / 1e6:,.2f} MB leave each device"
              for kind, part in made.collectives.items()]  # fmt: skip
    lines.append(f"  at best           {made.batch_size / (work + between):,.0f} images/s: {work * 1e3:,.3f} ms of work, then {between * 1e3:,.3f} ms between "
                 f"devices; an efficiency of at least {work / (work + between):.2f}")  # fmt: skip
    if found.slices > 1:
        lines.append(
            f"  between {found.slices} slices the sums go over the network of the hosts, which is slower; it is not reckoned"
        )
    return lines


def _cached(config, images: int) -> str:
    """Tells what `data.cache_dir` gets of so many images."""
    (height, width), data = config.image.shape, config.data
    if data.cache == "encoded":
        return (f"kept as files, and decoded at each step to {height}x{width} pixels ({config.image.resize}): their bytes and "
                f"{images * 32 * 32 * 3 / 1e6:,.0f} MB in {data.cache_dir}")  # fmt: skip
    return (f"decoded once to {height}x{width} pixels ({config.image.resize}): {images * height * width * 3 / 1e6:,.0f} MB "
            f"in {data.cache_dir}")  # fmt: skip


def _data(
    config: config_lib.Config, mesh: jax.sharding.Mesh, progress: Progress
) -> tuple[data_lib.Source | None, list[str], dict[str, int]]:
    """Finds the data, and what there is to say of it, and the images of each split where they are known."""
    data = config.data
    if data.source == "files" and not data.path:
        path = Path(data.cache_dir).expanduser() / "downloads" / data.url.rpartition("/")[2]
        if not path.exists():
            return (
                None,
                [f"{data.url} will be downloaded to {path}", f"classes: {', '.join(data.classes) or 'its folders'}"],
                {},
            )
    if data.source == "tfds" and not data_lib.is_prepared(data.tfds, str(Path(data.cache_dir).expanduser() / "tfds")):
        names = data_lib.class_names(data.tfds, str(Path(data.cache_dir).expanduser() / "tfds"))
        return (
            None,
            [
                f"TFDS {data.tfds} will be downloaded and prepared",
                f"{len(names)} classes: {', '.join(names[:12])}",
            ],
            {},
        )
    source = data_lib.open_source(data, progress)
    lines = [f"{len(source.examples):,} files in {len(source.classes)} classes: {', '.join(source.classes[:12])}"]
    if source.rejected:
        rejected = counted(len(source.rejected), "file")
        lines.append(f"{rejected} rejected, such as {source.rejected[0][0]} ({source.rejected[0][1]})")
    lines += [*source.notes, *source.warnings]
    examples = source.examples
    try:
        assigned = data_lib.assign_splits(examples, source.classes, config.split, lines.append)
    except DataError as error:
        return source, [*lines, f"cannot be split: {error}"], {}
    rows = data_lib.by_split(np.arange(len(examples)), assigned)
    lines.append(data_lib.split_reason(config.split, examples, [name for name in data_lib.SPLITS if len(rows[name])]))
    for name in data_lib.SPLITS:
        inside = rows[name]
        if len(inside):
            groups = len({examples.groups[i] for i in inside} - {""})
            per_class = np.bincount(examples.labels[inside], minlength=len(source.classes))
            counts = ", ".join(f"{c} {n:,}" for c, n in zip(source.classes[:12], per_class, strict=False))
            of = f" of {counted(groups, 'group')}" if groups else ""
            lines.append(f"{name:<6} {counted(len(inside), 'file')}{of} ({counts})")
    train = assigned.count("train")
    batch_size = training.choose_batch_size(config, mesh, train)
    per_epoch = math.ceil(train / batch_size)
    steps = f"{counted(per_epoch, 'step')} of {counted(batch_size, 'image')}"
    if config.train.method == "gradient":
        lines.append(f"{steps} per epoch, at most {counted(training.with_epochs(config, train).train.epochs, 'epoch')}")
    else:
        views = f" and {counted(config.probe.views - 1, 'view')} of each training image" if config.probe.views > 1 else ""
        lines.append(
            f"features of all images{views} once, then a logistic regression with up to {len(config.probe.penalties)} penalties"
        )
    lines.append(_cached(config, len(source.examples)))
    if len(source.classes) == 2:
        lines.append(f"positive class: {data.positive or source.classes[1]}")
    return source, lines, {name: len(rows[name]) for name in data_lib.SPLITS}
