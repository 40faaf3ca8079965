"""The section of a report that shows where the network looks."""

from cnnjax import runs
from cnnjax.pages.blocks import Block, Note, Photo, Photos, Section
from cnnjax.pages.record import Record
from cnnjax.progress import counted

POOR = 0.3  # correlation with covering places; below it, the maps tell little
LEGEND = ("Yellow places speak most for the class that the network gives, purple ones a little, grey ones do not. Each picture is scaled by its "
          "own largest value, so a colour says nothing across pictures; one that is grey all over has no place that speaks for its class.")  # fmt: skip
LIMITS = ("A bright place is not a finding, and a sensible place does not make an answer right. Look for what should not matter: borders, labels, "
          "scratches, the background.")  # fmt: skip
METHOD = "the last convolution's map times the gradient of the class's log-odds (Grad-CAM at each place: HiResCAM)"


def seen_section(record: Record) -> Section:
    """Returns the pictures of the split that is shown in detail; empty where no evaluation has made any."""
    explained = record.judgement.explained
    if not explained:
        return Section("Where it looks", [])
    if not explained.pictures:
        return Section("Where it looks", [Note(f"No pictures: {explained.reason}.")] if explained.reason else [])
    rows, columns = explained.places
    blocks: list[Block] = [
        Note(f"{LEGEND} It is {METHOD}, {rows} × {columns} places, enlarged."),
        Note(LIMITS),
        *_check(explained),
    ]
    wrong = [look for look in explained.pictures if look.label != look.predicted]
    right = [look for look in explained.pictures if look.label == look.predicted]
    for title, looks in (("Most confident mistakes", wrong), ("Right answers of each class", right)):
        photos = [photo for look in looks if (photo := _photo(record, look))]
        if photos:
            blocks.append(Photos(f"{title}: {counted(len(photos), 'picture')}", photos, 6, folded=True))
        if gone := len(looks) - len(photos):
            folder = record.directory.overlays(record.judged).name
            blocks.append(
                Note(f"{title}: {counted(gone, 'picture')} of {folder}/ cannot be shown, the file is gone.", warning=True)
            )
    return Section("Where it looks", blocks)


def _photo(record: Record, look: runs.Seen) -> Photo | None:
    encoded = record.thumbnail(look)
    if encoded is None:
        return None
    known = "correct" if look.label == look.predicted else f"true: {look.label}"
    told = "" if look.agreement is None else f"r\u00a0{look.agreement:.2f} · "
    return Photo(encoded, f"{look.predicted} {look.probability:.3f}", f"{known} · {told}{look.id.rpartition('/')[2]}")


def _check(explained: runs.Explanation) -> list[Block]:
    """Says how far the maps agree with what covering places does."""
    found = [look.agreement for look in explained.pictures if look.agreement is not None]
    if not found:
        return [Note("Not checked by covering places: no picture's log-odds changed, or no map had a bright place.")]
    mean = sum(found) / len(found)
    poor = "; so low that the maps are a poor guide here" if mean < POOR else ""
    return [Note(f"Checked by covering: a patch of a quarter of each side hides one place after the other. The drop of the log-odds and the map under the "
                 f"patch have a mean correlation r of {mean:.2f} in {counted(len(found), 'picture')} (1: they agree, 0: nothing in common){poor}.",
                 warning=mean < POOR)]  # fmt: skip
