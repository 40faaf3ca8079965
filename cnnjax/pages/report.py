"""The page of a run. All numbers come from its files; nothing is computed anew."""

import collections
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cnnjax import config as config_lib
from cnnjax import data as data_lib
from cnnjax import runs
from cnnjax.metrics import present
from cnnjax.pages import plots
from cnnjax.pages.answer import answer, shared_groups_text
from cnnjax.pages.blocks import Block, Charts, Note, Page, Photo, Photos, Section, Table, Tiles, folded, halves, write_page
from cnnjax.pages.calibration import calibration_section
from cnnjax.pages.card import unanswered
from cnnjax.pages.classes import classes_table, several_classes
from cnnjax.pages.figures import svg
from cnnjax.pages.patients import patients_section
from cnnjax.pages.rates import rate_curves
from cnnjax.pages.record import JUDGED, Record, fitting, read_record
from cnnjax.pages.robustness import robustness_section
from cnnjax.pages.seen import seen_section
from cnnjax.pages.subgroups import subgroups_section
from cnnjax.pages.sureness import interval_of, interval_row, sureness_section
from cnnjax.pages.tables import frozen_cells, short_paths, text_of
from cnnjax.pages.unlike import unlike_section
from cnnjax.progress import counted, duration

SPENT = {"step": "training steps", "input": "waiting for input", "compile": "compiling", "evaluation": "validation",
         "checkpoint": "saving", "pictures": "pictures"}  # fmt: skip
TABLE_CLASSES = 20  # classes up to which a confusion matrix is a table


def write_report(workdir: "str | Path | runs.RunDirectory") -> None:
    """Writes `report.html` of a run, finished or under way.

    Raises:
        CheckpointError: the directory holds no run, a file of it is damaged, or `report.html` is another file.
    """
    run = runs.RunDirectory(workdir)
    write_page(run.report, report_page(read_record(run)))


def report_page(record: Record) -> Page:
    """Returns the page of a run; sections of what is missing are empty. Raises CheckpointError for numbers that no run has."""
    with fitting(record.directory):
        sections = [_result(record)]
        if record.judged:
            sure = record.sureness
            sections += [_judged(record), _looks(record)]
            sections += map(folded, [
                patients_section(record),
                subgroups_section(sure.subgroups if sure else ()),
                sureness_section(sure),
                calibration_section(sure, record.judgement),
                seen_section(record),
                robustness_section(runs.read_robustness(record.directory, record.judged), record.robustness is not None),
            ])  # fmt: skip
        sections += map(folded, [unlike_section(runs.read_typical(record.directory)), _data(record), _training(record), _network(record),
                                 _time(record), _config(record)])  # fmt: skip
        return Page(record.title, _subtitle(record), sections)


def left_out(rows: Sequence[Sequence[str]]) -> list[Block]:
    """Shows the files that were left out, and why: (id, reason)."""
    if not rows:
        return []
    folded = "Which, and why" if len(rows) <= 100 else "The first 100 of them, and why"
    return [Note(f"Left out: {counted(len(rows), 'file')}."), Table(("file", "reason"), rows[:100], left=2, folded=folded)]


def _subtitle(record: Record) -> str:
    classes = record.classes
    listed = ", ".join(classes[:6]) + (f" and {len(classes) - 6} more" if len(classes) > 6 else "")
    images, size = counted(len(record.splits), "image"), "×".join(map(str, record.sides))
    own = record.directory.path.resolve().name
    return f"Run {record.called(own)}. Image classification: {listed}. {images}, seen at {size} pixels."


def _result(record: Record) -> Section:
    blocks, summary = [], record.summary
    if not record.is_finished:
        blocks.append(Note("This run has not come to its end: it was interrupted or is still under way. The same command "
                           "continues it.", warning=True))  # fmt: skip
    tiles = []
    if record.judged:
        numbers = record.judgement.numbers
        for key, metric in present([numbers], len(record.classes)).items():
            value = numbers.get(key)
            if metric.tile and value is not None:
                tiles.append((f"{value:.3f}", f"{JUDGED[record.judged]} {metric.title}", interval_of(record.sureness, key)))
    if record.best_row:
        value = (
            f"{record.best_row['penalty']:g}"
            if record.turn == "penalty"
            else f"{record.best_row['epoch']} of {record.history[-1]['epoch']}"
        )
        tiles.append((value, f"best {record.turn}, by {record.monitor}" if record.monitor else "last epoch, which is kept"))
    if summary:
        tiles += [(f"{summary.parameters:,}", "parameters"), (duration(summary.seconds), "training time"),
                  (f"{summary.images_per_second:,.0f}", "images per second in training")]  # fmt: skip
    blocks += [Tiles(tiles), *answer(record)]
    if record.evaluations:
        results = {name: evaluation.numbers for name, evaluation in record.evaluations.items()}
        columns = present(results.values(), len(record.classes))
        rows = []
        for name, numbers in results.items():
            rows.append((name, *(m.text(numbers.get(key)) for key, m in columns.items())))
            if name != "train":  # known images say nothing of new ones
                rows += interval_row(record.evidence.get(name), columns)
        kept = f"best {record.turn}, which validation has chosen" if record.monitor else "last epoch, which is kept"
        caption = f"At the {kept}. Training reads test once, at its end."
        blocks.append(Table(("split", *(metric.title for metric in columns.values())), rows, caption))
        if record.judged and record.judgement.positive:
            blocks.append(Note(f"Sensitivity, specificity and AUC are those of {record.judgement.positive}; the first two at a "
                               f"probability of {record.threshold:.4g}."))  # fmt: skip
    return Section("Result", blocks)


