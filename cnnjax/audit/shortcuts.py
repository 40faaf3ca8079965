"""Shortcuts: how well the class is told by things that are not the object, such as the size of the file or the corners of the image.

Each probe is a small gradient-boosted classifier on a few numbers of an image, judged on groups that it was not fitted to. A probe that
does well is a reason to look, not proof: a stained parasite makes a PNG file larger.
"""

import contextlib
import dataclasses
import io
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

from cnnjax.audit.findings import FINE, NOTEWORTHY, SERIOUS, Finding
from cnnjax.data import Dataset
from cnnjax.metrics import Groups, Score, auc_without, effective, jackknife

MOST, CLASSES = 10_000, 20  # images and classes that are looked at, the largest ones
FOLDS = 5
WORTH_NOTING, WORTH_WORRY = 0.65, 0.80  # area under the ROC curve
SIDE, CORNER = 32, 6  # pixels of the image, and of each of its corners; of smaller images the same share
# Columns of `shortcuts.csv`.
SHORTCUTS = ("probe", "features", "balanced_accuracy", "chance", "auc", "low", "high", "severity", "note")


@dataclasses.dataclass(frozen=True)
class Probe:
    """How well one kind of number tells the class.

    Attributes:
        name: of the kind, in words.
        features: count of numbers of an image.
        balanced_accuracy: mean share of each class that is called right; None where the probe was not made.
        chance: of the balanced accuracy.
        auc: macro one-vs-rest area under the ROC curve, with its interval.
        severity: "serious", "noteworthy" or "fine".
    """

    name: str
    features: int
    balanced_accuracy: float | None
    chance: float
    auc: Score
    severity: str


@dataclasses.dataclass(frozen=True)
class Sample:
    """The images that probes look at.

    Attributes:
        rows: int64 [n], sorted.
        labels: int64 [n], from 0 without gaps.
        groups: of the images.
        note: what was left out; "".
    """

    rows: np.ndarray
    labels: np.ndarray
    groups: Groups
    note: str


def draw(data: Dataset) -> Sample:
    """Returns the images that probes look at: of the largest classes, at most `MOST`, drawn at random with the seed 0."""
    used, counts = data.used, np.bincount(data.labels[data.used], minlength=len(data.classes))
    largest = np.sort([i for i in np.argsort(-counts, kind="stable")[:CLASSES] if counts[i] >= 2])
    rows, notes = used[np.isin(data.labels[used], largest)], []
    if len(largest) < len(data.classes):
        notes.append(f"the {len(largest)} largest of {len(data.classes)} classes")
    if len(rows) > MOST:
        notes.append(f"{MOST:,} of {len(rows):,} images, drawn at random")
        rows = np.sort(np.random.default_rng(0).choice(rows, MOST, replace=False))
    _, labels = np.unique(data.labels[rows], return_inverse=True)
    return Sample(rows, labels, Groups.of(data.groups.take(rows)), "; ".join(notes))


def file_facts(data: Dataset, rows: np.ndarray, advance: Callable[[int], None] = lambda n: None) -> np.ndarray:
    """Returns numbers of the files themselves, float64 [n, 3]: bytes, entries of EXIF, mean of the quantization table of a JPEG file.

    NaN of what is not a file, or has none of these.
    """
    facts, place = np.full((len(rows), 3), np.nan), {int(row): i for i, row in enumerate(rows)}
    with contextlib.suppress(Exception):  # of an archive that was damaged since
        for row, reference in data.stream():
            if (i := place.get(row)) is None:
                continue
            with contextlib.suppress(Exception):
                content = reference.read()
                if isinstance(content, bytes):
                    facts[i, 0] = len(content)
                    facts[i, 1:] = _header(content)
            advance(1)
    return facts


def _header(content: bytes) -> tuple[float, float]:
    """Returns entries of EXIF and the mean of the first quantization table, without decoding the pixels; NaN where there are none."""
    image = Image.open(io.BytesIO(content), formats=("JPEG", "PNG"))
    exif, tables = Image.Exif(), getattr(image, "quantization", None)
    exif.load(image.info.get("exif"))  # `getexif` would decode the pixels of a PNG file
    return float(len(exif)), float(np.mean(tables[0])) if tables else np.nan


