"""The names of a run's files."""

from pathlib import Path
from typing import Self, overload

from cnnjax.inside import inside


class Place:
    """The name of a file or a folder in a run directory; of a directory, its path, which leads through no link."""

    def __init__(self, name: str):
        self.name = name

    @overload
    def __get__(self, run: None, kind: type) -> Self: ...

    @overload
    def __get__(self, run: "Places", kind: type) -> Path: ...

    def __get__(self, run, kind):
        return self if run is None else inside(run.path, self.name)


class Places:
    """Names of the files of one run, joined to its directory. No other place knows them.

    A link in place of one of them raises OutsideError.

    Attributes:
        path: the directory.
        config: `config.json`, whose presence says that a run lives here.
        summary: `summary.json`, a `Summary`.
        history: `history.csv`, a row per epoch.
        metrics: `metrics.jsonl`, a row per logged step and per evaluation.
        splits: `splits.csv`, the split of every image.
        quarantine: `quarantine.csv`, the files that were left out and why.
        network_table: `network.json`, the layers.
        network_picture: `network.png`, the layers drawn.
        typical: `typical.json`, a `Typical`: the training images, to know others by.
        curves: `curves.png`, the history drawn.
        report: `report.html`.
        exploration, exploration_pictures: `explore.html`, and its pictures in `explore/`.
        rates: `lr_find.png`, the loss over the learning rate.
        tensorboard: `tensorboard/`, event files.
        calibration, decision: `calibration.json`, `decision.json`, from logits to probabilities and to the class that is called.
        evaluations: `eval/`.
        audit: `audit.html`, leaks, shortcuts and doubtful labels as a page.
        audits: `audit/`, their tables.
        card: `card.md`, the run for reviewers, with lines to fill in.
        looks: `looks.jsonl`, a line per evaluation.
        folds, folds_table, crossvalidation: `folds/`, a run for each; `folds.csv`, the fold of every image; `crossvalidation.json`.
        checkpoints: `checkpoints/`, a directory per step.
        checksums: `checksums/`, a file per checkpoint, and one per small file.
        damaged: `damaged/`, checkpoints and files that were set aside.
        lock: `.lock`, held by the process that trains.
    """

    path: Path

    config = Place("config.json")
    summary = Place("summary.json")
    history = Place("history.csv")
    metrics = Place("metrics.jsonl")
    splits = Place("splits.csv")
    quarantine = Place("quarantine.csv")
    network_table = Place("network.json")
    network_picture = Place("network.png")
    typical = Place("typical.json")
    curves = Place("curves.png")
    report = Place("report.html")
    exploration = Place("explore.html")
    exploration_pictures = Place("explore")
    rates = Place("lr_find.png")
    tensorboard = Place("tensorboard")
    calibration = Place("calibration.json")
    decision = Place("decision.json")
    evaluations = Place("eval")
    audit = Place("audit.html")
    audits = Place("audit")
    card = Place("card.md")
    looks = Place("looks.jsonl")
    folds = Place("folds")
    folds_table = Place("folds.csv")
    crossvalidation = Place("crossvalidation.json")
    checkpoints = Place("checkpoints")
    checksums = Place("checksums")
    damaged = Place("damaged")
    lock = Place(".lock")

    def evaluation(self, name: str) -> Path:
        """`eval/<name>.json`, an `Evaluation`."""
        return self._evaluated(f"{name}.json")

    def predictions(self, name: str) -> Path:
        """`eval/<name>.csv`, a row per image."""
        return self._evaluated(f"{name}.csv")

    def evidence(self, name: str) -> Path:
        """`eval/<name>-evidence.json`, intervals, calibration, subgroups."""
        return self._evaluated(f"{name}-evidence.json")

    def groups(self, name: str) -> Path:
        """`eval/<name>-groups.csv`, a row per group."""
        return self._evaluated(f"{name}-groups.csv")

    def properties(self, name: str) -> Path:
        """`eval/<name>-properties.csv`, what each image is like: size, brightness, sharpness."""
        return self._evaluated(f"{name}-properties.csv")

    def robustness(self, name: str) -> Path:
        """`eval/<name>-robustness.json`, a `Robustness`: scores of images that were changed."""
        return self._evaluated(f"{name}-robustness.json")

    def thumbnails(self, name: str) -> Path:
        """`eval/<name>-images/`, the images that are worth a look."""
        return self._evaluated(f"{name}-images")

    def overlays(self, name: str) -> Path:
        """`eval/<name>-looks/`, some images with the places that the network looks at."""
        return self._evaluated(f"{name}-looks")

    def audit_table(self, name: str) -> Path:
        """`audit/<name>.csv`, a table of an audit."""
        return inside(self.path, f"{Places.audits.name}/{name}.csv")

    def _evaluated(self, name: str) -> Path:
        return inside(self.path, f"{Places.evaluations.name}/{name}")

    def picture(self, file: str) -> Path:
        """A thumbnail, or an overlay, by the name that a `Look` has."""
        return inside(self.evaluations, file)
