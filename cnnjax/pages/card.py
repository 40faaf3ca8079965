"""The card of a run, `card.md`: what reviewers ask, filled in where the run knows it, and lines for what only its maker knows.

The themes are those of TRIPOD+AI 2024 (BMJ 385:e078378), TRIPOD-Cluster 2023 (BMJ 380:e071018), CLAIM 2020 and 2024, STARD-AI 2025,
PROBAST+AI 2025, model cards (Mitchell et al. 2019) and the FDA's draft on AI-enabled device software of 2025. Numbers of their items
differ between versions and are left out.
"""

import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from cnnjax import data as data_lib
from cnnjax import runs
from cnnjax.errors import CheckpointError
from cnnjax.inside import read_small
from cnnjax.metrics import score_text, title_of
from cnnjax.pages.answer import answer
from cnnjax.pages.record import JUDGED, Record
from cnnjax.pages.robustness import costs
from cnnjax.pages.tables import short_paths, text_of
from cnnjax.progress import counted, printable

SIGNED = "*Written by cnnjax.*"
OWN = "## Notes of your own"
# What a run cannot know -> what to write there.
QUESTIONS = {
    "Intended use and user": "the decision that it supports, and who takes it",
    "Out-of-scope use": "for what it must not be used",
    "Setting and dates": "where and when the images were made, with which devices",
    "Eligibility": "who or what was included, and what was left out",
    "Reference standard and annotators": "who gave the labels, how, and how far they agree",
    "Licence of the data": "and under which terms the network may be passed on",
    "Ethics and consent": "approval, consent, privacy",
    "Funding and conflicts of interest": "who paid, and who gains",
    "External validation": "results on data of another place; --mode=eval --data=DIR gives numbers",
    "Fairness attributes": "age, sex, skin type, site; data.metadata makes subgroups of a table's columns",
}
_ANSWER = re.compile(r"^- \*\*(.+?)\*\* \(.*?\):[ \t]*(.*(?:\n(?:[ \t]+\S.*|[ \t]*(?=\n[ \t]+\S)))*)", re.M)


def card_text(record: Record, before: str = "") -> str:
    """Returns the card as Markdown.

    Args:
        record: of a run that was evaluated.
        before: the card that is there; what was filled in stays.

    Raises:
        CheckpointError: the run was not evaluated.
    """
    if not record.judged:
        raise CheckpointError(
            f"{record.directory} has no evaluation yet; train on, or write one with --mode=eval --workdir={record.directory}"
        )
    given = answers(before)
    own = before.partition(OWN)[2].strip()
    told = "; ".join(name for name in QUESTIONS if not given.get(name))
    parts: dict[str, Iterator[str]] = {
        "In short": (note.text for note in answer(record)),
        "To fill in": iter([*(f"**{name}** ({hint}): {given.get(name, '')}".rstrip() for name, hint in QUESTIONS.items())]),
        "Data": _data(record),
        "Network and training": _network(record),
        "How it was judged": _judged(record),
        "Numbers": _numbers(record),
        "Variation and limits": _limits(record),
    }
    lines = [f"# {record.title}", "", SIGNED, "", f"Still to fill in: {told}." if told else "All lines are filled in.", ""]
    for title, found in parts.items():
        lines += [f"## {title}", "", *(f"- {_told(line)}" for line in found), ""]
    return "\n".join([*lines, OWN, "", *([own, ""] if own else [])])


def _told(line: str) -> str:
    """Returns a line without line breaks but those of an answer, whose following lines are indented."""
    first, *more = line.split("\n")
    return "\n".join([printable(first), *(printable(part) for part in more if part.startswith((" ", "\t")) or not part)])


def answers(text: str) -> dict[str, str]:
    """Returns what was filled in in a card, by the names of `QUESTIONS`; lines that continue an answer are indented."""
    return {
        name: value.strip() for name, value in _ANSWER.findall(text.partition(OWN)[0]) if name in QUESTIONS and value.strip()
    }


def unanswered(path: Path) -> list[str]:
    """Returns the lines of a card that are not filled in; [] where there is no card."""
    given = answers(read_card(path))
    return [name for name in QUESTIONS if name not in given] if path.exists() else []


def read_card(path: Path) -> str:
    """Returns the card that is there; "" where there is none. Raises CheckpointError for another file of that name."""
    if not path.exists():
        return ""
    try:
        text = read_small(path).decode()
    except (OSError, ValueError):
        text = ""
    if SIGNED not in text:
        raise CheckpointError(
            f"{path} exists, is not a card of cnnjax and is not overwritten; rename it, or name another --output=FILE"
        )
    return text


