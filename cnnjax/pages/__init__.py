"""Text for terminals, figures, and self-contained pages: numbers and pixels in; text, PNG and HTML out."""

from cnnjax.pages.blocks import check_replaceable
from cnnjax.pages.plots import history as history_figure
from cnnjax.pages.plots import network as network_figure
from cnnjax.pages.plots import save as save_figure
from cnnjax.pages.report import compare_runs, write_report
from cnnjax.pages.tables import details_text, history_header, history_row, network_table, numbers_table, time_text

__all__ = [
    "check_replaceable", "compare_runs", "details_text", "history_figure", "history_header", "history_row",
    "network_figure", "network_table", "numbers_table", "save_figure", "time_text", "write_report",
]  # fmt: skip
