"""Evidence: how sure the numbers of an evaluation are, from its table alone, without a network and without pixels."""

from cnnjax.evidence.comparison import Comparison, Flip, better_of, compare, shown_p
from cnnjax.evidence.decided import read_decided
from cnnjax.evidence.records import Evidence, read_evidence
from cnnjax.evidence.table import OUT_OF_FOLD, Table, read_table, unit_of
from cnnjax.evidence.writing import evidence_of, write_evidence

__all__ = [
    "OUT_OF_FOLD", "Comparison", "Evidence", "Flip", "Table", "better_of", "compare", "evidence_of", "read_decided", "read_evidence",
    "read_table", "shown_p", "unit_of", "write_evidence",
]  # fmt: skip
