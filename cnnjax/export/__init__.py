"""A network as a file for other programs: ONNX, StableHLO, LiteRT, safetensors and a page that classifies."""

from cnnjax.export.card import Card, make_card
from cnnjax.export.drawn import drawn_images
from cnnjax.export.onnx_file import card_of as card_of_onnx
from cnnjax.export.portable import Portable
from cnnjax.export.stablehlo import read as read_stablehlo
from cnnjax.export.web import find_runtime
from cnnjax.export.writing import FORMATS, Outcome, check_output, facts_path, write

__all__ = [
    "FORMATS", "Card", "Outcome", "Portable", "card_of_onnx", "check_output", "drawn_images", "facts_path", "find_runtime",
    "make_card", "read_stablehlo", "write",
]  # fmt: skip
