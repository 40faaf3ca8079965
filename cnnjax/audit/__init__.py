"""Audits of data: leaks across the split, shortcuts to the class, labels that predictions contradict."""

from cnnjax.audit.findings import FINE, NOTEWORTHY, SERIOUS, Finding
from cnnjax.audit.labels import SUSPECTS, Confidence, Predictions, confident, read_predictions
from cnnjax.audit.labels import finding as suspects_finding
from cnnjax.audit.labels import table as suspects_table
from cnnjax.audit.leaks import PAIRS, groups, look, pictures, sides
from cnnjax.audit.leaks import table as pairs_table
from cnnjax.audit.shortcuts import SHORTCUTS, Probe, Sample, draw, file_facts, macro_auc, numbers, probe
from cnnjax.audit.shortcuts import findings as shortcut_findings
from cnnjax.audit.shortcuts import table as shortcuts_table

__all__ = [
    "FINE", "NOTEWORTHY", "PAIRS", "SERIOUS", "SHORTCUTS", "SUSPECTS", "Confidence", "Finding", "Predictions", "Probe", "Sample", "confident", "draw",
    "file_facts", "groups", "look", "macro_auc", "numbers", "pairs_table", "pictures", "probe", "read_predictions", "shortcut_findings",
    "shortcuts_table", "sides", "suspects_finding", "suspects_table",
]  # fmt: skip
