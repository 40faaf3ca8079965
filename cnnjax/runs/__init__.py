"""A run's directory: the names of its files, how they are written, and its copy at an address."""

from cnnjax.runs.crossvalidation import (
    CrossValidation,
    Fold,
    check_single,
    fold_run,
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
from cnnjax.runs.history import HISTORY, PENALTY, RAW, History, NoHistory, read_history
from cnnjax.runs.looks import HeldOutLook, note_look, read_looks
from cnnjax.runs.remote import Mirror, fetch, is_fetched, is_remote
from cnnjax.runs.results import Evaluation, Explanation, Layer, Look, Record, Seen, Summary, Weights
from cnnjax.runs.robustness import Changed, Robustness, read_robustness
from cnnjax.runs.tables import TABLES, write_table
from cnnjax.runs.typical import QUANTILE, STATISTICS, Typical, read_typical

__all__ = [
    "HISTORY", "PENALTY", "QUANTILE", "RAW", "STATISTICS", "TABLES", "Changed", "CrossValidation", "Evaluation", "Events", "Explanation", "Fold", "HeldOutLook", "History", "Layer", "Look", "Mirror", "NoEvents", "NoHistory", "Record", "Robustness", "RunDirectory", "Seen", "Summary", "Typical", "Weights", "begun", "check_single", "check_writable", "fetch", "fold_run", "fold_runs", "is_crossvalidation", "is_fetched", "is_remote",
    "note_look", "open_events", "read_crossvalidation", "read_history", "read_json", "read_looks", "read_robustness", "read_typical", "replacing", "short_name", "text_of_cell", "write_json", "write_rows", "write_table",
    "write_text",
]  # fmt: skip
