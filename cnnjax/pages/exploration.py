"""The page of the data before training: counts, files, photos, colours, augmentation, image processing."""

import collections
import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax import config as config_lib
from cnnjax.data import Dataset, resize
from cnnjax.pages import plots
from cnnjax.pages.blocks import Beside, Charts, Note, Photo, Photos, Section, Table, Tiles
from cnnjax.pages.figures import save, svg
from cnnjax.pages.report import left_out
from cnnjax.progress import counted


@dataclasses.dataclass(frozen=True)
class Sample:
    """Training images of one class, drawn at random.

    Attributes:
        name: of the class.
        label: of the class.
        originals: a few images as they are in their files, uint8 [h, w, 3].
        seen: the same images as the network sees them, uint8 [n, size, size, 3].
        mean: the mean of more images, uint8 [size, size, 3].
        levels: how often each level of red, green and blue occurs in these, float [3, 256], each with the sum 1.
        count: number of images behind `mean` and `levels`.
    """

    name: str
    label: int
    originals: Sequence[np.ndarray]
    seen: np.ndarray
    mean: np.ndarray
    levels: np.ndarray
    count: int


@dataclasses.dataclass(frozen=True)
class Augmented:
    """Augmentation at work.

    Attributes:
        chosen: keys and values that differ from the default, as text.
        is_on: whether any operation changes an image.
        first_batch: images of step 0 as the network is given them.
        repeated: class -> one image of it at several positions of the first batch.
        alone: operation -> one image as it is, and at the ends of the operation's range.
    """

    chosen: str
    is_on: bool
    first_batch: Sequence[Photo]
    repeated: Mapping[str, Sequence[Photo]] = dataclasses.field(default_factory=dict)
    alone: Mapping[str, Sequence[Photo]] = dataclasses.field(default_factory=dict)


class Pictures:
    """Puts charts and photos on the page, and saves each as PNG in `directory`."""

    def __init__(self, directory: Path):
        self._directory = directory
        self._names: dict[str, str] = {}

    def of(self, kind: str, name: str) -> str:
        """Returns the file name of a picture of a class; the names of two classes differ."""
        if name not in self._names:
            safe = "".join(c if c.isalnum() or c in "-_" else "_" for c in name)
            while safe in self._names.values():
                safe += "_"
            self._names[name] = safe
        return f"{kind}-{self._names[name]}"

    def chart(self, file: str, drawn) -> str:
        """Returns a figure as SVG."""
        save(drawn, self._directory / f"{file}.png")
        return svg(drawn)

    def photos(self, file: str, title: str, photos: Sequence[Photo], text: str = "", columns: int = 3) -> Photos:
        """Returns photos in a grid."""
        captions = [f"{photo.caption}\n{photo.detail}" if photo.detail else photo.caption for photo in photos]
        drawn = plots.photos(title, [photo.pixels for photo in photos], captions, columns)
        save(drawn, self._directory / f"{file}.png", dpi=100)
        return Photos(title, photos, columns, text)


def classes_section(data: Dataset, pictures: Pictures) -> Section:
    """Shows how many images each class has in each split, and the files that were left out."""
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
    blocks.append(Charts([pictures.chart("classes", plots.bars(title, bars))]))
    rows = [(c, *(f"{table[name][i]:,}" for name in used), f"{counts[i]:,}", f"{counts[i] / counts.sum():.1%}")
            for i, c in enumerate(data.classes)]  # fmt: skip
    rows.append(("total", *(f"{table[name].sum():,}" for name in used), f"{counts.sum():,}", ""))
    blocks.append(Table(("class", *used, "all", "share"), rows))
    return Section("Classes", [*blocks, *left_out(data.quarantine)])


