"""A run, or several side by side, as one page. All numbers come from files in run directories; nothing is computed anew."""

import collections
import csv
import types
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax.errors import CheckpointError
from cnnjax.metrics import shown
from cnnjax.pages import blocks as pages
from cnnjax.pages import plots
from cnnjax.pages.blocks import Charts, Note, Photo, Photos, Section, Table, Tiles
from cnnjax.progress import counted, duration
from cnnjax.runs import RAW, RunDirectory, check_writable, read_json

COLUMNS = {"images": "images", "loss": "loss", "accuracy": "accuracy", "auc": "AUC", "sensitivity": "sensitivity",
           "specificity": "specificity", "top5_accuracy": "top-5"}  # fmt: skip
SPENT = {"step": "training steps", "input": "waiting for input", "compile": "compiling", "evaluation": "validation",
         "checkpoint": "saving", "pictures": "pictures"}  # fmt: skip
TABLE_CLASSES = 20  # classes up to which a confusion matrix is a table


class _Files:
    """What a run has written so far; what is missing is empty."""

    def __init__(self, workdir: Path):
        if not (workdir / "config.json").exists():
            raise CheckpointError(f"{workdir} holds no run; train first, or name a run directory with --workdir=DIR")
        self.workdir = workdir
        self.config = dict(config_lib.flatten(read_json(workdir / "config.json")))
        self.summary = self._json("summary.json") or {}
        self.history = RunDirectory(workdir).read_history()
        self.network = [types.SimpleNamespace(**row) for row in self._json("network.json") or []]
        self.splits = data_lib.read_splits(workdir / "splits.csv") if (workdir / "splits.csv").exists() else data_lib.NO_ROWS
        self.evaluations = {name: self._json(f"eval/{name}.json") for name in data_lib.SPLITS}
        self.evaluations = {name: value for name, value in self.evaluations.items() if value}
        self.name = self.config["name"] or workdir.name
        self.finished = self.summary.get("stopped") in ("finished", "early")

    def _json(self, name: str):
        path = self.workdir / name
        return read_json(path) if path.exists() else None

    @property
    def judged(self) -> str:
        """The split that the page shows in detail: test, or where there is none validation; "" before evaluation."""
        return next((name for name in ("test", "val") if name in self.evaluations), "")

    def best_step(self) -> int:
        """Of the lowest val_loss so far."""
        rows = [(row["val_loss"], row["step"]) for row in self.history]
        return self.summary.get("best_step") or min(rows, default=(0, 0))[1]

    def scores(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Of a two-class task: bool [n], whether positive, and float64 [n], its probability; None without both classes."""
        if not self.judged or "positive" not in self.evaluations[self.judged]:
            return None
        positive = self.evaluations[self.judged]["positive"]
        with open(self.workdir / "eval" / f"{self.judged}.csv", newline="", encoding="utf-8") as file:
            rows = ((row["label"] == positive, float(row[f"p_{positive}"])) for row in csv.DictReader(file))
            table = np.fromiter(rows, [("label", bool), ("score", float)])
        labels, scores = table["label"], table["score"]
        return (labels, scores) if 0 < labels.sum() < len(labels) else None


def write_report(workdir: str | Path, output: str | Path | None = None) -> Path:
    """Writes the page of a run, finished or under way; returns its path.

    Args:
        workdir: the run directory.
        output: the page; default `report.html` in the run directory.

    Raises:
        CheckpointError: the directory holds no run, a file of it is damaged, or the page cannot be written.
    """
    files = _Files(Path(workdir))
    sections = [_result(files), _data(files), _network(files), _training(files)]
    if files.judged:
        sections += [_judged(files), _looks(files)]
    sections += [_time(files), _config(files), _environment(files)]
    path = Path(output) if output else Path(workdir) / "report.html"
    check_writable(path.parent, "name another place with --output=FILE")
    pages.write(path, files.name, _subtitle(files), [section for section in sections if section.blocks])
    return path


def _subtitle(files: _Files) -> str:
    classes = files.summary.get("classes") or sorted(set(files.splits.labels))
    listed = ", ".join(classes[:6]) + (f" and {len(classes) - 6} more" if len(classes) > 6 else "")
    images, size = counted(len(files.splits), "image"), files.config["image.size"]
    return f"Image classification: {listed}. {images}, {size} pixels a side."


def _result(files: _Files) -> Section:
    blocks, summary = [], files.summary
    if not files.finished:
        blocks.append(Note("This run has not come to its end: it was interrupted or is still under way. The same command "
                           "continues it.", warning=True))  # fmt: skip
    tiles = []
    if files.judged:
        numbers = files.evaluations[files.judged]
        where = {"test": "test", "val": "validation"}[files.judged]
        for key in ("accuracy", "auc", "sensitivity", "specificity"):
            if numbers.get(key) is not None:
                tiles.append((f"{numbers[key]:.3f}", f"{where} {COLUMNS[key]}"))
    best = [row for row in files.history if row["step"] == files.best_step()]
    if best:
        tiles.append((f"{best[0]['epoch']} of {len(files.history)}", "best epoch, by validation loss"))
    if summary.get("parameters"):
        tiles.append((f"{summary['parameters']:,}", "parameters"))
    if summary.get("seconds"):
        tiles.append((duration(summary["seconds"]), "training time"))
    if summary.get("images_per_second"):
        tiles.append((f"{summary['images_per_second']:,.0f}", "images per second in training"))
    blocks.append(Tiles(tiles))
    if files.evaluations:
        present = [key for key in COLUMNS if any(key in numbers for numbers in files.evaluations.values())]
        rows = [
            (name, *(f"{numbers[key]:,}" if key == "images" else shown(numbers.get(key)) for key in present))
            for name, numbers in files.evaluations.items()
        ]
        caption = "At the best epoch, which validation has chosen. Training reads test once, at its end."
        blocks.append(Table(("split", *(COLUMNS[key] for key in present)), rows, caption))
        positive = files.evaluations[files.judged].get("positive")
        if positive:
            blocks.append(
                Note(f"Sensitivity, specificity and AUC are those of {positive}; the first two at a probability of 0.5.")
            )
    return Section("Result", blocks)


def _data(files: _Files) -> Section:
    if not files.splits:
        return Section("Data", [])
    classes = files.summary.get("classes") or sorted(set(files.splits.labels))
    counts = collections.Counter((split, label) for _, label, _, split in files.splits)
    groups = {name: {group for _, _, group, split in files.splits if split == name and group} for name in data_lib.SPLITS}
    used = [name for name in data_lib.SPLITS if any(counts[name, c] for c in classes)]
    grouped = any(groups.values())
    header = ("split", "images", *(("groups",) if grouped else ()), *classes)
    rows = []
    for name in used:
        total = sum(counts[name, c] for c in classes)
        per_class = (f"{counts[name, c]:,}" for c in classes)
        rows.append((name, f"{total:,}", *((f"{len(groups[name]):,}",) if grouped else ()), *per_class))
    config = files.config
    source = {"files": config["data.path"] or config["data.url"], "tfds": f"TFDS {config['data.tfds']}",
              "digits": "scikit-learn's digits", "demo": "Drawn cells"}[config["data.source"]]  # fmt: skip
    blocks = [Note(f"{source}. Split: {config['split.method']}, seed {config['split.seed']}."), Table(header, rows)]
    both = data_lib.shared_groups(files.splits.groups, files.splits.splits)
    if both:
        group, sides = min(both.items())
        blocks.append(Note(f"{counted(len(both), 'group')} in more than one split, such as {group} in {' and '.join(sorted(sides))}: "
                           "the numbers are better than they will be on new groups. --config.split.method=grouped keeps "
                           "groups apart.", warning=True))  # fmt: skip
    elif grouped:
        blocks.append(Note(f"No group is in two splits; {counted(sum(map(len, groups.values())), 'group')} in all."))
    blocks += quarantine(_csv(files.workdir / "quarantine.csv"))
    return Section("Data", blocks)


def quarantine(rows: Sequence[Sequence[str]]) -> list[Note | Table]:
    """Files that were left out, and why: (id, reason)."""
    if not rows:
        return []
    return [Note(f"Left out: {counted(len(rows), 'file')}."),
            Table(("file", "reason"), rows[:100], left=2, folded="Which, and why" if len(rows) <= 100 else "The first 100 of them, and why")]  # fmt: skip


def _csv(path: Path) -> list[list[str]]:
    if not path.exists():
        return []
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))[1:]


def _network(files: _Files) -> Section:
    if not files.network:
        return Section("Network", [])
    rows = [(row.name, " × ".join(f"{n:,}" for n in row.shape), f"{row.parameters:,}" if row.parameters else "",
             f"{row.mflops:,.2f}" if row.mflops else "") for row in files.network]  # fmt: skip
    rows.append(("total", "", f"{sum(row.parameters for row in files.network):,}",
                 f"{sum(row.mflops for row in files.network):,.2f}"))  # fmt: skip
    picture = plots.svg(plots.network(files.network, files.config["image.size"], files.name))
    table = Table(
        ("layer", "output", "parameters", "MFLOP"),
        rows,
        "MFLOP: millions of multiplications and additions for one image, forward",
    )
    return Section("Network", [Charts([picture], wide=True), table])


def _training(files: _Files) -> Section:
    if not files.history:
        return Section("Training", [])
    runs, best = {files.name: files.history}, {files.name: files.best_step()}
    charts = Charts([plots.svg(plots.curves(runs, key, best)) for key in ("accuracy", "loss")])
    rows = [
        (row["epoch"], row["step"], f"{row['loss']:.4f}", f"{row['accuracy']:.4f}", f"{row['val_loss']:.4f}",
         f"{row['val_accuracy']:.4f}", f"{row['images_per_second']:,.0f}", duration(row["seconds"]),
         "best" if row["step"] == files.best_step() else "", *(f"{row[key]:.4f}" for key in RAW if key in row))
        for row in files.history
    ]  # fmt: skip
    averaged = RAW if "raw_val_loss" in files.history[0] else ()
    header = ("epoch", "step", "loss", "accuracy", "val_loss", "val_accuracy", "images/s", "time", "", *averaged)
    blocks = [charts, Table(header, rows, folded="All epochs as a table", left=0)]
    config = files.config
    if averaged:
        blocks.insert(0, Note("Validation is of averaged weights (train.ema_decay), and so are the numbers above; that of the "
                              "weights themselves is in the table as raw."))  # fmt: skip
    if any(config.get(f"augment.{key}") for key in ("mixup", "cutmix")) or config.get("train.label_smoothing"):
        blocks.insert(0, Note("Training loss and accuracy are of mixed images or smoothed labels; they do not compare with "
                              "those of validation."))  # fmt: skip
    return Section("Training", blocks)


def _judged(files: _Files) -> Section:
    numbers, names = files.evaluations[files.judged], files.evaluations[files.judged]["classes"]
    confusion = np.array(numbers["confusion"])
    blocks = []
    if len(names) <= TABLE_CLASSES:
        shares = (confusion / np.maximum(confusion.sum(1, keepdims=True), 1)).tolist()
        rows = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, confusion, strict=True)]
        blocks.append(Table(("true \\ predicted", *names), rows, "Images by true class (rows) and predicted class (columns); "
                            "the shade is the share of the row.", shades=shares))  # fmt: skip
    else:
        blocks.append(Charts([plots.svg(plots.matrix(confusion, names))]))
    rows = [(name, f"{n['images']:,}", shown(n["precision"]), shown(n["recall"]), shown(n["f1"]))
            for name, n in numbers["per_class"].items()]  # fmt: skip
    blocks.append(Table(("class", "images", "precision", "recall", "F1"), rows))
    scores = files.scores()
    if scores:
        blocks.append(Charts(_rates({files.name: (*scores, numbers)}, mark=True)))
    return Section({"test": "Test in detail", "val": "Validation in detail"}[files.judged], blocks)


def _rates(runs: Mapping[str, tuple[np.ndarray, np.ndarray, dict]], mark: bool) -> list[str]:
    """ROC and precision-recall curves as SVG; one run's with the point of probability 0.5."""
    from sklearn import metrics

    roc, pr = {}, {}
    for name, (labels, scores, numbers) in runs.items():
        fall_out, sensitivity, _ = metrics.roc_curve(labels, scores)
        precision, recall, _ = metrics.precision_recall_curve(labels, scores)
        label = "" if mark else f"{name}, "
        roc[name] = fall_out, sensitivity, f"{label}AUC {numbers['auc']:.4f}"
        pr[name] = recall, precision, f"{label}average precision {metrics.average_precision_score(labels, scores):.4f}"
    labels, scores, numbers = next(iter(runs.values()))
    point = called = None
    if mark:
        point = 1 - numbers["specificity"], numbers["sensitivity"]
        called = numbers["per_class"][numbers["positive"]]
        called = (called["recall"], called["precision"]) if called["precision"] is not None else None
    base = float(labels.mean())
    return [plots.svg(plots.rates("roc", roc, base, point)), plots.svg(plots.rates("pr", pr, base, called))]


def _looks(files: _Files) -> Section:
    numbers = files.evaluations[files.judged]
    titles = {
        "mistakes": ("Most confident mistakes", "Look for wrong labels first, then for what these have in common."),
        "uncertain": ("Least certain", "Correct, but the two most probable classes are closest here."),
    }
    blocks = []
    for kind, (title, text) in titles.items():
        photos = []
        for look in numbers.get(kind, []):
            path = files.workdir / "eval" / look["file"]
            if path.exists():
                right = look["label"] == look["predicted"]
                caption = f"{look['predicted']} {look['probability']:.3f}"
                detail = f"{'correct' if right else 'true: ' + look['label']} · {look['id'].rpartition('/')[2]}"
                photos.append(Photo(path.read_bytes(), caption, detail))
        if photos:
            blocks.append(Photos(title, photos, 6, text))
        elif kind == "mistakes" and kind in numbers:
            blocks.append(Note("There is no mistake to show."))
    return Section("Worth a look", blocks)


def _time(files: _Files) -> Section:
    summary = files.summary
    spent = dict(summary.get("spent", {}))
    if not spent:
        return Section("Where the time went", [])
    augmentation = min(spent.pop("augmentation", 0.0), spent.get("step", 0.0))
    total = max(summary["seconds"], sum(spent.values()))
    shown_as = {title: {"seconds": spent.get(key, 0.0)} for key, title in SPENT.items()}
    if augmentation:
        shown_as["training steps"] = {"seconds": spent["step"] - augmentation}
        shown_as = {"augmentation": {"seconds": augmentation}, **shown_as}
    shown_as["the rest"] = {"seconds": total - sum(spent.values())}
    shown_as = {title: {"": row["seconds"]} for title, row in shown_as.items()}
    blocks = [
        Note(f"{summary['images_per_second']:,.0f} images per second in training, on {summary['devices']}."),
        Charts([plots.svg(plots.bars("Seconds, of " + duration(total), shown_as, " s"))]),
    ]
    if augmentation:
        blocks.append(Note("Augmentation is part of the training step; its share was measured by itself, after training."))
    return Section("Where the time went", blocks)


def _config(files: _Files) -> Section:
    standard = dict(config_lib.flatten(config_lib.default()))
    rows = [(key, _value(value), _value(standard.get(key, "")))
            for key, value in files.config.items() if _value(value) != _value(standard.get(key, ""))]  # fmt: skip
    everything = [(key, _value(value)) for key, value in files.config.items()]
    return Section("Config", [Table(("key", "value", "default"), rows, "What differs from the default", left=3),
                              Table(("key", "value"), everything, folded="The whole config", left=2)])  # fmt: skip


def _value(value) -> str:
    return ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _environment(files: _Files) -> Section:
    summary = files.summary
    if "versions" not in summary:
        return Section("Environment", [])
    names = ("devices", "kernels", "precision", "python", "platform", "revision")
    rows = [(name, summary[name]) for name in names if summary.get(name)]
    return Section("Environment", [Table(("", ""), [*rows, *summary["versions"].items()], left=2)])


def compare_runs(workdirs: Sequence[str | Path], output: str | Path | None = None) -> Path:
    """Writes a page with several runs side by side; returns its path.

    Args:
        workdirs: two or more run directories.
        output: the page; default `compare-<names>.html` beside the first of them.

    Raises:
        CheckpointError: fewer than two, one of them holds no run, or the page cannot be written.
    """
    paths = [Path(workdir) for workdir in workdirs]
    if len(paths) < 2 or len({path.resolve() for path in paths}) < len(paths):
        raise CheckpointError("--compare needs two or more different run directories, such as --compare=runs/a,runs/b")
    names = [path.name for path in paths]
    if len(set(names)) < len(names):
        names = [str(path) for path in paths]
    runs = dict(zip(names, map(_Files, paths), strict=True))
    output = Path(output) if output else paths[0].parent / f"compare-{'-'.join(path.name for path in paths)}.html"
    check_writable(output.parent, "name another place with --output=FILE")
    sections = [_numbers(runs), _curves(runs), _difference(runs)]
    pages.write(output, " against ".join(names) if len(names) < 4 else f"{len(names)} runs", "Runs side by side.",
                [section for section in sections if section.blocks])  # fmt: skip
    return output


def _numbers(runs: dict[str, _Files]) -> Section:
    blocks = []
    unfinished = [name for name, files in runs.items() if not files.finished]
    if unfinished:
        blocks.append(Note(f"Not finished: {', '.join(unfinished)}.", warning=True))
    tests = {tuple(sorted(row[0] for row in files.splits if row[3] == files.judged)) for files in runs.values()}
    if len(tests) > 1:
        blocks.append(Note("These runs were not judged on the same images; differences between their numbers may come from "
                           "that.", warning=True))  # fmt: skip
    rows = []
    for split in ("test", "val", "train"):
        for key in ("images", "accuracy", "auc", "sensitivity", "specificity", "top5_accuracy", "loss"):
            values = [files.evaluations.get(split, {}).get(key) for files in runs.values()]
            if any(value is not None for value in values):
                cells = (f"{v:,}" if key == "images" and v is not None else shown(v) for v in values)
                rows.append((f"{split} {COLUMNS[key]}", *cells))
    for key, title in {"parameters": "parameters", "images_per_second": "images per second"}.items():
        rows.append((title, *(f"{files.summary[key]:,.0f}" if key in files.summary else "-" for files in runs.values())))
    best = ([row["epoch"] for row in files.history if row["step"] == files.best_step()] for files in runs.values())
    rows.append(("best epoch", *(str(epoch[0]) if epoch else "-" for epoch in best)))
    rows.append(("epochs", *(str(len(files.history)) for files in runs.values())))
    rows.append(("time", *(duration(f.summary["seconds"]) if "seconds" in f.summary else "-" for f in runs.values())))
    blocks.append(Table(("", *runs), rows))
    return Section("Numbers", blocks)


def _curves(runs: dict[str, _Files]) -> Section:
    histories = {name: files.history for name, files in runs.items() if files.history}
    if len(histories) < 2:
        return Section("Curves", [])
    best = {name: files.best_step() for name, files in runs.items()}
    charts = [plots.svg(plots.curves(histories, key, best)) for key in ("accuracy", "loss")]
    scores = {name: files.scores() for name, files in runs.items()}
    if all(scores.values()):
        rated = {name: (*scores[name], files.evaluations[files.judged]) for name, files in runs.items()}
        charts += _rates(rated, mark=False)
    return Section("Curves", [Charts(charts)])


def _difference(runs: dict[str, _Files]) -> Section:
    keys = list(dict.fromkeys(key for files in runs.values() for key in files.config))
    rows = [(key, *(_value(files.config.get(key, "-")) for files in runs.values())) for key in keys]
    rows = [row for row in rows if len(set(row[1:])) > 1]
    if not rows:
        return Section("Config", [Note("The configs are the same.")])
    return Section("Config", [Table(("key", *runs), rows, "What differs", left=1 + len(runs))])
