"""The answer of a run in a few sentences: how good, how sure, for whom, and what is wrong."""

from collections.abc import Iterator

from cnnjax import data as data_lib
from cnnjax.evidence import Evidence
from cnnjax.metrics import Score, doubts
from cnnjax.pages.blocks import Note
from cnnjax.pages.patients import groups_of
from cnnjax.pages.record import JUDGED, Record
from cnnjax.pages.robustness import costs
from cnnjax.pages.subgroups import lower
from cnnjax.progress import counted

MANY = 20  # groups from which on shares of them are told
WORST = 2  # subgroups, and changes of the images, that are told


def answer(record: Record) -> list[Note]:
    """Returns the sentences of a run that was evaluated; warnings come last. [] before an evaluation."""
    if not record.judged:
        return []
    told = [*_how_good(record), *_for_whom(record)]
    return [*(Note(line) for line in told), *(Note(line, warning=True) for line in _wrong(record))]


def shared_groups_text(record: Record) -> str:
    """Returns a sentence about groups that are in more than one split; "" where none is."""
    both = data_lib.shared_groups(record.splits.groups, record.splits.splits)
    if not both:
        return ""
    group, sides = min(both.items())
    return (f"{counted(len(both), 'group')} in more than one split, such as {group} in {' and '.join(sorted(sides))}: the numbers are "
            "better than they will be on new groups. --config.split.method=grouped keeps groups apart.")  # fmt: skip


def _share(score: Score | None) -> str:
    """Returns a share with its interval: "95.3 % (93.1 to 96.9)"; "" where it is not defined."""
    if score is None or score.value is None:
        return ""
    ends = [None if end is None else f"{100 * end:.1f}" for end in (score.low, score.high)]
    if ends[0] and ends[1]:
        return f"{100 * score.value:.1f} % ({ends[0]} to {ends[1]})"
    one = f" (at least {ends[0]})" if ends[0] else f" (at most {ends[1]})" if ends[1] else ""
    return f"{100 * score.value:.1f} %{one}"


def _how_good(record: Record) -> Iterator[str]:
    result, sure = record.judgement, record.sureness
    if sure is None:
        return
    images = f"{sure.images:,} {JUDGED[record.judged]} images"
    of = f"{images} of {counted(sure.groups, sure.unit)}" if sure.unit != "image" else images
    yield f"Of {of}, {_share(sure.metrics.get('accuracy'))} are called right."
    if result.positive:
        found, other = (_share(sure.metrics.get(name)) for name in ("sensitivity", "specificity"))
        if found and other:
            yield f"It finds {found} of the {result.positive} images and calls {other} of the others rightly."
    elif worst := _weakest(sure):
        name, score = worst
        yield f"The weakest class is {name}: {_share(score)} of its images are found."
    yield from _how_sure(record, sure)


def _weakest(sure: Evidence) -> tuple[str, Score] | None:
    recalls = {name: scores["recall"] for name, scores in sure.per_class.items() if scores["recall"].value is not None}
    return min(recalls.items(), key=lambda item: item[1].value, default=None)


def _how_sure(record: Record, sure: Evidence) -> Iterator[str]:
    accuracy = sure.metrics.get("accuracy")
    if accuracy is None:
        return
    if accuracy.low is None and accuracy.high is None:
        every = counted(len(set(record.splits.groups) - {""}), sure.unit)
        advice = f" --mode=crossvalidate judges all {every}, each once." if sure.unit != "image" else ""
        yield f"How sure that is cannot be said: {accuracy.note or 'there is no interval'}.{advice}"
    elif sure.unit == "image":
        yield f"In brackets are {100 * sure.level:g} % intervals; each image counts by itself."
    else:
        fewer = accuracy.effective < 0.9 * sure.groups
        why = (
            f"; {accuracy.effective:.0f} of the {sure.groups:,} count, because some have most of the images" if fewer else ""
        )
        yield f"In brackets are {100 * sure.level:g} % intervals for {sure.unit}s like these{why}."


def _for_whom(record: Record) -> Iterator[str]:
    sure = record.sureness
    if sure is None:
        return
    if sure.spread.get("tenth_accuracy") is not None and sure.groups >= MANY:
        yield (f"For one {sure.unit} in ten, {100 * sure.spread['tenth_accuracy']:.0f} % of the images or fewer are called right; for half of "
               f"them, {100 * sure.spread['median_accuracy']:.0f} % or more.")  # fmt: skip
    yield from _worst(record, sure)
    yield from lower(sure.subgroups)[:WORST]
    changed = record.robustness
    if changed and (lines := costs(changed)):
        yield f"Changes of the image: {'; '.join(lines[:WORST])}."


def _worst(record: Record, sure: Evidence) -> Iterator[str]:
    """Yields who has most errors, and whether few groups hold most of the positives."""
    known = groups_of(record)
    if known and int(known[0]["errors"]):
        worst = min(known, key=lambda row: float(row["high"]))  # surely lower than the others'
        told = [f"{row['group'] or '(none)'}, {row['errors']} of {int(row['images']):,} images" for row in (known[0], worst)]
        more = f", and that with the largest share {told[1]}" if told[1] != told[0] else ""
        yield f"The {sure.unit} with most errors is {told[0]}{more}."
    positives = [int(row["positives"] or 0) for row in known]
    if len(known) > 1 and sum(positives) and 2 * max(positives) > sum(positives):
        most = known[positives.index(max(positives))]["group"]
        yield (f"{100 * max(positives) / sum(positives):.0f} % of the {record.judgement.positive} images are of one {sure.unit}, {most}: the "
               "sensitivity is little more than that of one.")  # fmt: skip


def _wrong(record: Record) -> Iterator[str]:
    """Yields what a reader must not miss."""
    if record.summary:
        yield from (f"{line[0].upper()}{line[1:]}." for line in record.summary.leaks)
    if shared := shared_groups_text(record):
        yield shared
    yield from (f"{line[0].upper()}{line[1:]}." for line in doubts(record.evaluations))
    slope = _slope(record.sureness)
    if slope is not None and slope["high"] is not None and slope["high"] < 1:
        yield f"Its probabilities are too sure of themselves (slope {slope['value']:.2f}, {slope['low']:.2f} to {slope['high']:.2f})."


def _slope(sure: Evidence | None) -> dict | None:
    numbers = sure.calibration if sure else {}
    used = numbers.get("calibrated") or numbers.get("raw") or {}
    return used.get("slope")
