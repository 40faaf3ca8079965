"""A run's directory: the names of its files, how they are written, and its copy at an address."""

from cnnjax.runs.crossvalidation import (
    CrossValidation,
    Fold,
    check_single,
    fold_runs,
    is_crossvalidation,
    read_crossvalidation,
)
from cnnjax.runs.directory import RunDirectory
from cnnjax.runs.events import Events, NoEvents, open_events
from cnnjax.runs.exclusive import begun
from cnnjax.runs.files import (
    check_writable,
    read_json,
    replacing,
    short_name,
    text_of_cell,
    write_json,
    write_rows,
    write_text,
)
from cnnjax.runs.history import HISTORY, RAW, History, NoHistory, read_history
from cnnjax.runs.remote import Mirror, fetch, is_fetched, is_remote
from cnnjax.runs.results import Evaluation, Layer, Look, Record, Summary
from cnnjax.runs.tables import TABLES, write_table

__all__ = [
    "HISTORY", "RAW", "TABLES", "CrossValidation", "Evaluation", "Events", "Fold", "History", "Layer", "Look", "Mirror", "NoEvents", "NoHistory", "Record",
    "RunDirectory", "Summary", "begun", "check_single", "check_writable", "fetch", "fold_runs", "is_crossvalidation", "is_fetched", "is_remote", "open_events", "read_crossvalidation", "read_history",
    "read_json", "replacing", "short_name", "text_of_cell", "write_json", "write_rows", "write_table", "write_text",
]  # fmt: skip
