"""Evidence: how sure the numbers of an evaluation are, from its table alone, without a network and without pixels."""

from cnnjax.evidence.table import Table, read_table

__all__ = ["Table", "read_table"]
