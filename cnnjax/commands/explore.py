"""One verb: look at the data, and at what augmentation makes of it, before anything is trained."""

import collections
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import numpy as np

from cnnjax import augmentation, runs, runtime
from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax.errors import Stopped
from cnnjax.pages import blocks as pages
from cnnjax.pages import plots, report
from cnnjax.pages.blocks import Beside, Charts, Note, Photo, Photos, Section, Table, Tiles
from cnnjax.progress import Progress, counted
from cnnjax.training import feeds as pipeline
from cnnjax.training import plan, steps

SHOWN_CLASSES = 20  # classes with photos; counts are of all
SAMPLE = 1000  # images of each class behind mean images and colour histograms
NINE = 9


def explore(config, workdir: str | Path, *, progress: Progress | None = None,
            stop: Callable[[], bool] = lambda: False) -> Path:  # fmt: skip
    """Writes `explore.html`, which needs no other file, and its pictures as PNG to `explore/`.

    Decodes what is not cached. The split is the one that training will make, or that of `splits.csv` where there is one;
    nothing that a run depends on is written.

    Args:
        config: from `load_config`.
        workdir: where the page goes; that of a run is as good as any.
        progress: hears what happens.
        stop: polled while decoding and between sections.

    Returns:
        The page.

    Raises:
        UserError: in one line, what cannot work.
        Stopped: `stop` was true.
    """
    progress, workdir = progress or Progress(), Path(workdir)
    runs.RunDirectory(workdir).check_apart(config)
    with runs.begun(workdir):
        runs.check_writable(workdir, "use another --workdir")
        pages.check_replaceable(workdir / "explore.html")  # before minutes of work
        data = data_lib.prepare(config, workdir, progress, freeze=False, stop=stop)
    page = _Page(config, data, workdir / "explore")
    parts = (page.counts, page.groups, page.sizes, page.photos, page.colours, page.augmentation, page.processing)
    sections = []
    with progress.task("explore", len(parts), "sections") as advance:
        for part in parts:
            if stop():
                raise Stopped("stopped before the page was whole; the same command starts it again")
            sections.append(part())
            advance(1)
    path = workdir / "explore.html"
    images = f"{counted(len(data.used), 'image')} of {len(data.classes)} classes, seen by the network at {config.image.size} pixels."
    pages.write(path, f"{config.name}: the data", images, [section for section in sections if section.blocks])
    return path