def numbers(data: Dataset, sample: Sample, files: np.ndarray) -> dict[str, np.ndarray]:
    """Returns the numbers of each probe, float [n, features], by name; -1 stands for what an image lacks."""
    small = _small(data.images, sample.rows).astype(np.float32)
    width, height = (
        np.array([float(text or 0) for text in data.facts[name].take(sample.rows)]) for name in ("width", "height")
    )
    kinds = (np.unique(data.facts[name].take(sample.rows), return_inverse=True)[1] for name in ("format", "mode"))
    area = np.maximum(width * height, 1)
    shape = np.stack([width, height, width / np.maximum(height, 1)], 1)
    ring = np.concatenate([small[:, 0], small[:, -1], small[:, 1:-1, 0], small[:, 1:-1, -1]], 1)
    high, wide = (max(side * CORNER // SIDE, 1) for side in small.shape[1:3])
    corners = np.stack(
        [small[:, a, b] for a in (slice(high), slice(-high, None)) for b in (slice(wide), slice(-wide, None))], 1
    )
    found = {
        "bytes of the file": files[:, :1],
        "width, height, aspect": shape,
        "bytes per pixel and metadata": np.column_stack([files[:, 0] / area, files, shape, *kinds]),
        "mean colour": small.mean((1, 2)),
        "spread of colour": small.std((1, 2)),
        "border of 1 pixel": ring.reshape(len(ring), -1),
        f"corners of {high}x{wide} pixels": corners.reshape(len(corners), -1),
    }
    if np.isnan(files[:, 0]).all():  # pixels of a program, not files
        found = {name: values for name, values in found.items() if "bytes" not in name}
    return {name: np.nan_to_num(values, nan=-1.0) for name, values in found.items()}


def _small(images: np.ndarray, rows: np.ndarray) -> np.ndarray:
    """Returns images of at most 32 pixels a side, uint8 [n, h, w, 3]; smaller ones as they are."""
    height, width = (min(side, SIDE) for side in images.shape[1:3])
    if (height, width) == images.shape[1:3]:
        return images[rows]
    return np.stack([np.asarray(Image.fromarray(images[row]).resize((width, height), Image.Resampling.BOX)) for row in rows])


def probe(name: str, values: np.ndarray, sample: Sample, level: float = 0.95) -> Probe:
    """Fits and judges one probe.

    Args:
        name: of the probe.
        values: float [n, features], finite.
        sample: the images.
        level: confidence of the interval.
    """
    classes = int(sample.labels.max(initial=0)) + 1
    folds, reason = _folds(sample)
    none = Score(value=None, groups=sample.groups.count, note=reason)
    unknown = Probe(name, values.shape[1], None, 1 / classes, none, FINE)
    if reason:
        return unknown
    from sklearn.ensemble import HistGradientBoostingClassifier
    from threadpoolctl import threadpool_limits

    p = np.zeros((len(sample.labels), classes))
    for train, test in folds:
        if len(np.unique(sample.labels[train])) < 2:
            return dataclasses.replace(unknown, auc=dataclasses.replace(none, note="one group holds a class: no probe"))
        model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15, early_stopping=False, random_state=0)
        with threadpool_limits(1):  # threads that wait for each other stand still where other work has the cores
            model.fit(values[train], sample.labels[train])
            p[np.ix_(test, model.classes_)] = model.predict_proba(values[test])
    right = p.argmax(1) == sample.labels
    recalls = np.bincount(sample.labels, right, classes) / np.bincount(sample.labels, minlength=classes)
    auc = macro_auc(p, sample.labels, sample.groups, level)
    severity = SERIOUS if (auc.value or 0) >= WORTH_WORRY else NOTEWORTHY if (auc.value or 0) >= WORTH_NOTING else FINE
    return Probe(name, values.shape[1], float(recalls.mean()), 1 / classes, auc, severity)


def _folds(sample: Sample) -> tuple[list[tuple[np.ndarray, np.ndarray]], str]:
    """Returns rows to fit and to judge, whole groups in each; or none and why."""
    from sklearn.model_selection import StratifiedGroupKFold, StratifiedKFold

    counts = np.bincount(sample.labels)
    if len(counts) < 2:
        return [], "a single class with two images or more: no probe"
    folds = min(FOLDS, sample.groups.count, int(counts.min()))
    if folds < 2:
        return [], "a single group: no probe"
    blank = np.zeros((len(sample.labels), 1))
    if sample.groups.named:
        divided = StratifiedGroupKFold(folds, shuffle=True, random_state=0).split(blank, sample.labels, sample.groups.index)
    else:
        divided = StratifiedKFold(folds, shuffle=True, random_state=0).split(blank, sample.labels)
    return [(train, test) for train, test in divided if len(test)], ""


def macro_auc(p: np.ndarray, labels: np.ndarray, groups: Groups, level: float = 0.95) -> Score:
    """Returns the mean over classes of the area under the ROC curve of one against the rest, with its interval.

    Args:
        p: float [n, classes], probabilities.
        labels: int64 [n]; a class without images is left out.
        groups: of the images.
        level: of confidence.
    """
    present = np.unique(labels)
    shown = present[1:] if len(present) == 2 else present  # of two classes, both areas are the same
    areas = [auc_without(p[:, k], labels == k, groups) for k in shown]
    value = float(np.mean([area for area, _ in areas]))
    without = np.mean([left for _, left in areas], axis=0)
    if len(present) == 2:
        counting = min(effective(groups.sums(labels == k)) for k in present)
    else:
        counting = effective(groups.sums(np.ones(len(labels))))
    return jackknife(value, without, counting, link="logit", level=level, unit=groups.unit)


def findings(probes: list[Probe]) -> list[Finding]:
    """Returns the finding on shortcuts, in one line; nothing where no probe was made."""
    known = sorted((probe for probe in probes if probe.auc.value is not None), key=lambda probe: -probe.auc.value)
    if not known:
        return []
    strong = [f"{probe.name} {probe.auc.value:.3f}" for probe in known if probe.severity != FINE]
    if not strong:
        text = f"nothing beside the object tells the class: the best probe, {known[0].name}, has an AUC of {known[0].auc.value:.3f}"
        return [Finding(kind="shortcut", severity=FINE, text=text)]
    text = f"the class is told without the object, a reason to look and not proof (AUC): {', '.join(strong)}"
    return [Finding(kind="shortcut", severity=known[0].severity, text=text, count=len(strong))]


def table(probes: list[Probe]) -> Iterator[tuple]:
    """Yields the rows of `shortcuts.csv`."""
    for probe in probes:
        auc = probe.auc
        known = (probe.balanced_accuracy, probe.chance, auc.value, auc.low, auc.high)
        told = ("" if number is None else round(number, 6) for number in known)
        yield probe.name, probe.features, *told, probe.severity, auc.note
