"""Evidence: how sure the numbers of an evaluation are, from its table alone, without a network and without pixels."""

from cnnjax.evidence.comparison import Comparison, Flip, better_of, compare, shown_p
from cnnjax.evidence.table import Table, read_table

__all__ = ["Comparison", "Flip", "Table", "better_of", "compare", "read_table", "shown_p"]