class _Page:
    """The sections of the page; each also saves its pictures."""

    def __init__(self, config, data: data_lib.Dataset, directory: Path):
        self.config, self.data, self.directory = config, data, directory
        self.classes = data.classes[:SHOWN_CLASSES]
        rng = np.random.default_rng(config.seed)
        # Of training images, so that nobody grows used to the test set.
        train = data.splits["train"]
        self.rows = {}  # class -> training rows in random order
        for label, name in enumerate(data.classes):
            self.rows[name] = rng.permutation(train[data.labels[train] == label])
        wanted = [int(row) for name in self.classes for row in self.rows[name][:NINE]]
        self.originals = data.originals(wanted)

        self.files: dict[str, str] = {}  # class -> its part of file names, no two the same
        for name in self.classes:
            self.files[name] = _file(name)
            while list(self.files.values()).count(self.files[name]) > 1:
                self.files[name] += "_"

    def _chart(self, name: str, drawn) -> str:
        plots.save(drawn, self.directory / f"{name}.png")
        return plots.svg(drawn)

    def _photos(self, name: str, title: str, photos: Sequence[Photo], text: str = "", columns: int = 3) -> Photos:
        captions = [f"{photo.caption}\n{photo.detail}" if photo.detail else photo.caption for photo in photos]
        drawn = plots.photos(title, [photo.pixels for photo in photos], captions, columns)
        plots.save(drawn, self.directory / f"{name}.png", dpi=100)
        return Photos(title, photos, columns, text)

    def _original(self, row: int) -> np.ndarray:
        return self.originals.get(int(row), self.data.images[row])

    def counts(self) -> Section:
        data = self.data
        used = {name: rows for name, rows in data.splits.items() if len(rows)}
        table = {name: np.bincount(data.labels[rows], minlength=len(data.classes)) for name, rows in used.items()}
        groups = len({data.groups[i] for i in data.used} - {""})
        tiles = [(f"{len(data.used):,}", "images"), (f"{len(data.classes):,}", "classes")]
        tiles += [(f"{groups:,}", "group" if groups == 1 else "groups")] if groups else []
        tiles += [(f"{len(data.quarantine):,}", f"file{'' if len(data.quarantine) == 1 else 's'} left out")]
        counts = np.sum(list(table.values()), axis=0)
        blocks = [Tiles(tiles)]
        if counts.max() > 3 * max(counts.min(), 1):
            blocks.append(Note(f"The classes are uneven: {data.classes[counts.argmax()]} has {counts.max():,} images, "
                               f"{data.classes[counts.argmin()]} {counts.min():,}. Accuracy alone will not show whether the "
                               "small ones are learnt.", warning=True))  # fmt: skip
        order = np.argsort(-counts, kind="stable")[:40] if len(data.classes) > 40 else range(len(data.classes))
        bars = {data.classes[i]: {name: float(table[name][i]) for name in used} for i in order}
        title = "Images of each class, by split" + (", the 40 largest classes" if len(data.classes) > 40 else "")
        blocks.append(Charts([self._chart("classes", plots.bars(title, bars))]))
        rows = [(c, *(f"{table[name][i]:,}" for name in used), f"{counts[i]:,}", f"{counts[i] / counts.sum():.1%}")
                for i, c in enumerate(data.classes)]  # fmt: skip
        rows.append(("total", *(f"{table[name].sum():,}" for name in used), f"{counts.sum():,}", ""))
        blocks.append(Table(("class", *used, "all", "share"), rows))
        blocks += report.quarantine(data.quarantine)
        return Section("Classes", blocks)

    def groups(self) -> Section:
        data, blocks = self.data, []
        sizes = collections.Counter(data.groups[i] for i in data.used)
        ungrouped = sizes.pop("", 0)
        if not sizes:
            return Section("Groups", [])
        sides = {name: {data.groups[i] for i in rows} - {""} for name, rows in data.splits.items() if len(rows)}
        owner = collections.defaultdict(list)
        for name, groups in sides.items():
            for group in groups:
                owner[group].append(name)
        both = {group: names for group, names in owner.items() if len(names) > 1}
        per_split = ", ".join(f"{len(groups):,} in {name}" for name, groups in sides.items())
        values = np.array(list(sizes.values()))
        blocks.append(Note(f"{counted(len(sizes), 'group')}, by data.group = {self.config.data.group}: {per_split}. A group has "
                           f"{values.min():,} to {counted(values.max(), 'image')}, median {np.median(values):,g}."))  # fmt: skip
        if both:
            blocks.append(Note(f"{counted(len(both), 'group')} in more than one split: what the network learns about such a group in "
                               "training helps it in the test. --config.split.method=grouped keeps groups apart.", warning=True))  # fmt: skip
        if ungrouped:
            blocks.append(
                Note(f"{counted(ungrouped, 'image')} without a group: data.group matches nothing in the name.", warning=True)
            )
        blocks.append(Charts([self._chart("groups", plots.histogram("Images per group", {"groups": values}, "images", log=True,
                                                                    count="groups"))]))  # fmt: skip
        label = collections.Counter((data.groups[i], data.labels[i]) for i in data.used)
        rows = [(group, " and ".join(owner[group]), f"{size:,}", *(f"{label[group, c]:,}" for c in range(len(self.classes))))
                for group, size in sizes.most_common(100)]  # fmt: skip
        title = f"The {len(rows)} largest groups" if len(rows) < len(sizes) else "All groups"
        blocks.append(Table(("group", "split", "images", *self.classes), rows, left=2, folded=title))
        return Section("Groups", blocks)

    def sizes(self) -> Section:
        facts = [self.data.facts[i] for i in self.data.used]
        width, height = (np.array([int(fact[side]) for fact in facts]) for side in ("width", "height"))
        median = f"{np.median(width):g}×{np.median(height):g}"
        size, blocks = self.config.image.size, []
        ratio = width / height
        blocks.append(Note(f"Files are {width.min()} to {width.max()} pixels wide and {height.min()} to {height.max()} high, "
                           f"median {median}. The network sees {size}×{size} (image.resize = "
                           f"{self.config.image.resize})."))  # fmt: skip
        if self.config.image.resize != "pad" and (np.maximum(ratio, 1 / ratio) > 1.25).mean() > 0.25:
            blocks.append(Note(f"{(np.maximum(ratio, 1 / ratio) > 1.25).mean():.0%} of the images are distorted by more than a "
                               "quarter. --config.image.resize=pad keeps their shape.", warning=True))  # fmt: skip
        if (np.minimum(width, height) < size).mean() > 0.25:
            blocks.append(Note(f"{(np.minimum(width, height) < size).mean():.0%} of the images are smaller than the {size} pixels "
                               "that the network sees; a smaller --config.image.size loses nothing.", warning=True))  # fmt: skip
        by_class = {name: self.data.labels[self.data.used] == i for i, name in enumerate(self.data.classes)}
        if len(by_class) > 3:
            by_class = {"all": np.full(len(width), True)}
        charts = [("width", width, "pixels"), ("height", height, "pixels"), ("aspect", ratio, "width / height")]
        blocks.append(Charts([
            self._chart(name, plots.histogram(name.capitalize(), {c: v[own] for c, own in by_class.items() if own.any()}, label,
                                              log=name == "aspect"))
            for name, v, label in charts
        ]))  # fmt: skip
        kinds = collections.Counter((fact["format"], fact["mode"]) for fact in facts)
        rows = [(kind, mode, f"{n:,}") for (kind, mode), n in kinds.most_common()]
        blocks.append(Table(("format", "mode", "files"), rows, left=2))
        return Section("Files", blocks)

    def photos(self) -> Section:
        size, blocks = self.config.image.size, []
        for name in self.classes:
            chosen = self.rows[name][:NINE]
            if not len(chosen):
                continue
            originals = [self._original(row) for row in chosen]
            files = [Photo(pixels, name, " × ".join(map(str, pixels.shape))) for pixels in originals]
            seen = [Photo(self.data.images[row], name, f"{size} × {size} × 3") for row in chosen]
            blocks.append(Beside([
                self._photos(f"photos-{self.files[name]}", name, files),
                self._photos(f"seen-{self.files[name]}", f"{name}, as the network sees it", seen),
            ]))  # fmt: skip
        if len(self.data.classes) > len(self.classes):
            blocks.append(Note(f"{len(self.data.classes) - len(self.classes):,} more classes are not shown."))
        return Section(
            "Photos", [Note("Drawn at random from the training images; each with height × width × channels."), *blocks]
        )

    def colours(self) -> Section:
        means, charts = [], []
        for name in self.classes:
            rows = np.sort(self.rows[name][:SAMPLE])
            if not len(rows):
                continue
            pixels = self.data.images[rows]
            means.append(Photo(np.round(pixels.mean(0)).astype(np.uint8), name, f"of {len(rows):,}"))
            counts = np.stack([np.bincount(pixels[..., c].ravel(), minlength=256) for c in range(3)])
            drawn = plots.colours(name, counts / counts.sum(1, keepdims=True))
            charts.append(self._chart(f"colours-{self.files[name]}", drawn))
        first = next(row for name in self.classes for row in self.rows[name])
        original = self._original(first)
        blank = np.zeros_like(original)
        channels = [Photo(original, "all channels", " × ".join(map(str, original.shape)))]
        for c, name in enumerate(("red", "green", "blue")):
            alone = blank.copy()
            alone[..., c] = original[..., c]
            channels += [Photo(alone, name, f"channel {c}"), Photo(original[..., c], f"{name}, as grey", f"mean {original[..., c].mean():.0f}")]  # fmt: skip
        return Section("Colour", [
            self._photos("channels", "One image and its channels", channels, columns=7),
            self._photos("means", "The mean image of each class", means,
                         f"Of up to {SAMPLE:,} training images. What can be seen here, a linear classifier could use.",
                         columns=min(len(means), 5)),
            Note("How often each level occurs in the training images of a class; levels 0, 1, 254 and 255, mostly margins, are "
                 "drawn but do not set the scale."),
            Charts(charts),
        ])  # fmt: skip

    def augmentation(self) -> Section:
        config, rows = self.config, self.data.splits["train"]
        batch_size = plan.choose_batch_size(config, runtime.mesh(config.runtime.devices), len(rows))
        batches = pipeline.TrainBatches(self.data.images, self.data.labels, rows, batch_size=batch_size, seed=config.seed)
        shown = steps.compile_augmentation(config)
        first = batches[0]
        standard = config_lib.default().augment
        chosen = ", ".join(f"{key}={value}" for key, value in config.augment.items() if value != standard[key])
        images, targets = shown(np.int32(0), first)
        on = images.dtype != np.uint8
        names = self.data.classes
        weight = np.asarray(targets.weight)
        photos = []
        for i in range(min(len(images), 12)):
            own, other = (names[int(which[i])] for which in (targets.labels, targets.partners))
            mixed = f"{weight[i]:.0%}, the rest {other}" if weight[i] < 1 else ""
            photos.append(Photo(_shown(images[i]), own, mixed))
        text = "The first images of the first step: the very numbers that the network is given, rounded to whole levels."
        blocks = [self._photos("first-batch", "The first batch", photos, text, columns=6)]
        if not on:
            note = "Augmentation is off: the network sees each image as it is. --config.augment=light switches some of it on; presets: "
            return Section("Augmentation", [Note(note + ", ".join(config_lib.PRESETS)), *blocks])
        nine = []
        for name in self.classes:
            if not len(self.rows[name]):
                continue
            row = self.rows[name][0]
            batch = {
                "image": np.repeat(self.data.images[row][None], len(first["image"]), axis=0),
                "label": np.full(len(first["label"]), self.data.labels[row], np.int32),
            }
            out, _ = shown(np.int32(0), batch)
            photos = [Photo(_shown(out[i]), name, f"position {i}") for i in range(min(NINE, len(out)))]
            nine.append(self._photos(f"augmented-{self.files[name]}", f"{name}, augmented nine times", photos))
        blocks.append(Note("One image of each class, as if it stood at each of the first nine positions of the first batch: "
                           "step 0 would show the network these."))  # fmt: skip
        blocks.append(Beside(nine))
        blocks.append(Note("Each operation alone, at the ends of its range."))
        blocks += self._extremes()
        return Section("Augmentation", [Note(f"Switched on: {chosen}."), *blocks])

    def _extremes(self) -> list[Photos | Beside]:
        """Each operation alone."""
        row = next(row for name in self.classes for row in self.rows[name])
        image = self.data.images[row][None]
        key = jax.random.key(self.config.seed)
        small, large = [], []
        for name, ends in augmentation.extremes(self.config.augment).items():
            photos = [Photo(image[0], "as it is")]
            for label, numbers in ends:
                photos.append(Photo(_shown(augmentation.apply(image, numbers, self.config.augment, key)[0]), label))
            title = f"{name.replace('_', ' ').capitalize()} alone"
            drawn = self._photos(f"alone-{name}", title, photos, columns=min(len(photos), 7))
            (small if len(photos) <= 3 else large).append(drawn)
        return [Beside(small, narrow=True), *large]

    def processing(self) -> Section:
        """Classic image processing, as a course shows it, of one image of each of the first two classes."""
        from skimage import color, feature, filters, measure, morphology, segmentation

        blocks = []
        for name in self.classes[:2]:
            if not len(self.rows[name]):
                continue
            original = self._original(self.rows[name][0])
            if max(original.shape[:2]) > 400:
                original = data_lib.resize(original, 300, "pad")
            grey = color.rgb2gray(original)
            blurred = filters.gaussian(grey, 2)
            level = filters.threshold_otsu(blurred) if np.ptp(blurred) > 0 else float(blurred.flat[0])
            inside = blurred > level
            opened = morphology.opening(inside, morphology.disk(3))
            closed = morphology.closing(opened, morphology.disk(3))
            edges = feature.canny(grey, sigma=2)
            contours = measure.find_contours(np.pad(closed, 1).astype(float), 0.5)
            outlined = segmentation.mark_boundaries(original, closed.astype(int), color=(1, 0.84, 0), mode="thick")
            area = closed.mean()
            photos = [
                Photo(original, "original", " × ".join(map(str, original.shape))),
                Photo(_bytes(grey), "grey", "luma"),
                Photo(_bytes(blurred), "blur", "Gaussian, sigma 2"),
                Photo(_bytes(inside), "threshold", f"Otsu, {255 * level:.0f} of 255"),
                Photo(_bytes(edges), "edges", "Canny, sigma 2"),
                Photo(_bytes(opened), "opening", "disk of radius 3"),
                Photo(_bytes(closed), "closing", "disk of radius 3"),
                Photo(_bytes(outlined), "contours", f"{len(contours)}, around {area:.0%} of the image"),
            ]
            blocks.append(self._photos(f"processing-{self.files[name]}", name, photos, columns=8))
        note = Note(
            "What an image processing course does with such a picture, by scikit-image. The network is given none of it."
        )
        return Section("Image processing", [note, *blocks])


def _shown(image) -> np.ndarray:
    """Float [h, w, 3] in [0, 255] -> uint8."""
    return np.clip(np.round(np.asarray(image)), 0, 255).astype(np.uint8)


def _bytes(image: np.ndarray) -> np.ndarray:
    """Bool, or float in [0, 1], -> uint8."""
    return np.round(255 * np.clip(image.astype(float), 0, 1)).astype(np.uint8)


def _file(name: str) -> str:
    """A class name as a part of a file name."""
    return "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