def groups_section(data: Dataset, pattern: str, shown: int, pictures: Pictures) -> Section:
    """Shows the groups, their sizes and their splits.

    Args:
        data: the data set.
        pattern: `data.group` of the config.
        shown: number of classes with a column.
        pictures: where pictures go.
    """
    sizes = collections.Counter(data.groups[i] for i in data.used)
    ungrouped = sizes.pop("", 0)
    if not sizes:
        return Section("Groups", [])
    sides = {name: {data.groups[i] for i in rows} - {""} for name, rows in data.splits.items() if len(rows)}
    owner = collections.defaultdict(list)
    for name, groups in sides.items():
        for group in groups:
            owner[group].append(name)
    both = sum(len(names) > 1 for names in owner.values())
    per_split = ", ".join(f"{len(groups):,} in {name}" for name, groups in sides.items())
    values = np.array(list(sizes.values()))
    blocks = [Note(f"{counted(len(sizes), 'group')}, by data.group = {pattern}: {per_split}. A group has {values.min():,} to "
                   f"{counted(values.max(), 'image')}, median {np.median(values):,g}.")]  # fmt: skip
    if both:
        blocks.append(Note(f"{counted(both, 'group')} in more than one split: what the network learns about such a group in "
                           "training helps it in the test. --config.split.method=grouped keeps groups apart.", warning=True))  # fmt: skip
    if ungrouped:
        blocks.append(
            Note(f"{counted(ungrouped, 'image')} without a group: data.group matches nothing in the name.", warning=True)
        )
    (drawn,) = plots.histograms({"Images per group": {"groups": values}}, "images", log=True, count="groups")
    blocks.append(Charts([pictures.chart("groups", drawn)]))
    classes = data.classes[:shown]
    label = collections.Counter((data.groups[i], data.labels[i]) for i in data.used)
    rows = [(group, " and ".join(owner[group]), f"{size:,}", *(f"{label[group, c]:,}" for c in range(len(classes))))
            for group, size in sizes.most_common(100)]  # fmt: skip
    title = f"The {len(rows)} largest groups" if len(rows) < len(sizes) else "All groups"
    blocks.append(Table(("group", "split", "images", *classes), rows, left=2, folded=title))
    return Section("Groups", blocks)


def files_section(data: Dataset, image: config_lib.Image, pictures: Pictures) -> Section:
    """Shows sizes, shapes and formats of the files."""
    width, height = (np.fromiter(map(int, data.facts[side].take(data.used)), int) for side in ("width", "height"))
    high, wide = image.shape
    ratio = width / height
    median = f"{np.median(width):g}×{np.median(height):g}"
    blocks = [Note(f"Files are {width.min()} to {width.max()} pixels wide and {height.min()} to {height.max()} high, "
                   f"median {median}. The network sees {high}×{wide} pixels (image.resize = {image.resize}).")]  # fmt: skip
    stretched = ratio * high / wide
    distorted = (np.maximum(stretched, 1 / stretched) > 1.25).mean()
    if image.resize != "pad" and distorted > 0.25:
        blocks.append(Note(f"{distorted:.0%} of the images are distorted by more than a quarter. --config.image.resize=pad keeps "
                           "their shape.", warning=True))  # fmt: skip
    smaller = ((height < high) | (width < wide)).mean()
    if smaller > 0.25:
        blocks.append(Note(f"{smaller:.0%} of the images are smaller than the {high}×{wide} pixels that the network sees; a smaller "
                           "--config.image.size loses nothing.", warning=True))  # fmt: skip
    by_class = {name: data.labels[data.used] == i for i, name in enumerate(data.classes)}
    if len(by_class) > 3:
        by_class = {"all": np.full(len(width), True)}

    def series(values: np.ndarray) -> dict[str, np.ndarray]:
        return {c: values[own] for c, own in by_class.items() if own.any()}

    drawn = plots.histograms({"Width": series(width), "Height": series(height)}, "pixels")
    drawn += plots.histograms({"Aspect": series(ratio)}, "width / height", log=True)
    charts = [pictures.chart(name, one) for name, one in zip(("width", "height", "aspect"), drawn, strict=True)]
    kinds = collections.Counter((data.facts["format"][i], data.facts["mode"][i]) for i in data.used)
    rows = [(kind, mode, f"{n:,}") for (kind, mode), n in kinds.most_common()]
    return Section("Files", [*blocks, Charts(charts), Table(("format", "mode", "files"), rows, left=2)])


def photos_section(samples: Sequence[Sample], more: int, pictures: Pictures) -> Section:
    """Shows images of each class, as files and as the network sees them; `more` classes are not shown."""
    blocks = []
    for sample in samples:
        files = [Photo(pixels, sample.name, " × ".join(map(str, pixels.shape))) for pixels in sample.originals]
        seen = [Photo(pixels, sample.name, " × ".join(map(str, pixels.shape))) for pixels in sample.seen]
        blocks.append(Beside([
            pictures.photos(pictures.of("photos", sample.name), sample.name, files),
            pictures.photos(pictures.of("seen", sample.name), f"{sample.name}, as the network sees it", seen),
        ]))  # fmt: skip
    if more:
        blocks.append(Note(f"{more:,} more classes are not shown."))
    return Section(
        "Photos", [Note("Drawn at random from the training images; each with height × width × channels."), *blocks]
    )


