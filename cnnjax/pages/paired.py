"""The sections of a comparison that answer it: which run is better, for how many groups, on which images; or how much the seed does."""

from collections.abc import Mapping

from cnnjax.evidence import Comparison, better_of, shown_p
from cnnjax.metrics import METRICS, Pair, SeedScore, shown
from cnnjax.pages.blocks import Beside, Block, Note, Photo, Photos, Section, Table
from cnnjax.pages.record import Record
from cnnjax.progress import counted

LUCK = ("One training of each: a difference may be the seed's luck. Train each config with several --config.seed=N; runs that differ in the "
        "seed alone are compared as such.")  # fmt: skip
PHOTOS = 6  # of each kind and pair


def answer_section(comparison: Comparison) -> Section:
    """Returns the section that stands first."""
    blocks: list[Block] = [
        Note(f"{f'No {answer[3:]}' if answer.startswith('no ') else answer}.", warning=bool(comparison.reason))
        for answer in comparison.answers
    ]
    if comparison.reason:
        return Section("Answer", blocks)
    blocks += [Note(f"{note[0].upper()}{note[1:]}.", warning=True) for note in comparison.notes]
    units = f" of {counted(comparison.groups, comparison.unit)}" if comparison.groups else ", each independent of the others"
    blocks.append(
        Note(
            f"On {counted(comparison.images, f'{comparison.split} image')}{units}; intervals are at {comparison.level:.0%}."
        )
    )
    if comparison.seeds:
        return Section("Answer", [*blocks, *_seeds(comparison.seeds, comparison)])
    blocks.append(Note(LUCK))
    for (a, b), pair in comparison.pairs.items():
        blocks += [Note(_counts(a, b, pair, comparison)), _table(a, b, pair, several=len(comparison.pairs) > 1)]
    return Section("Answer", blocks)


def _counts(a: str, b: str, pair: Pair, comparison: Comparison) -> str:
    images = f"{counted(pair.gained, 'image')} {'is' if pair.gained == 1 else 'are'} right in {b} alone, {pair.lost:,} in {a} alone."
    if not comparison.groups:
        return images
    return f"{b} is better on {counted(pair.better, comparison.unit)}, worse on {pair.worse:,}, equal on {pair.equal:,}. {images}"


def _table(a: str, b: str, pair: Pair, *, several: bool) -> Table:
    rows = []
    for name, difference in pair.metrics.items():
        score = difference.score
        ends = f"{score.low:+.4f} to {score.high:+.4f}" if score.low is not None else "-"
        side = {1: b, -1: a, 0: "equal"}[better_of(name, score.value)]
        rows.append((METRICS[name].title, shown(difference.a), shown(difference.b), f"{score.value:+.4f}", ends, side, shown_p(difference.p),
                     difference.test or "none"))  # fmt: skip
    notes = _notes({METRICS[name].title: difference.score.note for name, difference in pair.metrics.items()})
    caption = [f"{b} against {a}.", *(["p holds for all pairs together (Holm)."] if several else []), *notes]
    return Table(("", a, b, "difference", "interval", "in favour of", "p", "test"), rows, " ".join(caption))


def _notes(notes: Mapping[str, str]) -> list[str]:
    """Sentences of notes, each with the metrics that have it."""
    found: dict[str, list[str]] = {}
    for title, note in notes.items():
        if note:
            found.setdefault(note, []).append(title)
    return [f"{', '.join(titles)}: {note}." for note, titles in found.items()]


def _seeds(scores: Mapping[str, SeedScore], comparison: Comparison) -> list[Block]:
    rows = []
    for name, score in scores.items():
        mean, future = (f"{low:.4f} to {high:.4f}" if low is not None else "-" for low, high in
                        ((score.mean_low, score.mean_high), (score.future_low, score.future_high)))  # fmt: skip
        rows.append(
            (
                METRICS[name].title,
                *map(shown, score.values),
                shown(score.mean),
                shown(score.sd_seeds),
                shown(score.sd_groups),
                mean,
                future,
            )
        )
    header = (
        "",
        *comparison.names,
        "mean",
        "SD between seeds",
        f"SD between {comparison.unit}s",
        "interval of this mean",
        "of one more training",
    )
    notes = _notes({METRICS[name].title: score.note for name, score in scores.items()})
    text = (f"The first interval is for the mean of such trainings on new {comparison.unit}s; the second is for one more training, whose seed "
            "is a chance of its own. A difference to another config below the deviation between seeds is the seed's luck.")  # fmt: skip
    return [Table(header, rows, " ".join(notes)), Note(text)]


def flips_section(comparison: Comparison, records: Mapping[str, Record]) -> Section:
    """Returns the images that one of two runs has right: those with a picture in a run, and a list."""
    blocks: list[Block] = []
    for (a, b), flips in comparison.flips.items():
        pair = comparison.pairs[a, b]
        looks = {look.id: (record, look) for record in (records[name] for name in (a, b) if name in records) if comparison.split in record.evaluations
                 for look in record.evaluations[comparison.split].mistakes}  # fmt: skip
        photos: dict[str, list[Photo]] = {a: [], b: []}
        for flip in flips:
            right = a if flip.a == flip.label else b
            picture = looks[flip.id][0].thumbnail(looks[flip.id][1]) if flip.id in looks else None
            if picture is not None and len(photos[right]) < PHOTOS:
                photos[right].append(Photo(picture, flip.label, f"{flip.p_a:.3f} in {a}, {flip.p_b:.3f} in {b}"))
        shown_photos = [
            Photos(f"Right in {name} alone", some, PHOTOS, "With the probability of its class.")
            for name, some in photos.items()
            if some
        ]
        if shown_photos:
            blocks.append(Beside(shown_photos))
        rows = [(flip.id, flip.group, flip.label, flip.a, flip.b, f"{flip.p_a:.3f}", f"{flip.p_b:.3f}") for flip in flips]
        if rows:
            some = (
                f"the {len(rows)} largest changes of {pair.gained + pair.lost:,}"
                if len(rows) < pair.gained + pair.lost
                else f"{len(rows)}"
            )
            header = ("image", comparison.unit if comparison.groups else "group", "class", a, b, f"p in {a}", f"p in {b}")
            blocks.append(
                Table(
                    header,
                    rows,
                    "p is the probability of the class.",
                    left=5,
                    folded=f"Images that {a} or {b} alone has right: {some}",
                )
            )
    return Section("Images that changed", blocks)
