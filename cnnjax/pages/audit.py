"""The page of an audit: the answer first, then pairs of pictures, shortcuts, and labels to look at."""

import collections
from collections.abc import Mapping, Sequence

import numpy as np

from cnnjax.audit import FINE, NOTEWORTHY, SERIOUS, Confidence, Finding, Predictions, Probe, sides
from cnnjax.data import COPY_KINDS, SPLITS, Copies, Dataset, thumbnail
from cnnjax.pages.blocks import Note, Page, Photo, Photos, Section, Table, Tiles
from cnnjax.pages.tables import aligned
from cnnjax.progress import counted

SIDE = 160  # pixels of each picture of a pair
GAP = 6  # pixels between them
GROUPS = 10  # groups with most suspects


def audit_page(name: str, data: Dataset, findings: Sequence[Finding], copies: Copies, probes: Sequence[Probe],
               told: Predictions | None, doubts: Confidence | None, pictures: Mapping[int, np.ndarray],
               own: tuple[str, float] | None) -> Page:  # fmt: skip
    """Returns the page of an audit.

    Args:
        name: of the run.
        data: the data set.
        findings: the serious ones first.
        copies: pairs of pictures.
        probes: of shortcuts.
        told, doubts: predictions and the labels that they contradict; None where labels were not audited.
        pictures: row -> uint8 [h, w, 3], as in the file, of the rows that are shown.
        own: split and area under the ROC curve of the run itself; None where there is none.
    """
    parts = ", ".join(f"{name} {len(data.splits[name]):,}" for name in SPLITS if len(data.splits[name]))
    subtitle = f"{counted(len(data.used), 'image')} of {len(data.classes)} classes ({parts})."
    sections = [_answer(findings, copies, probes, doubts), _copies(data, copies, pictures), _shortcuts(probes, own)]
    if told is not None and doubts is not None:
        sections.append(_labels(data, told, doubts, pictures))
    return Page(f"{name}: audit of the data", subtitle, sections)


def findings_text(findings: Sequence[Finding], probes: Sequence[Probe]) -> str:
    """Returns the shortcuts as a plain text table, and a line for each other finding."""
    order = sorted(probes, key=lambda probe: -(probe.auc.value or 0))
    rows = [
        (probe.name, "-" if probe.auc.value is None else f"{probe.auc.value:.3f}", interval(probe), probe.severity)
        for probe in order
    ]
    lines = [aligned(("shortcut", "AUC", "interval", ""), rows), ""] if rows else []
    return "\n".join(
        [*lines, *(f"  {finding.severity:<10}  {finding.text}" for finding in findings if finding.kind != "shortcut")]
    )


def _answer(findings: Sequence[Finding], copies: Copies, probes: Sequence[Probe], doubts: Confidence | None) -> Section:
    """The large numbers, and a line for each finding."""
    count = {finding.kind: finding.count for finding in findings}
    tiles = [(f"{count.get('pictures', 0):,}", "pictures on several sides of the split")]
    tiles += [(f"{count['groups']:,}", "groups on several sides")] if "groups" in count else []
    tiles.append((f"{count.get('labels', 0):,}", "pictures under several labels"))
    known = [probe.auc.value for probe in probes if probe.auc.value is not None]
    tiles += [(f"{max(known):.3f}", "AUC of the strongest shortcut")] if known else []
    tiles += [(f"{len(doubts.suspects):,}", "labels to look at")] if doubts is not None else []
    blocks = [Tiles(tiles)]
    told = [finding for finding in findings if finding.kind != "shortcut" or finding.severity == SERIOUS]
    blocks += [Note(_sentence(finding.text), warning=finding.severity == SERIOUS) for finding in told]
    weak = sorted((probe for probe in probes if probe.severity == NOTEWORTHY), key=lambda probe: -probe.auc.value)
    if weak:
        listed = ", ".join(f"{probe.name} ({probe.auc.value:.3f})" for probe in weak)
        blocks.append(
            Note(
                f"Without the object itself, the class is told by {listed}: AUC, of which 0.5 is chance. A reason to look, not proof."
            )
        )
    if copies.note:
        blocks.append(Note(_sentence(copies.note)))
    return Section("Answer", blocks)


def _sentence(text: str) -> str:
    """Returns a line of a terminal as a sentence."""
    return f"{text[0].upper()}{text[1:]}{'' if text.endswith('?') else '.'}"


def shown_pairs(data: Dataset, copies: Copies, most: int) -> list[int]:
    """Returns the places of the pairs that are shown, up to `most` of each kind: those with two labels and two sides first."""
    side, pairs = sides(data), copies.pairs
    mixed = data.labels[pairs[:, 0]] != data.labels[pairs[:, 1]]
    across = side[pairs[:, 0]] != side[pairs[:, 1]]
    order = np.lexsort((-copies.r, ~across, ~mixed, copies.kind))
    return [int(i) for kind in range(len(COPY_KINDS)) for i in [i for i in order if copies.kind[i] == kind][:most]]


