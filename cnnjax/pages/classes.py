"""Numbers of each class, and of more than two classes their ROC curves and the pairs that are confused most."""

import numpy as np

from cnnjax.evidence import Evidence, read_table
from cnnjax.metrics import interval_text, shown
from cnnjax.pages import plots
from cnnjax.pages.blocks import Block, Charts, Note, Photo, Photos, Table
from cnnjax.pages.figures import short, svg
from cnnjax.pages.record import Record
from cnnjax.runs import Evaluation

CURVES = 10  # classes up to which each has its curve
PAIRS = 10  # rows of the table of confused pairs


def classes_table(result: Evaluation, evidence: Evidence | None) -> Table:
    """Returns precision, recall and F1 of each class, with intervals and AUC where there are any."""
    titles = {"precision": "precision", "recall": "recall", "f1": "F1"}
    sure = evidence.per_class if evidence else {}
    if sure:
        titles["auc"] = "AUC"
    told = any(interval_text(score) for own in sure.values() for score in own.values())
    level = f"{100 * evidence.level:g} %" if evidence else ""
    header = ["class", "images", *(part for title in titles.values() for part in ((title, level) if told else (title,)))]
    rows = []
    for name, numbers in result.per_class.items():
        row = [name, f"{numbers['images']:,}"]
        for key in titles:
            score = sure[name][key] if sure else None
            row.append(shown(score.value if key == "auc" else numbers[key]))
            if told:
                row.append(interval_text(score))
        rows.append(row)
    return Table(header, rows, "Numbers of each class, each against all others.")


def several_classes(record: Record) -> list[Block]:
    """Shows ROC curves and confused pairs of more than two classes; nothing of two."""
    result = record.judgement
    if len(result.classes) < 3:
        return []
    return [*_curves(record), *_pairs(record, result)]


def _curves(record: Record) -> list[Block]:
    names = record.judgement.classes
    if len(names) > CURVES or record.sureness is None:
        return []
    from sklearn import metrics

    table = read_table(record.directory, record.judged)
    p = table.predictions()
    lines, grid = {}, np.linspace(0, 1, 201)
    rise = []
    for i, name in enumerate(names):
        positive = table.labels == i
        if 0 < positive.sum() < len(positive):
            fall_out, sensitivity, _ = metrics.roc_curve(positive, p.odds[:, i])
            rise.append(np.interp(grid, fall_out, sensitivity))
            lines[name] = (
                fall_out,
                sensitivity,
                f"{short(name, 20)}, AUC {shown(record.sureness.per_class[name]['auc'].value)}",
            )
    mean = record.sureness.metrics.get("macro_auc")
    if len(lines) < 2 or mean is None or mean.value is None:
        return []
    told = interval_text(mean)
    lines[""] = grid, np.mean(rise, 0), f"mean, AUC {mean.value:.4f}" + (f" ({told})" if told else "")
    return [Charts([svg(plots.rates("roc", lines, 0.0, bold="", title="ROC of each class against all others"))])]


def _pairs(record: Record, result: Evaluation) -> list[Block]:
    names, confusion = result.classes, np.array(result.confusion)
    wrong = confusion.copy()
    np.fill_diagonal(wrong, 0)
    if not wrong.any():
        return [Note("No image is called another class.")]
    order = np.argsort(-wrong, axis=None, kind="stable")[:PAIRS]
    places = [divmod(int(i), len(names)) for i in order if wrong.flat[i]]
    rows = [(names[i], names[j], f"{wrong[i, j]:,}", f"{100 * wrong[i, j] / confusion[i].sum():.1f} %") for i, j in places]
    blocks: list[Block] = [
        Table(("true", "called", "images", "of the class"), rows, "The pairs that are confused most.", left=2)
    ]
    for label, called in dict.fromkeys((look.label, look.predicted) for look in result.confused):
        looks = [look for look in result.confused if (look.label, look.predicted) == (label, called)]
        photos = [Photo(encoded, f"{look.predicted} {look.probability:.3f}", look.id.rpartition("/")[2])
                  for look in looks if (encoded := record.thumbnail(look))]  # fmt: skip
        if photos:
            blocks.append(Photos(f"{label}, called {called}", photos, 6))
    return blocks
