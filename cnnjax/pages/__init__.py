"""Text for terminals, figures, and self-contained pages: numbers and pixels in; text, PNG and HTML out."""

# isort: off
from cnnjax.pages.answer import answer
from cnnjax.pages.audit import audit_page, findings_text, shown_pairs
from cnnjax.pages.blocks import Page, Photo, check_replaceable, write_page
from cnnjax.pages.card import card_text, read_card, unanswered
from cnnjax.pages.comparison import comparison_page, crossvalidations_page
from cnnjax.pages.crossvalidation import crossvalidation_page, crossvalidation_text, seeds_table
from cnnjax.pages.exploration import (
    Augmented, Pictures, Sample, augmentation_section, classes_section, colours_section, files_section, groups_section,
    photos_section, processing_section,
)  # fmt: skip
from cnnjax.pages.exported import export_text
from cnnjax.pages.figures import save as save_figure
from cnnjax.pages.plots import history as history_figure
from cnnjax.pages.plots import learning_rates as range_figure
from cnnjax.pages.plots import network as network_figure
from cnnjax.pages.record import read_record
from cnnjax.pages.report import report_page, write_report
from cnnjax.pages.robustness import robustness_text
from cnnjax.pages.tables import (
    details_text, history_header, history_row, intervals_text, network_table, numbers_table, positive_text, time_text,
)  # fmt: skip

__all__ = [
    "Augmented", "Page", "Photo", "Pictures", "Sample", "answer", "audit_page", "augmentation_section", "card_text",
    "check_replaceable", "classes_section", "colours_section", "comparison_page", "crossvalidation_page",
    "crossvalidation_text", "crossvalidations_page", "details_text", "export_text", "files_section", "findings_text", "groups_section", "history_figure",
    "history_header", "history_row", "intervals_text", "network_figure", "network_table", "numbers_table", "photos_section",
    "positive_text", "processing_section", "range_figure", "read_card", "read_record", "report_page", "robustness_text",
    "save_figure", "seeds_table", "shown_pairs", "time_text", "unanswered", "write_page", "write_report",
]  # fmt: skip