def _copies(data: Dataset, copies: Copies, pictures: Mapping[int, np.ndarray]) -> Section:
    """Counts of pairs, and pictures side by side."""
    side = sides(data)
    pairs = copies.pairs
    across, mixed = side[pairs[:, 0]] != side[pairs[:, 1]], data.labels[pairs[:, 0]] != data.labels[pairs[:, 1]]
    rows = []
    for number, kind in enumerate(COPY_KINDS):
        own = copies.kind == number
        rows.append((kind, *(f"{int((own & which).sum()):,}" for which in (across, mixed, np.full(len(own), True)))))
    alike = ("they are of different groups, and nothing is to be done." if any(data.groups) else
             "neighbouring pictures of one patient turn up here where data.group is not set.")  # fmt: skip
    blocks = [Table(("pairs", "on several sides", "under two labels", "all"), rows)]
    blocks.append(Note("Exact: equal pixels. The same picture: re-encoded, halved or brightened, correlation from 0.995. Look alike: from 0.98; "
                       f"{alike} audit/pairs.csv has all pairs."))  # fmt: skip
    for number, kind in enumerate(COPY_KINDS):
        shown = [i for i in range(len(pairs)) if copies.kind[i] == number and all(int(row) in pictures for row in pairs[i])]
        shown.sort(key=lambda i: (not mixed[i], not across[i], -copies.r[i]))
        photos = [_pair(data, side, pairs[i], copies.r[i], pictures) for i in shown]
        if photos:
            some = "" if len(photos) == (copies.kind == number).sum() else f", the first {len(photos)}"
            blocks.append(Photos(f"{kind.capitalize()}{some}", photos, 4))
    return Section("Copies", blocks)


def _pair(data: Dataset, side: np.ndarray, pair: np.ndarray, r: float, pictures: Mapping[int, np.ndarray]) -> Photo:
    """Two pictures beside each other, with their sides, labels and names."""
    parts = [SPLITS[side[row]] if side[row] >= 0 else "left out" for row in pair]
    labels = [data.classes[data.labels[row]] for row in pair]
    where = parts[0] if parts[0] == parts[1] else " | ".join(parts)
    what = labels[0] if labels[0] == labels[1] else " | ".join(labels)
    detail = f"r {r:.3f}; {' | '.join(data.ids[int(row)].rpartition('/')[2] for row in pair)}"
    return Photo(beside(*(pictures[int(row)] for row in pair)), f"{where}: {what}", detail)


def beside(left: np.ndarray, right: np.ndarray) -> bytes:
    """Returns two images beside each other as one small file."""
    from PIL import Image

    parts = []
    for pixels in (left, right):
        image = Image.fromarray(np.ascontiguousarray(pixels))
        scale = SIDE / max(image.size)
        parts.append(image.resize([max(round(side * scale), 1) for side in image.size]))
    whole = Image.new("RGB", (2 * SIDE + GAP, SIDE), "white")
    for number, part in enumerate(parts):
        whole.paste(part, (number * (SIDE + GAP) + (SIDE - part.width) // 2, (SIDE - part.height) // 2))
    return thumbnail(np.asarray(whole), 2 * SIDE + GAP)


def _shortcuts(probes: Sequence[Probe], own: tuple[str, float] | None) -> Section:
    """A row for each probe, the strongest first."""
    order = sorted(probes, key=lambda probe: -(probe.auc.value or 0))
    rows = [(probe.name, f"{probe.features:,}", "-" if probe.balanced_accuracy is None else f"{probe.balanced_accuracy:.3f}",
             f"{probe.chance:.3f}", "-" if probe.auc.value is None else f"{probe.auc.value:.3f}", interval(probe),
             probe.auc.note if probe.balanced_accuracy is None else "" if probe.severity == FINE else probe.severity)
            for probe in order]  # fmt: skip
    beside_it = f" The network's own AUC is {own[1]:.3f} ({own[0]})." if own else ""
    blocks = [
        Note(f"Each probe sees a few numbers of an image that are not the object, and is judged on groups that it was not fitted to.{beside_it} "
             "An AUC from 0.65 is noteworthy, from 0.80 serious. A probe is a reason to look, not proof."),
        Table(("seen", "numbers", "balanced accuracy", "chance", "AUC", "interval", ""), rows),
    ]  # fmt: skip
    return Section("Shortcuts", blocks if rows else [])


def interval(probe: Probe) -> str:
    """Returns the interval of a probe's area as text, "-" where there is none."""
    low, high = probe.auc.low, probe.auc.high
    return "-" if low is None or high is None else f"{low:.3f} to {high:.3f}"


def _labels(data: Dataset, told: Predictions, doubts: Confidence, pictures: Mapping[int, np.ndarray]) -> Section:
    """The most doubtful labels with their pictures, and the groups that have most of them."""
    row_of = {id: row for row, id in enumerate(data.ids)} if len(doubts.suspects) else {}
    photos = []
    for i in doubts.suspects:
        row, p = row_of.get(told.ids[i], -1), told.probabilities[i]
        if row in pictures and len(photos) < 24:
            label, called = int(told.labels[i]), int(p.argmax())
            photos.append(Photo(pictures[row], f"{told.classes[label]}, or {told.classes[called]}?",
                                f"p {p[label]:.2f} and {p[called]:.2f}; {told.ids[i].rpartition('/')[2]}"))  # fmt: skip
    blocks = [Note(f"Labels that predictions contradict with confidence, by {told.source}, whose images the network was not trained on. About "
                   f"{doubts.noise:.1%} of the labels are estimated to be wrong. Some suspects are right and hard; they are there to look at, and "
                   "nothing was relabelled. audit/labels.csv has all of them.")]  # fmt: skip
    if photos:
        blocks.append(Photos("To look at, the most doubtful first", photos, 6))
    per_group = collections.Counter(told.groups[i] for i in doubts.suspects if told.groups[i])
    if per_group:
        sizes = collections.Counter(told.groups)
        rows = [
            (group, f"{number:,}", f"{sizes[group]:,}", f"{number / sizes[group]:.0%}")
            for group, number in per_group.most_common(GROUPS)
        ]
        blocks.append(
            Table(
                ("group", "to look at", "images", "share"),
                rows,
                caption="Groups with most of them: a whole group may be labelled otherwise.",
            )
        )
    return Section("Labels", blocks)
