"""Findings of an audit: one line in words each, with how much it matters."""

import dataclasses

SERIOUS, NOTEWORTHY, FINE = "serious", "noteworthy", "fine"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Finding:
    """One answer of an audit.

    Attributes:
        kind: "pictures" or "groups" on several sides of the split, "copies" on one side, "labels" of one picture that differ,
            "shortcut" or "suspects".
        severity: "serious", "noteworthy" or "fine".
        text: one line.
        count: of what was found.
    """

    kind: str
    severity: str
    text: str
    count: int = 0

    @property
    def is_leak(self) -> bool:
        """Tells whether test images are known from training: the numbers of a run are then too good."""
        return self.kind in ("pictures", "groups") and self.severity == SERIOUS
