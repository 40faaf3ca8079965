"""Images unlike those of the training: how well they are told, as a section of a page."""

from cnnjax.pages.blocks import Note, Section, Table
from cnnjax.runs import Typical


def unlike_section(typical: Typical | None) -> Section:
    """Returns the section of a page; empty for runs without `typical.json`."""
    if typical is None:
        return Section("Images unlike these", [])
    count = f"{len(typical.found)} of {len(typical.caught)} probes are caught"
    told = (f"Prediction tells how unlike the training images an image is, and warns above 1, as {typical.usual} are: "
            f"{count}. A low number does not prove that an image is of the right kind.") if typical.can_tell else (
            f"Prediction does not warn of images that are unlike the training images: only {count}, because the training images vary as "
            "much as those.")  # fmt: skip
    rows = [(name, f"{100 * share:.0f} %") for name, share in sorted(typical.caught.items(), key=lambda probe: -probe[1])]
    table = Table(("validation images, changed or replaced", "caught"), rows, folded="Share caught of each probe")
    return Section("Images unlike these", [Note(told, warning=not typical.can_tell), table])
