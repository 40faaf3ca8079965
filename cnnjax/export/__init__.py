"""A network as a file for other programs: ONNX, StableHLO."""

from cnnjax.export.card import Card, make_card
from cnnjax.export.onnx_file import card_of as card_of_onnx
from cnnjax.export.portable import Portable
from cnnjax.export.stablehlo import read as read_stablehlo

__all__ = ["Card", "Portable", "card_of_onnx", "make_card", "read_stablehlo"]