def _data(record: Record) -> Section:
    if not record.splits:
        return Section("Data", [])
    classes = record.classes
    counts = collections.Counter((split, label) for _, label, _, split in record.splits)
    groups = {name: {group for _, _, group, split in record.splits if split == name and group} for name in data_lib.SPLITS}
    used = [name for name in data_lib.SPLITS if any(counts[name, c] for c in classes)]
    grouped = any(groups.values())
    header = ("split", "images", *(("groups",) if grouped else ()), *classes)
    rows = []
    for name in used:
        total = sum(counts[name, c] for c in classes)
        per_class = (f"{counts[name, c]:,}" for c in classes)
        rows.append((name, f"{total:,}", *((f"{len(groups[name]):,}",) if grouped else ()), *per_class))
    config = record.config
    source = {"files": text_of(config["data.path"] or config["data.url"]), "tfds": f"TFDS {config['data.tfds']}",
              "digits": "scikit-learn's digits", "demo": "Drawn cells"}.get(config["data.source"], config["data.source"])  # fmt: skip
    blocks = [Note(f"{source}. Split: {config['split.method']}, seed {config['split.seed']}."), Table(header, rows)]
    for line in record.summary.notes if record.summary else ():
        line = short_paths(line)
        blocks.append(Note(f"{line[0].upper()}{line[1:]}."))
    shared = shared_groups_text(record)
    if shared and not record.judged:  # else it stands at the top
        blocks.append(Note(shared, warning=True))
    elif grouped and not shared:
        blocks.append(Note(f"No group is in two splits; {counted(sum(map(len, groups.values())), 'group')} in all."))
    blocks += left_out(record.quarantine)
    return Section("Data", blocks)


def _network(record: Record) -> Section:
    if not record.network:
        return Section("Network", [])
    rows = [(row.name, " × ".join(f"{n:,}" for n in row.shape), f"{row.parameters:,}" if row.parameters else "",
             *frozen_cells(record.network, row.frozen), f"{row.mflops:,.2f}" if row.mflops else "") for row in record.network]  # fmt: skip
    parameters, mflops = (sum(getattr(row, key) for row in record.network) for key in ("parameters", "mflops"))
    frozen = frozen_cells(record.network, sum(row.frozen for row in record.network))
    rows.append(("total", "", f"{parameters:,}", *frozen, f"{mflops:,.2f}"))
    picture = svg(plots.network(record.network, record.sides))
    began = [Note(f"Training began with the weights of {record.weights}.")] if record.weights else []
    return Section("Network", [
        *began,
        Note(f"{parameters:,} parameters, and {mflops:,.1f} million operations for each image. Under a layer stand its "
             "output, height × width × channels, and its parameters."),
        Charts([picture], wide=True),
        Note("MFLOP: millions of multiplications and additions for one image, forward."),
        *halves(Table(("layer", "output", "parameters", *frozen_cells(record.network, "frozen"), "MFLOP"), rows)),
    ])  # fmt: skip


def _training(record: Record) -> Section:
    if not record.history:
        return Section("Training", [])
    histories, best = {record.name: record.history}, {record.name: record.best_step}
    charts = Charts([svg(plots.curves(histories, key, best)) for key in ("accuracy", "loss")])
    rows = [
        (f"{row['penalty']:g}" if record.turn == "penalty" else row["epoch"], row["step"], f"{row['loss']:.4f}", f"{row['accuracy']:.4f}", f"{row['val_loss']:.4f}",
         f"{row['val_accuracy']:.4f}", f"{row['images_per_second']:,.0f}", duration(row["seconds"]),
         "best" if row["step"] == record.best_step else "", *(f"{row[key]:.4f}" for key in runs.RAW if key in row))
        for row in record.history
    ]  # fmt: skip
    averaged = runs.RAW if "raw_val_loss" in record.history[0] else ()
    header = (record.turn, "step", "loss", "accuracy", "val_loss", "val_accuracy", "images/s", "time", "", *averaged)
    blocks = [
        charts,
        Table(header, rows, folded=f"All {'penalties' if record.turn == 'penalty' else 'epochs'} as a table", left=0),
    ]
    config = record.config
    if averaged:
        blocks.insert(0, Note("Validation is of averaged weights (train.ema_decay), and so are the numbers above; that of the "
                              "weights themselves is in the table as raw."))  # fmt: skip
    if record.turn == "penalty":
        blocks.insert(0, Note("Linear probe: all layers but the last stay as they were, and the last one is a logistic regression of what they "
                              "give, fitted with each of the penalties (docs/design.md)."))  # fmt: skip
    elif any(config.get(f"augment.{key}") for key in ("mixup", "cutmix")) or config.get("train.label_smoothing"):
        blocks.insert(0, Note("Training loss and accuracy are of mixed images or smoothed labels; they do not compare with "
                              "those of validation."))  # fmt: skip
    return Section("Training", blocks)