def _data(record: Record) -> Iterator[str]:
    config, rows = record.config, record.splits
    source = text_of(config["data.path"] or config["data.url"] or config["data.tfds"] or config["data.source"])
    digest = f", SHA-256 of the archive {config['data.sha256']}" if config["data.sha256"] and not config["data.path"] else ""
    yield f"Source: {source}{digest}; SHA-256 of the split {data_lib.splits_digest(record.directory.splits)}"
    left = f"{counted(len(record.quarantine), 'file')} left out as unreadable ({record.directory.quarantine.name})"
    yield f"Flow: {len(rows) + len(record.quarantine):,} images found, {left}, {len(rows):,} used"
    grouped = any(rows.groups)
    unit = record.sureness.unit if record.sureness else "group"
    for name in data_lib.SPLITS:
        own = [(label, group) for _, label, group, split in rows if split == name]
        if own:
            classes = ", ".join(f"{label} {count:,}" for label, count in sorted(Counter(label for label, _ in own).items()))
            groups = f" of {counted(len({group for _, group in own}), unit)}" if grouped else ""
            yield f"{name}: {counted(len(own), 'image')}{groups} ({classes})"
    both = data_lib.shared_groups(rows.groups, rows.splits)
    level = (
        f"{counted(len(both), unit)} in more than one part"
        if both
        else f"no {unit} is in two parts, which every start checks"
    )
    yield f"Split: {config['split.method']}, seed {config['split.seed']}; {level if grouped else 'the data has no groups'}"
    for line in record.summary.notes if record.summary else ():
        yield short_paths(line)


def _network(record: Record) -> Iterator[str]:
    config, summary = record.config, record.summary
    height, width = record.sides
    mean, deviation = (config[f"image.{name}"] for name in ("mean", "deviation"))
    then = f", less {text_of(mean) or 0}, divided by {text_of(deviation) or 1}" if mean or deviation else ""
    yield f"Input: {height} x {width} pixels, {config['image.resize']}, RGB, scaled to [0, 1]{then} by the network's first layer"
    if record.weights:
        yield f"Training began with the weights of {record.weights}"
    if summary:
        part = (
            f", {summary.trained_parameters:,} of them trained"
            if 0 < summary.trained_parameters < summary.parameters
            else ""
        )
        yield f"Network: {config['model.name']}, {summary.parameters:,} parameters{part}; {summary.precision or 'float32'} on {summary.devices}"
        epochs = f"{summary.epochs} epochs, seed {config['seed']}, {config['optimizer.name']}, learning rate {config['optimizer.learning_rate']:g}"
        if record.turn == "penalty":
            penalty = f", penalty {record.best_row['penalty']:g}" if record.best_row else ""
            epochs = f"linear probe, the last layer alone is fitted, a logistic regression with an L2 penalty{penalty}; seed {config['seed']}"
        yield f"Training: {epochs}; every setting is in config.json, calibration and threshold in calibration.json and decision.json"
        versions = ", ".join(f"{name} {version}" for name, version in summary.versions.items())
        yield f"Software: Python {summary.python}, {versions}" + (
            f"; revision {summary.revision}" if summary.revision else ""
        )


def _judged(record: Record) -> Iterator[str]:
    chosen = f"{record.turn.capitalize()} {f'{record.best_row[record.turn]:g}' if record.best_row else '-'}"
    yield (
        f"{chosen} was chosen by {record.monitor}, never by test"
        if record.monitor
        else f"{chosen}, the last one, is kept: nothing chose it"
    )
    if record.sureness:
        if text := record.sureness.calibration.get("text"):
            yield f"{text[0].upper()}{text[1:]}"
        if found := record.sureness.threshold:
            told = ", given before" if found["range"] is None else f", chosen on validation by the rule {found['rule']}"
            yield f"Threshold {found['threshold']:.4g}{told}"
    looks = [look for look in runs.read_looks(record.directory) if look.name.startswith("test")]
    yield (
        f"Test was evaluated {counted(len(looks), 'time')}"
        + (f", first at {looks[0].time}" if looks else "")
        + " (looks.jsonl)"
    )
    level = record.sureness.level if record.sureness else record.config["evidence.level"]
    yield f"Intervals: {100 * level:g} %, by leaving out one group at a time (jackknife, Student's t)"


def _numbers(record: Record) -> Iterator[str]:
    sure, result = record.sureness, record.judgement
    if sure is None:
        yield from (f"{name}: {value}" for name, value in result.numbers.items())
        return
    yield f"Of {JUDGED[record.judged]}: {counted(sure.images, 'image')}, {counted(sure.groups, sure.unit)}"
    for key, score in sure.metrics.items():
        yield f"{title_of(key, sure.prevalence)}: {score_text(score, sure.unit)}"
    names = result.classes
    if len(names) <= 10:
        for name, row in zip(names, result.confusion, strict=True):
            yield f"{name}, called " + ", ".join(f"{other} {count:,}" for other, count in zip(names, row, strict=True))


def _limits(record: Record) -> Iterator[str]:
    sure, run = record.sureness, record.directory
    if sure:
        yield from sure.checks
        for row in sure.subgroups[1:]:
            if row["differs"]:
                yield f"Subgroup {row['column']} {row['value']}: accuracy {row['accuracy']['value']:.3f} of {row['count']:,} images"
    changed = record.robustness
    yield from costs(changed) if changed else ["Robustness was not measured (--mode=robustness)"]
    if typical := runs.read_typical(run):
        yield f"Images unlike the training images: {len(typical.found)} of {len(typical.caught)} probes are noticed"
    for look in record.judgement.mistakes[:5]:
        yield f"Mistake: {look.id}, {look.label}, called {look.predicted} with {look.probability:.3f}"
    audited = "audit.html has leaks, shortcuts and doubtful labels" if run.audit.exists() else "Not audited (--mode=audit)"
    yield audited