def colours_section(samples: Sequence[Sample], most: int, pictures: Pictures) -> Section:
    """Shows channels, mean images and histograms of levels, of up to `most` images of each class."""
    original = samples[0].originals[0]
    channels = [Photo(original, "all channels", " × ".join(map(str, original.shape)))]
    for c, name in enumerate(("red", "green", "blue")):
        alone = np.zeros_like(original)
        alone[..., c] = original[..., c]
        grey = Photo(original[..., c], f"{name}, as grey", f"mean {original[..., c].mean():.0f}")
        channels += [Photo(alone, name, f"channel {c}"), grey]
    means = [Photo(sample.mean, sample.name, f"of {sample.count:,}") for sample in samples]
    drawn = plots.colours({sample.name: sample.levels for sample in samples})
    charts = [pictures.chart(pictures.of("colours", sample.name), one) for sample, one in zip(samples, drawn, strict=True)]
    text = f"Of up to {most:,} training images. What can be seen here, a linear classifier could use."
    return Section("Colour", [
        pictures.photos("channels", "One image and its channels", channels, columns=7),
        pictures.photos("means", "The mean image of each class", means, text, columns=min(len(means), 5)),
        Note("How often each level occurs in the training images of a class; levels 0, 1, 254 and 255, mostly margins, are "
             "drawn but do not set the scale, which is the same for all classes."),
        Charts(charts),
    ])  # fmt: skip


def augmentation_section(shown: Augmented, pictures: Pictures) -> Section:
    """Shows the first batch, one image again and again, and each operation alone."""
    text = "The first images of the first step: the very numbers that the network is given, rounded to whole levels."
    first = pictures.photos("first-batch", "The first batch", shown.first_batch, text, columns=6)
    if not shown.is_on:
        note = "Augmentation is off: the network sees each image as it is. --config.augment=light switches some of it on; presets: "
        return Section("Augmentation", [Note(note + ", ".join(config_lib.PRESETS)), first])
    nine = [pictures.photos(pictures.of("augmented", name), f"{name}, augmented nine times", photos)
            for name, photos in shown.repeated.items()]  # fmt: skip
    small, large = [], []
    for name, photos in shown.alone.items():
        title = f"{name.replace('_', ' ').capitalize()} alone"
        drawn = pictures.photos(f"alone-{name}", title, photos, columns=min(len(photos), 7))
        (small if len(photos) <= 3 else large).append(drawn)
    return Section("Augmentation", [
        Note(f"Switched on: {shown.chosen}."),
        first,
        Note("One image of each class, as if it stood at each of the first nine positions of the first batch: step 0 would show "
             "the network these."),
        Beside(nine),
        Note("Each operation alone, at the ends of its range."),
        Beside(small, narrow=True),
        *large,
    ])  # fmt: skip


def processing_section(samples: Sequence[Sample], pictures: Pictures) -> Section:
    """Shows classic image processing, as a course does, of one image of each sample."""
    blocks = [pictures.photos(pictures.of("processing", sample.name), sample.name, _processed(sample.originals[0]), columns=8)
              for sample in samples]  # fmt: skip
    note = "What an image processing course does with such a picture, by scikit-image. The network is given none of it."
    return Section("Image processing", [Note(note), *blocks])


def _processed(original: np.ndarray) -> list[Photo]:
    from skimage import color, feature, filters, measure, morphology, segmentation

    if max(original.shape[:2]) > 400:
        original = resize(original, 300, "pad")
    grey = color.rgb2gray(original)
    blurred = filters.gaussian(grey, 2)
    level = filters.threshold_otsu(blurred) if np.ptp(blurred) > 0 else float(blurred.flat[0])
    inside = blurred > level
    opened = morphology.opening(inside, morphology.disk(3))
    closed = morphology.closing(opened, morphology.disk(3))
    edges = feature.canny(grey, sigma=2)
    contours = measure.find_contours(np.pad(closed, 1).astype(float), 0.5)
    outlined = segmentation.mark_boundaries(original, closed.astype(int), color=(1, 0.84, 0), mode="thick")
    return [
        Photo(original, "original", " × ".join(map(str, original.shape))),
        Photo(_bytes(grey), "grey", "luma"),
        Photo(_bytes(blurred), "blur", "Gaussian, sigma 2"),
        Photo(_bytes(inside), "threshold", f"Otsu, {255 * level:.0f} of 255"),
        Photo(_bytes(edges), "edges", "Canny, sigma 2"),
        Photo(_bytes(opened), "opening", "disk of radius 3"),
        Photo(_bytes(closed), "closing", "disk of radius 3"),
        Photo(_bytes(outlined), "contours", f"{len(contours)}, around {closed.mean():.0%} of the image"),
    ]


def _bytes(image: np.ndarray) -> np.ndarray:
    """Returns uint8 levels of a bool image, or of a float image in [0, 1]."""
    return np.round(255 * np.clip(image.astype(float), 0, 1)).astype(np.uint8)