def _judged(record: Record) -> Section:
    result, names = record.judgement, record.judgement.classes
    confusion = np.array(result.confusion)
    blocks = []
    if len(names) <= TABLE_CLASSES:
        shares = (confusion / np.maximum(confusion.sum(1, keepdims=True), 1)).tolist()
        rows = [(name, *(f"{n:,}" for n in row)) for name, row in zip(names, confusion, strict=True)]
        blocks.append(Table(("true \\ predicted", *names), rows, "Images by true class (rows) and predicted class (columns); "
                            "the shade is the share of the row.", shades=shares))  # fmt: skip
    else:
        blocks.append(Charts([svg(plots.matrix(confusion, names))]))
    blocks.append(classes_table(result, record.sureness))
    scores = record.scores()
    if scores:
        blocks.append(Charts(rate_curves({record.name: (*scores, result)}, mark=record.threshold)))
    blocks += several_classes(record)
    return Section({"test": "Test in detail", "val": "Validation in detail"}[record.judged], blocks)


def _looks(record: Record) -> Section:
    titles = {
        "mistakes": ("Most confident mistakes", "Look for wrong labels first, then for what these have in common."),
        "uncertain": ("Least certain", "Correct, but closest to being called another class."),
    }
    blocks = []
    for kind, (title, text) in titles.items():
        photos, looks = [], getattr(record.judgement, kind)
        for look in looks:
            if encoded := record.thumbnail(look):
                known = "correct" if look.label == look.predicted else f"true: {look.label}"
                photos.append(
                    Photo(encoded, f"{look.predicted} {look.probability:.3f}", f"{known} · {look.id.rpartition('/')[2]}")
                )
        if photos:
            blocks.append(Photos(title, photos, 6, text))
        if gone := len(looks) - len(photos):
            of = record.directory.thumbnails(record.judged)
            blocks.append(
                Note(f"{title}: {counted(gone, 'picture')} of {of.name}/ cannot be shown, the file is gone.", warning=True)
            )
        if kind == "mistakes" and record.judgement.uncertain and not record.judgement.mistakes:
            blocks.append(Note("There is no mistake to show."))
    return Section("Worth a look", blocks)


def _time(record: Record) -> Section:
    summary = record.summary
    spent = dict(summary.spent) if summary else {}
    if not spent:
        return Section("Where the time went", [])
    augmentation = min(spent.pop("augmentation", 0.0), spent.get("step", 0.0))
    total = max(summary.seconds, sum(spent.values()))
    shown_as = {title: {"": spent.get(key, 0.0)} for key, title in SPENT.items()}
    if augmentation:
        shown_as["training steps"] = {"": spent["step"] - augmentation}
        shown_as = {"augmentation": {"": augmentation}, **shown_as}
    shown_as["the rest"] = {"": total - sum(spent.values())}
    blocks = [
        Note(f"{summary.images_per_second:,.0f} images per second in training, on {summary.devices}."),
        Charts([svg(plots.bars("Seconds, of " + duration(total), shown_as, " s"))]),
    ]
    if augmentation:
        blocks.append(Note("Augmentation is part of the training step; its share was measured by itself, after training."))
    return Section("Where the time went", blocks)


def _config(record: Record) -> Section:
    standard = dict(config_lib.flatten(config_lib.default()))
    unused = ("data.url", "data.sha256") if record.config["data.path"] else ()  # of another file than the one that was used
    rows = [(key, text_of(value), text_of(standard.get(key, "")))
            for key, value in record.config.items() if text_of(value) != text_of(standard.get(key, "")) and key not in unused]  # fmt: skip
    everything = [(key, text_of(value)) for key, value in record.config.items()]
    differs = Table(("key", "value", "default"), rows, "What differs from the default", left=3)
    whole = Table(("key", "value"), everything, folded="The whole config", left=2)
    card = record.directory.card
    left = unanswered(card)
    told = [Note(f"{card.name} has lines to fill in: {', '.join(left)}.")] if left else []
    return Section("Config and environment", [*told, differs, *_environment(record), whole])


def _environment(record: Record) -> list[Block]:
    summary = record.summary
    if not summary or not summary.versions:
        return []
    names = ("devices", "kernels", "precision", "python", "platform", "revision")
    rows = [(name, getattr(summary, name)) for name in names if getattr(summary, name)]
    return [Table(("name", "value"), [*rows, *summary.versions.items()], "Where it ran", left=2)]
